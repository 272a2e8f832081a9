"Bad input ends in one sentence that names the place, and in exit code 2; nothing is half-written."

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from s3net.app.cli import main
from s3net.data.miniworld import lesson_world
from s3net.data.samples import read_image, write_image


@pytest.fixture
def world(tmp_path: Path) -> Path:
    "A copy of the lesson world to damage"
    return Path(shutil.copytree(lesson_world(), tmp_path / "world"))


def cut_pictures(world: Path) -> None:
    for file in (world / "kitti_raw").rglob("image_02/data/*.png"):
        file.write_bytes(file.read_bytes()[:200])


def lose_a_frame(world: Path) -> None:
    sorted((world / "vkitti2").rglob("rgb_00001.*"))[0].unlink()


def forget_the_projection(world: Path) -> None:
    (file,) = (world / "kitti_raw").rglob("calib_cam_to_cam.txt")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("P_rect_02")))


def move_the_camera_out_of_the_picture(world: Path) -> None:
    for file in (world / "vkitti2").rglob("intrinsic.txt"):
        head, *rows = file.read_text().splitlines()
        moved = [" ".join([*row.split()[:4], "5000", row.split()[5]]) for row in rows]
        file.write_text("\n".join([head, *moved]) + "\n")


def shrink_the_labels(world: Path) -> None:
    for file in (world / "vkitti2").rglob("classgt_*.png"):
        write_image(file, np.ascontiguousarray(read_image(file)[::2, ::2]))


def empty_the_real_side(world: Path) -> None:
    shutil.rmtree(world / "kitti_raw")
    (world / "kitti_raw").mkdir()


CASES = {
    cut_pictures: r"image_02/data/\d+\.png",
    lose_a_frame: r"vkitti2.*rgb",
    forget_the_projection: r"calib_cam_to_cam\.txt.*P_rect_02",
    move_the_camera_out_of_the_picture: r"intrinsic\.txt",
    shrink_the_labels: r"classgt_\d+\.png",
    empty_the_real_side: r"kitti_raw",
}


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, *words: str) -> str:
    "What the command says when it refuses"
    monkeypatch.setattr(sys, "argv", ["s3net", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s3net: ")]
    assert ended.value.code == 2 and len(said) == 1
    return said[0]


def settings(world: Path) -> list[str]:
    where = [f"synthetic={world / 'vkitti2'}", f"real={world / 'kitti_raw'}"]
    return [*where, "translate=false", "device=cpu", "threads=1", "steps=2"]


@pytest.mark.parametrize("damage", CASES, ids=lambda damage: damage.__name__)
def test_damaged_data(damage, world, tmp_path, monkeypatch, capsys):
    damage(world)
    out = tmp_path / "run"
    words = ["train", "phase1", "--preset", "tiny", "--out", str(out), *settings(world)]
    said = typed(monkeypatch, capsys, *words)
    assert re.search(CASES[damage], said), said
    assert not (out / "checkpoints").exists() and not (out / "result.json").exists()
    assert not list(tmp_path.rglob(".*.tmp")) and not list(out.glob(".*/"))


def test_misspelt_setting_and_empty_folder(tmp_path, monkeypatch, capsys):
    said = typed(monkeypatch, capsys, "train", "phase1", "alpha_flaw=2")
    assert "did you mean alpha_flow" in said
    (tmp_path / "nothing").mkdir()
    said = typed(monkeypatch, capsys, "predict", str(tmp_path / "nothing"), str(tmp_path))
    assert "config.json" in said


def test_checkpoint_of_another_architecture(world, tmp_path, monkeypatch, capsys):
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    monkeypatch.setattr(
        sys, "argv",
        ["s3net", "train", "phase1", "--preset", "tiny", "--out", first, *settings(world)],
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    changed = [*settings(world), f"phase1_run={first}", "depth_width=8"]
    words = ["train", "phase2", "--preset", "tiny", "--out", second, *changed]
    assert "depth.safetensors is of another width" in typed(monkeypatch, capsys, *words)
