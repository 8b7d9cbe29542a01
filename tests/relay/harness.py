"""What every relay test needs: a posternd of its own on random ports, waiting with deadlines, and readers of what it leaves.

Only the standard library. Everything listens on loopback addresses.
"""
import ctypes
import fcntl
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request

POSTERN = os.environ.get("POSTERN_BIN", "")
# Sanitizers make everything slower; the runner says by how much.
SLOWNESS = float(os.environ.get("POSTERN_TEST_SLOWNESS", "1"))
QUEUE_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{13}")


def wait_until(what, condition, seconds=20):
    """The first true value of condition(), or a failure that names what did not come."""
    deadline = time.monotonic() + seconds * SLOWNESS
    pause = 0.005
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds * SLOWNESS:.0f} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


# Below those that connections get for their own end, or a connection could take what was just found free.
_PORTS = range(10000, 32768)
_ports_given = set()
_ports_lock = threading.Lock()
_ports_share = (0, 1)


def share_ports(slot, slots):
    """From now on free_port() gives every `slots`-th port, so that as many processes do not ask for the same."""
    global _ports_share
    _ports_share = (slot, slots)


def free_port(host="127.0.0.1"):
    """A port nobody has now. Two askers never get the same one."""
    slot, slots = _ports_share
    with _ports_lock:
        for _ in range(1000):
            port = _PORTS.start + random.randrange(len(_PORTS) // slots) * slots + slot
            if port in _ports_given:
                continue
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
                try:
                    probe.bind((host, port))
                except OSError:
                    continue
            _ports_given.add(port)
            return port
    raise RuntimeError("no free port")


def program(name):
    """The path of a program, or a skip."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/lib/postfix/sbin:/usr/local/sbin")
    if not found:
        raise unittest.SkipTest(f"{name} is not installed")
    return found


def toml(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    raise TypeError(value)


class Postern:
    """One posternd: its folder, configuration, life and death. Restart with start() after stop() or kill()."""

    def __init__(self, routes=(), accept=("example.test",), folder=None, shards=2, **tables):
        """`routes`: [(match, via)]. `tables`: contents of TOML tables, {key: value}; `root` holds the keys above all tables,
        `more` further text."""
        if not POSTERN:
            raise unittest.SkipTest("POSTERN_BIN does not name a posternd")
        self.program = POSTERN
        self.folder = folder or tempfile.mkdtemp(prefix="postern-test-")
        self.made_folder = folder is None
        self.data = os.path.join(self.folder, "data")
        self.mail = os.path.join(self.folder, "mail")
        self.port = free_port()
        self.admin_port = free_port()
        self.process = None
        self.stderr_path = os.path.join(self.folder, "stderr")
        self.routes = list(routes)
        self.accept = list(accept)
        self.root = {"hostname": "mx.relay.test", "data_dir": self.data, "shards": shards, "memory": "256MiB",
                     "shutdown_grace": "10s"}
        self.root.update(tables.pop("root", {}))
        self.more = tables.pop("more", "")
        self.listener = {"address": f"127.0.0.1:{self.port}"}
        self.listener.update(tables.pop("listener", {}))
        self.tables = {
            "spool": {"min_free": "1MiB", "segment": "8MiB"},
            "smtp_client": {"refuse_networks": []},
            "retry": {"schedule": ["500ms", "1s", "2s"], "give_up_after": "1h"},
            "limits": {"connections_per_peer": 10000},
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
        }
        for table, keys in tables.items():
            self.tables.setdefault(table, {}).update(keys)

    # --- configuration ---

    def config_text(self):
        lines = [f"{key} = {toml(value)}" for key, value in self.root.items()]
        lines += ["", "[[listener]]"] + [f"{key} = {toml(value)}" for key, value in self.listener.items()]
        lines += ["", "[domains]", f"accept = {toml(self.accept)}"]
        for match, via in self.routes:
            lines += ["", "[[route]]", f"match = {toml(match)}", f"via = {toml(via)}"]
        for table, keys in self.tables.items():
            lines += ["", f"[{table}]"] + [f"{key} = {toml(value)}" for key, value in keys.items()]
        return "\n".join(lines) + "\n" + self.more

    @property
    def config_path(self):
        return os.path.join(self.folder, "postern.toml")

    def write_config(self):
        with open(self.config_path, "w", encoding="utf-8") as file:
            file.write(self.config_text())

    def maildir_route(self, match="example.test"):
        """A route into a Maildir per local part, below self.mail."""
        return (match, f"maildir:{self.mail}/{{local}}")

    # --- life ---

    def start(self, wait=True, descriptors=None, before_exec=None):
        """`descriptors`: the hard limit on them that the process gets. `before_exec` is called in the new process."""
        def limit():
            if descriptors:
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
            if before_exec:
                before_exec()

        self.write_config()
        os.makedirs(self.mail, exist_ok=True)
        with open(self.stderr_path, "ab") as stderr:
            self.process = subprocess.Popen([self.program, "--config", self.config_path], stdin=subprocess.DEVNULL,
                                            stdout=stderr, stderr=stderr,
                                            preexec_fn=limit)
        if wait:
            wait_until("posternd answers health", self.healthy_or_dead, 30)
            if self.process.poll() is not None:
                raise AssertionError(f"posternd ended with {self.process.returncode}:\n{self.log()}")
        return self

    def healthy_or_dead(self):
        if self.process.poll() is not None:
            return True
        try:
            return self.http("/healthz")[0] == 200
        except OSError:
            return False

    def stop(self, wanted=0):
        """Orderly stop; the exit status must be `wanted`, and nothing on stderr may speak of a bug."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout=60 * SLOWNESS)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError("posternd did not stop\n" + self.log()) from None
        self.process = None
        self.check_log()
        if status != wanted:
            raise AssertionError(f"posternd ended with {status}, not {wanted}:\n{self.log()}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None
        self.check_log()

    def reload(self):
        self.write_config()
        self.process.send_signal(signal.SIGHUP)

    def clean_up(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if self.made_folder and not os.environ.get("POSTERN_TEST_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, size=8000):
        """The end of what it wrote to stderr."""
        try:
            with open(self.stderr_path, "rb") as file:
                return file.read().decode("utf-8", "replace")[-size:]
        except FileNotFoundError:
            return ""

    def check_log(self):
        text = self.log(1 << 20)
        bug = re.search(r"^.*(postern: bug at|Sanitizer|runtime error:)", text, re.MULTILINE)
        if bug:
            # From its first line on: what comes behind a sanitizer's report is of no interest any more.
            raise AssertionError("posternd says:\n" + "\n".join(text[bug.start():].splitlines()[:200]))

    # --- what it shows ---

    def http(self, path):
        """(status, text) of the admin listener."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def metrics(self):
        """{series with its labels: number}"""
        status, text = self.http("/metrics")
        assert status == 200, text
        numbers = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                series, number = line.rsplit(" ", 1)
                numbers[series] = float(number)
        return numbers

    def queued(self):
        """Recipients that are not settled yet."""
        numbers = self.metrics()
        return sum(numbers[f'postern_queue_recipients{{state="{state}"}}'] for state in ("scheduled", "ready", "in_flight"))

    def events(self, kind=None):
        """Complete lines of the event log, as far as it has been written."""
        found = []
        try:
            with open(os.path.join(self.data, "events.jsonl"), "rb") as file:
                for line in file.read().split(b"\n")[:-1]:
                    event = json.loads(line)
                    if kind is None or event["event"] == kind:
                        found.append(event)
        except FileNotFoundError:
            pass
        return found

    def resident_bytes(self, high_water=False):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            for line in file:
                if line.startswith("VmHWM:" if high_water else "VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def mails(self, local="user"):
        """Contents of the files in new/ of one Maildir, by name."""
        folder = os.path.join(self.mail, local, "new")
        found = {}
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            with open(os.path.join(folder, name), "rb") as file:
                found[name] = file.read()
        return found

    def wait_for_mails(self, count, local="user", seconds=20):
        return wait_until(f"{count} files in the Maildir of {local}", lambda: (
            lambda mails: mails if len(mails) >= count else None)(self.mails(local)), seconds)


# _IOR('X', 125, __u32) [ext4.h: EXT4_IOC_SHUTDOWN; xfs_fs.h: XFS_IOC_GOINGDOWN]; 2: nothing that is not on the device gets
# there any more, the log neither.
IOC_SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
GOING_FLAGS_NOLOGFLUSH = 2


class LoopMount:
    """A small file system of its own, mounted at `place`."""

    def __init__(self, folder, mebibytes):
        self.image = os.path.join(folder, "image")
        self.place = os.path.join(folder, "place")
        os.mkdir(self.place)
        with open(self.image, "wb") as file:
            file.truncate(mebibytes << 20)

    def mount(self, options="loop"):
        """An empty text, or why it cannot be."""
        done = subprocess.run([program("mount"), "-o", options, self.image, self.place], capture_output=True, check=False)
        return done.stderr.decode().strip() if done.returncode else ""

    def mount_again(self, access):
        """`access`: ro or rw, while it stays mounted."""
        subprocess.run([program("mount"), "-o", f"remount,{access}", self.place], capture_output=True, check=True)

    def cut(self):
        """From now on every write is answered EIO, and what the device does not have yet it never gets."""
        folder = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, IOC_SHUTDOWN, struct.pack("I", GOING_FLAGS_NOLOGFLUSH))
        finally:
            os.close(folder)

    def remount(self):
        """As after a reboot: what the file system kept in memory only is gone."""
        def unmounted():
            # The kernel closes what a killed process had in its ring a little after the process is gone.
            done = subprocess.run([program("umount"), self.place], capture_output=True, check=False)
            if done.returncode and b"busy" not in done.stderr:
                raise AssertionError(done.stderr.decode())
            return done.returncode == 0

        wait_until(f"{self.place} to be free", unmounted)
        trouble = self.mount()
        if trouble:
            raise AssertionError(trouble)

    def clean_up(self):
        subprocess.run([program("umount"), "-l", self.place], capture_output=True, check=False)


CLONE_NEWNS = 0x00020000
_own_mounts = False


def have_mounts_of_our_own():
    """True: from now on nobody who makes a mount namespace (`ip netns exec`, a container) takes a copy of what this thread mounts:
    a copy keeps a file system alive, cut off as it is, when it is unmounted here."""
    global _own_mounts
    if not _own_mounts and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0:
        subprocess.run([program("mount"), "--make-rprivate", "/"], capture_output=True, check=True)
        _own_mounts = True
    return _own_mounts


def loop_mount(test, mebibytes, make=("mkfs.ext4", "-q", "-m", "0")):
    """A LoopMount that goes with the test, or a skip. `make` gives it its file system."""
    if os.geteuid() != 0:
        test.skipTest("mounting needs root")
    if not have_mounts_of_our_own():
        test.skipTest("no mount namespace here")
    folder = tempfile.mkdtemp(prefix="postern-disk-")
    test.addCleanup(shutil.rmtree, folder, True)
    made = LoopMount(folder, mebibytes)
    subprocess.run([program(make[0]), *make[1:], made.image], check=True, capture_output=True)
    trouble = made.mount()
    if trouble:
        test.skipTest(f"no loop mount here: {trouble}")
    test.addCleanup(made.clean_up)
    return made


# --- content of a stored or relayed mail ---

def split_added(stored, newline):
    """(added fields, what follows): the Return-Path and Received that a relay put in front."""
    lines = stored.split(newline)
    taken = 0
    wanted = [b"return-path:", b"received:"]
    while taken < len(lines) and wanted:
        name = lines[taken].lower()
        if not any(name.startswith(field) for field in wanted):
            break
        wanted = [field for field in wanted if not name.startswith(field)]
        taken += 1
        while taken < len(lines) and lines[taken][:1] in (b" ", b"\t"):
            taken += 1
    return newline.join(lines[:taken]), newline.join(lines[taken:])


def original_of_maildir(stored):
    """The content as it was sent, but with LF line ends."""
    return split_added(stored, b"\n")[1]


def original_of_wire(relayed):
    """The content as it was sent, of what a next hop received."""
    return split_added(relayed, b"\r\n")[1]


class Client:
    """A raw SMTP client for what smtplib would not say. Replies are (code, text of all lines)."""

    def __init__(self, port, host="127.0.0.1", source=None, timeout=30, greet=True, path=None):
        if path:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(path)
        else:
            self.socket = socket.create_connection((host, port), timeout=timeout * SLOWNESS,
                                                   source_address=(source, 0) if source else None)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        if greet:
            self.greeting = self.reply()

    def send(self, data):
        if isinstance(data, str):
            data = data.encode()
        self.socket.sendall(data)

    def line(self):
        while b"\n" not in self.buffer:
            more = self.socket.recv(65536)
            if not more:
                raise EOFError(self.buffer)
            self.buffer += more
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.rstrip(b"\r").decode("utf-8", "replace")

    def reply(self):
        lines = []
        while True:
            line = self.line()
            lines.append(line[4:])
            if line[3:4] != "-":
                return int(line[:3]), "\n".join(lines)

    def ask(self, command):
        self.send(command + "\r\n" if isinstance(command, str) else command)
        return self.reply()

    def hello(self, name="client.test"):
        return self.ask(f"EHLO {name}")

    def envelope(self, sender="sender@client.test", recipients=("user@example.test",), parameters=""):
        replies = [self.ask(f"MAIL FROM:<{sender}>{parameters}")]
        return replies + [self.ask(f"RCPT TO:<{recipient}>") for recipient in recipients]

    def data(self, content=b"Subject: x\r\n\r\nhello\r\n"):
        """DATA with content that has CRLF line ends; dot-stuffs."""
        reply = self.ask("DATA")
        if reply[0] != 354:
            return reply
        stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
        self.send(stuffed + (b"" if stuffed.endswith(b"\r\n") or not stuffed else b"\r\n") + b".\r\n")
        return self.reply()

    def at_end(self):
        """True when the server has closed; what still came stays in the buffer."""
        try:
            while True:
                more = self.socket.recv(65536)
                if not more:
                    return True
                self.buffer += more
        except ConnectionResetError:
            return True
        except (TimeoutError, socket.timeout):
            return False

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class RelayTest(unittest.TestCase):
    """Base of the tests. self.postern() makes one that is cleaned up at the end; its log is shown when the test fails."""

    maxDiff = 4000

    def setUp(self):
        self.posterns = []

    def postern(self, **options):
        made = Postern(**options)
        self.posterns.append(made)
        self.addCleanup(made.clean_up)
        return made

    def into_maildir(self, **options):
        """A running posternd that keeps mail for example.test in Maildirs."""
        made = self.postern(**options)
        made.routes.append(made.maildir_route())
        return made.start()

    def to_sink(self, sink, match="*", accept=("example.test",), **options):
        """A running posternd that relays to `sink`."""
        made = self.postern(routes=[(match, f"smtp:[127.0.0.1]:{sink.port}")], accept=accept, **options)
        return made.start()

    def tearDown(self):
        # The runner shows this only when the test failed, behind the failure itself.
        for postern in self.posterns:
            print(f"--- the last lines that posternd on port {postern.port} logged", file=sys.stderr)
            for line in postern.log(1 << 16).splitlines()[-25:]:
                print(line[:200], file=sys.stderr)
