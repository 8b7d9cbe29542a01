"""postern-spool on the data_dir of a real posternd: while it runs, after kill -9 and after an orderly stop."""
import json
import os
import subprocess
import unittest

from harness import POSTERN, Client, RelayTest, wait_until
from sink import Sink


def spool_program():
    """Built beside posternd."""
    path = os.path.join(os.path.dirname(POSTERN), "postern-spool")
    if not os.access(path, os.X_OK):
        raise unittest.SkipTest("postern-spool is not built beside posternd")
    return path


def run_spool(*arguments, seconds=120):
    """(exit code, stdout, stderr)"""
    done = subprocess.run([spool_program(), *arguments], capture_output=True, timeout=seconds, check=False,
                          stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def deferring(step, _, argument):
    return "450 4.2.1 come back later" if step == "RCPT" and "slow" in argument else None


class SpoolTool(RelayTest):
    CONTENTS = (
        b"Subject: short\r\n\r\nhello\r\n",
        b"Subject: dots\r\n\r\n.\r\n..\r\n.one\r\nlast\r\n",
        b"Subject: " + "ünïcode".encode() + b"\r\n\r\n" + bytes(range(128, 256)) + b"\r\n",
        b"Subject: large\r\n\r\n" + (b".x" * 35 + b"\r\n") * 20000,  # streamed in chunks
    )

    def send(self, relay, content, recipients):
        with Client(relay.port) as client:
            client.hello()
            client.envelope("sender@client.test", recipients)
            code, text = client.data(content)
            self.assertEqual(code, 250, text)
            return text.rsplit(" ", 1)[1]

    def spool_image(self, relay):
        """{path: (size, times of change)} of the files of a stopped one, to see that nothing touches them."""
        found = {}
        for folder, _, names in os.walk(relay.data):
            for name in names:
                path = os.path.join(folder, name)
                facts = os.stat(path)
                found[path] = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
        return found

    def expect_all(self, relay, sent, in_use):
        code, out, err = run_spool("check", relay.data, "--json")
        self.assertEqual(code, 0, out + err)
        found = json.loads(out)
        self.assertEqual((found["sound"], found["in_use"]), (True, in_use))
        self.assertEqual(sum(log["messages"] for log in found["logs"]), len(sent))
        self.assertEqual(sum(log["recipients"]["waiting"] for log in found["logs"]), len(sent))
        self.assertEqual(sum(log["recipients"]["settled"] for log in found["logs"]), len(sent))
        code, out, err = run_spool("check", relay.data)
        self.assertEqual(code, 0, out + err)
        self.assertEqual("in use" in out, in_use)

        code, out, err = run_spool("dump", relay.data, "--json")
        self.assertEqual(code, 0, out + err)
        lines = [json.loads(line) for line in out.splitlines()]
        messages = {line["queue_id"]: line for line in lines if line["type"] == "message"}
        self.assertEqual(set(messages), set(sent))
        self.assertTrue(all(line["waiting"] == 1 for line in messages.values()), messages)
        self.assertEqual({line["outcome"] for line in lines if line["type"] == "settled"}, {"relayed"})
        self.assertEqual({line["queue_id"] for line in lines if line["type"] == "retry"}, set(sent))

        for queue_id, content in sent.items():
            code, out, err = run_spool("show", queue_id, "--data-dir", relay.data, "--json")
            self.assertEqual(code, 0, err)
            shown = json.loads(out)
            self.assertEqual(shown["reverse_path"], "sender@client.test")
            slow, quick = shown["recipients"]
            self.assertEqual((slow["forward_path"], slow["state"]), ("slow@example.test", "waiting"))
            self.assertEqual((quick["forward_path"], quick["state"]), ("quick@example.test", "settled"))
            self.assertEqual(slow["last_reply"], "450 4.2.1 come back later")
            self.assertGreaterEqual(slow["attempts"], 1)
            if b"\x80" not in content:
                self.assertEqual(shown["header"][0].encode(), content.split(b"\r\n", 1)[0])

        to = os.path.join(relay.folder, f"export-{in_use}-{len(os.listdir(relay.folder))}")
        code, out, err = run_spool("export", "--all", to, "--data-dir", relay.data, "--json")
        self.assertEqual(code, 0, out + err)
        self.assertEqual(json.loads(out)["exported"], len(sent))
        self.assertEqual(len(os.listdir(to)), 2 * len(sent))
        for queue_id, content in sent.items():
            with open(os.path.join(to, queue_id + ".eml"), "rb") as file:
                self.assertEqual(file.read(), content)
            with open(os.path.join(to, queue_id + ".json"), "rb") as file:
                envelope = json.load(file)
            self.assertEqual([recipient["forward_path"] for recipient in envelope["recipients"]],
                             ["slow@example.test", "quick@example.test"])
            self.assertIn(f"id {queue_id}", envelope["added_fields"])
        one = os.path.join(to, "lf")
        queue_id, content = next(iter(sent.items()))
        self.assertEqual(run_spool("export", "--lf", queue_id, one, "--data-dir", relay.data)[0], 0)
        with open(os.path.join(one, queue_id + ".eml"), "rb") as file:
            self.assertEqual(file.read(), content.replace(b"\r\n", b"\n"))

    def test_running_killed_stopped(self):
        with Sink(deferring) as sink:
            relay = self.to_sink(sink, retry={"schedule": ["1h"]})
            sent = {self.send(relay, content, ["slow@example.test", "quick@example.test"]): content
                    for content in self.CONTENTS}
            wait_until("first attempts", lambda: len(relay.events("deferred")) == len(relay.events("relayed")) == len(sent))
            wait_until("their durable records", lambda: run_spool("dump", relay.data)[1].count(" retry 0") == len(sent))
            self.expect_all(relay, sent, in_use=True)
            relay.kill()
            before = self.spool_image(relay)
            self.expect_all(relay, sent, in_use=False)
            self.assertEqual(self.spool_image(relay), before)
            relay.start()
            self.expect_all(relay, sent, in_use=True)
            relay.stop()
            self.expect_all(relay, sent, in_use=False)
            self.assertEqual(len(sink.messages), len(sent))

    def test_of_a_busy_spool_it_says_nothing_false(self):
        """Segments are begun, sealed and used again all the time, and nothing of that is damage."""
        with Sink(deferring) as sink:
            relay = self.to_sink(sink, shards=1, retry={"schedule": ["1h"]}, spool={"segment": "4MiB"})
            waiting = self.send(relay, self.CONTENTS[1], ["slow@example.test"])
            wait_until("the first attempt", lambda: relay.events("deferred"))
            source = subprocess.Popen([os.path.join(os.path.dirname(POSTERN), "postern-bench"), "source",
                                       f"127.0.0.1:{relay.port}", "--duration", "60s", "--sessions", "4", "--size", "100KiB",
                                       "--domain", "example.test"],
                                      stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.addCleanup(source.wait)
            self.addCleanup(source.kill)
            looks = 0
            while looks < 6 or relay.metrics()["postern_spool_bytes_total"] < 40 << 20:
                code, out, err = run_spool("check", relay.data)
                self.assertEqual(code, 0, out + err)
                self.assertIn("in use", out)
                code, out, err = run_spool("dump", relay.data)
                self.assertEqual(code, 0, out[-3000:] + err)
                code, out, err = run_spool("show", waiting, "--data-dir", relay.data)
                self.assertEqual(code, 0, out + err)
                looks += 1
                self.assertIsNone(source.poll(), "the load ended early")
            to = os.path.join(relay.folder, "out")
            code, out, err = run_spool("export", "--all", to, "--data-dir", relay.data)
            self.assertEqual(code, 0, out + err)
            with open(os.path.join(to, waiting + ".eml"), "rb") as file:
                self.assertEqual(file.read(), self.CONTENTS[1])
            source.kill()
            relay.stop()

    def test_a_damaged_message_is_named_and_the_others_are_rescued(self):
        marker = b"the words that the disk will lose"
        with Sink(deferring) as sink:
            relay = self.to_sink(sink, shards=1, retry={"schedule": ["1h"]})
            hit = self.send(relay, b"Subject: x\r\n\r\n" + marker + b"\r\n", ["slow@example.test"])
            kept = self.send(relay, self.CONTENTS[1], ["slow@example.test"])
            wait_until("first attempts", lambda: len(relay.events("deferred")) == 2)
            relay.stop()
            segment = os.path.join(relay.data, "logs", "000", "00000000.seg")
            with open(segment, "r+b") as file:
                at = file.read().index(marker)
                file.seek(at)
                file.write(b"THE")
            code, out, err = run_spool("check", relay.data)
            self.assertEqual(code, 1, out + err)
            self.assertRegex(out, r"DAMAGE +logs/000/00000000.seg at offset \d+")
            self.assertIn("at a start posternd would say", out)
            to = os.path.join(relay.folder, "out")
            code, _, err = run_spool("export", "--all", to, "--data-dir", relay.data)
            self.assertEqual(code, 1, "all of it cannot be had")
            self.assertIn("logs/000/00000000.seg", err)
            self.assertEqual(sorted(os.listdir(to)), [kept + ".eml", kept + ".json"])
            self.assertEqual(run_spool("show", hit, "--data-dir", relay.data)[0], 2)
            self.assertEqual(run_spool("show", kept, "--data-dir", relay.data)[0], 0)

    def test_it_does_not_keep_a_posternd_from_starting(self):
        relay = self.postern(routes=[("*", "discard")], shards=1).start()
        relay.stop()
        codes = []
        for _ in range(5):
            checks = [subprocess.Popen([spool_program(), "check", relay.data], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL) for _ in range(4)]
            relay.start()
            relay.stop()
            codes += [check.wait(timeout=60) for check in checks]
        self.assertEqual(codes, [0] * 20)


if __name__ == "__main__":
    unittest.main()
