"""Mail goes in by several clients' programs and comes out unchanged: into a Maildir, and to a next hop."""
import os
import smtplib
import subprocess
import unittest

import contents
from harness import QUEUE_ID, Client, RelayTest, original_of_maildir, original_of_wire, program, split_added, wait_until
from sink import Sink


def lf(content):
    return content.replace(b"\r\n", b"\n")


class IntoMaildir(RelayTest):
    def test_odd_contents_are_kept_byte_for_byte(self):
        relay = self.into_maildir()
        with Client(relay.port) as client:
            client.hello()
            for name, content in contents.ODD.items():
                with self.subTest(name):
                    client.envelope(recipients=[f"{name}@example.test"], parameters=" BODY=8BITMIME")
                    code, text = client.data(content)
                    self.assertEqual(code, 250, text)
                    self.assertRegex(text, r"^2\.0\.0 Ok: queued as " + QUEUE_ID.pattern + "$")
        for name, content in contents.ODD.items():
            with self.subTest(name):
                (stored,) = relay.wait_for_mails(1, local=name).values()
                self.assertEqual(original_of_maildir(stored), lf(content))

    def test_the_added_fields_say_who_and_when(self):
        relay = self.into_maildir()
        with Client(relay.port) as client:
            client.hello("client.test")
            client.envelope("sender@client.test")
            queue_id = client.data()[1].rsplit(" ", 1)[1]
        (stored,) = relay.wait_for_mails(1).values()
        added = split_added(stored, b"\n")[0].decode()
        self.assertTrue(added.startswith("Return-Path: <sender@client.test>\n"), added)
        self.assertNotIn("\r", added)
        received = " ".join(added.split("\n", 1)[1].split())
        self.assertRegex(received, r"^Received: from client\.test \(\[127\.0\.0\.1\]\) by mx\.relay\.test with ESMTP id " + queue_id)
        self.assertIn("for <user@example.test>;", received)

    def test_a_null_reverse_path_is_shown_as_such(self):
        relay = self.into_maildir()
        with Client(relay.port) as client:
            client.hello()
            client.envelope("")
            client.data()
        (stored,) = relay.wait_for_mails(1).values()
        self.assertTrue(stored.startswith(b"Return-Path: <>\n"))

    def test_several_recipients_get_one_file_each(self):
        relay = self.into_maildir()
        locals_ = [f"user{n}" for n in range(25)]
        with Client(relay.port) as client:
            client.hello()
            client.envelope(recipients=[f"{local}@example.test" for local in locals_])
            self.assertEqual(client.data()[0], 250)
        for local in locals_:
            (stored,) = relay.wait_for_mails(1, local=local).values()
            self.assertNotIn(b" for <", stored, "with several recipients, none is named")

    def test_a_maildir_that_a_crash_left_half_made_is_completed(self):
        for parts in ((), ("tmp",), ("tmp", "cur")):
            with self.subTest(parts):
                local = "-".join(("half", *parts))
                relay = self.into_maildir()
                for part in parts:
                    os.makedirs(os.path.join(relay.mail, local, part))
                with Client(relay.port) as client:
                    client.hello()
                    client.envelope(recipients=[f"{local}@example.test"])
                    self.assertEqual(client.data()[0], 250)
                relay.wait_for_mails(1, local=local)
                self.assertEqual(sorted(os.listdir(os.path.join(relay.mail, local))), ["cur", "new", "tmp"])
                self.assertEqual(os.listdir(os.path.join(relay.mail, local, "tmp")), [])
                self.assertEqual(relay.events("deferred"), [])

    def test_bdat_without_a_final_newline(self):
        relay = self.into_maildir()
        content = contents.header("no newline") + b"the last line"
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            client.send(b"BDAT 10\r\n" + content[:10] + b"BDAT %d LAST\r\n" % (len(content) - 10) + content[10:])
            self.assertEqual(client.reply()[0], 250)
            self.assertEqual(client.reply()[0], 250)
        (stored,) = relay.wait_for_mails(1).values()
        self.assertEqual(original_of_maildir(stored).rstrip(b"\n"), lf(content))

    def test_bdat_leaves_leading_dots_alone(self):
        relay = self.into_maildir()
        content = contents.ODD["leading_dots"]
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            client.send(b"BDAT %d\r\n" % len(content) + content)
            self.assertEqual(client.reply()[0], 250)
            self.assertEqual(client.ask("BDAT 0 LAST")[0], 250)
        (stored,) = relay.wait_for_mails(1).values()
        self.assertEqual(original_of_maildir(stored), lf(content))

    def test_five_megabytes(self):
        relay = self.into_maildir()
        content = contents.large(5_000_000)
        with smtplib.SMTP("127.0.0.1", relay.port, "client.test") as client:
            client.sendmail("sender@client.test", ["user@example.test"], content)
        (stored,) = relay.wait_for_mails(1).values()
        self.assertEqual(original_of_maildir(stored), lf(content))

    def test_the_vectors(self):
        vectors = contents.vectors()
        if not vectors:
            self.skipTest("POSTERN_TEST_DATA names no mime-* vectors")
        relay = self.into_maildir()
        with Client(relay.port) as client:
            client.hello()
            for number, (name, content) in enumerate(vectors.items()):
                client.envelope(recipients=[f"v{number}@example.test"], parameters=" BODY=8BITMIME")
                code, text = client.data(content)
                self.assertEqual(code, 250, f"{name}: {text}")
        for number, (name, content) in enumerate(vectors.items()):
            (stored,) = relay.wait_for_mails(1, local=f"v{number}").values()
            # Not by original_of_maildir(): some begin with a space, as if they went on with our Received.
            self.assertTrue(stored.endswith(lf(content)), f"{name}: {stored[:300]!r}")

    def test_names_that_could_leave_the_folder_are_refused(self):
        relay = self.into_maildir()
        with Client(relay.port) as client:
            client.hello()
            client.ask("MAIL FROM:<sender@client.test>")
            for local in ('"../x"', '"a/b"', '".hidden"', '".."', "x" * 64 + "/y", '"/etc/passwd"'):
                code, text = client.ask(f"RCPT TO:<{local}@example.test>")
                self.assertEqual((code, text[:5]), (550, "5.1.1"), local)
        self.assertEqual(os.listdir(relay.mail), [])

    def test_events_and_metrics_tell_the_story(self):
        relay = self.into_maildir()
        before = relay.metrics()
        self.assertEqual(before["postern_messages_received_total"], 0)
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            queue_id = client.data()[1].rsplit(" ", 1)[1]
        relay.wait_for_mails(1)
        wait_until("the relayed event", lambda: relay.events("relayed"))
        (received,) = relay.events("received")
        (relayed,) = relay.events("relayed")
        self.assertEqual(received["id"], queue_id)
        self.assertEqual(received["from"], "sender@client.test")
        self.assertEqual(relayed["id"], queue_id)
        self.assertEqual(relayed["to"], "user@example.test")
        wait_until("the queue to be empty", lambda: relay.queued() == 0)
        after = relay.metrics()
        self.assertEqual(after["postern_messages_received_total"], 1)
        self.assertEqual(after['postern_recipients_total{outcome="relayed"}'], 1)
        self.assertGreaterEqual(after["postern_spool_batches_total"], 1)
        self.assertEqual(after["postern_accept_seconds_count"], 1)


