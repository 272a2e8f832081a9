"A training and its folder: held, stopped, killed, on a full disk; and what looking at it may cost."

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FunctionType

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from s3net.base.config import Config, preset
from s3net.base.core import InputError, hash_tensors, read_json
from s3net.base.process import process_start
from s3net.data.miniworld import lesson_world
from s3net.losses.objective import Report
from s3net.train import runs
from s3net.train.loop import Event, Hook
from s3net.train.record import read_metrics, snapshots
from s3net.train.runs import run_phase1, run_phase2, run_segmenter
from s3net.train.state import checkpoints, load_weights

PATIENCE = 60.0  # seconds a busy machine may take to import torch


def tiny(**changes: object) -> Config:
    "The smallest training there is, on the lessons' world"
    world = lesson_world()
    there = dict(synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"))
    return preset("tiny", **there, device="cpu", threads=1, **changes)


def start(path: Path, **settings: object) -> subprocess.Popen:
    "A segmenter trained by a process of its own"
    cfg = tiny()
    words = [f"{k}={v}" for k, v in settings.items()]
    words += [f"synthetic={cfg.synthetic}", f"real={cfg.real}", "device=cpu", "threads=1"]
    code = "from s3net.app.cli import main; main()"
    command = [sys.executable, "-c", code, "train", "segmenter", "--preset", "tiny"]
    command += ["--out", str(path), "--resume", *words]
    with open(path.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def until(true: Callable[[], bool], seconds: float = PATIENCE) -> float:
    "Wait for something; how long it took"
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - started


def step_of(path: Path) -> int:
    records = read_metrics(path)
    return records[-1]["step"] if records else 0


@pytest.fixture
def child() -> Iterator[list[subprocess.Popen]]:
    "Processes of a test, ended with it"
    started: list[subprocess.Popen] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_pause_holds_resume_goes_on_stop_ends(tmp_path: Path, child: list) -> None:
    path = tmp_path / "run"
    child.append(start(path, steps=100000, snapshot_every=50, checkpoint_every=50))
    until(lambda: step_of(path) >= 3)
    who = read_json(path / "process.json")
    assert who["pid"] == child[0].pid and who["started"] == process_start(child[0].pid)
    (path / "PAUSE").touch()
    until(lambda: checkpoints(path / "checkpoints"))
    held = int(checkpoints(path / "checkpoints")[-1].name)
    time.sleep(1.0)
    assert step_of(path) == held and max(snapshots(path)) == held and child[0].poll() is None
    (path / "PAUSE").unlink()
    until(lambda: step_of(path) > held)
    (path / "STOP").touch()
    assert until(lambda: child[0].poll() is not None) < 5
    assert child[0].returncode == 0
    ended = read_json(path / "ended.json")
    assert ended["how"] == "stopped" and ended["step"] == step_of(path) == max(snapshots(path))
    last = checkpoints(path / "checkpoints")[-1]
    net = runs.segmenter_state(tiny()).modules["segmenter"]
    load_weights(net, last / "segmenter.safetensors")
    assert int(last.name) == ended["step"] and not (path / "STOP").exists()


def test_killed_while_held_loses_nothing(tmp_path: Path, child: list) -> None:
    path, settings = tmp_path / "run", dict(steps=12, snapshot_every=0, checkpoint_every=100)
    path.mkdir()
    child.append(start(path, **settings))
    until(lambda: (path / "process.json").exists())
    (path / "PAUSE").touch()
    until(lambda: checkpoints(path / "checkpoints"))
    os.kill(child[0].pid, signal.SIGKILL)
    child[0].wait()
    assert not (path / "ended.json").exists() and (path / "PAUSE").exists()
    assert step_of(path) == int(checkpoints(path / "checkpoints")[-1].name) < 12
    child.append(start(path, **settings))
    assert child[1].wait(PATIENCE) == 0, "a flag for the dead process held the new one"
    assert read_json(path / "ended.json")["how"] == "finished" and not (path / "PAUSE").exists()
    assert [r["step"] for r in read_metrics(path)] == list(range(1, 13))
    whole = run_segmenter(tiny(**settings), tmp_path / "whole").path
    a, b = (checkpoints(p / "checkpoints")[-1] / "segmenter.safetensors" for p in (path, whole))
    assert a.read_bytes() == b.read_bytes()


def test_full_disk_is_a_sentence_also_from_the_thread(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a small file system can only be mounted by root")
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")

    def fill(event: Event) -> None:
        if event.state.step == 1:
            with contextlib.suppress(OSError):  # the thread may take some of it meanwhile
                (place / "filler").write_bytes(bytes(shutil.disk_usage(place).free))

    try:
        cfg = tiny(steps=30, snapshot_every=1, checkpoint_every=100, log_every=100)
        with pytest.raises(InputError, match="disk is full") as told:
            run_segmenter(cfg, place / "run", hooks=[fill])
        assert "snapshots" in str(told.value)
        assert not [p for p in (place / "run" / "snapshots").iterdir() if p.name.startswith(".")]
        (place / "filler").unlink()
        assert run_segmenter(cfg, place / "run", resume=True).finished()
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


class Questions(TorchDispatchMode):
    "Counts what would make a device wait: `.item()`, `bool(x)`, copies of one number at a time"

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.asked += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


KINDS = ["segmenter", "phase1", "frozen", "plain", "phase2"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Callable, Config]]:
    "Settings of every kind of training, with what each needs"
    root = tmp_path_factory.mktemp("chain")
    often = dict(log_every=2, snapshot_every=3, shares_every=2, checkpoint_every=6, steps=6)
    base = tiny(**often)
    full = replace(base, semantics="both", segmenter_run=str(root / "segmenter"))
    second = replace(base, semantics="both", phase1_run=str(root / "phase1"), pose_steps=2)
    run_segmenter(replace(base, steps=1), root / "segmenter")
    run_phase1(replace(full, steps=1), root / "phase1")
    kinds = {"segmenter": (run_segmenter, base), "phase1": (run_phase1, full)}
    kinds |= {"frozen": (run_phase1, replace(full, train_segmenter=False))}
    kinds |= {"plain": (run_phase1, replace(base, translate=False))}
    return kinds | {"phase2": (run_phase2, second)}


@dataclass
class Looked:
    "A training that was recorded in full, and what was seen of it"

    train: Callable  # run_phase1, ...
    cfg: Config
    path: Path
    asked: dict[str, int] = field(default_factory=dict)  # hook -> questions to the device
    kept: list[tuple[str, list[torch.Tensor]]] = field(default_factory=list)
    stats: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def counted(self, hook: Hook) -> Hook:
        "A hook whose questions are counted"

        def call(event: Event) -> None:
            with Questions() as count:
                hook(event)
            name = type(hook).__name__
            self.asked[name] = self.asked.get(name, 0) + count.asked

        call.close = getattr(hook, "close", lambda: None)
        return call

    def see(self, event: Event) -> None:
        "What a report keeps alive for those who look later"
        for name, report in event.reports.items():
            tensors = list(tensors_in(report.measure, set())) + list(report.maps.values())
            self.kept.append((name, [x for x in tensors if x.grad_fn is not None]))
            self.stats.append(report.stats)


def tensors_in(thing: object, seen: set[int]) -> Iterator[torch.Tensor]:
    "Every tensor that a function keeps alive"
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, FunctionType):
        for cell in thing.__closure__ or ():
            yield from tensors_in(cell.cell_contents, seen)
    elif isinstance(thing, (list, tuple, dict)):
        for part in thing.values() if isinstance(thing, dict) else thing:
            yield from tensors_in(part, seen)


@pytest.fixture(scope="module", params=KINDS)
def looked(
    request: pytest.FixtureRequest, chain: dict, tmp_path_factory: pytest.TempPathFactory
) -> Looked:
    "One training of a kind"
    found = Looked(*chain[request.param], tmp_path_factory.mktemp(request.param) / "run")
    standard = runs.standard_hooks
    with pytest.MonkeyPatch.context() as patch:
        counted = lambda *given: [found.counted(hook) for hook in standard(*given)]  # noqa: E731
        patch.setattr(runs, "standard_hooks", counted)
        found.train(found.cfg, found.path, hooks=[found.see])
    return found


def test_hooks_ask_the_device_nothing(looked: Looked) -> None:
    assert len(looked.asked) == 4
    names = ("MetricsHook", "SnapshotHook", "ProgressHook")
    assert not any(looked.asked[name] for name in names), looked.asked


def test_what_is_kept_for_a_record_holds_no_graph(looked: Looked) -> None:
    assert looked.kept and not [name for name, tensors in looked.kept if tensors]
    stats = [x for some in looked.stats for x in some.values()]
    assert stats and all(x.dim() == 0 and x.grad_fn is None for x in stats)


def test_every_record_is_strict_json_and_whole(looked: Looked) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    lines = (looked.path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [r["step"] for r in records] == [2, 4, 6] and list(snapshots(looked.path)) == [3, 6]
    keys = {"step", "time", "seconds", "recording", "background", "memory", "updates", "stats"}
    assert all(keys <= set(r) <= keys | {"shares", "sharing"} for r in records)
    measured = [(name, nets) for r in records for name, nets in r.get("shares", {}).items()]
    assert {name for name, _ in measured} == {name for r in records for name in r["updates"]}
    for name, nets in measured:
        for shares in nets.values():
            assert sum(shares.values()) == pytest.approx(1, abs=1e-5), name


def test_recording_changes_no_bit(looked: Looked, tmp_path: Path) -> None:
    quiet = replace(looked.cfg, log_every=100, snapshot_every=0, shares_every=0)
    looked.train(quiet, tmp_path / "run")
    seen, unseen = (checkpoints(p / "checkpoints")[-1] for p in (looked.path, tmp_path / "run"))
    names = sorted(p.name for p in seen.iterdir())
    assert names == sorted(p.name for p in unseen.iterdir()) and len(names) >= 3
    assert [n for n in names if (seen / n).read_bytes() != (unseen / n).read_bytes()] == []


def test_numbers_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    class Odd(runs.SegmenterPhase):
        def report(self, k: int) -> Report:
            nan = torch.tensor(float("nan"))
            return (
                super().report(k)._replace(measure=lambda: {"odd": nan, "far": 1 / (0 * nan + 0)})
            )

    cfg = tiny()
    run = runs.start_run(tmp_path / "run", "segmenter", cfg)
    stream = runs.stream(runs.synthetic_dataset(cfg), cfg, "synthetic")
    runs.execute(Odd(cfg, runs.segmenter_state(cfg), stream), run, "odd")
    text = (run.path / "metrics.jsonl").read_text()
    assert "NaN" not in text and '"odd": "nan"' in text
    odd = [r["stats"]["odd"] for r in read_metrics(run.path)]
    assert len(odd) == 4 and all(value != value for value in odd)


def test_old_runs_are_read(tmp_path: Path) -> None:
    old = {"step": 1, "time": 1.0, "seconds": 0.1, "updates": {"self": {"mask": [0.5, 2.0]}}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(old) + '\n{"step": 2, "ti')
    assert read_metrics(tmp_path) == [old]
    assert hash_tensors({}) and snapshots(tmp_path) == {}
