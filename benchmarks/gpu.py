"""One GPU, no network: how fast both phases and inference are, and how near to the card's limit.

`benchmarks/gpu.sh` runs this. Networks, batches and losses are those of a preset; batches lie on
the device, so what is timed is the step alone. Every variant runs in turn with the plain one:
float32, contiguous memory. `--device cpu --quick` runs the same code at the smallest size, to test
it where there is no GPU.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import compiled
import losses
import torch
from growth import counted
from held import make_phase, make_real, step
from measure import announce, head, in_turn, show, wait, write

from s3net.base.config import Config, preset
from s3net.train.loop import Attempts, make_accelerator
from s3net.train.networks import build_nets
from s3net.train.sources import segment, semantics_of
from s3net.train.state import place

SYNTHETIC, REAL = 20_470, 41_738  # images of the paper's two sides (PROTOCOLS 5.4)
NO_GPU = "no CUDA device is visible to torch here; run this on a machine with an NVIDIA GPU"


def memory_of(work: Callable[[], object], device: torch.device) -> int | None:
    "Peak bytes on a GPU; None elsewhere, where they are not counted"
    if device.type != "cuda":
        work()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    work()
    wait(device)
    return torch.cuda.max_memory_allocated()


def matrix_rate(device: torch.device, side: int, rounds: int) -> float:
    "Multiplications and additions a second of a large product in bf16, the best of some rounds"
    a = torch.rand(side, side, device=device, dtype=torch.bfloat16)
    many = 10
    times = in_turn({"product": lambda: [a @ a for _ in range(many)]}, rounds, device)
    return many * 2 * side**3 / times["product"]["wall"]


def steps(kind: str, cfg: Config, device: torch.device, rounds: int) -> dict[str, dict]:
    "Times and memory of a step of a kind: plain, and as trained with precision=bf16"
    numbers = {"phase1": 0, "supervised": 0, "self": 1}
    phase_kind = "phase1" if kind == "phase1" else "phase2"
    phase, plain = (make_phase(phase_kind, cfg, device) for _ in range(2))
    for net in plain.nets.values():
        net.to(memory_format=torch.contiguous_format)
    cast = torch.autocast(device.type, dtype=torch.bfloat16)
    variants = {
        "plain float32": lambda: step(plain, numbers[kind]),
        "channels last, float32": lambda: step(phase, numbers[kind]),
        "channels last, bf16": lambda: step(phase, numbers[kind], cast),
    }
    peak = {name: memory_of(work, device) for name, work in variants.items()}
    times = in_turn(variants, rounds, device)
    flops = counted(phase_kind, cfg, (numbers[kind],))["flops"]
    return {
        name: {
            "seconds": t["wall"],
            "images a second": cfg.batch / t["wall"],
            "operations a second": flops / t["wall"],
            "peak bytes": peak[name],
        }
        for name, t in times.items()
    }


def waits(kind: str, cfg: Config, device: torch.device) -> int | None:
    "How often a step of each kind of update, the loop's guard included, waits for the GPU"
    own = replace(cfg, shares_every=0, steps=5)  # of five steps two are warm, none is the last
    phase = make_phase(kind, own, device)
    attempts = Attempts(phase, own, make_accelerator(own), late=True)

    def two() -> None:
        for _ in range(2):
            attempts.step()
            phase.state.step += 1

    two()
    if device.type != "cuda":
        return two()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        two()
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in said)


def inference(cfg: Config, device: torch.device, batches: tuple[int, ...], rounds: int) -> dict:
    "Frames a second of f_T, alone and behind S_seg, in both precisions"
    found = {}
    for name, semantics in (("alone", "none"), ("with S_seg", "depth")):
        own = preset(cfg.preset, semantics=semantics)
        nets = build_nets(own, ("depth", "segmenter"))
        for net in nets.values():
            place(net, device).eval()
        label = segment(nets["segmenter"], device)

        def look(image: torch.Tensor, bf16: bool, nets=nets, label=label, own=own) -> None:
            with (
                torch.inference_mode(),
                torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16),
            ):
                labels = label(image).to(device) if own.semantics != "none" else None
                nets["depth"](image, semantics_of(labels))

        for batch in batches:
            sized = preset(cfg.preset, batch=batch)
            image = make_real(sized, device).image_tgt
            variants = {
                "float32": lambda image=image, look=look: look(image, False),
                "bf16": lambda image=image, look=look: look(image, True),
            }
            times = in_turn(variants, rounds, device)
            rates = {kind: batch / t["wall"] for kind, t in times.items()}
            found[f"{name}, batch {batch}"] = rates
    return found


def tell(found: dict) -> None:
    "Print every table"
    rows = []
    for kind, variants in found["steps"].items():
        for name, one in variants.items():
            share = one["operations a second"] / found["matrix rate"]
            peak = one["peak bytes"]
            memory = "not counted" if peak is None else f"{peak / 2**30:.2f}"
            tera = f"{one['operations a second'] / 1e12:.2f}"
            rate = f"{one['images a second']:.1f}"
            rows.append(
                (kind, name, f"{1000 * one['seconds']:.1f}", rate, tera, f"{share:.0%}", memory)
            )
    names = (
        "step",
        "variant",
        "ms",
        "images a second",
        "TFLOP/s",
        "of the matrix rate",
        "peak, GiB",
    )
    show(f"steps, batch {found['batch']}, {found['preset']}", rows, names)
    minutes = [(name, f"{value:.1f}") for name, value in found["epoch minutes"].items()]
    show(f"an epoch, bf16: {SYNTHETIC:,} synthetic, {REAL:,} real images", minutes, ("", "minutes"))
    rows = [(k, *(f"{v:.0f}" for v in rates.values())) for k, rates in found["inference"].items()]
    show("inference, frames a second", rows, ("", "float32", "bf16"))
    told = {k: "not counted" if v is None else v for k, v in found["waits"].items()}
    show("waits for the device in a step of either update", [*told.items()], ("", "waits"))
    compiled.tell(found["compiled"])


def measure(name: str, device: torch.device, quick: bool) -> dict:
    "All figures"
    rounds = 2 if quick else 9
    cfg = preset(name, device=device.type, pose_steps=0)
    if quick:
        cfg = preset(name, device=device.type, pose_steps=0, batch=1, alpha_scale=0)
    size, batch = (cfg.size, 1) if quick else (losses.PAPER, 4)
    found = {"preset": name, "batch": cfg.batch, "size": cfg.size}
    found["loss block"] = losses.block(size, batch, rounds, device)
    losses.tell(found["loss block"])
    found["matrix rate"] = matrix_rate(device, 256 if quick else 8192, rounds)
    kinds = ("phase1", "supervised", "self")
    found["steps"] = {kind: steps(kind, cfg, device, rounds) for kind in kinds}
    best = {k: v["channels last, bf16"]["images a second"] for k, v in found["steps"].items()}
    first, second = SYNTHETIC / best["phase1"], SYNTHETIC / best["supervised"] + REAL / best["self"]
    found["epoch minutes"] = {"phase 1": first / 60, "phase 2": second / 60}
    found["inference"] = inference(cfg, device, (1, 2) if quick else (1, 32), rounds)
    found["waits"] = {kind: waits(kind, cfg, device) for kind in ("phase1", "phase2")}
    backend = "aot_eager" if quick else "inductor"  # to write code takes longest
    found["compiled"] = compiled.figures(cfg, device, rounds, backend)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--preset", help="default: paper, with --quick tiny")
    parser.add_argument("--quick", action="store_true", help="smallest sizes, two rounds: a test")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/gpu.json"))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    device = torch.device(args.device)
    about = head(device)
    announce(about)
    found = measure(args.preset or ("tiny" if args.quick else "paper"), device, args.quick)
    tell(found)
    write(args.out, about, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
