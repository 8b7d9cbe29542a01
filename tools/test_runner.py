"""Runs the tests of all kinds and counts them; called by tools/test, which has installed what is needed.

Every result has a name, STAGE/PROGRAM/CASE, by which tests/allowed_skips lists the skips that CI accepts.
"""
import argparse
import concurrent.futures
import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
CORES = os.cpu_count() or 2
STAGES = ("unit", "static", "asan", "fuzz", "tidy", "relay", "tsan")
FUZZ_SECONDS = 20  # for each fuzzer
PROGRAM_TIMEOUT = 600  # seconds for one unit test program, sanitizers included
# Programs that take far longer than the others: they start first, and their cases are dealt out to several processes.
LONG_PROGRAMS = ("sim_test",)
TIDY_GROUP = 10  # files, at most, that clang-tidy takes as one; more would leave a core idle at the end
# Rooms in which threads meet: their unit tests run under the thread sanitizer too.
THREADED_ROOMS = ("base", "dns", "io", "shard", "admin")


# Where the report of a sanitizer or of a check of ours begins, and the line with which it is over.
REPORT_BEGINS = re.compile(r"(WARNING|ERROR|FATAL): (Thread|Address|Leak|UndefinedBehavior)Sanitizer|: runtime error: |postern: bug at ")
REPORT_ENDS = re.compile(r"^(=+$|SUMMARY: )")


# The line that says what an assertion wanted: of a Python traceback, of GoogleTest, of a compiler.
ASSERTION = re.compile(r"^[A-Za-z_.]*(Error|Exception|Expired|Interrupt)(: |$)|: Failure$|: (fatal )?error: ")


def reason_at(lines):
    """The first line in which a sanitizer, a check of ours or an assertion says what is wrong; None: no line does."""
    for pattern in (REPORT_BEGINS, ASSERTION):
        for at, line in enumerate(lines):
            if pattern.search(line):
                return at
    return None


def reason(text):
    """The same as one line of at most 300 characters; the text's first line when nothing in it tells more."""
    lines = [line.strip() for line in text.strip().splitlines()]
    at = reason_at(lines)
    if at is None:
        return lines[0][:300] if lines else "no reason given"
    # GoogleTest says where in one line, and what in those behind it.
    last = at + 5 if lines[at].endswith(": Failure") else at + 1
    return "; ".join(line for line in lines[at:last] if line)[:300]


def excerpt(text, lines_max=80):
    """What a failure's reader needs first, in at most `lines_max` lines: the first report of a sanitizer in it, or else its
    first assertion with what leads there; then its end."""
    lines = text.strip().splitlines()
    if len(lines) <= lines_max:
        return lines
    begin = reason_at(lines)
    first = []
    if begin is not None:
        most = lines_max * 3 // 4
        if REPORT_BEGINS.search(lines[begin]):
            end = next((at for at in range(begin + 1, len(lines)) if REPORT_ENDS.match(lines[at])), len(lines))
        else:
            end = len(lines)
            begin = max(0, begin - 8)
        first = lines[begin:min(end, begin + most)]
    left = lines_max - len(first)
    tail = lines[max(len(lines) - left, begin + len(first) if first else 0):]
    return first + [f"… ({len(lines) - len(first) - len(tail)} lines left out)"] + tail


class Results:
    def __init__(self, allowed_skips, ci):
        self.passed = 0
        self.failed = []  # (name, the reason in one line)
        self.skipped = []
        self.refused_skips = []
        self.allowed_skips = allowed_skips
        self.ci = ci

    def add(self, name, outcome, text=""):
        """outcome: passed, failed or skipped; text: the reason, or the end of the output."""
        if outcome == "passed":
            self.passed += 1
        elif outcome == "skipped":
            self.skipped.append((name, text))
            print(f"  skipped {name}: {text}", flush=True)
            if self.ci and not any(fnmatch.fnmatch(name, pattern) for pattern in self.allowed_skips):
                self.refused_skips.append(name)
        else:
            self.failed.append((name, reason(text)))
            print(f"  FAILED  {name}", flush=True)
            for line in excerpt(text):
                print(f"    | {line}")
            sys.stdout.flush()

    def counts(self):
        return self.passed, len(self.failed), len(self.skipped)


