"""Memory and disk: what is bounded stays within its bound, is answered truthfully, and comes back by itself."""
import os
import socket
import subprocess
import threading
import time
import unittest

from harness import SLOWNESS, Client, RelayTest, program, wait_until
from sink import Sink

CLIENTS = int(os.environ.get("POSTERN_TEST_HALF_CLIENTS", "1000"))
# How much of its 50 MiB each client sends. All of the half needs 25 GiB of disk; a tenth of it is as far beyond memory.
HALF_BYTES = int(os.environ.get("POSTERN_TEST_HALF_BYTES", str(5 << 19)))
BUDGET = 256 << 20
# Beside the budget: the program, rings' receive buffers, kernel-side tables of a thousand connections.
BESIDE = 160 << 20


class Memory(RelayTest):
    def test_a_thousand_half_sent_messages_stay_within_the_budget(self):
        with Sink() as sink:
            relay = self.to_sink(sink, root={"memory": "256MiB"}, limits={"message_bytes": "50MiB", "connections": 4000},
                                 spool={"segment": "64MiB"})
            self.disk_has_room(relay)
            clients, trouble = [], []
            line = b"x" * 1022 + b"\r\n"
            piece = line * 64

            def fill(begin, end):
                for client in clients[begin:end]:
                    try:
                        client.hello()
                        client.envelope(parameters=" SIZE=52428800")
                        if client.ask("DATA")[0] != 354:
                            trouble.append("no 354")
                            continue
                        client.send(b"Subject: half\r\n\r\n")
                        for _ in range(HALF_BYTES // len(piece)):
                            client.send(piece)
                    except (OSError, EOFError) as lost:
                        trouble.append(repr(lost))

            for _ in range(CLIENTS):
                client = Client(relay.port, timeout=120)
                clients.append(client)
                self.addCleanup(client.close)
            threads = [threading.Thread(target=fill, args=(n * CLIENTS // 8, (n + 1) * CLIENTS // 8)) for n in range(8)]
            for thread in threads:
                thread.start()
            served = 0
            while any(thread.is_alive() for thread in threads):
                served += self.relay_one(relay)
                self.assertLess(relay.resident_bytes(), BUDGET + BESIDE)
                time.sleep(0.2)
            self.assertEqual(trouble, [], f"{len(trouble)} of {CLIENTS}")
            self.assertLess(relay.resident_bytes(high_water=True), BUDGET + BESIDE)
            numbers = relay.metrics()
            self.assertGreaterEqual(numbers['postern_connections{direction="in"}'], CLIENTS)
            self.assertLessEqual(numbers["postern_memory_bytes"], numbers["postern_memory_limit_bytes"])
            # Others still relay while all of them hold their half.
            for _ in range(20):
                served += self.relay_one(relay)
            self.assertGreaterEqual(served, 20)
            sink.wait_for(served)
            # The clients go; what they left is taken back.
            for client in clients:
                client.close()
            wait_until("the connections to end", lambda: relay.metrics()['postern_connections{direction="in"}'] <= 1, 60)
            wait_until("memory to come back", lambda: relay.metrics()["postern_memory_bytes"] < BUDGET / 8, 60)
            relay.stop()

    def relay_one(self, relay):
        with Client(relay.port, timeout=60) as client:
            client.hello()
            client.envelope()
            return 1 if client.data()[0] == 250 else 0

    def disk_has_room(self, relay):
        space = os.statvfs(relay.folder)
        if space.f_bavail * space.f_frsize < 2 * CLIENTS * HALF_BYTES + (4 << 30):
            self.skipTest("not enough free disk for what the clients send")

    def test_a_next_hop_that_stands_still_fills_the_disk_and_not_the_memory(self):
        with Sink(lambda step, session, argument: "451 4.3.0 later" if step == "MAIL" and not opened.is_set() else None) as sink:
            opened = threading.Event()
            relay = self.to_sink(sink, root={"memory": "64MiB"}, retry={"schedule": ["1s"]})
            content = b"Subject: x\r\n\r\n" + (b"y" * 76 + b"\r\n") * 1300
            with Client(relay.port) as client:
                client.hello()
                for _ in range(1500):  # 150 MB
                    client.envelope()
                    self.assertEqual(client.data(content)[0], 250)
            self.assertLess(relay.resident_bytes(high_water=True), (64 << 20) + BESIDE)
            opened.set()
            sink.wait_for(1500, 120)
            relay.stop()


class FullDisk(RelayTest):
    """A spool on a small file system of its own."""

    def mounted(self, mebibytes):
        if os.geteuid() != 0:
            self.skipTest("mounting needs root")
        mkfs, mount, umount = program("mkfs.ext4"), program("mount"), program("umount")
        import tempfile  # pylint: disable=import-outside-toplevel
        import shutil  # pylint: disable=import-outside-toplevel
        folder = tempfile.mkdtemp(prefix="postern-disk-")
        self.addCleanup(shutil.rmtree, folder, True)
        image, place = os.path.join(folder, "image"), os.path.join(folder, "place")
        os.mkdir(place)
        with open(image, "wb") as file:
            file.truncate(mebibytes << 20)
        subprocess.run([mkfs, "-q", "-m", "0", image], check=True, capture_output=True)
        done = subprocess.run([mount, "-o", "loop", image, place], capture_output=True, check=False)
        if done.returncode:
            self.skipTest(f"no loop mount here: {done.stderr.decode().strip()}")
        self.addCleanup(subprocess.run, [umount, "-l", place], capture_output=True, check=False)
        return place

    def test_full_answers_452_delivers_on_and_comes_back(self):
        place = self.mounted(192)
        opened = threading.Event()
        with Sink(lambda step, session, argument: None if opened.is_set() or step != "MAIL" else "451 4.3.0 later") as sink:
            relay = self.to_sink(sink, root={"data_dir": os.path.join(place, "data"), "memory": "64MiB"},
                                 spool={"min_free": "16MiB", "segment": "8MiB"}, retry={"schedule": ["1s"]},
                                 event_log={"path": ""})
            relay.data = os.path.join(place, "data")
            content = b"Subject: x\r\n\r\n" + (b"y" * 76 + b"\r\n") * 6500  # half a megabyte
            accepted, refusal = 0, None
            with Client(relay.port) as client:
                client.hello()
                deadline = time.monotonic() + 60 * SLOWNESS
                while refusal is None and time.monotonic() < deadline:
                    replies = client.envelope()
                    if replies[0][0] == 452:
                        refusal = replies[0]
                        break
                    code, text = client.data(content)
                    if code == 250:
                        accepted += 1
                    else:
                        refusal = (code, text)
            self.assertIsNotNone(refusal, f"{accepted} messages of half a megabyte fitted into 192 MiB")
            self.assertEqual((refusal[0], refusal[1][:5]), (452, "4.3.1"))
            self.assertGreater(accepted, 50)
            opened.set()
            sink.wait_for(accepted, 120)
            wait_until("the queue to be empty", lambda: relay.queued() == 0, 60)

            def taken():
                with Client(relay.port) as again:
                    again.hello()
                    return again.envelope()[0][0] == 250 and again.data()[0] == 250
            wait_until("intake to come back", taken, 60)
            self.assertEqual(relay.events("failed"), [])
            relay.stop()

    def test_really_full_loses_nothing(self):
        # Somebody else fills the file system under us: intake stops, what was accepted is delivered.
        place = self.mounted(128)
        opened = threading.Event()
        with Sink(lambda step, session, argument: None if opened.is_set() or step != "MAIL" else "451 4.3.0 later") as sink:
            relay = self.to_sink(sink, root={"data_dir": os.path.join(place, "data"), "memory": "64MiB"},
                                 spool={"min_free": "1MiB", "segment": "8MiB"}, retry={"schedule": ["1s"]},
                                 event_log={"path": ""})
            accepted = 0
            with Client(relay.port) as client:
                client.hello()
                client.envelope()
                accepted += client.data()[0] == 250
                with open(os.path.join(place, "filler"), "wb") as filler:
                    try:
                        while True:
                            filler.write(b"z" * (1 << 20))
                            filler.flush()
                    except OSError:
                        pass
                content = b"Subject: x\r\n\r\n" + (b"y" * 76 + b"\r\n") * 13_000  # a megabyte
                refused = None
                for _ in range(64):
                    replies = client.envelope()
                    reply = replies[0] if replies[0][0] != 250 else client.data(content)
                    if reply[0] == 250:
                        accepted += 1
                    else:
                        refused = reply
                        break
                    client.ask("RSET")
            self.assertIsNotNone(refused)
            self.assertEqual(refused[0] // 100, 4, refused)
            os.unlink(os.path.join(place, "filler"))
            opened.set()
            sink.wait_for(accepted, 60)
            wait_until("the queue to be empty", lambda: relay.queued() == 0, 60)
            relay.stop()


class Slow(RelayTest):
    def test_idle_connections_are_cheap(self):
        relay = self.into_maildir(limits={"connections": 4000})
        before = relay.resident_bytes()
        held = []
        try:
            for _ in range(1000):
                client = socket.create_connection(("127.0.0.1", relay.port), timeout=20)
                held.append(client)
                self.assertTrue(client.recv(200).startswith(b"220 "))
            per_connection = (relay.resident_bytes() - before) / len(held)
            self.assertLess(per_connection, 16 << 10, "bytes per idle connection")
        finally:
            for client in held:
                client.close()


if __name__ == "__main__":
    unittest.main()
