"""Next hops that misbehave: nothing is lost, nothing is sent twice without need, and the sender is told what failed."""
import email
import re
import socket
import threading
import time
import unittest

import contents
from harness import Client, RelayTest, free_port, original_of_wire, wait_until
from sink import DROP, RESET, SILENCE, Delay, Sink

STEPS = ("connect", "EHLO", "MAIL", "RCPT", "DATA", "content")


class First:
    """A script that misbehaves the first `times` times that a step comes, then no more."""

    def __init__(self, step, result, times=1):
        self.step, self.result, self.left = step, result, times
        self.lock = threading.Lock()

    def __call__(self, step, session, argument):
        with self.lock:
            if step == self.step and self.left > 0:
                self.left -= 1
                return self.result
        return None


class Misbehaving(RelayTest):
    def send(self, relay, recipients=("user@example.test",), sender="sender@client.test", content=None):
        with Client(relay.port) as client:
            client.hello()
            client.envelope(sender, recipients)
            code, text = client.data(content or contents.ODD["plain"])
            self.assertEqual(code, 250, text)
            return text.rsplit(" ", 1)[1]

    def arrives_once(self, script, extensions=("PIPELINING", "8BITMIME"), **options):
        with Sink(script, extensions=extensions) as sink:
            relay = self.to_sink(sink, **options)
            self.send(relay)
            sink.wait_for(1, 30)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual(len(sink.messages), 1)
            self.assertEqual(original_of_wire(sink.messages[0].content), contents.ODD["plain"])
            relay.stop()
            return relay

    def test_4xx_then_2xx_at_each_step(self):
        for step in STEPS:
            with self.subTest(step):
                relay = self.arrives_once(First(step, "451 4.3.0 try again", 2))
                if step in ("RCPT", "content", "MAIL"):
                    self.assertTrue(relay.events("deferred"))

    def test_421_at_each_step(self):
        for step in STEPS:
            with self.subTest(step):
                self.arrives_once(First(step, "421 4.3.2 going away", 2))

    def test_lost_connection_at_each_step(self):
        for result in (DROP, RESET):
            for step in STEPS[:-1]:
                with self.subTest(step=step, result="drop" if result is DROP else "reset"):
                    self.arrives_once(First(step, result, 2))

    def test_without_pipelining(self):
        for step in ("MAIL", "RCPT", "DATA"):
            with self.subTest(step):
                self.arrives_once(First(step, DROP, 1), extensions=("8BITMIME",))

    def test_helo_where_ehlo_is_not_known(self):
        def script(step, session, argument):
            return "502 5.5.1 what?" if step == "EHLO" else None
        self.arrives_once(script)

    def test_lost_between_end_of_data_and_its_reply_is_sent_again(self):
        with Sink(First("content", DROP)) as sink:
            relay = self.to_sink(sink)
            self.send(relay)
            sink.wait_for(2, 30)  # the sink has it, but only the second time somebody was told
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual(len(sink.messages), 2)
            self.assertEqual(sink.messages[0].content.split(b"\r\n\r\n", 1)[1], sink.messages[1].content.split(b"\r\n\r\n", 1)[1])
            self.assertEqual(relay.events("failed"), [])

    def test_a_reused_connection_that_died_fails_no_mail(self):
        def script(step, session, argument):
            # Each connection takes one message, then goes away at the next MAIL.
            return DROP if step == "MAIL" and session.messages >= 1 else None
        with Sink(script) as sink:
            relay = self.to_sink(sink, smtp_client={"connections_per_path": 1})
            for _ in range(5):
                self.send(relay)
            sink.wait_for(5, 30)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual(len(sink.messages), 5)
            self.assertEqual(relay.events("failed"), [])

    def test_an_answer_before_the_end_from_a_peer_that_reads_no_more_ends_the_attempt(self):
        # The kernel still holds the message when its outcome is known: it must be let go, and the connection too.
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            peers = []

            def serve():
                peer, _ = listening.accept()
                peers.append(peer)
                peer.sendall(b"220 hop\r\n")
                heard = b""
                for mark, answer in ((b"EHLO", b"250 hop\r\n"), (b"MAIL", b"250 ok\r\n"), (b"RCPT", b"250 ok\r\n"),
                                     (b"DATA", b"354 go on\r\n")):
                    while mark not in heard:
                        heard += peer.recv(4096)
                    peer.sendall(answer)
                peer.sendall(b"552 5.3.4 enough\r\n")

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            relay = self.postern(routes=[("example.test", f"smtp:[127.0.0.1]:{listening.getsockname()[1]}")])
            relay.routes.append(relay.maildir_route("*"))
            relay.start()
            large = b"Subject: x\r\n\r\n" + (b"y" * 70 + b"\r\n") * 300_000  # more than socket buffers take
            self.send(relay, content=large)
            (failed,) = wait_until("the failed event", lambda: relay.events("failed"), 30)
            self.assertIn("552 5.3.4 enough", failed["reply"])
            wait_until("the DSN in its sender's mailbox", lambda: relay.mails("sender"))
            wait_until("the connection to go", lambda: relay.metrics()['postern_connections{direction="out"}'] == 0)
            self.assertEqual(relay.queued(), 0)
            relay.stop()
            thread.join(10)
            for peer in peers:
                peer.close()

    def test_silence_runs_into_the_time_limit_and_is_tried_again(self):
        self.arrives_once(First("MAIL", SILENCE), smtp_client={"reply_timeout": "1s"})

    def test_a_slow_next_hop_costs_its_own_path_alone(self):
        slow = Sink(lambda step, session, argument: Delay(2) if step == "MAIL" else None)
        with slow, Sink() as quick:
            relay = self.postern(routes=[("slow.test", f"smtp:[127.0.0.1]:{slow.port}"),
                                         ("*", f"smtp:[127.0.0.1]:{quick.port}")],
                                 accept=["slow.test", "example.test"], smtp_client={"connections_per_path": 2}).start()
            for _ in range(10):
                self.send(relay, ["user@slow.test"])
            started = time.monotonic()
            for _ in range(50):
                self.send(relay)
            quick.wait_for(50, 10)
            self.assertLess(len(slow.messages), 10)
            self.assertLess(time.monotonic() - started, 10)

    def test_nobody_listens_defers(self):
        port = free_port()
        relay = self.postern(routes=[("*", f"smtp:[127.0.0.1]:{port}")]).start()
        self.send(relay)
        (deferred, *_) = wait_until("a deferred event", lambda: relay.events("deferred"))
        self.assertIn("4.4.1", deferred["reply"])
        with Sink(port=port) as sink:
            sink.wait_for(1, 30)

    def test_outcomes_are_per_recipient(self):
        def script(step, session, argument):
            if step == "RCPT" and argument.startswith("bad"):
                return "550 5.1.1 no such user"
            if step == "RCPT" and argument.startswith("later") and not any(m.recipients == [argument] for m in sink.messages):
                if session.number == 0:
                    return "450 4.2.1 later"
            return None
        with Sink(script) as sink:
            relay = self.to_sink(sink, smtp_client={"idle_seconds": 0})
            self.send(relay, ["good@example.test", "bad@example.test", "later@example.test"], sender="")
            sink.wait_for(2, 30)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual([message.recipients for message in sink.messages], [["good@example.test"], ["later@example.test"]])
            self.assertEqual([event["to"] for event in relay.events("failed")], ["bad@example.test"])
            for outcome, count in (("relayed", 2), ("failed", 1)):
                wait_until(f"{count} {outcome}", lambda outcome=outcome, count=count:
                           relay.metrics()[f'postern_recipients_total{{outcome="{outcome}"}}'] == count)

    def test_recipients_beyond_the_next_hops_limit_follow_at_once(self):
        def script(step, session, argument):
            if step == "RCPT" and len(session.recipients) >= 2:
                return "452 4.5.3 too many recipients"
            return None
        recipients = [f"user{n}@example.test" for n in range(5)]
        for extensions in (["PIPELINING", "ENHANCEDSTATUSCODES", "LIMITS RCPTMAX=2"], ["PIPELINING", "ENHANCEDSTATUSCODES"]):
            with Sink(script, extensions=extensions) as sink:
                relay = self.to_sink(sink, retry={"schedule": ["1h"]})
                self.send(relay, recipients)
                sink.wait_for(3)
                self.assertEqual(sorted(sum((message.recipients for message in sink.messages), [])), recipients)
                self.assertEqual([len(message.recipients) for message in sink.messages], [2, 2, 1])
                self.assertEqual(len(sink.sessions), 1)
                wait_until("the queue to be empty", lambda relay=relay: relay.queued() == 0)
                wait_until("five relayed", lambda relay=relay: len(relay.events("relayed")) == 5)
                self.assertEqual(relay.events("deferred"), [])
                relay.stop()

    def test_a_next_hop_without_room_for_anyone_is_tried_again_later(self):
        with Sink(lambda step, session, argument: "452 4.5.3 too many recipients" if step == "RCPT" else None) as sink:
            relay = self.to_sink(sink, retry={"schedule": ["1h"]})
            self.send(relay, ["one@example.test", "two@example.test"])
            wait_until("both deferred", lambda: len(relay.events("deferred")) == 2)
            self.assertEqual(sum(command.startswith("MAIL") for session in sink.sessions for command in session.commands), 1)


