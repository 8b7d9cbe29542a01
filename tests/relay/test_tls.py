"""TLS with clients: STARTTLS and TLS from the first byte on, by real programs; what must not come through; certificates of both
sides; reload."""
import base64
import hashlib
import os
import select
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
import time

import certificates
from harness import SLOWNESS, Client, RelayTest, free_port, original_of_maildir, program, wait_until


def client_context(folder=None, trusted="ecdsa", certificate=None, **settings):
    """Trusts the certificate of that name; None: anyone's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusted is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(os.path.join(folder, f"{trusted}.pem"))
    if certificate:
        context.load_cert_chain(os.path.join(folder, f"{certificate}.pem"), os.path.join(folder, f"{certificate}.key"))
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def secure(client, context, name="mx.relay.test"):
    """STARTTLS on a raw client."""
    reply = client.ask("STARTTLS")
    assert reply[0] == 220, reply
    client.socket = context.wrap_socket(client.socket, server_hostname=name)
    return client


class TlsTest(RelayTest):
    kinds = ("ecdsa",)

    def relay(self, use="opportunistic", listener=None, **options):
        made = self.postern(listener={"tls": use, **(listener or {})}, **options)
        self.folder = made.folder
        for kind in self.kinds:
            certificates.make(made.folder, kind, kind=kind)
        made.routes.append(made.maildir_route())
        made.tls_port = free_port()
        made.more += f'\n[[listener]]\naddress = "127.0.0.1:{made.tls_port}"\nservice = "submissions"\n'
        for kind in self.kinds:
            made.more += f'\n[[tls.certificate]]\nchain = "{kind}.pem"\nkey = "{kind}.key"\n'
        return made.start()

    def client(self, relay, context=None, hello=True):
        client = Client(relay.port)
        self.addCleanup(lambda: client.close())
        client.hello()
        if context is not None:
            secure(client, context)
            if hello:
                client.hello()
        return client


class RealClients(TlsTest):
    kinds = ("ecdsa", "rsa")

    def test_smtplib_with_both_versions_and_kinds(self):
        relay = self.relay()
        number = 0
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for trusted, ciphers in (("ecdsa", None), ("rsa", "ECDHE-RSA-AES128-GCM-SHA256")):
                if ciphers and version == ssl.TLSVersion.TLSv1_3:
                    continue  # its suites say nothing of the kind; the unit tests have that
                context = client_context(self.folder, trusted, minimum_version=version, maximum_version=version)
                if ciphers:
                    context.set_ciphers(ciphers)
                with smtplib.SMTP("127.0.0.1", relay.port, timeout=30 * SLOWNESS) as client:
                    client._host = "mx.relay.test"
                    client.ehlo()
                    self.assertTrue(client.has_extn("starttls"))
                    client.starttls(context=context)
                    client.ehlo()
                    self.assertFalse(client.has_extn("starttls"))
                    client.sendmail("a@client.test", ["user@example.test"], f"Subject: {trusted} {version.name}\r\n\r\nhello\r\n")
                number += 1
                stored = next(mail for mail in relay.wait_for_mails(number).values()
                              if f"Subject: {trusted} {version.name}".encode() in mail)
                shown = {"TLSv1_2": b"TLSv1.2", "TLSv1_3": b"TLSv1.3"}[version.name]
                self.assertIn(b"\t(using " + shown + b" with cipher TLS_", stored)
                self.assertIn(b"with ESMTPS id", stored)
        events = wait_until("every secured session to be told", lambda: (
            lambda found: found if len(found) == number else None)(relay.events("secured")))
        self.assertEqual({event["tls"] for event in events}, {"TLSv1.2", "TLSv1.3"})
        self.assertTrue(all(event["tls"] in ("TLSv1.2", "TLSv1.3") for event in relay.events("received")))
        numbers = relay.metrics()
        self.assertEqual(numbers['postern_tls_handshakes_total{result="full"}'], number)
        self.assertEqual(numbers['postern_tls_handshakes_total{result="failed"}'], 0)
        self.assertEqual(numbers['postern_tls_sessions_total{version="TLSv1.2"}'], 2)

    def test_tls_from_the_first_byte_on(self):
        relay = self.relay()
        with socket.create_connection(("127.0.0.1", relay.tls_port), timeout=30 * SLOWNESS) as plain:
            with client_context(self.folder).wrap_socket(plain, server_hostname="mx.relay.test") as secured:
                self.assertTrue(secured.recv(1000).startswith(b"220 mx.relay.test"))
                secured.sendall(b"EHLO client.test\r\n")
                self.assertNotIn(b"STARTTLS", secured.recv(10_000))
                secured.sendall(b"STARTTLS\r\n")
                self.assertTrue(secured.recv(10_000).startswith(b"503 5.5.1"))
        with smtplib.SMTP_SSL("127.0.0.1", relay.tls_port, context=client_context(trusted=None),
                              timeout=30 * SLOWNESS) as client:
            client.sendmail("a@client.test", ["user@example.test"], "Subject: x\r\n\r\nhello\r\n")
        self.assertIn(b"with ESMTPS", list(relay.wait_for_mails(1).values())[0])

    def test_openssl_s_client(self):
        relay = self.relay()
        dialogue = [("EHLO client.test", "250 ENHANCEDSTATUSCODES"), ("MAIL FROM:<a@client.test>", "250 2.1.0"),
                    ("rcpt TO:<user@example.test>", "250 2.1.5"), ("DATA", "354 "),
                    ("Subject: x\r\n\r\nhello\r\n.", "250 2.0.0 Ok: queued"), ("quit", "221 ")]
        for number, arguments in enumerate((["-starttls", "smtp", "-connect", f"127.0.0.1:{relay.port}"],
                                            ["-connect", f"127.0.0.1:{relay.tls_port}"]), 1):
            process = subprocess.Popen([program("openssl"), "s_client", "-quiet", "-CAfile", f"{self.folder}/ecdsa.pem",
                                        "-verify_return_error", "-servername", "mx.relay.test", *arguments],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.addCleanup(process.stdout.close)
            self.addCleanup(process.kill)

            def wait_for(reply, process=process):
                got, deadline = b"", time.monotonic() + 20 * SLOWNESS
                while not any(line.startswith(reply.encode()) for line in got.split(b"\n")):
                    ready = select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))[0]
                    more = os.read(process.stdout.fileno(), 4096) if ready else b""
                    self.assertTrue(more, f"{reply} did not come behind {got}")
                    got += more

            if "-starttls" not in arguments:
                wait_for("220 ")  # who talks before it is refused
            for command, reply in dialogue:
                process.stdin.write(command.encode() + b"\r\n")
                process.stdin.flush()
                wait_for(reply)
            process.stdin.close()
            process.wait(timeout=30 * SLOWNESS)
            relay.wait_for_mails(number)

    def test_curl_and_swaks(self):
        relay = self.relay()
        mail = os.path.join(self.folder, "mail.txt")
        with open(mail, "wb") as file:
            file.write(b"Subject: x\r\n\r\nhello\r\n")
        runs = [
            [program("curl"), "-sS", "--ssl-reqd", "-k", f"smtp://127.0.0.1:{relay.port}", "--mail-from", "a@client.test",
             "--mail-rcpt", "user@example.test", "-T", mail],
            [program("curl"), "-sS", "-k", f"smtps://127.0.0.1:{relay.tls_port}", "--mail-from", "a@client.test",
             "--mail-rcpt", "user@example.test", "-T", mail],
            [program("swaks"), "--tls", "-s", "127.0.0.1", "-p", str(relay.port), "-f", "a@client.test", "-t",
             "user@example.test"],
            [program("swaks"), "--tlsc", "-s", "127.0.0.1", "-p", str(relay.tls_port), "-f", "a@client.test", "-t",
             "user@example.test"],
        ]
        for number, command in enumerate(runs, 1):
            done = subprocess.run(command, capture_output=True, timeout=60 * SLOWNESS, check=False)
            if b"requires Net::SSLeay" in done.stderr:
                self.skipTest("swaks speaks TLS only with libnet-ssleay-perl")
            self.assertEqual(done.returncode, 0, (command, done.stdout, done.stderr))
            relay.wait_for_mails(number)

    def test_sessions_are_resumed_on_every_shard(self):
        relay = self.relay()
        context = client_context(self.folder, minimum_version=ssl.TLSVersion.TLSv1_2, maximum_version=ssl.TLSVersion.TLSv1_2)
        session, resumed = None, 0
        for _ in range(12):
            client = Client(relay.port)
            client.hello()
            client.ask("STARTTLS")
            client.socket = context.wrap_socket(client.socket, server_hostname="mx.relay.test", session=session)
            client.hello()
            resumed += client.socket.session_reused
            session = client.socket.session
            client.ask("QUIT")
            client.close()
        self.assertEqual(resumed, 11, "whichever shard accepted")
        self.assertEqual(relay.metrics()['postern_tls_handshakes_total{result="resumed"}'], 11)


class Content(TlsTest):
    def test_large_content_arrives_whole(self):
        relay = self.relay()
        line = base64.b64encode(os.urandom(54))
        content = b"Subject: large\r\n\r\n" + b"".join(
            base64.b64encode(hashlib.sha256(line + str(i).encode()).digest()) + b"\r\n" for i in range(120_000))
        for number, chunked in enumerate((False, True), 1):
            client = self.client(relay, client_context(self.folder))
            client.envelope()
            if chunked:
                half = len(content) // 2
                client.send(b"BDAT %d\r\n" % half + content[:half] + b"BDAT %d LAST\r\n" % (len(content) - half) + content[half:])
                self.assertEqual(client.reply()[0], 250)
                self.assertEqual(client.reply()[0], 250)
            else:
                self.assertEqual(client.data(content)[0], 250)
            wanted = hashlib.sha256(content.replace(b"\r\n", b"\n")).digest()
            for stored in relay.wait_for_mails(number, seconds=60).values():
                self.assertEqual(hashlib.sha256(original_of_maildir(stored)).digest(), wanted)

    def test_an_end_in_the_middle_of_content_accepts_nothing(self):
        relay = self.relay()
        accepted = 0
        for how in ("close_notify", "fin", "reset", "half of a record"):
            for command in (b"BDAT 100000 LAST\r\n", b"BDAT 50000\r\n", b"DATA\r\n"):
                client = self.client(relay, client_context(self.folder))
                # One that is whole before it, on the same connection: it stays.
                client.envelope()
                self.assertEqual(client.data()[0], 250)
                accepted += 1
                client.envelope()
                client.send(command)
                if command.startswith(b"DATA"):
                    self.assertEqual(client.reply()[0], 354)
                client.send(b"x" * 20_000 + b"\r\n.\r" * (how == "fin"))
                if how == "close_notify":
                    try:
                        client.socket.settimeout(5 * SLOWNESS)
                        client.socket.unwrap()
                    except (OSError, ssl.SSLError):
                        pass
                elif how == "reset":
                    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                elif how == "half of a record":
                    descriptor = os.dup(client.socket.fileno())
                    os.write(descriptor, b"\x17\x03\x03\x40\x00" + b"y" * 1000)
                    os.close(descriptor)
                client.close()
        relay.wait_for_mails(accepted)
        wait_until("all connections to be gone", lambda: relay.metrics()['postern_connections{direction="in"}'] == 0)
        self.assertEqual(len(relay.mails()), accepted)
        self.assertEqual(relay.metrics()["postern_messages_received_total"], accepted)

    def test_commands_in_pieces_of_every_size(self):
        relay = self.relay()
        for size in (1, 7, 100, 16_000):
            client = self.client(relay, client_context(self.folder))
            text = (b"MAIL FROM:<a@client.test>\r\nRCPT TO:<user@example.test>\r\nBDAT 40000 LAST\r\n" + b"x" * 39_998 + b"\r\n"
                    if size > 1 else b"MAIL FROM:<a@client.test>\r\nRCPT TO:<user@example.test>\r\nBDAT 2 LAST\r\n\r\n")
            for at in range(0, len(text), size):
                client.send(text[at:at + size])
            self.assertEqual([client.reply()[0] for _ in range(3)], [250, 250, 250])


class Refused(TlsTest):
    def test_what_stands_behind_starttls_in_the_clear(self):
        relay = self.relay()
        for behind in ("MAIL FROM:<evil@client.test>\r\n", "RSET\r\n", "x", "EHLO again\r\n" * 3000):
            client = self.client(relay)
            client.send("STARTTLS\r\n" + behind)
            self.assertEqual(client.reply()[0], 220)
            code, text = client.reply()
            self.assertEqual((code, text.split(" ")[0]), (554, "5.5.0"))
            self.assertTrue(client.at_end())
        # Sent apart, but before the 220: it either meets its answer or is bytes that are no handshake; never a command.
        for _ in range(20):
            client = self.client(relay)
            client.send("STARTTLS\r\n")
            client.send("MAIL FROM:<evil@client.test>\r\nRCPT TO:<user@example.test>\r\n")
            self.assertTrue(client.at_end())
            self.assertNotIn(b"2.1.0", client.buffer)
        self.assertEqual(len(relay.mails()), 0)

    def test_anything_without_tls_where_it_is_required(self):
        relay = self.relay("required")
        client = self.client(relay)
        for command, code in (("NOOP", 250), ("RSET", 250), ("MAIL FROM:<a@client.test>", 530), ("RCPT TO:<b@example.test>", 530),
                              ("DATA", 530), ("VRFY b", 530), ("AUTH PLAIN AGEAYg==", 530), ("HELO client.test", 250)):
            self.assertEqual(client.ask(command)[0], code, command)
        client.hello()
        secure(client, client_context(self.folder))
        client.hello()
        client.envelope()
        self.assertEqual(client.data()[0], 250)

    def test_handshakes_that_are_none(self):
        relay = self.relay()
        inputs = [b"EHLO client.test\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70_000, b"\x80" * 10_000, b"\x16\x03\x01\x02\x00\x01",
                  b""]
        for port, greeted in ((relay.port, True), (relay.tls_port, False)):
            for data in inputs:
                client = Client(port, greet=greeted)
                if greeted:
                    client.hello()
                    client.ask("STARTTLS")
                try:
                    client.send(data)
                    client.socket.shutdown(socket.SHUT_WR)
                    client.at_end()
                except OSError:
                    pass
                client.close()
        wait_until("every failure to be counted",
                   lambda: relay.metrics()['postern_tls_handshakes_total{result="failed"}'] == 2 * len(inputs))
        wait_until("all connections to be gone", lambda: relay.metrics()['postern_connections{direction="in"}'] == 0)
        events = relay.events("tls_failed")
        self.assertTrue(all(event["reply"].startswith("TLS handshake: ") for event in events), events)
        # And those who are slow are still served.
        client = self.client(relay, client_context(self.folder))
        client.envelope()
        self.assertEqual(client.data()[0], 250)

    def test_old_versions(self):
        relay = self.relay()
        for version in ("-tls1", "-tls1_1"):
            done = subprocess.run([program("openssl"), "s_client", version, "-cipher", "ALL:@SECLEVEL=0", "-connect",
                                   f"127.0.0.1:{relay.tls_port}"], input=b"", capture_output=True, timeout=30 * SLOWNESS,
                                  check=False)
            self.assertNotEqual(done.returncode, 0)

    def test_a_stop_does_not_wait_for_handshakes(self):
        relay = self.relay()
        with socket.create_connection(("127.0.0.1", relay.tls_port)):
            wait_until("it to be connected", lambda: relay.metrics()['postern_connections{direction="in"}'] == 1)
            began = time.monotonic()
            relay.stop()
            self.assertLess(time.monotonic() - began, 5 * SLOWNESS)


class ClientCertificates(TlsTest):
    def make(self, **listener):
        def prepare(postern):
            certificates.make(postern.folder, "authority", ("authority",), authority=True)
            certificates.make(postern.folder, "good", ("good",), issuer="authority")
            certificates.make(postern.folder, "stranger", ("stranger",))
        folder = self.prepared_folder(prepare)
        return self.relay(listener={"relay_from": [], "client_authorities": "authority.pem", **listener}, folder=folder)

    def prepared_folder(self, prepare):
        folder = tempfile.mkdtemp(prefix="postern-test-")
        self.addCleanup(shutil.rmtree, folder, True)
        prepare(type("Place", (), {"folder": folder}))
        return folder

    def relays(self, relay, certificate):
        client = self.client(relay, client_context(self.folder, certificate=certificate))
        client.ask("MAIL FROM:<a@client.test>")
        return client.ask("RCPT TO:<far@away.test>")[0]

    def fingerprint(self, folder, name):
        done = subprocess.run([program("openssl"), "x509", "-noout", "-fingerprint", "-sha256", "-in", f"{folder}/{name}.pem"],
                              capture_output=True, check=True)
        return done.stdout.decode().strip().split("=", 1)[1]

    def test_whom_an_authority_vouches_for_may_relay(self):
        relay = self.make(client_certificates="optional", relay_certificates=["verified"])
        self.assertEqual(self.relays(relay, "good"), 250)
        self.assertEqual(self.relays(relay, "stranger"), 550)
        self.assertEqual(self.relays(relay, None), 550)

    def test_whose_fingerprint_is_listed_may_relay(self):
        relay = self.make(client_certificates="optional")
        self.assertEqual(self.relays(relay, "good"), 550, "vouched for, but that was not asked for")
        relay.listener["relay_certificates"] = [self.fingerprint(relay.folder, "stranger")]
        relay.reload()
        wait_until("the reload", lambda: "reloaded" in relay.log())
        self.assertEqual(self.relays(relay, "stranger"), 250)
        self.assertEqual(self.relays(relay, "good"), 550)

    def test_without_a_good_one_there_is_no_session_where_it_is_required(self):
        relay = self.make(client_certificates="required")
        self.assertEqual(self.relays(relay, "good"), 550)
        for certificate in ("stranger", None):
            with self.assertRaises((OSError, ssl.SSLError, EOFError)):
                self.relays(relay, certificate)
        wait_until("both to be counted", lambda: relay.metrics()['postern_tls_handshakes_total{result="failed"}'] == 2)


class Reload(TlsTest):
    def shown(self, relay):
        """The certificate that a new client is shown."""
        client = Client(relay.port)
        client.hello()
        secure(client, client_context(trusted=None))
        shown = client.socket.getpeercert(binary_form=True)
        client.close()
        return shown

    def replace(self, name, with_name):
        for ending in ("pem", "key"):
            shutil.copy(f"{self.folder}/{with_name}.{ending}", f"{self.folder}/fresh")
            os.rename(f"{self.folder}/fresh", f"{self.folder}/{name}.{ending}")

    def test_a_new_certificate_while_a_session_is_open(self):
        relay = self.relay()
        before = self.shown(relay)
        client = self.client(relay, client_context(self.folder))
        client.envelope()
        certificates.make(self.folder, "second")
        self.replace("ecdsa", "second")
        relay.process.send_signal(signal.SIGHUP)
        after = wait_until("the new one to be shown", lambda: (lambda der: der if der != before else None)(self.shown(relay)))
        self.assertEqual(after, ssl.PEM_cert_to_DER_cert(open(f"{self.folder}/second.pem", encoding="ascii").read()))
        self.assertEqual(client.data()[0], 250, "the session goes on with what it began with")

    def test_a_changed_file_is_noticed(self):
        relay = self.relay()
        before = self.shown(relay)
        certificates.make(self.folder, "second")
        self.replace("ecdsa", "second")
        wait_until("the new one to be shown", lambda: self.shown(relay) != before, 30)
        self.assertIn("reloaded certificates", relay.log())

    def test_a_broken_one_keeps_the_old_one_and_says_so(self):
        relay = self.relay()
        before = self.shown(relay)
        with open(f"{self.folder}/ecdsa.pem", "w", encoding="ascii") as file:
            file.write("nonsense")
        wait_until("it to be said", lambda: "certificates not reloaded" in relay.log(), 30)
        self.assertIn("ecdsa.pem: no certificate in PEM form", relay.log())
        self.assertEqual(self.shown(relay), before)
        relay.process.send_signal(signal.SIGHUP)
        wait_until("that to be said too", lambda: "not reloaded: going on with the configuration" in relay.log())
        self.assertEqual(self.shown(relay), before)
