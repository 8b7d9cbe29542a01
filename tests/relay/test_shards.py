"""Four shards and one next hop: deliveries cross shards, and a path's limit holds over all of them at every instant."""
import re
import threading
import time
import unittest

from harness import Client, RelayTest, wait_until
from sink import Delay, Sink


class FourShards(RelayTest):
    def send(self, relay, count, failures, domain="example.test"):
        try:
            with Client(relay.port) as client:
                client.hello()
                for _ in range(count):
                    replies = client.envelope(recipients=[f"user@{domain}"]) + [client.data()]
                    if replies[-1][0] != 250:
                        failures.append(replies)
        except OSError as lost:
            failures.append(lost)

    def test_clients_of_one_shard_alone(self):
        # One connection is one shard's: that shard owns all the mail, and the site's home may be any other.
        with Sink() as sink:
            relay = self.postern(accept=[f"d{n}.test" for n in range(16)], shards=4,
                                 routes=[(f"d{n}.test", f"smtp:[127.0.0.{n + 1}]:{sink.port}") for n in range(1)] +
                                        [("*", f"smtp:[127.0.0.1]:{sink.port}")])
            relay.start()
            failures = []
            self.send(relay, 200, failures, "d3.test")
            self.assertEqual(failures, [])
            sink.wait_for(200, 60)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual(len(sink.messages), 200)

    def test_deliveries_cross_shards_and_the_limit_holds(self):
        limit = 3
        with Sink(lambda step, session, argument: Delay(0.02) if step == "MAIL" else None) as sink:
            relay = self.to_sink(sink, shards=4, smtp_client={"connections_per_path": limit, "idle_seconds": 1})
            failures = []
            senders = [threading.Thread(target=self.send, args=(relay, 25, failures)) for _ in range(16)]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            self.assertEqual(failures, [])
            sink.wait_for(400, 120)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertEqual(len(sink.messages), 400)
            ids = [re.search(rb" id ([0-9A-Z]{13})", message.content).group(1) for message in sink.messages]
            self.assertEqual(len(set(ids)), 400, "nothing twice")
            self.assertGreater(len({identifier[:3] for identifier in ids}), 1, "several logs took mail")
            self.assertLessEqual(sink.open_max, limit, "connections at one moment")
            self.assertGreater(relay.metrics()["postern_deliveries_crossed_total"], 0)
            relay.stop()

    def test_a_freed_connection_goes_to_whoever_waits(self):
        # One slot for four shards that all have mail: none may starve.
        with Sink() as sink:
            relay = self.to_sink(sink, shards=4, smtp_client={"connections_per_path": 1, "idle_seconds": 2})
            failures = []
            senders = [threading.Thread(target=self.send, args=(relay, 10, failures)) for _ in range(12)]
            started = time.monotonic()
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            self.assertEqual(failures, [])
            sink.wait_for(120, 60)
            self.assertEqual(sink.open_max, 1)
            self.assertLess(time.monotonic() - started, 60)
            relay.stop()

    def test_many_sites_at_once(self):
        sinks = [Sink() for _ in range(8)]
        for sink in sinks:
            self.addCleanup(sink.stop)
        relay = self.postern(accept=[f"d{n}.test" for n in range(8)], shards=4,
                             routes=[(f"d{n}.test", f"smtp:[127.0.0.1]:{sink.port}") for n, sink in enumerate(sinks)]).start()
        failures = []
        senders = [threading.Thread(target=self.send, args=(relay, 20, failures, f"d{n % 8}.test")) for n in range(16)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        self.assertEqual(failures, [])
        for sink in sinks:
            sink.wait_for(40, 60)
        wait_until("the queue to be empty", lambda: relay.queued() == 0)
        self.assertEqual([len(sink.messages) for sink in sinks], [40] * 8)
        relay.stop()


if __name__ == "__main__":
    unittest.main()
