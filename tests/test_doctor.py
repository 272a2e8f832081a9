"""The doctor names every planted fault with its file, says what is healthy, and counts right."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from s3net.app.own_data import check_up, doctor, video
from s3net.base.core import InputError
from s3net.data.doctor import Checkup
from s3net.data.kitti_files import write_calib, write_velodyne
from s3net.data.miniworld import lesson_world
from s3net.data.samples import read_image, write_image
from s3net.data.video import open_footage, own_camera, write_clips, write_video

app = typer.Typer()
app.command()(doctor)
app.command()(video)


@pytest.fixture
def sick(tmp_path: Path) -> Path:
    "One real drive and one synthetic clip of the lesson world, to damage"
    source, root = lesson_world(), tmp_path / "world"
    drive = next(source.glob("kitti_raw/*/*_0001_sync"))
    keep = drive.relative_to(source)
    shutil.copytree(drive / "image_02", root / keep / "image_02")
    shutil.copytree(drive.parent, root / keep.parent, ignore=lambda d, n: [
        name for name in n if name.endswith("_sync")
    ], dirs_exist_ok=True)  # fmt: skip
    clip = next(source.glob("vkitti2/*/clone"))
    shutil.copytree(clip, root / clip.relative_to(source))
    return root


def look(path: Path) -> Checkup:
    "The check-up of the one take there is"
    (seen,) = check_up(path, progress=False)[1]
    return seen


def raw(root: Path, frame: int) -> Path:
    (file,) = (root / "kitti_raw").rglob(f"image_02/data/{frame:010d}.png")
    return file


def part(root: Path, name: str) -> Path:
    (file,) = (root / "vkitti2").rglob(name)
    return file


def cut(file: Path) -> Path:
    file.write_bytes(file.read_bytes()[:150])
    return file


def halve(file: Path) -> Path:
    write_image(file, np.ascontiguousarray(read_image(file)[::2]))
    return file


def lose(file: Path) -> Path:
    file.unlink()
    return file


def brighten(file: Path) -> Path:
    write_image(file, (read_image(file) * 1.7).clip(0, 255).astype(np.uint8))
    return file


def blacken(file: Path) -> Path:
    write_image(file, read_image(file) * 0)
    return file


def repeat(file: Path) -> Path:
    shutil.copy(file.with_name(f"{int(file.stem) - 1:010d}.png"), file)
    return file


def deepen(file: Path) -> Path:
    write_image(file, read_image(file).astype(np.uint16) * 257)
    return file


def paint(file: Path) -> Path:
    pixels = read_image(file).copy()
    pixels[:9, :9] = (1, 2, 3)
    write_image(file, pixels)
    return file


def scan(root: Path) -> Path:
    file = raw(root, 2).parents[2] / "velodyne_points" / "data" / f"{2:010d}.bin"
    write_velodyne(file, np.ones((10, 4), np.float32))
    file.write_bytes(file.read_bytes()[:-3])
    return file


def edit(file: Path, change: Callable[[str], str]) -> Path:
    file.write_text(change(file.read_text()))
    return file


def calib(root: Path) -> Path:
    return next((root / "kitti_raw").glob("*/calib_cam_to_cam.txt"))


def other_size(text: str) -> str:
    return re.sub(r"S_rect_02: .*", "S_rect_02: 1242.0 375.0", text)


def lens(text: str, numbers: str) -> str:
    return re.sub(r"P_rect_02: .*", f"P_rect_02: {numbers}", text)


WRONG_SIZE = "721.5 0 609.6 0 0 721.5 172.9 0 0 0 1 0"
NOT_RESIZED = "721.5 0 95 0 0 721.5 31 0 0 0 1 0"
FAULTS = {
    "cut picture": (lambda w: cut(raw(w, 3)), "fault", "cannot be decoded"),
    "16-bit picture": (lambda w: deepen(raw(w, 1)), "fault", "uint16"),
    "picture of another size": (lambda w: halve(raw(w, 2)), "fault", "most are 192 x 64"),
    "lost picture": (lambda w: lose(raw(w, 3)), "warning", "has no successor"),
    "flash": (lambda w: brighten(raw(w, 2)), "warning", "as bright as the frame before"),
    "black frame": (lambda w: blacken(raw(w, 4)), "warning", "even colour"),
    "same frame twice": (lambda w: repeat(raw(w, 3)), "warning", "same picture"),
    "damaged scan": (scan, "fault", "bytes"),
    "calibration of another size": (
        lambda w: edit(calib(w), other_size), "fault", "made for 1242 x 375"
    ),
    "K of another size": (
        lambda w: edit(calib(w), lambda t: lens(t, WRONG_SIZE)), "fault", "outside a picture"
    ),
    "K never resized": (
        lambda w: edit(calib(w), lambda t: lens(t, NOT_RESIZED)), "warning", "angle of view of 15"
    ),
    "calibration without projection": (
        lambda w: edit(calib(w), lambda t: t.replace("P_rect_02", "P_99")), "fault", "no P_rect_02"
    ),
    "no calibration": (lambda w: lose(calib(w)), "fault", "does not exist"),
    "lost synthetic frame": (lambda w: lose(part(w, "rgb_00001.*")), "fault", "1 missing"),
    "cut synthetic frame": (lambda w: cut(part(w, "rgb_00002.*")), "fault", "decoded|end marker"),
    "lost depth": (lambda w: lose(part(w, "depth_00001.png")), "fault", r"\(depth\) does not"),
    "cut flow": (lambda w: cut(part(w, "flow_00000.png")), "fault", r"\(forward\) cannot be"),
    "lost backward flow": (lambda w: lose(part(w, "backwardFlow_00002.png")), "fault", "backward"),
    "labels of another size": (
        lambda w: halve(part(w, "classgt_00003.png")), "fault", r"\(labels\) is 192 x 32"
    ),
    "unknown class colour": (lambda w: paint(part(w, "classgt_00000.png")), "fault", "table lacks"),
    "no row of K": (
        lambda w: edit(part(w, "intrinsic.txt"), lambda t: t.split("\n")[0]), "fault", "no row"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_file(name: str, sick: Path):
    plant, level, words = FAULTS[name]
    file = plant(sick)
    side = next(p for p in file.parents if p.name in ("kitti_raw", "vkitti2"))
    seen = look(side)
    hits = [f for f in seen.findings if f.level == level and re.search(words, f"{f.file} {f.said}")]
    assert hits, seen.findings
    assert any(file.name in f"{f.file} {f.said}" for f in hits), hits
    assert seen.usable == (level == "warning") and all(f.advice for f in seen.findings)


def test_healthy_data_is_left_alone(sick: Path):
    for side in ("kitti_raw", "vkitti2"):
        seen = look(sick / side)
        assert seen.usable and not seen.findings and seen.opened == seen.frames > 3
        assert seen.size == (64, 192) and 80 < seen.fov[0] < 83


def test_standing_and_counting(sick: Path):
    first = read_image(raw(sick, 0)).astype(int)
    for frame in range(1, 5):
        noise = np.random.default_rng(frame).normal(0, 3, first.shape)
        write_image(raw(sick, frame), (first + noise).clip(0, 255).astype(np.uint8))
    seen = look(sick / "kitti_raw")
    assert seen.standing == 1 and not seen.usable
    assert "stands still in 100%" in seen.findings[0].said
    lose(raw(sick, 1)), lose(raw(sick, 3))
    seen = look(sick / "kitti_raw")
    assert (seen.gaps, seen.lonely, seen.triplets) == (2, 2, 0)
    assert any("no three consecutive frames" in f.said for f in seen.findings)


def shots(count: int) -> list[np.ndarray]:
    "A film that glides: a wide picture under a moving window"
    source = read_image(next((lesson_world() / "kitti_raw").rglob("image_02/data/*.png")))
    wide = np.concatenate([source, source[:, ::-1]], 1)
    return [np.ascontiguousarray(wide[:, 2 * k : 2 * k + 128]) for k in range(count)]


def test_own_video_and_its_faults(tmp_path: Path):
    film = write_video(tmp_path / "film.mp4", shots(9), rate=30)
    (seen,) = check_up(film, lambda size: own_camera(size, hfov=60), progress=False)[1]
    assert seen.usable and not seen.findings and abs(seen.typical - 2 / 128) < 3e-3
    (blind,) = check_up(film, progress=False)[1]
    assert [f.said for f in blind.findings] == ["its camera is not known"] and blind.usable
    data = film.read_bytes()
    end = data.find(b"moov") - 4  # the pictures end here; the table of contents follows
    (tmp_path / "torn.mp4").write_bytes(data[: end - 300] + bytes(300) + data[end:])
    (torn,) = check_up(tmp_path / "torn.mp4", progress=False)[1]
    assert not torn.usable and "torn.mp4" in torn.findings[0].file
    K = torch.tensor([[110.8, 0, 63.5], [0, 110.8, 31.5], [0, 0, 1]])
    write_clips(open_footage(film), tmp_path / "own", K, progress=False)
    assert look(tmp_path / "own").usable
    write_calib(tmp_path / "own" / "sequences" / "00" / "calib.txt", {"P2": np.zeros((3, 4))})
    assert look(tmp_path / "own").findings[0].file.endswith("calib.txt")


def test_exit_codes(sick: Path, tmp_path: Path):
    def run(*words) -> tuple[int, object]:
        done = CliRunner().invoke(app, [str(w) for w in words])
        return done.exit_code, done.exception

    assert run("doctor", sick / "vkitti2")[0] == 0
    cut(part(sick, "classgt_00001.png"))
    page = tmp_path / "page.html"
    assert run("doctor", sick / "vkitti2", "--page", page)[0] == 1
    assert "classgt_00001.png" in page.read_text()
    assert isinstance(run("doctor", tmp_path / "nothing")[1], InputError)
    film = write_video(tmp_path / "film.mp4", shots(5))
    assert isinstance(run("video", film, "--out", tmp_path / "own")[1], InputError)
    assert not (tmp_path / "own").exists()


def test_without_the_extra_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    film = write_video(tmp_path / "film.mp4", shots(3))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"pip install 's3net\[video\]'"):
        check_up(film, progress=False)
