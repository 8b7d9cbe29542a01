"""A data_dir that goes away under a running posternd: removed, moved, unmounted, or one log's folder replaced. The files stay
open, so nothing fails by itself; yet what is written to them may never be found again."""
import os
import shutil
import subprocess
import threading
import unittest

from harness import Client, RelayTest, loop_mount, program, wait_until
from sink import Sink
from test_crash import Load, numbers_of

SAID = "the spool is no longer where it was"


class Gone(RelayTest):
    def setUp(self):
        super().setUp()
        self.opened = threading.Event()
        self.sink = Sink(lambda step, session, argument: None if self.opened.is_set() or step != "MAIL" else "451 4.3.0 later")
        self.addCleanup(self.sink.stop)

    def relay(self, shards, **options):
        return self.to_sink(self.sink, shards=shards, retry={"schedule": ["1s"]}, event_log={"path": ""}, **options)

    def under_load(self, relay, vanish):
        """Numbers of what was answered 250, before and after vanish(); returns once no shard takes mail any more."""
        load = Load(relay)
        wait_until("some mail", lambda: len(load.accepted) >= 50)
        vanish()
        shards = relay.root["shards"]
        wait_until("every log to miss its folder", lambda: relay.log(1 << 20).count(SAID) == shards)
        taken = len(load.accepted)
        self.assertEqual(self.reply_to_mail(relay)[0], 452)
        load.end()
        # At most what was on its way to the disk: one message a session.
        self.assertLessEqual(len(load.accepted) - taken, len(load.threads))
        self.assertIsNone(relay.process.poll(), relay.log())
        return load.accepted

    def reply_to_mail(self, relay):
        with Client(relay.port) as client:
            client.hello()
            code, text = client.envelope()[0]
            if code != 250:
                self.assertEqual((code, text[:5]), (452, "4.3.1"))
            return code, text

    def all_arrive(self, relay, accepted):
        self.opened.set()
        wait_until("the queue to be empty", lambda: relay.queued() == 0, 60)
        self.assertEqual(accepted - set(numbers_of(self.sink)), set())

    def test_removed_all_that_was_accepted_is_still_delivered(self):
        relay = self.relay(shards=2)
        accepted = self.under_load(relay, lambda: shutil.rmtree(relay.data))
        self.all_arrive(relay, accepted)
        relay.stop()

    def test_unmounted_all_that_was_accepted_is_on_the_disk(self):
        disk = loop_mount(self, 256)
        relay = self.relay(shards=2, root={"data_dir": os.path.join(disk.place, "data"), "memory": "64MiB"})
        accepted = self.under_load(
            relay, lambda: subprocess.run([program("umount"), "-l", disk.place], capture_output=True, check=True))
        relay.kill()
        # The file system is in use until the kernel has closed what the process had in its ring.
        wait_until("the mount", lambda: os.path.ismount(disk.place) or not disk.mount())
        relay.start()
        self.all_arrive(relay, accepted)
        relay.stop()

    def test_one_logs_folder_replaced_all_is_there_once_it_is_put_back(self):
        relay = self.relay(shards=1)
        folder = os.path.join(relay.data, "logs", "000")
        before = os.path.join(relay.folder, "before")

        def vanish():
            os.rename(folder, before)
            os.mkdir(folder, 0o700)

        accepted = self.under_load(relay, vanish)
        self.assertIn(f"{folder} is not the folder that it was", relay.log())
        relay.kill()
        for name in os.listdir(before):
            if not os.path.exists(os.path.join(folder, name)):
                os.rename(os.path.join(before, name), os.path.join(folder, name))
        relay.start()
        self.all_arrive(relay, accepted)
        relay.stop()

    def test_moved_away_and_back_mail_is_taken_again(self):
        relay = self.relay(shards=2)
        away = relay.data + ".away"
        accepted = self.under_load(relay, lambda: os.rename(relay.data, away))
        os.rename(away, relay.data)
        wait_until("every log to find its folder", lambda: relay.log(1 << 20).count("is there again: mail is accepted") == 2)
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            self.assertEqual(client.data(b"Subject: again\r\nX-Test: 1000000\r\n\r\nx\r\n")[0], 250)
        self.all_arrive(relay, accepted | {1000000})
        relay.stop()

    def test_the_files_removed_out_of_the_folder(self):
        relay = self.relay(shards=1)
        folder = os.path.join(relay.data, "logs", "000")

        def vanish():
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))

        accepted = self.under_load(relay, vanish)
        self.all_arrive(relay, accepted)
        relay.stop()


if __name__ == "__main__":
    unittest.main()
