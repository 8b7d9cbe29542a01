"""What an operator meets: exit codes, configuration, signals, logs, metrics."""
import json
import os
import re
import signal
import socket
import subprocess
import time
import unittest

import harness
from harness import SLOWNESS, Client, RelayTest, free_port, wait_until
from sink import Delay, Sink


class CommandLine(RelayTest):
    def run_daemon(self, *arguments):
        if not harness.POSTERN:
            self.skipTest("POSTERN_BIN does not name a posternd")
        return subprocess.run([harness.POSTERN, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                              check=False, text=True)

    def test_version(self):
        done = self.run_daemon("--version")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"^posternd \d+\.\d+\.\d+")

    def test_help(self):
        done = self.run_daemon("--help")
        self.assertEqual(done.returncode, 0)
        for option in ("--config", "--check", "--print-config", "--version"):
            self.assertIn(option, done.stdout)

    def test_unknown_option(self):
        self.assertEqual(self.run_daemon("--frobnicate").returncode, 64)

    def test_check_of_a_good_configuration_touches_nothing(self):
        relay = self.postern()
        relay.write_config()
        done = self.run_daemon("--check", "--config", relay.config_path)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertFalse(os.path.exists(relay.data))

    def test_check_of_a_bad_configuration_says_all_and_exits_78(self):
        relay = self.postern()
        relay.root["shards"] = 9999
        relay.tables["limits"]["recipiants"] = 5
        relay.write_config()
        for arguments in (["--check"], []):
            done = self.run_daemon(*arguments, "--config", relay.config_path)
            self.assertEqual(done.returncode, 78)
            lines = done.stderr.splitlines()
            self.assertEqual(len(lines), 2, done.stderr)
            for line, key in zip(lines, ("shards", "limits.recipiants")):
                self.assertRegex(line, rf"^{re.escape(relay.config_path)}:\d+: {key}: .+; .+")
            self.assertIn("did you mean recipients?", lines[1])

    def test_a_missing_configuration_exits_78(self):
        done = self.run_daemon("--config", "/nonexistent/postern.toml")
        self.assertEqual(done.returncode, 78)
        self.assertIn("/nonexistent/postern.toml", done.stderr)

    def test_print_config_is_toml_when_uncommented(self):
        done = self.run_daemon("--print-config")
        self.assertEqual(done.returncode, 0)
        bare = "\n".join(line[1:] if line.startswith("#") and not line.startswith("# ") else line
                         for line in done.stdout.splitlines())
        relay = self.postern()
        with open(relay.config_path, "w", encoding="utf-8") as file:
            file.write(bare)
        checked = self.run_daemon("--check", "--config", relay.config_path)
        self.assertEqual(checked.returncode, 0, checked.stderr)


