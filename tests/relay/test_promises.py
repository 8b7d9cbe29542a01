"""What a sender is promised and the next hop must promise in turn: DELIVERBY [RFC 2852] and REQUIRETLS [RFC 8689]."""
import os
import re
import shutil
import smtplib
import ssl
import tempfile
from datetime import datetime, timezone

import certificates
from harness import wait_until
from sink import Sink
from test_delay import Busy
from test_dsn import DsnTest, OFFERS, parts
from test_tls_out import server_context
from tls_hop import TlsHop

TIMED = OFFERS + ("DELIVERBY 1",)
RETRY = {"schedule": ["300ms", "1s"], "give_up_after": "1h"}


class DeliverBy(DsnTest):
    def mail_of(self, sink):
        return [command for session in sink.sessions for command in session.commands if command.startswith("MAIL")]

    def test_what_is_left_is_passed_on(self):
        with Sink(extensions=TIMED) as sink:
            relay = self.relay(sink)
            self.send(relay, [("a@far.test", "")], " BY=600;R")
            self.send(relay, [("b@far.test", "")], " BY=600;N")
            sink.wait_for(2)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            said = [re.search(r"BY=(\d+);([RN]T?)", command).groups() for command in self.mail_of(sink)]
            self.assertEqual(sorted(mode for _, mode in said), ["N", "R"])
            for seconds, _ in said:
                self.assertIn(int(seconds), range(590, 601))
            self.assertEqual(relay.metrics()["postern_dsns_total"], 0)

    def test_what_is_late_is_returned(self):
        with Sink(Busy(), extensions=TIMED) as sink:
            relay = self.relay(sink, retry=RETRY)
            self.send(relay, [("a@far.test", "")], " BY=3;R ENVID=E1")
            stored, = relay.wait_for_mails(1, "me").values()
            _, head, recipients, _ = parts(stored)
            self.assertIsNotNone(head["Deliver-By-Date"])
            self.assertEqual([(r["Action"], r["Status"]) for r in recipients], [("failed", "5.4.7")])
            self.settled(relay, 1)
            self.assertEqual(sink.messages, [])

    def test_what_was_late_while_we_were_down_is_returned_and_not_tried(self):
        busy = Busy()
        with Sink(busy, extensions=TIMED) as sink:
            relay = self.relay(sink, retry={"schedule": ["10s"], "give_up_after": "1h"})
            self.send(relay, [("a@far.test", "")], " BY=4;R")
            wait_until("an attempt", lambda: busy.attempts == 1 and relay.events("deferred"))
            deadline = relay.events("received")[0]["time"]
            relay.kill()
            busy.busy = False
            received = datetime.fromisoformat(deadline.replace("Z", "+00:00"))
            wait_until("its time to be over",
                       lambda: (datetime.now(timezone.utc) - received).total_seconds() > 4.2)
            relay.start()
            stored, = relay.wait_for_mails(1, "me").values()
            self.assertEqual([(r["Action"], r["Status"]) for r in parts(stored)[2]], [("failed", "5.4.7")])
            self.assertEqual(sink.messages, [])

    def test_what_is_late_goes_on_when_the_sender_wants_to_be_told_only(self):
        busy = Busy()
        with Sink(busy, extensions=TIMED) as sink:
            relay = self.relay(sink, retry=RETRY)
            self.send(relay, [("a@far.test", ""), ("b@far.test", " NOTIFY=FAILURE"), ("c@far.test", " NOTIFY=NEVER")],
                      " BY=2;N")
            stored, = relay.wait_for_mails(1, "me").values()
            self.assertEqual([(r["Final-Recipient"], r["Action"], r["Status"]) for r in parts(stored)[2]],
                             [(f"rfc822; {user}@far.test", "delayed", "4.4.7") for user in "ab"])
            busy.busy = False
            sink.wait_for(1)
            self.settled(relay, 1)
            self.assertRegex(self.mail_of(sink)[-1], r" BY=-\d+;N")

    def test_a_next_hop_that_does_not_know_of_it(self):
        with Sink(extensions=OFFERS + ("DSN",)) as sink:
            relay = self.relay(sink)
            self.send(relay, [("a@far.test", "")], " BY=600;R")
            stored, = relay.wait_for_mails(1, "me").values()
            self.assertEqual([(r["Action"], r["Status"]) for r in parts(stored)[2]], [("failed", "5.3.3")])
            self.assertEqual(sink.messages, [])
            self.send(relay, [("b@far.test", ""), ("c@far.test", " NOTIFY=NEVER")], " BY=600;N")
            told = [parts(mail)[2] for mail in relay.wait_for_mails(2, "me").values()]
            self.assertEqual(sorted((r["Final-Recipient"], r["Action"]) for recipients in told for r in recipients),
                             [("rfc822; a@far.test", "failed"), ("rfc822; b@far.test", "relayed")])
            self.settled(relay, 2)

    def test_a_trace(self):
        with Sink(extensions=TIMED + ("DSN",)) as sink:
            relay = self.relay(sink)
            self.send(relay, [("a@far.test", "")], " BY=600;RT")
            stored, = self.settled(relay, 1)
            self.assertEqual([r["Action"] for r in parts(stored)[2]], ["relayed"])
            self.assertRegex(self.mail_of(sink)[0], r" BY=\d+;RT")

    def test_into_a_mailbox_it_is_in_time(self):
        relay = self.relay()
        self.send(relay, [("user@mailbox.test", "")], " BY=600;R")
        relay.wait_for_mails(1)
        self.settled(relay, 0)


