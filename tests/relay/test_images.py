"""Crash images of a recorded run: the real daemon on loops that write down all it asks of its disk (posternd-recording), and
every image of the disk that a crash may legally leave (tests/crash). Hundreds are recovered on a simulated machine, some
dozens by the real posternd. A disk that lies must be found out."""
import atexit
import collections
import concurrent.futures
import functools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

from harness import (POSTERN, SLOWNESS, Client, Postern, RelayTest, original_of_maildir, original_of_wire,
                     wait_until)
from sink import Delay, Sink

IMAGES = int(os.environ.get("POSTERN_TEST_IMAGES", "300"))
SEED = int(os.environ.get("POSTERN_TEST_SEED", "1"))
MESSAGES = 500
REAL_STARTS = 24
STARTS_AT_ONCE = 6
LIE_IMAGES = 16
SEGMENT_MEBIBYTES = 2  # the least that is allowed, so that segments are filled, sealed and recycled
# What the disk does not do though it says so, and by what that shows at least.
LIES = {
    "lost_write": "@out.test>: accepted, then neither delivered nor reported",
    "late_write": "@out.test>: accepted, then neither delivered nor reported",
    "directory_sync": "test>: accepted, then neither delivered nor reported",
    "file_sync": "does not begin with Return-Path|content changed",
}


def tool(name):
    path = os.path.join(os.path.dirname(POSTERN), "tests", name)
    if not os.path.exists(path):
        raise unittest.SkipTest(f"{path} is not built (target crash-tools)")
    return path


class Script:
    """What a sink does: its last reply says what it took, so that a trace does. 5xx for bad…; when unruly, 4xx and slow at times."""

    def __init__(self, unruly):
        self.random = random.Random(SEED)
        self.unruly = unruly
        self.lock = threading.Lock()
        self.taken = collections.defaultdict(list)  # contents by recipient
        self.reported = set()

    def __call__(self, step, session, argument):
        with self.lock:
            if step == "RCPT" and argument.startswith("bad"):
                return "550 5.1.1 no such user"
            if step == "RCPT" and self.chance(0.1):
                return "450 4.2.1 later"
            if step == "content":
                return Delay(0.2 if self.chance(0.1) else 0.0, "250 2.0.0 Ok: " + self.take(session, argument))
        return None

    def chance(self, share):
        return self.unruly and self.random.random() < share

    def take(self, session, content):
        if session.sender == "":
            failed = re.findall(rb"Final-Recipient: rfc822; (\S+)", content)
            self.reported.update(address.decode() for address in failed)
            message_id = re.search(rb"(?im)^Message-ID: (\S+)", content).group(1)
            return " ".join(["reported", message_id.decode(), *(address.decode() for address in failed)])
        for recipient in session.recipients:
            self.taken[recipient].append(original_of_wire(content))
        return " ".join(["kept", *session.recipients])


