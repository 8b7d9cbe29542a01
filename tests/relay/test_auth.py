"""AUTH of clients: every mechanism by real programs; who may relay and send as whom; who fails, and how often; reload."""
import base64
import hashlib
import hmac
import os
import smtplib
import socket
import ssl
import subprocess
import time

import certificates
from harness import SLOWNESS, Client, RelayTest, free_port, program, wait_until
from test_tls import client_context, secure

PASSWORD = "open sesame"


def scram_verifier(password, salt=b"0123456789abcdef", iterations=4096):
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))
    return f"{{SCRAM-SHA-256}}{iterations}," + ",".join(base64.b64encode(part).decode() for part in parts)


def crypt_hash(setting, password=PASSWORD):
    """By Perl, whose crypt is the machine's; Python's is gone from 3.13 on."""
    done = subprocess.run([program("perl"), "-e", "print crypt($ARGV[0], $ARGV[1])", password, setting], capture_output=True,
                          check=True)
    return done.stdout.decode()


def plain(user, password=PASSWORD, acts_for=""):
    return base64.b64encode(f"{acts_for}\0{user}\0{password}".encode()).decode()


def encoded(text):
    return base64.b64encode(text.encode()).decode()


class AuthTest(RelayTest):
    users = f"""# ours
scram:{scram_verifier(PASSWORD)}
held:{scram_verifier(PASSWORD)}:held@example.test,@held.test
"""

    def relay(self, auth="optional", listener=None, **options):
        made = self.postern(listener={"tls": "opportunistic", "auth": auth, "relay_from": [], **(listener or {})},
                            auth={"users": "users", "failure_delay": "0s", **options.pop("settings", {})}, **options)
        certificates.make(made.folder, "ecdsa")
        # Mail for anyone stays here: who may not relay does not get so far.
        made.routes.append(("*", f"maildir:{made.mail}/{{domain}}"))
        made.tls_port = free_port()
        made.more += f"""
[[listener]]
address = "127.0.0.1:{made.tls_port}"
service = "submissions"
auth = "{auth}"
relay_from = []

[[tls.certificate]]
chain = "ecdsa.pem"
key = "ecdsa.key"
"""
        self.write_users(made, self.users)
        return made.start()

    @staticmethod
    def write_users(relay, text):
        path = os.path.join(relay.folder, "users")
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path + ".new", 0o640)
        os.rename(path + ".new", path)

    def client(self, relay, secured=True):
        client = Client(relay.port)
        self.addCleanup(lambda: client.close())
        client.hello()
        if secured:
            secure(client, client_context(trusted=None))
            client.hello()
        return client

    def check_stored(self, relay, domain="elsewhere.test", keyword=b"ESMTPSA", user="scram", count=1):
        stored = list(relay.wait_for_mails(count, domain).values())[-1]
        self.assertIn(b" with " + keyword + b" id ", stored)
        received = wait_until("the event", lambda: (
            lambda found: found[-1] if len(found) == count else None)(relay.events("received")))
        self.assertEqual(received["user"], user)