class Stage:
    """Prints what runs, how long it took, and what it added."""

    def __init__(self, results, title):
        self.results = results
        self.title = title

    def __enter__(self):
        self.started = time.monotonic()
        self.before = self.results.counts()
        print(f"{self.title} …", flush=True)
        return self

    def __exit__(self, *_):
        passed, failed, skipped = (now - then for now, then in zip(self.results.counts(), self.before))
        seconds = time.monotonic() - self.started
        print(f"{self.title}: passed {passed}, failed {failed}, skipped {skipped} ({seconds:.0f} s)", flush=True)


def read_allowed_skips():
    patterns = []
    path = os.path.join(ROOT, "tests", "allowed_skips")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            for line in file:
                line = line.split("#")[0].strip()
                if line:
                    patterns.append(line)
    return patterns


def run(command, timeout=PROGRAM_TIMEOUT, **options):
    """(exit status, output) of a command that runs in ROOT unless told; a time-out counts as status 124."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=timeout, **{"cwd": ROOT, **options})
        return done.returncode, done.stdout.decode("utf-8", "replace")
    except subprocess.TimeoutExpired as late:
        return 124, (late.stdout or b"").decode("utf-8", "replace") + f"\nnot done after {timeout} s"


def build(results, kind, *targets):
    status = subprocess.run([os.path.join(ROOT, "tools", "build"), kind, *targets], stdin=subprocess.DEVNULL,
                            check=False).returncode
    results.add(f"build/{kind}", "passed" if status == 0 else "failed", "see above and build/log")
    return status == 0


# --- unit tests and corpus replays -----------------------------------------------------------------------------------

def skip_reasons(output):
    """{case: reason} from what GoogleTest printed."""
    reasons, case, reason = {}, None, None
    for line in output.splitlines():
        if line.startswith("[ RUN      ] "):
            case, reason = line[13:].strip(), None
        elif re.search(r": Skipped$", line):
            reason = ""
        elif "[  SKIPPED ]" in line and case:
            reasons[case] = reason or "no reason given"
        elif reason == "":
            reason = line.strip()
    return reasons


def cases_of_report(path):
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    for suite in report.get("testsuites", []):
        for case in suite.get("testsuite", []):
            if case.get("status") != "RUN":
                continue
            outcome = "failed" if case.get("failures") else "skipped" if case.get("result") == "SKIPPED" else "passed"
            yield f"{suite['name']}.{case['name']}", outcome


def cases_of_output(output):
    """What a program that died had done: finished cases, and the one that was running, as failed."""
    running = None
    for line in output.splitlines():
        if line.startswith("[ RUN      ] "):
            running = line[13:].strip()
        done = re.search(r"\[ +(OK|FAILED|SKIPPED) +\] (\S+?),? .*\(\d+ ms\)$", line)
        if done:
            running = None
            yield done.group(2), {"OK": "passed", "FAILED": "failed", "SKIPPED": "skipped"}[done.group(1)]
    if running:
        yield running, "failed"


def run_gtest(program, environment, shard=0, shards=1):
    """[(case, outcome, text)] of one GoogleTest program, or of one of the `shards` parts of its cases."""
    environment = dict(environment, GTEST_TOTAL_SHARDS=str(shards), GTEST_SHARD_INDEX=str(shard))
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "report.json")
        status, output = run([program, f"--gtest_output=json:{report}", "--gtest_color=no"], env=environment)
        cases = list(cases_of_report(report)) if os.path.exists(report) else list(cases_of_output(output))
    reasons = skip_reasons(output)
    rows = []
    for case, outcome in cases:
        text = reasons.get(case, "no reason given") if outcome == "skipped" else ""
        if outcome == "failed":
            start = output.find(f"[ RUN      ] {case}")
            end = output.find("[ RUN      ] ", start + 1)
            text = output[max(start, 0):end if end > 0 else len(output)]
        rows.append((case, outcome, text))
    if status != 0 and not any(outcome == "failed" for _, outcome, _ in rows):
        rows.append(("(exit)", "failed", f"exit status {status}\n{output}"))
    if not rows:
        rows.append(("(cases)", "failed", "ran no test\n" + output[-2000:]))
    return rows


def unit_programs(kind, rooms=None):
    folder = os.path.join(ROOT, "build", kind, "tests")
    names = sorted(name for name in os.listdir(folder) if name.endswith("_test") and os.access(os.path.join(folder, name), os.X_OK)
                   and os.path.isfile(os.path.join(folder, name)))
    return [os.path.join(folder, name) for name in names if rooms is None or name[:-5] in rooms]


def shards_of(program, environment):
    """Into how many parts, none empty, a program's cases are dealt."""
    if os.path.basename(program) not in LONG_PROGRAMS:
        return 1
    _, listing = run([program, "--gtest_list_tests"], env=environment)
    return max(1, min(2 * CORES, sum(line.startswith("  ") for line in listing.splitlines())))


