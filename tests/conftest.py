"""What several tests share: the tools on the path, and small projects to try them on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]


def write_notebook(path: Path, *sources: str) -> Path:
    "A notebook of code cells; a source that starts with # and a blank is a markdown cell"
    cells = []
    for index, source in enumerate(sources):
        cell = {"id": f"cell{index}", "metadata": {}, "source": source.splitlines(True)}
        code = {"cell_type": "code", "execution_count": None, "outputs": []}
        cells.append(cell | ({"cell_type": "markdown"} if source.startswith("# ") else code))
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(notebook | {"nbformat": 4, "nbformat_minor": 5}, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def children(pid: int) -> list[int]:
    "Processes that a process started, on Linux"
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    "An empty project with this one's settings"
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "nbs").mkdir()
    (tmp_path / "s3net").mkdir()
    (tmp_path / "s3net" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    return tmp_path


@pytest.fixture
def tool(project: Path) -> Callable[..., subprocess.CompletedProcess]:
    "Run one of tools/ inside the small project"

    def run(name: str, *arguments: str) -> subprocess.CompletedProcess:
        env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
        command = [sys.executable, str(ROOT / "tools" / name), *arguments]
        return subprocess.run(
            command, cwd=project, env=env, capture_output=True, text=True, timeout=120
        )

    return run
