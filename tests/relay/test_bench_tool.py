"""postern-bench around posternd: what it counts is what happened, and its exit code says so."""
import json
import os
import re
import signal
import subprocess
import time
import unittest

from harness import POSTERN, RelayTest, free_port, wait_until


def bench_program():
    """Built beside posternd."""
    path = os.path.join(os.path.dirname(POSTERN), "postern-bench")
    if not os.access(path, os.X_OK):
        raise unittest.SkipTest("postern-bench is not built beside posternd")
    return path


def run_bench(*arguments, seconds=180):
    """(exit code, report)"""
    done = subprocess.run([bench_program(), *arguments, "--json"], capture_output=True, timeout=seconds, check=False,
                          stdin=subprocess.DEVNULL)
    try:
        return done.returncode, json.loads(done.stdout)
    except ValueError as wrong:
        raise AssertionError(f"exit {done.returncode}: {done.stderr.decode()}") from wrong


class BenchTool(RelayTest):
    def started_sink(self, *arguments):
        """(process, port)"""
        sink = subprocess.Popen([bench_program(), "sink", "127.0.0.1:0", *arguments, "--json"], text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(sink.wait)
        self.addCleanup(sink.kill)
        self.addCleanup(sink.stdout.close)
        self.addCleanup(sink.stderr.close)
        return sink, int(re.search(r"listening on 127\.0\.0\.1:(\d+)", sink.stderr.readline())[1])

    def test_source_and_sink_as_programs_of_their_own(self):
        sink, port = self.started_sink("--expect", "2000")
        relay = self.postern(routes=[("*", f"smtp:[127.0.0.1]:{port}")], accept=["hop.test"]).start()
        code, sent = run_bench("source", f"127.0.0.1:{relay.port}", "--count", "2000", "--recipients", "2")
        self.assertEqual(code, 0, sent)
        self.assertEqual(sent["accepted"], 2000)
        self.assertEqual(sent["replies"], {"250": 4000})
        self.assertEqual(sent["latency_ms"]["count"], 2000)
        came = json.loads(sink.communicate(timeout=120)[0])
        self.assertEqual(sink.returncode, 0, came)
        self.assertEqual((came["arrived"], came["lost"], came["twice"], came["changed"]), (4000, 0, 0, 0))
        relay.stop()

    def test_a_sink_tells_what_it_misses(self):
        sink, port = self.started_sink("--expect", "10")
        code, _ = run_bench("source", f"127.0.0.1:{port}", "--count", "7")
        self.assertEqual(code, 0)
        sink.send_signal(signal.SIGTERM)
        came = json.loads(sink.communicate(timeout=30)[0])
        self.assertEqual((came["arrived"], came["lost"]), (7, 3))
        self.assertEqual(sink.returncode, 1)

    def test_a_connection_that_is_not_greeted_holds_nothing_up(self):
        sink, port = self.started_sink("--delay", "connect=100s@50%")
        started = time.monotonic()
        code, sent = run_bench("source", f"127.0.0.1:{port}", "--count", "200", "--sessions", "16")
        self.assertLess(time.monotonic() - started, 50)
        self.assertEqual((code, sent["accepted"]), (0, 200), sent)
        self.assertGreater(sent["connections_failed"], 0)
        sink.send_signal(signal.SIGTERM)
        self.assertEqual(json.loads(sink.communicate(timeout=30)[0])["arrived"], 200)

    def test_around_a_running_relay(self):
        hop = free_port()
        relay = self.postern(routes=[("*", f"smtp:[127.0.0.1]:{hop}")], accept=["hop.test"]).start()
        code, said = run_bench("relay", f"127.0.0.1:{relay.port}", "--sink", f"127.0.0.1:{hop}", "--pid",
                               str(relay.process.pid), "--count", "1000", "--warm-up", "50", "--size", "mix",
                               "--spool", relay.folder)
        self.assertEqual(code, 0, said)
        self.assertEqual(said["source"]["accepted"], 1000)
        self.assertEqual((said["sink"]["arrived"], said["sink"]["undelivered"], said["sink"]["twice"]), (1000, 0, 0))
        self.assertEqual(said["transit_ms"]["count"], 1000)
        self.assertGreater(said["relay"]["cpu_us_per_message"], 0)
        self.assertGreater(said["relay"]["peak_resident_bytes"], 1 << 20)
        wait_until("the queue to be empty", lambda: relay.queued() == 0)
        self.assertEqual(relay.metrics()["postern_messages_received_total"], 1050)
        relay.stop()

    def test_around_a_command_with_a_next_hop_that_refuses_and_hangs_up(self):
        hop = free_port()
        relay = self.postern(routes=[("*", f"smtp:[127.0.0.1]:{hop}")], accept=["hop.test"])
        relay.write_config()
        os.makedirs(relay.mail, exist_ok=True)
        code, said = run_bench("relay", f"127.0.0.1:{relay.port}", "--sink", f"127.0.0.1:{hop}", "--command",
                               f"exec {POSTERN} --config {relay.config_path}", "--count", "300", "--warm-up", "0",
                               "--reply", "rcpt=450 4.2.0 Busy@5%", "--hang-up", "mail@2%", "--delay", "end=5ms@20%")
        self.assertEqual(code, 0, said)
        self.assertEqual((said["sink"]["arrived"], said["sink"]["undelivered"], said["sink"]["twice"]), (300, 0, 0))
        self.assertGreater(said["sink"]["refusals_made"] + said["sink"]["hang_ups_made"], 0)
        self.assertGreaterEqual(said["relay"]["processes"], 1)

    def test_a_command_that_ends_at_once_is_said_so(self):
        done = subprocess.run([bench_program(), "relay", f"127.0.0.1:{free_port()}", "--sink",
                               f"127.0.0.1:{free_port()}", "--command", "exit 3"], capture_output=True, timeout=60,
                              check=False, text=True)
        self.assertEqual(done.returncode, 71)
        self.assertIn("ended before", done.stderr)

    def test_a_wrong_command_line_is_exit_64(self):
        for arguments in (["source"], ["source", "nowhere"], ["source", "127.0.0.1:25", "--size", "huge"],
                          ["sink", "127.0.0.1:0", "--reply", "rcpt=250"], ["other"], []):
            done = subprocess.run([bench_program(), *arguments], capture_output=True, timeout=60, check=False)
            self.assertEqual(done.returncode, 64, arguments)
            self.assertTrue(done.stderr, arguments)


if __name__ == "__main__":
    unittest.main()