class RealClients(AuthTest):
    """Each relays where its address alone would not let it."""
    users = AuthTest.users + f"""yescrypt:{crypt_hash("$y$j75$bQlL1Hd8UTpEOqsUkRVA0.")}
bcrypt:{crypt_hash("$2b$05$abcdefghijklmnopqrstuu")}
sha512:{crypt_hash("$6$abcdefgh")}
"""

    def relay(self, *args, **options):
        # Asked for by name: some users have no verifier.
        mechanisms = ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]
        return super().relay(*args, settings={"mechanisms": mechanisms}, **options)

    def test_smtplib_with_every_kind_of_hash(self):
        relay = self.relay()
        count = 0
        for user in ("scram", "yescrypt", "bcrypt", "sha512"):
            for secure_first in (False, True):
                made = (smtplib.SMTP_SSL("127.0.0.1", relay.tls_port, context=client_context(trusted=None), timeout=30 * SLOWNESS)
                        if secure_first else smtplib.SMTP("127.0.0.1", relay.port, timeout=30 * SLOWNESS))
                with made as client:
                    if not secure_first:
                        client.ehlo()
                        self.assertNotIn("auth", client.esmtp_features)
                        client.starttls(context=client_context(trusted=None))
                    client.ehlo()
                    self.assertEqual(client.esmtp_features["auth"].split(),
                                     ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"])
                    client.user, client.password = user, PASSWORD
                    for mechanism, known in (("LOGIN", client.auth_login), ("PLAIN", client.auth_plain)):
                        if (mechanism == "PLAIN") == secure_first:
                            self.assertEqual(client.auth(mechanism, known, initial_response_ok=not secure_first)[0], 235)
                    client.sendmail("a@client.test", ["user@elsewhere.test"], "Subject: x\r\n\r\nhello\r\n")
                count += 1
                self.check_stored(relay, user=user, count=count)
        numbers = relay.metrics()
        self.assertEqual(numbers['postern_authentications_total{outcome="succeeded"}'], count)
        told = relay.events("authenticated")
        self.assertEqual({(event["user"], event["mechanism"]) for event in told},
                         {(user, mechanism) for user in ("scram", "yescrypt", "bcrypt", "sha512") for mechanism in ("PLAIN", "LOGIN")})

    def test_swaks(self):
        relay = self.relay()
        for number, mechanism in enumerate(("PLAIN", "LOGIN"), 1):
            done = subprocess.run([program("swaks"), "--server", "127.0.0.1", "--port", str(relay.port), "--tls", "--auth", mechanism,
                                   "--auth-user", "scram", "--auth-password", PASSWORD, "--from", "a@client.test",
                                   "--to", "user@elsewhere.test"], capture_output=True, timeout=60 * SLOWNESS, check=False)
            self.assertEqual(done.returncode, 0, done.stdout.decode() + done.stderr.decode())
            self.check_stored(relay, count=number)

    def test_curl(self):
        relay = self.relay()
        mail = os.path.join(relay.folder, "mail.txt")
        with open(mail, "w", encoding="ascii") as file:
            file.write("Subject: x\r\n\r\nhello\r\n")
        version = subprocess.run([program("curl"), "--version"], capture_output=True, check=True).stdout.decode()
        known = ("PLAIN", "LOGIN", "SCRAM-SHA-256") if "gsasl" in version else ("PLAIN", "LOGIN")
        for number, mechanism in enumerate(known, 1):
            done = subprocess.run([program("curl"), "-sS", "--insecure", "--ssl-reqd", f"smtp://127.0.0.1:{relay.port}",
                                   "--login-options", f"AUTH={mechanism}", "--user", f"scram:{PASSWORD}", "--mail-from",
                                   "a@client.test", "--mail-rcpt", "user@elsewhere.test", "-T", mail],
                                  capture_output=True, timeout=60 * SLOWNESS, check=False)
            self.assertEqual(done.returncode, 0, (mechanism, done.stderr.decode()))
            self.check_stored(relay, count=number)
            self.assertEqual(relay.events("authenticated")[-1]["mechanism"], mechanism)

    def test_msmtp(self):
        relay = self.relay()
        path = os.path.join(relay.folder, "msmtp")
        offered = subprocess.run([program("msmtp"), "--version"], capture_output=True, check=True).stdout.decode().upper()
        count = 0
        for mechanism in ("plain", "login", "scram-sha-256", "scram-sha-256-plus"):
            if mechanism.upper() not in offered.split():
                continue
            with open(path, "w", encoding="ascii") as file:
                file.write(f"""defaults
host 127.0.0.1
port {relay.tls_port}
tls on
tls_starttls off
tls_certcheck off
auth {mechanism}
user scram
password "{PASSWORD}"
from a@client.test
account default
""")
            os.chmod(path, 0o600)
            done = subprocess.run([program("msmtp"), "-C", path, "user@elsewhere.test"], input=b"Subject: x\n\nhello\n",
                                  capture_output=True, timeout=60 * SLOWNESS, check=False)
            self.assertEqual(done.returncode, 0, (mechanism, done.stderr.decode()))
            count += 1
            self.check_stored(relay, count=count)
            self.assertEqual(relay.events("authenticated")[-1]["mechanism"], mechanism.upper())
        self.assertGreaterEqual(count, 2)


class Scram:
    """A client of SCRAM-SHA-256(-PLUS) that is told by the test what to do."""

    def __init__(self, client, user="scram", password=PASSWORD, header="n,,", binding=b"", mechanism="SCRAM-SHA-256"):
        self.client, self.password, self.mechanism = client, password, mechanism
        self.header, self.binding = header.encode(), binding
        self.first = f"n={user},r=clientnonce".encode()

    def run(self):
        reply = self.client.ask(f"AUTH {self.mechanism} " + base64.b64encode(self.header + self.first).decode())
        if reply[0] != 334:
            return reply
        challenge = base64.b64decode(reply[1])
        self.fields = dict(field.split("=", 1) for field in challenge.decode().split(","))
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), base64.b64decode(self.fields["s"]), int(self.fields["i"]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        last = b"c=" + base64.b64encode(self.header + self.binding) + b",r=" + self.fields["r"].encode()
        signed = self.first + b"," + challenge + b"," + last
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature)))
        reply = self.client.ask(base64.b64encode(last + b",p=" + proof).decode())
        if reply[0] != 334:
            return reply
        proven = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        assert base64.b64decode(reply[1]) == b"v=" + base64.b64encode(proven), reply
        return self.client.ask("")


