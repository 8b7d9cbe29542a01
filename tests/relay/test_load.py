"""Postfix's load programs and Postfix itself around a relay: nothing lost, nothing twice, content intact."""
import collections
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

from harness import Client, RelayTest, free_port, original_of_wire, program, wait_until
from sink import Sink


def smtp_source(port, sessions, messages, size=1024, recipients=1):
    """Runs smtp-source to its end; it numbers recipients itself when there are several."""
    command = [program("smtp-source"), "-s", str(sessions), "-m", str(messages), "-l", str(size), "-r", str(recipients),
               "-f", "sender@client.test", "-t", "user@example.test", "-S", "load", f"inet:127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
        return True
    except OSError:
        return False


class SmtpSource(RelayTest):
    def through_smtp_sink(self, sessions, messages):
        port = free_port()
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        counter = subprocess.Popen([program("smtp-sink"), *user, f"inet:127.0.0.1:{port}", "1000"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(counter.wait)
        self.addCleanup(counter.kill)
        wait_until("smtp-sink listens", lambda: listens(port))
        relay = self.postern(routes=[("*", f"smtp:[127.0.0.1]:{port}")]).start()
        smtp_source(relay.port, sessions, messages)
        wait_until("the queue to be empty", lambda: relay.queued() == 0, 120)
        wait_until("all relayed", lambda: relay.metrics()['postern_recipients_total{outcome="relayed"}'] == messages)
        numbers = relay.metrics()
        self.assertEqual(numbers["postern_messages_received_total"], messages)
        self.assertEqual(numbers['postern_recipients_total{outcome="failed"}'], 0)
        relay.stop()

    def test_twenty_sessions_to_smtp_sink(self):
        self.through_smtp_sink(20, 2000)

    def test_a_hundred_sessions_to_smtp_sink(self):
        self.through_smtp_sink(100, 5000)

    def test_a_hundred_sessions_nothing_lost_nothing_twice(self):
        with Sink() as sink:
            relay = self.to_sink(sink, shards=4)
            smtp_source(relay.port, 100, 1500, size=4096)
            sink.wait_for(1500, 120)
            wait_until("the queue to be empty", lambda: relay.queued() == 0)
            relay.stop()
            ids = collections.Counter(re.search(rb" id ([0-9A-Z]{13})", message.content).group(1) for message in sink.messages)
            self.assertEqual(len(ids), 1500)
            self.assertEqual(set(ids.values()), {1})
            for message in sink.messages:
                body = original_of_wire(message.content).split(b"\r\n\r\n", 1)[1]
                self.assertTrue(re.fullmatch(rb"[0-9X\r\n]+", body), body[:80])

    def test_many_recipients(self):
        with Sink() as sink:
            relay = self.to_sink(sink)
            smtp_source(relay.port, 10, 50, recipients=50)
            wait_until("all recipients relayed",
                       lambda: relay.metrics()['postern_recipients_total{outcome="relayed"}'] == 2500, 60)
            self.assertEqual(sum(len(message.recipients) for message in sink.messages), 2500)


POSTFIX_MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = {daemon}
mail_owner = postfix
setgid_group = postdrop
myhostname = postfix.test
mydestination =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
virtual_mailbox_domains = example.test
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
message_size_limit = 0
mailbox_size_limit = 0
virtual_mailbox_limit = 0
smtpd_peername_lookup = no
maillog_file = {folder}/log/mail.log
maillog_file_prefixes = {folder}
"""

POSTFIX_MASTER = """
127.0.0.1:{port} inet n - n - 100 smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
tlsmgr unix - - n 1000? 1 tlsmgr
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""


class PostfixInstance:
    """A Postfix of our own on a loopback port: its own folders, nothing of the machine's."""

    def __init__(self, more=""):
        """`more`: further lines of main.cf."""
        if os.geteuid() != 0:
            raise unittest.SkipTest("Postfix's master must be started by root")
        self.postfix = program("postfix")
        owner = pwd.getpwnam("postfix")
        self.folder = tempfile.mkdtemp(prefix="postern-postfix-")
        os.chmod(self.folder, 0o755)
        self.port = free_port()
        self.config = os.path.join(self.folder, "etc")
        for name in ("etc", "queue", "data", "mail", "log"):
            os.mkdir(os.path.join(self.folder, name))
        os.chown(os.path.join(self.folder, "data"), owner.pw_uid, owner.pw_gid)
        os.chown(os.path.join(self.folder, "mail"), owner.pw_uid, owner.pw_gid)
        os.makedirs(os.path.join(self.folder, "mail", "all"), exist_ok=True)
        os.chown(os.path.join(self.folder, "mail", "all"), owner.pw_uid, owner.pw_gid)
        daemon = "/usr/lib/postfix/sbin" if os.path.isdir("/usr/lib/postfix/sbin") else "/usr/libexec/postfix"
        with open(os.path.join(self.config, "main.cf"), "w", encoding="ascii") as file:
            file.write(POSTFIX_MAIN.format(folder=self.folder, daemon=daemon, uid=owner.pw_uid, gid=owner.pw_gid) + more)
        with open(os.path.join(self.config, "master.cf"), "w", encoding="ascii") as file:
            file.write(POSTFIX_MASTER.format(port=self.port))
        done = subprocess.run([self.postfix, "-c", self.config, "start"], capture_output=True, timeout=60, check=False)
        if done.returncode != 0:
            text = (done.stdout + done.stderr).decode()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise unittest.SkipTest(f"Postfix did not start: {text[-300:]}")

    def mails(self):
        folder = os.path.join(self.folder, "mail", "all", "new")
        found = []
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            with open(os.path.join(folder, name), "rb") as file:
                found.append(file.read())
        return found

    def wait_for_greeting(self):
        def greets():
            try:
                with Client(self.port, timeout=2) as client:
                    return client.greeting[0] == 220
            except OSError:
                return False
        wait_until("Postfix greets", greets)

    def stop(self):
        subprocess.run([self.postfix, "-c", self.config, "stop"], capture_output=True, timeout=60, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


class PostfixAsNextHop(RelayTest):
    def test_nothing_lost_nothing_twice_content_intact(self):
        postfix = PostfixInstance()
        self.addCleanup(postfix.stop)
        postfix.wait_for_greeting()
        relay = self.postern(routes=[("*", f"smtp:[127.0.0.1]:{postfix.port}")]).start()
        count = 300
        with Client(relay.port) as client:
            client.hello()
            for number in range(count):
                client.envelope(parameters=" BODY=8BITMIME")
                content = f"Subject: {number}\r\nX-Test: {number}\r\n\r\n.dot\r\n..two\r\nGrüße {number}\r\n".encode()
                self.assertEqual(client.data(content)[0], 250)
        wait_until("the queue to be empty", lambda: relay.queued() == 0, 60)
        mails = wait_until("all mails in Postfix's Maildir", lambda: (
            lambda found: found if len(found) >= count else None)(postfix.mails()), 60)
        time.sleep(0.5)
        self.assertEqual(len(postfix.mails()), count)
        numbers = set()
        for mail in mails:
            number = int(re.search(rb"\nX-Test: (\d+)\n", mail).group(1))
            numbers.add(number)
            self.assertTrue(mail.endswith(f"\n\n.dot\n..two\nGrüße {number}\n".encode()), mail[-80:])
        self.assertEqual(numbers, set(range(count)))


if __name__ == "__main__":
    unittest.main()
