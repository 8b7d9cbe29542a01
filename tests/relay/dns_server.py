"""A real authoritative DNS server (nsd) for tests, on a random port of 127.0.0.1. Answers without recursion (RA=0)."""
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile

from harness import free_port, program, wait_until


class Nsd:
    """Serves the zone mail.test with `records` (lines of a zone file), and fails (SERVFAIL) for broken.test."""

    def __init__(self, records):
        nsd = program("nsd")
        self.folder = tempfile.mkdtemp(prefix="postern-nsd-")
        self.port = free_port()
        self.records = records
        self.write_zone(1)
        config = f"""
server:
  ip-address: 127.0.0.1
  port: {self.port}
  username: ""
  chroot: ""
  zonesdir: "{self.folder}"
  pidfile: "{self.folder}/nsd.pid"
  zonelistfile: "{self.folder}/zone.list"
  xfrdfile: "{self.folder}/xfrd.state"
  xfrdir: "{self.folder}"
  logfile: "{self.folder}/log"
  server-count: 1
  rrl-ratelimit: 0
remote-control:
  control-enable: no
zone:
  name: "mail.test"
  zonefile: "mail.zone"
zone:
  name: "broken.test"
  zonefile: "there-is-none.zone"
"""
        path = os.path.join(self.folder, "nsd.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write(config)
        self.process = subprocess.Popen([nsd, "-d", "-c", path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        wait_until("nsd answers", self.answers)

    def write_zone(self, serial):
        with open(os.path.join(self.folder, "mail.zone"), "w", encoding="ascii") as file:
            file.write(f"$ORIGIN mail.test.\n$TTL 60\n@ SOA ns.mail.test. host.mail.test. {serial} 3600 600 86400 60\n"
                       f"@ NS ns.mail.test.\nns A 127.0.0.1\n" + "\n".join(self.records) + "\n")

    def answers(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as question:
            question.settimeout(0.2)
            name = b"".join(bytes([len(label)]) + label for label in (b"ns", b"mail", b"test")) + b"\0"
            try:
                question.sendto(struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1),
                                ("127.0.0.1", self.port))
                return question.recv(512)[3] & 15 == 0
            except OSError:
                return False

    @contextlib.contextmanager
    def paused(self):
        """No answer meanwhile: it and its children stand still."""
        os.killpg(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
