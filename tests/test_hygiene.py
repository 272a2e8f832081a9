"""What must never be committed is not there."""

import base64
import hashlib
import json
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from nbtools import held_back

KITTI_SIZES = {(1242, 375), (1241, 376), (1226, 370), (1224, 370), (1238, 374)}
KITTI_SIZES |= {(1216, 352), (1392, 512)}
COMMITTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
FILES = [
    ROOT / line
    for line in subprocess.run(
        COMMITTED, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    if (ROOT / line).is_file()
]
NOTEBOOKS = [path for path in FILES if path.suffix == ".ipynb"]
PLACES = re.compile(r"(?<![\w.:/])/(?:root|home|Users|work|opt|mnt|srv)/\w+|[A-Z]:\\\\Users")
HOSTS = re.compile(r"--?(?:extra-)?index-url|--find-links|files\.pythonhosted\.org|/simple\b")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(path: Path) -> str:
    "What people wrote or cells printed; pictures in notebooks left out"
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
    return re.sub(r'"image/(?:png|jpeg)": "[^"]*"', "", content)


def png_size(data: bytes) -> tuple[int, int] | None:
    known = data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24]) if known else None


def pictures(path: Path) -> list[bytes]:
    "Every picture kept in a notebook"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    shown = [o.get("data", {}) for c in cells for o in c.get("outputs", [])]
    kept = [d[kind] for d in shown for kind in ("image/png", "image/jpeg") if kind in d]
    return [base64.b64decode("".join(picture)) for picture in kept]


def test_there_is_something_to_look_at():
    assert len(FILES) > 40 and len(NOTEBOOKS) >= 30


@pytest.mark.parametrize("pattern", [PLACES, HOSTS], ids=["machine paths", "registry hosts"])
def test_no_trace_of_one_machine(pattern: re.Pattern):
    looked = [path for path in FILES if path != Path(__file__)]
    found = [f"{name(path)}: {m.group()}" for path in looked for m in pattern.finditer(text(path))]
    assert not found, "\n".join(found)


def test_patterns_find_what_they_are_for():
    assert PLACES.search("see /root/x") and PLACES.search('"/home/me/data"')
    assert not PLACES.search("https://example.invalid/home/x")
    assert HOSTS.search("pip install --index-url https://mirror.example.invalid")


def test_data_folder_holds_only_its_readme():
    stray = [name(p) for p in FILES if p.is_relative_to(ROOT / "data") and p.name != "README.md"]
    assert not stray


def test_no_real_frame_among_the_files():
    named = os.environ.get("S3NET_REAL")
    real = Path(named) if named else ROOT.parent / "shared" / "real"
    frames = (path for path in real.rglob("*") if path.suffix in (".jpg", ".png", ".bin"))
    known = {hashlib.sha256(path.read_bytes()).digest() for path in frames}
    sizes = {path: png_size(path.read_bytes()[:24]) for path in FILES}
    copies = [name(p) for p in FILES if hashlib.sha256(p.read_bytes()).digest() in known]
    assert not copies
    assert not [name(path) for path, size in sizes.items() if size in KITTI_SIZES]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebook_is_light_and_whole(path: Path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 600_000, "more than 600 kB; keep fewer or smaller pictures"
    assert "widgets" not in notebook["metadata"], "carries widget state; run make notebooks"
    for index, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", f"cell {index} holds an error"
            assert not any("widget" in kind for kind in output.get("data", {})), f"cell {index}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_no_real_pixels_in_notebook(path: Path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for index in held_back(path, {"data", "gpu", "slow"}):
        assert not notebook["cells"][index]["outputs"], f"flagged cell {index} keeps outputs"
    assert not KITTI_SIZES & {png_size(picture) for picture in pictures(path)}
