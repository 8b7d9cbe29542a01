"""bench/compare: its reports say what was measured, and what went wrong stands beside the figures. No relay runs here."""
import copy
import os
import re
import subprocess
import sys
import tempfile
import unittest
from html.parser import HTMLParser

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMPARE = os.path.join(ROOT, "bench", "compare")
sys.path.insert(0, COMPARE)
import jobs  # noqa: E402  pylint: disable=wrong-import-position
import markdown  # noqa: E402  pylint: disable=wrong-import-position
import relays  # noqa: E402  pylint: disable=wrong-import-position
import page  # noqa: E402  pylint: disable=wrong-import-position
import summary  # noqa: E402  pylint: disable=wrong-import-position

LATENCY = {"count": 1000, "p50": 1.0, "p90": 2.0, "p99": 4.0, "p99.9": 8.0, "max": 16.0, "mean": 1.2}


def report(rate, cpu, undelivered=0, twice=0, accepted=1000):
    return {"end_to_end_per_second": rate,
            "relay": {"cpu_us_per_message": cpu, "user_cpu_us_per_message": cpu / 2, "context_switches_per_message": 1.5,
                      "device_flushes_per_message": 0.1, "device_writes_per_message": 0.2, "peak_anonymous_bytes": 5 << 20},
            "source": {"accepted": accepted, "refused": 0, "unanswered": 0, "connections_failed": 0, "accepted_per_second": rate,
                       "latency_ms": LATENCY},
            "transit_ms": LATENCY, "sink": {"undelivered": undelivered, "twice": twice, "changed": 0}}


def run(relay, number, made):
    return {"relay": relay, "job": "1kib-20-smart", "round": number, "load": 0.5, **made}


RESULT = {
    "surroundings": {"time": "now", "kernel": "6.1", "system": "Debian", "cpus": 2, "processor": "<P&Q>", "memory_gib": 4.0,
                     "file_system": "ext4", "device": "/dev/x", "mount_options": "rw", "load": [0.1, 0.2, 0.3], "commit": "abc",
                     "sync": {"median_ms": 0.5, "p99_ms": 2.0, "syncs": 200}},
    "settings": {"seconds": 6, "drain": 30, "rounds": 3, "rounds_done": 3, "minutes_taken": 1.0, "notes": ["a | note"]},
    "relays": [{"name": "fast", "title": "Fast", "version": "1", "durability": "synced", "why": "a|b"},
               {"name": "loose", "title": "Loose", "version": "2", "durability": "not synced", "why": "never"},
               {"name": "broken", "title": "Broken", "version": "3", "durability": "synced", "why": "always"}],
    "jobs": [{"name": "1kib-20-smart", "title": "1 KiB"}, {"name": "none", "title": "Not done"}],
    "runs": [run("fast", 1, {"exit": 0, "report": report(9000, 90)}), run("fast", 2, {"exit": 0, "report": report(8000, 100)}),
             run("fast", 3, {"exit": 0, "report": report(9500, 80)}),
             run("loose", 1, {"exit": 1, "report": report(100, 5000, undelivered=7, twice=2)}),
             run("broken", 1, {"error": "postern-bench ended with 71: no <relay>"})],
}


