"""`make bench`: how fast the parts are here, with the machine and the commit they were measured on.

Medians, milliseconds, one thread. The last column is the ratio that matters: against kornia's
equivalent for the warp, frames a second for the renderer.
"""

import argparse
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import date

import torch
from kornia.geometry.depth import warp_frame_depth

from s3net.data.miniworld import example_clip
from s3net.geometry.camera import camera_from_fov
from s3net.geometry.warp import view_warp
from s3net.losses.photometric import photometric_error
from s3net.nets.depth import UNetDepth
from s3net.nets.translator import Translator

SIZES = ((64, 192), (192, 640))


def median_ms(work: Callable[[], object], repeats: int) -> float:
    "Median time of a call, after one to warm up"
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def step(net: torch.nn.Module, image: torch.Tensor) -> None:
    "Forward and backward through a network"
    result = net(image)
    (result if isinstance(result, torch.Tensor) else result.depth).mean().backward()


def per_image(milliseconds: float) -> str:
    return f"{milliseconds / 4:.0f} ms an image"


def rows(size: tuple[int, int], repeats: int) -> list[tuple[str, float, str]]:
    "What was measured, its median, and its ratio"
    g = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, *size, generator=g)
    depth = 5 + 20 * torch.rand(4, 1, *size, generator=g)
    K = camera_from_fov(80.0, size).expand(4, 3, 3)
    T = torch.eye(4).repeat(4, 1, 1)
    T[:, 2, 3] = -0.5
    ours = median_ms(lambda: view_warp(image, depth, T, K), repeats)
    kornias = median_ms(lambda: warp_frame_depth(image, depth, T, K), repeats)
    error = median_ms(lambda: photometric_error(image, image.flip(3)), repeats)
    few, nets = max(1, repeats // 5), (UNetDepth(width=16), Translator(width=16))
    unet, translator = (median_ms(lambda net=net: step(net, image), few) for net in nets)
    render = median_ms(lambda: example_clip(size=size, frames=6), few) / 6
    return [
        ("view warp, batch 4", ours, f"{ours / kornias:.2f} x kornia"),
        ("photometric error, batch 4", error, f"{error / ours:.2f} x view warp"),
        ("U-Net width 16, forward and backward, batch 4", unet, per_image(unet)),
        ("translator width 16, forward and backward, batch 4", translator, per_image(translator)),
        ("miniworld, one frame with all its truth", render, f"{1000 / render:.1f} frames a second"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of each part")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no commit"
    print(f"{date.today()}, {commit}, {platform.machine()}, torch {torch.__version__}\n")
    print("| part | size | median ms | |\n|---|---|---|---|")
    for size in SIZES:
        for name, milliseconds, ratio in rows(size, repeats):
            print(f"| {name} | {size[1]}×{size[0]} | {milliseconds:.1f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
