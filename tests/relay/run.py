#!/usr/bin/env python3
"""Runs the relay tests: real programs over loopback, against the posternd that POSTERN_BIN names.

  tests/relay/run.py [--match TEXT] [--selection all|tsan] [--list] [--jobs N]

With --jobs the tests of N classes run at a time, each class in a process of its own: they wait more than they work.
Prints one line a test: `ok NAME (seconds)`, `skip NAME: reason`, or `FAIL NAME` behind the failure's text.
Exits 1 when any failed.
"""
import argparse
import contextlib
import faulthandler
import importlib
import io
import os
import signal
import sys
import tempfile
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import harness  # pylint: disable=wrong-import-position

# The thread sanitizer finds races in what threads share; these tests share the most, within bearable time.
TSAN = ("test_delivery.", "test_shards.", "test_next_hops.", "test_operation.", "test_lmtp.IntoAStore",
        "test_lmtp.FromClients", "test_crash.CleanRestart")
# These look at memory, fill the machine or change a setting of it: they run before the others, one by one.
ALONE = ("test_budgets.", "test_load.", "test_disk.IoUring.")


def all_tests():
    loader = unittest.TestLoader()
    for name in sorted(os.listdir(HERE)):
        if name.startswith("test_") and name.endswith(".py"):
            for suite in loader.loadTestsFromModule(importlib.import_module(name[:-3])):
                yield from suite


def name_of(test):
    module, case, method = test.id().rsplit(".", 2)
    return f"{module}.{case}.{method.removeprefix('test_')}"


def run_one(test, name):
    """True when it passed or was skipped."""
    result = unittest.TestResult()
    output = io.StringIO()
    started = time.monotonic()
    try:
        with contextlib.redirect_stderr(output):
            test.run(result)
    except KeyboardInterrupt:
        raise
    except BaseException:  # pylint: disable=broad-exception-caught
        result.errors.append((test, traceback.format_exc()))
    seconds = time.monotonic() - started
    if result.errors or result.failures:
        # What went wrong first: whoever cuts this text must not lose it behind the logs.
        for _, text in result.errors + result.failures:
            print(text.rstrip())
        print(output.getvalue().rstrip())
        print(f"FAIL {name} ({seconds:.1f} s)", flush=True)
        return False
    if result.skipped:
        print(f"skip {name}: {result.skipped[0][1]}", flush=True)
    else:
        print(f"ok {name} ({seconds:.1f} s)", flush=True)
    return True


def run_in_child(tests, slot, jobs, output):
    """Runs them in a forked process, which inherits what is imported; its lines go to the file `output`."""
    sys.stdout.flush()
    child = os.fork()
    if child != 0:
        return child
    good = False
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(output.fileno(), 1)
        harness.share_ports(slot, jobs)
        good = all([run_one(test, name) for name, test in tests])
        sys.stdout.flush()
    finally:
        os._exit(0 if good else 1)


def run_side_by_side(chosen, jobs):
    """True when all passed. What a class printed is printed when it has ended."""
    classes = {}
    for name, test in chosen:
        classes.setdefault(name.rsplit(".", 1)[0], []).append((name, test))
    # Those with many tests first, so that no long one is left for the end.
    waiting = sorted(classes.values(), key=len)
    free, running, good = list(range(jobs)), {}, True
    try:
        while waiting or running:
            while waiting and free:
                slot, output = free.pop(), tempfile.TemporaryFile()  # pylint: disable=consider-using-with
                running[run_in_child(waiting.pop(), slot, jobs, output)] = (slot, output)
            child, status = os.wait()
            if child not in running:
                continue
            slot, output = running.pop(child)
            free.append(slot)
            good = good and status == 0
            output.seek(0)
            sys.stdout.write(output.read().decode(errors="replace"))
            if os.WIFSIGNALED(status):
                print(f"FAIL (process) ended by signal {os.WTERMSIG(status)}")
            sys.stdout.flush()
            output.close()
    finally:
        for child in running:
            os.kill(child, signal.SIGTERM)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--match", default="")
    parser.add_argument("--selection", choices=("all", "tsan"), default="all")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.selection == "tsan":
        os.environ.setdefault("POSTERN_TEST_SLOWNESS", "4")
    faulthandler.enable()
    chosen = []
    for test in all_tests():
        name = name_of(test)
        if arguments.match in name and (arguments.selection == "all" or name.startswith(TSAN)):
            chosen.append((name, test))
    if arguments.list:
        print("\n".join(name for name, _ in chosen))
        return 0
    alone = [(name, test) for name, test in chosen if arguments.jobs == 1 or name.startswith(ALONE)]
    good = all([run_one(test, name) for name, test in alone])
    others = [pair for pair in chosen if pair not in alone]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return 0 if run_side_by_side(others, arguments.jobs) and good else 1


if __name__ == "__main__":
    sys.exit(main())
