"""Steps through `torch.compile` against plain ones: values, speed, and how long compiling takes.

Both trainings of a kind start from the same weights on the same held batch, take turns, and must
say the same losses to 1e-4. `compile` in the settings is off unless this says it wins.
"""

import argparse
import sys
import time
from pathlib import Path

import torch
from held import Phase1, Phase2, make_phase, step
from measure import announce, head, in_turn, ratios, show, wait, write

from s3net.base.config import Config, preset
from s3net.nets.compiled import check_compile, compiled
from s3net.train.runs import compilable

NUMBERS = {"phase1": 0, "supervised": 0, "self": 1}  # kind of step -> one of its numbers
CLOSE = 1e-4


def losses(phase: Phase1 | Phase2, number: int) -> list[float]:
    "What the updates of a step lose, before anything moves"
    return [update.loss(0).total.item() for update in phase.updates(number)]


def compare(
    kind: str,  # phase1, supervised or self
    cfg: Config,  # preset and batch
    device: torch.device,
    rounds: int,  # of each, in turn
    how: str = "on",  # on or graphs
    backend: str = "inductor",
    bf16: bool = False,
) -> dict:  # times, ratio, seconds of compiling, difference of the losses
    "One kind of step, plain and compiled, in turn"
    phase_kind = "phase1" if kind == "phase1" else "phase2"
    plain, quick = (make_phase(phase_kind, cfg, device) for _ in range(2))
    cast = torch.autocast(device.type, dtype=torch.bfloat16) if bf16 else None
    number = NUMBERS[kind]
    with compiled(compilable(quick), how, backend):
        want, found = losses(plain, number), losses(quick, number)
        off = max(abs(b / a - 1) for a, b in zip(want, found, strict=True))
        if off > CLOSE:
            raise SystemExit(f"{kind}, compiled, loses {found} instead of {want}; an error of ours")
        started = time.perf_counter()
        step(quick, number, cast)
        wait(device)
        first = time.perf_counter() - started
        variants = {"plain": lambda: step(plain, number, cast)}
        variants |= {"compiled": lambda: step(quick, number, cast)}
        times = in_turn(variants, rounds, device)
    found = {"times": times, "ratio": ratios(times, "plain", "compiled"), "difference": off}
    return found | {"seconds of the first step": first}


def figures(cfg: Config, device: torch.device, rounds: int, backend: str = "inductor") -> dict:
    "Every kind of step, in every way this device has"
    ways = {"on": ("on", False)}
    if device.type == "cuda":
        ways |= {"on, bf16": ("on", True), "graphs, bf16": ("graphs", True)}
    found = {}
    for kind in NUMBERS:
        for name, (how, bf16) in ways.items():
            check_compile(how, device)
            found[f"{kind}, {name}"] = compare(kind, cfg, device, rounds, how, backend, bf16)
    return found


def tell(found: dict) -> None:
    "Print what `figures` found"
    rows = []
    for name, one in found.items():
        times = [f"{1000 * one['times'][way]['wall']:.0f}" for way in ("plain", "compiled")]
        ratio = [f"{one['ratio'][clock]:.2f} x" for clock in ("wall", "processor")]
        last = f"{one['difference']:.0e}", f"{one['seconds of the first step']:.0f}"
        rows.append((name, *times, *ratio, *last))
    names = ("step", "plain, ms", "compiled, ms", "quicker, wall", "quicker, processor")
    show("torch.compile", rows, (*names, "difference of losses", "first step, s"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cpu")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--batch", type=int, help="default: the preset's")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[*NUMBERS], help="kinds of step")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/compiled.json"))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is visible to torch here; use --device cpu", file=sys.stderr)
        return 2
    if args.device == "cpu":
        torch.set_num_threads(1)
    changes = {"batch": args.batch} if args.batch else {}
    cfg = preset(args.preset, device=args.device, pose_steps=0, **changes)
    for kind in set(NUMBERS) - set(args.only or NUMBERS):
        del NUMBERS[kind]
    about = head(args.device)
    announce(about)
    found = figures(cfg, torch.device(args.device), args.rounds)
    tell(found)
    write(args.out, about, {"preset": args.preset, "batch": cfg.batch, "steps": found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