class Start(RelayTest):
    def fails(self, relay, status, text):
        relay.start(wait=False)
        self.assertEqual(relay.process.wait(30 * SLOWNESS), status, relay.log())
        relay.process = None
        self.assertIn(text, relay.log())

    def test_a_port_that_is_taken_exits_71(self):
        relay = self.postern()
        with socket.socket() as other:
            other.bind(("127.0.0.1", relay.port))
            other.listen()
            self.fails(relay, 71, "another process listens there")

    def test_another_posternd_on_the_port_exits_71(self):
        first = self.into_maildir()
        second = self.postern()
        second.listener["address"] = f"127.0.0.1:{first.port}"
        self.fails(second, 71, "another process listens there")

    def test_a_folder_in_use_exits_71(self):
        first = self.into_maildir()
        second = self.postern(root={"data_dir": first.data})
        self.fails(second, 71, "another posternd uses it")

    def test_an_admin_port_that_is_taken_exits_71(self):
        relay = self.postern()
        with socket.socket() as other:
            other.bind(("127.0.0.1", relay.admin_port))
            other.listen()
            self.fails(relay, 71, "admin.listen")

    def test_data_dir_is_made_for_us_alone(self):
        relay = self.into_maildir()
        self.assertEqual(os.stat(relay.data).st_mode & 0o777, 0o700)

    def test_a_user_that_does_not_exist_exits_78(self):
        relay = self.postern(root={"user": "nobody-of-this-name"})
        self.fails(relay, 78, "nobody-of-this-name")

    def test_becomes_the_user(self):
        if os.geteuid() != 0:
            self.skipTest("only root can become somebody else")
        relay = self.postern(root={"user": "nobody"})
        os.chmod(relay.folder, 0o755)
        relay.routes.append(("*", "discard"))
        relay.start()
        with open(f"/proc/{relay.process.pid}/status", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
        self.assertNotIn("0", facts["Uid"].split())
        self.assertEqual(int(facts["CapPrm"], 16), 0)
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            self.assertEqual(client.data()[0], 250)
        relay.stop()

    def test_listens_on_a_unix_socket(self):
        relay = self.postern(shards=2)
        path = os.path.join(relay.folder, "smtp.sock")
        relay.listener["address"] = f"unix:{path}"
        relay.routes.append(relay.maildir_route())
        relay.start()
        for _ in range(4):
            with Client(0, path=path) as client:
                client.hello()
                client.envelope()
                self.assertEqual(client.data()[0], 250)
        relay.wait_for_mails(4)
        relay.kill()
        relay.start()  # the stale socket file is replaced
        with Client(0, path=path) as client:
            self.assertEqual(client.greeting[0], 220)

    def test_takes_a_socket_from_systemd(self):
        relay = self.postern(shards=2)
        relay.listener["address"] = "systemd:smtp"
        relay.routes.append(relay.maildir_route())
        relay.write_config()
        os.makedirs(relay.mail, exist_ok=True)
        listener = socket.socket()
        listener.bind(("127.0.0.1", relay.port))
        listener.listen(64)

        def pass_on():
            os.dup2(listener.fileno(), 3)
            os.set_inheritable(3, True)
            os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="smtp")
            os.execv(harness.POSTERN, [harness.POSTERN, "--config", relay.config_path])

        pid = os.fork()
        if pid == 0:
            with open(relay.stderr_path, "ab") as stderr:
                os.dup2(stderr.fileno(), 2)
            try:
                pass_on()
            finally:
                os._exit(99)
        listener.close()
        try:
            for _ in range(4):
                with Client(relay.port) as client:
                    client.hello()
                    client.envelope()
                    self.assertEqual(client.data()[0], 250)
            relay.wait_for_mails(4)
        finally:
            os.kill(pid, signal.SIGTERM)
            self.assertEqual(os.waitpid(pid, 0)[1], 0, relay.log())


class Signals(RelayTest):
    def test_sigterm_finishes_what_is_in_flight(self):
        with Sink(lambda step, session, argument: Delay(1) if step == "content" else None) as sink:
            relay = self.to_sink(sink)
            client = Client(relay.port)
            self.addCleanup(client.close)
            client.hello()
            client.envelope()
            client.ask("DATA")
            client.send(b"Subject: x\r\n\r\n")
            relay.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            client.send(b"still welcome\r\n.\r\n")
            self.assertEqual(client.reply()[0], 250)
            relay.stop()
            relay.start()
            sink.wait_for(1, 30)

    def test_sigterm_ends_within_the_grace(self):
        relay = self.into_maildir(root={"shutdown_grace": "1s"})
        client = Client(relay.port)
        self.addCleanup(client.close)
        client.hello()
        client.envelope()
        client.ask("DATA")
        started = time.monotonic()
        relay.stop()
        self.assertLess(time.monotonic() - started, 8 * SLOWNESS)

    def test_a_second_signal_hurries(self):
        relay = self.into_maildir(root={"shutdown_grace": "1h"})
        client = Client(relay.port)
        self.addCleanup(client.close)
        client.hello()
        client.envelope()
        client.ask("DATA")
        relay.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        self.assertIsNone(relay.process.poll())
        started = time.monotonic()
        relay.stop()
        self.assertLess(time.monotonic() - started, 8 * SLOWNESS)

    def test_an_idle_daemon_stops_at_once(self):
        relay = self.into_maildir(root={"shutdown_grace": "1m"})
        started = time.monotonic()
        relay.stop()
        self.assertLess(time.monotonic() - started, 5 * SLOWNESS)

    def test_sighup_applies_what_can_change(self):
        relay = self.into_maildir(listener={"relay_from": []})
        with Client(relay.port) as client:
            client.hello()
            client.ask("MAIL FROM:<a@client.test>")
            self.assertEqual(client.ask("RCPT TO:<user@new.test>")[0], 550)
        relay.accept.append("new.test")
        relay.routes.append(relay.maildir_route("new.test"))
        relay.reload()

        def taken():
            with Client(relay.port) as client:
                client.hello()
                client.ask("MAIL FROM:<a@client.test>")
                return client.ask("RCPT TO:<user@new.test>")[0] == 250
        wait_until("the new domain", taken)

    def test_sighup_with_a_bad_configuration_changes_nothing(self):
        relay = self.into_maildir()
        relay.root["shards"] = 9999
        relay.reload()
        wait_until("the complaint", lambda: "shards: 9999" in relay.log())
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            self.assertEqual(client.data()[0], 250)

    def test_sighup_reopens_the_event_log(self):
        relay = self.into_maildir()
        path = os.path.join(relay.data, "events.jsonl")
        os.rename(path, path + ".1")
        relay.reload()
        wait_until("a new event log", lambda: os.path.exists(path))
        with Client(relay.port) as client:
            client.hello()
        wait_until("an event in it", lambda: relay.events("connected"))