class Channels(AuthTest):
    def test_scram_is_bound_to_the_channel(self):
        relay = self.relay()
        context = client_context(trusted=None, minimum_version=ssl.TLSVersion.TLSv1_2, maximum_version=ssl.TLSVersion.TLSv1_2)
        client = self.client(relay, secured=False)
        secure(client, context)
        self.assertIn("AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN", client.hello()[1])
        unique = client.socket.get_channel_binding("tls-unique")
        bound = {"header": "p=tls-unique,,", "mechanism": "SCRAM-SHA-256-PLUS"}
        self.assertEqual(Scram(client, binding=b"x" * len(unique), **bound).run()[0], 535)
        self.assertEqual(Scram(client, binding=unique, **bound).run()[0], 235)

    def test_or_to_the_certificate(self):
        relay = self.relay()
        client = self.client(relay)
        end_point = hashlib.sha256(client.socket.getpeercert(binary_form=True)).digest()
        bound = {"header": "p=tls-server-end-point,,", "mechanism": "SCRAM-SHA-256-PLUS"}
        self.assertEqual(Scram(client, binding=b"x" * 32, **bound).run()[0], 535)
        self.assertEqual(Scram(client, binding=end_point, **bound).run()[0], 235)

    def test_what_a_channel_does_not_have_proves_nothing(self):
        relay = self.relay()
        client = self.client(relay)  # TLS 1.3 has no tls-unique
        for name in ("tls-unique", "tls-nonsense"):
            self.assertEqual(Scram(client, header=f"p={name},,", mechanism="SCRAM-SHA-256-PLUS").run()[0], 535)

    def test_who_was_told_that_there_is_no_binding_is_warned(self):
        relay = self.relay()
        client = self.client(relay)
        self.assertEqual(Scram(client, header="y,,").run()[0], 535)
        self.assertEqual(Scram(client, header="n,,").run()[0], 235)

    def test_a_stranger_sees_what_a_user_sees(self):
        relay = self.relay()
        seen = []
        for user in ("stranger", "stranger", "scram"):
            scram = Scram(self.client(relay), user=user, password="wrong")
            self.assertEqual(scram.run(), (535, "5.7.8 Authentication failed"))
            seen.append(scram.fields)
        self.assertEqual(seen[0]["s"], seen[1]["s"])
        self.assertEqual((len(seen[0]["s"]), seen[0]["i"]), (len(seen[2]["s"]), seen[2]["i"]))
        self.assertEqual(len({fields["r"] for fields in seen}), 3)


