"""TLS with next hops: what each policy does with hosts that speak it, do not, or break it; certificates of both sides;
sessions; what is logged."""
import os
import shutil
import ssl
import subprocess
import tempfile
import unittest

import certificates
import contents
import tls_hop
from dns_server import Nsd
from harness import Client, RelayTest, free_port, original_of_wire, program, wait_until
from tls_hop import TlsHop


def server_context(folder, name="hop", **settings):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(folder, f"{name}.pem"), os.path.join(folder, f"{name}.key"))
    for key, value in settings.items():
        setattr(context, key, value)
    return context


def expired(folder, name, names, issuer):
    """A certificate that was good for a minute in 2020."""
    path, authority = os.path.join(folder, name), os.path.join(folder, issuer)
    with open(f"{path}.cnf", "w", encoding="ascii") as file:
        file.write(f"[ca]\ndefault_ca=x\n[x]\ndatabase={path}.db\nnew_certs_dir={folder}\nserial={path}.srl\npolicy=p\n"
                   f"default_md=sha256\nx509_extensions=e\n[p]\ncommonName=supplied\n[e]\n"
                   f"subjectAltName={','.join(certificates.alternative(each) for each in names)}\n")
    with open(f"{path}.db", "w", encoding="ascii"), open(f"{path}.srl", "w", encoding="ascii") as serial:
        serial.write("01")
    subprocess.run([program("openssl"), "req", *certificates.KINDS["ecdsa"], "-nodes", "-subj", f"/CN={names[0]}",
                    "-keyout", f"{path}.key", "-out", f"{path}.csr"], capture_output=True, check=True)
    subprocess.run([program("openssl"), "ca", "-batch", "-notext", "-config", f"{path}.cnf", "-cert", f"{authority}.pem",
                    "-keyfile", f"{authority}.key", "-in", f"{path}.csr", "-out", f"{path}.pem", "-startdate",
                    "20200101000000Z", "-enddate", "20200101000100Z"], capture_output=True, check=True)


