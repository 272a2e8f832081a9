"""The package imports where nothing of Jupyter is installed."""

import subprocess
import sys

from conftest import ROOT
from floors import library_notebooks

BLOCKED = (
    "nbdev fastcore execnb IPython ipykernel ipywidgets anywidget jupyterlab jupyter_client "
    "notebook nbformat nbclient nbconvert papermill"
).split()
SCRIPT = """
import importlib, importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
for name in {names!r}:
    importlib.import_module(name)
print(len({names!r}))
"""


def import_all(names: list[str]) -> subprocess.CompletedProcess:
    script = SCRIPT.format(blocked=BLOCKED, names=names)
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_all_but_the_widget_floor_imports_without_jupyter():
    library = library_notebooks(ROOT).items()
    names = [f"s3net.{module}" for path, module in library if not path.parts[0].startswith("8_")]
    done = import_all(["s3net", *sorted(names)])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(names) + 1 > 30


def test_the_block_blocks():
    done = import_all(["nbdev"])
    assert done.returncode != 0 and "nbdev is blocked" in done.stderr
