"""What a step costs beside networks, losses and optimisers, and how long it waits for its data.

A training of phase 2 runs through the real loop with the real hooks, its data from the lessons'
world. Every part has a stopwatch: batches, forward pass and loss, backward pass, optimisers. What
is left of the time between two steps is the loop's own: guard, rates, hooks, records. With one
sample a step, a step is cheaper than at the preset's batch and the loop's own part is the same, so
its share is an upper bound. Snapshots, checkpoints and gradient shares are rare and have a table of
their own (`benchmarks/recording.py`).
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from measure import show

from s3net.base.config import Config, preset
from s3net.data.miniworld import lesson_world
from s3net.train.loop import Event, Update, make_accelerator, train
from s3net.train.networks import build_nets
from s3net.train.phase2 import Phase2, phase2_state
from s3net.train.record import standard_hooks, start_run
from s3net.train.sources import real_dataset, stream, synthetic_dataset

CLOCKS = {"wall": time.perf_counter, "processor": time.thread_time}  # of the training's thread


class Stopwatch:
    "Seconds by part and clock"

    def __init__(self) -> None:
        self.spent = {name: defaultdict(float) for name in CLOCKS}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        "Add the time of a block to a part"
        started = {clock: read() for clock, read in CLOCKS.items()}
        yield
        for clock, read in CLOCKS.items():
            self.spent[clock][name] += read() - started[clock]

    def timed(self, name: str, work: Callable) -> Callable:
        "A function that adds its time to a part"

        def run(*args: object, **kwargs: object) -> object:
            with self.part(name):
                return work(*args, **kwargs)

        return run


class WatchedPhase(Phase2):
    "Phase 2 with a stopwatch in its updates"

    watch: Stopwatch

    def updates(self, step: int) -> list[Update]:
        "The same updates, timed"
        found = super().updates(step)
        return [replace(u, loss=self.watch.timed("forward and data", u.loss)) for u in found]


def watched(cfg: Config, watch: Stopwatch) -> WatchedPhase:
    "A training whose parts are timed"
    sides = {"synthetic": synthetic_dataset(cfg), "real": real_dataset(cfg)}
    streams = {name: stream(data, cfg, name) for name, data in sides.items()}
    for one in streams.values():
        for step in range(cfg.steps):
            one.batch(step)  # decoded once, as after the first epoch of a training
        one.batch = watch.timed("data", one.batch)
    nets = build_nets(cfg, ("translator", "depth"))
    state = phase2_state(cfg)
    given = {"translator": nets["translator"], "anchor": nets["depth"] if cfg.alpha_scale else None}
    phase = WatchedPhase(cfg, state, **streams, **given)
    phase.watch = watch
    for optimiser in state.optimisers.values():
        optimiser.step = watch.timed("optimisers", optimiser.step)
        optimiser.zero_grad = watch.timed("optimisers", optimiser.zero_grad)
    return phase


def shares(name: str = "small", steps: int = 7, **changes: object) -> dict:
    "Shares of the steps between the first and the last, by two clocks"
    world = lesson_world()
    sides = {"synthetic": str(world / "vkitti2"), "real": str(world / "kitti_raw")}
    own = dict(steps=steps, shares_every=0, device="cpu", threads=1)
    cfg, watch, marks = preset(name, **(sides | own | changes)), Stopwatch(), []
    phase, accelerator = watched(cfg, watch), make_accelerator(cfg)
    accelerator.backward = watch.timed("backward", accelerator.backward)

    def mark(event: Event) -> None:
        now = {clock: read() for clock, read in CLOCKS.items()}
        marks.append((now, {c: dict(some) for c, some in watch.spent.items()}))

    with tempfile.TemporaryDirectory() as folder:
        run = start_run(Path(folder) / "run", "phase2", cfg)
        hooks = standard_hooks(run, cfg, 0, name)
        train(phase, cfg, accelerator, [*hooks, mark])
        for hook in hooks:
            if hasattr(hook, "close"):
                hook.close()
    return {"preset": name, "batch": cfg.batch, "size": cfg.size, "steps": steps} | _between(marks)


def _between(marks: list) -> dict[str, dict[str, float]]:
    "From the end of the first step to that of the last but one; at the last, all is written down"
    (began, before), (ended, after) = marks[0], marks[-2]
    found = {}
    for clock in CLOCKS:
        whole = ended[clock] - began[clock]
        parts = {k: v - before[clock].get(k, 0.0) for k, v in after[clock].items()}
        parts["forward and loss"] = parts.pop("forward and data") - parts["data"]
        parts["loop"] = whole - sum(parts.values())
        found[clock] = {"step": whole / (len(marks) - 2)}
        found[clock] |= {part: value / whole for part, value in parts.items()}
    return found


def tell(found: dict) -> None:
    "Print what `shares` found"
    parts = ("forward and loss", "backward", "optimisers", "data", "loop")
    rows = [(part, *(f"{100 * found[clock][part]:.2f} %" for clock in CLOCKS)) for part in parts]
    both = [100 * (found[clock]["data"] + found[clock]["loop"]) for clock in CLOCKS]
    rows.append(("all that is not network, loss or optimiser", *(f"{v:.2f} %" for v in both)))
    rows.append(("a step", *(f"{1000 * found[clock]['step']:.0f} ms" for clock in CLOCKS)))
    height, width = found["size"]
    title = f"a step of phase 2, preset {found['preset']}, {width}×{height}, batch {found['batch']}"
    show(title, rows, ("", "wall", "processor"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    tell(shares(batch=1))
