"""Notebooks as experiments: what is refused, what is left behind, what is shared, what goes on."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, write_notebook

from s3net.app.experiment import read_experiment, run_notebook
from s3net.app.parameters import read_parameters
from s3net.app.recipes import recipes
from s3net.base.core import InputError, read_json
from s3net.base.process import process_start
from s3net.data.miniworld import lesson_world
from s3net.eval.paper import paper_lines
from s3net.train.record import Run, read_metrics

FOLDER = ROOT / "nbs" / "experiments"
TEMPLATES = sorted(FOLDER.glob("*.ipynb"))
NAMES = "evaluate full phase1 phase2 segmenter table1 table2 table3 table4".split()
LAUNCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell made it deaf
from s3net.app.experiment import run_notebook
from s3net.base.core import InputError, read_json
try:
    run_notebook(sys.argv[1], sys.argv[4:], sys.argv[2], sys.argv[3] == "resume")
except InputError as error:
    sys.exit(f"s3net: {error}")
"""
TRAIN = """import json, pathlib
from s3net.base.config import preset
from s3net.data.miniworld import lesson_world
from s3net.train.record import read_metrics
from s3net.train.runs import run_phase1
world = lesson_world()
cfg = preset("tiny", synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"), seed=seed,
             steps=steps, translate=False, threads=1, snapshot_every=0, shares_every=0,
             checkpoint_every=4)
run_phase1(cfg, out, resume=True)
told = [list(record["updates"].values()) for record in read_metrics(out)]
pathlib.Path(out, "result.json").write_text(json.dumps({"losses": told}))"""


def tagged(path: Path, *sources: str) -> Path:
    "A notebook whose first cell holds the parameters"
    write_notebook(path, *sources)
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["metadata"] = {"tags": ["parameters"]}
    path.write_text(json.dumps(notebook))
    return path


