"""Delivery by MX records of a real DNS server. All hosts are loopback addresses; the port is one of the test's."""
import array
import fcntl
import ipaddress
import socket
import struct
import unittest

from dns_server import Nsd
from harness import Client, RelayTest, free_port, wait_until
from sink import Sink

RECORDS = [
    # 127.0.0.2 and .3 have a sink; nobody listens on 127.0.0.77.
    "one MX 10 a.one",
    "a.one A 127.0.0.2",
    "order MX 20 b.order", "order MX 10 a.order", "a.order A 127.0.0.3", "b.order A 127.0.0.2",
    "dead MX 10 a.dead", "dead MX 20 b.dead", "a.dead A 127.0.0.77", "b.dead A 127.0.0.2",
    "addresses MX 10 a.addresses", "a.addresses A 127.0.0.77", "a.addresses A 127.0.0.2",
    "nowhere MX 10 gone.nowhere", "nowhere MX 20 a.nowhere", "a.nowhere A 127.0.0.2",
    "alias CNAME one",
    "null MX 0 .",
    "nomx A 127.0.0.2",
    "nothing TXT x",
    "halfbroken MX 10 host.broken.test.", "halfbroken MX 20 a.halfbroken", "a.halfbroken A 127.0.0.2",
    "ourselves MX 10 mx.relay.test.",
    "behindus MX 5 a.behindus", "behindus MX 10 mx.relay.test.", "behindus MX 20 b.behindus", "a.behindus A 127.0.0.77",
    "b.behindus A 127.0.0.2",
    # Far beyond 1,232 bytes: the answer is truncated, and comes whole over TCP.
    *(f"many MX {10 + n} host-with-a-rather-long-name-number-{n}.many" for n in range(60)),
    *(f"host-with-a-rather-long-name-number-{n}.many A 127.0.0.2" for n in range(60)),
]


