#!/usr/bin/env python3
"""Runs the micro-benchmarks of build/release/bench, counts instructions, compares with a saved run. See tools/bench.

Time on a machine that others use says little: five repetitions in turn with those of the other benchmarks of a program,
the least of them is the figure, and the difference from the median is its spread. Instructions are counted by callgrind,
where the same program gives the same figure to a few tenths of a per cent on any machine of one kind.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "build/release/bench"
# Their benchmarks speak to no kernel, so that their instructions are theirs alone.
PURE_ROOMS = ("base", "smtp", "dns", "spool", "queue")
DEADLINE = 900  # seconds for one program
SLOWER_TIME = 0.10  # beyond the spread
SLOWER_INSTRUCTIONS = 0.02
COUNTED_SECONDS = 0.3  # of a benchmark under callgrind


class Failure(Exception):
    pass


def room_of(program):
    return program.name.removesuffix("_bench")


def programs_in(folder, rooms):
    found = sorted(path for path in folder.glob("*_bench") if os.access(path, os.X_OK))
    missing = sorted(set(rooms) - {room_of(path) for path in found})
    if missing:
        raise Failure(f"no benchmarks of room {missing[0]} in {folder}; there are: "
                      + ", ".join(room_of(path) for path in found))
    return [path for path in found if not rooms or room_of(path) in rooms]


def run(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=DEADLINE, check=False,
                          encoding="utf-8", errors="replace", **options)
    if done.returncode != 0:
        raise Failure(f"{pathlib.Path(command[0]).name} ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout


def names_in(program, match):
    names = run([program, "--benchmark_list_tests"]).split()
    return [name for name in names if not match or re.search(match, f"{room_of(program)}/{name}")]


def exactly(name):
    return "--benchmark_filter=^" + re.escape(name).replace("\\-", "-").replace("\\ ", " ") + "$"


def times_of(program, names, options):
    """{name: [CPU nanoseconds of an iteration, …]}; iterations that the benchmark times itself by that time."""
    listed = "|".join(re.escape(name).replace("\\-", "-") for name in names)
    text = run([program, f"--benchmark_filter=^({listed})$", "--benchmark_format=json",
                f"--benchmark_repetitions={options.repetitions}", f"--benchmark_min_time={options.min_time}",
                "--benchmark_enable_random_interleaving=true"])
    scale = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
    times = {}
    for one in json.loads(text)["benchmarks"]:
        if one.get("run_type") == "iteration":
            if one.get("error_occurred"):
                raise Failure(f"{room_of(program)}/{one['run_name']}: {one.get('error_message')}")
            key = "real_time" if "manual_time" in one["run_name"] else "cpu_time"
            times.setdefault(one["run_name"], []).append(one[key] * scale[one["time_unit"]])
    return times


def function_of(name):
    """Which function a benchmark's name stands for, as callgrind's pattern."""
    return f"*::{name.split('/')[0]}(benchmark::State*"


def instructions_of(program, name):
    """Instructions of one iteration; None where the benchmark cannot be counted.

    Google Benchmark calls the function with 1, 10, 100 … iterations, and once more with the number that it reports.
    callgrind notes what had been executed whenever the function returns: what the call with 10 needed is set-up and ten
    iterations, the last one's the same set-up and all the others.
    """
    if "/iterations:" in name or re.search(r"/threads:([02-9]|1\d)", name):
        return None
    with tempfile.TemporaryDirectory() as folder:
        # Without randomised addresses: they are the seed of hash tables.
        text = run(["setarch", "-R", "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out",
                    f"--dump-after={function_of(name)}", program, exactly(name), "--benchmark_format=json",
                    f"--benchmark_min_time={COUNTED_SECONDS}"])
        told = [one for one in json.loads(text)["benchmarks"] if one.get("run_type") == "iteration"]
        counts = []
        while (path := pathlib.Path(folder, f"out.{len(counts) + 1}")).exists():
            counts.append(int(re.search(r"^totals: (\d+)", path.read_text(encoding="utf-8"), re.M)[1]))
        if len(told) != 1 or len(counts) < 3 or told[0]["iterations"] < 20:
            return None
        return (counts[-1] - counts[1]) / (told[0]["iterations"] - 10)


def surroundings():
    model = re.search(r"^model name\s*: (.*)$", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], stdout=subprocess.PIPE,
                            stderr=subprocess.DEVNULL, check=False, encoding="utf-8").stdout.strip()
    return {"kernel": os.uname().release, "cpus": os.cpu_count(), "model": model[1] if model else "unknown",
            "load": round(os.getloadavg()[0], 2), "commit": commit or "unknown"}


def summary_of(times):
    least = min(times)
    return {"cpu_ns": least, "spread": statistics.median(times) / least - 1}


def compared(now, before):
    """(text, slower)."""
    if before is None:
        return "new", False
    parts, slower = [], False
    if "cpu_ns" in now and "cpu_ns" in before:
        change = now["cpu_ns"] / before["cpu_ns"] - 1
        bound = SLOWER_TIME + now["spread"] + before["spread"]
        slower = change > bound
        parts.append(f"time {change:+.1%}" + (" SLOWER" if slower else ""))
    if now.get("instructions") and before.get("instructions"):
        change = now["instructions"] / before["instructions"] - 1
        more = change > SLOWER_INSTRUCTIONS
        slower = slower or more
        parts.append(f"instructions {change:+.2%}" + (" MORE" if more else ""))
    return ", ".join(parts) or "not measured before", slower


def of_time(nanoseconds):
    for unit, scale in (("ns", 1), ("us", 1e3), ("ms", 1e6)):
        if nanoseconds < 1000 * scale:
            return f"{nanoseconds / scale:.3g} {unit}" if nanoseconds < 100 * scale else f"{nanoseconds / scale:.0f} {unit}"
    return f"{nanoseconds / 1e9:.2f} s"


def measure(options):
    figures, others = {}, {}
    for program in programs_in(PROGRAMS, options.room):
        names = names_in(program, options.match)
        if not names:
            continue
        print(f"{room_of(program)}: {len(names)} benchmarks", file=sys.stderr, flush=True)
        times, beside = {}, {}
        other = options.against / program.name if options.against else None
        if other and not other.exists():
            raise Failure(f"{other}: there is no such program to compare with")
        theirs = [name for name in names_in(other, options.match) if name in names] if other else []
        for _ in range(2 if other else 1):  # in turn
            for name, some in times_of(program, names, options).items():
                times.setdefault(name, []).extend(some)
            for name, some in (times_of(other, theirs, options) if theirs else {}).items():
                beside.setdefault(name, []).extend(some)
        for all_times, into, source in ((times, figures, program), (beside, others, other)):
            for name, some in all_times.items():
                into[f"{room_of(program)}/{name}"] = summary_of(some)
                if options.instructions and room_of(program) in PURE_ROOMS:
                    counted = instructions_of(source, name)
                    if counted is not None:
                        into[f"{room_of(program)}/{name}"]["instructions"] = counted
    if not figures:
        raise Failure("no benchmark matches; tools/bench --list shows what there is")
    return figures, others


def read_baseline(path):
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return saved["benchmarks"], saved["surroundings"]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise Failure(f"{path}: not a run that --save has written: {problem!r}") from problem


def arguments():
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--room", action="append", default=[])
    parser.add_argument("--match")
    parser.add_argument("--instructions", action="store_true")
    parser.add_argument("--save", type=pathlib.Path)
    parser.add_argument("--baseline", type=pathlib.Path)
    parser.add_argument("--against", type=pathlib.Path)
    parser.add_argument("--json")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--min-time", type=float, default=0.1, help="seconds of one repetition")
    options = parser.parse_args()
    if options.baseline and options.against:
        parser.error("--baseline and --against exclude each other")
    if options.repetitions < 1 or options.min_time <= 0:
        parser.error("--repetitions and --min-time must be positive")
    try:
        re.compile(options.match or "")
    except re.error as problem:
        parser.error(f"--match: {problem}")
    return options


def main():
    options = arguments()
    if options.list:
        for program in programs_in(PROGRAMS, options.room):
            print("\n".join(f"{room_of(program)}/{name}" for name in names_in(program, options.match)))
        return 0
    before, where = read_baseline(options.baseline) if options.baseline else ({}, None)
    here = surroundings()
    figures, others = measure(options)
    before = others if options.against else before

    out = sys.stderr if options.json == "-" else sys.stdout
    print(f"{here['model']}, {here['cpus']} CPUs, kernel {here['kernel']}, load {here['load']} at the start, commit "
          f"{here['commit']}; the least of {options.repetitions} repetitions", file=out)
    if where:
        print(f"compared with commit {where.get('commit')}, load {where.get('load')}"
              + ("" if where.get("model") == here["model"] else f", on another processor: {where.get('model')}"), file=out)
    slower = []
    width = max(len(name) for name in figures)
    for name, figure in figures.items():
        line = f"{name:{width}}  {of_time(figure['cpu_ns']):>8}  ±{figure['spread']:>4.0%}"
        if options.instructions:
            line += f"  {figure['instructions']:>12,.1f} instructions" if "instructions" in figure else " " * 27
        if options.baseline or options.against:
            figure["compared"], is_slower = compared(figure, before.get(name))
            line += f"  {figure['compared']}"
            if is_slower:
                slower.append(name)
        print(line.rstrip(), file=out)
    gone = sorted(set(before) - set(figures)) if not (options.room or options.match) else []
    if gone:
        print("no longer there: " + ", ".join(gone), file=out)
    if slower:
        print(f"slower than before: {', '.join(slower)}", file=out)
    report = json.dumps({"surroundings": here, "benchmarks": figures, "slower": slower}, indent=1) + "\n"
    if options.save:
        options.save.write_text(report, encoding="utf-8")
    if options.json == "-":
        sys.stdout.write(report)
    elif options.json:
        pathlib.Path(options.json).write_text(report, encoding="utf-8")
    return 1 if slower else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, OSError, subprocess.TimeoutExpired) as problem:
        sys.exit(f"tools/bench: {problem}")
