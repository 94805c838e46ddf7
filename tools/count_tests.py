#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Count what ran in one or more testlog.json files of `meson test`.

usage: count_tests.py SUITES FILE...

Prints each test that failed with the end of its output, and last a line "N passed, N failed[, N
skipped]". A program that printed Check's summary counts as its cases, any other as one. A program
that ended badly counts as at least one failure, whatever its summary says; so does each of SUITES
(words in one argument) of which nothing ran, because a suite that lost its tests must not look like
one that passed. Exit status 1 if anything failed.
"""
import json
import re
import sys

SUMMARY = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)$", re.M)


def count(test):
    """(passed, failed, skipped) of one line of a log."""
    result = test["result"]
    if result == "SKIP":
        return 0, 0, 1
    found = SUMMARY.findall(test.get("stdout") or "")
    checks = sum(int(c) for c, _, _ in found)
    failed = sum(int(f) + int(e) for _, f, e in found)
    if result in ("OK", "EXPECTEDFAIL"):
        # A summary with failures and a good exit status is a harness that cannot fail.
        return (checks - failed, failed, 0) if found else (1, 0, 0)
    return checks - failed, max(failed, 1), 0


def read(path):
    """The tests of one log; none if meson wrote no log, which it does when it has nothing to run."""
    try:
        with open(path, encoding="utf-8") as log:
            return [json.loads(line) for line in log]
    except FileNotFoundError:
        return []


def suites_of(test):
    """Names look like "project:suite+suite / test"."""
    return test["name"].split(" / ")[0].partition(":")[2].split("+")


def main(required, paths):
    totals = [0, 0, 0]
    missing = set(required)
    for test in [t for path in paths for t in read(path)]:
        counts = count(test)
        totals = [a + b for a, b in zip(totals, counts)]
        missing -= set(suites_of(test))
        if counts[1]:
            print(f"failed: {test['name']} ({test['result'].lower()})")
    for suite in sorted(missing):
        print(f"failed: nothing ran of suite {suite}")
    passed, failed, skipped = totals
    failed += len(missing)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].split(), sys.argv[2:]))