class RequireTls(DsnTest):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(prefix="postern-requiretls-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        certificates.make(self.folder, "ca", authority=True, names=("Test authority",))
        certificates.make(self.folder, "hop", names=("127.0.0.1",), issuer="ca")
        certificates.make(self.folder, "own", names=("mx.relay.test",), issuer="ca")

    def path(self, name):
        return os.path.join(self.folder, name)

    def tls_relay(self, hop, policy):
        more = (f'\n[[route]]\nmatch = "far.test"\nvia = "smtp:[127.0.0.1]:{hop.port}"\ntls = "{policy}"\n'
                f'\n[[tls.certificate]]\nchain = "{self.path("own.pem")}"\nkey = "{self.path("own.key")}"\n')
        return self.relay(smtp_client={"tls_authorities": self.path("ca.pem"), "refuse_networks": []},
                          listener={"tls": "opportunistic"}, more=more)

    def submit(self, relay, recipient, options=("REQUIRETLS", "RET=FULL")):
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
            client.ehlo()
            self.assertFalse(client.has_extn("requiretls"))
            context = ssl.create_default_context(cafile=self.path("ca.pem"))
            context.check_hostname = False
            client.starttls(context=context)
            client.ehlo()
            self.assertTrue(client.has_extn("requiretls"))
            client.sendmail("me@sender.test", [recipient], b"Subject: x\r\n\r\nsecret\r\n", mail_options=list(options))

    def test_a_verified_next_hop_that_promises_it_too(self):
        with TlsHop(server_context(self.folder), after=("REQUIRETLS",)) as hop:
            relay = self.tls_relay(hop, "verified")
            self.submit(relay, "a@far.test")
            hop.wait_for(1)
            self.settled(relay, 0)
            self.assertEqual(["REQUIRETLS" in text for session in hop.sessions for text in session.said("MAIL", True)],
                             [True])

    def test_others_get_nothing_of_it(self):
        for policy, after in (("verified", ("ENHANCEDSTATUSCODES",)), ("required", ("REQUIRETLS",)),
                              ("opportunistic", ("REQUIRETLS",))):
            with self.subTest(policy=policy), TlsHop(server_context(self.folder), after=after) as hop:
                relay = self.tls_relay(hop, policy)
                self.submit(relay, "a@far.test")
                stored, = self.settled(relay, 1)
                _, _, recipients, original = parts(stored)
                self.assertEqual([(r["Action"], r["Status"]) for r in recipients], [("failed", "5.7.30")])
                self.assertEqual(original.get_content_type(), "text/rfc822-headers")
                self.assertNotIn(b"secret", stored)
                self.assertEqual(hop.messages, [])
                # The same without goes.
                self.submit(relay, "b@far.test", ())
                hop.wait_for(1)
                relay.stop()

    def test_into_a_mailbox(self):
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.tls_relay(hop, "verified")
            self.submit(relay, "user@mailbox.test")
            relay.wait_for_mails(1)
            self.settled(relay, 0)
