"""nbdev_test leaves no notebook out, and each library notebook opens as the others do."""

import json
import re
from pathlib import Path

import nbdev.test
import pytest
from conftest import ROOT
from floors import library_notebooks

ON_DISK = sorted(
    path for path in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)
LIBRARY = [ROOT / "nbs" / path for path in library_notebooks(ROOT)]


def cells(path: Path) -> list[tuple[str, str]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def name(path: Path) -> str:
    return path.relative_to(ROOT / "nbs").as_posix()


def test_nbdev_test_runs_every_notebook(monkeypatch: pytest.MonkeyPatch):
    ran = []

    def record(function, files, **options):
        ran.extend(files)
        return [(True, 0.0)] * len(files)

    monkeypatch.setattr(nbdev.test, "parallel", record)
    monkeypatch.chdir(ROOT)
    nbdev.test.nbdev_test()
    assert sorted(Path(path) for path in ran) == ON_DISK
    assert len(ran) >= len(LIBRARY) >= 30


@pytest.mark.parametrize("path", ON_DISK, ids=name)
def test_no_notebook_is_switched_off(path: Path):
    head = "\n".join(source for _, source in cells(path)[:2])
    assert "skip_exec" not in head, f"{name(path)} is never run; take skip_exec out"
    flags = [re.search(r"^#\|\s*(notest|eval: *false)", s, re.M) for _, s in cells(path)]
    assert not any(flags), f"{name(path)} has a cell that no run executes; use slow, data or gpu"


@pytest.mark.parametrize("path", LIBRARY, ids=name)
def test_library_notebook_opens_in_order(path: Path):
    found = cells(path)
    kinds = [kind for kind, _ in found[:4]]
    assert kinds == ["markdown", "code", "markdown", "code"]
    assert re.match(r"# \S.*\n+> \S", found[0][1]), "cell 1 is '# Title' and '> one line'"
    assert found[1][1].startswith("#| default_exp "), "cell 2 names the module"
    assert found[2][1].strip(), "cell 3 is the paper box"
    assert found[3][1].startswith("#| export\n"), "cell 4 is the exported imports"
    imports = [line for line in found[3][1].splitlines() if re.match(r"\S", line)]
    stray = [line for line in imports if not re.match(r"#|from |import |\)", line)]
    assert not stray, f"cell 4 holds imports alone, not {stray[0]!r}"
    assert "nbdev_export()" in found[-1][1], "the last cell exports"
