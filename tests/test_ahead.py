"Batches made ahead by a thread: what a training meets because of them, and what it must not."

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import s3net.train.runs as runs
from s3net.base.config import Config, preset
from s3net.base.core import InputError
from s3net.data.ahead import Ahead
from s3net.data.cache import CachedStream, open_cache, plan_cache, write_cache
from s3net.data.kitti import KittiRaw
from s3net.data.loaders import Augment, BatchStream
from s3net.data.miniworld import lesson_world
from s3net.train.runs import run_segmenter
from s3net.train.state import checkpoints


def cfg_in(world: Path, **changes: object) -> Config:
    "The tiny preset on the lesson world, or on a copy of it, two batches ahead"
    where = dict(synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"))
    quiet = dict(snapshot_every=0, shares_every=0, checkpoint_every=1, steps=5, prefetch=2)
    return preset("tiny", device="cpu", threads=1, **(where | quiet | changes))


def last_bits(path: Path) -> bytes:
    return (checkpoints(path / "checkpoints")[-1] / "segmenter.safetensors").read_bytes()


def feeding() -> list[str]:
    "Threads that make batches"
    return [t.name for t in threading.enumerate() if t.name.startswith("feeding")]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    "A copy of the lesson world with one picture cut short"
    world = Path(shutil.copytree(lesson_world(), tmp_path / "world"))
    file = sorted((world / "vkitti2").rglob("rgb_00001.*"))[0]
    file.write_bytes(file.read_bytes()[:300])
    return world


def test_a_picture_that_cannot_be_read_ends_the_same_step(broken: Path, tmp_path: Path) -> None:
    found = {}
    for prefetch in (0, 2):
        path = tmp_path / f"strict{prefetch}"
        with pytest.raises(InputError, match="rgb_00001") as error:
            run_segmenter(cfg_in(broken, steps=20, prefetch=prefetch), path)
        last = [p.name for p in checkpoints(path / "checkpoints")]
        found[prefetch] = str(error.value), last[-1:]
    assert found[0] == found[2] and not feeding()


def test_bad_samples_count_as_without(broken: Path, tmp_path: Path, capfd) -> None:
    told = {}
    for prefetch in (0, 2):
        run_segmenter(
            cfg_in(broken, steps=12, bad_samples=0.5, prefetch=prefetch), tmp_path / f"{prefetch}"
        )
        lines = capfd.readouterr().err.splitlines()
        told[prefetch] = [x.partition("s3net: ")[2] for x in lines if "is left out" in x]
        with pytest.raises(InputError, match="expected a share of 0.01 at most"):
            run_segmenter(
                cfg_in(broken, steps=20, bad_samples=0.01, prefetch=prefetch),
                tmp_path / f"few{prefetch}",
            )
        capfd.readouterr()
    assert told[0] == told[2] and told[0]
    assert last_bits(tmp_path / "0") == last_bits(tmp_path / "2") and not feeding()


def test_nothing_is_read_behind_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plain = [], BatchStream.batch
    monkeypatch.setattr(BatchStream, "batch", lambda s, k: asked.append(k) or plain(s, k))
    run_segmenter(cfg_in(lesson_world(), steps=4, accumulate=2), tmp_path / "run")
    assert sorted(asked) == list(range(8))


def test_thread_ends_with_a_run_that_fails(tmp_path: Path) -> None:
    def fails(event: object) -> None:
        assert feeding()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_segmenter(cfg_in(lesson_world()), tmp_path / "run", hooks=[fails])
    assert not feeding()


CHILD = """
import os, signal, sys
from s3net.base.config import from_dict
from s3net.train.runs import run_segmenter
import json
def hook(event):
    if event.state.step == 2:
        os.kill(os.getpid(), signal.SIGINT)
run_segmenter(from_dict(json.loads(sys.argv[1])), sys.argv[2], hooks=[hook])
"""


def test_ctrl_c_ends_thread_and_process(tmp_path: Path) -> None:
    import json

    cfg = cfg_in(lesson_world())
    line = [sys.executable, "-c", CHILD, json.dumps(vars(cfg)), str(tmp_path / "run")]
    env = os.environ | {"TQDM_DISABLE": "1"}
    hears = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=120, env=env, preexec_fn=hears
    )
    assert done.returncode != 0 and "stopped after step 3" in done.stderr
    run_segmenter(cfg, tmp_path / "run", resume=True)
    run_segmenter(cfg, tmp_path / "whole")
    assert last_bits(tmp_path / "run") == last_bits(tmp_path / "whole")


def test_cached_batches_are_held_by_nobody_else(tmp_path: Path) -> None:
    "Memory of a batch is used again only when both threads have let go of it"
    root = lesson_world() / "kitti_raw"
    write_cache(plan_cache(KittiRaw(root, (32, 96)), root, tmp_path / "c"), progress=False)
    plain = CachedStream(open_cache(tmp_path / "c"), 4, 0, augment=Augment())
    feed = Ahead(CachedStream(open_cache(tmp_path / "c"), 4, 0, augment=Augment()), 6)
    for k in range(30):
        batch, want = feed.batch(k).tensors(), plain.batch(k).tensors()
        assert all(torch.equal(batch[name], value) for name, value in want.items()), k
    feed.close()


def test_colours_of_cached_and_plain_batches_wait_alike(tmp_path: Path) -> None:
    root, change = lesson_world() / "kitti_raw", Augment(0.5, 0.2, 0.2, 0.2)
    clips = KittiRaw(root, (32, 96))
    write_cache(plan_cache(clips, root, tmp_path / "c"), progress=False)
    one = BatchStream(clips, 4, 0, augment=change).uncoloured(2)
    other = CachedStream(open_cache(tmp_path / "c"), 4, 0, augment=change).uncoloured(2)
    assert torch.equal(one[1], other[1]) and one[1].shape == (4, 3)
    for name, value in one[0].tensors().items():
        assert torch.equal(value, getattr(other[0], name)), name


@pytest.mark.parametrize(("device", "prefetch", "ahead"), [("cpu", -1, None), ("cpu", 3, 3)])
@pytest.mark.parametrize("played", [False, True])
def test_as_many_ahead_as_the_device_wants(
    device: str, prefetch: int, ahead: int | None, played: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    "A GPU is played by a device that only says it is one"

    class Phase:
        def __init__(self) -> None:
            self.device = "cuda" if played else device
            self.real = BatchStream(range(4), 1, 0)

    monkeypatch.setattr("s3net.data.ahead._lane", lambda _: None)
    phase = Phase()
    before = phase.real
    with runs.fed(phase, preset("tiny", prefetch=prefetch)):
        if played or ahead:
            assert isinstance(phase.real, Ahead) and phase.real.ahead == (ahead or 2)
        else:
            assert phase.real is before
    assert phase.real is before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("jitter", [0.0, 0.3])
def test_on_a_gpu(jitter: float) -> None:
    clips = KittiRaw(lesson_world() / "kitti_raw", (32, 96))
    plain = BatchStream(clips, 4, 0, augment=Augment(0.5, jitter, jitter, jitter))
    found = {}
    for ahead in (0, 2):
        feed = Ahead(plain, ahead, "cuda")
        found[ahead] = [feed.batch(k).tensors() for k in range(4)]
        feed.close()
    for k in range(4):
        for name, value in plain.batch(k).tensors().items():
            assert found[2][k][name].is_cuda and torch.equal(found[0][k][name], found[2][k][name])
            assert torch.allclose(found[2][k][name].cpu(), value, atol=0 if not jitter else 1e-5)
