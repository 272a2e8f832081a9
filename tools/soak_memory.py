"""`make soak`: small trainings in a loop; memory and open files of the process must stay flat.

    TQDM_DISABLE=1 python tools/soak_memory.py --minutes 120

One process trains S_seg, phase 1 and phase 2 of the tiny preset again and again, with records,
pictures and checkpoints. The first quarter warms up; a line through the rest gives the growth. The
test is the growth over the time measured: less than 1 % an hour, and at least 1 % in all, as a
short loop cannot tell less from noise.
"""

import argparse
import ctypes
import gc
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from s3net.base.config import preset
from s3net.data.miniworld import lesson_world
from s3net.train.runs import RUNS


@dataclass(frozen=True)
class Look:
    "One look at this process"

    seconds: float
    memory: int  # bytes in use
    files: int  # open
    threads: int


def look(began: float) -> Look:
    "What this process holds now; what the C library only keeps for later is given back first"
    gc.collect()
    if hasattr(trim := ctypes.CDLL(None), "malloc_trim"):  # glibc
        trim.malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(list(Path("/proc/self/fd").iterdir()))
    seconds = time.monotonic() - began
    return Look(seconds, pages * os.sysconf("SC_PAGE_SIZE"), files, threading.active_count())


def one_round() -> None:
    "All three kinds of training, in a folder that is gone afterwards"
    world = lesson_world()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cfg = preset(
            "tiny", synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"), device="cpu",
            threads=1,
        )  # fmt: skip
        RUNS["segmenter"](cfg, root / "segmenter")
        full = replace(cfg, segmenter_run=str(root / "segmenter"), semantics="both")
        RUNS["phase1"](full, root / "phase1", until=2)
        RUNS["phase1"](full, root / "phase1", resume=True)
        second = replace(cfg, phase1_run=str(root / "phase1"), semantics="both")
        RUNS["phase2"](second, root / "phase2")


def growth(looks: list[Look]) -> tuple[float, int, int]:
    "Share of memory an hour by a line through the looks; files and threads more than at first"
    hours = [one.seconds / 3600 for one in looks]
    memory = [one.memory for one in looks]
    slope = statistics.linear_regression(hours, memory).slope
    first, last = looks[0], looks[-1]
    return slope / statistics.mean(memory), last.files - first.files, last.threads - first.threads


def soak(minutes: float) -> list[Look]:
    "Train until the time is up; looks after each round"
    began, looks = time.monotonic(), []
    while time.monotonic() - began < 60 * minutes or len(looks) < 8:
        one_round()
        looks.append(look(began))
    return looks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120)
    if not Path("/proc/self/statm").exists():
        print("memory of a process is read from /proc, which this system lacks")
        return 1
    looks = soak(parser.parse_args().minutes)
    kept = looks[len(looks) // 4 :]
    hourly, files, threads = growth(kept)
    hours = (kept[-1].seconds - kept[0].seconds) / 3600
    in_all = kept[-1].memory / kept[0].memory - 1
    flat = in_all < max(0.01, 0.01 * hours) and files <= 0 and threads <= 0
    print(
        f"{len(looks)} rounds in {looks[-1].seconds / 60:.1f} minutes; after the first quarter "
        f"memory {kept[0].memory / 2**20:.1f} to {kept[-1].memory / 2**20:.1f} MiB "
        f"({100 * in_all:+.2f} % in all, a line through it {100 * hourly:+.2f} % an hour), "
        f"open files {files:+d}, threads {threads:+d}: {'flat' if flat else 'GROWING'}"
    )
    return int(not flat)


if __name__ == "__main__":
    sys.exit(main())
