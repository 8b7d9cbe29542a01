"""ESMTP extensions through whole relays: what is offered is what happens."""
import datetime
import socket
import struct
import subprocess
import time

from harness import (SLOWNESS, Client, RelayTest, original_of_maildir, original_of_wire, program, split_added,
                     wait_until)
from sink import Delay, Sink

OFFERS = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "SIZE 104857600")
BINARY = b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\r\na\nb\rc\0\r\n.\r\n\r\n\xff" + b"long" * 1000


def bdat(client, content, chunk=1000):
    replies = []
    for at in range(0, len(content), chunk):
        piece = content[at:at + chunk]
        last = " LAST" if at + chunk >= len(content) else ""
        client.send(f"BDAT {len(piece)}{last}\r\n".encode() + piece)
        replies.append(client.reply())
    return replies


class BinaryMime(RelayTest):
    def send(self, relay, recipient, content=BINARY):
        with Client(relay.port) as client:
            client.hello()
            client.envelope(recipients=[recipient], parameters=" BODY=BINARYMIME")
            self.assertEqual(client.ask("DATA")[0], 503)
            for code, text in bdat(client, content):
                self.assertEqual(code, 250, text)

    def test_a_maildir_has_it_byte_by_byte(self):
        relay = self.into_maildir()
        self.send(relay, "user@example.test")
        stored, = relay.wait_for_mails(1).values()
        added, content = split_added(stored, b"\r\n")
        self.assertTrue(added.startswith(b"Return-Path: <sender@client.test>\r\nReceived: "), added)
        self.assertEqual(content, BINARY)

    def test_text_that_was_called_binary_is_text(self):
        relay = self.into_maildir()
        self.send(relay, "user@example.test", b"Subject: x\r\n\r\n.text\r\n")
        stored, = relay.wait_for_mails(1).values()
        self.assertEqual(original_of_maildir(stored), b"Subject: x\n\n.text\n")

    def test_a_next_hop_that_takes_it_gets_it(self):
        with Sink(extensions=OFFERS + ("CHUNKING", "BINARYMIME")) as sink:
            relay = self.to_sink(sink)
            self.send(relay, "user@example.test")
            message, = sink.wait_for(1)
            self.assertIn("BODY=BINARYMIME", message.parameters)
            self.assertEqual(original_of_wire(message.content), BINARY)

    def test_a_next_hop_that_does_not_returns_it(self):
        for offers in (OFFERS, OFFERS + ("CHUNKING",), OFFERS + ("BINARYMIME",)):
            with Sink(extensions=offers) as sink:
                relay = self.postern(routes=[("far.test", f"smtp:[127.0.0.1]:{sink.port}")], accept=("far.test", "client.test"))
                relay.routes.append(relay.maildir_route("client.test"))
                relay.start()
                self.send(relay, "user@far.test")
                stored, = relay.wait_for_mails(1, "sender").values()
                self.assertIn(b"\nStatus: 5.6.3\n", stored)
                self.assertEqual(sink.messages, [])
                relay.stop()


