"The lists travel with the wheel, answer at once, and count as the literature does."

import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from wheel import build

from s3net.app.data import check_lines
from s3net.data.lists import LISTS, check_drives, held, read_list, read_runs

LITERATURE = {
    "eigen_test": 697, "eigen_train": 45200, "eigen_val": 1776, "s3net": 41738,
    "eigen_zhou": 44234, "odometry_test3": 1589 + 1199, "odometry_test5": 1587 + 1197,
    "s3net_synthetic": 20470, "vkitti_train": 21030, "vkitti_test": 230,
}  # fmt: skip


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "The wheel's content in a folder, as an installer would lay it out"
    folder = tmp_path_factory.mktemp("wheel")
    zipfile.ZipFile(build(folder)).extractall(folder / "site")
    return folder / "site"


def test_wheel_carries_every_list(unpacked: Path):
    there = sorted(p.name for p in (unpacked / "s3net/data/splits").iterdir())
    assert there == sorted(p.name for p in (ROOT / "s3net/data/splits").iterdir())
    assert len(there) == 3
    for name in there:
        assert json.loads((unpacked / "s3net/data/splits" / name).read_text("utf-8"))


def test_wheel_carries_every_recipe(unpacked: Path):
    there = sorted(p.name for p in (unpacked / "s3net/recipes").iterdir())
    assert there == sorted(p.name for p in (ROOT / "s3net/recipes").iterdir()) and len(there) >= 30
    for name in there:
        held = json.loads((unpacked / "s3net/recipes" / name).read_text("utf-8"))
        assert held["name"] == name[:-5]


def test_command_of_the_wheel_in_an_empty_folder(unpacked: Path, tmp_path: Path):
    script = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r})\n"
        "from s3net.app.start import main\n"
        "import s3net\n"
        "sys.argv = ['s3net', 'data', 'lists']\n"
        "try:\n    main()\n"
        "finally:\n    print(s3net.__file__, 'torch' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    heads = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in lines[::2]}
    assert set(heads) == set(LISTS) and LITERATURE.items() <= heads.items()
    assert last == f"{unpacked}/s3net/__init__.py False" and busy < 2
    assert not list(tmp_path.iterdir())


def test_every_frame_of_a_clip_is_a_trained_frame():
    trained = set(read_list("eigen_train"))
    for drive, camera, frame in read_list("s3net"):
        assert {(drive, camera, frame + step) for step in (-1, 0, 1)} <= trained


def test_order_of_the_test_list_is_the_published_one():
    first, last = read_list("eigen_test")[0], read_list("eigen_test")[-1]
    assert first == ("2011_09_26_drive_0002_sync", 2, 69)
    assert last == ("2011_10_03_drive_0047_sync", 2, 768)


def test_a_lost_picture_costs_the_clips_it_is_in(tmp_path: Path):
    "A disk with one whole drive, then the same disk with one picture less"
    drive = "2011_09_26_drive_0113_sync"
    row = held("kitti_eigen")["train"][drive]
    day = tmp_path / drive[:10]
    for camera in (2, 3):
        folder = day / drive / f"image_0{camera}" / "data"
        folder.mkdir(parents=True)
        for frame in range(row["frames"]):
            (folder / f"{frame:010d}.jpg").touch()
    for name in ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt"):
        (day / name).touch()

    def there(name: str) -> int:
        (line,) = (x for x in check_lines(check_drives(tmp_path)) if x.startswith(f"{name}:"))
        return int(line.split()[1].replace(",", ""))

    of_drive = [key for key in read_list("s3net") if key[0] == drive]
    assert there("s3net") == len(of_drive) and there("eigen_test") == 0
    (check,) = (c for c in check_drives(tmp_path) if c.drive == drive)
    assert check.complete
    middle = next(f for _, c, f in of_drive if c == 2 and (drive, 2, f + 1) in of_drive)
    (day / drive / "image_02" / "data" / f"{middle:010d}.jpg").unlink()
    lost = [f for _, c, f in of_drive if c == 2 and abs(f - middle) <= 1]
    assert there("s3net") == len(of_drive) - len(lost) and len(lost) >= 2
    assert middle not in read_runs(row["val"])