class Clients:
    """Threads that send what send() makes, and keep it with its queue id."""

    def __init__(self, port, threads, messages):
        self.port = port
        self.left = iter(range(messages))
        self.lock = threading.Lock()
        self.sent = []
        self.trouble = []
        self.threads = [threading.Thread(target=self.run, args=(number,), daemon=True) for number in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, seed):
        source = random.Random(SEED * 1000 + seed)
        try:
            with Client(self.port) as client:
                client.hello()
                while True:
                    with self.lock:
                        number = next(self.left, None)
                    if number is None:
                        return
                    self.send(client, number, source)
        except (OSError, EOFError, ValueError) as trouble:
            self.trouble.append(trouble)

    def send(self, client, number, source):
        recipients = [f"r{number}-{place}@out.test" for place in range(source.choice((0, 1, 1, 1, 2)))]
        if source.random() < 0.08:
            recipients.append(f"bad{number}@out.test")
        if source.random() < 0.1:
            recipients.append(f"m{number}@maildir.test")
        if source.random() < 0.15 or not recipients:
            recipients.append(f"b{number}@box.test")
        sender = f"s{number}@out.test"
        size = source.choice((100, 1_000, 1_000, 5_000, 5_000, 20_000, 20_000, 90_000))
        if source.random() < 0.01:
            size = 900_000  # beyond what travels in its batch
        line = (f"{number} ".encode() * 12)[:76] + b"\r\n"
        content = f"Subject: {number}\r\nX-Test: {number}\r\n\r\n.dot\r\n".encode() + line * (size // len(line))
        replies = client.envelope(sender, recipients)
        code, text = client.data(content)
        if code != 250 or any(code != 250 for code, _ in replies):
            raise ValueError(f"message {number}: {replies} {code} {text}")
        queue_id = re.search(r"queued as (\S+)", text).group(1)
        with self.lock:
            self.sent.append({"sender": sender, "recipients": recipients, "content": content.decode(), "queue_id": queue_id})


def daemon(folder, sink, recording=False):
    made = Postern(folder=folder, accept=("out.test", "maildir.test", "box.test"), root={"memory": "64MiB"},
                   spool={"min_free": "1MiB", "segment": f"{SEGMENT_MEBIBYTES}MiB"}, event_log={"path": ""},
                   retry={"schedule": ["300ms", "1s"], "give_up_after": "1h"})
    made.routes = [("maildir.test", f"maildir:{made.mail}/{{local}}"), ("box.test", f"maildir:{made.mail}/box"),
                   ("*", f"smtp:[127.0.0.1]:{sink.port}")]
    if recording:
        made.program = tool("posternd-recording")
    return made


@functools.lru_cache(maxsize=None)
def recording():
    """(trace, manifest, messages) of one run, made once for all tests."""
    tool("postern-crash")
    folder = tempfile.mkdtemp(prefix="postern-recorded-")
    if os.environ.get("POSTERN_TEST_KEEP"):
        print(f"the recording stays in {folder}", file=sys.stderr)
    else:
        atexit.register(shutil.rmtree, folder, True)
    root = os.path.join(folder, "run")
    os.mkdir(root)
    with Sink(Script(unruly=True), keep_content=False) as sink:
        relay = daemon(root, sink, recording=True)
        try:
            relay.start()
            clients = Clients(relay.port, threads=8, messages=MESSAGES)
            for thread in clients.threads:
                thread.join(60 * SLOWNESS)
            if clients.trouble or len(clients.sent) != MESSAGES:
                raise AssertionError(f"{len(clients.sent)} sent, {clients.trouble}\n{relay.log()}")
            wait_until("the queue to be empty", lambda: relay.queued() == 0, 30)
            relay.stop()
        finally:
            relay.clean_up()
    manifest = os.path.join(folder, "manifest")
    with open(manifest, "w", encoding="utf-8") as file:
        head = {"root": root, "data": relay.data, "mail": relay.mail, "segment_bytes": SEGMENT_MEBIBYTES << 20}
        for line in (head, *clients.sent):
            file.write(json.dumps(line) + "\n")
    return relay.config_path + ".trace", manifest, clients.sent


def crash(command, *options):
    """(exit status, output, last line as JSON) of postern-crash on the recording."""
    trace, manifest, _ = recording()
    done = subprocess.run([tool("postern-crash"), command, trace, manifest, "--seed", str(SEED), *options], capture_output=True,
                          check=False, timeout=300 * SLOWNESS)
    output = done.stdout.decode("utf-8", "replace")
    try:
        return done.returncode, output, json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        raise AssertionError(f"postern-crash: {done.returncode}\n{output}{done.stderr.decode()}") from None


class CrashImages(RelayTest):
    def test_none_has_lost_what_was_acknowledged(self):
        status, output, sums = crash("check", "--images", str(IMAGES))
        self.assertEqual((status, sums["bad"]), (0, 0), output)
        self.assertEqual(sums["images"], IMAGES)
        self.assertEqual(sums["acknowledged"], MESSAGES)
        # A run in which nothing happens proves nothing.
        self.assertGreater(sums["durable_writes"], 100)
        self.assertGreater(sums["taken"], MESSAGES // 2)
        self.assertGreater(sums["reported"], 10)
        self.assertGreater(sums["waiting"], IMAGES)

    def test_a_disk_that_lies_is_found_out(self):
        for lie, shown in LIES.items():
            with self.subTest(lie=lie):
                status, output, sums = crash("check", "--images", str(LIE_IMAGES), "--lie", lie)
                self.assertEqual(status, 1, output)
                self.assertGreater(sums["bad"], 0)
                self.assertRegex(output, shown)

    def test_the_real_daemon_recovers_and_delivers(self):
        folder = tempfile.mkdtemp(prefix="postern-images-")
        self.addCleanup(shutil.rmtree, folder, True)
        self.assertEqual(crash("write", "--images", str(REAL_STARTS), "--out", folder)[0], 0)
        contents = {recipient: message["content"].encode() for message in recording()[2] for recipient in message["recipients"]}

        def recovers(number):
            try:
                return self.recovers(os.path.join(folder, str(number)), contents)
            except AssertionError as failure:
                raise AssertionError(f"image {number}: {failure}") from failure

        # What was deferred before the crash is spread over some seconds: most of the time all of them wait.
        with concurrent.futures.ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
            waited = sum(pool.map(recovers, range(REAL_STARTS)))
        self.assertGreater(waited, REAL_STARTS, "some mail waited in the images")

    def recovers(self, folder, contents):
        """How many recipients were owed."""
        with open(os.path.join(folder, "owed.json"), encoding="utf-8") as file:
            owed = json.load(file)
        script = Script(unruly=False)
        with Sink(script, keep_content=False) as sink:
            relay = daemon(folder, sink)
            self.posterns.append(relay)
            self.addCleanup(relay.clean_up)
            relay.start()
            # A notification is in the spool before it is in the queue, which may be empty in between.
            wait_until("the queue to be empty", lambda: relay.queued() == 0 and script.reported >= set(owed["reports"]), 30)
            self.assertEqual(relay.metrics()["postern_spool_messages_quarantined_total"], 0, relay.log())
            relay.stop()
        found = collections.defaultdict(list, {key: list(value) for key, value in script.taken.items()})
        for local in os.listdir(relay.mail):
            for stored in relay.mails(local).values():
                sender = re.match(rb"Return-Path: <s(\d+)@", stored).group(1).decode()
                recipient = f"b{sender}@box.test" if local == "box" else f"{local}@maildir.test"
                found[recipient].append(original_of_maildir(stored).replace(b"\n", b"\r\n"))
        for recipient, copies in found.items():
            for copy in copies:
                self.assertEqual(copy, contents[recipient], f"the mail for {recipient} was changed")
        self.assertEqual([recipient for recipient in owed["mail"] if recipient not in found], [], "lost")
        self.assertEqual([recipient for recipient in owed["reports"] if recipient not in script.reported], [], "no DSN")
        return len(owed["mail"]) + len(owed["reports"])


if __name__ == "__main__":
    unittest.main()