class Rights(AuthTest):
    def assert_no_relay(self, client, sender="a@client.test"):
        reply = client.ask(f"MAIL FROM:<{sender}>")
        if reply[0] == 250:
            reply = client.ask("RCPT TO:<user@elsewhere.test>")
            client.ask("RSET")
        self.assertIn((reply[0], reply[1].split()[0]), ((550, "5.7.1"), (530, "5.7.0"), (503, "5.5.1")), reply)

    def test_nobody_relays_who_has_not_authenticated(self):
        for auth in ("optional", "required"):
            relay = self.relay(auth=auth, settings={"failures": 50}, limits={"errors": 200})
            client = self.client(relay, secured=False)
            self.assert_no_relay(client)
            self.assertEqual(client.ask("AUTH PLAIN " + plain("scram"))[0], 538)
            self.assert_no_relay(client)
            client = self.client(relay)
            self.assert_no_relay(client)
            for command, code in ((f"AUTH PLAIN {plain('scram', 'wrong')}", 535), (f"AUTH PLAIN {plain('stranger')}", 535),
                                  (f"AUTH PLAIN {plain('scram', acts_for='held')}", 535), (f"AUTH PLAIN {plain('')}", 501),
                                  (f"AUTH PLAIN {plain('scram', '')}", 535), ("AUTH PLAIN =", 501), ("AUTH NONE", 504),
                                  (f"AUTH PLAIN {plain('SCRAM')}", 535), ("AUTH", 501)):
                self.assertEqual(client.ask(command)[0], code, command)
                self.assert_no_relay(client)
            for last in ("*", "", "AAAA", "=", plain("scram")[:-1], "QUIT"):
                self.assertEqual(client.ask("AUTH PLAIN"), (334, ""))
                self.assertIn(client.ask(last)[0], (501, 535))
                self.assert_no_relay(client)
            self.assertEqual(client.ask("AUTH LOGIN"), (334, encoded("Username:")))
            self.assertEqual(client.ask(encoded("scram")), (334, encoded("Password:")))
            self.assertEqual(client.ask("*")[0], 501)
            self.assert_no_relay(client)
            # The proof is right, but what we prove is not acknowledged.
            scram = Scram(client)
            scram.client = _Refusing(client)
            self.assertEqual(scram.run()[0], 501)
            self.assert_no_relay(client)
            self.assertEqual(client.ask("RSET")[0], 250)
            client.hello()
            self.assert_no_relay(client)
            self.assertEqual(client.ask("AUTH PLAIN " + plain("scram"))[0], 235)
            for _ in range(2):
                self.assertEqual([reply[0] for reply in client.envelope(recipients=["user@elsewhere.test"])], [250, 250])
                self.assertEqual(client.ask("RSET")[0], 250)
                client.hello()
            # Whose connection it is knows nothing of another.
            self.assert_no_relay(self.client(relay))
            relay.stop()

    def test_what_was_said_in_the_clear_is_forgotten_behind_starttls(self):
        relay = self.relay(listener={"auth_without_tls": True})
        client = self.client(relay, secured=False)
        self.assertEqual(client.ask("AUTH PLAIN " + plain("scram"))[0], 235)
        self.assertEqual([reply[0] for reply in client.envelope(recipients=["user@elsewhere.test"])], [250, 250])
        secure(client, client_context(trusted=None))
        client.hello()
        self.assert_no_relay(client)

    def test_in_the_clear_where_that_is_allowed(self):
        relay = self.relay(listener={"auth_without_tls": True})
        client = self.client(relay, secured=False)
        self.assertIn("AUTH SCRAM-SHA-256 PLAIN LOGIN", client.hello()[1].split("\n"))
        self.assertEqual(Scram(client).run()[0], 235)
        client.envelope(recipients=["user@elsewhere.test"])
        self.assertEqual(client.data()[0], 250)
        self.check_stored(relay, keyword=b"ESMTPA")

    def test_required_means_that(self):
        relay = self.relay(auth="required", listener={"relay_from": ["127.0.0.0/8"]})
        client = self.client(relay)
        for command in ("MAIL FROM:<a@client.test>", "RCPT TO:<b@example.test>", "DATA", "VRFY b", "ETRN example.test"):
            self.assertEqual(client.ask(command), (530, "5.7.0 Authentication required"))
        self.assertEqual(client.ask("AUTH PLAIN " + plain("scram"))[0], 235)
        self.assertEqual([reply[0] for reply in client.envelope()], [250, 250])

    def test_users_send_from_their_own_addresses(self):
        relay = self.relay()
        client = self.client(relay)
        self.assertEqual(client.ask("AUTH PLAIN " + plain("held"))[0], 235)
        for sender, code in (("held@example.test", 250), ("HELD@Example.Test", 250), ("anyone@held.test", 250), ("", 250),
                             ("other@example.test", 550), ("held@example.test@x.test", 501), ("held@sub.held.test", 550)):
            reply = client.ask(f"MAIL FROM:<{sender}>")
            self.assertEqual(reply[0], code, (sender, reply))
            if code == 550:
                self.assertEqual(reply[1], "5.7.1 Not a sender address of the authenticated user")
            client.ask("RSET")
        self.assertEqual(client.ask("MAIL FROM:<held@example.test> AUTH=held@example.test")[0], 250)

    def test_behind_a_peer_that_speaks_for_them(self):
        relay = self.relay(auth="required", listener={"xclient_from": ["127.0.0.1/32"]})
        client = self.client(relay)
        self.assert_no_relay(client)
        self.assertEqual(client.ask("XCLIENT ADDR=192.0.2.1 LOGIN=proxied")[0], 220)
        client.hello()
        client.envelope(recipients=["user@elsewhere.test"])
        self.assertEqual(client.data()[0], 250)
        self.check_stored(relay, user="proxied")
        self.assertEqual(client.ask("XCLIENT LOGIN=[UNAVAILABLE]")[0], 220)
        client.hello()
        self.assert_no_relay(client)


