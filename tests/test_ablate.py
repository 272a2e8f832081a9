"""An ablation from start to end: stopped, killed and started again it repeats nothing and ends in
the table of an unbroken run; a failing row takes no other along; a cluster may lose a worker."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from typer.testing import CliRunner

from s3net.app import jobs as app_jobs
from s3net.app.ablate import Outcome, Plan, gather, ground, plan_of, run_ablation
from s3net.app.ablation import summary_grid
from s3net.app.cli import app
from s3net.app.cluster import missing_packages
from s3net.app.jobs import Job
from s3net.app.stages import Lengths, distinct
from s3net.app.verdict import steps_grid
from s3net.base.core import InputError, read_json, write_json
from s3net.base.process import process_start
from s3net.data.miniworld import lesson_world
from s3net.show.grids import render
from s3net.train.runs import RUNS

QUIET = ["device=cpu", "snapshot_every=0", "shares_every=0"]
COMMAND = "from s3net.app.cli import main; main()"
LOCAL = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0")
PATIENCE = 600  # seconds, for a machine that does other things as well


class Here:
    "Trains in this very process"

    def __init__(self, job: Job) -> None:
        self.job = job

    def poll(self) -> str:
        try:
            RUNS[self.job.kind](self.job.cfg, self.job.path, True)
        except InputError as error:
            return str(error)
        return ""

    def ask(self) -> None: ...

    def end(self, wait: float) -> None: ...


def heard() -> None:
    "A process that a shell puts into the background is born deaf to Ctrl-C; these shall hear it"
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def command(place: Path, *words: str) -> Iterator[subprocess.Popen]:
    "The command in a process of its own, as a shell starts it; ended with the block"
    folders = ["--out", str(place / "runs"), "--results", str(place / "results")]
    common = [*QUIET, "--preset", "tiny"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "ablate", "table4", *common, *folders, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heard,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(true: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    "Wait for something; a process that ends before it has failed"
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def alive(runs: Path) -> dict[Path, int]:
    "Run folder -> the process that trains there now"
    found = {}
    for note in runs.glob("*/process.json"):
        told = read_json(note)
        same = process_start(told["pid"]) == told["started"]
        if same and not (note.parent / "ended.json").is_file():
            found[note.parent] = told["pid"]
    return found


def processes(runs: Path) -> dict[str, dict]:
    "Name of a finished training -> who trained it, and when"
    ended = (p.parent for p in runs.glob("*/ended.json"))
    return {p.name: read_json(p / "process.json") for p in ended
            if read_json(p / "ended.json")["how"] == "finished"}  # fmt: skip


def tables(outcome: Outcome) -> str:
    "What is printed, but for what it cost"
    return "\n".join(render(g(outcome), "text") for g in (summary_grid, steps_grid))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    "As the trainings have, so that they can be compared to the last digit"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    lesson_world()
    yield
    torch.set_num_threads(before)


@pytest.mark.timeout(2 * PATIENCE)
def test_killed_and_started_again(tmp_path: Path) -> None:
    """Ctrl-C; then a child is killed, and later the command itself: its trainings live on.

    The third start repeats nothing that was finished, waits for what still trains, and ends in the
    table of trainings that nobody disturbed."""
    words, runs = ("--seeds", "2", "--jobs", "2"), tmp_path / "runs"
    with command(tmp_path, *words) as first:
        until(lambda: len(processes(runs)) >= 2, first)
        first.send_signal(signal.SIGINT)
        said, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == 2 and "goes on from the last checkpoints" in said
    assert not alive(runs)
    with command(tmp_path, *words) as second:
        until(lambda: alive(runs), second)
        folder, pid = next(iter(alive(runs).items()))
        os.kill(pid, signal.SIGKILL)
        until(lambda: len(processes(runs)) >= 12 and alive(runs), second)
        second.kill()
        second.wait()
    before, orphans = processes(runs), alive(runs)
    kept = {f.name: f.read_bytes() for f in (tmp_path / "results").glob("*.json")}
    with command(tmp_path, *words) as third:
        said, _ = third.communicate(timeout=PATIENCE)
    assert third.returncode == 0, said
    after = processes(runs)
    plan = plan_of("table4", ground("tiny", QUIET), 2, out=runs, results=tmp_path / "results")
    assert set(after) == {j.path.name for c in plan.cells().values() for j in c.jobs}
    assert {name: after[name] for name in before} == before and 12 <= len(before) < len(after)
    waited = [path for path in orphans if path.name not in before]
    assert all(after[path.name]["pid"] == orphans[path] for path in waited)
    assert all((tmp_path / "results" / name).read_bytes() == held for name, held in kept.items())
    assert folder.name in after and f"{len(plan.cells())} rows and seeds" in said
    broken = gather(plan)
    whole = undisturbed(tmp_path / "whole")
    assert broken.found.keys() == whole.found.keys() == plan.cells().keys()
    for name, one in broken.found.items():
        assert one["weights"] == whole.found[name]["weights"], one["title"]
        assert one["depth"] == whole.found[name]["depth"]
    assert tables(broken) == tables(whole) and tables(whole).split("\n")[3] in said


def undisturbed(place: Path) -> Outcome:
    "The same rows and seeds without any interruption"
    folders = dict(out=place / "runs", results=place / "results")
    plan = plan_of("table4", ground("tiny", QUIET), 2, **folders)
    return run_ablation(plan, start=Here)


def run_command(*words: str) -> tuple[int, str]:
    "The command in this process: its exit code and what it said"
    told = CliRunner().invoke(app, ["ablate", "table4", *QUIET, "--preset", "tiny", *words])
    if isinstance(told.exception, InputError):
        return 2, str(told.exception)
    return told.exit_code, told.output


def test_failing_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Its reason is told, the others are in the table, and the exit code says that one is missing"
    recipe = {"name": "hasty", "title": "hasty", "graph": ["phase1"], "closeness": "", "tables": {}}
    write_json(tmp_path / "hasty.json", recipe | {"phase1": {"lr_depth": 1e30, "translate": False}})
    monkeypatch.setattr(app_jobs, "begin", lambda job, tries: Here(job))
    words = ["--seeds", "2", "--rows", "1,2", "--also", str(tmp_path / "hasty.json")]
    words += ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    code, said = run_command(*words)
    lost = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert code == 1 and len(lost) == 2 and all("finite number" in line for line in lost)
    assert "13. hasty, seed 0" in lost[0] and "hasty, seed 1" in lost[1]
    assert "1 → 2 translation" in said and "13 → 10" not in said
    page = (tmp_path / "runs" / "table4_tiny.html").read_text()
    assert "2. native translation" in page and "finite number" in page


WRONG = {
    "table9": (["table9"], "table4"),
    "misspelt setting": (["lr_dept=1"], "did you mean lr_depth"),
    "the graph's own": (["seed=3"], "--seeds"),
    "no such row": (["--rows", "1,77"], "'77'"),
    "no such recipe": (["--also", "s3nett"], "did you mean s3net"),
    "a world that is not there": (["--world", "nowhere"], "s3net world"),
    "lengths": (["--lengths", "1,2"], "three numbers"),
    "no seed": (["--seeds", "0"], "1 or more"),
}


@pytest.mark.parametrize(("words", "hint"), WRONG.values(), ids=WRONG)
def test_wrong_name_is_refused(tmp_path: Path, words: list[str], hint: str) -> None:
    "In one sentence, before a folder is made"
    if words == ["table9"]:
        with pytest.raises(InputError, match=hint):
            plan_of("table9", ground("tiny"))
        return
    folders = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    code, said = run_command(*words, *folders)
    assert code == 2 and hint in said and "\n" not in said and not list(tmp_path.iterdir())


def parent_of(pid: int) -> int:
    "The process that started a process"
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.timeout(2 * PATIENCE)
@pytest.mark.skipif(
    bool(missing_packages()), reason="the extra [cluster] is not installed: distributed is missing"
)
def test_cluster_loses_a_worker(tmp_path: Path) -> None:
    "A worker and its training are killed together, as if a machine had died; no row is lost"
    import distributed

    words = ["--seeds", "1", "--rows", "1,2", "--lengths", "1,6,6"]
    lengths, runs = Lengths(1, 6, 6), tmp_path / "runs"
    plan = plan_of("table4", ground("tiny", QUIET), 1, rows="1,2", lengths=lengths, out=runs)
    plan = Plan(**vars(plan) | {"results": tmp_path / "results"})
    wanted = {job.path.name for job in distinct(j for c in plan.cells().values() for j in c.jobs)}
    with (
        distributed.LocalCluster(**LOCAL) as cluster,
        distributed.Client(cluster) as client,
        command(tmp_path, *words, "--cluster", cluster.scheduler_address) as process,
    ):
        workers = set(client.run(os.getpid).values())
        assert len(workers) == 2
        until(lambda: alive(runs), process)
        folder, pid = next(iter(alive(runs).items()))
        assert parent_of(pid) in workers
        os.kill(parent_of(pid), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "failed" not in said, said
    after = processes(runs)
    assert set(after) == wanted and after[folder.name]["pid"] != pid
    assert gather(plan).found.keys() == plan.cells().keys()
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["step"] == 1 and "2 at once" in said
