"""LMTP in both roles: into a mail store (one of our own that misbehaves, and Dovecot), and from clients."""
import email
import os
import pwd
import re
import shutil
import signal
import smtplib
import stat
import subprocess
import tempfile
import unittest

import contents
from harness import SLOWNESS, Client, RelayTest, free_port, original_of_wire, program, wait_until
from lmtp_store import DROP, Store


class LmtpTest(RelayTest):
    def setUp(self):
        super().setUp()
        # The harness' own folders lie too deep for a socket's path of 107 bytes on some machines.
        self.folder = tempfile.mkdtemp(prefix="postern-lmtp-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.path = os.path.join(self.folder, "lmtp.sock")

    def told_of(self, relay, kind, count):
        """The recipients of these events, once there are `count`: they are written a little behind what they tell of."""
        events = wait_until(f"{count} {kind} events", lambda: (lambda e: e if len(e) >= count else None)(relay.events(kind)))
        return sorted(event["to"] for event in events)

    def send(self, relay, recipients=("user@example.test",), sender="sender@client.test", content=None):
        with Client(relay.port) as client:
            client.hello()
            for code, text in client.envelope(sender, recipients):
                self.assertEqual(code // 100, 2, text)
            code, text = client.data(contents.ODD["plain"] if content is None else content)
            self.assertEqual(code, 250, text)


class IntoAStore(LmtpTest):
    def to_store(self, store, **options):
        way = f"lmtp:unix:{store.path}" if store.path else f"lmtp:[127.0.0.1]:{store.port}"
        # refuse_networks as it is by default: it is for what MX records say, and no word about the operator's own.
        relay = self.postern(routes=[("example.test", way)],
                             smtp_client={"refuse_networks": ["127.0.0.0/8"], **options.pop("smtp_client", {})}, **options)
        relay.routes.append(relay.maildir_route("*"))
        return relay.start()

    def test_contents_arrive_unchanged_over_both_kinds_of_sockets_and_by_data_and_bdat(self):
        plain = ("PIPELINING", "8BITMIME", "SMTPUTF8")
        for path, extensions in ((self.path, plain), (None, plain), (self.path, (*plain, "CHUNKING"))):
            with self.subTest(path=path, extensions=extensions), Store(path, extensions=extensions) as store:
                relay = self.to_store(store)
                for content in contents.ODD.values():
                    self.send(relay, content=content)
                kept = store.wait_for(len(contents.ODD))
                self.assertEqual(sorted(original_of_wire(mail.content) for mail in kept),
                                 sorted(content if content.endswith(b"\r\n") or not content else content + b"\r\n"
                                        for content in contents.ODD.values()))
                self.assertEqual("BDAT" in {command[:4] for command in store.commands}, "CHUNKING" in extensions)
                self.assertNotIn("EHLO", {command[:4] for command in store.commands})
                wait_until("all relayed", lambda relay=relay: len(relay.events("relayed")) == len(contents.ODD))
                relayed = relay.events("relayed")[0]
                if path:
                    self.assertEqual(relayed["peer"], f"unix:{path}")
                    self.assertEqual(relayed["site"], f"lmtp:unix:{path}")
                else:
                    self.assertEqual(relayed["peer"], f"[127.0.0.1]:{store.port}")
                    self.assertEqual(relayed["site"], f"lmtp:[127.0.0.1]:{store.port}")
                # Final delivery is the store's: it adds Return-Path, from MAIL [RFC 5321 §4.4].
                self.assertFalse(kept[0].content.lower().startswith(b"return-path"))
                relay.stop()

    def test_every_recipient_has_its_own_outcome(self):
        later = []

        def answer(recipient, _content):
            if recipient.startswith("later") and not later:
                later.append(recipient)
                return "452 4.2.2 mailbox full"
            return "550 5.2.1 disabled" if recipient.startswith("bad") else None

        recipients = ["one@example.test", "bad@example.test", "later@example.test", "no@example.test", "two@example.test"]
        for extensions in (("PIPELINING",), ("PIPELINING", "CHUNKING")):
            later.clear()
            with Store(self.path, answer, lambda recipient: "550 5.1.1 who?" if recipient.startswith("no@") else None,
                       extensions) as store:
                relay = self.to_store(store)
                self.send(relay, recipients)
                store.wait_for(3)
                wait_until("the queue to be empty", lambda relay=relay: relay.queued() == 0)
                self.assertEqual([mail.recipient for mail in store.kept],
                                 ["one@example.test", "two@example.test", "later@example.test"])
                self.assertEqual(self.told_of(relay, "failed", 2), ["bad@example.test", "no@example.test"])
                self.assertEqual(self.told_of(relay, "deferred", 1), ["later@example.test"])
                (stored,) = relay.wait_for_mails(1, local="sender").values()
                fields = email.message_from_bytes(stored).get_payload()[1].get_payload()[1:]
                self.assertEqual(sorted(field["Status"] for field in fields), ["5.1.1", "5.2.1"])
                # The path of a socket is nobody's business; the store is a part of this host.
                self.assertEqual({field["Remote-MTA"] for field in fields}, {"dns; mx.relay.test"})
                self.assertNotIn(self.path.encode(), stored)
                relay.stop()

    def test_a_connection_lost_between_replies_repeats_only_what_is_unknown(self):
        lost = []

        def answer(recipient, _content):
            if recipient.startswith("b") and not lost:
                lost.append(recipient)
                return DROP
            return None

        with Store(self.path, answer) as store:
            relay = self.to_store(store)
            self.send(relay, [f"{name}@example.test" for name in "abc"])
            store.wait_for(3)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual([mail.recipient[0] for mail in store.kept], ["a", "b", "c"])
            self.assertEqual([recipient[0] for recipient in self.told_of(relay, "deferred", 2)], ["b", "c"])
            relay.stop()

    def test_connections_are_kept_and_limited_as_for_smtp(self):
        with Store(self.path) as store:
            relay = self.to_store(store, smtp_client={"connections_per_path": 1})
            for _ in range(20):
                self.send(relay)
            store.wait_for(20)
            self.assertEqual(store.transactions, 20)
            self.assertLess(store.sessions, 20)
            relay.stop()

    def test_a_store_that_is_not_there_yet_gets_its_mail_later(self):
        relay = self.postern(routes=[("*", f"lmtp:unix:{self.path}")]).start()
        self.send(relay)
        deferred, *_ = wait_until("a deferred event", lambda: relay.events("deferred"))
        self.assertIn("4.4.1", deferred["reply"])
        self.assertIn(f"unix:{self.path}", deferred["reply"])
        with Store(self.path) as store:
            store.wait_for(1, 30)

    def test_a_next_hop_that_speaks_no_lmtp_defers(self):
        other = self.postern().start()
        relay = self.postern(routes=[("*", f"lmtp:[127.0.0.1]:{other.port}")]).start()
        self.send(relay)
        deferred, *_ = wait_until("a deferred event", lambda: relay.events("deferred"))
        self.assertIn("500 5.5.2", deferred["reply"])
        self.assertEqual(other.metrics()["postern_messages_received_total"], 0)


class FromClients(LmtpTest):
    def listening(self, address=None, **listener):
        relay = self.postern(listener={"service": "lmtp", **({"address": address} if address else {}), **listener})
        relay.routes.append(relay.maildir_route())
        return relay

    def test_one_reply_for_each_accepted_recipient_behind_the_same_write(self):
        for address in (None, f"unix:{self.path}"):
            with self.subTest(address=address):
                # A unix socket's peers may relay anywhere: what is refused here is refused by a route.
                relay = self.listening(address)
                relay.routes.insert(0, ("no@example.test", "reject:gone"))
                relay.start()
                with Client(relay.port, path=self.path if address else None) as client:
                    self.assertIn("LMTP", client.greeting[1])
                    self.assertEqual(client.hello()[0], 500)
                    self.assertEqual(client.ask("LHLO client.test")[0], 250)
                    replies = client.envelope(recipients=["a@example.test", "no@example.test", "b@example.test", "a@example.test"])
                    self.assertEqual([code for code, _ in replies], [250, 250, 550, 250, 250])
                    said = [client.data(contents.ODD["plain"]), client.reply(), client.reply()]
                    self.assertEqual([code for code, _ in said], [250] * 3)
                    self.assertEqual(len(set(said)), 1, "one record, one id")
                    self.assertEqual(client.ask("QUIT")[0], 221)
                (received,) = wait_until("the received event", lambda relay=relay: relay.events("received"))
                self.assertEqual(received["protocol"], "LMTP")
                (stored,) = relay.wait_for_mails(1, "b").values()
                self.assertRegex(stored, rb"(?s)Received: from client\.test.*with LMTP")
                relay.stop()

    def test_a_whole_content_refused_is_refused_for_each(self):
        relay = self.listening().start()
        with Client(relay.port) as client:
            client.ask("LHLO client.test")
            client.envelope(recipients=["a@example.test", "b@example.test"])
            self.assertEqual(client.ask("DATA")[0], 354)
            client.send(b"bare\nline feed\r\n.\r\n")
            self.assertEqual([client.reply()[0], client.reply()[0]], [550, 550])
            self.assertEqual(client.ask("NOOP")[0], 250)
        relay.stop()

    def test_pipelined_transactions(self):
        relay = self.listening().start()
        with Client(relay.port) as client:
            client.ask("LHLO client.test")
            content = b"Subject: x\r\n\r\nx\r\n"
            client.send((b"MAIL FROM:<s@client.test>\r\nRCPT TO:<a@example.test>\r\nRCPT TO:<b@example.test>\r\n"
                         b"BDAT %d LAST\r\n%s" % (len(content), content)) * 30)
            for _ in range(30):
                self.assertEqual([client.reply()[0] for _ in range(5)], [250] * 5)
        wait_until("all delivered", lambda: len(relay.mails("a")) == len(relay.mails("b")) == 30)
        relay.stop()

    def test_smtplib(self):
        for address in (None, f"unix:{self.path}"):
            relay = self.listening(address).start()
            with smtplib.LMTP(*((self.path,) if address else ("127.0.0.1", relay.port))) as client:
                self.assertEqual(client.sendmail("s@client.test", ["user@example.test"], contents.ODD["plain"]), {})
            relay.wait_for_mails(1)
            relay.stop()

    def test_swaks(self):
        relay = self.listening(f"unix:{self.path}").start()
        done = subprocess.run([program("swaks"), "--protocol", "LMTP", "--socket", self.path, "--from", "s@client.test",
                               "--to", "a@example.test,b@example.test", "--helo", "client.test"],
                              capture_output=True, text=True, check=False, timeout=60 * SLOWNESS)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(len(re.findall(r"250 2\.0\.0 Ok: queued as", done.stdout)), 2, done.stdout)
        for local in "ab":
            relay.wait_for_mails(1, local)
        relay.stop()

    def test_the_socket_files_life(self):
        relay = self.listening(f"unix:{self.path}", mode="0606").start()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o606, "whatever the umask is")
        relay.kill()
        self.assertTrue(os.path.exists(self.path), "nobody was there to remove it")
        relay.start()  # a dead process's file is no obstacle
        other = self.listening(f"unix:{self.path}").start(wait=False)
        self.assertEqual(other.process.wait(30 * SLOWNESS), 71)
        self.assertIn("another process listens there", other.log())
        other.process = None
        with Client(0, path=self.path) as client:
            self.assertEqual(client.ask("LHLO client.test")[0], 250)
        relay.stop()
        self.assertFalse(os.path.exists(self.path))
        # What is no socket is nobody's to remove.
        with open(self.path, "w", encoding="ascii") as file:
            file.write("precious")
        relay.start(wait=False)
        self.assertEqual(relay.process.wait(30 * SLOWNESS), 71)
        relay.process = None
        with open(self.path, encoding="ascii") as file:
            self.assertEqual(file.read(), "precious")


DOVECOT = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = lmtp pop3
listen = 127.0.0.1
ssl = no
disable_plaintext_auth = no
mail_location = maildir:~/Maildir
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
}}
service lmtp {{
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    port = {lmtp_port}
  }}
}}
service pop3-login {{
  inet_listener pop3 {{
    port = {pop3_port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
"""


class Dovecot(LmtpTest):
    """Through Dovecot's LMTP into its mailboxes, and back out by POP3."""

    def setUp(self):
        super().setUp()
        dovecot = program("dovecot")
        if os.geteuid() != 0:
            self.skipTest("Dovecot starts as root")
        if not os.path.exists("/usr/lib/dovecot/lmtp"):
            self.skipTest("dovecot-lmtpd is not installed")
        nobody = pwd.getpwnam("nobody")
        os.chmod(self.folder, 0o755)
        self.lmtp_port, self.pop3_port = free_port(), free_port()
        with open(os.path.join(self.folder, "users"), "w", encoding="ascii") as users:
            for name in ("user", "other"):
                home = os.path.join(self.folder, name)
                os.mkdir(home)
                os.chown(home, nobody.pw_uid, nobody.pw_gid)
                users.write(f"{name}@example.test:{{PLAIN}}secret:{nobody.pw_uid}:{nobody.pw_gid}::{home}::\n")
        config = os.path.join(self.folder, "dovecot.conf")
        with open(config, "w", encoding="ascii") as file:
            file.write(DOVECOT.format(folder=self.folder, lmtp_port=self.lmtp_port, pop3_port=self.pop3_port))
        process = subprocess.Popen([dovecot, "-F", "-c", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        self.addCleanup(self.end, process)
        self.socket = os.path.join(self.folder, "lmtp")
        wait_until("Dovecot to listen", lambda: process.poll() is not None or os.path.exists(self.socket))
        if process.poll() is not None:
            raise AssertionError(process.stderr.read().decode())

    @staticmethod
    def end(process):
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stderr.close()

    def fetch(self, name, number):
        done = subprocess.run([program("curl"), "-sS", "--noproxy", "*", "-u", f"{name}@example.test:secret",
                               f"pop3://127.0.0.1:{self.pop3_port}/{number}"], capture_output=True, check=False, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def count(self, name):
        return sum(bool(line) for line in self.fetch(name, "").splitlines())

    def test_mail_comes_out_of_its_mailboxes_as_it_came_in(self):
        sent = [content for content in contents.ODD.values() if content]
        for way in (f"lmtp:unix:{self.socket}", f"lmtp:127.0.0.1:{self.lmtp_port}"):
            with self.subTest(way=way):
                before = {name: self.count(name) for name in ("user", "other")}
                relay = self.postern(routes=[("example.test", way)])
                relay.routes.append(relay.maildir_route("*"))
                relay.start()
                for content in sent:
                    self.send(relay, ["user@example.test", "other@example.test", "nobody@example.test"], content=content)
                wait_until("the queue to be empty", lambda relay=relay: relay.queued() == 0, 60)
                self.assertEqual(self.told_of(relay, "failed", len(sent)), ["nobody@example.test"] * len(sent))
                relayed = self.told_of(relay, "relayed", 3 * len(sent))  # with the DSNs
                for name in ("user", "other"):
                    self.assertEqual(relayed.count(f"{name}@example.test"), len(sent))
                for name in ("user", "other"):
                    self.assertEqual(self.count(name), before[name] + len(sent))
                    fetched = [self.fetch(name, before[name] + number + 1) for number in range(len(sent))]
                    for content in sent:
                        whole = content if content.endswith(b"\r\n") else content + b"\r\n"
                        found = [mail for mail in fetched if mail.endswith(whole)]
                        self.assertTrue(found, f"{content[:200]!r} is not among them")
                        added = found[0][:len(found[0]) - len(whole)]
                        self.assertIn(b"Return-Path: <sender@client.test>\r\n", added)
                        self.assertIn(b"by mx.relay.test", added)
                # With one recipient Dovecot adds this, too: nobody else need.
                self.send(relay)
                wait_until("it in the mailbox", lambda last=before["user"] + len(sent) + 1: self.count("user") == last)
                self.assertIn(b"Delivered-To: user@example.test\r\n", self.fetch("user", before["user"] + len(sent) + 1))
                relay.stop()


if __name__ == "__main__":
    unittest.main()
