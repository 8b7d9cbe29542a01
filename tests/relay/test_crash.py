"""kill -9 under load: what was answered 250 arrives; a duplicate is only what was unsettled at a kill. A clean restart
duplicates nothing."""
import collections
import os
import random
import re
import threading
import time
import unittest
import zlib

from harness import SLOWNESS, Client, RelayTest, wait_until
from sink import Delay, Sink

ROUNDS = int(os.environ.get("POSTERN_TEST_KILLS", "20"))
# A settlement may wait 10–20 ms for company, then for the write in flight, then needs its own; no write takes longer than
# the slowest 250 did. What the next hop had confirmed so long before the kill must not come again.
SETTLED_AFTER = 0.5


class Load:
    """Threads that send numbered messages all the time and remember which were answered 250."""

    def __init__(self, relay, threads=6, sizes=(200, 2_000, 60_000)):
        self.relay = relay
        self.sizes = sizes
        self.accepted = set()
        self.checksums = {}  # of the content of each number
        self.slowest = 0.0  # seconds from the end of data to its 250
        self.next = 0
        self.lock = threading.Lock()
        self.ending = False
        self.threads = [threading.Thread(target=self.run, args=(seed,), daemon=True) for seed in range(threads)]
        for thread in self.threads:
            thread.start()

    def number(self):
        with self.lock:
            self.next += 1
            return self.next

    def run(self, seed):
        source = random.Random(seed)
        while not self.ending:
            try:
                with Client(self.relay.port, timeout=5) as client:
                    client.hello()
                    while not self.ending:
                        number = self.number()
                        body = b"x" * 70 + b"\r\n"
                        content = f"Subject: {number}\r\nX-Test: {number}\r\n\r\n".encode() + \
                            body * (source.choice(self.sizes) // len(body) + 1)
                        self.checksums[number] = zlib.crc32(content)
                        client.envelope()
                        sent = time.monotonic()
                        if client.data(content)[0] == 250:
                            with self.lock:
                                self.accepted.add(number)
                                self.slowest = max(self.slowest, time.monotonic() - sent)
            except (OSError, EOFError, ValueError):
                time.sleep(0.02)

    def end(self):
        self.ending = True
        for thread in self.threads:
            thread.join(20 * SLOWNESS)


def numbers_of(sink):
    """{number: [times at which the sink confirmed it]}"""
    found = collections.defaultdict(list)
    for message in list(sink.messages):
        found[int(re.search(rb"X-Test: (\d+)", message.content).group(1))].append(message.at)
    return found


def explained_duplicates(test, found, kills, load):
    """How many of numbers_of() came more than once; each must be explained by one of `kills`, (began, was over)."""
    settled_after = SETTLED_AFTER * SLOWNESS + 2 * load.slowest
    twice = {number: times for number, times in found.items() if len(times) > 1}
    for number, times in twice.items():
        for first, again in zip(times, times[1:]):
            # The sink may confirm to a process that is dead already: what was sent lies in its socket's buffer.
            near = any(begin - settled_after <= first <= end + settled_after and again > begin
                       for begin, end in kills)
            test.assertTrue(near, f"message {number} came again though it was settled long before a kill")
    return len(twice)


class KillMinusNine(RelayTest):
    def test_no_message_answered_250_is_lost(self):
        source = random.Random(20)

        def script(step, session, argument):
            # Some deliveries are slow, some deferred once, so that each kill meets mail in every state.
            if step == "content" and source.random() < 0.05:
                return Delay(0.1)
            if step == "RCPT" and source.random() < 0.05:
                return "450 4.2.1 later"
            return None

        with Sink(script) as sink:
            relay = self.to_sink(sink, shards=2)
            load = Load(relay)
            kills = []
            for round_number in range(ROUNDS):
                before = len(load.accepted)
                wait_until("mail in this round", lambda before=before: len(load.accepted) > before + 5, 60)
                time.sleep(source.uniform(0.0, 0.5))
                kills.append(time.monotonic())
                relay.kill()
                kills[-1] = (kills[-1], time.monotonic())
                # Another number of shards each time: every log is recovered whoever gets it.
                relay.root["shards"] = (1, 2, 4, 3)[round_number % 4]
                relay.start()
            load.end()
            wait_until("all that was answered 250 at the next hop", lambda: load.accepted <= set(numbers_of(sink)), 120)
            wait_until("the queue to be empty", lambda: relay.queued() == 0, 60)
            found = numbers_of(sink)
            self.assertGreater(len(load.accepted), ROUNDS * 5)
            twice = explained_duplicates(self, found, kills, load)
            relay.stop()
            self.assertLessEqual(twice, 20 * 2 * ROUNDS, "more than the connections' worth at each kill")

    def test_a_kill_during_recovery_loses_nothing(self):
        with Sink(lambda step, session, argument: "451 4.3.0 later" if step == "MAIL" and not opened.is_set() else None) as sink:
            opened = threading.Event()
            relay = self.to_sink(sink, shards=2, retry={"schedule": ["2s"]})
            load = Load(relay, threads=4)
            wait_until("some mail", lambda: len(load.accepted) > 200, 60)
            load.end()
            relay.kill()
            for pause in (0.0, 0.01, 0.03, 0.06, 0.1, 0.2):
                relay.start(wait=False)
                time.sleep(pause)
                relay.kill()
            opened.set()
            relay.start()
            wait_until("all that was answered 250", lambda: load.accepted <= set(numbers_of(sink)), 60)

    def test_into_a_maildir(self):
        relay = self.into_maildir(shards=2)
        load = Load(relay, threads=4)
        for _ in range(4):
            before = len(load.accepted)
            wait_until("mail in this round", lambda before=before: len(load.accepted) > before + 20, 60)
            relay.kill()
            relay.start()
        load.end()
        wait_until("the queue to be empty", lambda: relay.queued() == 0, 60)
        found = collections.Counter(int(re.search(rb"X-Test: (\d+)", mail).group(1)) for mail in relay.mails().values())
        self.assertLessEqual(load.accepted, set(found))
        # A file's name comes from queue id and recipient: even an unsettled delivery stands there once.
        self.assertTrue(all(count == 1 for count in found.values()))


class CleanRestart(RelayTest):
    def test_duplicates_nothing_and_loses_nothing(self):
        with Sink(lambda step, session, argument: Delay(0.01) if step == "content" else None) as sink:
            relay = self.to_sink(sink, shards=2)
            load = Load(relay, threads=4)
            for shards in (4, 1, 2):
                before = len(load.accepted)
                wait_until("mail in this round", lambda before=before: len(load.accepted) > before + 50, 60)
                relay.root["shards"] = shards
                relay.stop()
                relay.start()
            load.end()
            wait_until("all that was answered 250", lambda: load.accepted <= set(numbers_of(sink)), 60)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            relay.stop()
            twice = {number: times for number, times in numbers_of(sink).items() if len(times) > 1}
            self.assertEqual(twice, {})

    def test_deferred_mail_keeps_its_time(self):
        with Sink(lambda step, session, argument: "451 4.3.0 later" if step == "MAIL" and not opened.is_set() else None) as sink:
            opened = threading.Event()
            relay = self.to_sink(sink, retry={"schedule": ["3s"]})
            with Client(relay.port) as client:
                client.hello()
                client.envelope()
                client.data()
            wait_until("the deferred event", lambda: relay.events("deferred"))
            deferred_at = time.monotonic()
            opened.set()
            relay.stop()
            relay.start()
            time.sleep(0.3)
            self.assertEqual(sink.messages, [], "a restart is no reason to try at once")
            sink.wait_for(1, 30)
            self.assertGreater(time.monotonic() - deferred_at, 2.0)


class PageCache(RelayTest):
    def test_it_survives_the_process_and_the_log_says_what_not(self):
        with Sink(lambda step, session, argument: "450 4.2.1 not yet" if step == "RCPT" else None) as sink:
            relay = self.to_sink(sink, spool={"durability": "page_cache", "min_free": "64MiB"})
            self.assertRegex(relay.log(), r"page_cache.*not of the machine")
            with Client(relay.port) as client:
                client.hello()
                client.envelope()
                self.assertEqual(client.data()[0], 250)
            relay.kill()
            sink.script = lambda step, session, argument: None
            relay.start()
            wait_until("the mail", lambda: len(sink.messages) == 1, 60)


if __name__ == "__main__":
    unittest.main()
