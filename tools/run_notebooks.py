"""Run every notebook as nbdev_test does, each in a process of its own, and count.

nbdev_test shares workers between notebooks and loses all results when one of them dies; here a
notebook that kills its process, or never ends, is one failed notebook with a name.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from nbtools import REASONS, held_back, notebooks, project_root, relative, skip_flags

SETTINGS = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PLOTLY_RENDERER": "plotly_mimetype"}


@dataclass
class Running:
    "A notebook under way"

    path: Path
    process: multiprocessing.Process
    log: Path
    started: float

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def _child(path: Path, log: Path, flags: set[str], root: Path) -> None:
    "In the new process: run the notebook, everything it prints goes to the log"
    os.setsid()
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    from nbdev.test import test_nb

    passed, _ = test_nb(path, skip_flags=flags, basepath=root)
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(0 if passed else 1)


def _start(path: Path, folder: Path, flags: set[str]) -> Running:
    log = folder / (relative(path).replace("/", "-") + ".log")
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_child, args=(path, log, flags, project_root()))
    process.start()
    return Running(path, process, log, time.monotonic())


def _verdict(item: Running, limit: float) -> str | None:
    "None while it runs, else empty for passed or the reason of the failure"
    if item.process.is_alive():
        if item.seconds < limit:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(item.process.pid, signal.SIGKILL)
        item.process.join()
        return f"stopped after {limit:.0f} s"
    item.process.join()
    return {0: "", 1: "a cell failed"}.get(
        item.process.exitcode, f"its process ended with {item.process.exitcode}"
    )


def _report(item: Running, reason: str) -> None:
    print(f"{'FAIL' if reason else 'ok':4} {item.seconds:6.1f}s  {relative(item.path)}", flush=True)
    if reason:
        print(f"     {reason}:")
        print(item.log.read_text(errors="replace"), flush=True)


def _said(item: Running, reason: str) -> str:
    "The reason of a failure with the last line that the notebook printed: the error, as a rule"
    lines = [line.strip() for line in item.log.read_text(errors="replace").splitlines()]
    return ": ".join([reason, *[line for line in lines if line][-1:]])


def run_all(
    paths: list[Path], flags: set[str], workers: int = 2, limit: float = 600
) -> dict[Path, str]:
    "Run the notebooks and print a line for each; those that failed, and why in a few words"
    os.environ.update(SETTINGS)
    import torch  # noqa: F401  loaded once, inherited by every forked process

    failed, waiting, running = {}, list(reversed(paths)), []
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(_start(waiting.pop(), Path(folder), flags))
            wait([item.process.sentinel for item in running], timeout=1)
            for item in list(running):
                reason = _verdict(item, limit)
                if reason is not None:
                    running.remove(item)
                    if reason:
                        failed[item.path] = _said(item, reason)
                    _report(item, reason)
    return failed


def report_skips(paths: list[Path], flags: set[str]) -> int:
    "Name each cell left out and why; how many"
    count = 0
    for path in paths:
        for index, flag in held_back(path, flags).items():
            reason = REASONS.get(flag, "is left out by settings.ini")
            print(f"skip  {relative(path)} cell {index}: {flag}, {reason}")
            count += 1
    return count


def report_failures(failed: Iterable[tuple[Path, str]]) -> None:
    "Name them again at the end, where a log that is cut to its tail still shows them"
    for path, reason in failed:
        print(f"FAIL  {relative(path)}: {reason}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks (default: all)")
    parser.add_argument("--flags", default="", help="run cells with these flags too: 'data slow'")
    parser.add_argument("--rounds", type=int, default=1, help="repeat in shuffled order")
    args = parser.parse_args()
    paths = [path.absolute() for path in args.paths] or notebooks()
    flags = skip_flags(set(args.flags.split()))
    failed = []
    for seed in range(args.rounds):
        order = random.Random(seed).sample(paths, len(paths)) if args.rounds > 1 else paths
        failed += run_all(order, flags).items()
    report_skips(paths, flags)
    report_failures(failed)
    print(f"{len(paths) * args.rounds - len(failed)} passed, {len(failed)} failed")
    return int(bool(failed) or not paths)


if __name__ == "__main__":
    sys.exit(main())
