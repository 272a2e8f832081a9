"""Scoring: the 697 frames of Eigen's split, ours against one numpy map after another.

Truth has the size and the density of a KITTI scan (1242x375, some 18,000 returns below the
horizon), predictions have the network's. A few different frames are scored over and over.
"""

import numpy as np
import torch
from measure import in_turn, ratios, show
from reference import depth_scores
from torch import Tensor

from s3net.data.samples import DepthSample
from s3net.eval.depth import METRICS, evaluate, get_protocol

FULL, NET, PROTOCOL = (375, 1242), (192, 640), "s3net80"


def frames(count: int) -> tuple[list[DepthSample], list[np.ndarray]]:
    "Samples with sparse truth, and predictions that miss it by some tenths"
    draw, samples, preds = np.random.default_rng(0), [], []
    for number in range(count):
        rows = np.linspace(0, 1, NET[0])[:, None]
        pred = 4 + 70 * (1 - rows) ** 2 + draw.normal(size=NET) * 0.3
        pred = pred.clip(1, 80).astype(np.float32)
        below = np.linspace(0, 1, FULL[0])[:, None]
        truth = (4 + 70 * (1 - below) ** 2) * draw.uniform(0.8, 1.2, size=FULL)
        hit = (draw.random(FULL) < 0.065) & (below > 0.4)
        truth = np.where(hit, truth, 0).astype(np.float32)
        samples.append(
            DepthSample(
                image=torch.full((3, 4, 4), float(number)),  # `predict` only asks which frame it is
                depth=torch.from_numpy(truth)[None],
                K=torch.eye(3),
            )
        )
        preds.append(pred)
    return samples, preds


def scores(total: int = 697, different: int = 12, slices: int = 9) -> dict:
    "Both ways over all frames, slice by slice in turn"
    samples, preds = frames(different)
    stored, protocol = torch.from_numpy(np.stack(preds)), get_protocol(PROTOCOL)

    def predict(images: Tensor) -> Tensor:
        return stored[images[:, 0, 0, 0].long()][:, None]

    share = -(-total // slices)
    chosen = [i % different for i in range(share)]
    found = {}

    def ours() -> None:
        mean = evaluate(predict, [samples[i] for i in chosen], protocol).mean
        found["s3net"] = [mean[name] for name in METRICS]

    def theirs() -> None:
        truths = [samples[i].depth[0].numpy() for i in chosen]
        found["reference"] = depth_scores([preds[i] for i in chosen], truths, 1.0, 80.0).tolist()

    times = in_turn({"reference": theirs, "s3net": ours}, slices, warm=0)
    for both in times.values():
        both.update({clock: value / share for clock, value in both.items()})
    off = max(abs(a - b) for a, b in zip(found["s3net"], found["reference"]))
    if off > 1e-4:
        raise SystemExit(f"our scores differ from the reference's by {off:.1e}, expected 1e-4")
    ratio = ratios(times, "reference", "s3net")
    return {"frames": total, "seconds a frame": times, "ratio": ratio, "difference": off}


def tell(found: dict) -> None:
    "Print what `scores` found"
    rows = [
        (name, *(f"{1000 * t[c]:.2f}" for c in ("wall", "processor")))
        for name, t in found["seconds a frame"].items()
    ]
    rows.append(("reference / s3net", *(f"{v:.1f} x" for v in found["ratio"].values())))
    title = f"scores of {found['frames']} frames, {PROTOCOL}; differ by {found['difference']:.0e}"
    show(title, rows, ("", "wall, ms a frame", "processor, ms a frame"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    tell(scores())
