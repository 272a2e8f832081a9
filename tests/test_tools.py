"""The runner, the executor and the export check, each on a project with something wrong in it."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import write_notebook


def outputs(path: Path) -> list[list]:
    return [c.get("outputs") for c in json.loads(path.read_text())["cells"]]


def export(project: Path, *commands: str) -> None:
    for command in commands:
        subprocess.run([Path(sys.executable).parent / command], cwd=project, check=True)


def test_runner_counts_and_names(project: Path, tool):
    write_notebook(project / "nbs/0_base/00_good.ipynb", "assert 1 + 1 == 2")
    write_notebook(project / "nbs/0_base/01_bad.ipynb", "assert 1 + 1 == 3")
    write_notebook(project / "nbs/0_base/02_dies.ipynb", "import os\nos._exit(7)")
    write_notebook(project / "nbs/0_base/03_flag.ipynb", "x = 1", "#| data\nassert False")
    done = tool("run_notebooks.py")
    assert done.returncode == 1 and done.stdout.endswith("2 passed, 2 failed\n")
    assert "AssertionError" in done.stdout and "its process ended with 7" in done.stdout
    assert "03_flag.ipynb cell 1: data, needs the real frames" in done.stdout


def test_flagged_cells_run_on_request(project: Path, tool):
    write_notebook(project / "nbs/0_base/03_flag.ipynb", "#| slow\nassert False")
    assert tool("run_notebooks.py").returncode == 0
    assert tool("run_notebooks.py", "--flags", "slow").returncode == 1


def test_no_notebook_is_a_failure(project: Path, tool):
    done = tool("run_notebooks.py")
    assert done.returncode == 1 and done.stdout == "0 passed, 0 failed\n"


def test_executor_keeps_evidence_only(project: Path, tool):
    path = write_notebook(
        project / "nbs/0_base/00_shown.ipynb",
        "import os, sys\nprint('progress', file=sys.stderr)",
        "os.path.isdir(os.environ['S3NET_REAL'])",
        "#| data\n1 / 0",
        "import ipywidgets\nipywidgets.IntSlider()",
        "os.path.basename(os.getcwd())",
    )
    notebook = json.loads(path.read_text())
    notebook["cells"][2]["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["old"]}]
    path.write_text(json.dumps(notebook))
    done = tool("execute_notebooks.py")
    assert done.returncode == 0, done.stdout + done.stderr
    kept = outputs(path)
    assert [len(o) for o in kept] == [0, 1, 0, 0, 1] and "progress" in done.stdout
    assert kept[1][0]["data"]["text/plain"] == ["False"], "the real frames are out of reach"
    assert kept[4][0]["data"]["text/plain"] == ["'0_base'"], "it runs in its own folder"
    written = path.read_bytes()
    export(project, "nbdev_clean")
    assert path.read_bytes() == written, "nbdev_clean finds nothing left to do"


def test_executor_leaves_a_failing_notebook_alone(project: Path, tool):
    path = write_notebook(project / "nbs/0_base/00_fails.ipynb", "1 / 0")
    before = path.read_bytes()
    done = tool("execute_notebooks.py")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stdout
    assert path.read_bytes() == before


def test_pictures_older_than_code_are_named(project: Path, tool):
    path = write_notebook(project / "nbs/0_base/00_shown.ipynb", "1 + 1")
    assert tool("execute_notebooks.py").returncode == 0
    assert tool("check.py", "pictures").returncode == 0
    path.write_text(path.read_text().replace("1 + 1", "1 + 2"))
    done = tool("check.py", "pictures")
    assert done.returncode == 1 and "nbs/0_base/00_shown.ipynb keeps outputs older" in done.stdout


def test_export_check_sees_edit_orphan_and_dirt(project: Path, tool):
    path = write_notebook(
        project / "nbs/0_base/00_a.ipynb", "#| default_exp base.a", "#| export\nx = 1"
    )
    export(project, "nbdev_export", "nbdev_clean")
    assert tool("check.py", "sync").returncode == 0
    module = project / "s3net/base/a.py"
    (project / "s3net/base/old.py").write_text(module.read_text())
    module.write_text(module.read_text() + "y = 2\n")
    path.write_text(path.read_text().replace('"execution_count": null', '"execution_count": 3'))
    before = module.read_bytes(), path.read_bytes()
    done = tool("check.py", "sync")
    assert done.returncode == 1
    assert "s3net/base/a.py is not what its notebook exports" in done.stdout
    assert "s3net/base/old.py comes from no notebook" in done.stdout
    assert "nbs/0_base/00_a.ipynb is not clean" in done.stdout
    assert before == (module.read_bytes(), path.read_bytes()), "checking changes nothing"