class TlsOutTest(RelayTest):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(prefix="postern-tls-out-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        certificates.make(self.folder, "ca", authority=True, names=("Test authority",))
        certificates.make(self.folder, "hop", names=("hop.test", "127.0.0.1"), issuer="ca")

    def relay(self, hop, policy=None, names=None, via=None, own=True, **options):
        """`own`: the policy is the route's, not the usual one."""
        client = {"tls_authorities": os.path.join(self.folder, "ca.pem"), "reply_timeout": "10s", **options.pop("client", {})}
        route = f'\n[[route]]\nmatch = "*"\nvia = "{via or f"smtp:[127.0.0.1]:{hop.port}"}"\n'
        if policy and own:
            route += f'tls = "{policy}"\n'
        elif policy:
            client["tls"] = policy
        if names:
            route += "tls_names = [" + ", ".join(f'"{name}"' for name in names) + "]\n"
        made = self.postern(smtp_client=client, more=route, **options)
        return made.start()

    def send(self, relay, content=None, recipients=("user@example.test",)):
        with Client(relay.port) as client:
            client.hello()
            client.envelope("sender@client.test", recipients)
            code, text = client.data(content or contents.ODD["plain"])
            self.assertEqual(code, 250, text)

    def event(self, relay, kind):
        return wait_until(f"an event {kind}", lambda: relay.events(kind))[0]

    def arrives(self, relay, hop, under_tls, times=1):
        """Once for each of `times`, and nothing was said of the mail but in this way."""
        for number in range(times):
            self.send(relay)
            hop.wait_for(number + 1)
        wait_until("the queue to be empty", lambda: relay.queued() == 0)
        self.assertEqual(len(hop.messages), times)
        for _, _, content, session in hop.messages:
            self.assertEqual(original_of_wire(content), contents.ODD["plain"])
            self.assertEqual(session.tls is not None, under_tls)
            self.assertEqual([secured for text, secured in session.commands if text.startswith("MAIL")][:1], [under_tls])
        if under_tls:
            self.assertTrue(all(not session.said("MAIL", False) for session in hop.sessions))

    def is_deferred(self, relay, hop, status, text):
        """Tried and told why; nothing of the mail was said to the host."""
        self.send(relay)
        event = self.event(relay, "deferred")
        self.assertIn(status, event["reply"])
        self.assertIn(text, event["reply"])
        self.assertEqual(hop.messages, [])
        self.assertTrue(all(not session.said("MAIL") for session in hop.sessions))
        self.assertEqual(relay.events("failed"), [])


class Good(TlsOutTest):
    def test_each_policy_and_version(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for policy, own in (("opportunistic", True), ("required", False), ("verified", True), ("verified", False)):
                with self.subTest(version=version.name, policy=policy, own=own):
                    context = server_context(self.folder, minimum_version=version, maximum_version=version)
                    with TlsHop(context, after=("ENHANCEDSTATUSCODES",)) as hop:
                        relay = self.relay(hop, policy, own=own)
                        self.arrives(relay, hop, True)
                        session = hop.sessions[0]
                        self.assertIsNone(session.name, "an address is no name")
                        self.assertIsNone(session.certificate)
                        self.assertEqual([text for text, _ in session.commands][:3],
                                         ["EHLO mx.relay.test", "STARTTLS", "EHLO mx.relay.test"])
                        shown = {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
                        secured, relayed = self.event(relay, "secured"), self.event(relay, "relayed")
                        for event in (secured, relayed):
                            self.assertEqual(event["tls"], shown)
                            self.assertTrue(event["cipher"].startswith("TLS_"))
                            self.assertIs(event["verified"], True)
                            self.assertTrue(event["peer"].startswith("[127.0.0.1]:"))
                            self.assertEqual(event["site"],
                                             f"smtp:[127.0.0.1]:{hop.port}" + (f";tls={policy}" if own else ""))
                        self.assertIs(secured["resumed"], False)
                        numbers = relay.metrics()
                        self.assertEqual(numbers['postern_next_hop_tls_handshakes_total{result="full"}'], 1)
                        self.assertEqual(numbers[f'postern_next_hop_tls_sessions_total{{version="{shown}"}}'], 1)
                        self.assertEqual(numbers["postern_next_hop_tls_verified_total"], 1)
                        relay.stop()

    def test_it_is_usual(self):
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.relay(hop)
            self.arrives(relay, hop, True)

    def test_rsa_on_both_sides(self):
        certificates.make(self.folder, "rsa", kind="rsa", names=("127.0.0.1",), issuer="ca")
        certificates.make(self.folder, "client", kind="rsa", names=("mx.relay.test",), issuer="ca")
        context = server_context(self.folder, "rsa")
        context.load_verify_locations(os.path.join(self.folder, "ca.pem"))
        context.verify_mode = ssl.CERT_REQUIRED
        with TlsHop(context) as hop:
            relay = self.relay(hop, "verified", client={"tls_certificate": os.path.join(self.folder, "client.pem"),
                                                        "tls_key": os.path.join(self.folder, "client.key")})
            self.arrives(relay, hop, True)

    def test_none_says_nothing_of_it(self):
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.relay(hop, "none")
            self.arrives(relay, hop, False)
            self.assertEqual(hop.sessions[0].said("STARTTLS"), [])
            self.assertNotIn("tls", self.event(relay, "relayed"))

    def test_large_content(self):
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.relay(hop, "verified")
            content = b"Subject: large\r\n\r\n" + b"".join(b"%064d\r\n" % number for number in range(60_000))
            self.send(relay, content)
            self.assertEqual(original_of_wire(hop.wait_for(1, 60)[0][2]), content)

    def test_lmtp(self):
        with TlsHop(server_context(self.folder), lmtp=True) as hop:
            relay = self.relay(hop, "verified", via=f"lmtp:[127.0.0.1]:{hop.port}")
            self.arrives(relay, hop, True)
            self.assertEqual(len(hop.sessions[0].said("LHLO", True)), 1)


class WithoutTls(TlsOutTest):
    def test_opportunistic_goes_on(self):
        for context, plan in ((None, None), (True, tls_hop.REFUSED), (True, tls_hop.REFUSED_FOR_GOOD)):
            with self.subTest(plan or "no TLS at all"):
                with TlsHop(context and server_context(self.folder), lambda session, plan=plan: plan) as hop:
                    relay = self.relay(hop, "opportunistic")
                    self.arrives(relay, hop, False)
                    self.assertEqual(len(hop.sessions), 1, "on the same connection")
                    self.assertNotIn("verified", self.event(relay, "relayed"))
                    relay.stop()

    def test_required_does_not(self):
        for policy in ("required", "verified"):
            for plan, text in ((tls_hop.NOT_OFFERED, "does not offer"), (tls_hop.REFUSED, "answered STARTTLS with 454 4.7.0"),
                               (tls_hop.REFUSED_FOR_GOOD, "answered STARTTLS with 502")):
                with self.subTest(policy=policy, plan=plan):
                    with TlsHop(server_context(self.folder), lambda session, plan=plan: plan) as hop:
                        relay = self.relay(hop, policy)
                        self.is_deferred(relay, hop, "4.7.4", text)
                        relay.stop()

    def test_required_waits_until_it_is_offered(self):
        with TlsHop(server_context(self.folder), lambda session: tls_hop.NOT_OFFERED if session.number < 2 else None) as hop:
            relay = self.relay(hop, "required")
            self.arrives(relay, hop, True)
            self.assertGreaterEqual(len(hop.sessions), 3)


BROKEN = (tls_hop.GOES_AWAY, tls_hop.SILENT_CLOSE, tls_hop.INJECTED, tls_hop.NO_TLS, tls_hop.CLOSED, tls_hop.RESET,
          tls_hop.CLOSED_SECURED)


class Broken(TlsOutTest):
    def test_opportunistic_is_sent_in_the_clear_at_once_and_remembered(self):
        for plan in BROKEN:
            with self.subTest(plan):
                with TlsHop(server_context(self.folder), lambda session, plan=plan: plan) as hop:
                    # One shard: each remembers for itself.
                    relay = self.relay(hop, "opportunistic", shards=1, client={"idle_seconds": 0})
                    self.arrives(relay, hop, False, times=3)
                    self.assertEqual(len(hop.sessions), 4, "TLS was tried once")
                    self.assertEqual(sum(len(session.said("STARTTLS")) for session in hop.sessions), 1)
                    self.assertEqual(relay.events("deferred"), [])
                    failed = relay.events("tls_failed")
                    self.assertEqual(len(failed), 1)
                    self.assertTrue(failed[0]["reply"].endswith("; tried without TLS"), failed)
                    self.assertEqual(relay.metrics()['postern_next_hop_tls_handshakes_total{result="failed"}'], 1)
                    relay.stop()

    def test_required_is_deferred_and_never_sent_in_the_clear(self):
        for plan in BROKEN:
            with self.subTest(plan):
                with TlsHop(server_context(self.folder), lambda session, plan=plan: plan) as hop:
                    relay = self.relay(hop, "required")
                    self.is_deferred(relay, hop, "4.5.0" if plan == tls_hop.INJECTED
                                     else "4.7.4" if plan == tls_hop.GOES_AWAY else "4.7.5", "")
                    self.assertFalse(self.event(relay, "tls_failed")["reply"].endswith("; tried without TLS"))
                    relay.stop()

    def test_a_handshake_has_its_time(self):
        with TlsHop(server_context(self.folder), lambda session: tls_hop.NEVER if session.number == 0 else None) as hop:
            relay = self.relay(hop, "opportunistic", client={"reply_timeout": "1s"})
            self.arrives(relay, hop, False)
            self.assertIn("TLS handshake: timed out", self.event(relay, "tls_failed")["reply"])

    def test_no_version_in_common(self):
        context = server_context(self.folder)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with TlsHop(context) as hop:
            relay = self.relay(hop, "opportunistic")
            self.arrives(relay, hop, False)
            self.assertIn("TLS handshake: ", self.event(relay, "tls_failed")["reply"])

    def test_a_host_that_recovers_gets_mail_under_tls(self):
        with TlsHop(server_context(self.folder), lambda session: tls_hop.CLOSED if session.number < 2 else None) as hop:
            relay = self.relay(hop, "verified")
            self.arrives(relay, hop, True)


class Certificates(TlsOutTest):
    def test_wrong_ones_matter_to_verified_alone(self):
        certificates.make(self.folder, "self", names=("127.0.0.1",))
        certificates.make(self.folder, "other", names=("other.test", "*.test", "127.0.0.2"), issuer="ca")
        expired(self.folder, "old", ("127.0.0.1",), "ca")
        for name, text in (("self", "is not to be trusted: self signed certificate"),
                           ("other", "is not for [127.0.0.1]"),
                           ("old", "is not to be trusted: certificate has expired")):
            with self.subTest(name):
                with TlsHop(server_context(self.folder, name)) as hop:
                    relay = self.relay(hop, "verified")
                    self.is_deferred(relay, hop, "4.7.5", f"TLS handshake: the certificate {text}")
                    self.assertIn(text, self.event(relay, "tls_failed")["reply"])
                    relay.stop()
                for policy in ("required", "opportunistic"):
                    with TlsHop(server_context(self.folder, name)) as hop:
                        relay = self.relay(hop, policy)
                        self.arrives(relay, hop, True)
                        self.assertIs(self.event(relay, "relayed")["verified"], False)
                        self.assertEqual(relay.metrics()["postern_next_hop_tls_verified_total"], 0)
                        relay.stop()

    def test_names_in_place_of_the_hosts(self):
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.relay(hop, "verified", names=("nobody.test", "Hop.test"))
            self.arrives(relay, hop, True)
            self.assertEqual(hop.sessions[0].name, "nobody.test", "an address is no name, so that it is the first of these")
            relay.stop()
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.relay(hop, "verified", names=("nobody.test", "sub.hop.test"))
            self.is_deferred(relay, hop, "4.7.5", "is not for nobody.test nor another name that was given")

    def test_an_authority_of_another_is_none(self):
        certificates.make(self.folder, "stranger", authority=True, names=("Another authority",))
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.relay(hop, "verified", client={"tls_authorities": os.path.join(self.folder, "stranger.pem")})
            self.is_deferred(relay, hop, "4.7.5", "is not to be trusted: unable to get local issuer certificate")

    def test_ours_is_shown_when_asked_for(self):
        certificates.make(self.folder, "client", names=("mx.relay.test",), issuer="ca")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = server_context(self.folder, minimum_version=version, maximum_version=version)
            context.load_verify_locations(os.path.join(self.folder, "ca.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
            with self.subTest("shown", version=version.name), TlsHop(context) as hop:
                relay = self.relay(hop, "required", client={"tls_certificate": os.path.join(self.folder, "client.pem"),
                                                            "tls_key": os.path.join(self.folder, "client.key")})
                self.arrives(relay, hop, True)
                with open(os.path.join(self.folder, "client.pem"), encoding="ascii") as file:
                    self.assertEqual(hop.sessions[0].certificate, ssl.PEM_cert_to_DER_cert(file.read()))
                relay.stop()
            with self.subTest("missing", version=version.name), TlsHop(context) as hop:
                relay = self.relay(hop, "required")
                self.is_deferred(relay, hop, "4.7.5", "TLS")
                relay.stop()
            with self.subTest("missing, and TLS need not be", version=version.name), TlsHop(context) as hop:
                relay = self.relay(hop, "opportunistic")
                self.arrives(relay, hop, False)
                relay.stop()


class Sessions(TlsOutTest):
    def test_the_next_connection_resumes(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            with self.subTest(version.name):
                context = server_context(self.folder, minimum_version=version, maximum_version=version)
                with TlsHop(context) as hop:
                    relay = self.relay(hop, "verified", shards=1, client={"idle_seconds": 0})
                    self.arrives(relay, hop, True, times=4)
                    self.assertEqual([session.resumed for session in hop.sessions], [False, True, True, True])
                    self.assertEqual(relay.metrics()['postern_next_hop_tls_handshakes_total{result="resumed"}'], 3)
                    self.assertTrue(all(event["verified"] for event in relay.events("relayed")))
                    relay.stop()

    def test_a_kept_connection_is_used_again(self):
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.relay(hop, "required", shards=1)
            self.arrives(relay, hop, True, times=3)
            self.assertEqual(len(hop.sessions), 1)

    def test_routes_with_different_policies_share_no_connection(self):
        with TlsHop(server_context(self.folder)) as hop:
            route = '\n[[route]]\nmatch = "{}.example.test"\nvia = "smtp:[127.0.0.1]:{}"\ntls = "{}"\n'
            made = self.postern(accept=(".example.test",), shards=1, smtp_client={
                "idle_seconds": 60, "tls_authorities": os.path.join(self.folder, "ca.pem")},
                more=route.format("plain", hop.port, "none") + route.format("safe", hop.port, "verified"))
            relay = made.start()
            for number, domain in enumerate(("plain", "safe", "plain", "safe"), 1):
                self.send(relay, recipients=(f"user@{domain}.example.test",))
                hop.wait_for(number)
            self.assertEqual(len(hop.sessions), 2)
            for _, recipients, _, session in hop.messages:
                self.assertEqual(session.tls is not None, "safe" in recipients[0])

    def test_a_reload_to_required_uses_no_plain_connection_again(self):
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.relay(hop, "none", own=False, shards=1, client={"idle_seconds": 60, "connections_per_path": 1})
            self.arrives(relay, hop, False)
            relay.tables["smtp_client"]["tls"] = "required"
            relay.reload()
            wait_until("the reload", lambda: "reloaded" in relay.log())
            self.send(relay)
            self.assertIsNotNone(hop.wait_for(2)[1][3].tls)
            self.assertEqual(len(hop.sessions), 2)


class Reload(TlsOutTest):
    def test_new_authorities_and_certificates_are_found(self):
        certificates.make(self.folder, "new-ca", authority=True, names=("New authority",))
        shutil.copy(os.path.join(self.folder, "new-ca.pem"), os.path.join(self.folder, "trusted.pem"))
        with TlsHop(server_context(self.folder)) as hop:
            relay = self.relay(hop, "verified", client={"tls_authorities": os.path.join(self.folder, "trusted.pem")})
            self.is_deferred(relay, hop, "4.7.5", "is not to be trusted")
            shutil.copy(os.path.join(self.folder, "ca.pem"), os.path.join(self.folder, "trusted.tmp"))
            os.rename(os.path.join(self.folder, "trusted.tmp"), os.path.join(self.folder, "trusted.pem"))
            wait_until("the file to be read again", lambda: "reloaded certificates" in relay.log(), 30)
            hop.wait_for(1, 30)


class RealPeers(TlsOutTest):
    def test_another_posternd(self):
        certificates.make(self.folder, "mx", names=("127.0.0.1",), issuer="ca")
        store = self.postern(listener={"tls": "required", "client_certificates": "optional"}, more=f"""
[[tls.certificate]]
chain = "{self.folder}/mx.pem"
key = "{self.folder}/mx.key"
""")
        store.routes.append(store.maildir_route())
        store.start()
        relay = self.relay(store, "verified", shards=1, client={"idle_seconds": 0})
        for number in range(1, 4):
            self.send(relay)
            mails = store.wait_for_mails(number)
        self.assertTrue(all(b"with ESMTPS id" in mail and b"using TLSv1.3" in mail for mail in mails.values()))
        self.assertEqual(relay.metrics()['postern_next_hop_tls_handshakes_total{result="resumed"}'], 2)
        self.assertEqual(store.metrics()['postern_tls_handshakes_total{result="resumed"}'], 2)

    def test_mx_hosts_by_their_names(self):
        # The certificate must be for the host's name; when the first host's is not, the second one is tried.
        port = free_port("127.0.0.2")
        certificates.make(self.folder, "wrong", names=("tls.mail.test",), issuer="ca")
        certificates.make(self.folder, "good", names=("*.tls.mail.test",), issuer="ca")
        records = ["tls MX 10 wrong.tls", "tls MX 20 good.tls", "wrong.tls A 127.0.0.2", "good.tls A 127.0.0.3"]
        with Nsd(records) as dns, TlsHop(server_context(self.folder, "wrong"), host="127.0.0.2", port=port) as first, \
                TlsHop(server_context(self.folder, "good"), host="127.0.0.3", port=port) as second:
            relay = self.relay(second, "verified", via="mx", accept=(".mail.test",), client={"port": port, "refuse_networks": []},
                               dns={"servers": [f"127.0.0.1:{dns.port}"]})
            self.send(relay, recipients=("user@tls.mail.test",))
            self.assertEqual(second.wait_for(1)[0][3].name, "good.tls.mail.test")
            self.assertEqual(first.sessions[0].name, "wrong.tls.mail.test")
            self.assertEqual(first.messages, [])
            self.assertEqual(relay.events("deferred"), [])
            self.assertIn("the certificate is not for wrong.tls.mail.test", self.event(relay, "tls_failed")["reply"])
            self.assertEqual(self.event(relay, "relayed")["peer"], f"good.tls.mail.test[127.0.0.3]:{port}")


if __name__ == "__main__":
    unittest.main()