class _Refusing:
    """A client that says "*" where the last, empty line of SCRAM would be."""

    def __init__(self, client):
        self.client = client

    def ask(self, command):
        return self.client.ask(command or "*")


class Failures(AuthTest):
    def test_are_answered_later_and_later_and_then_no_more(self):
        relay = self.relay(settings={"failure_delay": "200ms"})
        client, other = self.client(relay), self.client(relay)
        for number, code in enumerate((535, 535, 421)):
            began = time.monotonic()
            client.send("AUTH PLAIN " + plain("scram", "wrong") + "\r\n")
            # Nobody else waits for that.
            self.assertEqual(other.ask("NOOP")[0], 250)
            reply = client.reply()
            self.assertEqual(reply[0], code)
            self.assertGreaterEqual(time.monotonic() - began, 0.19 * 2 ** number)
        self.assertTrue(client.at_end())
        failed = wait_until("three to be told", lambda: (
            lambda found: found if len(found) == 3 else None)(relay.events("auth_failed")))
        self.assertEqual({(event["user"], event["mechanism"]) for event in failed}, {("scram", "PLAIN")})
        self.assertEqual(relay.metrics()['postern_authentications_total{outcome="failed"}'], 3)

    def test_of_one_address_are_counted(self):
        relay = self.relay(settings={"failures_per_peer": 4, "failures": 50})
        for _ in range(2):
            client = self.client(relay)
            for _ in range(2):
                self.assertEqual(client.ask("AUTH PLAIN " + plain("scram", "wrong"))[0], 535)
        for reply in (client.ask("AUTH PLAIN " + plain("scram")), Scram(client).run()):
            self.assertEqual(reply, (454, "4.7.0 Too many failures from your address, try again later"))
        self.assertEqual(relay.metrics()['postern_authentications_total{outcome="put_off"}'], 2)
        other = Client(relay.port, source="127.0.0.2")
        self.addCleanup(other.close)
        other.hello()
        secure(other, client_context(trusted=None))
        other.hello()
        self.assertEqual(other.ask("AUTH PLAIN " + plain("scram"))[0], 235)

    def test_of_clients_that_go_while_they_are_looked_at_harm_nobody(self):
        relay = self.relay(settings={"failures_per_peer": 0})
        self.write_users(relay, f"slow:{scram_verifier(PASSWORD, iterations=300_000)}\n")
        relay.reload()
        wait_until("the users to be read again", lambda: "reloaded" in relay.log())
        for number in range(100):
            client = self.client(relay)
            client.send("AUTH PLAIN " + plain("slow", "wrong" if number % 2 else PASSWORD) + "\r\n")
            if number % 3:
                client.socket.shutdown(socket.SHUT_RDWR)
            client.close()
        began = time.monotonic()
        client = self.client(relay)
        self.assertLess(time.monotonic() - began, 5 * SLOWNESS, "sessions go on beside passwords")
        reply = wait_until("their turn", lambda: (lambda reply: reply if reply[0] != 454 else None)(
            client.ask("AUTH PLAIN " + plain("slow"))), 60)
        self.assertEqual(reply[0], 235)

    def test_too_many_at_once_are_put_off(self):
        relay = self.relay(settings={"failures_per_peer": 0}, shards=1)
        self.write_users(relay, f"slow:{scram_verifier(PASSWORD, iterations=1_000_000)}\n")
        relay.reload()
        wait_until("the users to be read again", lambda: "reloaded" in relay.log())
        clients = [self.client(relay) for _ in range(70)]
        for client in clients:
            client.send("AUTH PLAIN " + plain("slow") + "\r\n")
        put_off = wait_until("those beyond the bound to be answered", lambda: (
            relay.metrics()['postern_authentications_total{outcome="put_off"}'] >= 1), 30)
        self.assertTrue(put_off)
        self.assertIn((454, "4.7.0 Temporary authentication failure"), [clients[-1].reply()])
        relay.kill()


