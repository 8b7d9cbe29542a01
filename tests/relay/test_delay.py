"""Senders hear of a delay once [RFC 3464 §2.3.3, Action: delayed], through whole relays."""
import email.utils
import time

from harness import wait_until
from sink import Sink
from test_dsn import DsnTest, OFFERS, parts

RETRY = {"schedule": ["300ms", "1s"], "give_up_after": "40s", "warn_after": "1s"}


class Busy:
    """A script for a sink: RCPT is answered 450 until it is told otherwise; counts the attempts."""

    def __init__(self):
        self.busy = True
        self.attempts = 0

    def __call__(self, step, _session, _argument):
        if step != "RCPT" or not self.busy:
            return None
        self.attempts += 1
        return "450 4.2.1 Mailbox busy"


class Delay(DsnTest):
    def test_is_told_once_also_over_a_restart_and_the_mail_arrives(self):
        busy = Busy()
        with Sink(busy, extensions=OFFERS) as sink:
            relay = self.relay(sink, retry=RETRY)
            began = time.time()
            self.send(relay, [("a@far.test", ""), ("b@far.test", " NOTIFY=DELAY,FAILURE"),
                              ("c@far.test", " NOTIFY=FAILURE"), ("d@far.test", " NOTIFY=NEVER")], " ENVID=QQ1")
            stored, = relay.wait_for_mails(1, "me").values()
            message, head, recipients, original = parts(stored)
            self.assertTrue(message["Subject"].startswith("Delayed mail"), message["Subject"])
            self.assertEqual(head["Original-Envelope-Id"], "QQ1")
            self.assertEqual([(r["Final-Recipient"], r["Action"], r["Status"]) for r in recipients],
                             [(f"rfc822; {user}@far.test", "delayed", "4.2.1") for user in "ab"])
            for fields in recipients:
                self.assertEqual(fields["Diagnostic-Code"], "smtp; 450 4.2.1 Mailbox busy")
                until = email.utils.parsedate_to_datetime(fields["Will-Retry-Until"]).timestamp()
                self.assertAlmostEqual(until, began + 40, delta=4)
            self.assertEqual(original.get_content_type(), "text/rfc822-headers")
            self.assertEqual({event["to"] for event in relay.events("delayed")}, {"a@far.test", "b@far.test"})
            # What was said is known to the spool.
            relay.kill()
            before = busy.attempts
            relay.start()
            wait_until("two attempts more", lambda: busy.attempts >= before + 8, 30)
            self.assertEqual(relay.metrics()["postern_dsns_total"], 0)
            busy.busy = False
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual(len(relay.mails("me")), 1)
            self.assertEqual(sorted(sum((message.recipients for message in sink.messages), [])),
                             [f"{user}@far.test" for user in "abcd"])

    def test_never_about_what_has_no_sender(self):
        busy = Busy()
        with Sink(busy, extensions=OFFERS) as sink:
            relay = self.relay(sink, retry=RETRY)
            self.send(relay, [("a@far.test", " NOTIFY=DELAY")], sender="")
            self.send(relay, [("b@far.test", "")])
            relay.wait_for_mails(1, "me")
            before = busy.attempts
            wait_until("attempts behind it", lambda: busy.attempts >= before + 4)
            self.assertEqual(relay.metrics()["postern_dsns_total"], 1)

    def test_a_site_that_nobody_answers_at(self):
        with Sink(extensions=OFFERS) as sink:
            relay = self.relay(sink, retry=RETRY)
        self.send(relay, [("a@far.test", "")])  # the sink is gone
        stored, = relay.wait_for_mails(1, "me").values()
        self.assertEqual([r["Action"] for r in parts(stored)[2]], ["delayed"])

    def test_is_not_told_by_default(self):
        with Sink(Busy(), extensions=OFFERS) as sink:
            relay = self.relay(sink, retry={"schedule": ["200ms"], "give_up_after": "2s"})
            self.send(relay, [("a@far.test", "")])
            stored, = relay.wait_for_mails(1, "me").values()
            self.assertEqual([r["Action"] for r in parts(stored)[2]], ["failed"])
