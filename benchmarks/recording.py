"""What recording costs a training, by the training's own clock.

A segmenter alone, or phase 1 and perhaps phase 2 after it, are trained on the lessons' world at the
size and width of a preset. Their records tell how long the hooks held each step up; a stopwatch
around each hook tells what one record, one snapshot and one checkpoint cost, and the gradient
shares tell their own time. From these follows the share of a step at the preset's intervals. Under
500 steps everything is written down more often than the preset asks, so that there is something to
measure. With batch=1 a step is cheaper and a record costs almost the same, so its share is an upper
bound.

The thread that draws pictures works beside the training. What it needs of a processor is printed
apart: where every core trains, it is paid for too.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from collections import defaultdict
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

import s3net.train.runs as runs
from s3net.base.config import PRESETS, Config, override, preset
from s3net.data.miniworld import lesson_world
from s3net.train.loop import Event, Hook
from s3net.train.record import Run, read_metrics

OFTEN = dict(log_every=1, snapshot_every=5, shares_every=5, checkpoint_every=10)
INTERVALS = {
    "MetricsHook": "log_every",
    "SnapshotHook": "snapshot_every",
    "CheckpointHook": "checkpoint_every",
}


class Watched:
    "A hook with a stopwatch; on a GPU also counts how often it waited for the device"

    def __init__(self, hook: Hook, cfg: Config, times: dict, waits: list[int]) -> None:
        self.hook, self.cfg, self.times, self.waits = hook, cfg, times, waits
        self.name = type(hook).__name__
        self.every = getattr(cfg, INTERVALS[self.name]) if self.name in INTERVALS else 0
        self.close = getattr(hook, "close", lambda: None)

    def __call__(self, event: Event) -> None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            started = time.perf_counter()
            self.hook(event)
            spent = time.perf_counter() - started
        self.times[self.name if event.due(self.every) else "every step"].append(1000 * spent)
        if not event.due(self.cfg.snapshot_every) and self.name != "CheckpointHook":
            self.waits.append(sum("synchroniz" in str(w.message) for w in said))


def train(kind: str, cfg: Config, path: Path, minutes: float) -> tuple[Run, dict, list[int]]:
    "One training with every hook watched; ends early, by a STOP file, when the time is over"
    times, waits, standard = defaultdict(list), [], runs.standard_hooks
    began = time.monotonic()

    def in_time(event: Event) -> None:
        if time.monotonic() - began > 60 * minutes:
            (path / "STOP").touch()

    runs.standard_hooks = lambda *given: [
        Watched(hook, cfg, times, waits) for hook in standard(*given)
    ]
    try:
        if torch.cuda.is_available() and cfg.device != "cpu":
            torch.cuda.set_sync_debug_mode("warn")
        run = runs.RUNS[kind](cfg, path, hooks=[in_time])
    finally:
        runs.standard_hooks = standard
    return run, times, waits


def of_records(records: list[dict]) -> dict[str, float]:
    "Milliseconds of a step, and of what held it up, from the run's own records"
    first, rest = records[0], records[1:]
    steps = records[-1]["step"] - first["step"]
    recording, sharing = (sum(r.get(k, 0.0) for r in rest) for k in ("recording", "sharing"))
    alone = records[-1]["time"] - first["time"] - recording - sharing
    background = sum(r["background"] for r in rest)
    parts = dict(step=alone, recording=recording, sharing=sharing, background=background)
    return {name: 1000 * seconds / steps for name, seconds in parts.items()}


def rows(kind: str, run: Run, times: dict, asked: Config) -> list[tuple[str, float, int, float]]:
    "What was measured, milliseconds, its interval in the preset, percent of a step at that"
    told = of_records(read_metrics(run.path))
    step, own = told["step"], {"every step": 1}
    own |= {name: getattr(asked, field) for name, field in INTERVALS.items()}
    found = [(f"{kind}: a step alone", step, 1, 100.0)]
    for name, every in own.items():
        if times[name] and every:
            once = sum(times[name]) / (run_steps(run) if every == 1 else len(times[name]))
            found.append((f"{name}, holding up", once, every, 100 * once / every / step))
    records = [r for r in read_metrics(run.path) if "sharing" in r]
    if records and asked.shares_every:
        once = 1000 * statistics.median(r["sharing"] for r in records)
        share = 100 * once / asked.shares_every / step
        found.append(("gradient shares", once, asked.shares_every, share))
    drawn = len(times["SnapshotHook"])
    if drawn and told["background"] and asked.snapshot_every:
        once = told["background"] * run_steps(run) / drawn
        share = 100 * once / asked.snapshot_every / step
        found.append(("a snapshot, in its thread", once, asked.snapshot_every, share))
    return found


def run_steps(run: Run) -> int:
    "Steps told"
    return read_metrics(run.path)[-1]["step"]


def settings(args: argparse.Namespace) -> Config:
    "The preset on the lessons' world"
    world = lesson_world()
    there = dict(synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"))
    base = preset(args.preset, **there, steps=args.steps, threads=args.threads)
    return override(base, args.settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=[*PRESETS], default="mini")
    parser.add_argument("--steps", type=int, default=60, help="of each phase")
    parser.add_argument("--minutes", type=float, default=60.0, help="of each phase, at most")
    parser.add_argument(
        "--phases", type=int, default=1, choices=(0, 1, 2), help="0: segmenter alone"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("settings", nargs="*", help="other settings, such as batch=1 device=cpu")
    args = parser.parse_args()
    os.environ.setdefault("TQDM_DISABLE", "1")
    asked = settings(args)
    base = asked if args.steps >= 500 else replace(asked, **OFTEN)
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no commit"
    print(f"{date.today()}, {commit}, torch {torch.__version__}, {args.threads} thread")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        given = replace(base, semantics="both", segmenter_run=str(root / "segmenter"))
        kinds = {"phase1": given, "phase2": replace(given, phase1_run=str(root / "phase1"))}
        if args.phases:
            runs.run_segmenter(replace(base, steps=1, snapshot_every=0), root / "segmenter")
        else:
            kinds = {"segmenter": base}
        for kind in list(kinds)[: args.phases or 1]:
            run, times, waits = train(kind, kinds[kind], root / kind, args.minutes)
            report(kind, run, times, waits, asked)


def report(kind: str, run: Run, times: dict, waits: list[int], asked: Config) -> None:
    "Print one training's table"
    told, cfg = of_records(read_metrics(run.path)), run.config
    size = f"{cfg.width}x{cfg.height}, batch {cfg.batch}"
    print(f"\n{kind}, preset {cfg.preset} ({size}), {run_steps(run)} steps")
    print(
        f"from the records, with log_every={cfg.log_every} snapshot_every={cfg.snapshot_every} "
        f"checkpoint_every={cfg.checkpoint_every}: recording {told['recording']:.1f} ms of a "
        f"{told['step']:.0f} ms step = {100 * told['recording'] / told['step']:.2f} %"
    )
    print("\n| | ms | every | % of a step |\n|---|---|---|---|")
    found = rows(kind, run, times, asked)
    for name, once, every, share in found:
        print(f"| {name} | {once:.2f} | {every} | {share:.3f} |")
    held = sum(share for name, *_, share in found if name.endswith(("holding up", "shares")))
    print(f"| all that holds the training up, at the preset's intervals | | | {held:.2f} |")
    skipped = read_metrics(run.path)[-1].get("skipped", 0)
    print(f"\n{skipped} snapshots skipped", end="")
    if torch.cuda.is_available() and cfg.device != "cpu":
        print(f"; waits for the device in hooks of steps without a snapshot: {sum(waits)}", end="")
    print(flush=True)


if __name__ == "__main__":
    main()
