"""The reply table, over real sockets: each row, and the dialogues that have broken other servers."""
import signal
import socket
import time
import unittest

from harness import SLOWNESS, Client, RelayTest, wait_until


def status(reply):
    """"250 2.1.0" of (250, "2.1.0 Ok")."""
    code, text = reply
    return f"{code} {text.split(' ', 1)[0]}"


class Replies(RelayTest):
    def setUp(self):
        super().setUp()
        self.relay = self.into_maildir(routes=[("gone@example.test", "reject:no such user")],
                                       listener={"relay_from": ["127.0.0.9"]},
                                       limits={"message_bytes": "64KiB", "recipients": 5, "errors": 5, "received_hops": 10})

    def client(self, hello=True):
        client = Client(self.relay.port)
        self.addCleanup(client.close)
        if hello:
            client.hello()
        return client

    def assertCloses(self, client):
        self.assertTrue(client.at_end(), "the server should have closed")

    def test_greeting_and_ehlo(self):
        client = self.client(hello=False)
        self.assertEqual(client.greeting[0], 220)
        self.assertTrue(client.greeting[1].startswith("mx.relay.test ESMTP"))
        code, text = client.hello()
        self.assertEqual(code, 250)
        offers = {line.split(" ")[0] for line in text.split("\n")[1:]}
        self.assertLessEqual({"PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "SMTPUTF8"}, offers)
        self.assertIn("SIZE 65536", text.split("\n"))

    def test_helo_noop_rset_vrfy_help_quit(self):
        client = self.client(hello=False)
        self.assertEqual(client.ask("HELO client.test")[0], 250)
        self.assertEqual(client.ask("NOOP")[0], 250)
        self.assertEqual(client.ask("RSET")[0], 250)
        self.assertEqual(client.ask("VRFY user")[0], 252)
        self.assertEqual(client.ask("HELP")[0], 214)
        self.assertEqual(client.ask("QUIT")[0], 221)
        self.assertCloses(client)

    def test_unknown_command(self):
        self.assertEqual(status(self.client().ask("XYZZY")), "500 5.5.2")

    def test_known_but_out_of_order(self):
        client = self.client()
        for command in ("RCPT TO:<user@example.test>", "DATA", "BDAT 0 LAST"):
            self.assertEqual(status(client.ask(command)), "503 5.5.1", command)

    def test_bad_arguments(self):
        client = self.client()
        self.assertEqual(status(client.ask("MAIL FROM:<a@client.test> WEIRD=1"))[:3], "555")
        self.assertEqual(status(client.ask("NOOP")), "250 2.0.0")
        self.assertEqual(status(client.ask("MAIL FROM:<a@client.test> SIZE=x")), "501 5.5.4")
        self.assertEqual(status(client.ask("BDAT x")), "501 5.5.4")

    def test_command_line_too_long(self):
        client = self.client()
        self.assertEqual(status(client.ask("NOOP " + "x" * 3000)), "500 5.5.2")
        self.assertEqual(client.ask("NOOP")[0], 250)

    def test_bare_lf_in_a_command_line_closes(self):
        client = self.client()
        self.assertEqual(status(client.ask(b"NOOP\n")), "501 5.5.2")
        self.assertCloses(client)

    def test_bare_cr_and_lf_and_nul_in_content(self):
        client = self.client()
        for bad in (b"a\rb\r\n", b"a\nb\r\n", b"a\0b\r\n"):
            client.envelope()
            self.assertEqual(status(client.data(b"Subject: x\r\n\r\n" + bad)), "550 5.6.11", bad)

    def test_nothing_but_crlf_dot_crlf_ends_content(self):
        relay = self.into_maildir(limits={"errors": 100})
        client = Client(relay.port)
        self.addCleanup(client.close)
        client.hello()
        for smuggle in (b"\n.\n", b"\n.\r\n", b"\r.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n\0.\r\n", b"\n.\r"):
            client.envelope()
            self.assertEqual(client.ask("DATA")[0], 354)
            client.send(b"Subject: x\r\n\r\nbody" + smuggle + b"MAIL FROM:<evil@client.test>\r\n")
            time.sleep(0.02)
            client.send(b"\r\n.\r\n")
            self.assertEqual(status(client.reply()), "550 5.6.11", smuggle)
            self.assertEqual(client.ask("NOOP")[0], 250, smuggle)
        self.assertEqual(relay.mails(), {})

    def test_text_line_beyond_the_limit(self):
        relay = self.into_maildir()
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            self.assertEqual(status(client.data(b"Subject: x\r\n\r\n" + b"x" * 2_000_000 + b"\r\n")), "554 5.6.0")

    def test_eight_bit_address_without_smtputf8(self):
        client = self.client()
        self.assertEqual(status(client.ask("MAIL FROM:<grün@client.test>")), "553 5.6.7")
        self.assertEqual(client.ask("MAIL FROM:<grün@client.test> SMTPUTF8")[0], 250)

    def test_bad_paths(self):
        client = self.client()
        self.assertEqual(status(client.ask("MAIL FROM:<a b@client.test>")), "501 5.1.7")
        client.ask("MAIL FROM:<a@client.test>")
        self.assertEqual(status(client.ask("RCPT TO:<a b@example.test>")), "501 5.1.3")

    def test_too_large_at_mail_and_in_the_data(self):
        client = self.client()
        self.assertEqual(status(client.ask("MAIL FROM:<a@client.test> SIZE=70000")), "552 5.3.4")
        client.envelope()
        self.assertEqual(status(client.data(b"Subject: x\r\n\r\n" + b"x" * 78 * 1000)), "552 5.3.4")
        client.envelope()
        self.assertEqual(client.data()[0], 250)

    def test_too_many_recipients(self):
        client = self.client()
        replies = client.envelope(recipients=[f"user{n}@example.test" for n in range(6)])
        self.assertEqual([code for code, _ in replies[:-1]], [250] * 6)
        self.assertEqual(status(replies[-1]), "452 4.5.3")

    def test_loop(self):
        client = self.client()
        client.envelope()
        self.assertEqual(status(client.data(b"Received: x\r\n" * 10 + b"\r\nbody\r\n")), "554 5.4.6")

    def test_not_permitted_and_unknown_recipient(self):
        client = self.client()
        client.ask("MAIL FROM:<a@client.test>")
        self.assertEqual(status(client.ask("RCPT TO:<user@elsewhere.test>")), "550 5.7.1")
        self.assertEqual(status(client.ask("RCPT TO:<gone@example.test>")), "550 5.7.1")
        self.assertEqual(status(client.ask('RCPT TO:<".hidden"@example.test>')), "550 5.1.1")
        self.assertEqual(client.ask("RCPT TO:<user@example.test>")[0], 250)

    def test_a_peer_of_relay_from_may_relay(self):
        with Client(self.relay.port, source="127.0.0.9") as client:
            client.hello()
            client.ask("MAIL FROM:<a@client.test>")
            self.assertEqual(client.ask("RCPT TO:<user@elsewhere.test>")[0], 250)

    def test_postmaster_without_a_domain(self):
        client = self.client()
        client.ask("MAIL FROM:<a@client.test>")
        self.assertEqual(client.ask("RCPT TO:<postmaster>")[0], 250)

    def test_input_before_the_greeting(self):
        # While the daemon stands still the kernel takes connection and input: both are there before any greeting.
        self.relay.process.send_signal(signal.SIGSTOP)
        try:
            early = Client(self.relay.port, greet=False)
            self.addCleanup(early.close)
            early.send("EHLO client.test\r\n")
        finally:
            self.relay.process.send_signal(signal.SIGCONT)
        self.assertEqual(early.reply()[0], 220)
        self.assertEqual(status(early.reply()), "554 5.5.0")
        self.assertTrue(early.at_end())
        self.assertEqual(early.buffer, b"")

    def test_input_inside_a_closed_pipelining_group(self):
        for group in ("EHLO client.test\r\nNOOP\r\n", "VRFY x\r\nNOOP\r\n", "NOOP\r\nNOOP\r\n"):
            client = self.client(hello=False)
            if not group.startswith("EHLO"):
                client.hello()
            client.send(group)
            self.assertCloses(client)
            self.assertIn("554 5.5.0", client.buffer.decode(), group)

    def test_nothing_behind_quit_is_read(self):
        client = self.client()
        client.send("QUIT\r\nMAIL FROM:<a@client.test>\r\n")
        self.assertEqual(client.reply()[0], 221)
        self.assertCloses(client)
        self.assertEqual(client.buffer, b"")

    def test_content_before_354(self):
        client = self.client()
        client.envelope()
        client.send(b"DATA\r\nSubject: x\r\n\r\nbody\r\n.\r\n")
        self.assertCloses(client)
        self.assertIn("554 5.5.0", client.buffer.decode())
        self.assertEqual(self.relay.metrics()["postern_messages_received_total"], 0)

    def test_too_many_errors(self):
        client = self.client()
        last = None
        for _ in range(10):
            last = client.ask("XYZZY")
            if last[0] == 421:
                break
        self.assertEqual(status(last), "421 4.7.0")
        self.assertCloses(client)

    def test_pipelined_group(self):
        client = self.client()
        client.send("MAIL FROM:<a@client.test>\r\nRCPT TO:<user@example.test>\r\nRCPT TO:<x@elsewhere.test>\r\nDATA\r\n")
        self.assertEqual([client.reply()[0] for _ in range(4)], [250, 250, 550, 354])
        client.send(b"Subject: x\r\n\r\nbody\r\n.\r\n")
        self.assertEqual(client.reply()[0], 250)

    def test_content_and_the_next_transaction_in_one_write(self):
        client = self.client()
        client.envelope()
        client.ask("DATA")
        client.send(b"Subject: x\r\n\r\n1\r\n.\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<user@example.test>\r\nDATA\r\n")
        self.assertEqual([client.reply()[0] for _ in range(4)], [250, 250, 250, 354])
        client.send(b"Subject: x\r\n\r\n2\r\n.\r\n")
        self.assertEqual(client.reply()[0], 250)
        self.relay.wait_for_mails(2)

    def test_commands_split_at_every_byte(self):
        client = self.client(hello=False)
        dialogue = [b"EHLO client.test\r\n", b"MAIL FROM:<a@client.test>\r\n", b"RCPT TO:<user@example.test>\r\n", b"DATA\r\n",
                    b"Subject: x\r\n\r\n..dots\r\n.\r\n", b"QUIT\r\n"]
        for command, wanted in zip(dialogue, (250, 250, 250, 354, 250, 221)):
            for byte in command:
                client.send(bytes([byte]))
                time.sleep(0.001)
            self.assertEqual(client.reply()[0], wanted, command)
        (stored,) = self.relay.wait_for_mails(1).values()
        self.assertTrue(stored.endswith(b"\n.dots\n"))

    def test_connection_lost_in_the_middle_leaves_nothing(self):
        for part in (b"DATA\r\n", b"DATA\r\nSubject: x\r\n\r\nbo", b"BDAT 100\r\nhalf", b"BDAT 4\r\nhalf"):
            client = self.client()
            client.envelope()
            client.send(part.split(b"\r\n", 1)[0] + b"\r\n")
            if part.startswith(b"DATA"):
                client.reply()
            client.send(part.split(b"\r\n", 1)[1])
            time.sleep(0.05)
            client.close()
        wait_until("no connection", lambda: self.relay.metrics()['postern_connections{direction="in"}'] == 0)
        self.assertEqual(self.relay.metrics()["postern_messages_received_total"], 0)


class Bdat(RelayTest):
    def setUp(self):
        super().setUp()
        self.relay = self.into_maildir(limits={"message_bytes": "64KiB"})
        self.client = Client(self.relay.port)
        self.addCleanup(self.client.close)
        self.client.hello()

    content = b"Subject: x\r\n\r\nbody\r\n"

    def good(self, text=b"body"):
        content = b"Subject: x\r\n\r\n" + text + b"\r\n"
        return b"MAIL FROM:<a@client.test>\r\nRCPT TO:<user@example.test>\r\nBDAT %d LAST\r\n" % len(content) + content

    def test_zero_last_alone(self):
        self.client.envelope()
        self.assertEqual(self.client.ask("BDAT 0 LAST")[0], 250)

    def test_without_mail_the_chunk_is_swallowed(self):
        self.client.send(b"BDAT 6\r\nQUIT\r\n")
        self.assertEqual(status(self.client.reply()), "503 5.5.1")
        self.assertEqual(self.client.ask("NOOP")[0], 250)

    def test_data_after_bdat_is_refused(self):
        self.client.envelope()
        self.client.send(b"BDAT %d\r\n" % len(self.content) + self.content)
        self.assertEqual(self.client.reply()[0], 250)
        self.assertEqual(status(self.client.ask("DATA")), "503 5.5.1")

    def test_a_failed_one_between_good_ones_in_one_write(self):
        bad = b"Subject: x\r\n\r\nbare\nline feed\r\n"
        self.client.send(self.good(b"first") +
                         b"MAIL FROM:<a@client.test>\r\nRCPT TO:<user@example.test>\r\nBDAT %d LAST\r\n" % len(bad) + bad +
                         self.good(b"third"))
        codes = [self.client.reply()[0] for _ in range(9)]
        self.assertEqual(codes, [250, 250, 250, 250, 250, 550, 250, 250, 250])
        stored = b"".join(self.relay.wait_for_mails(2).values())
        self.assertIn(b"first", stored)
        self.assertIn(b"third", stored)
        self.assertNotIn(b"bare", stored)

    def test_a_chunk_too_large_fails_the_transaction_and_no_other(self):
        self.client.envelope()
        self.client.send(b"BDAT 70000\r\n" + b"x" * 70000)
        self.assertEqual(status(self.client.reply()), "552 5.3.4")
        self.client.ask("RSET")
        self.client.send(self.good())
        self.assertEqual([self.client.reply()[0] for _ in range(3)], [250, 250, 250])

    def test_wrong_length_and_then_more(self):
        # The chunk is five bytes too short: what follows is read as commands, and none of it becomes mail.
        self.client.envelope()
        self.client.send(b"BDAT %d LAST\r\n" % (len(self.content) - 5) + self.content)
        self.assertEqual(self.client.reply()[0], 250)
        self.client.send(b"\r\nNOOP\r\n")
        self.assertRegex(self.client.line(), r"^5\d\d ")


class Time(RelayTest):
    def test_silence_ends_with_421_4_4_2(self):
        relay = self.into_maildir(limits={"idle_timeout": "1s"})
        with Client(relay.port) as client:
            started = time.monotonic()
            self.assertEqual(status(client.reply()), "421 4.4.2")
            self.assertGreater(time.monotonic() - started, 0.8)
            self.assertTrue(client.at_end())

    def test_one_byte_a_second_is_silence(self):
        relay = self.into_maildir(limits={"idle_timeout": "2s"})
        with Client(relay.port) as client:
            client.hello()
            client.envelope()
            client.ask("DATA")
            deadline = time.monotonic() + 15 * SLOWNESS
            client.socket.settimeout(0.5)
            answer = b""
            while not answer and time.monotonic() < deadline:
                try:
                    client.send(b"x")
                    answer = client.socket.recv(1000)
                except (TimeoutError, socket.timeout):
                    pass
                except ConnectionError:
                    break
            self.assertTrue(answer.startswith(b"421 4.4.2"), answer)

    def test_a_session_has_an_end(self):
        relay = self.into_maildir(limits={"session_timeout": "2s"})
        with Client(relay.port) as client:
            client.hello()
            started = time.monotonic()
            codes = []
            while time.monotonic() - started < 15 * SLOWNESS:
                try:
                    codes.append(client.ask("NOOP")[0])
                except (EOFError, ConnectionError):
                    break
                if codes[-1] == 421:
                    break
                time.sleep(0.1)
            self.assertEqual(codes[-1], 421)

    def test_slow_clients_do_not_slow_others(self):
        relay = self.into_maildir(shards=1)
        slow = [Client(relay.port) for _ in range(200)]
        for client in slow:
            self.addCleanup(client.close)
            client.send(b"EHLO cl")
        started = time.monotonic()
        with Client(relay.port) as quick:
            quick.hello()
            for _ in range(50):
                quick.envelope()
                self.assertEqual(quick.data()[0], 250)
        self.assertLess(time.monotonic() - started, 10 * SLOWNESS)


class Budgets(RelayTest):
    def test_connections_per_process(self):
        relay = self.into_maildir(limits={"connections": 3})
        held = [Client(relay.port) for _ in range(3)]
        for client in held:
            self.addCleanup(client.close)
        with Client(relay.port) as fourth:
            self.assertEqual(status(fourth.greeting), "421 4.3.2")
            self.assertTrue(fourth.at_end())
        held[0].ask("QUIT")
        held[0].close()

        def taken():
            with Client(relay.port) as again:
                return again.greeting[0] == 220
        wait_until("intake after a connection is free", taken)

    def test_connections_per_peer(self):
        relay = self.into_maildir(limits={"connections_per_peer": 2}, shards=4)
        held = [Client(relay.port, source="127.0.0.7") for _ in range(2)]
        for client in held:
            self.addCleanup(client.close)
        with Client(relay.port, source="127.0.0.7") as third:
            self.assertEqual(status(third.greeting), "421 4.7.0")
        with Client(relay.port, source="127.0.0.8") as other:
            self.assertEqual(other.greeting[0], 220)

    def test_shutting_down_says_421_4_3_2(self):
        relay = self.into_maildir(root={"shutdown_grace": "5s"})
        with Client(relay.port) as idle:
            idle.hello()
            relay.process.terminate()
            self.assertEqual(status(idle.reply()), "421 4.3.2")
            self.assertTrue(idle.at_end())
        relay.stop()

    def test_disk_low_says_452_4_3_1(self):
        relay = self.into_maildir(spool={"min_free": "900TiB"})
        with Client(relay.port) as client:
            client.hello()
            self.assertEqual(status(wait_until("452", lambda: (
                lambda reply: reply if reply[0] == 452 else client.ask("RSET") and None)(client.ask("MAIL FROM:<a@client.test>")))),
                "452 4.3.1")

    def test_descriptors_exhausted_says_421_4_3_2(self):
        relay = self.postern(shards=1)
        relay.routes.append(relay.maildir_route())
        relay.start(descriptors=200)
        self.assertRegex(relay.log(), r"limits\.connections is 32768 and smtp_client\.connections 8192, but \d+ descriptors are "
                         r"enough for \d+ and \d+ only; raise LimitNOFILE= \(systemd\) or ulimit -n")
        clients, refused = [], None
        try:
            for _ in range(250):
                client = Client(relay.port)
                clients.append(client)
                if client.greeting[0] == 421:
                    refused = client.greeting
                    break
            self.assertIsNotNone(refused, "200 descriptors were enough for 250 connections")
            self.assertEqual(status(refused), "421 4.3.2")
        finally:
            for client in clients:
                client.close()

        def taken():
            with Client(relay.port) as again:
                return again.greeting[0] == 220
        wait_until("intake after descriptors are free", taken)


if __name__ == "__main__":
    unittest.main()
