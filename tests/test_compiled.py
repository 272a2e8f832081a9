"Trainings through torch.compile: the same losses and names, and sentences where it cannot be."

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

import s3net.train.runs as runs
from s3net.base.config import Config, preset
from s3net.base.core import InputError
from s3net.data.miniworld import lesson_world
from s3net.nets.blocks import pad_edges
from s3net.nets.compiled import compiled
from s3net.train.record import read_metrics
from s3net.train.runs import run_phase2
from s3net.train.state import checkpoints


def alone(**changes: object) -> Config:
    "Self-supervision from scratch, three steps"
    world = lesson_world()
    where = dict(synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"))
    quiet = dict(snapshot_every=0, shares_every=2, checkpoint_every=1, steps=3, alpha_task2=0.0)
    return preset("tiny", device="cpu", threads=1, **(where | quiet | changes))


def said(path: Path) -> list[float]:
    "The photometric loss of every step"
    return [r["updates"]["self"]["mask"][0] for r in read_metrics(path)]


def test_a_compiled_training_loses_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    "Without writing code, which takes longest: aot_eager does everything else"
    monkeypatch.setattr(runs, "compiled", partial(compiled, backend="aot_eager"))
    # Adam's first steps have one length: rounding turns those whose gradient is nearly 0
    short = dict(lr_depth=1e-4, lr_pose=3e-5)
    run_phase2(alone(**short), tmp_path / "plain")
    run_phase2(alone(compile="on", **short), tmp_path / "quick")
    one, other = (said(tmp_path / name) for name in ("quick", "plain"))
    assert one == pytest.approx(other, rel=1e-4)
    assert one[0] == pytest.approx(other[0], rel=1e-5)  # the same weights
    plain, quick = (checkpoints(tmp_path / n / "checkpoints")[-1] for n in ("plain", "quick"))
    assert sorted(p.name for p in plain.iterdir()) == sorted(p.name for p in quick.iterdir())
    for net in ("depth", "pose"):
        one, other = ((c / f"{net}.safetensors").read_bytes() for c in (plain, quick))
        assert len(one) == len(other) and b"_orig_mod" not in other


@pytest.mark.parametrize(
    ("changes", "words"),
    [(dict(compile="graphs"), "need a GPU"), (dict(compile="on", recompute=True), "recompute")],
)
def test_what_cannot_be_compiled_is_refused(changes: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        run_phase2(alone(**changes), tmp_path / "run")
    assert not checkpoints(tmp_path / "run" / "checkpoints")


def test_judge_and_pupil_is_left_as_it_is() -> None:
    cfg = preset("tiny")
    first = runs.Phase1(cfg, runs.phase1_state(cfg), None, None)
    only = runs.SegmenterPhase(cfg, runs.segmenter_state(cfg), None)
    assert set(runs.compilable(first)) == {"translator", "depth", "discriminator"}
    assert set(runs.compilable(only)) == {"segmenter"}


class Edges(torch.nn.Module):
    "A repeated edge before a convolution, as the dilated branches of a small U-Net"

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(pad_edges(2 * x, 8)).square().sum()


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++ for torch.compile to write code for")
def test_written_code_repeats_edges_channels_last() -> None:
    "torch 2.13's own padding ends here in an assertion about the layout of its gradient"
    torch.manual_seed(0)
    net = Edges().to(memory_format=torch.channels_last)
    x = torch.rand(2, 4, 8, 12).to(memory_format=torch.channels_last).requires_grad_()
    (want,) = torch.autograd.grad(net(x), x)
    with compiled({"edges": net}, "on"):
        (found,) = torch.autograd.grad(net(x), x)
    assert torch.allclose(found, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())