class Files(AuthTest):
    def test_are_read_again_when_they_change(self):
        relay = self.relay()
        client = self.client(relay)
        self.assertEqual(client.ask("AUTH PLAIN " + plain("scram"))[0], 235)
        self.write_users(relay, f"new:{scram_verifier('new')}\n")
        wait_until("the new user to be known", lambda: self.client(relay).ask("AUTH PLAIN " + plain("new", "new"))[0] == 235, 60)
        self.assertEqual(self.client(relay).ask("AUTH PLAIN " + plain("scram"))[0], 535)
        # Who has gone from the file sends no more, though the session is authenticated.
        self.assertEqual(client.ask("MAIL FROM:<a@client.test>")[0], 550)

    def test_with_faults_change_nothing(self):
        relay = self.relay()
        self.write_users(relay, self.users + "broken\n")
        relay.reload()
        wait_until("it to be said", lambda: "users:4: no colon; write USER:HASH" in relay.log())
        wait_until("that nothing changes, too", lambda: "not reloaded" in relay.log())
        self.assertEqual(self.client(relay).ask("AUTH PLAIN " + plain("scram"))[0], 235)
        self.write_users(relay, self.users + "more:" + scram_verifier("x") + "\n")
        relay.reload()
        wait_until("it to be read", lambda: "info: reloaded " in relay.log())
        self.assertEqual(self.client(relay).ask("AUTH PLAIN " + plain("more", "x"))[0], 235)

    def test_that_hold_hashes_offer_what_they_can_be_used_for(self):
        relay = self.relay()
        self.assertIn("AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN", self.client(relay).hello()[1].split("\n"))
        self.write_users(relay, self.users + "hash:" + crypt_hash("$2b$05$abcdefghijklmnopqrstuu") + "\n")
        relay.reload()
        wait_until("that to be seen", lambda: "AUTH PLAIN LOGIN" in self.client(relay).hello()[1].split("\n"))
