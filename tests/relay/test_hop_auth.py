"""AUTH towards next hops: with Postfix and Dovecot's passwords, with ourselves, and with those who offer it wrongly or not;
no mail without it, none on another's connection, and no password where it does not belong."""
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import tempfile

import certificates
import contents
from harness import Client, RelayTest, original_of_wire, program, wait_until
from test_auth import scram_verifier
from test_load import PostfixInstance
from tls_hop import NOT_OFFERED, TlsHop

PASSWORD = "correct horse, battery=staple"
WRONG = "incorrect horse"


class HopAuthTest(RelayTest):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(prefix="postern-hop-auth-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        os.chmod(self.folder, 0o755)
        certificates.make(self.folder, "ca", authority=True, names=("Test authority",))
        certificates.make(self.folder, "hop", names=("hop.test", "127.0.0.1"), issuer="ca")
        self.write_password(PASSWORD)

    def write_password(self, password):
        path = os.path.join(self.folder, "password")
        with open(path, "w", encoding="ascii") as file:
            file.write(password + "\n")
        os.chmod(path, 0o600)

    def context(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(self.folder, "hop.pem"), os.path.join(self.folder, "hop.key"))
        return context

    def route(self, port, match="*", tls="verified", auth="provider"):
        text = f'\n[[route]]\nmatch = "{match}"\nvia = "smtp:[127.0.0.1]:{port}"\ntls = "{tls}"\n'
        return text + (f'auth = "{auth}"\n' if auth else "")

    def relay(self, *routes, more="", user="us@example.test", shards=2):
        credentials = (f'\n[[smtp_client.credentials]]\nname = "provider"\nuser = "{user}"\n'
                       f'password_file = "{self.folder}/password"\n{more}')
        return self.postern(smtp_client={"tls_authorities": os.path.join(self.folder, "ca.pem"), "reply_timeout": "10s"},
                            more=credentials + "".join(routes), shards=shards).start()

    def send(self, relay, recipient="user@example.test"):
        with Client(relay.port) as client:
            client.hello()
            client.envelope("sender@client.test", [recipient])
            code, text = client.data(contents.ODD["plain"])
            self.assertEqual(code, 250, text)

    def event(self, relay, kind):
        return wait_until(f"an event {kind}", lambda: [event for event in relay.events(kind) if "site" in event])[0]

    def count(self, relay, result):
        return relay.metrics()[f'postern_next_hop_authentications_total{{result="{result}"}}']

    def tells_no_password(self, relay):
        """Nothing that is written or shown holds it, in whatever form it was said."""
        with open(os.path.join(relay.data, "events.jsonl"), encoding="utf-8") as file:
            told = file.read() + relay.log(1 << 20) + relay.http("/metrics")[1]
        for secret in (PASSWORD, WRONG, "AHVzQGV4YW1wbGUudGVzdABpbmNvcnJlY3", "AHVzQGV4YW1wbGUudGVzdABjb3JyZWN0"):
            self.assertNotIn(secret, told)


class Hops(HopAuthTest):
    """Next hops that do as told."""

    def test_mail_goes_under_tls_and_behind_auth(self):
        with TlsHop(self.context(), after=("AUTH LOGIN PLAIN",), passwords={"us@example.test": PASSWORD}) as hop:
            relay = self.relay(self.route(hop.port), shards=1)
            self.send(relay)
            (_, _, content, session), = hop.wait_for(1)
            self.assertEqual(original_of_wire(content), contents.ODD["plain"])
            self.assertEqual(session.user, "us@example.test")
            self.assertFalse(session.said("AUTH", under_tls=False))
            event = self.event(relay, "authenticated")
            self.assertEqual((event["user"], event["mechanism"]), ("us@example.test", "PLAIN"))
            self.assertIn("auth=provider", event["site"])
            self.assertEqual(self.count(relay, "succeeded"), 1)
            self.assertFalse([text for text in session.said("MAIL") if "AUTH=" in text])
            self.send(relay)  # on the same connection, which needs no second time
            hop.wait_for(2)
            self.assertEqual(self.count(relay, "succeeded"), 1)
            self.tells_no_password(relay)
            relay.stop()

    def test_connections_are_not_shared_with_those_who_have_no_credentials(self):
        with TlsHop(self.context(), after=("AUTH PLAIN",), passwords={"us@example.test": PASSWORD}) as hop:
            relay = self.relay(self.route(hop.port, match="one.test"), self.route(hop.port, auth=None))
            for number, domain in enumerate(("one.test", "two.test", "one.test", "two.test")):
                self.send(relay, f"user@{domain}")
                hop.wait_for(number + 1)
            for _, recipients, _, session in hop.messages:
                self.assertEqual(session.user, "us@example.test" if "one.test" in recipients[0] else None)
            relay.stop()

    def test_a_wrong_password_defers_until_the_file_is_read_again(self):
        self.write_password(WRONG)
        with TlsHop(self.context(), after=("AUTH PLAIN",), passwords={"us@example.test": PASSWORD}) as hop:
            relay = self.relay(self.route(hop.port))
            self.send(relay)
            deferred = wait_until("the deferral", lambda: relay.events("deferred"))[0]
            self.assertIn("the next hop answered AUTH PLAIN with 535 5.7.8 Wrong", deferred["reply"])
            self.assertIn("535 5.7.8 Wrong", self.event(relay, "auth_failed")["reply"])
            self.assertGreaterEqual(self.count(relay, "refused"), 1)
            self.assertEqual(relay.events("failed"), [])
            self.assertFalse([session for session in hop.sessions if session.said("MAIL")])
            self.write_password(PASSWORD)
            relay.reload()
            hop.wait_for(1, 60)
            self.tells_no_password(relay)
            relay.stop()

    def test_without_tls_or_without_an_offer_nothing_goes_out(self):
        for wanted, hop in (("does not offer it", TlsHop(self.context(), plan=lambda session: NOT_OFFERED)),
                            ("does not offer AUTH", TlsHop(self.context())),
                            ("PLAIN LOGIN only", TlsHop(self.context(), after=("AUTH PLAIN LOGIN",)))):
            with self.subTest(wanted), hop:
                relay = self.relay(self.route(hop.port, tls="opportunistic"),
                                   more='mechanisms = ["SCRAM-SHA-256"]\n' if "only" in wanted else "")
                self.send(relay)
                deferred = wait_until("the deferral", lambda relay=relay: relay.events("deferred"))[0]
                self.assertIn(wanted, deferred["reply"])
                if "does not offer it" not in wanted:
                    self.assertGreaterEqual(self.count(relay, "unusable"), 1)
                self.assertFalse([session for session in hop.sessions if session.said("AUTH") or session.said("MAIL")])
                self.assertEqual(relay.queued(), 1)
                relay.stop()

    def test_in_the_clear_where_the_configuration_says_so(self):
        with TlsHop(self.context(), plan=lambda session: NOT_OFFERED) as hop:
            relay = self.relay(self.route(hop.port, tls="none"), more="without_tls = true\n")
            self.send(relay)
            deferred = wait_until("the deferral", lambda: relay.events("deferred"))[0]
            self.assertIn("does not offer AUTH", deferred["reply"])  # it would have been said
            relay.stop()


class Ourselves(HopAuthTest):
    """Through another Postern, bound to the channel."""

    def hop(self, mechanisms=()):
        made = self.postern(listener={"tls": "required", "auth": "required", "relay_from": []},
                            auth={"users": "users", "failure_delay": "0s", "mechanisms": list(mechanisms)})
        made.routes.append(made.maildir_route("*"))
        made.more = (f'\n[[tls.certificate]]\nchain = "{self.folder}/hop.pem"\nkey = "{self.folder}/hop.key"\n')
        path = os.path.join(made.folder, "users")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"us:{scram_verifier(PASSWORD)}\n")
        os.chmod(path, 0o640)
        return made.start()

    def test_the_strongest_mechanism_of_what_is_offered(self):
        for mechanisms, wanted in (((), "SCRAM-SHA-256-PLUS"), (("PLAIN", "SCRAM-SHA-256"), "SCRAM-SHA-256"),
                                   (("LOGIN", "PLAIN"), "PLAIN"), (("LOGIN",), "LOGIN")):
            with self.subTest(wanted):
                hop = self.hop(mechanisms)
                relay = self.relay(self.route(hop.port), user="us")
                self.send(relay)
                hop.wait_for_mails(1)
                self.assertEqual(self.event(relay, "authenticated")["mechanism"], wanted)
                for kind, key, value in (("authenticated", "mechanism", wanted), ("received", "user", "us")):
                    told = wait_until(f"the event {kind}", lambda hop=hop, kind=kind: hop.events(kind))
                    self.assertEqual(told[0][key], value)
                self.tells_no_password(relay)
                relay.stop()
                hop.stop()

    def test_a_wrong_password_is_not_the_mails_fault(self):
        self.write_password(WRONG)
        hop = self.hop()
        relay = self.relay(self.route(hop.port), user="us")
        self.send(relay)
        deferred = wait_until("the deferral", lambda: relay.events("deferred"))[0]
        self.assertIn("535 5.7.8", deferred["reply"])
        self.write_password(PASSWORD)
        relay.reload()
        hop.wait_for_mails(1, seconds=60)
        relay.stop()


