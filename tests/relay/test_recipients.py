"""[recipients]: who exists, aliases, tags and catch-alls, and the file that changes under the running daemon."""
import os
import subprocess
import time

from harness import SLOWNESS, Client, RelayTest, program, wait_until


class Recipients(RelayTest):
    def known(self, **recipients):
        relay = self.postern(recipients=recipients, listener={"relay_from": []})
        relay.routes.append(relay.maildir_route("*"))
        return relay

    def file_of(self, relay):
        return os.path.join(relay.folder, "recipients")

    def write(self, relay, text):
        with open(self.file_of(relay) + ".new", "w", encoding="ascii") as file:
            file.write(text)
        os.rename(self.file_of(relay) + ".new", self.file_of(relay))

    def ask(self, relay, *recipients):
        """The replies to RCPT."""
        with Client(relay.port) as client:
            client.hello()
            return [f"{code} {text}" for code, text in client.envelope(recipients=recipients)[1:]]

    def test_those_listed_exist_and_no_others(self):
        relay = self.known(known=["user@example.test", "Sales@example.test: user@example.test, other@elsewhere.test"],
                           separator="+").start()
        good, tagged, alias, unknown, postmaster, bare, foreign = self.ask(
            relay, "USER@Example.test", "user+tag@example.test", "sales@example.test", "nobody@example.test",
            "postmaster@example.test", "postmaster", "user@elsewhere.test")
        for reply in (good, tagged, alias, postmaster, bare):
            self.assertTrue(reply.startswith("250"), reply)
        self.assertTrue(unknown.startswith("550 5.1.1"), unknown)
        self.assertTrue(foreign.startswith("550 5.7.1"), foreign)
        rejected = wait_until("both rejected events", lambda: (lambda e: e if len(e) == 2 else None)(relay.events("rejected")))
        self.assertEqual(rejected[0]["to"], "nobody@example.test")
        relay.stop()

    def test_an_aliases_mail_goes_to_its_targets_once_each(self):
        relay = self.known(known=["one@example.test", "@example.test: one@example.test",
                                  "all@example.test: one@example.test, team@example.test",
                                  "team@example.test: two@elsewhere.test, one@example.test"]).start()
        with Client(relay.port) as client:
            client.hello()
            replies = client.envelope(recipients=["all@example.test", "team@example.test", "whoever@example.test"])
            self.assertEqual([code for code, _ in replies], [250] * 4)
            self.assertEqual(client.data()[0], 250)
        wait_until("the queue to be empty", lambda: relay.queued() == 0)
        self.assertEqual(len(relay.mails("one")), 1)
        self.assertEqual(len(relay.mails("two")), 1)
        wait_until("both relayed events", lambda: len(relay.events("relayed")) >= 2)
        self.assertEqual(sorted(event["to"] for event in relay.events("relayed")), ["one@example.test", "two@elsewhere.test"])
        relay.stop()

    def test_a_failure_tells_which_address_was_written_to(self):
        relay = self.known(known=["all@example.test: gone@nowhere.test"])
        relay.routes = [("nowhere.test", "smtp:[127.0.0.1]:1"), *relay.routes]
        relay.tables["retry"] = {"schedule": ["300ms"], "give_up_after": "1s"}
        relay.start()
        with Client(relay.port) as client:
            client.hello()
            client.envelope(recipients=["all@example.test"])
            self.assertEqual(client.data()[0], 250)
        (stored,) = relay.wait_for_mails(1, "sender", 30).values()
        self.assertIn(b"\nOriginal-Recipient: rfc822; all@example.test\n", stored)
        self.assertIn(b"\nFinal-Recipient: rfc822; gone@nowhere.test\n", stored)
        relay.stop()

    def test_lmtp_has_one_reply_for_each_rcpt_whatever_it_became(self):
        relay = self.known(known=["all@example.test: a@example.test, b@example.test, c@example.test", "a@example.test"])
        relay.listener["service"] = "lmtp"
        relay.start()
        with Client(relay.port) as client:
            client.ask("LHLO client.test")
            client.envelope(recipients=["all@example.test", "a@example.test"])
            self.assertEqual([client.data()[0], client.reply()[0]], [250, 250])
            self.assertEqual(client.ask("NOOP")[0], 250)
        for local in "bc":
            relay.wait_for_mails(1, local)
        relay.stop()

    def test_the_file_is_read_again_when_it_changes(self):
        relay = self.known(file="recipients", check_interval="200ms")
        self.write(relay, "one@example.test\n")
        relay.start()
        self.assertEqual([reply[:3] for reply in self.ask(relay, "one@example.test", "two@example.test")], ["250", "550"])
        self.write(relay, "# new\ntwo@example.test\n")
        wait_until("the new file to count", lambda: self.ask(relay, "two@example.test")[0].startswith("250"))
        self.assertTrue(self.ask(relay, "one@example.test")[0].startswith("550"))
        # A broken one changes nothing, and is said with its place.
        self.write(relay, "one@example.test\nnonsense\n")
        wait_until("the complaint", lambda: f"{self.file_of(relay)}:2: " in relay.log())
        self.assertEqual([reply[:3] for reply in self.ask(relay, "one@example.test", "two@example.test")], ["550", "250"])
        # SIGHUP does not wait for the interval.
        relay.tables["recipients"]["check_interval"] = "1h"
        self.write(relay, "one@example.test\n")
        relay.reload()
        wait_until("the mended file to count", lambda: self.ask(relay, "one@example.test")[0].startswith("250"))
        relay.tables["recipients"] = {}
        relay.reload()
        wait_until("everyone to exist", lambda: self.ask(relay, "anyone@example.test")[0].startswith("250"))
        relay.stop()

    def test_a_constant_database_made_by_tinycdb(self):
        relay = self.known(file="recipients.cdb", check_interval="200ms")
        path = self.file_of(relay) + ".cdb"

        def make(text):
            subprocess.run([program("cdb"), "-c", "-m", "-t", path + ".tmp", path], input=text.encode(), check=True)

        make("user@example.test\nsales@example.test user@example.test,other@elsewhere.test\n")
        relay.start()
        self.assertEqual([reply[:3] for reply in self.ask(relay, "user@example.test", "sales@example.test", "x@example.test")],
                         ["250", "250", "550"])
        make("x@example.test\n")
        wait_until("the new one to count", lambda: self.ask(relay, "x@example.test")[0].startswith("250"))
        with open(path, "r+b") as file:
            file.truncate(2000)
        wait_until("the complaint", lambda: f"{path}:1: is no whole cdb file" in relay.log())
        self.assertTrue(self.ask(relay, "x@example.test")[0].startswith("250"))
        relay.stop()

    def test_a_broken_file_is_no_start(self):
        relay = self.known(file="recipients")
        self.write(relay, "one@example.test\n\nbroken\n")
        relay.start(wait=False)
        self.assertEqual(relay.process.wait(30 * SLOWNESS), 78)
        relay.process = None
        self.assertIn(f"{self.file_of(relay)}:3: \"broken\"", relay.log())
        done = subprocess.run([relay.program, "--check", "--config", relay.config_path], capture_output=True, text=True,
                              check=False)
        self.assertEqual(done.returncode, 78)
        self.assertIn(f"{self.file_of(relay)}:3: ", done.stderr)

    def test_mail_flows_while_a_large_file_is_read(self):
        relay = self.known(file="recipients", check_interval="100ms")
        self.write(relay, "user@example.test\n")
        relay.start()
        with Client(relay.port) as client:
            client.hello()
            self.write(relay, "user@example.test\n" + "".join(f"user{n}@example.test\n" for n in range(300_000)))
            slowest, asked = 0, 0
            deadline = time.monotonic() + 60 * SLOWNESS
            while "300001 addresses" not in relay.log() and time.monotonic() < deadline:
                started = time.monotonic()
                client.ask("MAIL FROM:<s@client.test>")
                client.ask("RCPT TO:<user@example.test>")
                client.ask("RSET")
                slowest = max(slowest, time.monotonic() - started)
                asked += 1
                if asked % 30 == 0:  # the session counts RSETs that bring nothing forward
                    client.envelope()
                    self.assertEqual(client.data()[0], 250)
            self.assertIn("300001 addresses", relay.log())
            self.assertLess(slowest, 5 * SLOWNESS)
        wait_until("the last one to exist", lambda: self.ask(relay, "user299999@example.test")[0].startswith("250"))
        relay.stop()
