"""tools/bench: what counts as slower, what is said of bad files, and that a run is compared with what was saved. No relay
runs here, and no real benchmark: programs that print what Google Benchmark prints stand in for them."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import bench_runner  # noqa: E402  pylint: disable=wrong-import-position

PROGRAM = """#!/usr/bin/env python3
import json, sys
if "--benchmark_list_tests" in sys.argv:
    print("parse\\nscan/16")
else:
    print(json.dumps({{"benchmarks": [
        {{"run_type": "iteration", "run_name": name, "cpu_time": time, "real_time": 1, "time_unit": "ns", "iterations": 9}}
        for name, time in (("parse", {parse}), ("parse", {parse} * 1.01), ("scan/16", 2000)) if "^(" in sys.argv[1]]}}))
"""


class Compared(unittest.TestCase):
    """bench_runner.compared()"""

    def verdict(self, now, before):
        return bench_runner.compared(now, before)[1]

    def test_instructions_decide_at_two_per_cent(self):
        before = {"cpu_ns": 100, "spread": 0, "instructions": 1000.0}
        self.assertTrue(self.verdict({"cpu_ns": 100, "spread": 0, "instructions": 1021.0}, before))
        self.assertFalse(self.verdict({"cpu_ns": 100, "spread": 0, "instructions": 1019.0}, before))
        self.assertFalse(self.verdict({"cpu_ns": 100, "spread": 0, "instructions": 500.0}, before))

    def test_time_must_leave_the_spread_of_both(self):
        before = {"cpu_ns": 100, "spread": 0.2}
        self.assertFalse(self.verdict({"cpu_ns": 145, "spread": 0.2}, before))
        self.assertTrue(self.verdict({"cpu_ns": 155, "spread": 0.2}, before))

    def test_what_was_not_there_is_not_slower(self):
        self.assertEqual(bench_runner.compared({"cpu_ns": 1, "spread": 0}, None), ("new", False))


class Run(unittest.TestCase):
    """The command, with programs that stand in for the benchmarks."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="postern-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.make(100)

    def make(self, parse):
        path = self.folder / "build/release/bench/smtp_bench"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PROGRAM.format(parse=parse), encoding="utf-8")
        path.chmod(0o755)

    def bench(self, *arguments):
        code = ("import bench_runner, pathlib, sys; bench_runner.PROGRAMS = pathlib.Path(sys.argv.pop(1))\n"
                "try: sys.exit(bench_runner.main())\nexcept bench_runner.Failure as problem: sys.exit(f'tools/bench: {problem}')")
        return subprocess.run([sys.executable, "-c", code, self.folder / "build/release/bench", *arguments],
                              cwd=ROOT / "tools", stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                              timeout=60, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    def test_saved_and_compared(self):
        saved = self.folder / "saved.json"
        done = self.bench("--save", saved)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(saved.read_text())["benchmarks"]["smtp/parse"]["cpu_ns"], 100)
        self.assertEqual(self.bench("--baseline", saved).returncode, 0)
        self.make(130)
        done = self.bench("--baseline", saved, "--json", "-")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(json.loads(done.stdout)["slower"], ["smtp/parse"])
        self.assertIn("SLOWER", done.stderr)

    def test_another_builds_programs_are_run_in_turn(self):
        other = self.folder / "other"
        (self.folder / "build/release/bench").rename(other)
        self.make(200)
        done = self.bench("--against", other)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("slower than before: smtp/parse\n", done.stdout)

    def test_bad_input_is_named(self):
        (self.folder / "bad.json").write_text("{", encoding="utf-8")
        for arguments, said in ((("--baseline", self.folder / "bad.json"), "bad.json: not a run"),
                                (("--baseline", self.folder / "none"), "none: not a run"),
                                (("--room", "attic"), "no benchmarks of room attic"),
                                (("--match", "nothing-like-it"), "no benchmark matches"),
                                (("--match", "("), "--match"),
                                (("--repetitions", "0"), "must be positive"),
                                (("--baseline", "a", "--against", "b"), "exclude each other")):
            done = self.bench(*arguments)
            self.assertNotEqual(done.returncode, 0, arguments)
            self.assertIn(said, done.stderr)


if __name__ == "__main__":
    unittest.main()
