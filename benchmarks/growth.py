"""How time and memory of a step grow, what a preset needs, and how long the start takes.

Memory is counted, not sampled: the bytes of all tensors alive at the worst moment of a step, from
shapes alone, in the form in which a GPU runs it (all warps in one batch). To this come the weights
and Adam's two memories of each. An allocator adds its slack on top.

Time is held against the work: pixels for batch and height, multiplications for the width, since a
convolution's grow with its square. A step has a fixed part, which no size changes; so a line with
an offset is laid through the medians, and what is told is the largest distance from it.
"""

import gc
import os
import subprocess
import sys
from contextlib import nullcontext
from unittest.mock import patch

import torch
from held import make_phase, step, weights
from measure import LiveBytes, fit_line, in_turn, show
from torch.utils.flop_counter import FlopCounterMode

from s3net.base.config import Config, preset, with_changes
from s3net.data.miniworld import lesson_world

BASE = dict(
    height=96, width=192, batch=2, depth_width=16, pose_width=8, photometric_scales=4, alpha_scale=0
)
SIZES = {
    "batch": [dict(batch=n) for n in (1, 2, 4, 8, 16)],
    "height": [dict(height=n) for n in (96, 192, 288, 384)],
    "width": [dict(depth_width=n, pose_width=n // 2) for n in (16, 24, 32)],
}


def _self(**changes: object) -> Config:
    "Settings whose every step of phase 2 is a self-supervised one"
    return preset("mini", **(BASE | changes), alpha_task2=0, pose_steps=0, device="cpu")


def counted(kind: str, cfg: Config, steps: tuple[int, ...] = (0, 1)) -> dict[str, float]:
    "Bytes the larger of these steps needs, and the multiplications and additions of all"
    gc.collect()
    phase, most = make_phase(kind, cfg, "meta"), 0
    no_cast = patch.object(torch, "autocast", lambda *_, **__: nullcontext())  # unknown to meta
    with no_cast, FlopCounterMode(display=False) as flops:
        for number in steps:
            held = []
            with LiveBytes() as live:
                for update in phase.updates(number):
                    report = update.loss(0)
                    report.total.backward()
                    held.append(report._replace(total=report.total.detach(), parts={}))
            most = max(most, live.peak)
            for net in phase.nets.values():
                net.zero_grad(set_to_none=True)
    size = weights(phase)
    return {
        "activations": most,
        "weights": size["all"],
        "optimiser": 2 * size["learning"],
        "total": most + size["all"] + 2 * size["learning"],
        "flops": flops.get_total_flops(),
    }


STATED = {  # what is asked of a machine: name -> preset and changes
    "small": ("small", {}),
    "paper": ("paper", {}),
    "paper, batch=3 accumulate=2": ("paper", dict(batch=3, accumulate=2)),
}


def presets(names: tuple[str, ...] = (*STATED,)) -> dict[str, dict]:
    "Peak bytes of presets, both phases, also with activations computed twice"
    found = {}
    for name in names:
        base, changes = STATED.get(name, (name, {}))
        for kind, steps in (("phase1", (0,)), ("phase2", (0, 1))):
            cfg = preset(base, **(dict(pose_steps=0) | changes))
            forgetful = with_changes(cfg, dict(recompute=True))
            both = [counted(kind, one, steps) for one in (cfg, forgetful)]
            found[f"{name}, {kind}"] = {"batch": cfg.batch, "plain": both[0], "recompute": both[1]}
    return found


def _steps(changes: list[dict]) -> dict[str, object]:
    phases = {str(k): make_phase("phase2", _self(**one), "cpu") for k, one in enumerate(changes)}
    return {name: lambda p=phase: step(p, 0) for name, phase in phases.items()}


def growth(rounds: int, axes: tuple[str, ...] = ("batch", "height", "width")) -> dict[str, dict]:
    "Fixed part, slope and distance from the line, of time and of memory, for each axis"
    found = {}
    for axis in axes:
        sizes = SIZES[axis]
        times = in_turn(_steps(sizes), rounds)
        shapes = [counted("phase2", _self(**one), (0,)) for one in sizes]
        pixels = [_self(**one).batch * _self(**one).height for one in sizes]
        flops = [s["flops"] for s in shapes]
        work = flops if axis == "width" else pixels
        seconds = [t["processor"] for t in times.values()]
        memory = [s["activations"] for s in shapes]
        channels = [one["depth_width"] for one in sizes] if axis == "width" else pixels
        found[axis] = {"sizes": [next(iter(one.values())) for one in sizes]}
        for name, x, y in (("time", work, seconds), ("memory", channels, memory)):
            fixed, slope, off = fit_line(x, y)
            found[axis][name] = {
                "values": y, "fixed share": fixed / y[0], "slope": slope, "off the line": off,
            }  # fmt: skip
    return found


START = """
import os, time
began = time.perf_counter()
from s3net.base.config import preset
from s3net.train.runs import run_phase1
from s3net.base.process import began as process_began
cfg = preset("tiny", synthetic={synthetic!r}, real={real!r}, translate=False, device="cpu",
             threads=1, snapshot_every=0, checkpoint_every=4)
def told(event):
    print("started", time.time() - process_began(), time.process_time(), flush=True)
run_phase1(cfg, {path!r}, hooks=[told], until=1)
"""


def start_up(folder: str) -> dict[str, float]:
    "Seconds from a new process to the end of its first step, with every file read before"
    world, spent = lesson_world(), []
    places = {"synthetic": str(world / "vkitti2"), "real": str(world / "kitti_raw")}
    env = os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
    for number in range(2):  # the first fills the caches
        script = START.format(**places, path=f"{folder}/start{number}")
        command = [sys.executable, "-c", script]
        said = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
        words = next(line for line in said.splitlines() if line.startswith("started")).split()
        spent.append([float(word) for word in words[1:]])
    return dict(zip(("wall", "processor"), spent[-1]))


def tell_growth(found: dict[str, dict]) -> None:
    "Print what `growth` found"
    rows = []
    for axis, one in found.items():
        sizes = ", ".join(str(size) for size in one["sizes"])
        for name, unit in (("time", 1e3), ("memory", 1e-6)):
            t = one[name]
            values = ", ".join(f"{unit * v:.0f}" for v in t["values"])
            values += " ms" if name == "time" else " MB"
            shares = f"{t['fixed share']:.0%}", f"{t['off the line']:.0%}"
            rows.append((f"{axis} {sizes}", name, values, *shares))
    names = ("size", "", "a step of phase 2", "fixed part of the smallest", "off the line")
    show("growth: time against pixels (width: against multiplications)", rows, names)


def _more(one: dict) -> str:
    return f"{one['recompute']['flops'] / one['plain']['flops']:.2f} x"


def tell_presets(found: dict[str, dict]) -> None:
    "Print what `presets` found"
    gib = lambda one: f"{one['total'] / 2**30:.2f}"  # noqa: E731
    rows = [
        (name, one["batch"], gib(one["plain"]), gib(one["recompute"]), _more(one))
        for name, one in found.items()
    ]
    names = ("preset", "batch", "peak, GiB", "with recompute=true, GiB", "operations then")
    show("memory of a step, float32, from shapes: weights, Adam, activations", rows, names)


if __name__ == "__main__":
    torch.set_num_threads(1)
    tell_presets(presets())
    tell_growth(growth(3))
