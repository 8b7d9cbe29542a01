"""What is kept from strangers: early talkers, too many at a time, trickles, lone line feeds; and what is not."""
import socket
import time

from harness import Client, RelayTest, original_of_maildir, original_of_wire, wait_until
from sink import Sink


class Strangers(RelayTest):
    def relay(self, listener=None, **options):
        """Nobody may relay; example.test is taken from anyone."""
        made = self.postern(listener={"relay_from": [], **(listener or {})}, **options)
        made.routes.append(made.maildir_route())
        return made.start()

    @staticmethod
    def raw(relay):
        connection = socket.create_connection(("127.0.0.1", relay.port), 30)
        connection.settimeout(30)
        return connection

    @staticmethod
    def all_of(connection):
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received

    def same_minute(self, body):
        """Rates begin anew with each minute of a clock that nobody here sees: two tries cannot both meet its border."""
        for last in (False, True):
            began = time.monotonic()
            try:
                return body()
            except AssertionError:
                if last or time.monotonic() - began > 30:
                    raise


class Greeting(Strangers):
    def test_comes_late_to_strangers_who_wait(self):
        relay = self.relay({"greeting_delay": "1s"})
        began = time.monotonic()
        with Client(relay.port) as client:
            self.assertGreater(time.monotonic() - began, 0.9)
            client.hello()
            client.envelope()
            self.assertEqual(client.data()[0], 250)
        relay.wait_for_mails(1)

    def test_those_who_do_not_wait_are_refused(self):
        relay = self.relay({"greeting_delay": "10s"})
        with self.raw(relay) as connection:
            connection.sendall(b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n")
            began = time.monotonic()
            received = self.all_of(connection)
            self.assertLess(time.monotonic() - began, 5)
        self.assertIn(b"554 5.5.0 ", received)
        self.assertNotIn(b"250", received)

    def test_those_who_may_relay_do_not_wait(self):
        relay = self.relay({"greeting_delay": "30s", "relay_from": ["127.0.0.0/8"]})
        began = time.monotonic()
        with Client(relay.port) as client:
            client.hello()
        self.assertLess(time.monotonic() - began, 10)


class Rates(Strangers):
    def test_connections(self):
        relay = self.relay(limits={"connection_rate_per_peer": "3/min"})

        def body():
            answers = []
            for _ in range(5):
                with self.raw(relay) as connection:
                    answers.append(connection.recv(4096)[:10])
            self.assertEqual(answers[-1], b"421 4.7.0 ")
        self.same_minute(body)
        wait_until("an event", lambda: any("in this minute" in event["reply"] for event in relay.events("rejected")))
        self.assertGreaterEqual(relay.metrics()["postern_connections_refused_total"], 1)

    def test_messages(self):
        relay = self.relay(limits={"message_rate_per_peer": "2/min"})

        def body():
            with Client(relay.port) as client:
                client.hello()
                replies = []
                for _ in range(4):
                    replies.append(client.ask("MAIL FROM:<a@client.test>"))
                    client.ask("RSET")
                self.assertEqual(replies[-1][0], 450)
                self.assertIn("4.7.1", replies[-1][1])
        self.same_minute(body)

    def test_none_for_those_who_may_relay(self):
        relay = self.relay({"relay_from": ["127.0.0.0/8"]},
                           limits={"message_rate_per_peer": "1/min", "connection_rate_per_peer": "1/min"})
        for _ in range(4):
            with Client(relay.port) as client:
                client.hello()
                client.envelope()
                self.assertEqual(client.data()[0], 250)
        relay.wait_for_mails(4)


class Errors(Strangers):
    def test_take_longer_and_longer(self):
        relay = self.relay(limits={"error_delay": "200ms", "errors": 7})
        with Client(relay.port) as client:
            client.hello()
            times = []
            for _ in range(6):
                began = time.monotonic()
                self.assertEqual(client.ask("WHAT")[0], 500)
                times.append(time.monotonic() - began)
            self.assertGreater(times[3], 0.19)
            self.assertGreater(times[4], 0.39)
            self.assertGreater(times[5], 0.79)
            self.assertEqual(client.ask("WHAT")[0], 500)
            self.assertEqual(client.reply()[0], 421)


class Stress(Strangers):
    def test_idle_clients_make_room(self):
        relay = self.relay(limits={"connections": 10, "connections_per_peer": 10, "stress_at": 60,
                                   "stress_idle_timeout": "1s"})
        quiet = [self.raw(relay) for _ in range(4)]
        for connection in quiet:
            self.assertTrue(connection.recv(4096).startswith(b"220 "))
        self.assertEqual(relay.metrics()["postern_stressed_shards"], 0)
        more = [self.raw(relay) for _ in range(4)]
        for connection in quiet + more:
            self.assertIn(b"421 4.4.2 ", self.all_of(connection))
            connection.close()
        wait_until("it to be over", lambda: len(relay.events("stress")) >= 2)
        self.assertIn("short", relay.events("stress")[0]["reply"])
        self.assertIn("suffice", relay.events("stress")[1]["reply"])
        self.assertGreaterEqual(relay.metrics()["postern_stress_total"], 1)
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            self.assertEqual(client.data()[0], 250)


class LineFeeds(Strangers):
    MEANT = b"Subject: x\r\n\r\none\r\n.\r\n.two\r\n\r\nMAIL FROM:<c@evil.test>\r\n.\r\nthree\r\n"
    # The same with lone line feeds in all places where they could be taken for an end.
    SENT = b"Subject: x\n\none\r\n.\n.two\r\n\r\nMAIL FROM:<c@evil.test>\n.\r\nthree\r\n"

    def send_raw(self, relay, content):
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            self.assertEqual(client.ask("DATA")[0], 354)
            client.send(content + b".\r\n")
            return client.reply()

    def test_become_lines_and_end_nothing(self):
        with Sink() as sink:
            relay = self.postern(listener={"bare_newline": "normalize"}, accept=("example.test", "mailbox.test"))
            relay.routes += [relay.maildir_route("mailbox.test"), ("*", f"smtp:[127.0.0.1]:{sink.port}")]
            relay.start()
            self.assertEqual(self.send_raw(relay, self.SENT)[0], 250)
            message, = sink.wait_for(1)
            self.assertEqual(original_of_wire(message.content), self.MEANT)
            with Client(relay.port) as client:
                client.hello()
                client.envelope(recipients=("user@mailbox.test",))
                content = self.MEANT.replace(b"\r\n", b"\n")
                client.send(b"BDAT %d LAST\r\n" % len(content) + content)
                self.assertEqual(client.reply()[0], 250)
            stored, = relay.wait_for_mails(1).values()
            self.assertEqual(original_of_maildir(stored), self.MEANT.replace(b"\r\n", b"\n"))
            self.assertEqual(len(sink.messages), 1)

    def test_to_a_next_hop_without_chunking(self):
        with Sink(extensions=("8BITMIME",)) as sink:
            relay = self.postern(listener={"bare_newline": "normalize"},
                                 routes=[("*", f"smtp:[127.0.0.1]:{sink.port}")]).start()
            self.assertEqual(self.send_raw(relay, self.SENT)[0], 250)
            message, = sink.wait_for(1)
            self.assertEqual(original_of_wire(message.content), self.MEANT)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual(len(sink.messages), 1)

    def test_are_refused_by_default_and_lone_crs_always(self):
        relay = self.relay()
        code, text = self.send_raw(relay, self.SENT)
        self.assertEqual((code, text[:6]), (550, "5.6.11"))
        normalizing = self.relay({"bare_newline": "normalize"})
        code, text = self.send_raw(normalizing, b"Subject: x\r\n\r\na\r.\rb\r\n")
        self.assertEqual((code, text[:6]), (550, "5.6.11"))
