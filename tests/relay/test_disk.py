"""Disks and folders that cannot be used: said at the start with cause and cure; a write error while running is final and
loses nothing."""
import ctypes
import os
import shutil
import struct
import threading
import unittest

from harness import SLOWNESS, Client, RelayTest, loop_mount, wait_until
from sink import Sink
from test_crash import Load


class FailedDisk(RelayTest):
    def setUp(self):
        super().setUp()
        self.disk = loop_mount(self, 256)
        self.opened = threading.Event()
        self.sink = Sink(lambda step, session, argument: None if self.opened.is_set() or step != "MAIL" else "451 4.3.0 later")
        self.addCleanup(self.sink.stop)

    def relay(self, shards):
        data = os.path.join(self.disk.place, "data")
        return self.to_sink(self.sink, shards=shards, root={"data_dir": data, "memory": "64MiB"}, retry={"schedule": ["1s"]},
                            event_log={"path": ""})

    def ends_with_74(self, relay):
        self.assertEqual(relay.process.wait(30 * SLOWNESS), 74, relay.log())
        relay.process = None
        relay.check_log()
        self.assertIn("Input/output error", relay.log())

    def mended(self, relay):
        self.disk.remount()
        self.opened.set()
        return relay.start()

    def test_a_content_under_way_is_answered_451(self):
        relay = self.relay(shards=4)
        with Client(relay.port) as kept, Client(relay.port) as idle, Client(relay.port) as busy:
            for client in (kept, idle, busy):
                client.hello()
            kept.envelope()
            self.assertEqual(kept.data(b"Subject: kept\r\n\r\nx\r\n")[0], 250)
            busy.envelope()
            self.assertEqual(busy.ask("DATA")[0], 354)
            self.disk.cut()
            busy.send("Subject: lost\r\n\r\nx\r\n.\r\n")
            code, text = busy.reply()
            self.assertEqual((code, text[:5]), (451, "4.3.0"))
            self.assertTrue(idle.at_end(), "all shards stop")
            if idle.buffer:
                self.assertEqual(idle.buffer[:9], b"421 4.3.2")
        self.ends_with_74(relay)
        relay = self.mended(relay)
        self.sink.wait_for(1)
        wait_until("the queue to be empty", lambda: relay.queued() == 0)
        relay.stop()
        self.assertEqual([b"Subject: kept" in message.content for message in self.sink.messages], [True])

    def test_under_load_nothing_acknowledged_is_lost(self):
        relay = self.relay(shards=4)
        load = Load(relay)
        wait_until("some mail", lambda: len(load.accepted) >= 50)
        self.disk.cut()
        self.ends_with_74(relay)
        load.end()
        relay = self.mended(relay)
        wait_until("the queue to be empty", lambda: relay.queued() == 0, 60)
        relay.stop()
        arrived = {int(message.content.split(b"X-Test: ")[1].split(b"\r\n")[0]) for message in self.sink.messages}
        self.assertEqual(load.accepted - arrived, set())

    def test_a_disk_that_fails_while_idle_is_met_by_the_next_message(self):
        relay = self.relay(shards=2)
        self.disk.cut()
        with Client(relay.port) as client:
            client.hello()
            replies = client.envelope()
            reply = client.data() if all(code == 250 for code, _ in replies) else replies[-1]
            self.assertEqual((reply[0], reply[1][:5]), (451, "4.3.0"))
        self.ends_with_74(relay)


