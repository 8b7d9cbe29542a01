"""Delivery status notifications as their senders asked for them [RFC 3461], through whole relays."""
import email
import email.policy
import smtplib
import time

from harness import Client, RelayTest, wait_until
from sink import Sink
from test_load import PostfixInstance

OFFERS = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 104857600")


def parts(stored):
    """(the notification, its fields per message, its fields per recipient, what it returns)"""
    message = email.message_from_bytes(stored, policy=email.policy.default)
    assert message.get_content_type() == "multipart/report", message
    text, status, original = message.get_payload()
    assert text.get_content_type() == "text/plain"
    blocks = status.get_payload()
    return message, blocks[0], blocks[1:], original


class DsnTest(RelayTest):
    def relay(self, sink=None, **options):
        """A relay that keeps mail for sender.test and mailbox.test in Maildirs; what else there is goes to the sink."""
        made = self.postern(accept=("sender.test", "mailbox.test", "far.test"), **options)
        made.routes += [made.maildir_route("sender.test"), made.maildir_route("mailbox.test")]
        if sink:
            made.routes.append(("far.test", f"smtp:[127.0.0.1]:{sink.port}"))
        return made.start()

    def send(self, relay, recipients, parameters="", sender="me@sender.test", content=b"Subject: x\r\n\r\nbody\r\n"):
        """`recipients`: (address, parameters)"""
        with Client(relay.port) as client:
            client.hello()
            self.assertEqual(client.ask(f"MAIL FROM:<{sender}>{parameters}")[0], 250)
            for recipient, asked in recipients:
                self.assertEqual(client.ask(f"RCPT TO:<{recipient}>{asked}")[0], 250)
            code, text = client.data(content)
            self.assertEqual(code, 250, text)

    def settled(self, relay, reports):
        """Everything is settled and so many notifications lie in the sender's Maildir, and no more come."""
        mails = relay.wait_for_mails(reports, "me") if reports else {}
        wait_until("the queue to be empty", lambda: relay.queued() == 0)
        self.assertEqual(len(relay.mails("me")), reports)
        self.assertEqual(relay.metrics()["postern_dsns_total"], reports)
        return list(mails.values())