DOVECOT = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols =
ssl = no
auth_mechanisms = plain login scram-sha-256
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}}
service auth {{
  unix_listener {folder}/queue/private/auth {{
    mode = 0666
  }}
}}
"""


class Postfix(HopAuthTest):
    """Postfix, which takes mail for others from those alone whose passwords Dovecot knows."""

    def setUp(self):
        super().setUp()
        dovecot = program("dovecot")
        self.postfix = PostfixInstance(f"""
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_chain_files = {self.folder}/hop.key, {self.folder}/hop.pem
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = private/auth
smtpd_sasl_security_options = noanonymous
mynetworks =
smtpd_client_restrictions = permit_sasl_authenticated, reject
""")
        self.addCleanup(self.postfix.stop)
        with open(os.path.join(self.postfix.folder, "users"), "w", encoding="ascii") as file:
            file.write(f"us@example.test:{{PLAIN}}{PASSWORD}\n")
        config = os.path.join(self.postfix.folder, "dovecot.conf")
        with open(config, "w", encoding="ascii") as file:
            file.write(DOVECOT.format(folder=self.postfix.folder))
        process = subprocess.Popen([dovecot, "-F", "-c", config], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE)
        self.addCleanup(self.end, process)
        path = os.path.join(self.postfix.folder, "queue", "private", "auth")
        wait_until("Dovecot to listen", lambda: process.poll() is not None or os.path.exists(path))
        if process.poll() is not None:
            raise AssertionError(process.stderr.read().decode())
        os.chown(path, pwd.getpwnam("postfix").pw_uid, -1)
        self.postfix.wait_for_greeting()

    @staticmethod
    def end(process):
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stderr.close()

    def test_each_mechanism(self):
        for number, mechanism in enumerate(("SCRAM-SHA-256", "PLAIN", "LOGIN")):
            with self.subTest(mechanism):
                relay = self.relay(self.route(self.postfix.port),
                                   more="" if number == 0 else f'mechanisms = ["{mechanism}"]\n')
                self.send(relay)
                wait_until("the mail at Postfix", lambda number=number: len(self.postfix.mails()) == number + 1, 60)
                self.assertEqual(self.event(relay, "authenticated")["mechanism"], mechanism)
                self.tells_no_password(relay)
                relay.stop()

    def test_a_wrong_password(self):
        for mechanism in ("SCRAM-SHA-256", "PLAIN"):
            with self.subTest(mechanism):
                self.write_password(WRONG)
                relay = self.relay(self.route(self.postfix.port), more=f'mechanisms = ["{mechanism}"]\n')
                self.send(relay)
                deferred = wait_until("the deferral", lambda relay=relay: relay.events("deferred"), 60)[0]
                self.assertIn(f"answered AUTH {mechanism} with 535 5.7.8", deferred["reply"])
                self.assertEqual(relay.events("failed"), [])
                relay.stop()