class DataDir(RelayTest):
    """What the folder must be like; everything else is refused at the start."""

    def fails(self, relay, *texts):
        relay.start(wait=False)
        self.assertEqual(relay.process.wait(30 * SLOWNESS), 71, relay.log())
        relay.process = None
        for text in (f"data_dir {relay.root['data_dir']}", *texts):
            self.assertIn(text, relay.log())

    def owned_by_nobody(self, mode=0o700):
        if os.geteuid() != 0:
            self.skipTest("only root can become somebody else")
        relay = self.postern(root={"user": "nobody"})
        os.chmod(relay.folder, 0o755)
        os.mkdir(relay.data, mode)
        shutil.chown(relay.data, "nobody")
        return relay

    def test_of_another_user(self):
        relay = self.owned_by_nobody()
        shutil.chown(relay.data, "daemon")
        self.fails(relay, "belongs to user", "chown")

    def test_that_its_owner_may_not_write(self):
        self.fails(self.owned_by_nobody(0o500), "chmod 700")

    def test_that_others_may_write(self):
        for mode in (0o770, 0o707, 0o1777):
            relay = self.postern()
            os.mkdir(relay.data)
            os.chmod(relay.data, mode)
            self.fails(relay, "others may write to it", "chmod 700")

    def test_that_is_no_folder(self):
        relay = self.postern()
        with open(relay.data, "wb"):
            pass
        self.fails(relay, "Not a directory")

    def test_below_a_file(self):
        relay = self.postern()
        with open(os.path.join(relay.folder, "file"), "wb"):
            pass
        relay.root["data_dir"] = os.path.join(relay.folder, "file", "data")
        self.fails(relay, "Not a directory")

    def test_whose_disk_has_gone(self):
        relay = self.postern()
        os.symlink(os.path.join(relay.folder, "gone", "data"), relay.data)
        self.fails(relay, "No such file or directory", "mount")

    def test_on_a_disk_mounted_read_only(self):
        disk = loop_mount(self, 64)
        relay = self.postern(root={"data_dir": os.path.join(disk.place, "data")})
        disk.mount_again("ro")
        self.fails(relay, "Read-only file system")
        disk.mount_again("rw")
        relay.start()
        relay.stop()
        disk.mount_again("ro")
        self.fails(relay, "Read-only file system", "remount")


class IoUring(RelayTest):
    """Where io_uring is forbidden nothing starts, and the operator hears who forbids it and how to allow it."""

    def refused(self, relay, *texts, **options):
        relay.start(wait=False, **options)
        self.assertEqual(relay.process.wait(30 * SLOWNESS), 71, relay.log())
        relay.process = None
        for text in texts:
            self.assertIn(text, relay.log())
        self.assertFalse(os.path.exists(relay.data), "nothing was touched")

    def test_forbidden_by_a_seccomp_profile(self):
        self.refused(self.postern(), "io_uring is forbidden to this process", "seccomp", "--security-opt",
                     before_exec=forbid_io_uring)

    def test_forbidden_by_sysctl(self):
        path = "/proc/sys/kernel/io_uring_disabled"
        # It is the whole machine's: nobody else may be testing here at this moment.
        if os.environ.get("CI") != "true":
            self.skipTest("changes a setting of the whole machine; set CI=true to run it")
        try:
            with open(path, "r+", encoding="ascii") as file:
                before = file.read()
                file.seek(0)
                file.write(before)
        except OSError as refusal:
            self.skipTest(f"{path}: {refusal}")
        relay = self.postern()
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write("2")
            self.refused(relay, "kernel.io_uring_disabled=2", "sysctl -w kernel.io_uring_disabled=0")
        finally:
            with open(path, "w", encoding="ascii") as file:
                file.write(before)
        relay.start()
        relay.stop()


def forbid_io_uring():
    """Between fork and exec: io_uring_setup() fails with EPERM, as under Docker's profile."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) != 0:  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "no_new_privs")
    setup = 425  # io_uring_setup, on every architecture
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in (
        (0x20, 0, 0, 0),           # load the number of the system call
        (0x15, 0, 1, setup),       # if it is io_uring_setup:
        (0x06, 0, 0, 0x00050001),  # SECCOMP_RET_ERRNO | EPERM
        (0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    ))
    filters = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_void_p)]

    whole = Program(len(program) // 8, ctypes.addressof(filters))
    if libc.prctl(22, 2, ctypes.byref(whole), 0, 0) != 0:  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    unittest.main()
