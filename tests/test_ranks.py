"""Several processes train what one process trains, end together, and hand over to any number."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from ranks_job import BREAK, CASES, all_cases

from s3net.app.jobs import in_use
from s3net.base.config import Config, preset
from s3net.base.core import InputError, read_json
from s3net.base.process import process_start
from s3net.base.ranks import Ranks
from s3net.base.together import torchrun
from s3net.data.miniworld import lesson_world
from s3net.train import sources
from s3net.train.record import Run, read_metrics
from s3net.train.runs import RUNS

TOLERANCE = 1e-8
PATIENCE = 240  # seconds, for a machine that does other things as well
COMMAND = ["s3net.app.start", "train", "phase1", "--preset", "tiny", "--processes", "2"]
ENDLESS = 5000  # steps: more than any test waits for


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    "Every case by one process, by two, from one to two, and from two to one"
    folder = tmp_path_factory.mktemp("ranks")
    one = all_cases(folder)
    command = torchrun([], 2)[:-1]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "ranks_job.py"), str(folder)],
        env=quiet(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = torch.load(folder / "several.pt")
    from_two = all_cases(folder, 2)
    return {"one": one, "two": two["whole"], "one, two": two["resumed"], "two, one": from_two}


def quiet() -> dict[str, str]:
    return os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}


def apart(a: dict, b: dict, what: str) -> float:
    "The largest difference"
    if what == "losses":
        pairs = list(zip(a[what], b[what], strict=True))
    else:
        assert a[what].keys() == b[what].keys()
        pairs = [(value, b[what][name]) for name, value in a[what].items()]
    assert all(x.dtype == y.dtype == torch.float64 for x, y in pairs)
    return max((x - y).abs().max().item() for x, y in pairs)


FIXED = [name for name, (_, trained_norms) in CASES.items() if not trained_norms]


@pytest.mark.parametrize("case", FIXED)
def test_two_processes_train_what_one_trains(trainings: dict, case: str) -> None:
    one, two = trainings["one"][case], trainings["two"][case]
    assert (one["processes"], two["processes"]) == (1, 2)
    assert len(one["losses"]) == len(two["losses"]) == 5
    assert not torch.equal(one["losses"][0], one["losses"][-1])
    found = {what: apart(one, two, what) for what in ("losses", "weights")}
    print(case, found)
    assert max(found.values()) < TOLERANCE


@pytest.mark.parametrize("way", ["one, two", "two, one"])
@pytest.mark.parametrize("case", FIXED)
def test_resume_with_another_number(trainings: dict, case: str, way: str) -> None:
    whole, rest = trainings["one"][case], trainings[way][case]
    assert len(rest["losses"]) == 5 - BREAK
    assert apart(whole | {"losses": whole["losses"][BREAK:]}, rest, "losses") < TOLERANCE
    assert apart(whole, rest, "weights") < TOLERANCE


@pytest.mark.parametrize("case", [name for name in CASES if name not in FIXED])
def test_norms_of_each_process_differ_a_little(trainings: dict, case: str) -> None:
    one, two = trainings["one"][case], trainings["two"][case]
    first = (one["losses"][0] - two["losses"][0]).abs() / one["losses"][0].abs()
    print(
        case,
        "share by which terms of the first step differ:",
        [round(x, 3) for x in first.tolist()],
    )
    assert TOLERANCE < first.max() < 0.5


def settings(**changes: object) -> Config:
    world = lesson_world()
    data = dict(synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"))
    plain = dict(device="cpu", threads=1, translate=False, snapshot_every=0, batch=4)
    return preset("tiny", **data, **(plain | changes))


def words(cfg: Config, out: Path) -> list[str]:
    names = "device threads translate snapshot_every batch synthetic real steps lr_depth".split()
    names.append("bad_steps")
    return [*COMMAND, "--out", str(out), *(f"{name}={getattr(cfg, name)}" for name in names)]


@contextmanager
def two(cfg: Config, out: Path) -> Iterator[subprocess.Popen]:
    "A training in two processes; nobody is left behind"
    process = subprocess.Popen(
        torchrun(words(cfg, out), 2),
        cwd=ROOT,
        env=quiet(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(true: Callable[[], object], process: subprocess.Popen) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert process.poll() is None, process.stdout.read()[-3000:]
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def test_held_and_stopped_together_and_written_once(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with two(settings(steps=ENDLESS), run) as process:
        until(lambda: len(read_metrics(run)) > 2, process)
        (run / "PAUSE").touch()
        until(lambda: not moves(run), process)
        (run / "STOP").touch()
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert said.count(f"stopped: {run}") == 1 and "terminate" not in said
    records, last = read_metrics(run), Run(run).checkpoint()
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    assert int(last.name) == len(records) and read_json(last / "state.json")["processes"] == 2
    assert read_json(run / "ended.json")["how"] == "stopped"
    assert sorted(p.name for p in run.iterdir()) == [
        ".lock", "checkpoints", "config.json", "ended.json", "environment.json", "frames.json",
        "metrics.jsonl", "process.json",
    ]  # fmt: skip


def moves(run: Path, seconds: float = 1.5) -> bool:
    before = len(read_metrics(run))
    time.sleep(seconds)
    return len(read_metrics(run)) > before


def test_one_is_killed(tmp_path: Path) -> None:
    run, cfg = tmp_path / "run", settings(steps=ENDLESS)
    with two(cfg, run) as process:
        until(lambda: len(list(run.glob("checkpoints/*/state.json"))) > 1, process)
        leader = read_json(run / "process.json")["pid"]
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (other,) = [int(pid) for pid in children if int(pid) != leader]
        os.kill(other, signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode != 0 and process_start(leader) is None and not in_use(run)
    step = int(Run(run).checkpoint().name)
    resumed = RUNS["phase1"](cfg, run, True, until=step + 2)
    steps = [record["step"] for record in read_metrics(run)]
    assert steps == list(range(1, step + 3))
    assert read_json(resumed.checkpoint() / "state.json")["processes"] == 1


def test_what_stops_one_stops_all_and_is_told_once(tmp_path: Path) -> None:
    with two(settings(lr_depth=1e30, bad_steps=0), tmp_path / "run") as process:
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and said.count("expected a finite number") == 1, said
    (bad,) = (tmp_path / "run" / "nonfinite").iterdir()
    held = torch.load(bad, weights_only=True)
    assert len(held["synthetic/0/image_t"]) == len(held["real/0/image_tgt"]) == 4


def test_uneven_batch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings(batch=3)
    monkeypatch.setattr(sources, "ranks", lambda: Ranks(1, 2))
    with pytest.raises(InputError, match="batch is 3 but there are 2 processes.*set batch=4$"):
        sources.stream(sources.synthetic_dataset(cfg), cfg, "synthetic")
    halves = settings(batch=4)
    assert len(sources.stream(sources.real_dataset(halves), halves, "real").batch(0).K) == 2
