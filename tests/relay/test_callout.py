"""Asking the next hop who exists: its refusal becomes ours at RCPT, whatever it does instead of answering."""
import threading
import time
import unittest

from harness import SLOWNESS, Client, RelayTest, free_port, wait_until
from lmtp_store import Store
from sink import DROP, RESET, SILENCE, Delay, Sink


def knows(*local_parts):
    """A script of a sink that takes these, at example.test, and no others."""
    def script(step, _session, argument):
        if step == "RCPT" and argument.rpartition("@")[0] not in local_parts:
            return "550 5.1.1 <who?> is not known here"
        return None
    return script


class Callout(RelayTest):
    def asking(self, via, recipients=None, shards=1, **options):
        """One shard, unless told: each keeps the answers that it got, and which of them gets a client is the kernel's choice."""
        keys = {"callout": True, "callout_timeout": f"{2 * SLOWNESS:.0f}s", **(recipients or {})}
        relay = self.postern(routes=[("example.test", via)], recipients=keys, listener={"relay_from": []},
                             shards=shards, **options)
        relay.routes.append(relay.maildir_route("*"))
        return relay.start()

    def to_sink(self, sink, **options):
        return self.asking(f"smtp:[127.0.0.1]:{sink.port}", **options)

    def ask(self, relay, *recipients):
        """The replies to RCPT."""
        with Client(relay.port) as client:
            client.hello()
            return [f"{code} {text}" for code, text in client.envelope(recipients=recipients)[1:]]

    def answers(self, relay):
        prefix = 'postern_callouts_total{answer="'
        return {series[len(prefix):-2]: number for series, number in relay.metrics().items() if series.startswith(prefix)}

    def commands(self, sink, word):
        return [command for session in sink.sessions for command in session.commands if command.startswith(word)]

    def test_the_next_hops_refusal_becomes_ours(self):
        with Sink(knows("user", "other")) as sink:
            relay = self.to_sink(sink)
            good, unknown, foreign, postmaster = self.ask(
                relay, "user@example.test", "nobody@example.test", "user@elsewhere.test", "postmaster@example.test")
            self.assertTrue(good.startswith("250"), good)
            self.assertEqual(unknown, "550 5.1.1 <who?> is not known here")
            self.assertTrue(foreign.startswith("550 5.7.1"), foreign)
            self.assertTrue(postmaster.startswith("250"), postmaster)
            self.assertEqual(set(self.commands(sink, "MAIL")), {"MAIL FROM:<>"})
            self.assertEqual(self.commands(sink, "RCPT"), ["RCPT TO:<user@example.test>", "RCPT TO:<nobody@example.test>"])
            self.assertEqual(len(sink.sessions), 1)
            # Both answers are kept, and case in the domain does not matter.
            self.assertEqual([reply[:3] for reply in self.ask(relay, "user@EXAMPLE.test", "nobody@example.test")], ["250", "550"])
            self.assertEqual(len(self.commands(sink, "RCPT")), 2)
            self.assertEqual(self.answers(relay), {"taken": 1, "refused": 1, "put_off": 0, "unknown": 0})
            self.assertEqual(relay.metrics()["postern_callout_cache_hits_total"], 2)
            # Mail goes out behind a question on its connection.
            with Client(relay.port) as client:
                client.hello()
                client.envelope(recipients=["user@example.test"])
                self.assertEqual(client.data()[0], 250)
            self.assertEqual(sink.wait_for(1)[0].recipients, ["user@example.test"])
            asked = wait_until("both events", lambda: (lambda e: e if len(e) == 2 else None)(relay.events("asked")))
            self.assertEqual([event["to"] for event in asked], ["user@example.test", "nobody@example.test"])
            self.assertEqual(asked[1]["reply"], "550 5.1.1 <who?> is not known here")
            self.assertEqual(asked[1]["site"], f"smtp:[127.0.0.1]:{sink.port}")
            relay.stop()

    def test_the_addresses_that_an_alias_leads_to_are_asked_for(self):
        with Sink(knows("one", "two")) as sink:
            relay = self.to_sink(sink, recipients={
                "known": ["all@example.test: one@example.test, two@example.test, three@elsewhere.test",
                          "some@example.test: one@example.test, gone@example.test", "@example.test"], "separator": "+"})
            replies = self.ask(relay, "all@example.test", "some@example.test", "one+tag@example.test")
            self.assertEqual([reply[:9] for reply in replies], ["250 2.1.5", "550 5.1.1", "550 5.1.1"])
            self.assertEqual(self.commands(sink, "RCPT"), [f"RCPT TO:<{local}@example.test>" for local in ("one", "two", "gone", "one+tag")])
            relay.stop()

    def test_a_mail_store_is_asked_by_lmtp(self):
        with Store(None, rcpt=lambda recipient: None if recipient.startswith("user@") else "550 5.1.1 no mailbox") as store:
            relay = self.asking(f"lmtp:[127.0.0.1]:{store.port}")
            self.assertEqual([reply[:9] for reply in self.ask(relay, "user@example.test", "nobody@example.test")],
                             ["250 2.1.5", "550 5.1.1"])
            self.assertEqual(store.kept, [])
            relay.stop()

    def test_temporary_answers_are_not_kept(self):
        busy = [True]
        with Sink(lambda step, _session, _argument: "451 4.7.1 come back" if step == "RCPT" and busy[0] else None) as sink:
            relay = self.to_sink(sink)
            self.assertEqual(self.ask(relay, "user@example.test"), ["450 4.7.1 come back"])
            busy[0] = False
            self.assertEqual(self.ask(relay, "user@example.test")[0][:3], "250")
            relay.stop()

    def test_answers_are_forgotten_in_time(self):
        people = ["user"]
        with Sink(lambda step, session, argument: knows(*people)(step, session, argument)) as sink:
            relay = self.to_sink(sink, recipients={"callout_positive": "1s", "callout_negative": "1s"})
            self.assertEqual([reply[:3] for reply in self.ask(relay, "user@example.test", "new@example.test")], ["250", "550"])
            people[:] = ["new"]
            wait_until("the next hop to be asked again", lambda: [reply[:3] for reply in self.ask(
                relay, "user@example.test", "new@example.test")] == ["550", "250"])
            # What a reload brings is a new beginning.
            people[:] = ["user"]
            relay.tables["recipients"]["callout_positive"] = relay.tables["recipients"]["callout_negative"] = "1h"
            relay.reload()
            wait_until("the answers to be gone", lambda: [reply[:3] for reply in self.ask(
                relay, "user@example.test", "new@example.test")] == ["250", "550"])
            relay.stop()

    def test_a_next_hop_that_cannot_say_is_no_reason_to_refuse_for_good(self):
        answers = {
            "never answers": lambda step, _session, _argument: SILENCE if step == "RCPT" else None,
            "no greeting": lambda step, _session, _argument: SILENCE if step == "connect" else None,
            "drops": lambda step, _session, _argument: DROP if step == "RCPT" else None,
            "resets": lambda step, _session, _argument: RESET if step == "EHLO" else None,
            "garbage": lambda step, _session, _argument: "what? \x01" if step == "RCPT" else None,
            "no null senders": lambda step, _session, _argument: "550 5.7.1 no" if step == "MAIL" else None,
            "refuses us": lambda step, _session, _argument: "554 5.7.1 go away" if step == "connect" else None,
            "wants more first": lambda step, _session, _argument: "530 5.7.0 authenticate" if step == "RCPT" else None,
        }
        for name, script in answers.items():
            for failure, wanted in (("defer", "450 4.4.3"), ("accept", "250 2.1.5")):
                with self.subTest(name=name, failure=failure), Sink(script) as sink:
                    relay = self.to_sink(sink, recipients={"callout_failure": failure, "callout_timeout": "1s"})
                    began = time.monotonic()
                    first, second = self.ask(relay, "user@example.test", "other@example.test")
                    self.assertLess(time.monotonic() - began, 10 * SLOWNESS)
                    self.assertEqual([first[:9], second[:9]], [wanted] * 2)
                    # Whoever gives no answer at all is left alone; what may depend on the address keeps nobody from asking.
                    asked = len(set(self.commands(sink, "RCPT")))
                    if name in ("drops", "garbage", "wants more first"):
                        self.assertEqual(asked, 2)
                    else:
                        self.assertLessEqual(asked, 1)
                    relay.stop()

    def test_nobody_there_is_said_at_once(self):
        relay = self.asking(f"smtp:[127.0.0.1]:{free_port()}", recipients={"callout_timeout": "60s"})
        began = time.monotonic()
        self.assertEqual([reply[:9] for reply in self.ask(relay, "a@example.test", "b@example.test")], ["450 4.4.3"] * 2)
        self.assertLess(time.monotonic() - began, 20 * SLOWNESS)
        relay.stop()

    def test_equal_questions_asked_at_a_time_are_one(self):
        release = threading.Event()

        def script(step, _session, _argument):
            return Delay(0.01 if release.wait(0) else 0.3) if step == "RCPT" else None

        with Sink(script) as sink:
            relay = self.postern(routes=[("example.test", f"smtp:[127.0.0.1]:{sink.port}")], shards=1,
                                 recipients={"callout": True}, listener={"relay_from": []}).start()
            clients = [Client(relay.port) for _ in range(20)]
            for client in clients:
                client.hello()
                client.ask("MAIL FROM:<sender@client.test>")
            for client in clients:
                client.send(b"RCPT TO:<user@example.test>\r\n")
            self.assertEqual([client.reply()[0] for client in clients], [250] * 20)
            self.assertEqual(len(self.commands(sink, "RCPT")), 1)
            for client in clients:
                client.close()
            relay.stop()

    def test_limits_of_the_path_hold_with_several_shards_and_a_home(self):
        for limit, shards in ((1, 3), (2, 2), (8, 2)):
            with self.subTest(limit=limit, shards=shards), Sink(lambda step, _s, argument: Delay(
                    0.02, None if argument.startswith("good") else "550 5.1.1 no") if step == "RCPT" else None) as sink:
                relay = self.to_sink(sink, shards=shards, recipients={"callout_timeout": "60s"},
                                     smtp_client={"connections_per_path": limit})
                clients = [Client(relay.port) for _ in range(24)]
                for number, client in enumerate(clients):
                    client.hello()
                    client.ask("MAIL FROM:<sender@client.test>")
                    kind = "good" if number % 2 == 0 else "bad"
                    client.send(f"RCPT TO:<{kind}{number}@example.test>\r\n".encode())
                self.assertEqual([client.reply()[0] for client in clients], [250, 550] * 12)
                self.assertLessEqual(sink.open_max, limit)
                for client in clients[::2]:
                    self.assertEqual(client.data()[0], 250)
                sink.wait_for(12)
                wait_until("the queue to be empty", lambda relay=relay: relay.queued() == 0)
                self.assertLessEqual(sink.open_max, limit)
                for client in clients:
                    client.close()
                relay.stop()

    def test_a_stop_and_a_kill_with_questions_outstanding(self):
        with Sink(lambda step, _session, _argument: SILENCE if step == "RCPT" else None) as sink:
            relay = self.to_sink(sink, shards=2, recipients={"callout_timeout": "60s"}, smtp_client={"connections_per_path": 1})
            for end in (relay.stop, relay.kill):
                if relay.process is None:
                    relay.start()
                clients = [Client(relay.port) for _ in range(6)]
                for number, client in enumerate(clients):
                    client.hello()
                    client.ask("MAIL FROM:<sender@client.test>")
                    client.send(f"RCPT TO:<user{number}@example.test>\r\n".encode())
                wait_until("all questions", lambda: relay.metrics()["postern_callouts_outstanding"] == 6)
                clients.pop().close()  # whoever is gone is not told
                began = time.monotonic()
                end()
                self.assertLess(time.monotonic() - began, 9 * SLOWNESS)  # not all of the grace
                for client in clients:
                    client.close()

    def test_a_route_may_say_otherwise(self):
        with Sink(knows("user")) as sink:
            relay = self.postern(accept=("example.test", "other.test"), recipients={"callout": False},
                                 listener={"relay_from": []}, more=(
                f'[[route]]\nmatch = "example.test"\nvia = "smtp:[127.0.0.1]:{sink.port}"\ncallout = true\n'
                f'[[route]]\nmatch = "*"\nvia = "smtp:[127.0.0.1]:{sink.port}"\n')).start()
            replies = self.ask(relay, "nobody@example.test", "nobody@other.test", "user@example.test")
            self.assertEqual([reply[:3] for reply in replies], ["550", "250", "250"])
            relay.stop()

    def test_made_up_addresses_do_not_grow_memory(self):
        with Sink(knows("user"), keep_content=False) as sink:
            relay = self.to_sink(sink, recipients={"callout_cache": 100})
            self.assertEqual(self.ask(relay, "user@example.test")[0][:3], "250")

            def refused(first, count):
                for start in range(first, first + count, 500):  # a session is closed at a hundred refusals
                    clients = [Client(relay.port) for _ in range(10)]
                    for number, client in enumerate(clients):
                        client.hello()
                        client.ask("MAIL FROM:<sender@client.test>")
                        batch = range(start + 50 * number, start + 50 * (number + 1))
                        client.send("".join(f"RCPT TO:<{unknown:060d}@example.test>\r\n" for unknown in batch).encode())
                    for client in clients:
                        self.assertEqual({client.reply()[0] for _ in range(50)}, {550})
                        client.close()

            refused(0, 500)
            before = relay.resident_bytes()
            refused(500, 500)
            self.assertLess(relay.resident_bytes() - before, 2 << 20)
            self.assertEqual(relay.metrics()["postern_callouts_outstanding"], 0)
            self.assertEqual(self.ask(relay, "user@example.test")[0][:3], "250")
            self.assertEqual(len(self.commands(sink, "RCPT TO:<user@")), 1)  # it is remembered still
            relay.stop()


if __name__ == "__main__":
    unittest.main()