def replay_programs(kind):
    """[(program, corpus)]: fuzz harnesses built as replays of their corpus."""
    folder = os.path.join(ROOT, "build", kind, "fuzz")
    programs = []
    for where, _, files in os.walk(os.path.join(ROOT, "fuzz")):
        if os.path.basename(os.path.dirname(where)) == "corpus" and files:
            program = os.path.join(folder, os.path.basename(where) + "_replay")
            programs.append((program, where))
    return sorted(programs)


def test_environment(kind):
    environment = dict(os.environ, POSTERN_SOURCE_ROOT=ROOT)
    environment["ASAN_OPTIONS"] = "detect_stack_use_after_return=1:strict_string_checks=1"
    environment["UBSAN_OPTIONS"] = "print_stacktrace=1:halt_on_error=1"
    environment["TSAN_OPTIONS"] = f"halt_on_error=1:suppressions={os.path.join(ROOT, 'tests', 'tsan.suppressions')}"
    return environment


def run_units(results, kind, rooms=None, replays=True):
    environment = test_environment(kind)
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        programs = sorted(unit_programs(kind, rooms), key=lambda program: os.path.basename(program) not in LONG_PROGRAMS)
        shards = {program: shards_of(program, environment) for program in programs}
        jobs = {pool.submit(run_gtest, program, environment, shard, shards[program]): os.path.basename(program)
                for program in programs for shard in range(shards[program])}
        for job in concurrent.futures.as_completed(jobs):
            for case, outcome, text in job.result():
                results.add(f"{kind}/{jobs[job]}/{case}", outcome, text)
        if replays:
            jobs = {pool.submit(run, [program, corpus], 300, env=environment): os.path.basename(program)
                    for program, corpus in replay_programs(kind)}
            for job in concurrent.futures.as_completed(jobs):
                status, output = job.result()
                results.add(f"{kind}/fuzz/{jobs[job]}", "passed" if status == 0 else "failed", output)


# --- static checks ---------------------------------------------------------------------------------------------------

def sources(*folders):
    for folder in folders:
        for where, names, files in os.walk(os.path.join(ROOT, folder)):
            names.sort()
            for name in sorted(files):
                if name.endswith((".h", ".cc")):
                    yield os.path.join(where, name)


def check_layers(results):
    script = os.path.join(ROOT, "tools", "check_layers.py")
    for name, arguments in (("layers-self-test", ["--self-test"]), ("layers", [])):
        status, output = run([sys.executable, script, *arguments])
        results.add(f"static/{name}", "passed" if status == 0 else "failed", output)


# No room but io's kernel side calls the kernel, a clock or a thread: in the objects that the unit stage has built.
def check_symbols(results):
    script = os.path.join(ROOT, "tools", "check_symbols.py")
    folder = os.path.join(ROOT, "build", "debug")
    for name, arguments in (("symbols-self-test", ["--self-test"]), ("symbols", [folder])):
        status, output = run([sys.executable, script, *arguments])
        results.add(f"static/{name}", "passed" if status == 0 else "failed", output)


def check_format(results):
    files = list(sources("include", "src", "tests", "bench", "fuzz", "tools"))
    status, output = run(["clang-format-19", "--dry-run", "-Werror", *files])
    results.add("static/format", "passed" if status == 0 else "failed",
                "\n".join(line for line in output.splitlines() if "error:" in line) + "\nclang-format-19 -i mends it")


def check_package(results):
    """Manual pages without a warning; a unit file that systemd understands."""
    package = os.path.join(ROOT, "tools", "package")
    for page in sorted(name for name in os.listdir(package) if re.search(r"\.[1-8]$", name)):
        status, output = run(["groff", "-man", "-ww", "-z", "-Tutf8", os.path.join(package, page)])
        results.add(f"static/manual/{page}", "failed" if status or output else "passed", output)
    if not shutil.which("systemd-analyze"):
        results.add("static/unit-file", "skipped", "there is no systemd-analyze")
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "postern.service")
        with open(os.path.join(package, "postern.service"), encoding="utf-8") as unit, open(copy, "w", encoding="utf-8") as file:
            file.write(unit.read().replace("/usr/sbin/posternd", "/bin/true"))  # ours is not installed
        status, output = run(["systemd-analyze", "verify", "--man=no", copy])
        results.add("static/unit-file", "failed" if status or output else "passed", output)