class Success(DsnTest):
    def test_a_mailbox_has_it(self):
        relay = self.relay()
        self.send(relay, [("user@mailbox.test", " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;list+2B1@client.test"),
                          ("other@mailbox.test", "")], " RET=FULL ENVID=QQ+2B314159")
        stored, = self.settled(relay, 1)
        message, head, recipients, original = parts(stored)
        self.assertEqual(message["Return-Path"], "<>")
        self.assertEqual(message["Auto-Submitted"], "auto-replied")
        self.assertEqual(head["Original-Envelope-Id"], "QQ+314159")
        self.assertEqual(len(recipients), 1)
        self.assertEqual(recipients[0]["Action"], "delivered")
        self.assertEqual(recipients[0]["Status"], "2.0.0")
        self.assertEqual(recipients[0]["Original-Recipient"], "rfc822; list+1@client.test")
        self.assertEqual(recipients[0]["Final-Recipient"], "rfc822; user@mailbox.test")
        self.assertEqual(original.get_content_type(), "text/rfc822-headers")  # nothing failed [RFC 3461 §4.3]
        self.assertEqual(len(relay.mails("user")), 1)

    def test_the_next_hop_lacks_dsn(self):
        with Sink(extensions=OFFERS) as sink:
            relay = self.relay(sink)
            self.send(relay, [("a@far.test", " NOTIFY=SUCCESS"), ("b@far.test", " NOTIFY=FAILURE"), ("c@far.test", "")])
            stored, = self.settled(relay, 1)
            _, _, recipients, _ = parts(stored)
            self.assertEqual([(r["Final-Recipient"], r["Action"]) for r in recipients],
                             [("rfc822; a@far.test", "relayed")])
            self.assertEqual(recipients[0]["Remote-MTA"], "dns; [127.0.0.1]")
            self.assertEqual(len(sink.wait_for(1)), 1)
            self.assertNotIn("NOTIFY", "\n".join(sink.sessions[0].commands))

    def test_the_next_hop_offers_dsn_and_tells_itself(self):
        with Sink(extensions=OFFERS + ("DSN",)) as sink:
            relay = self.relay(sink)
            self.send(relay, [("a@far.test", " NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@client.test"),
                              ("b@far.test", " NOTIFY=NEVER"), ("c@far.test", "")], " RET=HDRS ENVID=QQ+2B1")
            self.settled(relay, 0)
            commands = sink.sessions[0].commands
            self.assertIn("RET=HDRS ENVID=QQ+2B1", [c for c in commands if c.startswith("MAIL")][0])
            self.assertEqual([c for c in commands if c.startswith("RCPT")],
                             ["RCPT TO:<a@far.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@client.test",
                              "RCPT TO:<b@far.test> NOTIFY=NEVER", "RCPT TO:<c@far.test>"])

    def test_a_deferred_one_is_told_of_when_it_arrives(self):
        tries = []

        def script(step, _session, _argument):
            if step == "RCPT":
                tries.append(time.monotonic())
                return "451 4.3.0 later" if len(tries) < 3 else None
            return None
        with Sink(script, extensions=OFFERS) as sink:
            relay = self.relay(sink)
            self.send(relay, [("a@far.test", " NOTIFY=SUCCESS")])
            stored, = self.settled(relay, 1)
            self.assertEqual(parts(stored)[2][0]["Action"], "relayed")
            self.assertEqual(len(sink.messages), 1)

    def test_nothing_is_told_twice_by_a_restart(self):
        with Sink(extensions=OFFERS) as sink:
            relay = self.relay(sink)
            for _ in range(20):
                self.send(relay, [("a@far.test", " NOTIFY=SUCCESS"), ("user@mailbox.test", " NOTIFY=SUCCESS")])
            wait_until("all are told of", lambda: sum(
                len(parts(stored)[2]) for stored in relay.mails("me").values()) == 40)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            before = relay.mails("me").keys()
            relay.kill()
            relay.start()
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual(relay.mails("me").keys(), before)
            self.assertEqual(len(sink.messages), 20)

    def test_a_content_that_was_streamed(self):
        with Sink(extensions=OFFERS) as sink:
            relay = self.relay(sink)
            content = b"Subject: large\r\nX-Known: yes\r\n\r\n" + (b"y" * 76 + b"\r\n") * 20_000
            self.send(relay, [("a@far.test", " NOTIFY=SUCCESS"), ("user@mailbox.test", " NOTIFY=SUCCESS")],
                      content=content)
            def told():
                found = [parts(stored) for stored in relay.mails("me").values()]
                return found if sum(len(recipients) for _, _, recipients, _ in found) == 2 else None
            found = wait_until("both are told of", told)
            self.assertEqual(sorted(r["Action"] for _, _, recipients, _ in found for r in recipients),
                             ["delivered", "relayed"])
            for _, _, _, original in found:
                self.assertIn("X-Known: yes", str(original))

    def test_a_null_sender_is_told_nothing(self):
        relay = self.relay()
        self.send(relay, [("user@mailbox.test", " NOTIFY=SUCCESS,FAILURE")], sender="")
        relay.wait_for_mails(1)
        self.settled(relay, 0)


