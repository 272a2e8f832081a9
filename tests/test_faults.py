"Faults of the machine: a file system that fills up while a run writes."

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from s3net.base.core import InputError, atomic_path, write_json
from s3net.train.state import TrainState, checkpoints, load_checkpoint, save_checkpoint


@pytest.fixture
def small_disk(tmp_path: Path):
    "A file system of two megabytes"
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a small file system can only be mounted by root")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def state_of(numbers: int) -> TrainState:
    state = TrainState({"net": nn.Linear(numbers, 1)}, step=1)
    state.add_adam("net", 1e-3, (0.9, 0.999))
    return state


def test_checkpoint_on_a_full_disk(small_disk: Path) -> None:
    state = state_of(50_000)
    save_checkpoint(state, small_disk / "checkpoints")
    (small_disk / "filler").write_bytes(bytes(small_disk_free(small_disk)))
    state.step = 2
    with pytest.raises(InputError, match="disk is full"):
        save_checkpoint(state, small_disk / "checkpoints")
    (good,) = checkpoints(small_disk / "checkpoints")
    assert good.name == "00000001" and len(list((small_disk / "checkpoints").iterdir())) == 1
    fresh = state_of(50_000)
    load_checkpoint(fresh, good)
    assert torch.equal(fresh.modules["net"].weight, state.modules["net"].weight)


def small_disk_free(place: Path) -> int:
    "Bytes left, less a little for the names of files"
    return max(shutil.disk_usage(place).free - 16_384, 0)


def test_json_on_a_full_disk(small_disk: Path) -> None:
    write_json(small_disk / "result.json", {"abs_rel": 0.1})
    (small_disk / "filler").write_bytes(bytes(small_disk_free(small_disk)))
    with pytest.raises(InputError, match="disk is full"):
        write_json(small_disk / "result.json", {"filler": "x" * 100_000})
    assert (small_disk / "result.json").read_text().count("0.1") == 1
    assert sorted(p.name for p in small_disk.iterdir()) == ["filler", "result.json"]


def test_folder_on_a_full_disk(small_disk: Path) -> None:
    with pytest.raises(InputError, match="disk is full"), atomic_path(small_disk / "world") as part:
        part.mkdir()
        for number in range(40):
            (part / f"{number}.png").write_bytes(bytes(100_000))
    assert not list(small_disk.iterdir())