def headers_by_object(folder):
    """{object: [files it was compiled from]} as ninja recorded them."""
    _, output = run(["ninja", "-C", folder, "-t", "deps"])
    headers, current = {}, None
    for line in output.splitlines():
        if line and not line.startswith(" ") and ": #deps" in line:
            current = line.split(": #deps")[0]
            headers[current] = []
        elif line.startswith("    ") and current:
            path = os.path.normpath(os.path.join(folder, line.strip()))
            if path.startswith(ROOT + os.sep):
                headers[current].append(path)
    return headers


def tidy_flags(command):
    """The compiler's arguments in a line of compile_commands.json, without its input, outputs and precompiled header."""
    flags, words = [], iter(shlex.split(command)[1:])
    for word in words:
        if word in ("-o", "-MQ", "-MF", "-c", "-include"):
            next(words)
        elif word != "-MD" and not word.endswith("clang++-19"):
            flags.append(word)
    return tuple(flags)


class Tidy:
    """clang-tidy over several files at once, as if they were one.

    Nearly all its time goes into the headers of others, whose syntax trees every check walks before the findings are thrown
    away; together, files of one room share that. A group that is not clean is halved until the file that is to blame stands
    alone. So names that only collide in a group cost time, and nothing else.
    """

    def __init__(self, folder):
        self.folder = folder  # of the build whose flags they are
        self.groups = os.path.join(ROOT, "build", "tidy-groups")
        shutil.rmtree(self.groups, ignore_errors=True)
        os.makedirs(self.groups)

    def run(self, paths, flags):
        """[(path, what is wrong with it, or "")] of files that are compiled with the same flags."""
        path = paths[0]
        if len(paths) > 1:
            name = hashlib.sha256("\n".join(paths).encode()).hexdigest()[:16]
            path = os.path.join(self.groups, name + ".cc")
            with open(path, "w", encoding="utf-8") as group:
                group.writelines(f'#include "{one}"\n' for one in paths)
        # The group's own lines are what bugprone-suspicious-include looks for. NOLINT there would hush all that they include.
        checks = ["--checks=-bugprone-suspicious-include"] if len(paths) > 1 else []
        config = "--config-file=" + os.path.join(ROOT, ".clang-tidy")
        status, output = run(["clang-tidy-19", "--quiet", config, *checks, path, "--", *flags], cwd=self.folder)
        if status == 0:
            return [(one, "") for one in paths]
        if len(paths) == 1:
            return [(path, "\n".join(line for line in output.splitlines() if "warnings generated" not in line))]
        half = len(paths) // 2
        return self.run(paths[:half], flags) + self.run(paths[half:], flags)


