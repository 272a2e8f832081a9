"A cache whose writer was killed, a source that changed, and the index of the paper's samples."

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT, children
from feeding import opening, paper_index

from s3net.app.data import plan_side
from s3net.base.config import preset
from s3net.base.core import InputError
from s3net.base.process import alive
from s3net.data.cache import open_cache, plan_cache, write_cache
from s3net.data.kitti import KittiRaw
from s3net.data.labels import label_cache, open_labels
from s3net.data.miniworld import lesson_world
from s3net.data.vkitti import VirtualKitti2
from s3net.train.runs import run_phase1

SIZE, MEGABYTES = (48, 160), 0.07  # three frames a shard
WRITER = f"""
import sys, time
from s3net.data.cache import plan_cache, write_cache
from s3net.data.kitti import KittiRaw

class Slow(KittiRaw):
    def read_frame(self, key):
        print("frame", flush=True)
        time.sleep(0.02)
        return super().read_frame(key)

def slow_bytes(path, memory):  # the second half of a shard is long on its way
    with path.open("wb") as file:
        file.write(memory[: len(memory) // 2].tobytes())
        file.flush()
        print("half", flush=True)
        time.sleep(0.3)
        file.write(memory[len(memory) // 2 :].tobytes())

type(__import__("pathlib").Path()).write_bytes = slow_bytes
root, folder = sys.argv[1:]
write_cache(plan_cache(Slow(root, {SIZE}), root, folder, megabytes={MEGABYTES}), progress=False)
print("done", flush=True)
"""

SLOW_CLIPS = """
import time
from s3net.data.kitti import KittiRaw

class Slow(KittiRaw):
    def read_frame(self, key):
        time.sleep(0.1)
        return super().read_frame(key)
"""
TWO_WRITERS = f"""
import sys
from slow import Slow
from s3net.data.cache import plan_cache, write_cache

root, folder = sys.argv[1:]
plan = plan_cache(Slow(root, {SIZE}), root, folder, megabytes={MEGABYTES})
write_cache(plan, workers=2, progress=False)
"""