class Failure(DsnTest):
    @staticmethod
    def refuse(step, _session, _argument):
        return "550 5.1.1 nobody" if step == "RCPT" else None

    def test_notify_decides(self):
        with Sink(self.refuse, extensions=OFFERS) as sink:
            relay = self.relay(sink)
            self.send(relay, [("never@far.test", " NOTIFY=NEVER"), ("success@far.test", " NOTIFY=SUCCESS"),
                              ("failure@far.test", " NOTIFY=FAILURE"), ("plain@far.test", "")], " ENVID=E1")
            stored, = self.settled(relay, 1)
            _, head, recipients, original = parts(stored)
            self.assertEqual(head["Original-Envelope-Id"], "E1")
            self.assertEqual([(r["Final-Recipient"], r["Action"], r["Status"]) for r in recipients],
                             [("rfc822; failure@far.test", "failed", "5.1.1"), ("rfc822; plain@far.test", "failed", "5.1.1")])
            self.assertEqual(original.get_content_type(), "message/rfc822")

    def test_never_for_all_is_silence(self):
        with Sink(self.refuse, extensions=OFFERS) as sink:
            relay = self.relay(sink)
            self.send(relay, [("a@far.test", " NOTIFY=NEVER"), ("b@far.test", " NOTIFY=NEVER")])
            wait_until("both settled", lambda: relay.metrics()['postern_recipients_total{outcome="failed"}'] == 2)
            self.settled(relay, 0)

    def test_ret_decides_what_comes_back(self):
        with Sink(self.refuse, extensions=OFFERS) as sink:
            for asked, returned in (("HDRS", "text/rfc822-headers"), ("FULL", "message/rfc822")):
                relay = self.relay(sink)
                self.send(relay, [("a@far.test", "")], f" RET={asked}")
                stored, = self.settled(relay, 1)
                self.assertEqual(parts(stored)[3].get_content_type(), returned)
                self.assertEqual(b"\nbody\n" in stored, asked == "FULL")
                relay.stop()

    def test_a_notification_that_fails_is_not_told_of(self):
        with Sink(self.refuse, extensions=OFFERS) as sink:
            relay = self.relay(sink)
            self.send(relay, [("a@far.test", " NOTIFY=FAILURE")], sender="back@far.test")
            wait_until("both settled", lambda: relay.metrics()['postern_recipients_total{outcome="failed"}'] == 2)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual(relay.metrics()["postern_dsns_total"], 1)


class Programs(DsnTest):
    def test_smtplib_asks_and_parses(self):
        relay = self.relay()
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
            client.ehlo()
            self.assertTrue(client.has_extn("dsn"))
            client.sendmail("me@sender.test", ["user@mailbox.test"], b"Subject: x\r\n\r\nhello\r\n",
                            mail_options=["RET=HDRS", "ENVID=lib1"], rcpt_options=["NOTIFY=SUCCESS"])
        stored, = self.settled(relay, 1)
        self.assertEqual(parts(stored)[1]["Original-Envelope-Id"], "lib1")


class Off(DsnTest):
    def test_what_a_listener_leaves_out_is_neither_shown_nor_taken(self):
        relay = self.relay(listener={"extensions_off": ["dsn", "CHUNKING", "SIZE", "PIPELINING"]})
        with Client(relay.port) as client:
            offers = client.hello()[1].split("\n")[1:]
            for keyword in ("DSN", "CHUNKING", "PIPELINING"):
                self.assertNotIn(keyword, offers)
            self.assertFalse([offer for offer in offers if offer.startswith("SIZE")])
            self.assertIn("8BITMIME", offers)
            self.assertEqual(client.ask("MAIL FROM:<a@b.test> RET=FULL")[0], 555)
            self.assertEqual(client.ask("MAIL FROM:<a@b.test> SIZE=1")[0], 555)
            self.assertEqual(client.ask("MAIL FROM:<a@b.test>")[0], 250)
            self.assertEqual(client.ask("RCPT TO:<user@mailbox.test> NOTIFY=NEVER")[0], 555)


class Postfix(DsnTest):
    def test_postfix_tells_what_it_was_asked_through_us(self):
        postfix = PostfixInstance()
        self.addCleanup(postfix.stop)
        postfix.wait_for_greeting()
        relay = self.postern(routes=[("*", f"smtp:[127.0.0.1]:{postfix.port}")]).start()
        with Client(relay.port) as client:
            client.hello()
            client.ask("MAIL FROM:<me@example.test> RET=HDRS ENVID=QQ+2B1")
            client.ask("RCPT TO:<user@example.test> NOTIFY=SUCCESS ORCPT=rfc822;list+2B1@client.test")
            self.assertEqual(client.data()[0], 250)
        # One Maildir has the mail and what Postfix says of it.
        mails = wait_until("mail and report", lambda: (
            lambda found: found if len(found) >= 2 else None)(postfix.mails()), 60)
        reports = [mail for mail in mails if b"multipart/report" in mail]
        _, head, recipients, original = parts(reports[0])
        self.assertEqual(head["Original-Envelope-Id"], "QQ+1")
        self.assertEqual(recipients[0]["Action"], "delivered")
        self.assertEqual(recipients[0]["Original-Recipient"].replace(" ", ""), "rfc822;list+1@client.test")
        self.assertEqual(original.get_content_type(), "text/rfc822-headers")
        self.assertEqual(relay.metrics()["postern_dsns_total"], 0)
