"""postern-passwd: entries that posternd takes, by pipe and at a terminal."""
import os
import pty
import select
import shutil
import stat
import subprocess
import tempfile
import time
import unittest

from harness import POSTERN, SLOWNESS

PASSWD = os.path.join(os.path.dirname(POSTERN), "postern-passwd")


class Passwd(unittest.TestCase):
    def setUp(self):
        if not POSTERN or not os.path.exists(PASSWD):
            raise unittest.SkipTest("postern-passwd is not built beside posternd")
        self.folder = tempfile.mkdtemp(prefix="postern-passwd-")
        self.addCleanup(shutil.rmtree, self.folder, True)
        self.path = os.path.join(self.folder, "users")

    def run_it(self, *arguments, password="open sesame\n", wanted=0):
        done = subprocess.run([PASSWD, *arguments], input=password.encode(), capture_output=True, timeout=60 * SLOWNESS, check=False)
        self.assertEqual(done.returncode, wanted, done.stderr.decode())
        return done.stdout.decode() if wanted == 0 else done.stderr.decode()

    def text(self):
        with open(self.path, encoding="utf-8") as file:
            return file.read()

    def test_makes_changes_checks_and_removes(self):
        for scheme, prefix in (("scram-sha-256", "{SCRAM-SHA-256}16384,"), ("yescrypt", "$y$"), ("bcrypt", "$2b$"), ("sha512", "$6$")):
            self.run_it("--file", self.path, "--scheme", scheme, scheme)
            self.assertIn(f"\n{scheme}:{prefix}", "\n" + self.text())
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o640)
        for scheme in ("scram-sha-256", "yescrypt", "bcrypt", "sha512"):
            self.run_it("--file", self.path, "--verify", scheme)
            self.assertIn("not the password", self.run_it("--file", self.path, "--verify", scheme, password="no\n", wanted=1))
        before = self.text()
        self.run_it("--file", self.path, "--senders", "a@example.test,@x.test", "yescrypt", password="new")
        self.assertTrue(self.text().splitlines()[1].endswith(":a@example.test,@x.test"))
        self.run_it("--file", self.path, "yescrypt", password="newer\r\n")
        self.assertTrue(self.text().splitlines()[1].endswith(":a@example.test,@x.test"))
        self.run_it("--file", self.path, "--verify", "yescrypt", password="newer")
        self.assertEqual([line for number, line in enumerate(before.splitlines()) if number != 1],
                         [line for number, line in enumerate(self.text().splitlines()) if number != 1])
        self.run_it("--file", self.path, "--delete", "bcrypt")
        self.assertNotIn("bcrypt:", self.text())
        self.assertIn("no user bcrypt", self.run_it("--file", self.path, "--delete", "bcrypt", wanted=1))
        self.assertEqual(os.listdir(self.folder), ["users"])

    def test_writes_to_standard_output_without_a_file(self):
        self.assertRegex(self.run_it("someone"), r"\Asomeone:\{SCRAM-SHA-256\}16384,[^:]*\n\Z")
        self.assertNotEqual(self.run_it("someone"), self.run_it("someone"), "each has a salt of its own")

    def test_refuses_what_would_not_work(self):
        for arguments, words in ((("a:b",), "without a colon"), (("--scheme", "md5", "a"), "unknown scheme"), ((), "USER"),
                                 (("--delete", "a"), "need --file"), (("--verify", "a"), "need --file"),
                                 (("--senders", "nobody", "a"), "is no sender"), (("#a",), "# at its beginning")):
            self.assertIn(words, self.run_it(*arguments, wanted=64))
        for password in ("", "\n", "a\tb\n", "x" * 512 + "\n", "\x07\n"):
            self.assertIn("1 … 511 bytes", self.run_it("--file", self.path, "a", password=password, wanted=64))
        self.assertIn("72 bytes", self.run_it("--file", self.path, "--scheme", "bcrypt", "a", password="x" * 73, wanted=64))
        self.assertFalse(os.path.exists(self.path))
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("broken\n")
        self.assertIn("users:1: no colon", self.run_it("--file", self.path, "a", wanted=64))
        self.assertEqual(self.text(), "broken\n")
        self.assertIn("No such file", self.run_it("--file", os.path.join(self.folder, "none", "users"), "a", wanted=74))
        self.assertIn("No such file", self.run_it("--file", os.path.join(self.folder, "none"), "--verify", "a", wanted=74))

    def at_terminal(self, answers, *arguments):
        """(exit status, all that the terminal showed)"""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(PASSWD, [PASSWD, *arguments])
        shown, deadline = b"", time.monotonic() + 30 * SLOWNESS
        try:
            while time.monotonic() < deadline:
                if not select.select([terminal], [], [], 1)[0]:
                    continue
                try:
                    more = os.read(terminal, 1000)
                except OSError:  # the other end is closed
                    break
                if not more:
                    break
                shown += more
                if answers and shown.endswith(answers[0][0]):
                    os.write(terminal, answers.pop(0)[1])
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown
        finally:
            os.close(terminal)

    def test_asks_at_the_terminal_without_showing_the_answer(self):
        code, shown = self.at_terminal([(b"Password: ", b"open sesame\n"), (b"Again: ", b"open sesame\n")], "--file", self.path, "a")
        self.assertEqual((code, shown.replace(b"\r", b"")), (0, b"Password: \nAgain: \n"))
        code, shown = self.at_terminal([(b"Password: ", b"open sesame\n")], "--file", self.path, "--verify", "a")
        self.assertEqual((code, shown.replace(b"\r", b"")), (0, b"Password: \n"))
        before = self.text()
        code, shown = self.at_terminal([(b"Password: ", b"one\n"), (b"Again: ", b"other\n")], "--file", self.path, "a")
        self.assertEqual(code, 64)
        self.assertIn(b"the two differ", shown)
        self.assertEqual(self.text(), before)