class Programs(RelayTest):
    def run_program(self, *command, **options):
        done = subprocess.run(command, capture_output=True, timeout=60, check=False, **options)
        self.assertEqual(done.returncode, 0, done.stdout.decode() + done.stderr.decode())
        return done

    def test_swaks(self):
        swaks = program("swaks")
        relay = self.into_maildir()
        self.run_program(swaks, "--server", f"127.0.0.1:{relay.port}", "--from", "sender@client.test", "--to", "user@example.test",
                         "--helo", "client.test", "--header", "Subject: by swaks", "--body", "one\n.two\n")
        (stored,) = relay.wait_for_mails(1).values()
        self.assertIn(b"Subject: by swaks\n", stored)
        self.assertIn(b"\n.two\n", stored)

    def test_swaks_pipelined(self):
        swaks = program("swaks")
        relay = self.into_maildir()
        self.run_program(swaks, "--server", f"127.0.0.1:{relay.port}", "--from", "sender@client.test",
                         "--to", "a@example.test,b@example.test", "--helo", "client.test", "--pipeline")
        relay.wait_for_mails(1, local="a")
        relay.wait_for_mails(1, local="b")

    def test_curl(self):
        curl = program("curl")
        relay = self.into_maildir()
        content = contents.ODD["leading_dots"]
        path = os.path.join(relay.folder, "upload")
        with open(path, "wb") as file:
            file.write(content)
        self.run_program(curl, "-sS", f"smtp://127.0.0.1:{relay.port}/client.test", "--mail-from", "sender@client.test",
                         "--mail-rcpt", "user@example.test", "--upload-file", path)
        (stored,) = relay.wait_for_mails(1).values()
        self.assertEqual(original_of_maildir(stored), lf(content))

    def test_smtplib(self):
        relay = self.into_maildir()
        content = contents.ODD["eight_bit"]
        with smtplib.SMTP("127.0.0.1", relay.port, "client.test") as client:
            client.sendmail("sender@client.test", ["user@example.test"], content, mail_options=["BODY=8BITMIME"])
            client.sendmail("sender@client.test", ["user@example.test"], content, mail_options=["BODY=8BITMIME"])
        for stored in relay.wait_for_mails(2).values():
            self.assertEqual(original_of_maildir(stored), lf(content))