def same(a: object, b: object) -> bool:
    a, b = a.tensors(), b.tensors()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def kill_at(word: str, count: int, raw: Path, folder: Path) -> list[str]:
    "Start a writer and kill it when it has said a word so many times; what it said"
    command = [sys.executable, "-c", WRITER, str(raw), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        said = []
        while said.count(word) < count:
            line = writer.stdout.readline()
            assert line, f"the writer ended before it had said {word} {count} times"
            said.append(line.strip())
        writer.send_signal(signal.SIGKILL)
        writer.wait(timeout=20)
        return said


@pytest.mark.parametrize(("word", "count"), [("frame", 8), ("half", 2)])
def test_killed_writer_leaves_whole_shards_and_the_next_goes_on(
    word: str, count: int, tmp_path: Path
):
    raw, folder = lesson_world() / "kitti_raw", tmp_path / "cache"
    clips = KittiRaw(raw, SIZE)
    kill_at(word, count, raw, folder)
    plan = plan_cache(clips, raw, folder, megabytes=MEGABYTES)
    there = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.bin")}
    left = plan.shards.missing()
    assert len(there) >= 1 and len(left) == len(plan.shards.digests) - len(there) >= 1
    assert not (folder / "index.json").exists()
    if word == "half":  # half a shard lies in a folder of its own, under no shard's name
        assert [p for p in folder.rglob("*.bin") if p.parent != folder and p.is_file()]
    with pytest.raises(InputError, match="no finished cache"):
        open_cache(folder)
    started = time.time_ns()
    write_cache(plan, progress=False)
    assert {n: (folder / n).stat().st_mtime_ns for n in there} == there
    assert all(plan.shards.path(n).stat().st_mtime_ns > started - 10**9 for n in left)
    cached = open_cache(folder, raw)
    assert all(same(cached[i], clips[i]) for i in range(len(clips)))
    wanted = {plan.shards.path(n).name for n in range(len(plan.shards.digests))}
    names = {p.name for p in folder.iterdir()} - {".lock"}
    assert names == wanted | {"index.json", "sources.npz"}


def test_renewing_is_not_served_before_it_is_finished(tmp_path: Path):
    "A finished cache whose sources changed: killed while it is renewed, it is closed, not stale"
    raw, folder = tmp_path / "raw", tmp_path / "cache"
    subprocess.run(["cp", "-a", lesson_world() / "kitti_raw", raw], check=True)
    clips = KittiRaw(raw, SIZE)
    write_cache(plan_cache(clips, raw, folder, megabytes=MEGABYTES), progress=False)
    for path in clips.videos[clips.keys[0][:2]].files.values():
        path.touch()
    with pytest.raises(InputError, match="has changed since .* run `s3net data cache` again"):
        open_cache(folder, raw)
    kill_at("half", 1, raw, folder)
    with pytest.raises(InputError, match="no finished cache"):
        open_cache(folder, raw)
    write_cache(plan_cache(clips, raw, folder, megabytes=MEGABYTES), progress=False)
    assert same(open_cache(folder, raw)[0], clips[0])


def test_several_processes_write_the_same_bytes(tmp_path: Path):
    root = lesson_world() / "vkitti2"
    pairs = VirtualKitti2(root, SIZE)
    plans = [plan_cache(pairs, root, tmp_path / name, megabytes=1) for name in ("one", "two")]
    for plan, workers in zip(plans, (1, 2)):
        write_cache(plan, workers, progress=False)
    a, b = ({p.name: p.read_bytes() for p in plan.folder.glob("*.bin")} for plan in plans)
    assert a == b and len(a) > 1
    assert same(open_cache(tmp_path / "two", root)[3], pairs[3])


def test_labels_that_were_interrupted_go_on(tmp_path: Path):
    raw = lesson_world() / "kitti_raw"
    write_cache(plan_cache(KittiRaw(raw, SIZE), raw, tmp_path, megabytes=MEGABYTES), progress=False)
    cached, asked = open_cache(tmp_path, raw), []

    def make(keys: list) -> torch.Tensor:
        asked.extend(keys)
        if len(asked) == 7:
            raise KeyboardInterrupt
        return torch.stack([torch.full(SIZE, key[2] % 12) for key in keys])

    with pytest.raises(KeyboardInterrupt):
        label_cache(cached, make, "abc", progress=False, batch=1)
    assert open_labels(cached, "abc") is None
    labelled = label_cache(cached, make, "abc", progress=False, batch=1)
    assert len(asked) == len(cached.frame_keys()) + 1  # one frame was asked for twice
    keys = labelled.frames_of(2)
    assert [int(m[0, 0]) for m in (labelled[2].labels_prev, labelled[2].labels_next)] == [
        keys[0][2] % 12,
        keys[2][2] % 12,
    ]


def test_training_from_the_cache_is_the_same_training(tmp_path: Path):
    world, weights = lesson_world(), []
    sides = {"real": str(world / "kitti_raw"), "synthetic": str(world / "vkitti2")}
    cfg = preset("tiny", **sides, translate=False, device="cpu", threads=1, steps=2)
    for side in sides:
        write_cache(plan_side(cfg, side, tmp_path / "cache"), progress=False)
    for name, cache in (("files", ""), ("cached", str(tmp_path / "cache"))):
        run = run_phase1(replace(cfg, cache=cache), tmp_path / name)
        weights.append((run.checkpoint() / "depth.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_index_of_the_papers_samples(tmp_path: Path):
    count, seconds, memory = opening(paper_index(tmp_path))
    assert count == 41_738 + 20_470
    assert memory < 200 and seconds < 1


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are read from /proc")
def test_workers_of_a_killed_writer_leave_and_the_next_goes_on(tmp_path: Path):
    "Two processes decode; their parent is killed, and nobody is left waiting for its next word"
    raw, folder = lesson_world() / "kitti_raw", tmp_path / "cache"
    (tmp_path / "slow.py").write_text(SLOW_CLIPS)
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-c", TWO_WRITERS, str(raw), str(folder)]
    with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as writer:
        while not list(folder.glob("*.bin")):
            assert writer.poll() is None
            time.sleep(0.01)
        workers = children(writer.pid)
        writer.kill()
    assert len(workers) >= 2
    until = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < until
        time.sleep(0.05)
    clips = KittiRaw(raw, SIZE)
    plan = plan_cache(clips, raw, folder, megabytes=MEGABYTES)
    there = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.bin")}
    assert 1 <= len(there) < len(plan.shards.digests)
    write_cache(plan, progress=False)
    assert {n: (folder / n).stat().st_mtime_ns for n in there} == there
    cached = open_cache(folder, raw)
    assert all(same(cached[i], clips[i]) for i in range(len(clips)))