class Dsns(RelayTest):
    """5xx: the sender gets a notification [RFC 3464], by the same door."""

    def failing(self, script, sender="sender@sender.test", seconds=30, **options):
        """(relay, message kept in the Maildir of the sender): the next hop of example.test follows `script`."""
        sink = Sink(script, extensions=("PIPELINING", "8BITMIME"))
        self.addCleanup(sink.stop)
        relay = self.postern(accept=["example.test", "sender.test"], **options)
        relay.routes = [("sender.test", f"maildir:{relay.mail}/{{local}}"), ("*", f"smtp:[127.0.0.1]:{sink.port}")]
        relay.start()
        with Client(relay.port) as client:
            client.hello()
            client.envelope(sender)
            self.queue_id = client.data(contents.ODD["plain"])[1].rsplit(" ", 1)[1]
        (stored,) = relay.wait_for_mails(1, local=sender.split("@")[0], seconds=seconds).values()
        return relay, stored

    def assertIsDsn(self, stored, status):
        self.assertTrue(stored.startswith(b"Return-Path: <>\n"))
        message = email.message_from_bytes(stored)
        self.assertEqual(message.get_content_type(), "multipart/report")
        self.assertEqual(message.get_param("report-type"), "delivery-status")
        self.assertIn("auto-", message["Auto-Submitted"])
        self.assertTrue(message["Message-ID"])
        self.assertTrue(message["Date"])
        self.assertIn("sender@sender.test", message["To"])
        text, report, original = message.get_payload()
        self.assertEqual(text.get_content_type(), "text/plain")
        self.assertEqual(report.get_content_type(), "message/delivery-status")
        self.assertIn(original.get_content_type(), ("message/rfc822", "text/rfc822-headers"))
        self.assertIn("Subject: plain", original.as_string())
        per_message, per_recipient = report.get_payload()
        self.assertEqual(per_message["Reporting-MTA"], "dns; mx.relay.test")
        self.assertEqual(per_recipient["Final-Recipient"], "rfc822; user@example.test")
        self.assertEqual(per_recipient["Action"], "failed")
        self.assertEqual(per_recipient["Status"], status)
        return per_recipient

    def test_5xx_at_each_step(self):
        for step, wanted in (("MAIL", "5.7.1"), ("RCPT", "5.1.1"), ("DATA", "5.6.0"), ("content", "5.7.26")):
            with self.subTest(step):
                def script(now, session, argument, step=step, wanted=wanted):
                    return f"550 {wanted} no" if now == step else None
                relay, stored = self.failing(script)
                recipient = self.assertIsDsn(stored, wanted)
                self.assertIn(f"550 {wanted} no", recipient["Diagnostic-Code"])
                wait_until("the dsn event", lambda relay=relay: relay.events("dsn"))
                (failed,) = relay.events("failed")
                self.assertEqual(failed["id"], self.queue_id)
                self.assertEqual(relay.metrics()["postern_dsns_total"], 1)
                relay.stop()

    def test_giving_up_tells_the_sender_why(self):
        def script(step, session, argument):
            return "451 4.3.0 not today" if step == "RCPT" else None
        relay, stored = self.failing(script, retry={"schedule": ["300ms"], "give_up_after": "2s"})
        recipient = self.assertIsDsn(stored, "4.4.7") if b"Status: 4.4.7" in stored else self.assertIsDsn(stored, "5.4.7")
        self.assertIn("not today", recipient["Diagnostic-Code"])
        self.assertTrue(wait_until("the expired event", lambda: relay.events("expired")))

    def test_more_recipients_than_one_dsn_takes_are_told_of_in_several(self):
        relay = self.postern(routes=[("example.test", f"smtp:[127.0.0.1]:{free_port()}")], limits={"recipients": 2500},
                             retry={"schedule": ["500ms"], "give_up_after": "2s"})
        relay.routes.append(relay.maildir_route("*"))
        relay.start()
        recipients = [f"user{number}@example.test" for number in range(2500)]
        with Client(relay.port) as client:
            client.hello()
            client.envelope("sender@client.test", recipients)
            self.assertEqual(client.data()[0], 250)
        wait_until("all of them to expire", lambda: len(relay.events("expired")) == len(recipients), 30)
        wait_until("the queue to be empty", lambda: relay.queued() == 0)

        def told():
            text = b"".join(relay.mails("sender").values())
            return sorted(re.findall(rb"(?m)^Final-Recipient: rfc822; (\S+)", text))

        wait_until("the sender to know of all", lambda: len(told()) >= len(recipients), 30)
        self.assertEqual(told(), sorted(recipient.encode() for recipient in recipients))
        relay.stop()

    def test_never_for_a_null_reverse_path(self):
        def script(step, session, argument):
            return "550 5.1.1 no" if step == "RCPT" else None
        with Sink(script) as sink:
            relay = self.to_sink(sink)
            with Client(relay.port) as client:
                client.hello()
                client.envelope("")
                self.assertEqual(client.data()[0], 250)
            wait_until("the failed event", lambda: relay.events("failed"))
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            time.sleep(0.3)
            self.assertEqual(relay.events("dsn"), [])
            self.assertEqual(relay.metrics()["postern_messages_received_total"], 1)

    def test_a_hostile_reply_is_shown_escaped_and_bounded(self):
        def script(step, session, argument):
            return "550 5.1.1 \x1b[31m\x07" + "long" * 500 if step == "RCPT" else None
        _, stored = self.failing(script)
        recipient = self.assertIsDsn(stored, "5.1.1")
        self.assertIsNone(re.search(r"[\x00-\x08\x0b-\x1f]", recipient["Diagnostic-Code"].replace("\n", "")))
        self.assertTrue(all(len(line) <= 998 for line in stored.split(b"\n")))


if __name__ == "__main__":
    unittest.main()