class Mx(RelayTest):
    def setUp(self):
        super().setUp()
        port = free_port("127.0.0.2")
        self.dns = Nsd(RECORDS)
        self.addCleanup(self.dns.stop)
        self.sink = Sink(host="127.0.0.2", port=port)
        self.addCleanup(self.sink.stop)
        self.other = Sink(host="127.0.0.3", port=port)
        self.addCleanup(self.other.stop)
        self.relay = self.start()

    def start(self, **tables):
        client = {"port": self.sink.port, "refuse_networks": [], "connect_timeout": "2s"}
        client.update(tables.pop("smtp_client", {}))
        return self.postern(accept=[".mail.test", ".broken.test", "broken.test"], dns={"servers": [f"127.0.0.1:{self.dns.port}"]},
                            smtp_client=client, **tables).start()

    def send(self, domain, sender="", relay=None):
        with Client((relay or self.relay).port) as client:
            client.hello()
            replies = client.envelope(sender, [f"user@{domain}"])
            self.assertEqual(replies[-1][0], 250, replies)
            self.assertEqual(client.data()[0], 250)

    def event(self, kind, relay=None):
        return wait_until(f"the {kind} event", lambda: (relay or self.relay).events(kind))[0]

    def test_one(self):
        self.send("one.mail.test")
        self.sink.wait_for(1)
        self.assertEqual(self.event("relayed")["to"], "user@one.mail.test")

    def test_the_better_preference_is_tried_first(self):
        for _ in range(5):
            self.send("order.mail.test")
        self.other.wait_for(5)
        self.assertEqual(self.sink.messages, [])

    def test_a_dead_first_mx_does_not_keep_the_mail(self):
        self.send("dead.mail.test")
        self.sink.wait_for(1)
        self.assertEqual(self.relay.events("deferred"), [])

    def test_a_dead_first_address_does_not_keep_the_mail(self):
        self.send("addresses.mail.test")
        self.sink.wait_for(1)

    def test_an_mx_without_an_address_is_passed_over(self):
        self.send("nowhere.mail.test")
        self.sink.wait_for(1)

    def test_an_mx_that_cannot_be_looked_up_is_passed_over(self):
        self.send("halfbroken.mail.test")
        self.sink.wait_for(1, 40)

    def test_cname(self):
        self.send("alias.mail.test")
        self.sink.wait_for(1)

    def test_without_mx_the_domain_is_the_host(self):
        self.send("nomx.mail.test")
        self.sink.wait_for(1)

    def test_null_mx_fails(self):
        self.send("null.mail.test")
        self.assertIn("5.1.10", self.event("failed")["reply"])

    def test_nxdomain_fails(self):
        self.send("never.mail.test")
        self.assertIn("5.1.2", self.event("failed")["reply"])

    def test_no_address_at_all_fails(self):
        self.send("nothing.mail.test")
        self.assertIn("5.4.4", self.event("failed")["reply"])

    def test_servfail_defers(self):
        self.send("broken.test")
        self.assertIn("4.4.3", self.event("deferred")["reply"])
        self.assertEqual(self.relay.events("failed"), [])

    def test_no_dns_server_defers(self):
        relay = self.postern(accept=[".mail.test"], dns={"servers": [f"127.0.0.1:{free_port()}"]}).start()
        self.send("one.mail.test", relay=relay)
        wait_until("the deferred event", lambda: relay.events("deferred"), 60)
        self.assertEqual(relay.events("failed"), [])

    def test_a_truncated_answer_comes_whole_over_tcp(self):
        self.send("many.mail.test")
        self.sink.wait_for(1)

    def test_ourselves_only_fails(self):
        self.send("ourselves.mail.test")
        self.assertIn("5.4.6", self.event("failed")["reply"])

    def test_what_is_no_better_than_ourselves_is_not_tried(self):
        self.send("behindus.mail.test")
        self.event("deferred")
        self.assertEqual(self.sink.messages, [])

    def test_refused_networks_are_not_tried(self):
        relay = self.start(smtp_client={"refuse_networks": ["127.0.0.0/8"]})
        self.send("one.mail.test", relay=relay)
        self.assertIn("5.4.4", self.event("failed", relay)["reply"])
        self.assertEqual(self.sink.messages, [])

    def test_more_domains_at_once_than_can_be_looked_up_wait_their_turn(self):
        relay = self.start(shards=1)
        messages, each = 20, 1000
        with self.dns.paused(), Client(relay.port) as client:
            client.hello()
            for message in range(messages):
                client.send("MAIL FROM:<>\r\n" + "".join(f"RCPT TO:<user@n{message}-{n}.mail.test>\r\n" for n in range(each)))
                self.assertEqual({client.reply()[0] for _ in range(each + 1)}, {250})
                self.assertEqual(client.data()[0], 250)
            wait_until("all to be in the queue", lambda: relay.queued() == messages * each)
        wait_until("all to have an answer", lambda: relay.queued() == 0, 60)
        numbers = relay.metrics()
        self.assertEqual(numbers['postern_recipients_total{outcome="failed"}'], messages * each)
        self.assertEqual(numbers['postern_recipients_total{outcome="deferred"}'], 0, "want of room is no attempt")

    def test_answers_are_kept(self):
        for _ in range(30):
            self.send("one.mail.test")
        self.sink.wait_for(30)
        self.send("alias.mail.test")  # another domain with the same MX host
        self.sink.wait_for(31)
        wait_until("a hit", lambda: self.relay.metrics()["postern_dns_cache_hits_total"] > 0)  # counted once a second
        self.assertLess(self.relay.metrics()["postern_dns_queries_total"], 10)


def own_addresses():
    """The IPv4 addresses of this machine's interfaces [SIOCGIFCONF]."""
    buffer = array.array("B", bytes(64 * 40))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        filled = struct.unpack("iL", fcntl.ioctl(any_socket, 0x8912, struct.pack("iL", len(buffer), buffer.buffer_info()[0])))[0]
    return [ipaddress.ip_address(bytes(buffer[at + 20:at + 24])) for at in range(0, filled, 40)]


class Wildcard(RelayTest):
    def test_an_mx_at_any_address_of_this_machine_is_ourselves(self):
        outer = [address for address in own_addresses() if not address.is_loopback]
        if not outer:
            self.skipTest("this machine has no address beside loopback")
        dns = Nsd(["loop MX 10 a.loop", f"a.loop A {outer[0]}", "local MX 10 a.local", "a.local A 127.0.0.9"])
        self.addCleanup(dns.stop)
        relay = self.postern(accept=[".mail.test"], dns={"servers": [f"127.0.0.1:{dns.port}"]})
        relay.listener["address"] = f"0.0.0.0:{relay.port}"
        relay.tables["smtp_client"]["port"] = relay.port
        relay.start()
        for count, domain in enumerate(("loop.mail.test", "local.mail.test"), 1):
            with Client(relay.port) as client:
                client.hello()
                client.envelope("", [f"user@{domain}"])
                self.assertEqual(client.data()[0], 250)
            wait_until("the failed event", lambda count=count: len(relay.events("failed")) == count)
            self.assertIn("5.4.6", relay.events("failed")[-1]["reply"])
        self.assertEqual(len(relay.events("received")), 2, "it came to ourselves")
        self.assertEqual(relay.metrics()["postern_connections_opened_total"], 0)


if __name__ == "__main__":
    unittest.main()
