"""`make soak`: what `deterministic=true` costs, and that two runs with it end in the same bits.

python tools/bench_deterministic.py --steps 20
"""

import argparse
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from s3net.base.config import preset
from s3net.base.core import hash_file
from s3net.data.miniworld import lesson_world
from s3net.train.record import Run, read_metrics
from s3net.train.runs import RUNS


def bits(run: Run) -> dict[str, str]:
    "Hashes of the last weights"
    return {file.stem: hash_file(file) for file in sorted(run.checkpoint().glob("*.safetensors"))}


def compare(root: Path, steps: int, device: str = "cpu") -> list[dict]:
    "Each phase twice with determinism and once without: hashes, and the median step in seconds"
    world, rows, given = lesson_world(), [], {}
    cfg = preset(
        "tiny", synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"), device=device,
        threads=1, steps=steps, snapshot_every=0, shares_every=0, checkpoint_every=10**6,
    )  # fmt: skip
    for kind, train in RUNS.items():
        own, found, seconds = replace(cfg, **given), [], []
        for name, fixed in (("plain", False), ("first", True), ("second", True)):
            run = train(replace(own, deterministic=fixed), root / f"{kind}-{name}")
            found.append(bits(run))
            told = [r["seconds"] for r in read_metrics(run.path)][2:]
            seconds.append(statistics.median(told or [0.0]))
        rows.append({"kind": kind, "bits": found, "seconds": seconds})
        given = {
            "segmenter": {"segmenter_run": str(root / "segmenter-plain"), "semantics": "both"}
        }.get(kind, {"phase1_run": str(root / "phase1-plain"), "semantics": "both"})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args, wrong = parser.parse_args(), 0
    with tempfile.TemporaryDirectory() as folder:
        for row in compare(Path(folder), args.steps, args.device):
            plain, first, second = row["bits"]
            wrong += first != second
            cost = statistics.mean(row["seconds"][1:]) / max(row["seconds"][0], 1e-9)
            twice = "the same" if first == second else "OTHER"
            alike = "the same" if first == plain else "other"
            print(
                f"{row['kind']:10} {twice} bits twice, {alike} bits without; "
                f"{row['seconds'][0] * 1000:.1f} ms a step without, {cost:.2f} times that with it",
                flush=True,
            )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
