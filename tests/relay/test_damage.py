"""Disks that lie: a record that can no longer be read costs nobody else anything, and is never forgotten."""
import os
import re
import unittest

from harness import Client, RelayTest, wait_until
from sink import Sink
from test_spool_tool import run_spool


def deferring(recipient):
    def script(step, session, argument):
        return "450 4.2.1 later" if step == "RCPT" and recipient in argument else None
    return script


class Damage(RelayTest):
    def send(self, relay, recipient, content):
        with Client(relay.port) as client:
            client.hello()
            client.envelope("sender@client.test", [recipient])
            code, text = client.data(content)
            self.assertEqual(code, 250, text)
            return text.rsplit(" ", 1)[1]

    def turn_over(self, relay, needle):
        """Inverts the bits of `needle` wherever the spool holds it; twice restores it. How often it was found."""
        found = 0
        for folder, _, names in os.walk(os.path.join(relay.data, "logs")):
            for name in names:
                with open(os.path.join(folder, name), "r+b") as file:
                    image = file.read()
                    for form in (needle, bytes(byte ^ 0xFF for byte in needle)):
                        at = image.find(form)
                        if at >= 0:
                            file.seek(at)
                            file.write(bytes(byte ^ 0xFF for byte in form))
                            file.flush()
                            os.fsync(file.fileno())
                            found += 1
                            break
        return found

    def test_a_message_that_cannot_be_read_is_neither_settled_nor_forgotten(self):
        marker = b"the words that the disk will lose"
        with Sink(deferring("user@")) as sink:
            relay = self.to_sink(sink, shards=1, retry={"schedule": ["500ms"], "give_up_after": "4s"})
            queue_id = self.send(relay, "user@example.test", b"Subject: x\r\n\r\n" + marker + b"\r\n")
            wait_until("a first attempt", lambda: relay.events("deferred"))
            self.assertEqual(self.turn_over(relay, marker), 1)
            alarm = wait_until("the alarm", lambda: re.search(rf"message {queue_id} cannot be read back: .*", relay.log()))[0]
            # What it advises is possible as it stands there.
            words = alarm[alarm.index("postern-spool ") + len("postern-spool "):].split()
            self.assertEqual(words.pop(), "TO")
            code, out, err = run_spool(*words, os.path.join(relay.folder, "rescued"))
            self.assertEqual(code, 1, out + err)  # there is damage, and it was looked for
            # Others go their way meanwhile.
            self.send(relay, "other@example.test", b"Subject: y\r\n\r\nyes\r\n")
            sink.wait_for(1, 20)
            wait_until("its end in the queue", lambda: relay.events("expired") and relay.queued() == 0)
            self.assertEqual(relay.events("dsn"), [])
            self.assertEqual(relay.metrics()["postern_spool_messages_quarantined_total"], 1)
            relay.stop()

            # Readable again (a cable, a controller): the next start takes it up, and gives it a last chance.
            self.assertEqual(self.turn_over(relay, marker), 1)
            sink.script = None
            relay.start()
            sink.wait_for(2, 20)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            self.assertIn(marker, sink.messages[1].content)
            relay.stop()
            self.assertEqual(len(sink.messages), 2)

    def test_a_damaged_segment_stays_for_people_whatever_is_written_after_it(self):
        marker = b"the words that the disk will lose"
        with Sink(deferring("user@")) as sink:
            relay = self.to_sink(sink, shards=1, retry={"schedule": ["1h"]}, spool={"segment": "2MiB"})
            self.send(relay, "user@example.test", b"Subject: x\r\n\r\n" + marker + b"\r\n")
            wait_until("a first attempt", lambda: relay.events("deferred"))
            relay.kill()
            self.assertEqual(self.turn_over(relay, marker), 1)
            relay.start()
            self.assertIn("of the log are damaged", relay.log())
            # Several times what the log's segments hold: all others are recycled.
            filler = b"Subject: y\r\n\r\n" + (b"y" * 70 + b"\r\n") * 4000
            for count in range(1, 41):
                self.send(relay, "other@example.test", filler)
            sink.wait_for(40, 60)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            relay.stop()
            relay.start()
            self.assertIn("damaged-1.seg: holds records of mail that could not be read", relay.log())
            relay.stop()
            self.assertEqual(self.turn_over(relay, marker), 1)


if __name__ == "__main__":
    unittest.main()
