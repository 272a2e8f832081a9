"Faults of the machine and of the files: what a run meets while it trains."

import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

import s3net.data.cache as cache
import s3net.train.record as record
from s3net.base.config import Config, differences, preset, to_dict
from s3net.base.core import DiskFull, InputError, atomic_path, read_json, write_json
from s3net.data.cache import open_cache, plan_cache, write_cache
from s3net.data.kitti import KittiRaw
from s3net.data.miniworld import lesson_world
from s3net.train.loop import Event
from s3net.train.record import read_metrics
from s3net.train.runs import run_segmenter
from s3net.train.segmenter import segmenter_state
from s3net.train.state import TrainState, checkpoints, load_checkpoint, save_checkpoint, spoilt


@pytest.fixture
def small_disk(tmp_path: Path):
    "A file system of two megabytes"
    place = tmp_path / "disk"
    disk(place, "2m")
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


# --- real trainings ------------------------------------------------------------------------------


def cfg_in(world: Path, **changes: object) -> Config:
    "The tiny preset on the lesson world, or on a copy of it"
    where = dict(synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"))
    quiet = dict(snapshot_every=0, shares_every=0, checkpoint_every=1, steps=5)
    return preset("tiny", device="cpu", threads=1, **(where | quiet | changes))


def last_bits(path: Path) -> dict[str, bytes]:
    last = checkpoints(path / "checkpoints")[-1]
    names = ("segmenter.safetensors", "training.pt")
    return {name: (last / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    "The last bits of a training that met no fault"
    path = tmp_path_factory.mktemp("unbroken") / "run"
    run_segmenter(cfg_in(lesson_world()), path)
    return last_bits(path)


def disk(place: Path, size: str):
    "Mount a file system of this size, or skip"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a small file system can only be mounted by root")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def fifty_megabytes(tmp_path: Path):
    place = tmp_path / "fifty"
    disk(place, "50m")
    yield place
    subprocess.run(["umount", str(place)], check=True)


class Filler:
    "A hook that fills the file system after one step and gives the room back after another"

    def __init__(self, place: Path, at: int, until: int = 99) -> None:
        self.file, self.at, self.until = place / "filler", at, until

    def __call__(self, event: Event) -> None:
        if event.state.step == self.at:
            with open(self.file, "wb", buffering=0) as file:
                try:
                    while file.write(bytes(2**16)):
                        pass
                except OSError as error:
                    assert error.errno == 28
        if event.state.step == self.until:
            self.file.unlink()


def whole_folder(path: Path) -> list[str]:
    "Names of the checkpoints; nothing else may lie there, and each must be what was written"
    found = sorted(p.name for p in (path / "checkpoints").iterdir())
    assert found == [p.name for p in checkpoints(path / "checkpoints")]
    assert all(spoilt(p) is None for p in checkpoints(path / "checkpoints"))
    return found


@pytest.mark.parametrize("asked_first", [True, False])
def test_a_disk_filled_during_training(
    asked_first: bool, fifty_megabytes: Path, unbroken: dict, monkeypatch: pytest.MonkeyPatch
):
    "Whether the room is asked for first or the disk says no in the middle of a file"
    if not asked_first:
        monkeypatch.setattr(record, "need_room", lambda *_: None)
    path, cfg = fifty_megabytes / "run", cfg_in(lesson_world(), keep=1, log_every=100)
    filler = Filler(fifty_megabytes, at=3)
    with pytest.raises(DiskFull) as stopped:
        run_segmenter(cfg, path, hooks=[filler])
    assert "\n" not in str(stopped.value)
    names = whole_folder(path)
    assert names == (["00000003"] if asked_first else ["00000002", "00000003"])
    fresh = segmenter_state(cfg)
    load_checkpoint(fresh, path / "checkpoints" / "00000003")
    assert fresh.step == 3
    filler.file.unlink()
    run_segmenter(cfg, path, resume=True)
    assert whole_folder(path)[-1] == "00000005" and last_bits(path) == unbroken


def test_a_disk_filled_during_training_that_goes_on(fifty_megabytes: Path, unbroken: dict, capfd):
    path = fifty_megabytes / "run"
    cfg = cfg_in(lesson_world(), full_disk="go_on", keep=1)
    run_segmenter(cfg, path, hooks=[Filler(fifty_megabytes, at=2, until=4)])
    said = [line for line in capfd.readouterr().err.splitlines() if "full_disk=go_on" in line]
    told = [r["step"] for r in read_metrics(path)]
    assert whole_folder(path)[-1] == "00000005" and last_bits(path) == unbroken
    assert 1 <= len(said) <= 2 and told[-1] == 5 and set(told) <= {1, 2, 3, 4, 5}


def test_a_folder_that_became_read_only(tmp_path: Path):
    place = tmp_path / "disk"
    disk(place, "50m")
    try:
        cfg = cfg_in(lesson_world())
        run_segmenter(cfg, place / "run", until=2)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        words = ["train", "segmenter", "--preset", "tiny", "--out", str(place / "run"), "--resume"]
        changed = [f"{k}={b}" for k, (_, b) in differences(preset("tiny"), cfg).items()]
        done = command(*words, *changed)
        assert done.returncode == 2 and "may not be written" in done.stderr
        assert [x for x in done.stderr.splitlines() if x.startswith("s3net: ")] == [
            done.stderr.splitlines()[-1]
        ]
        with pytest.raises(InputError, match="may not be written"):
            write_json(place / "new" / "result.json", {})
    finally:
        subprocess.run(["umount", str(place)], check=True)


def command(*words: str) -> subprocess.CompletedProcess:
    "s3net, in a process of its own"
    line = [sys.executable, "-c", "from s3net.app.cli import main; main()", *words]
    env = os.environ | {"TQDM_DISABLE": "1"}
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=env)


def test_a_clock_that_jumps(tmp_path: Path, unbroken: dict, monkeypatch: pytest.MonkeyPatch):
    "A day forward, then two back: nothing but the times in the record notices"
    shift = itertools.cycle([0.0, 86400.0, -86400.0])
    plain = time.time
    monkeypatch.setattr(time, "time", lambda: plain() + next(shift))
    path, cfg = tmp_path / "run", cfg_in(lesson_world())
    run_segmenter(cfg, path, until=3)
    run_segmenter(cfg, path, resume=True)
    records = read_metrics(path)
    assert last_bits(path) == unbroken and [r["step"] for r in records] == [1, 2, 3, 4, 5]
    assert all(r["seconds"] >= 0 and r["recording"] >= 0 for r in records)
    assert max(r["time"] for r in records) - min(r["time"] for r in records) > 80_000


def test_pictures_that_cannot_be_read(tmp_path: Path, capfd):
    world = Path(shutil.copytree(lesson_world(), tmp_path / "world"))
    broken = sorted((world / "vkitti2").rglob("rgb_00001.*"))[0]
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(InputError, match=broken.name):
        run_segmenter(cfg_in(world, steps=20), tmp_path / "strict")
    cfg = cfg_in(world, steps=12, bad_samples=0.5)
    run_segmenter(cfg, tmp_path / "whole")
    told = [line for line in capfd.readouterr().err.splitlines() if "is left out" in line]
    assert told and broken.name in told[0] and len(told) <= 2, "each bad sample is named once"
    run_segmenter(cfg, tmp_path / "parts", until=5)
    run_segmenter(cfg, tmp_path / "parts", resume=True)
    assert last_bits(tmp_path / "whole") == last_bits(tmp_path / "parts")
    with pytest.raises(InputError, match="expected a share of 0.01 at most"):
        run_segmenter(cfg_in(world, steps=20, bad_samples=0.01), tmp_path / "few")


def test_two_runs_with_determinism_are_equal(tmp_path: Path):
    cfg = cfg_in(lesson_world(), deterministic=True, steps=3)
    a, b = (run_segmenter(cfg, tmp_path / name) for name in "ab")
    assert last_bits(a.path) == last_bits(b.path)
    with pytest.raises(InputError, match="deterministic"):
        run_segmenter(cfg_in(lesson_world(), steps=3), tmp_path / "a", resume=True)


def test_other_data_is_named(tmp_path: Path):
    "One picture is exchanged for another of the same size: the run says which side is not the same"
    world = Path(shutil.copytree(lesson_world(), tmp_path / "world"))
    run_segmenter(cfg_in(world), tmp_path / "run", until=1)
    file = min((world / "vkitti2").rglob("*"), key=lambda p: (not p.is_file(), str(p)))
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"data synthetic contents \(\w+ then, \w+ now\)"):
        run_segmenter(cfg_in(world), tmp_path / "run", resume=True)


def test_a_checkpoint_from_before_there_were_manifests(tmp_path: Path):
    state = state_of(5)
    path = save_checkpoint(state, tmp_path / "checkpoints")
    facts = {k: v for k, v in read_json(path / "state.json").items() if k != "manifest"}
    write_json(path / "state.json", facts)
    (path / "manifest.json").unlink()
    fresh = state_of(5)
    load_checkpoint(fresh, path)
    assert fresh.hashes() == state.hashes() and spoilt(path) is None


def killed_worker(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_decoding_process_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    "Its forked copy dies at the first shard; what was written before stays, and is gone on with"
    world = lesson_world() / "kitti_raw"
    plan = plan_cache(KittiRaw(world, (32, 96)), world, tmp_path / "cache", megabytes=0.05)
    monkeypatch.setattr(cache, "get_context", lambda _: multiprocessing.get_context("fork"))
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write_one", killed_worker)
        with pytest.raises(InputError, match="was killed, often for lack of memory"):
            write_cache(plan, workers=2, progress=False)
    assert not (tmp_path / "cache" / "index.json").exists()
    write_cache(plan, workers=1, progress=False)
    assert len(open_cache(tmp_path / "cache")) > 0


# --- signals -------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
from s3net.base.config import from_dict
from s3net.train.runs import run_segmenter
import json
def hook(event):
    if event.state.step == 2:
        print("two", flush=True)
        time.sleep(float(sys.argv[3]))
run_segmenter(from_dict(json.loads(sys.argv[1])), sys.argv[2], resume=True, hooks=[hook])
"""


@contextmanager
def training(path: Path, nap: float) -> Iterator[subprocess.Popen]:
    "A training that naps after its second step"
    cfg = json.dumps(to_dict(cfg_in(lesson_world(), checkpoint_every=100)))
    line = [sys.executable, "-c", CHILD, cfg, str(path), str(nap)]
    pipe, env = subprocess.PIPE, os.environ | {"TQDM_DISABLE": "1"}
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=env) as child:
        try:
            assert child.stdout.readline() == "two\n"
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_after_a_checkpoint(name: str, tmp_path: Path, unbroken: dict):
    with training(tmp_path / "run", nap=0.5) as child:
        child.send_signal(getattr(signal, name))
        _, said = child.communicate(timeout=60)
    ended = read_json(tmp_path / "run" / "ended.json")
    (last,) = checkpoints(tmp_path / "run" / "checkpoints")
    assert child.returncode != 0 and last.name == "00000003" and ended["how"] == "stopped"
    assert f"{name}: stopped after step 3, the checkpoint is {last}" in said
    run_segmenter(cfg_in(lesson_world(), checkpoint_every=100), tmp_path / "run", resume=True)
    assert last_bits(tmp_path / "run") == unbroken


def test_a_second_signal_leaves_at_once(tmp_path: Path):
    with training(tmp_path / "run", nap=60) as child:
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        while "once more leaves at once" not in child.stderr.readline():
            pass
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == -signal.SIGTERM and time.monotonic() - began < 20
    assert not checkpoints(tmp_path / "run" / "checkpoints")


def test_a_notice_makes_a_checkpoint_and_goes_on(tmp_path: Path, unbroken: dict):
    with training(tmp_path / "run", nap=0.5) as child:
        child.send_signal(signal.SIGUSR1)
        child.communicate(timeout=60)
    names = [p.name for p in checkpoints(tmp_path / "run" / "checkpoints")]
    assert child.returncode == 0 and names == ["00000003", "00000005"]
    assert last_bits(tmp_path / "run") == unbroken


def test_the_command_says_where_it_stopped(tmp_path: Path):
    line = [sys.executable, "-c", "from s3net.app.cli import main; main()", "train", "segmenter"]
    cfg = cfg_in(lesson_world(), steps=500)
    changed = [f"{k}={b}" for k, (_, b) in differences(preset("tiny"), cfg).items()]
    line += ["--preset", "tiny", "--out", str(tmp_path / "run"), *changed]
    pipe, env = subprocess.PIPE, os.environ | {"TQDM_DISABLE": "1"}
    with subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, env=env) as child:
        end = time.monotonic() + 60
        while not checkpoints(tmp_path / "run" / "checkpoints") and time.monotonic() < end:
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 143
    assert re.search(r"s3net: SIGTERM: stopped after step \d+, the checkpoint is \S+", said), said
