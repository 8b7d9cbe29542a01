"""TLS with peers that mean no good: handshakes that never end, that begin with something else, that are cut anywhere; those who
talk before the greeting; too many of them; and a balancer's header before TLS."""
import socket
import ssl
import struct
import subprocess
import time

from harness import SLOWNESS, Client, free_port, program, wait_until
from test_tls import TlsTest, client_context


class MemoryClient:
    """The client's side of TLS apart from its socket: flights can be looked at, cut, kept back and sent together."""

    def __init__(self, port, version=ssl.TLSVersion.TLSv1_3, ahead=b""):
        context = client_context(trusted=None, minimum_version=version, maximum_version=version)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.object = context.wrap_bio(self.incoming, self.outgoing, server_hostname="mx.relay.test")
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20 * SLOWNESS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if ahead:
            self.socket.sendall(ahead)

    def flight(self):
        """What it would send next; None: the handshake is complete."""
        while True:
            try:
                self.object.do_handshake()
                return self.outgoing.read() or None
            except ssl.SSLWantReadError:
                if self.outgoing.pending:
                    return self.outgoing.read()
                self.take()

    def take(self):
        more = self.socket.recv(65536)
        if not more:
            raise EOFError
        self.incoming.write(more)

    def shake_hands(self):
        while flight := self.flight():
            self.socket.sendall(flight)
        return self

    def read(self):
        """Plain text; empty: the end."""
        while True:
            try:
                return self.object.read(65536)
            except ssl.SSLWantReadError:
                try:
                    self.take()
                except (EOFError, ConnectionResetError):
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    def read_to_end(self):
        text = b""
        while more := self.read():
            text += more
        return text

    def write(self, plain):
        self.object.write(plain)
        self.socket.sendall(self.outgoing.read())

    def reset(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class HostileTest(TlsTest):
    def all_gone(self, relay):
        wait_until("all connections to be gone", lambda: relay.metrics()['postern_connections{direction="in"}'] == 0)

    def serves(self, relay):
        """And whoever means well is still served."""
        client = self.client(relay, client_context(self.folder))
        client.envelope()
        self.assertEqual(client.data()[0], 250)
        client.close()


class Handshakes(HostileTest):
    def test_slow_ones_have_a_deadline(self):
        relay = self.relay(tls={"handshake_timeout": "2s"})
        hello = MemoryClient(relay.tls_port)
        flight = hello.flight()
        hello.socket.close()
        for port, greeted in ((relay.tls_port, False), (relay.port, True)):
            for slow in (False, True):
                client = Client(port, greet=greeted)
                self.addCleanup(client.close)
                if greeted:
                    client.hello()
                    self.assertEqual(client.ask("STARTTLS")[0], 220)
                began = time.monotonic()
                sent = 0
                if slow:  # A byte at a time, at which pace the hello would take minutes.
                    client.socket.settimeout(0.3)
                    ended = False
                    while not ended and time.monotonic() - began < 30 * SLOWNESS:
                        client.send(flight[sent:sent + 1])
                        sent += 1
                        try:
                            ended = client.socket.recv(1000) == b""
                        except TimeoutError:
                            pass
                        except ConnectionResetError:
                            ended = True
                    self.assertLess(sent, len(flight))
                else:  # Half of it, then silence.
                    client.send(flight[:len(flight) // 2])
                    ended = client.at_end()
                self.assertTrue(ended)
                self.assertGreater(time.monotonic() - began, 1.5)
                self.assertLess(time.monotonic() - began, 20 * SLOWNESS)
        wait_until("all to be counted", lambda: relay.metrics()['postern_tls_handshakes_total{result="failed"}'] == 5)
        wait_until("all to be told", lambda: sum("timed out" in event["reply"] for event in relay.events("tls_failed")) == 4)
        self.serves(relay)

    def test_something_else_instead_of_a_hello(self):
        relay = self.relay()
        inputs = {
            "SSLv2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80\x02\x00\x80" + b"\x07" * 31,
            "HTTP": b"GET / HTTP/1.1\r\nHost: mx.relay.test\r\n\r\n",
            "a proxy's CONNECT": b"CONNECT mx.relay.test:25 HTTP/1.0\r\n\r\n",
            "SMTP": b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<user@example.test>\r\nDATA\r\n",
            "PROXY": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n",
            "nothing but zeroes": bytes(100_000),
            "a hello of 17,000 bytes": b"\x16\x03\x01\x40\x00\x01\x00\x42\x68\x03\x03" + b"x" * 16_378 + b"\x16\x03\x01\x02\x70" +
                                       b"x" * 624,
            "a message of 16 MiB": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"x" * 16_380,
            "empty records": b"\x16\x03\x01\x00\x00" * 20_000,
            "records of a byte": b"\x16\x03\x01\x00\x01\x01" + b"\x16\x03\x01\x00\x01\xff" * 20_000,
            "changes of cipher": b"\x14\x03\x03\x00\x01\x01" * 20_000,
            "warnings": b"\x15\x03\x01\x00\x02\x01\x00" * 20_000,
            "an alert": b"\x15\x03\x01\x00\x02\x02\x28",
        }
        failed = 0
        for port, greeted in ((relay.tls_port, False), (relay.port, True)):
            for what, data in inputs.items():
                with self.subTest(what, greeted=greeted):
                    client = Client(port, greet=greeted)
                    if greeted:
                        client.hello()
                        client.ask("STARTTLS")
                    try:
                        client.send(data)
                        self.assertTrue(client.at_end(), "it is ended by us, without waiting for more")
                    except (BrokenPipeError, ConnectionResetError):
                        pass
                    # An alert of TLS at most, and no word of SMTP: nothing of it was taken for a command.
                    self.assertLess(len(client.buffer), 100)
                    self.assertNotIn(b"250", client.buffer)
                    client.close()
                    failed += 1
        wait_until("all to be counted", lambda: relay.metrics()['postern_tls_handshakes_total{result="failed"}'] == failed)
        self.all_gone(relay)
        self.assertTrue(all("TLS handshake: " in event["reply"] for event in relay.events("tls_failed")))
        self.serves(relay)

    def test_an_end_anywhere_in_a_handshake(self):
        relay = self.relay()
        begun = 0
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for flight_wanted in range(2):
                for part in range(9):
                    for how in ("fin", "reset"):
                        client = MemoryClient(relay.tls_port, version)
                        for _ in range(flight_wanted):
                            client.socket.sendall(client.flight())
                        flight = client.flight()
                        client.socket.sendall(flight[:len(flight) * part // 8])
                        begun += 1
                        if how == "reset":
                            client.reset()
                        else:
                            client.socket.shutdown(socket.SHUT_WR)
                            # All that it still says is for TLS to hear; then it ends, too.
                            wait_until("the end", lambda c=client: not c.socket.recv(65536))
                            client.socket.close()
        self.all_gone(relay)
        numbers = relay.metrics()
        ended = sum(numbers[f'postern_tls_handshakes_total{{result="{result}"}}'] for result in ("full", "resumed", "failed"))
        # A reset may come before the connection was ever accepted.
        self.assertLessEqual(ended, begun)
        self.assertGreater(ended, begun / 2)
        self.serves(relay)

    def test_renegotiation_is_refused(self):
        relay = self.relay()
        process = subprocess.Popen([program("openssl"), "s_client", "-tls1_2", "-legacy_renegotiation", "-connect",
                                    f"127.0.0.1:{relay.tls_port}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.kill)
        said = b""
        while b"220 mx.relay.test" not in said:
            more = process.stdout.read1(65536)
            self.assertTrue(more, said)
            said += more
        process.stdin.write(b"R\n")  # s_client's command for it
        process.stdin.flush()
        said, _ = process.communicate(timeout=30 * SLOWNESS)
        self.assertIn(b"RENEGOTIATING", said)
        self.assertRegex(said, b"(?i)alert|renegotiation|unexpected")
        self.all_gone(relay)
        self.serves(relay)


class EarlyTalkers(HostileTest):
    def test_who_talks_before_the_greeting_within_tls(self):
        relay = self.relay()
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = MemoryClient(relay.tls_port, version)
            if version == ssl.TLSVersion.TLSv1_3:
                client.socket.sendall(client.flight())
                # The handshake's last flight and a command in one segment.
                last = client.flight()
                client.object.write(b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\n")
                client.socket.sendall(last + client.outgoing.read())
                text = client.read_to_end()
                self.assertTrue(text.startswith(b"220 mx.relay.test"), text)
                self.assertIn(b"\r\n554 5.5.0 ", text)
                self.assertNotIn(b"250", text)
            else:  # The server has the last word of the handshake: who waits for that is greeted.
                client.shake_hands()
                self.assertTrue(client.read().startswith(b"220 "))
                client.write(b"EHLO client.test\r\n")
                self.assertTrue(client.read().startswith(b"250-"))
        # Who waits is greeted, whatever else it has to say in TLS.
        with socket.create_connection(("127.0.0.1", relay.tls_port), timeout=20 * SLOWNESS) as plain:
            with client_context(self.folder).wrap_socket(plain, server_hostname="mx.relay.test") as secured:
                self.assertTrue(secured.recv(1000).startswith(b"220 "))
                secured.sendall(b"EHLO client.test\r\n")
                self.assertTrue(secured.recv(10_000).startswith(b"250-"))

    def test_an_end_before_the_greeting(self):
        relay = self.relay()
        for _ in range(20):
            client = MemoryClient(relay.tls_port)
            client.socket.sendall(client.flight())
            last = client.flight()
            try:
                client.object.unwrap()
            except ssl.SSLWantReadError:
                pass
            client.socket.sendall(last + client.outgoing.read())
            self.assertEqual(client.read_to_end(), b"")
            client.socket.close()
        self.all_gone(relay)
        self.serves(relay)


class Limits(HostileTest):
    def test_of_one_peer_in_a_minute(self):
        relay = self.relay(listener={"relay_from": []}, tls={"handshakes_per_peer": 5})
        done = 0

        def to_the_limit():
            nonlocal done
            while done < 100:
                client = Client(relay.port)
                self.addCleanup(client.close)
                client.hello()
                code, text = client.ask("STARTTLS")
                if code != 220:
                    return code, text, client
                client.socket = client_context(trusted=None).wrap_socket(client.socket, server_hostname="mx.relay.test")
                client.hello()
                done += 1
            return None

        code, text, client = to_the_limit()
        self.assertEqual((code, text.split(" ")[0]), (421, "4.7.0"))
        self.assertTrue(client.at_end())
        self.assertGreaterEqual(done, 5)
        self.assertLessEqual(done, 10, "the border of a minute may lie between")
        # Those of relay_from have no rate, and the limit may be changed while it runs.
        relay.listener["relay_from"] = ["127.0.0.0/8"]
        relay.reload()
        wait_until("the reload", lambda: "reloaded" in relay.log())
        self.serves(relay)
        wait_until("it to be counted", lambda: relay.metrics()['postern_tls_handshakes_total{result="refused"}'] >= 1)
        self.assertIn("421 4.7.0 Too many TLS handshakes from your address",
                      [event["reply"] for event in relay.events("tls_failed")])

    def test_of_all_at_once(self):
        relay = self.relay(shards=1, tls={"handshakes": 3})
        waiting = [socket.create_connection(("127.0.0.1", relay.tls_port)) for _ in range(3)]
        for each in waiting:
            self.addCleanup(each.close)
        wait_until("them to be taken", lambda: relay.metrics()['postern_connections{direction="in"}'] == 3)
        with socket.create_connection(("127.0.0.1", relay.tls_port), timeout=20 * SLOWNESS) as beyond:
            self.assertEqual(beyond.recv(100), b"", "closed without a word")
        with Client(relay.port) as client:
            client.hello()
            code, text = client.ask("STARTTLS")
            self.assertEqual((code, text.split(" ")[0]), (421, "4.3.2"))
            self.assertTrue(client.at_end())
        wait_until("both to be counted", lambda: relay.metrics()['postern_tls_handshakes_total{result="refused"}'] == 2)
        waiting.pop().close()
        wait_until("its place to be free", lambda: relay.metrics()['postern_connections{direction="in"}'] <= 2)
        self.serves(relay)


class Proxied(HostileTest):
    V1 = b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 465\r\n"
    V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x7f\0\0\1\x12\x67\x01\xd1"

    def proxied(self, **options):
        relay = self.relay(**options)
        relay.stop()
        relay.more = relay.more.replace('service = "submissions"\n',
                                        'service = "submissions"\nproxy_protocol_from = ["127.0.0.0/8"]\n')
        return relay.start()

    def test_a_header_before_tls(self):
        relay = self.proxied()
        number = 0
        for header in (self.V1, self.V2):
            for cut in (None, 1, 12, len(header) - 1, len(header)):
                client = MemoryClient(relay.tls_port)
                flight = client.flight()
                if cut is None:  # Header and hello in one segment, and more of the hello behind it.
                    client.socket.sendall(header + flight[:100])
                    client.socket.sendall(flight[100:])
                else:
                    client.socket.sendall(header[:cut])
                    wait_until("it to be taken", lambda: relay.metrics()['postern_connections{direction="in"}'] == 1)
                    client.socket.sendall(header[cut:] + flight)
                client.shake_hands()
                self.assertTrue(client.read().startswith(b"220 mx.relay.test"))
                client.write(b"EHLO client.test\r\n")
                self.assertTrue(client.read().startswith(b"250-"))
                client.write(b"MAIL FROM:<a@client.test>\r\nRCPT TO:<user@example.test>\r\nBDAT 12 LAST\r\nSubject: x\r\n")
                text = b""
                while text.count(b"\r\n") < 3:
                    text += client.read()
                self.assertIn(b"250 2.0.0 Ok: queued", text)
                client.socket.close()
                number += 1
                self.all_gone(relay)
        stored = relay.wait_for_mails(number)
        self.assertTrue(all(b"[192.0.2.7]" in mail and b"with ESMTPS id" in mail for mail in stored.values()))
        events = wait_until("all to be told", lambda: (
            lambda found: found if len(found) == number else None)(relay.events("secured")))
        self.assertTrue(all(event["peer"].startswith("192.0.2.7:") for event in events), events)

    def test_what_is_no_header_before_tls(self):
        relay = self.proxied()
        hello = MemoryClient(relay.tls_port).flight()
        for data in (hello, b"PROXY TCP4 nonsense\r\n" + hello, self.V2[:-1], b"EHLO x\r\n", self.V1):
            client = Client(relay.tls_port, greet=False)
            client.send(data)
            client.socket.shutdown(socket.SHUT_WR)
            self.assertTrue(client.at_end())
            self.assertEqual(client.buffer, b"")
            client.close()
        # An end and a reset between the header and the handshake.
        for _ in range(20):
            client = MemoryClient(relay.tls_port)
            client.socket.sendall(self.V1)
            client.reset()
        self.all_gone(relay)

    def test_limits_count_the_client_that_the_header_names(self):
        relay = self.proxied(listener={"relay_from": []}, tls={"handshakes_per_peer": 2}, limits={"connections_per_peer": 3})

        def greeted(header):
            client = MemoryClient(relay.tls_port, ahead=header)
            self.addCleanup(client.socket.close)
            try:
                return client.shake_hands().read().startswith(b"220 ")
            except (EOFError, OSError):
                return False

        answers = [greeted(self.V1) for _ in range(6)]
        self.assertIn(False, answers)
        self.assertGreaterEqual(sum(answers), 2)
        self.assertTrue(greeted(self.V1.replace(b"192.0.2.7", b"192.0.2.8")), "another client behind the same balancer")

    def test_a_real_haproxy(self):
        relay = self.proxied(listener={"proxy_protocol_from": ["127.0.0.0/8"]})
        ports = {(kind, version): free_port() for kind in ("plain", "tls") for version in (1, 2)}
        lines = ["defaults", "mode tcp", "timeout connect 5s", "timeout client 1m", "timeout server 1m"]
        for (kind, version), port in ports.items():
            target = relay.port if kind == "plain" else relay.tls_port
            lines += [f"listen {kind}{version}", f"bind 127.0.0.1:{port}",
                      f"server relay 127.0.0.1:{target} " + ("send-proxy" if version == 1 else "send-proxy-v2")]
        path = f"{relay.folder}/haproxy.cfg"
        with open(path, "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")
        process = subprocess.Popen([program("haproxy"), "-db", "-f", path], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)

        def listens(port):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                return True
            except ConnectionRefusedError:
                return False

        number = 0
        for (kind, _), port in ports.items():
            wait_until("haproxy to listen", lambda port=port: listens(port))
            for secured in (False, True) if kind == "plain" else (True,):
                client = Client(port, source="127.0.0.9", greet=False)
                self.addCleanup(client.close)
                context = client_context(self.folder)
                if kind == "tls":
                    client.socket = context.wrap_socket(client.socket, server_hostname="mx.relay.test")
                self.assertEqual(client.reply()[0], 220)
                client.hello()
                if kind == "plain" and secured:
                    self.assertEqual(client.ask("STARTTLS")[0], 220)
                    client.socket = context.wrap_socket(client.socket, server_hostname="mx.relay.test")
                    client.hello()
                client.envelope()
                self.assertEqual(client.data(b"Subject: %d\r\n\r\nx\r\n" % secured)[0], 250)
                number += 1
        stored = relay.wait_for_mails(number)
        self.assertTrue(all(b"[127.0.0.9]" in mail for mail in stored.values()), "the client's address, not haproxy's")
        self.assertEqual(sum(b"with ESMTPS id" in mail for mail in stored.values()), 4)


del TlsTest  # or its tests would run here, too