def launch(out: Path, notebook: Path | str, *words: str, how: str = "new") -> subprocess.Popen:
    "s3net run, in a process of its own"
    command = [sys.executable, "-c", LAUNCH, str(notebook), str(out), how, *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def wait_for(happened, seconds: float = 60.0) -> None:
    "Until something is so"
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    "A notebook that needs nothing"
    work = """import json, pathlib
assert steps < 9, "too many steps"
pathlib.Path(out, "result.json").write_text(json.dumps({"far": steps * rate}))"""
    cell = 'name = ""\nout = ""\nsteps = 3\nrate = 0.5\nloud = False\nseeds: list = [0]'
    return tagged(tmp_path / "small.ipynb", cell, work)


@pytest.fixture
def training(tmp_path: Path) -> Path:
    "A notebook that trains f_T alone, without pictures"
    lesson_world()
    cell = 'name = ""\nout = ""\nsteps = 4\nseed = 0'
    return tagged(tmp_path / "training.ipynb", cell, TRAIN)


def test_the_templates_are_there():
    assert [path.stem for path in TEMPLATES] == NAMES


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template_keeps_the_rules(path: Path):
    declared = read_parameters(path)
    assert {"name", "out"} <= set(declared) and declared["out"].default == ""
    assert all(parameter.help for parameter in declared.values())
    notebook = json.loads(path.read_text())
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    assert not any(re.search(r"^#\|", source, re.M) for source in sources), "papermill knows none"
    assert not any("nbdev_export(" in source for source in sources)


def test_the_tag_survives_cleaning(project: Path):
    copies = [project / "nbs" / path.name for path in TEMPLATES]
    for path, copy in zip(TEMPLATES, copies):
        copy.write_bytes(path.read_bytes())
    clean = Path(sys.executable).with_name("nbdev_clean")
    subprocess.run([clean], cwd=project, check=True, capture_output=True, timeout=60)
    for path, copy in zip(TEMPLATES, copies):
        assert copy.read_bytes() == path.read_bytes(), f"{path.name} is not clean"
        assert read_parameters(copy) == read_parameters(path)


WRONG = {
    "stpes=3": "no parameter 'stpes' (did you mean steps?)",
    "steps=2.5": "expected a whole number",
    "steps=many": "expected a whole number",
    "rate=fast": "expected a number",
    "rate=inf": "expected a number",
    "loud=2": "expected true or false",
    "seeds=a,b": "expected a list such as 0",
    "out=elsewhere": "set by s3net run",
    "steps": "expected key=value",
    "name=../up": "names a folder",
}


@pytest.mark.parametrize("word", WRONG)
def test_wrong_words_are_refused_before_anything_runs(small: Path, word: str):
    with pytest.raises(InputError, match=re.escape(WRONG[word])) as refused:
        run_notebook(small, [word], small.parent / "runs")
    assert "\n" not in str(refused.value) and not (small.parent / "runs").exists()


def test_missing_notebook_names_the_nearest():
    with pytest.raises(InputError, match="did you mean table4"):
        run_notebook("tabel4")


def test_a_failing_cell_leaves_its_notebook(small: Path):
    out = small.parent / "runs"
    with pytest.raises(InputError, match=r"small.ipynb stopped at In \[3\]: AssertionError: too"):
        run_notebook(small, ["name=bad", "steps=9"], out, quiet=True)
    cells = json.loads((out / "bad" / "notebook.ipynb").read_text())["cells"]
    kinds = [o["output_type"] for cell in cells for o in cell.get("outputs", [])]
    assert kinds == ["error"] and read_experiment(out / "bad").how == "failed"
    assert not (out / "bad" / "notebook.part.ipynb").exists()
    with pytest.raises(InputError, match="go on with --resume"):
        run_notebook(small, ["name=bad", "steps=9"], out)
    with pytest.raises(InputError, match=re.escape("steps (9 then, 3 now)")):
        run_notebook(small, ["name=bad", "steps=3"], out, resume=True)


def test_a_dying_kernel_is_an_error(tmp_path: Path):
    path = tagged(tmp_path / "dies.ipynb", 'name = ""', "import os; os._exit(3)")
    with pytest.raises(InputError, match="dies.ipynb: its kernel died"):
        run_notebook(path, ["name=dead"], tmp_path / "runs", quiet=True)
    assert (tmp_path / "runs" / "dead" / "notebook.ipynb").is_file()


def test_interrupted_and_resumed(tmp_path: Path):
    source = "import time, pathlib\npathlib.Path(out, 'began').touch()\ntime.sleep(nap)"
    path = tagged(tmp_path / "sleeps.ipynb", 'name = ""\nout = ""\nnap = 60.0', source)
    folder = tmp_path / "runs" / "long"
    process = launch(tmp_path / "runs", path, "name=long")
    wait_for((folder / "began").exists)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0 and "interrupted; go on with --resume" in told
    assert read_experiment(folder).how == "stopped" and (folder / "notebook.ipynb").is_file()


def test_a_killed_training_goes_on(training: Path, tmp_path: Path):
    out = tmp_path / "runs"
    folder = out / "one"
    steps = 120  # more than the kernel makes before it notices that nobody waits for it
    process = launch(out, training, "name=one", f"steps={steps}")
    wait_for(lambda: len(read_metrics(folder)) > 4)
    process.kill()
    process.communicate(timeout=30)
    assert len(read_metrics(folder)) < steps and read_experiment(folder).how == "stopped"
    kernel = json.loads((folder / "process.json").read_text())
    wait_for(lambda: process_start(kernel["pid"]) != kernel["started"])
    first = read_metrics(folder)[0]
    again = run_notebook(training, ["name=one"], out, resume=True, quiet=True)
    records = read_metrics(folder)
    assert again.how == "finished" and Run(folder).finished() and records[0] == first
    assert [record["step"] for record in records] == list(range(1, steps + 1))
    assert len(again.result["losses"]) == steps == again.parameters["steps"]
    stamp = (folder / "notebook.ipynb").stat().st_mtime_ns
    assert run_notebook(training, ["name=one"], out, resume=True).result == again.result
    assert (folder / "notebook.ipynb").stat().st_mtime_ns == stamp


def test_parallel_runs_share_nothing_and_a_parameter_changes_the_result(
    training: Path, tmp_path: Path
):
    out = tmp_path / "runs"
    beside = launch(out, training, "name=left", "seed=0")
    right = run_notebook(training, ["name=right", "seed=1"], out, quiet=True)
    _, told = beside.communicate(timeout=120)
    assert beside.returncode == 0, told
    left = read_experiment(out / "left")
    exec(TRAIN, {"out": tmp_path / "alone", "seed": 0, "steps": 4})  # nobody beside it
    alone = read_json(tmp_path / "alone" / "result.json")
    assert left.result == alone != right.result
    links = [p for e in (left, right) for p in e.path.rglob("*") if p.is_symlink()]
    assert not links and {p.name for p in out.iterdir()} == {"left", "right"}


def test_a_template_runs_and_leaves_everything(tmp_path: Path):
    lesson_world()
    words = ["steps=2", "settings=snapshot_every=0,shares_every=0"]
    made = run_notebook("segmenter", words, tmp_path, quiet=True)
    assert re.fullmatch(r"segmenter-[0-9a-f]{8}", made.path.name) and made.result["images"] > 0
    assert Run(made.path).config.steps == 2 and Run(made.path).finished()
    cells = json.loads((made.path / "notebook.ipynb").read_text())["cells"]
    shown = [kind for c in cells for o in c.get("outputs", []) for kind in o.get("data", {})]
    assert shown.count("image/png") == 3 and read_experiment(made.path).how == "finished"
    for name in ("parameters", "environment", "config", "result"):
        assert (made.path / f"{name}.json").is_file()
    assert read_metrics(made.path)


def test_recipes_quote_what_the_paper_prints():
    printed = {
        (f"table{n}", row.name, row.cap, tuple(row.figures.values()))
        for n in (1, 2, 3, 4)
        for row in paper_lines(n)
    }
    quoted = {
        (line.table, line.row, line.cap, tuple(line.figures.values()))
        for recipe in recipes()
        for line in recipe.paper
    }
    assert quoted == printed and len(printed) == 16 + 9 + 7 + 10


def test_nothing_of_this_machine_in_the_templates():
    assert not any(os.path.expanduser("~") in path.read_text() for path in TEMPLATES)
