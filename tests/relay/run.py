#!/usr/bin/env python3
"""Runs the relay tests: real programs over loopback, against the posternd that POSTERN_BIN names.

  tests/relay/run.py [--match TEXT] [--selection all|tsan] [--list]

Prints one line a test: `ok NAME (seconds)`, `skip NAME: reason`, or `FAIL NAME` behind the failure's text.
Exits 1 when any failed.
"""
import argparse
import contextlib
import faulthandler
import importlib
import io
import os
import sys
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

# The thread sanitizer finds races in what threads share; these tests share the most, within bearable time.
TSAN = ("test_delivery.", "test_shards.", "test_next_hops.", "test_operation.", "test_lmtp.IntoAStore",
        "test_lmtp.FromClients", "test_crash.CleanRestart")


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


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--match", default="")
    parser.add_argument("--selection", choices=("all", "tsan"), default="all")
    parser.add_argument("--list", action="store_true")
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
    good = [run_one(test, name) for name, test in chosen]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