class Limits(RelayTest):
    def test_what_is_announced_holds(self):
        relay = self.into_maildir(limits={"recipients": 3})
        with Client(relay.port) as client:
            self.assertIn("LIMITS RCPTMAX=3", client.hello()[1].split("\n"))
            replies = client.envelope(recipients=[f"user{n}@example.test" for n in range(4)])
            self.assertEqual([code for code, _ in replies], [250, 250, 250, 250, 452])

    def test_what_a_next_hop_announces_is_kept(self):
        with Sink(extensions=OFFERS + ("LIMITS MAILMAX=2 RCPTMAX=3 RCPTDOMAINMAX=1",)) as sink:
            relay = self.to_sink(sink, accept=("a.test", "b.test"))
            recipients = [f"user{n}@{domain}" for n in range(5) for domain in ("a.test", "b.test")]
            with Client(relay.port) as client:
                client.hello()
                client.envelope(recipients=recipients)
                self.assertEqual(client.data()[0], 250)
            wait_until("all relayed", lambda: relay.metrics()['postern_recipients_total{outcome="relayed"}'] == 10)
            self.assertEqual(sorted(r for m in sink.messages for r in m.recipients), sorted(recipients))
            for session in sink.sessions:
                self.assertLessEqual(session.messages, 2)
            for message in sink.messages:
                self.assertLessEqual(len(message.recipients), 3)
                self.assertEqual(len({r.partition("@")[2] for r in message.recipients}), 1)

    def test_what_is_too_large_is_not_even_begun(self):
        with Sink(extensions=("PIPELINING", "SIZE 1000")) as sink:
            relay = self.postern(routes=[("far.test", f"smtp:[127.0.0.1]:{sink.port}")], accept=("far.test", "client.test"))
            relay.routes.append(relay.maildir_route("client.test"))
            relay.start()
            with Client(relay.port) as client:
                client.hello()
                client.envelope(recipients=["user@far.test"])
                self.assertEqual(client.data(b"Subject: x\r\n\r\n" + b"y" * 70 * 20 + b"\r\n")[0], 250)
            stored, = relay.wait_for_mails(1, "sender").values()
            self.assertIn(b"\nStatus: 5.3.4\n", stored)
            self.assertFalse([c for c in sink.sessions[0].commands if c.startswith("MAIL")])


class Priority(RelayTest):
    def test_it_decides_the_order_and_goes_on(self):
        # The one connection is busy with the first while the others come.
        def script(step, _session, _argument):
            return Delay(2 * SLOWNESS) if step == "content" and not sink.messages else None
        with Sink(script, extensions=OFFERS + ("MT-PRIORITY",)) as sink:
            relay = self.to_sink(sink, shards=1, smtp_client={"connections_per_path": 1})
            with Client(relay.port) as client:
                client.hello()
                client.envelope()
                self.assertEqual(client.data()[0], 250)
                wait_until("the first is under way", lambda: sink.sessions)
                for priority in (0, -3, 5, 9, -9, 5):
                    client.envelope(parameters=f" MT-PRIORITY={priority}")
                    self.assertEqual(client.data()[0], 250)
            messages = sink.wait_for(7, 30)
            found = [message.parameters.partition("MT-PRIORITY=")[2].split(" ")[0] for message in messages]
            self.assertEqual(found[1:], ["9", "5", "5", "", "-3", "-9"])

    def test_a_stranger_does_not_overtake(self):
        relay = self.into_maildir(listener={"relay_from": []})
        with Client(relay.port) as client:
            client.hello()
            self.assertEqual(client.envelope(parameters=" MT-PRIORITY=9")[0], (250, "2.3.6 Ok, with priority 0"))


