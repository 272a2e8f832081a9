"""One pixel convention: centres are whole numbers, and every module that moves pixels agrees."""

import ast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT

from s3net.data.clips import side_camera
from s3net.data.loaders import flip_clip
from s3net.data.samples import RealClip
from s3net.eval.depth import sample_map
from s3net.geometry.camera import (
    camera_from_fov,
    camera_matrix,
    flip_pixels,
    pixel_grid,
    project,
    resize_camera,
    resize_pixels,
)
from s3net.geometry.image import resize_depth, resize_image, resize_labels, resize_map
from s3net.geometry.warp import sample

MODULES = sorted((ROOT / "s3net").rglob("*.py"))
SAMPLERS = {"interpolate": 3, "grid_sample": 2, "affine_grid": 2, "Upsample": 2}
WRITTEN = {"bilinear", "bicubic", "linear", "trilinear"}


def unwritten(source: str) -> list[int]:
    "Lines that call a sampler between pixels and leave align_corners to torch's default"
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {k.arg: k.value for k in node.keywords}
        mode = given.get("mode")
        exact = isinstance(mode, ast.Constant) and mode.value not in WRITTEN
        exact = exact and called != "grid_sample"  # nearest reads at places as well
        if called in SAMPLERS and not exact and "align_corners" not in given:
            lines.append(node.lineno)
    return lines


def test_align_corners_is_always_written_out():
    found = {f.relative_to(ROOT).as_posix(): unwritten(f.read_text("utf-8")) for f in MODULES}
    assert len(found) > 40 and not {name: lines for name, lines in found.items() if lines}


def test_the_search_finds_what_it_is_for():
    assert unwritten("F.interpolate(x, 3, mode='bilinear')") == [1]
    assert unwritten("y = 1\nF.grid_sample(x, g, mode='nearest')") == [2]
    assert not unwritten("F.interpolate(x, 3, mode='nearest')")
    assert not unwritten("F.interpolate(x, 3, mode='bilinear', align_corners=False)")


def ramps(size: tuple[int, int]) -> torch.Tensor:
    "(1,2,H,W) a picture whose values say where they are"
    return pixel_grid(size)


@pytest.mark.parametrize("size", [(12, 20), (48, 40), (9, 31)])
def test_resizing_obeys_the_rule(size):
    before = (24, 40)
    x, y = (
        resize_pixels(torch.arange(n), m / n) for n, m in zip(size[::-1], before[::-1], strict=True)
    )
    for resize, close in ((resize_image, 0.1), (resize_map, 1e-4)):  # smoothing is discrete
        made = resize(ramps(before), size)[0]
        inner = (slice(2, -2), slice(2, -2))  # the border repeats
        assert torch.allclose(made[0][inner], x[None].expand(size)[inner], atol=close)
        assert torch.allclose(made[1][inner], y[:, None].expand(size)[inner], atol=close)
    nearest = resize_labels(ramps(before)[:, 0].long(), size)[0, 0].float()
    assert (nearest - x).abs().max() <= 0.5 * max(1, before[1] / size[1])
    depth = resize_depth(ramps(before)[:, :1] + 1, size)[0, 0, 0] - 1
    assert (depth - x).abs().max() <= 0.5 * max(1, before[1] / size[1])


def test_evaluation_reads_maps_by_the_rule():
    small = torch.rand(1, 1, 8, 12, generator=torch.Generator().manual_seed(0)).double()
    large = F.interpolate(small, (37, 50), mode="bilinear", align_corners=False)[0, 0].numpy()
    rows, columns = (v.ravel() for v in np.indices((37, 50)))
    read = sample_map(small[0, 0].numpy(), rows, columns, (37, 50))
    assert np.allclose(read, large.ravel(), atol=1e-12)


def test_reading_between_pixels_starts_at_whole_numbers():
    picture = ramps((6, 9))
    values, inside = sample(picture, picture)
    assert torch.allclose(values, picture, atol=1e-5) and inside.all()
    values, _ = sample(picture, picture[..., :-1, :-1] + 0.25)
    assert torch.allclose(values, picture[..., :-1, :-1] + 0.25, atol=1e-5)
    assert not sample(picture, picture + 0.01)[1][..., -1].any()


def test_cameras_of_the_world_are_resized_by_the_rule():
    lenses = {"real": (721.5377, 721.5377, 609.5593, 172.854), "synthetic": (725, 725, 620.5, 187)}
    for side, numbers in lenses.items():
        for size in ((64, 192), (128, 416), (375, 1242)):
            ours = resize_camera(camera_matrix(*numbers).double(), (375, 1242), size)
            assert np.allclose(side_camera(side, size), ours.numpy(), atol=1e-4)


def test_a_point_stays_on_its_thing_through_resize_and_flip():
    K, size = camera_matrix(70.0, 71.0, 40.2, 20.7), (48, 96)
    point = torch.tensor([1.0, -0.4, 6.0]).view(1, 3, 1, 1)
    (x, y), small = project(point, K)[0][0, :, 0, 0].tolist(), (30, 42)
    moved = project(point, resize_camera(K, size, small))[0][0, :, 0, 0]
    assert torch.allclose(
        moved, torch.tensor([resize_pixels(x, 42 / 96), resize_pixels(y, 30 / 48)])
    )
    image = torch.zeros(3, *size)
    image[:, 16, 52] = 1
    clip = RealClip(image_prev=image, image_tgt=image, image_next=image, K=K)
    other = flip_clip(clip)
    assert other.image_tgt[0].nonzero().tolist() == [[16, flip_pixels(52, 96)]]
    assert abs(other.K[0, 2].item() - flip_pixels(40.2, 96)) < 1e-5
    assert torch.equal(flip_clip(other).K, K)


def test_a_centred_camera_is_centred_between_the_outer_centres():
    K = camera_from_fov(70, (10, 33))
    assert K[0, 2] == 16 and K[1, 2] == 4.5
    assert flip_pixels(K[0, 2].item(), 33) == 16
