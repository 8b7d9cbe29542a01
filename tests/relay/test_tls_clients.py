"""More real clients over STARTTLS and over TLS from the first byte on (test_tls.py has smtplib, openssl, curl and swaks), and
scanners, which must find nothing but that the certificate is a test's."""
import json
import os
import re
import subprocess
import xml.etree.ElementTree

from harness import SLOWNESS, program
from test_tls import TlsTest

MAIL = "From: a@client.test\nTo: user@example.test\nSubject: by {}\n\nhello\n"

NET_SMTP = r"""
use strict; use warnings; use Net::SMTP; use IO::Socket::SSL;
my ($port, $at_once, $authority) = @ARGV;
my @tls = (SSL_ca_file => $authority, SSL_verifycn_name => "mx.relay.test", SSL_hostname => "mx.relay.test");
my $smtp = Net::SMTP->new("127.0.0.1", Port => $port, Hello => "client.test", Timeout => 30,
                          $at_once ? (SSL => 1, @tls) : ()) or die "connect: $@ $IO::Socket::SSL::SSL_ERROR";
if (!$at_once) { $smtp->starttls(@tls) or die "STARTTLS: " . $smtp->message . " $IO::Socket::SSL::SSL_ERROR" }
die "not secured" unless $smtp->isa("Net::SMTP") && $smtp->get_cipher;
$smtp->mail("a\@client.test") && $smtp->to("user\@example.test") && $smtp->data && $smtp->datasend(<STDIN>)
    && $smtp->dataend or die $smtp->message;
$smtp->quit or die "QUIT";
"""


class MoreClients(TlsTest):
    kinds = ("ecdsa", "rsa")

    def expect(self, relay, name, runs):
        for number, (command, environment) in enumerate(runs, 1):
            done = subprocess.run(command, input=MAIL.format(name).encode(), capture_output=True, timeout=60 * SLOWNESS,
                                  env={**os.environ, "HOME": self.folder, **environment}, check=False)
            self.assertEqual(done.returncode, 0, (command, done.stdout, done.stderr))
            stored = relay.wait_for_mails(number)
            self.assertTrue(all(b"(using TLSv1.3 with cipher TLS_" in mail for mail in stored.values()), stored)
            self.assertTrue(all(f"Subject: by {name}".encode() in mail for mail in stored.values()), stored)
        self.assertEqual(relay.metrics()['postern_tls_handshakes_total{result="failed"}'], 0)

    def test_msmtp(self):
        relay = self.relay()
        common = [program("msmtp"), "--file=/dev/null", "--host=127.0.0.1", "--from=a@client.test", "--tls=on",
                  "--tls-host-override=mx.relay.test", f"--tls-trust-file={self.folder}/ecdsa.pem"]
        self.expect(relay, "msmtp", [
            (common + ["--tls-starttls=on", f"--port={relay.port}", "user@example.test"], {}),
            (common + ["--tls-starttls=off", f"--port={relay.tls_port}", "user@example.test"], {})])

    def test_s_nail(self):
        relay = self.relay()
        common = [program("s-nail"), "-:/", "-S", "v15-compat", "-S", "tls-verify=ignore", "-S", "smtp-auth=none",
                  "-S", "hostname=client.test", "-S", "from=a@client.test", "-r", "a@client.test", "-s", "by s-nail"]
        self.expect(relay, "s-nail", [
            (common + ["-S", "smtp-use-starttls", "-S", f"mta=smtp://127.0.0.1:{relay.port}", "user@example.test"], {}),
            (common + ["-S", f"mta=smtps://127.0.0.1:{relay.tls_port}", "user@example.test"], {})])

    def test_perls_net_smtp(self):
        relay = self.relay()
        perl = program("perl")
        if subprocess.run([perl, "-MIO::Socket::SSL", "-MNet::SMTP", "-e", "1"], capture_output=True, check=False).returncode:
            self.skipTest("Net::SMTP speaks TLS only with libio-socket-ssl-perl")
        self.expect(relay, "Net::SMTP", [
            ([perl, "-e", NET_SMTP, str(relay.port), "0", f"{self.folder}/ecdsa.pem"], {}),
            ([perl, "-e", NET_SMTP, str(relay.tls_port), "1", f"{self.folder}/ecdsa.pem"], {})])


class Scanners(TlsTest):
    kinds = ("ecdsa", "rsa")
    WANTED = re.compile(r"ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM-SHA\d+|CHACHA20-POLY1305)|TLS_(AES|CHACHA20)_\w+")

    def test_sslscan(self):
        relay = self.relay()
        for arguments in ([f"127.0.0.1:{relay.tls_port}"], ["--starttls-smtp", f"127.0.0.1:{relay.port}"]):
            done = subprocess.run([program("sslscan"), "--xml=-", "--sni-name=mx.relay.test", *arguments], capture_output=True,
                                  timeout=120 * SLOWNESS, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            found = xml.etree.ElementTree.fromstring(done.stdout).find("ssltest")
            protocols = {(each.get("type"), each.get("version")): each.get("enabled") for each in found.iter("protocol")}
            self.assertEqual({name for name, enabled in protocols.items() if enabled == "1"},
                             {("tls", "1.2"), ("tls", "1.3")})
            self.assertGreaterEqual(len(protocols), 6, "older ones were tried")
            ciphers = [each.get("cipher") for each in found.iter("cipher")]
            self.assertGreaterEqual(len(ciphers), 6)
            self.assertEqual([name for name in ciphers if not self.WANTED.fullmatch(name)], [])
            self.assertEqual({each.get("vulnerable") for each in found.iter("heartbleed")}, {"0"})
            # Debian's OpenSSL cannot compress, and then sslscan does not ask.
            self.assertEqual([each.get("supported") for each in found.iter("compression") if each.get("supported") != "0"], [])
            self.assertEqual(found.find("renegotiation").get("supported"), "0")

    def test_testssl(self):
        relay = self.relay()
        # What is wrong with a test's certificate, and with machines that have no way out to ask about it; and that a client's
        # order of ciphers counts for us, which is meant: all that we take are strong, and who has no AES in hardware asks for
        # ChaCha20.
        own = re.compile(r"^(cert|DNS_CAArecord|OCSP|SCT|intermediate|overall_grade|grade|rating|scan|engine|cipher_order|"
                         r"final_score|key_exchange|cipher_strength|protocol_support|certificate)", re.IGNORECASE)
        report = f"{self.folder}/testssl.json"
        # The port with STARTTLS has the same context behind it, and this takes minutes.
        command = [program("testssl"), "--quiet", "--color", "0", "--nodns", "none", "--ip", "127.0.0.1", "-p", "-s", "-f", "-S",
                   "-U", "-P", "--jsonfile", report, f"127.0.0.1:{relay.tls_port}"]
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=600 * SLOWNESS, check=False)
        with open(report, encoding="utf-8") as file:
            findings = json.load(file)
        self.assertGreater(len(findings), 40, done.stdout[-3000:])
        for wanted in ("heartbleed", "ROBOT", "secure_client_renego", "CRIME_TLS", "SWEET32", "TLS1_2", "TLS1_3"):
            self.assertIn(wanted, [each["id"] for each in findings])
        weak = [each for each in findings
                if each["severity"] in ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL") and not own.match(each["id"])]
        self.assertEqual(weak, [])


del TlsTest  # or its tests would run here, too
