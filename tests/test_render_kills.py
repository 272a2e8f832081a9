"A renderer killed with SIGKILL at several moments ends in the bytes of one that nobody killed."

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import children
from test_faults import disk

from s3net.base.core import InputError, write_json
from s3net.base.process import alive
from s3net.data.miniworld import render_world

if not Path("/proc/self/task").is_dir():
    pytest.skip("children of a process are read from /proc", allow_module_level=True)

RENDER = """
import sys
from s3net.data.miniworld import render_world
render_world(sys.argv[1], "lesson", size=(32, 96), workers=2, progress=False)
"""
DIES_WHILE_IT_REPLACES = """
import os, signal
plain = os.replace

def replace(source, target):
    if str(source).endswith(".part/made"):
        os.kill(os.getpid(), signal.SIGKILL)
    plain(source, target)

os.replace = replace
"""
PATIENCE = 600  # seconds, for a machine that does other things as well


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    "Also where a test fails"
    yield
    for process in STARTED:
        process.kill()
        process.wait()
    STARTED.clear()


def renderer(root: Path, before: str = "") -> subprocess.Popen:
    "A process that renders, in a group of its own"
    command = [sys.executable, "-c", before + RENDER, str(root)]
    STARTED.append(
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    )
    return STARTED[-1]


def wait_until(is_so: Callable[[], object], seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it never came to that"
        time.sleep(0.005)


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def killed(root: Path, is_so: Callable[[], object], whole_group: bool) -> list[int]:
    "Start a renderer, kill it when something is so; its workers"
    process = renderer(root)
    wait_until(is_so)
    workers = children(process.pid)
    assert len(workers) == 2 and process.poll() is None
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return workers


def earlier_leftovers(root: Path) -> None:
    "What others left: another seed's part, an earlier version's part, an older world in the place"
    part, gone = root.with_name(f"{root.name}.part"), subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (part / "made").mkdir(parents=True)
    (part / "made" / "of another seed.txt").touch()
    write_json(part / "stamp.json", {"seed": 1})
    root.with_name(f"{root.name}.part-{gone.pid}").mkdir()
    write_json(root / "world.json", {"seed": 1})


@pytest.mark.timeout(900)
def test_killed_renders_end_in_the_same_bytes(tmp_path: Path):
    root, whole = tmp_path / "killed", tmp_path / "whole"
    part = root.with_name("killed.part")

    def marks() -> dict[str, int]:
        return {p.name: p.stat().st_mtime_ns for p in part.glob("done/*.json")}

    def on_desks() -> int:
        "Pictures under work; os.walk passes over another seed's folders that go while it looks"
        found = [(Path(folder), names) for folder, _, names in os.walk(part)]
        desks = [names for folder, names in found if str(folder).startswith(str(part / "desk"))]
        return sum(name.endswith(".png") for names in desks for name in names)

    earlier_leftovers(root)
    both = [renderer(whole), renderer(whole)]  # two at once: one renders, the other waits
    assert [process.wait(PATIENCE) for process in both] == [0, 0]
    said = "".join(process.stderr.read() for process in both)
    assert said == f"s3net: another process renders {whole}; waiting for it\n"

    workers = killed(root, lambda: on_desks() > 3, whole_group=False)
    wait_until(lambda: not any(map(alive, workers)), seconds=60)  # they leave with their parent
    assert not (part / "made" / "of another seed.txt").exists()
    first = marks()
    killed(root, lambda: len(marks()) >= len(first) + 2, whole_group=True)
    second = marks()
    assert len(first) + 2 <= len(second) < 8 and first.items() <= second.items()
    assert content(root) == {"world.json": (root / "world.json").read_bytes()}  # the older world

    unmarked, spoilt = sorted(second)[0], sorted(second)[-1]
    (part / "done" / unmarked).unlink()  # as a kill leaves it: all files of a clip, but no mark
    # as a power cut leaves it: a mark, and a file without its end
    file = next(p for p in part.glob(f"made/**/*{spoilt[:-5]}*/**/*.png"))
    file.write_bytes(file.read_bytes()[:100])
    late = renderer(root, DIES_WHILE_IT_REPLACES)
    assert late.wait(PATIENCE) == -signal.SIGKILL
    assert len(marks()) == 8 and not root.exists()
    third = marks()
    assert {name for name in second if third[name] != second[name]} == {
        unmarked,
        spoilt,
    }  # made anew

    assert renderer(root).wait(PATIENCE) == 0
    assert content(root) == content(whole)
    names = [".killed.lock", ".whole.lock", "killed", "whole"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


@pytest.mark.timeout(600)
def test_a_disk_that_fills_while_a_world_is_rendered(tmp_path: Path):
    "One sentence, nothing half-written in the place, and no part that keeps the disk full"
    place = tmp_path / "small"
    disk(place, "1m")
    try:
        with pytest.raises(InputError, match=f"rendering lesson into {place} stopped: .*[Ss]pace"):
            render_world(place / "world", "lesson", size=(32, 96), progress=False)
        assert [p.name for p in place.iterdir()] == [".world.lock"]
    finally:
        subprocess.run(["umount", str(place)], check=True)