class Watching(RelayTest):
    def test_metrics_are_prometheus_text_with_every_series_from_the_start(self):
        relay = self.into_maildir()
        numbers = relay.metrics()
        for series in ("postern_messages_received_total", 'postern_recipients_total{outcome="relayed"}',
                       'postern_recipients_total{outcome="deferred"}', 'postern_recipients_total{outcome="failed"}',
                       'postern_queue_recipients{state="scheduled"}', 'postern_queue_recipients{state="ready"}',
                       'postern_queue_recipients{state="in_flight"}', 'postern_connections{direction="in"}',
                       'postern_connections{direction="out"}', "postern_dns_queries_total", "postern_dns_cache_hits_total",
                       "postern_accept_seconds_count", "postern_delivery_seconds_count"):
            self.assertEqual(numbers[series], 0, series)
        for series in ("postern_spool_batches_total", "postern_spool_bytes_total", "postern_spool_write_seconds_count"):
            self.assertIn(series, numbers)
        self.assertTrue(all(name.startswith("postern_") for name in numbers))

    def test_health_and_unknown_paths(self):
        relay = self.into_maildir()
        self.assertEqual(relay.http("/healthz"), (200, "ok\n"))
        self.assertEqual(relay.http("/")[0], 404)

    def test_admin_on_a_unix_socket(self):
        relay = self.postern()
        path = os.path.join(relay.folder, "admin.sock")
        relay.tables["admin"]["listen"] = f"unix:{path}"
        relay.routes.append(relay.maildir_route())
        relay.start(wait=False)

        def healthy():
            try:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(5)
                    client.connect(path)
                    client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                    return b" 200 " in client.recv(1000)
            except OSError:
                return False
        wait_until("health over the unix socket", healthy)
        relay.stop()
        self.assertFalse(os.path.exists(path))

    def test_events_of_a_refused_recipient_and_of_the_connection(self):
        relay = self.into_maildir(listener={"relay_from": []})
        with Client(relay.port) as client:
            client.hello()
            client.ask("MAIL FROM:<a@client.test>")
            client.ask("RCPT TO:<user@elsewhere.test>")
            client.ask("QUIT")
        (rejected,) = wait_until("the rejected event", lambda: relay.events("rejected"))
        self.assertIn("550 5.7.1", rejected["reply"])
        self.assertTrue(rejected["peer"].startswith("127.0.0.1:"))
        wait_until("the disconnected event", lambda: relay.events("disconnected"))
        self.assertEqual(len(relay.events("connected")), 1)
        for event in relay.events():
            self.assertRegex(event["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")

    def test_hostile_bytes_do_not_break_the_event_log(self):
        relay = self.into_maildir()
        with Client(relay.port) as client:
            client.hello()
            client.ask(b'MAIL FROM:<"\x01\\"x"@client.test>\r\n')
            client.ask(b"RCPT TO:<\xff\xfe@example.test>\r\n")
            client.ask(b'"\x00{}\x1b\r\n')
        time.sleep(0.3)
        with open(os.path.join(relay.data, "events.jsonl"), "rb") as file:
            for line in file.read().splitlines():
                json.loads(line.decode("utf-8"))


if __name__ == "__main__":
    unittest.main()