class Page(HTMLParser):
    """Counts tags, and collects everything that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetched, self.open = {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.fetched += [value for name, value in attrs if name in ("src", "href", "xlink:href") and not value.startswith("#")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            continue


class CompareReport(unittest.TestCase):
    def test_figures_are_medians_with_their_spread(self):
        job, = summary.summarize(RESULT)
        fast = job["relays"][0]
        self.assertEqual(fast["rate"], {"median": 9000, "low": 8000, "high": 9500})
        self.assertEqual(fast["cpu"], {"median": 90, "low": 80, "high": 100})
        self.assertEqual(fast["latency"]["p99"], 4.0)
        self.assertEqual(fast["troubles"], [])

    def test_every_figure_is_measured_against_the_limit(self):
        result = copy.deepcopy(RESULT)
        result["relays"].append({"name": "limit", "title": "The limit", "version": "", "durability": "synced", "why": "no MTA"})
        result["runs"].append(run("limit", 1, {"exit": 0, "report": report(10000, 45)}))
        fast, loose, broken, limit = summary.summarize(result)[0]["relays"]
        self.assertEqual((fast["rate_share"], fast["cpu_share"]), (0.9, 0.5))
        self.assertEqual(loose["rate_share"], 0.01)
        self.assertIsNone(broken["rate_share"])
        self.assertIsNone(limit["rate_share"])
        self.assertIn("| 90.0 (80.0–100) | 90% | 50% |", markdown.render(result))
        self.assertIsNone(summary.summarize(RESULT)[0]["relays"][0]["cpu_share"])

    def test_the_limit_does_only_what_it_can(self):
        limit = relays.named("limit")
        self.assertTrue(limit.can_do(jobs.job()))
        self.assertFalse(limit.can_do(jobs.job(hop="sites")))
        self.assertTrue(relays.named("postern").can_do(jobs.job(hop="sites")))

    def test_what_went_wrong_is_said(self):
        job, = summary.summarize(RESULT)
        _, loose, broken = job["relays"]
        self.assertIn("not delivered within 30 s: 7 of 1000 messages accepted", loose["troubles"])
        self.assertIn("delivered twice: 2 of 1000", loose["troubles"])
        self.assertIsNone(broken["rate"])
        self.assertIn("ended with 71", broken["troubles"][0])

    def test_a_run_without_a_single_accepted_message_gives_no_figures(self):
        result = copy.deepcopy(RESULT)
        result["runs"] = [run("fast", 1, {"exit": 1, "report": report(0, 0, accepted=0)})]
        job, = summary.summarize(result)
        self.assertIsNone(job["relays"][0]["cpu"])

    def test_markdown_names_relays_surroundings_and_marks(self):
        text = markdown.render(RESULT)
        self.assertIn("| Fast | 9,000 (8,000–9,500) | 90.0 (80.0–100) |", text)
        self.assertIn("| Loose † ‡ | 100 |", text)
        self.assertIn("a\\|b", text)
        for said in ("6.1", "ext4", "median 0.5 ms", "abc", "a | note", "0.5–0.5"):
            self.assertIn(said, text)
        header = None
        for line in text.splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
            self.assertTrue(not cells or header in (None, cells), line)
            header = cells or None

    def test_the_page_fetches_nothing_and_escapes_what_it_shows(self):
        text = page.render(RESULT)
        seen = Page(text)
        self.assertEqual(seen.fetched, [])
        self.assertEqual(seen.open, [])
        self.assertNotRegex(text, r"https?://|@import|url\(")
        self.assertEqual(seen.tags["svg"], 4)
        self.assertEqual(seen.tags["polyline"], 4)  # two relays with latencies, twice
        self.assertIn("no &lt;relay&gt;", text)
        self.assertIn("&lt;P&amp;Q&gt;", text)

    def test_a_result_of_no_runs_makes_a_report(self):
        result = dict(RESULT, runs=[])
        self.assertIn("Relays", markdown.render(result))
        self.assertEqual(Page(page.render(result)).open, [])


class CompareJobs(unittest.TestCase):
    def test_names_are_unique_and_the_default_is_part_of_the_full(self):
        self.assertEqual(len({job.name for job in jobs.FULL}), len(jobs.FULL))
        self.assertLessEqual(set(jobs.DEFAULT) | set(jobs.QUICK), set(jobs.FULL))

    def test_every_site_has_an_exchanger_and_an_address_of_its_own(self):
        zone = jobs.zone()
        self.assertEqual(len(re.findall(r"^d\d+\.sites MX 10 mx\d+\.sites$", zone, re.M)), jobs.SITES)
        addresses = re.findall(r"^mx\d+\.sites A (198\.18\.\d+\.\d+)$", zone, re.M)
        self.assertEqual(len(set(addresses)), jobs.SITES)
        self.assertTrue(all(0 < int(part) < 255 for address in addresses for part in address.split(".")[2:]))

    def test_every_relay_folder_says_how_durable_it_is_and_starts_something(self):
        names = [name for name in os.listdir(COMPARE) if os.path.exists(os.path.join(COMPARE, name, "start"))]
        self.assertGreaterEqual(len(names), 6)
        for name in names:
            self.assertTrue(os.access(os.path.join(COMPARE, name, "start"), os.X_OK), name)
            with open(os.path.join(COMPARE, name, "relay.ini"), encoding="utf-8") as file:
                text = file.read()
            for key in ("title", "version", "spool", "durability", "why"):
                self.assertRegex(text, rf"(?m)^{key} = \S", name)

    def test_the_command_line(self):
        def run_tool(*arguments):
            with tempfile.TemporaryDirectory() as folder:
                return subprocess.run([sys.executable, "-B", os.path.join(COMPARE, "run"), *arguments], capture_output=True, text=True,
                                      timeout=60, check=False, cwd=folder)
        self.assertIn("1kib-20-smart", run_tool("--list").stdout)
        self.assertEqual(run_tool("--help").returncode, 0)
        for wrong in (["--mta", "sendmail"], ["--jobs", "huge"], ["--rounds", "0"], ["--quick", "--full"]):
            self.assertEqual(run_tool(*wrong).returncode, 2, wrong)
        absent = run_tool("--program", "/no/such/folder")
        self.assertNotEqual(absent.returncode, 0)
        self.assertIn("tools/build release", absent.stderr)


if __name__ == "__main__":
    unittest.main()
