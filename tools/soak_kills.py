"""`make soak`: kill trainings at random moments, resume them, compare the bits.

A training is killed with SIGKILL, either some time after it began, or at a named point inside the
writing of a checkpoint: this script then stands in for the function that writes there. Nothing in
the package knows of it. A killed training is resumed in a process of its own, and every file of its
last checkpoint must be the very bytes of the unbroken run's.

    python tools/soak_kills.py --kills 30 --seed 0
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

import s3net.base.core as core
import s3net.train.record as record
import s3net.train.state as state
from s3net.base.config import Config, preset
from s3net.data.miniworld import lesson_world
from s3net.train.runs import RUNS

KEPT = ("state.json", "manifest.json")  # of a checkpoint: compared by what they say, not as bytes
PHASES = ("segmenter", "phase1", "phase2", "weighted")


def die() -> None:
    "What a power cut does to a process"
    os.kill(os.getpid(), signal.SIGKILL)


# --- points inside the writing of a checkpoint ---------------------------------------------------


def half(path: Path | str) -> None:
    "Cut a file that was just written, as if its second half had not come"
    with open(path, "r+b") as file:
        file.truncate(Path(path).stat().st_size // 2)
    die()


def before_or_after(
    module: object, name: str, count: int, act: Callable, fits: Callable = lambda *_: True
) -> None:
    "Let the count-th fitting call of a function be its last"
    plain, seen = getattr(module, name), []

    def standing_in(*arguments, **named):
        if fits(*arguments):
            seen.append(name)
        if len(seen) == count:
            act(plain, *arguments, **named)
        return plain(*arguments, **named)

    setattr(module, name, standing_in)


def at_once(plain: Callable, *arguments, **named) -> None:
    die()


def afterwards(plain: Callable, *arguments, **named) -> None:
    plain(*arguments, **named)
    die()


def half_written(place: int) -> Callable:
    def act(plain: Callable, *arguments, **named) -> None:
        plain(*arguments, **named)
        half(arguments[place])

    return act


def one_file_less(plain: Callable, path: Path) -> None:
    next(p for p in sorted(Path(path).iterdir()) if p.is_file()).unlink()
    die()


def is_checkpoint(_: object, target: object) -> bool:
    return Path(target).parent.name == "checkpoints"


def has_steps(path: object) -> bool:
    return Path(path).parent.name == "checkpoints" and Path(path).is_dir()


POINTS: dict[str, Callable[[int], None]] = {  # name -> sets the trap for the count-th checkpoint
    "half a weight file": lambda n: before_or_after(state, "save_weights", n, half_written(1)),
    "half of training.pt": lambda n: before_or_after(state.torch, "save", n, half_written(1)),
    "before the manifest": lambda n: before_or_after(state, "write_manifest", n, at_once),
    "before the flush": lambda n: before_or_after(
        core, "_sync", n, at_once, lambda path: Path(path).suffix == ".safetensors"
    ),
    "before the rename": lambda n: before_or_after(core.os, "replace", n, at_once, is_checkpoint),
    "after the rename": lambda n: before_or_after(core.os, "replace", n, afterwards, is_checkpoint),
    "half-way through deleting": lambda n: before_or_after(
        state, "remove", n, one_file_less, has_steps
    ),
    "before deleting": lambda n: before_or_after(record, "prune_checkpoints", n, at_once),
}


# --- trainings in processes of their own ---------------------------------------------------------


def forked(act: Callable[[], object], quiet: bool = True) -> int:  # number of the process
    "Do something in a copy of this process: it has everything imported, and computed nothing yet"
    sys.stdout.flush()
    if child := os.fork():
        return child
    code = 1
    try:
        if quiet:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        act()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
    finally:
        os._exit(code)


def ended(child: int) -> int:  # exit code, or minus the signal
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(act: Callable[[], object]) -> None:
    "Do something in a copy of this process, to its end"
    if code := ended(forked(act)):
        raise AssertionError(f"a training that nobody killed ended with {code}")


@dataclass
class Soak:
    "A folder with unbroken runs, and what was killed so far"

    root: Path
    random: random.Random
    steps: int = 6
    seconds: dict[str, float] = field(default_factory=dict)  # phase -> of the unbroken run
    moments: list[dict] = field(default_factory=list)

    def config(self, phase: str) -> Config:
        "Settings of a phase: the lesson world, the tiny preset, a checkpoint after every step"
        world, runs = lesson_world(), self.root / "whole"
        cfg = preset(
            "tiny", synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"), device="cpu",
            threads=1, steps=self.steps, snapshot_every=3, checkpoint_every=1, keep=1, pool=3,
        )  # fmt: skip
        if phase == "phase1":
            return replace(cfg, segmenter_run=str(runs / "segmenter"), semantics="both")
        if phase in ("phase2", "weighted"):
            schedule = "weighted" if phase == "weighted" else "alternating"
            given = str(runs / "phase1")
            return replace(cfg, phase1_run=given, semantics="both", schedule=schedule)
        return cfg

    def train(self, phase: str, path: Path, trap: Callable[[], None] = lambda: None) -> None:
        "Train or resume, here"
        os.environ["TQDM_DISABLE"] = "1"
        torch.set_num_threads(1)
        trap()
        kind = "phase2" if phase == "weighted" else phase
        RUNS[kind](self.config(phase), path, resume=True)

    def whole(self, phase: str) -> Path:
        "The unbroken run, made once"
        path = self.root / "whole" / phase
        if phase not in self.seconds:
            needs = {"phase1": "segmenter", "phase2": "phase1", "weighted": "phase1"}
            if phase in needs:
                self.whole(needs[phase])
            started = time.monotonic()
            finish(partial(self.train, phase, path))
            self.seconds[phase] = time.monotonic() - started
        return path

    def kill_at_some_time(self, phase: str, path: Path) -> str:
        "Kill it from outside, anywhere between its first file and its last"
        share = self.random.uniform(0.02, 0.95)
        while True:
            child = forked(partial(self.train, phase, path))
            while not (path / "process.json").exists():  # it opens its data first
                time.sleep(0.002)
            time.sleep(share * 0.8 * self.seconds[phase])
            os.kill(child, signal.SIGKILL)
            if ended(child) == -signal.SIGKILL:
                return f"{share:.0%} of its time"
            shutil.rmtree(path)  # it was quicker than the clock: sooner, then
            share *= 0.6

    def kill_at(self, point: str, phase: str, path: Path) -> str:
        "Let it kill itself inside the writing of a checkpoint"
        count = self.random.randint(1, 3)
        child = forked(partial(self.train, phase, path, lambda: POINTS[point](count)))
        code = ended(child)
        if code != -signal.SIGKILL:
            raise AssertionError(
                f"{phase} never came to {point!r} number {count}: it ended, {code}"
            )
        return f"{point}, number {count}"

    def kill(self, phase: str, point: str | None) -> None:
        "Kill one training, resume it, compare"
        whole, path = self.whole(phase), self.root / f"killed{len(self.moments)}"
        if point is None:
            where = self.kill_at_some_time(phase, path)
        else:
            where = self.kill_at(point, phase, path)
        stood = newest(path)
        finish(partial(self.train, phase, path))
        wrong = differences(whole, path)
        self.moments.append({"phase": phase, "where": where, "step": stood, "wrong": wrong})
        if not wrong:
            shutil.rmtree(path)


def newest(path: Path) -> int:
    "Step of the newest checkpoint that was there after the kill"
    found = state.checkpoints(path / "checkpoints")
    return int(found[-1].name) if found else 0


def told(path: Path) -> list:
    "What a run told of its losses"
    return [(r["step"], r["updates"], r["stats"]) for r in record.read_metrics(path)]


def differences(whole: Path, path: Path) -> list[str]:
    "What is not as in the unbroken run"
    a, b = (state.checkpoints(p / "checkpoints")[-1] for p in (whole, path))
    names = sorted(p.name for p in a.iterdir())
    if names != sorted(p.name for p in b.iterdir()) or a.name != b.name:
        return [f"{b} holds other files than {a}"]
    wrong = [n for n in names if n not in KEPT and (a / n).read_bytes() != (b / n).read_bytes()]
    facts = [json.loads((p / "state.json").read_text()) for p in (a, b)]
    wrong += ["state.json"] if facts[0] != facts[1] else []
    wrong += ["metrics.jsonl"] if repr(told(whole)) != repr(told(path)) else []
    left = [p.name for p in (path / "checkpoints").iterdir() if not p.name.isdigit()]
    wrong += [f"left behind: {name}" for name in left]
    return wrong


def schedule(kills: int, source: random.Random) -> list[tuple[str, str | None]]:
    "Phases in turn, from a kill at a random time to one at each point and back"
    turns = {2: "weighted", 11: "weighted"}  # phase 2 has two schedules, and both meet both kinds
    phases = [turns.get(k % 12, PHASES[k % 3]) for k in range(kills)]
    points = list(POINTS)
    source.shuffle(points)
    inside = [k for k in range(kills) if k % 2 == 1]
    chosen = {k: points[i % len(points)] for i, k in enumerate(inside)}
    return [(phase, chosen.get(k)) for k, phase in enumerate(phases)]


def soak(root: Path, kills: int, seed: int, steps: int = 6) -> Soak:
    "Kill so many trainings"
    lesson_world()
    made = Soak(root, random.Random(seed), steps)
    for phase, point in schedule(kills, random.Random(seed)):
        made.kill(phase, point)
        one, number = made.moments[-1], len(made.moments)
        told_so = ", ".join(one["wrong"]) or "the same bits"
        print(
            f"{number:3} {one['phase']:9} killed at {one['where']:38} "
            f"(stood at step {one['step']}): {told_so}",
            flush=True,
        )
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        moments = soak(Path(folder), args.kills, args.seed).moments
    good = sum(not m["wrong"] for m in moments)
    inside = sum("number" in m["where"] for m in moments)
    phases = {p: sum(m["phase"] == p for m in moments) for p in PHASES}
    counts = ", ".join(f"{name} {count}" for name, count in phases.items())
    print(f"{good} of {len(moments)} resumed to the same bits; {counts}; {inside} inside writing")
    return int(good < len(moments))


if __name__ == "__main__":
    sys.exit(main())
