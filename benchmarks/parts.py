"""How fast single parts are: warp against kornia, networks, the renderer.

Medians, one thread. The last column is the ratio that matters.
"""

import torch
from kornia.geometry.depth import warp_frame_depth
from measure import in_turn, show

from s3net.data.miniworld import example_clip
from s3net.geometry.camera import camera_from_fov
from s3net.geometry.warp import view_warp
from s3net.losses.photometric import photometric_error
from s3net.nets.depth import UNetDepth
from s3net.nets.translator import Translator

SIZE = (64, 192)


def step(net: torch.nn.Module, image: torch.Tensor) -> None:
    "Forward and backward through a network"
    result = net(image)
    (result if isinstance(result, torch.Tensor) else result.depth).mean().backward()


def measured(rounds: int) -> dict[str, float]:
    "Median milliseconds of every part by the processor's clock, and a ratio in words"
    g = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, *SIZE, generator=g)
    depth = 5 + 20 * torch.rand(4, 1, *SIZE, generator=g)
    K = camera_from_fov(80.0, SIZE).expand(4, 3, 3)
    T = torch.eye(4).repeat(4, 1, 1)
    T[:, 2, 3] = -0.5
    nets = {"U-Net": UNetDepth(width=16), "translator": Translator(width=16)}
    works = {
        "view warp": lambda: view_warp(image, depth, T, K),
        "view warp, kornia": lambda: warp_frame_depth(image, depth, T, K),
        "photometric error": lambda: photometric_error(image, image.flip(3)),
    }
    for name, net in nets.items():
        works[f"{name} width 16, forward and backward"] = lambda net=net: step(net, image[:1])
    works["miniworld, two frames"] = lambda: example_clip(size=SIZE, frames=2)
    times = in_turn(works, rounds)
    return {name: 1000 * t["processor"] for name, t in times.items()}


def tell(found: dict[str, float]) -> None:
    "Print what `measured` found"
    rows = []
    for name, milliseconds in found.items():
        ratio = ""
        if name == "view warp":
            ratio = f"{milliseconds / found['view warp, kornia']:.2f} x kornia's"
        elif name.startswith("miniworld"):
            ratio = f"{2000 / milliseconds:.1f} frames a second"
        rows.append((name, f"{milliseconds:.1f}", ratio))
    title = f"parts, {SIZE[1]}×{SIZE[0]}; warps and errors at batch 4, networks at batch 1"
    show(title, rows, ("", "processor, ms", ""))


if __name__ == "__main__":
    torch.set_num_threads(1)
    tell(measured(5))