def check_tidy(results):
    """clang-tidy over the .cc files of src, each only when it, a header of ours or the rules have changed since it was clean."""
    folder = os.path.join(ROOT, "build", "asan")  # flags that Clang understands
    cache = os.path.join(ROOT, "build", "tidy-cache")
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(folder, "compile_commands.json"), encoding="utf-8") as file:
        commands = json.load(file)
    headers = headers_by_object(folder)
    all_headers = set().union(*headers.values())
    contents = {}

    def digest_of(path):
        if path not in contents:
            with open(path, "rb") as source:
                contents[path] = hashlib.sha256(source.read()).hexdigest()
        return contents[path]

    version = run(["clang-tidy-19", "--version"])[1]
    rules = digest_of(os.path.join(ROOT, ".clang-tidy"))
    wanted, flags_of = {}, {}
    for command in commands:
        path = os.path.normpath(os.path.join(folder, command["file"]))
        if not path.startswith((os.path.join(ROOT, "src") + os.sep, os.path.join(ROOT, "tools") + os.sep)):
            continue
        flags_of[path] = tidy_flags(command["command"])
        key = hashlib.sha256()
        key.update(f"{version}{rules}{flags_of[path]}{digest_of(path)}".encode())
        # What is not compiled in this folder, a program's main file, is taken to include all of them.
        for header in sorted(headers.get(command["output"], all_headers)):
            if os.path.exists(header):
                key.update(digest_of(header).encode())
        wanted[path] = os.path.join(cache, key.hexdigest())
    by_flags = {}
    for path, stamp in wanted.items():
        if not os.path.exists(stamp):
            by_flags.setdefault(flags_of[path], []).append(path)
    groups = []
    for flags, paths in by_flags.items():
        count = -(-len(paths) // TIDY_GROUP)
        groups += [(paths[part * len(paths) // count:(part + 1) * len(paths) // count], flags) for part in range(count)]
    groups.sort(key=lambda group: -len(group[0]))
    print(f"  clang-tidy: {sum(len(paths) for paths, _ in groups)} of {len(wanted)} files changed", flush=True)

    broken = 0
    tidy = Tidy(folder)
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        for verdicts in pool.map(lambda group: tidy.run(*group), groups):
            for path, wrong in verdicts:
                if not wrong:
                    with open(wanted[path], "w", encoding="utf-8"):
                        pass
                else:
                    broken += 1
                    results.add(f"static/tidy/{os.path.relpath(path, ROOT)}", "failed", wrong)
    for stamp in set(os.listdir(cache)) - {os.path.basename(stamp) for stamp in wanted.values()}:
        os.unlink(os.path.join(cache, stamp))
    if broken == 0:
        results.add("static/tidy", "passed")


# --- the programs ----------------------------------------------------------------------------------------------------

def foreign_tls(loaded):
    """What `ldd` shows of another TLS library than one BoringSSL: both define the same symbols, and one would be called for the
    other. OpenSSL's libcrypto nowhere names BoringSSL."""
    folders = {"ssl": [], "crypto": []}
    for line in loaded.splitlines():
        found = re.search(r"lib(ssl|crypto)\.so\S* => (\S+)/[^/]+ ", line)
        if found:
            folders[found.group(1)].append(os.path.realpath(found.group(2)))
            path = line.split("=>")[1].split("(")[0].strip()
            if found.group(1) == "crypto" and b"BoringSSL" not in open(path, "rb").read():
                return f"{path} is no BoringSSL"
    if len(folders["ssl"]) > 1 or folders["ssl"] != folders["crypto"]:
        return f"several TLS libraries: {folders}"
    return ""


def check_programs(results, folder):
    """What can be said of the programs without running mail through them."""
    daemon = os.path.join(folder, "posternd")
    status, output = run(["ldd", daemon])
    results.add("programs/no-openssl", "failed" if status or foreign_tls(output) else "passed", foreign_tls(output) or output)
    version = re.search(r"version: '([^']+)'", open(os.path.join(ROOT, "meson.build"), encoding="utf-8").read()).group(1)
    status, output = run([daemon, "--version"])
    results.add("programs/version", "passed" if status == 0 and version in output else "failed", output)


def smoke_benches(results, folder):
    """Each benchmark runs, as briefly as it can: the figures mean nothing here."""
    programs = sorted(name for name in os.listdir(os.path.join(folder, "bench")) if name.endswith("_bench"))
    for name in programs:
        status, output = run([os.path.join(folder, "bench", name), "--benchmark_min_time=0.001"], timeout=120)
        results.add(f"bench/{name}", "passed" if status == 0 and "ERROR OCCURRED" not in output else "failed", output)
    if not programs:
        results.add("bench/(programs)", "failed", "there is none")


def run_relay(results, stage, binary, arguments, timeout):
    """tests/relay/run.py prints one line a test: `ok NAME`, `FAIL NAME`, `skip NAME: reason`, and the failures' texts."""
    environment = dict(test_environment(stage), POSTERN_BIN=binary, PYTHONDONTWRITEBYTECODE="1")
    command = [sys.executable, os.path.join(ROOT, "tests", "relay", "run.py"), "--jobs", str(CORES), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               cwd=ROOT, env=environment, text=True, errors="replace")
    text, seen = [], 0
    deadline = time.monotonic() + timeout
    for line in process.stdout:
        line = line.rstrip("\n")
        if match := re.match(r"ok (\S+)( \(.*\))?$", line):
            results.add(f"{stage}/{match.group(1)}", "passed")
        elif match := re.match(r"skip (\S+): (.*)$", line):
            results.add(f"{stage}/{match.group(1)}", "skipped", match.group(2))
        elif match := re.match(r"FAIL (\S+)", line):
            results.add(f"{stage}/{match.group(1)}", "failed", "\n".join(text))
        else:
            text.append(line)
            continue
        text, seen = [], seen + 1
        if time.monotonic() > deadline:
            process.terminate()
            results.add(f"{stage}/(time)", "failed", f"not done after {timeout} s")
            break
    status = process.wait()
    if status not in (0, 1) or seen == 0:
        results.add(f"{stage}/(runner)", "failed", f"exit status {status}\n" + "\n".join(text))


# --- fuzzers -------------------------------------------------------------------------------------------------------

def run_fuzzers(results):
    listed = subprocess.run([os.path.join(ROOT, "tools", "fuzz"), "--list"], stdout=subprocess.PIPE, text=True, check=True)
    names = listed.stdout.split()
    if not names:
        results.add("fuzz/(list)", "failed", "tools/fuzz --list names none")

    # Always the same inputs: what is found by chance is found by whoever runs tools/fuzz, not by an unrelated change.
    def run(name):
        return subprocess.run([os.path.join(ROOT, "tools", "fuzz"), "--build", "asan", "--seed", "1", name, str(FUZZ_SECONDS)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=FUZZ_SECONDS + 120)

    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        for name, done in zip(names, pool.map(run, names)):
            results.add(f"fuzz/{name}", "passed" if done.returncode == 0 else "failed", done.stdout)


# --- all of it -------------------------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(prog="tools/test")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--match", default="")
    arguments = parser.parse_args()
    stages = set(arguments.only.split(",")) if arguments.only else {"unit"} if arguments.quick else set(STAGES)
    if stages - set(STAGES):
        parser.error(f"stages are {', '.join(STAGES)}")

    started = time.monotonic()
    results = Results(read_allowed_skips(), os.environ.get("CI") == "true")
    match = ["--match", arguments.match] if arguments.match else []

    if "unit" in stages:
        with Stage(results, "unit tests (debug, GCC)"):
            if build(results, "debug", "unit-tests"):
                run_units(results, "debug")
    if "static" in stages or arguments.quick:
        with Stage(results, "layers"):
            check_layers(results)
    if "static" in stages:
        with Stage(results, "symbols"):
            if build(results, "debug", "unit-tests"):
                check_symbols(results)
        with Stage(results, "format"):
            check_format(results)
        with Stage(results, "manual pages and unit file"):
            check_package(results)
    if stages & {"asan", "fuzz", "tidy"}:
        with Stage(results, "unit tests (Clang, address and undefined-behaviour sanitizers)"):
            built = build(results, "asan", "unit-tests", "fuzzers")
            if built and "asan" in stages:
                run_units(results, "asan")
        if built and "fuzz" in stages:
            with Stage(results, f"fuzzers, {FUZZ_SECONDS} s each"):
                run_fuzzers(results)
    if "tidy" in stages and os.path.exists(os.path.join(ROOT, "build", "asan", "compile_commands.json")):
        with Stage(results, "clang-tidy"):
            check_tidy(results)
    if "relay" in stages:
        with Stage(results, "relay tests (release)"):
            if build(results, "release", "programs", "benches", "crash-tools"):
                folder = os.path.join(ROOT, "build", "release")
                check_programs(results, folder)
                smoke_benches(results, folder)
                run_relay(results, "relay", os.path.join(folder, "posternd"), match, 1500)
    if "tsan" in stages:
        with Stage(results, "threads (thread sanitizer)"):
            rooms = [room for room in THREADED_ROOMS if os.path.exists(os.path.join(ROOT, "tests", room, "meson.build"))]
            if build(results, "tsan", "posternd", *(f"tests/{room}_test" for room in rooms)):
                run_units(results, "tsan", rooms, replays=False)
                run_relay(results, "tsan", os.path.join(ROOT, "build", "tsan", "posternd"), [*match, "--selection", "tsan"], 900)

    if results.refused_skips:
        print("Skips that tests/allowed_skips does not list:")
        for name in results.refused_skips:
            results.skipped = [skip for skip in results.skipped if skip[0] != name]
            results.add(name, "failed", "skipped in CI; list it with its reason, or make it run")
    if results.failed:
        print("Failed:")
        for name, why in results.failed:
            print(f"  {name}\n      {why}")
    print(f"took {time.monotonic() - started:.0f} s")
    passed, failed, skipped = results.counts()
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