class ToANextHop(RelayTest):
    def deliver_all(self, extensions):
        with Sink(extensions=extensions) as sink:
            relay = self.to_sink(sink)
            with Client(relay.port) as client:
                client.hello()
                for name, content in contents.ODD.items():
                    client.envelope(recipients=[f"{name}@example.test"], parameters=" BODY=8BITMIME")
                    self.assertEqual(client.data(content)[0], 250, name)
            sink.wait_for(len(contents.ODD))
            by_name = {message.recipients[0].split("@")[0]: message for message in sink.messages}
            for name, content in contents.ODD.items():
                with self.subTest(name):
                    self.assertEqual(original_of_wire(by_name[name].content), content)
            relay.stop()
            return sink

    def test_by_bdat_nothing_changes(self):
        sink = self.deliver_all(("PIPELINING", "8BITMIME", "CHUNKING"))
        for message in sink.messages:
            # What came dot-stuffed by DATA leaves by DATA, without a pass over its bytes; all else by BDAT.
            stuffed = any(line.startswith(b".") for line in message.content.split(b"\r\n"))
            self.assertEqual(message.with_bdat, not stuffed, message.recipients)

    def test_by_data_nothing_changes(self):
        sink = self.deliver_all(("PIPELINING", "8BITMIME"))
        self.assertFalse(any(message.with_bdat for message in sink.messages))

    def test_five_megabytes_travel_whole(self):
        content = contents.large(5_000_000, seed=2)
        for extensions in (("8BITMIME", "CHUNKING"), ("8BITMIME",)):
            with self.subTest(extensions), Sink(extensions=extensions) as sink:
                relay = self.to_sink(sink)
                with smtplib.SMTP("127.0.0.1", relay.port, "client.test") as client:
                    client.sendmail("sender@client.test", ["user@example.test"], content)
                sink.wait_for(1, 60)
                self.assertEqual(original_of_wire(sink.messages[0].content), content)
                relay.stop()

    def test_recipients_of_one_site_travel_in_one_transaction(self):
        with Sink() as sink:
            relay = self.to_sink(sink)
            recipients = [f"user{n}@example.test" for n in range(30)]
            with Client(relay.port) as client:
                client.hello()
                client.envelope(recipients=recipients)
                self.assertEqual(client.data()[0], 250)
            sink.wait_for(1)
            self.assertEqual(sorted(sink.messages[0].recipients), sorted(recipients))
            relay.stop()
            self.assertEqual(len(sink.messages), 1)

    def test_connections_are_reused(self):
        with Sink() as sink:
            relay = self.to_sink(sink, smtp_client={"connections_per_path": 1})
            with Client(relay.port) as client:
                client.hello()
                for _ in range(20):
                    client.envelope()
                    self.assertEqual(client.data()[0], 250)
            sink.wait_for(20)
            self.assertEqual(len(sink.sessions), 1)

    def test_eight_bit_content_reaches_a_hop_without_8bitmime_as_it_is(self):
        # What every such server takes in practice; converting it would break signatures.
        content = contents.ODD["eight_bit"]
        with Sink(extensions=("PIPELINING",)) as sink:
            relay = self.to_sink(sink)
            with Client(relay.port) as client:
                client.hello()
                client.envelope(parameters=" BODY=8BITMIME")
                self.assertEqual(client.data(content)[0], 250)
            sink.wait_for(1)
            self.assertEqual(original_of_wire(sink.messages[0].content), content)
            self.assertNotIn("BODY=", sink.messages[0].parameters)

    def test_smtputf8_is_passed_on_only_to_hops_that_offer_it(self):
        for extensions, arrives in ((("8BITMIME", "SMTPUTF8"), True), (("8BITMIME",), False)):
            with self.subTest(extensions), Sink(extensions=extensions) as sink:
                relay = self.to_sink(sink)
                with Client(relay.port) as client:
                    client.hello()
                    client.envelope("", ["grün@example.test"], parameters=" SMTPUTF8")
                    self.assertEqual(client.data()[0], 250)
                if arrives:
                    sink.wait_for(1)
                    self.assertIn("SMTPUTF8", sink.messages[0].parameters)
                else:
                    (failed,) = wait_until("the failed event", lambda relay=relay: relay.events("failed"))
                    self.assertIn("5.6.7", failed["reply"])
                    self.assertEqual(sink.messages, [])
                relay.stop()

    def test_over_ipv6(self):
        try:
            sink = Sink(host="::1")
        except OSError:
            self.skipTest("no IPv6 loopback")
        with sink:
            relay = self.postern(routes=[("*", f"smtp:[::1]:{sink.port}")])
            relay.listener["address"] = f"[::1]:{relay.port}"
            relay.start()
            with Client(relay.port, host="::1") as client:
                client.hello()
                client.envelope()
                self.assertEqual(client.data()[0], 250)
            sink.wait_for(1)
            self.assertIn(b"[IPv6:::1]", sink.messages[0].content)


if __name__ == "__main__":
    unittest.main()
