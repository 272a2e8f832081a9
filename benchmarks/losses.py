"""The self-supervised loss of phase 2, ours against the field's way, value and gradient."""

import torch
import torch.nn.functional as F
from measure import in_turn, ratios, show
from reference import phase2_block
from torch import Tensor

from s3net.geometry.camera import camera_from_fov
from s3net.geometry.motion import motion
from s3net.losses.objective import Clip, phase2_objective

PAPER = (192, 640)


def make_clip(
    size: tuple[int, int],  # (height, width) pixels
    batch: int,  # clips
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[Clip, list[Tensor]]:  # a clip, and what its loss has gradients for
    "Textured frames, smooth depth at four scales for each, and small motions"
    g = torch.Generator().manual_seed(0)

    def smooth(channels: int, step: int, shape: tuple[int, int] = size) -> Tensor:
        few = torch.rand(batch, channels, -(-size[0] // step), -(-size[1] // step), generator=g)
        return F.interpolate(few, shape, mode="bilinear", align_corners=False)

    def frame() -> Tensor:
        return sum(step * smooth(3, step) for step in (1, 4, 16)) / 21

    def codes() -> list[Tensor]:
        shapes = [(size[0] >> s, size[1] >> s) for s in range(4)]
        made = [0.6 * smooth(1, 32, shape) - 0.8 for shape in shapes]
        return [x.to(device, dtype).requires_grad_() for x in made]

    target = frame()
    sources = [0.97 * target.roll(shift, 3) + 0.03 * frame() for shift in (-3, 3)]
    six = torch.tensor([[0.002, -0.01, 0.001, -0.15, 0.01, -0.5]])
    six = torch.stack([six, -six]).repeat(1, batch, 1).to(device, dtype).requires_grad_()
    target, *sources = (x.to(device, dtype) for x in (target, *sources))
    coded = [codes() for _ in range(3)]
    K = camera_from_fov(80.0, size).expand(batch, 3, 3).to(device, dtype)
    poses = [motion(s[:, :3], s[:, 3:]) for s in six]
    clip = Clip(target, sources, coded[0], coded[1:], poses, K)
    return clip, [six, *(c for some in coded for c in some)]


def ours(clip: Clip) -> Tensor:
    "Eq. 10 as the training computes it"
    return phase2_objective({"mask": 1.0}, clip, scales=4).total


def theirs(clip: Clip) -> Tensor:
    "Eq. 10 as the field writes it"
    return phase2_block(*clip[:6])


def agreement(size: tuple[int, int], batch: int = 1) -> dict[str, float]:
    "Relative differences: of the value as trained, of value and gradient in double precision"
    found = {}
    for kind in (torch.float32, torch.float64):
        clip, leaves = make_clip(size, batch, dtype=kind)
        a, b = ours(clip), theirs(clip)
        name = str(kind).removeprefix("torch.")
        found[f"value, {name}"] = abs(a.item() / b.item() - 1)
    slopes = [torch.autograd.grad(v, leaves, retain_graph=True) for v in (a, b)]
    off = max(((x - y).norm() / y.norm()).item() for x, y in zip(*slopes))
    return found | {"gradient, float64": off}


def block(size: tuple[int, int], batch: int, rounds: int, device: torch.device | str) -> dict:
    "Forward and backward of both, in turn"
    clip, leaves = make_clip(size, batch, device)
    step = lambda loss: torch.autograd.grad(loss(clip), leaves, retain_graph=True)  # noqa: E731
    variants = {"reference": lambda: step(theirs), "s3net": lambda: step(ours)}
    times = in_turn(variants, rounds, device)
    same = agreement((size[0] // 2, size[1] // 2))
    if max(same.values()) > 1e-4:
        raise SystemExit(f"ours and the reference differ by more than 1e-4: {same}")
    ratio = ratios(times, "reference", "s3net")
    return {"size": size, "batch": batch, "times": times, "ratio": ratio, "difference": same}


def tell(found: dict) -> None:
    "Print what `block` found"
    rows = [
        (name, *(f"{1000 * t[c]:.0f}" for c in ("wall", "processor")))
        for name, t in found["times"].items()
    ]
    rows.append(("reference / s3net", *(f"{found['ratio'][c]:.2f} x" for c in found["ratio"])))
    height, width = found["size"]
    title = (
        f"loss of phase 2, {width}×{height}, batch {found['batch']}, two sources, four scales, "
        "both directions, forward and backward; "
        f"differs by {max(found['difference'].values()):.0e}"
    )
    show(title, rows, ("", "wall, ms", "processor, ms"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    tell(block(PAPER, 2, 5, "cpu"))