class FutureRelease(RelayTest):
    def test_held_mail_waits_and_survives_a_restart(self):
        relay = self.into_maildir()
        with Client(relay.port) as client:
            offer = [line for line in client.hello()[1].split("\n") if line.startswith("FUTURERELEASE")][0].split()
            self.assertEqual(offer[1], "604800")
            until = datetime.datetime.strptime(offer[2], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
            self.assertLess(abs(until.timestamp() - time.time() - 604800), 5)
            self.assertEqual(client.ask("MAIL FROM:<a@client.test> HOLDFOR=604801")[0], 501)
            sent = time.time()
            client.envelope(recipients=["for@example.test"], parameters=" HOLDFOR=4")
            self.assertEqual(client.data()[0], 250)
            release = datetime.datetime.fromtimestamp(sent + 4, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            client.envelope(recipients=["until@example.test"], parameters=f" HOLDUNTIL={release}")
            self.assertEqual(client.data()[0], 250)
            client.envelope(recipients=["now@example.test"])
            self.assertEqual(client.data()[0], 250)
        relay.wait_for_mails(1, "now")
        wait_until("two are held", lambda: relay.queued() == 2)
        relay.kill()
        relay.start()
        self.assertEqual(relay.mails("for"), {})
        relay.wait_for_mails(1, "for", 30)
        self.assertGreaterEqual(time.time(), sent + 4)
        relay.wait_for_mails(1, "until", 30)
        self.assertGreaterEqual(time.time(), sent + 3)

    def test_strangers_are_not_offered_it(self):
        relay = self.into_maildir(listener={"relay_from": []})
        with Client(relay.port) as client:
            self.assertNotIn("FUTURERELEASE", client.hello()[1])
            self.assertEqual(client.ask("MAIL FROM:<a@client.test> HOLDFOR=5")[0], 555)


V2 = b"\r\n\r\n\0\r\nQUIT\n"


class Proxy(RelayTest):
    def relay(self, **listener):
        return self.into_maildir(listener={"proxy_protocol_from": ["127.0.0.1/32"], "relay_from": ["192.0.2.0/24"], **listener})

    def from_client(self, relay, header):
        """A client whose balancer has said `header`, greeted."""
        client = Client(relay.port, greet=False)
        client.send(header)
        client.greeting = client.reply()
        self.assertEqual(client.greeting[0], 220)
        client.hello()
        return client

    def test_the_client_named_counts(self):
        relay = self.relay()
        headers = (b"PROXY TCP4 192.0.2.7 198.51.100.1 40312 25\r\n",
                   V2 + struct.pack(">BBH4s4sHH", 0x21, 0x11, 12, socket.inet_aton("192.0.2.7"),
                                    socket.inet_aton("198.51.100.1"), 40312, 25))
        for number, header in enumerate(headers):
            with self.from_client(relay, header) as client:
                self.assertEqual(client.envelope(recipients=["user@example.test", "any@elsewhere.test"])[2][0], 250)
                client.ask("RSET")
                client.envelope()
                self.assertEqual(client.data()[0], 250)
            stored = list(relay.wait_for_mails(number + 1).values())[-1]
            self.assertIn(b"Received: from client.test ([192.0.2.7])", stored)
        with self.from_client(relay, b"PROXY TCP6 2001:db8::9 2001:db8::1 40312 25\r\n") as client:
            self.assertEqual(client.envelope(recipients=["any@elsewhere.test"])[1][0], 550)
        wait_until("the clients' names", lambda: {event["peer"] for event in relay.events("connected")} ==
                   {"192.0.2.7:40312", "[2001:db8::9]:40312"})

    def test_a_balancer_that_speaks_for_itself(self):
        relay = self.relay(relay_from=["127.0.0.0/8"])
        for header in (V2 + b"\x20\x00\x00\x00", b"PROXY UNKNOWN\r\n"):
            with self.from_client(relay, header) as client:
                self.assertEqual(client.envelope(recipients=["any@elsewhere.test"])[1][0], 550)

    def test_who_is_behind_a_balancer_is_not_the_balancer(self):
        relay = self.relay(xclient_from=["127.0.0.0/8"])
        for header in (b"PROXY TCP4 192.0.2.7 198.51.100.1 40312 25\r\n", b"PROXY UNKNOWN\r\n"):
            with self.from_client(relay, header) as client:
                self.assertEqual(client.ask("XCLIENT ADDR=192.0.2.8")[0], 550)

    def test_a_header_in_pieces_and_input_behind_it(self):
        relay = self.relay()
        with Client(relay.port, greet=False) as client:
            for byte in b"PROXY TCP4 192.0.2.7 198.51.100.1 40312 25\r\n":
                client.send(bytes([byte]))
                time.sleep(0.001)
            self.assertEqual(client.reply()[0], 220)
        with Client(relay.port, greet=False) as client:
            client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 40312 25\r\nEHLO early.test\r\n")
            self.assertEqual(client.reply()[0], 220)
            self.assertEqual(client.reply()[0], 554)

    def test_without_a_header_not_a_word(self):
        relay = self.relay()
        for wrong in (b"EHLO client.test\r\n", b"PROXY TCP4 x y 1 2\r\n", b"PROXY UNKNOWN " + b"x" * 100, V2 + b"\x21\x11\x00\x01x"):
            with Client(relay.port, greet=False) as client:
                client.send(wrong)
                self.assertTrue(client.at_end())
                self.assertEqual(client.buffer, b"")
        with Client(relay.port, greet=False) as client:
            client.socket.settimeout(1)
            self.assertFalse(client.at_end())  # it waits for the header
            self.assertEqual(client.buffer, b"")
        wait_until("no connections are left", lambda: relay.metrics()['postern_connections{direction="in"}'] == 0)
        wait_until("the operator can see it", lambda: len(relay.events("rejected")) == 4)

    def test_from_others_it_is_no_header(self):
        relay = self.into_maildir(listener={"proxy_protocol_from": ["203.0.113.0/24"]})
        with Client(relay.port, greet=False) as client:
            client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 40312 25\r\n")
            self.assertEqual(client.reply()[0], 220)
            self.assertIn(client.reply()[0], (500, 554))  # a command, or input before the greeting
        wait_until("the peer's own name", lambda: relay.events("connected"))
        self.assertTrue(relay.events("connected")[0]["peer"].startswith("127.0.0.1:"))

    def test_clients_behind_a_balancer_are_counted_each(self):
        relay = self.relay_with_limit()
        header = b"PROXY TCP4 192.0.2.%d 198.51.100.1 40312 25\r\n"
        kept = [self.from_client(relay, header % 7) for _ in range(2)]
        with Client(relay.port, greet=False) as third:
            third.send(header % 7)
            self.assertEqual(third.reply()[0], 421)
        kept.append(self.from_client(relay, header % 8))
        for client in kept:
            client.close()
        wait_until("no connections are left", lambda: relay.metrics()['postern_connections{direction="in"}'] == 0)
        self.from_client(relay, header % 7).close()

    def relay_with_limit(self):
        return self.into_maildir(listener={"proxy_protocol_from": ["127.0.0.1/32"]}, limits={"connections_per_peer": 2})


class Xclient(RelayTest):
    def test_the_client_named_counts(self):
        relay = self.into_maildir(listener={"xclient_from": ["127.0.0.0/8"], "relay_from": ["192.0.2.0/24"]})
        with Client(relay.port) as client:
            self.assertIn("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT", client.hello()[1].split("\n"))
            self.assertEqual(client.envelope(recipients=["any@elsewhere.test"])[1][0], 550)
            self.assertEqual(client.ask("XCLIENT ADDR=192.0.2.7")[0], 503)
            client.ask("RSET")
            self.assertEqual(client.ask("XCLIENT NAME=spike.test ADDR=192.0.2.7 PORT=40312")[0], 220)
            self.assertEqual(client.ask("MAIL FROM:<a@b.test>")[0], 503)
            client.hello("spike.test")
            self.assertEqual(client.envelope(recipients=["any@elsewhere.test"])[1][0], 250)
            client.ask("RSET")
            client.envelope()
            self.assertEqual(client.data()[0], 250)
            stored, = relay.wait_for_mails(1).values()
            self.assertIn(b"Received: from spike.test ([192.0.2.7])", stored)
            self.assertEqual(client.ask("XCLIENT ADDR=203.0.113.5 LOGIN=[UNAVAILABLE]")[0], 220)
            client.hello()
            self.assertEqual(client.envelope(recipients=["any@elsewhere.test"])[1][0], 550)
            client.ask("RSET")
            self.assertEqual(client.ask("XCLIENT LOGIN=joe")[0], 220)
            client.hello()
            self.assertEqual(client.envelope(recipients=["any@elsewhere.test"])[1][0], 250)

    def test_never_from_strangers(self):
        relay = self.into_maildir(listener={"xclient_from": ["203.0.113.0/24"]})
        with Client(relay.port) as client:
            offers = client.hello()[1]
            self.assertNotIn("XCLIENT", offers)
            self.assertNotIn("XFORWARD", offers)
            self.assertEqual(client.ask("XCLIENT ADDR=192.0.2.7")[0], 550)
            self.assertEqual(client.ask("XFORWARD ADDR=192.0.2.7")[0], 550)

    def test_xforward_is_for_the_event_log(self):
        relay = self.into_maildir(listener={"xforward_from": ["127.0.0.0/8"]})
        with Client(relay.port) as client:
            client.hello()
            self.assertEqual(client.ask("XFORWARD NAME=spike.test ADDR=192.0.2.7 PORT=40312 SOURCE=REMOTE")[0], 250)
            for number in range(2):
                client.envelope()
                self.assertEqual(client.data()[0], 250)
        stored = relay.wait_for_mails(2).values()
        for mail in stored:
            self.assertIn(b"([127.0.0.1])", mail)
        wait_until("both events", lambda: len(relay.events("received")) == 2)
        peers = [event["peer"].rpartition(":")[0] for event in relay.events("received")]
        self.assertEqual(peers, ["192.0.2.7", "127.0.0.1"])  # for one mail, not the next


class Etrn(RelayTest):
    def test_waiting_mail_is_tried_at_once_and_held_mail_is_not(self):
        refusing = [True]

        def script(step, _session, _argument):
            return "451 4.3.0 later" if step == "RCPT" and refusing else None
        with Sink(script) as sink:
            relay = self.to_sink(sink, accept=("late.test",), retry={"schedule": ["1h"]})
            with Client(relay.port) as client:
                client.hello()
                client.envelope(recipients=["user@late.test"])
                self.assertEqual(client.data()[0], 250)
                client.envelope(recipients=["held@late.test"], parameters=" HOLDFOR=3600")
                self.assertEqual(client.data()[0], 250)
                wait_until("it waits", lambda: relay.events("deferred"))
                refusing.clear()
                self.assertEqual(client.ask("ETRN LATE.test")[0], 250)
                sink.wait_for(1)
                self.assertEqual(client.ask("ETRN late.test")[0], 458)
                self.assertEqual(client.ask("ETRN a..b")[0], 459)
            wait_until("one is left", lambda: relay.queued() == 1)
            self.assertEqual(sink.messages[0].recipients, ["user@late.test"])

    def test_whose_mail_one_shard_does_not_have(self):
        relay = self.into_maildir(shards=1)
        with Client(relay.port) as client:
            self.assertIn("ETRN", client.hello()[1].split("\n"))
            self.assertEqual(client.ask("ETRN nobody.test")[0], 251)

    def test_strangers_may_name_our_domains_alone(self):
        relay = self.into_maildir(listener={"relay_from": []})
        with Client(relay.port) as client:
            client.hello()
            self.assertEqual(client.ask("ETRN elsewhere.test")[0], 459)
            self.assertIn(client.ask("ETRN example.test")[0], (250, 251))

    def test_off(self):
        relay = self.into_maildir(listener={"extensions_off": ["ETRN"]})
        with Client(relay.port) as client:
            self.assertNotIn("ETRN", client.hello()[1])
            self.assertEqual(client.ask("ETRN example.test")[0], 502)


class Swaks(RelayTest):
    """What a program of others says, not what this file takes for the protocol."""

    def send(self, relay, *arguments):
        done = subprocess.run([program("swaks"), "--server", f"127.0.0.1:{relay.port}", "--from", "sender@client.test",
                               "--to", "user@example.test", "--helo", "client.test", *arguments],
                              capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_proxy_protocol(self):
        relay = self.into_maildir(listener={"proxy_protocol_from": ["127.0.0.1/32"]})
        ends = ("--proxy-source", "192.0.2.7", "--proxy-source-port", "40312", "--proxy-dest", "198.51.100.1",
                "--proxy-dest-port", "25")
        self.send(relay, "--proxy-version", "1", "--proxy-family", "TCP4", *ends)
        self.send(relay, "--proxy-version", "2", "--proxy-family", "AF_INET", *ends)
        for stored in relay.wait_for_mails(2).values():
            self.assertIn(b"Received: from client.test ([192.0.2.7])", stored)

    def test_xclient(self):
        relay = self.into_maildir(listener={"xclient_from": ["127.0.0.1/32"]})
        self.send(relay, "--xclient-addr", "192.0.2.7", "--xclient-name", "spike.test", "--xclient-helo", "spike.test")
        stored, = relay.wait_for_mails(1).values()
        self.assertIn(b"Received: from spike.test ([192.0.2.7])", stored)
