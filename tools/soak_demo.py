"""`make soak`: the demo's trainings in a loop; memory and open files of every process stay flat.

    python tools/soak_demo.py --minutes 120          # the demo's trainings in a loop
    python tools/soak_demo.py --watch PID            # what runs already, until it ends
    python tools/soak_demo.py --read samples.jsonl   # looks that were kept, judged again

A demo or an ablation is a parent that starts one process for each training. All of them are looked
at every ten seconds, each look is a line of JSON (`--write FILE` keeps them), and then judged:

- the parent: a line through its memory after the first quarter rises by less than 1 % an hour (at
  least 1 % in all, as a short watch cannot tell less from noise), no more files and threads;
- a training fills its store of samples in its first pass over the data, which one that alternates
  between two sides may end after six tenths of its life. So only the last third is judged, and only
  of those that lived long enough and reached their last step, not of those that the end of the
  watch cut off: a line through it rises by less than the same, or than twice the scatter about it.
  Taken together, trainings must not rise by more than chance explains;
- trainings of one kind (another seed, another round): later ones need no more at most than earlier
  ones, within 5 %; those that lived much shorter than the longest (stopped, or still young) are
  left out.

A parent is what is watched; there may be several, each watched into the same file.

Memory is what a process holds for itself (RssAnon): pages of files come and go with the system.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

HOURLY = 0.01  # most that memory may grow in an hour, and in all where less than an hour is judged
PEAKS = 0.05  # most that later trainings of a kind may need more than earlier ones
FEWEST = 8  # looks that can be judged
SETTLED = 2 / 3  # of a training's life, after which it is judged
PARENT = 30  # minutes a parent must be watched: what it loads for its first evaluation stays


# --- looking ------------------------------------------------------------------------------------


def parents() -> dict[int, int]:
    "Each process's parent"
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            text = (place / "stat").read_text(errors="replace")
            found[int(place.name)] = int(text.rpartition(")")[2].split()[1])
    return found


def tree(root: int) -> list[int]:
    "A process and all it started, and what those started"
    above, inside = parents(), [root]
    for pid in inside:  # grows meanwhile
        inside += [child for child, parent in above.items() if parent == pid]
    return inside


def look_at(pid: int) -> dict | None:
    "What one process holds; None where it is gone"
    place = Path(f"/proc/{pid}")
    try:
        rows = [line.partition(":") for line in (place / "status").read_text().splitlines()]
        status = {name: value.split() for name, _, value in rows}
        command = (place / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        return {
            "pid": pid,
            "rss": 1024 * int(status["VmRSS"][0]),
            "anon": 1024 * int(status["RssAnon"][0]),
            "threads": int(status["Threads"][0]),
            "fds": len(os.listdir(place / "fd")),
            "cmd": command[-300:],
        }
    except (OSError, KeyError):
        return None


def watch(root: int, file: Path, seconds: float, every: float = 10) -> None:
    "A line for each look, until the process ends or the time is up"
    until = time.monotonic() + seconds
    with file.open("a") as out:
        while time.monotonic() < until and (first := look_at(root)):
            rest = [look_at(pid) for pid in tree(root)[1:]]
            processes = [first, *(one for one in rest if one)]
            out.write(json.dumps({"time": time.time(), "processes": processes}) + "\n")
            out.flush()
            time.sleep(every)


def read(file: Path) -> list[dict]:
    "All looks; a line that is just being written is left out"
    samples = []
    for line in file.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            samples.append(json.loads(line))
    return samples


# --- judging ------------------------------------------------------------------------------------


@dataclass
class Life:
    "One process, from its first look to its last"

    pid: int
    kind: str  # what it is; the same for other seeds and other rounds
    looks: list[dict] = field(default_factory=list)
    watched: bool = False  # the process that was named, not one that it began

    @property
    def trains(self) -> bool:
        return not self.watched and any("--out " in look["cmd"] for look in self.looks)

    def stopped(self, unknown: bool = False) -> bool:
        "Whether its run folder says that it ended before its last step; `unknown` if it is gone"
        folder = re.search(r"--out (\S+)", self.looks[-1]["cmd"])
        try:
            said = json.loads((Path(folder.group(1)) / "ended.json").read_text()) if folder else {}
        except (OSError, json.JSONDecodeError):
            return unknown
        return said["how"] != "finished" if "how" in said else unknown

    @property
    def hours(self) -> float:
        return (self.looks[-1]["time"] - self.looks[0]["time"]) / 3600

    @property
    def peak(self) -> int:
        return max(look["anon"] for look in self.looks)

    def since(self, share: float) -> "Life":
        "Without its beginning"
        began = self.looks[0]["time"] + 3600 * share * self.hours
        kept = [one for one in self.looks if one["time"] >= began]
        return Life(self.pid, self.kind, kept, self.watched)


def kind_of(command: str) -> str:
    "The name of a training's run folder without its seed; else how the command begins"
    folder = re.search(r"--out (?:\S*/)?(\S+)", command)
    return (
        re.sub(r"-s\d+$", "", folder.group(1))
        if folder
        else re.sub(r"\S*/", "", command)[:40].strip()
    )


def lives(samples: list[dict]) -> list[Life]:
    "All processes in the order of their first looks"
    found: dict[tuple[int, str], Life] = {}
    for sample in samples:
        for place, one in enumerate(sample["processes"]):
            key = one["pid"], kind_of(one["cmd"])
            life = found.setdefault(key, Life(*key, watched=place == 0))
            life.looks.append(one | {"time": sample["time"]})
    return list(found.values())


@dataclass(frozen=True)
class Growth:
    "What changed during a part of a life"

    hours: float
    first: float  # bytes, where the line through the memory begins
    rise: float  # share by which it rises to its end
    scatter: float  # standard deviation about it, as a share
    files: float  # more open ones in the last third than in the first
    threads: float

    def flat(self, noise: float = 0) -> bool:
        "Whether nothing grew; `noise` is a rise that says nothing"
        bound = max(HOURLY, HOURLY * self.hours, noise)
        return self.rise < bound and self.files <= 0 and self.threads <= 0


def growth(life: Life) -> Growth:
    "A line through its memory; what it had open at first and at last"
    times = [(one["time"] - life.looks[0]["time"]) / 3600 for one in life.looks]
    memory, third = [one["anon"] for one in life.looks], max(1, len(life.looks) // 3)
    slope, first = statistics.linear_regression(times, memory)
    off = statistics.pstdev(m - first - slope * t for t, m in zip(times, memory))
    mean = statistics.mean(memory)
    more = [
        statistics.median(one[what] for one in life.looks[-third:])
        - statistics.median(one[what] for one in life.looks[:third])
        for what in ("fds", "threads")
    ]
    return Growth(life.hours, first, slope * life.hours / mean, off / mean, *more)


@dataclass(frozen=True)
class Verdict:
    "One line of the outcome"

    what: str
    said: str
    flat: bool | None  # None = it was too short to say

    def __str__(self) -> str:
        word = {True: "flat", False: "GROWING", None: "too short to judge"}[self.flat]
        return f"{self.what}: {self.said}: {word}"


def mib(size: float) -> str:
    return f"{size / 2**20:,.1f}"


def judge_parent(life: Life) -> Verdict:
    "After the first quarter"
    what, kept = f"parent {life.pid} ({life.kind})", life.since(0.25)
    if len(kept.looks) < FEWEST or 60 * life.hours < PARENT:
        return Verdict(what, f"{len(life.looks)} looks in {60 * life.hours:.0f} minutes", None)
    g, count = growth(kept), len(life.looks)
    parts = (life.looks[k * count // 4 : (k + 1) * count // 4] for k in range(4))
    quarters = [statistics.median(one["anon"] for one in part) for part in parts]
    said = (
        f"{len(life.looks)} looks in {60 * life.hours:.0f} minutes; after the first quarter from "
        f"{mib(g.first)} MiB by {100 * g.rise:+.2f} %, {100 * g.rise / g.hours:+.2f} % an hour, "
        f"files {g.files:+g}, threads {g.threads:+g}; medians of its quarters "
        f"{', '.join(map(mib, quarters))} MiB"
    )
    return Verdict(what, said, g.flat())


def judge_kind(kind: str, found: list[Life], long: list[Life]) -> Verdict:
    "Trainings that differ by seed or round: the last third of each long one, and the peaks of all"
    grown = [growth(life.since(SETTLED)) for life in long]
    longest = max(life.hours for life in found)
    settled = [life.peak for life in found if life.hours > 0.6 * longest]
    peaks, half = [life.peak for life in found], len(settled) // 2
    more = statistics.mean(settled[-half:]) / statistics.mean(settled[:half]) - 1 if half else 0
    said = [f"{len(found)} lived {', '.join(f'{60 * one.hours:.0f}' for one in found)} minutes"]
    if grown:
        rises = ", ".join(f"{100 * g.rise:+.1f}" for g in grown)
        said += [
            f"rise in the last third {rises} % (scatter "
            f"{', '.join(f'{100 * g.scatter:.1f}' for g in grown)}), files "
            f"{max(g.files for g in grown):+g}, threads {max(g.threads for g in grown):+g}"
        ]
    said += [f"peaks {', '.join(map(mib, peaks))} MiB"]
    said += [f"later ones need {100 * more:+.1f} %"] if half else []
    flat = all(g.flat(2 * g.scatter) for g in grown) and more < PEAKS
    return Verdict(kind, "; ".join(said), flat if grown or half else None)


def judge_together(found: list[Life]) -> Verdict:
    "Whether trainings rise in their last third by more than chance explains"
    grown = [growth(life.since(SETTLED)) for life in found]
    hours = sum(g.hours for g in grown)
    if len(grown) < 2:
        return Verdict("all trainings", f"{len(grown)} long enough", None)
    mean = statistics.mean(g.rise for g in grown)
    chance = 2 * statistics.stdev(g.rise for g in grown) / len(grown) ** 0.5
    said = (
        f"{len(grown)} long enough, {60 * hours:.0f} minutes of last thirds, which rise by "
        f"{100 * mean:+.2f} % each, within {100 * chance:.2f} of chance"
    )
    return Verdict("all trainings", said, mean - chance < max(HOURLY * hours / len(grown), 1e-3))


def judge(samples: list[dict], least: float = 4) -> list[Verdict]:
    "Parents, each kind of training, all of them; trainings below `least` minutes are too short"
    all_lives = lives(samples)
    if not all_lives:
        return [Verdict("nothing", "no looks", None)]
    rest = [life for life in all_lives if life.trains]
    parents = [life for life in all_lives if not life.trains and len(life.looks) >= FEWEST]
    long = [one for one in rest if 60 * one.hours >= least and len(one.looks) >= 3 * FEWEST]
    end = samples[-1]["time"]  # who lives then was cut off, unless its folder says otherwise
    long = [one for one in long if not one.stopped(one.looks[-1]["time"] == end)]
    verdicts = [judge_parent(parent) for parent in parents]
    for kind in dict.fromkeys(life.kind for life in rest if len(life.looks) >= FEWEST):
        found = [one for one in rest if one.kind == kind and len(one.looks) >= FEWEST]
        verdicts.append(judge_kind(kind, found, [one for one in long if one.kind == kind]))
    verdicts.append(judge_together(long))
    if short := Counter(one.kind for one in rest if not any(one is other for other in long)):
        names = ", ".join(f"{n} × {kind}" for kind, n in short.items())
        verdicts.append(Verdict(f"growth of those below {least:g} minutes or stopped", names, None))
    return verdicts


# --- the demo in a loop -------------------------------------------------------------------------


def stop_with_parent() -> None:
    "Standard input ends with the watcher, whatever ended that: then stop as if by Ctrl-C"
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGINT)


def loop(folder: Path) -> None:
    "The demo's trainings again and again, each round in a folder of its own"
    from s3net.app.demo import demo_jobs, demo_plan, prepare_world
    from s3net.app.jobs import run_jobs

    threading.Thread(target=stop_with_parent, daemon=True).start()
    for number in count(1):
        plan = demo_plan(folder / f"round{number}", seed=number, device="cpu")
        prepare_world(plan)
        run_jobs(demo_jobs(plan), min(2, os.cpu_count() or 1), f"round {number}")
        shutil.rmtree(plan.out)


@contextlib.contextmanager
def looping() -> Iterator[int]:  # number of the process
    "A process that runs the loop; stopped at the end, with its trainings"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--loop", folder]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        try:
            yield process.pid
        finally:
            process.send_signal(signal.SIGINT)  # it asks its trainings to stop after their step
            process.wait()


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120, help="of the loop")
    parser.add_argument("--watch", type=int, metavar="PID", help="this process, not the loop")
    parser.add_argument("--read", type=Path, metavar="FILE", help="judge looks of earlier")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the looks")
    parser.add_argument("--least", type=float, default=4, help="minutes a judged training lives")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def looks(args: argparse.Namespace) -> list[dict]:
    "From a file, or by watching"
    if args.read:
        return read(args.read)
    with tempfile.TemporaryDirectory() as spare:
        file = args.write or Path(spare) / "looks.jsonl"
        with contextlib.suppress(KeyboardInterrupt):  # what was seen so far is judged
            if args.watch:
                watch(args.watch, file, float("inf"))
            else:
                with looping() as pid:
                    watch(pid, file, 60 * args.minutes)
        return read(file) if file.exists() else []


def main() -> int:
    args = options()
    if args.loop:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the background is born deaf
        from s3net.base.core import InputError

        with contextlib.suppress(InputError, KeyboardInterrupt):  # stopped as asked
            loop(args.loop)
        return 0
    if not args.read and not Path("/proc/self/status").exists():
        print("memory of a process is read from /proc, which this system lacks")
        return 1
    verdicts = judge(looks(args), args.least)
    print("\n".join(map(str, verdicts)))
    growing = [v.what for v in verdicts if v.flat is False]
    judged = sum(v.flat is not None for v in verdicts)
    print(f"{judged} judged, " + (f"GROWING: {', '.join(growing)}" if growing else "all flat"))
    return int(bool(growing) or not judged)


if __name__ == "__main__":
    sys.exit(main())
