"""`make test`: every notebook, then every pytest test, then one closing line with the total.

Tests run on two cores where there are two, a file on one of them.
"""

import argparse
import os
import sys
import time

import pytest
from nbtools import notebooks, project_root, skip_flags
from run_notebooks import report_failures, report_skips, run_all


class Tally:
    "A pytest plugin that counts"

    def __init__(self) -> None:
        self.passed, self.failed, self.skipped = 0, [], []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped.append((report.nodeid, report.longrepr[2]))
        elif report.when == "call":
            self.passed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        elif report.skipped:
            self.skipped.append((report.nodeid, report.longrepr[2]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flags", default="", help="run cells with these flags too: 'data slow'")
    flags = skip_flags(set(parser.parse_args().flags.split()))
    start, paths, tally = time.monotonic(), notebooks(), Tally()
    broken = run_all(paths, flags)
    options = ["-q", "-p", "no:cacheprovider", "--timeout=300", "--tb=short", "--durations=20"]
    options += ["-n", str(min(2, os.cpu_count() or 1)), "--dist", "loadfile"]
    code = pytest.main([*options, str(project_root() / "tests")], plugins=[tally])
    cells = report_skips(paths, flags)
    for name, reason in tally.skipped:
        print(f"skip  {name}: {reason}")
    tests = tally.passed + len(tally.failed) + len(tally.skipped)
    report_failures(broken.items())
    for name in tally.failed:
        print(f"FAIL  {name}")
    seconds = time.monotonic() - start
    print(f"{len(paths)} notebooks and {tests} tests in {seconds:.0f} s; ", end="")
    print(f"left out: {cells} notebook cells, {len(tally.skipped)} tests")
    passed, failed = len(paths) - len(broken) + tally.passed, len(broken) + len(tally.failed)
    print(f"{passed} passed, {failed} failed, {cells + len(tally.skipped)} skipped", flush=True)
    return int(failed > 0 or code != 0 or not paths)


if __name__ == "__main__":
    sys.exit(main())
