"""Damaged files, a few hundred of them: each is read right or refused in one sentence.

Every case damages one file (or swaps two) of a small, valid copy of each format, reads everything
through the reader, and then mends the copy. Right means: the very values that were read from the
valid copy. Some damage cannot be noticed by any reader, and there only whole, finite, right-shaped
values in range are asked for; `Damage.unseen` says where and why:

* a bit in the entropy-coded part of a JPEG changes colours and nothing else;
* laser scans are bare floats without length or checksum: a bit, or a whole number of points at the
  end, leaves a valid scan;
* MATLAB arrays are bare doubles; a bit changes one distance;
* a digit of a text file becomes another digit, or its last digits are cut: another number that may
  be as good as the first;
* two files of one kind under each other's names are both valid;
* a grey picture is a picture.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzz import as_bytes, cut, flip_bit, folder_instead, in_time

from s3net.base.core import InputError, numpy_generator
from s3net.data.kitti import KittiAnnotatedDepth, KittiOdometry, KittiRaw, KittiRawDepth
from s3net.data.kitti import annotated_file, encode_annotated
from s3net.data.kitti_files import drive_poses, poses_to_oxts_lines, raw_file, rigid
from s3net.data.kitti_files import write_date_calib, write_velodyne
from s3net.data.layouts import odometry_from_raw
from s3net.data.make3d import GRID, Make3dTest, write_make3d
from s3net.data.samples import Sample, check_sample, read_image, write_image
from s3net.data.vkitti import VirtualKitti2, write_vkitti2_clip_text, write_vkitti2_frame
from s3net.data.vkitti1 import VirtualKitti1, write_vkitti1_frame, write_vkitti1_text

SIZE, FRAMES, PAIRS = (20, 64), 5, 2
DRIVE = "2011_09_26_drive_0001_sync"
K = np.array([[36.0, 0, 31], [0, 36, 9], [0, 0, 1]])
T_CAM_VELO = np.array([[0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1.0]])
Found = dict[str, dict[str, torch.Tensor]]  # sample -> field -> value


# --- a small valid copy of every format ----------------------------------------------------------


def picture(*seed: int) -> np.ndarray:
    return numpy_generator(5, *seed).integers(0, 256, (*SIZE, 3)).astype("uint8")


def write_raw(root: Path) -> None:
    ahead = np.stack([rigid(np.eye(3), np.array([0.8 * k, 0, 0])) for k in range(FRAMES)])
    for k, line in enumerate(poses_to_oxts_lines(ahead)):
        for camera, suffix in ((2, ".png"), (3, ".jpg")):
            write_image(raw_file(root, DRIVE, camera, k, suffix), picture(k, camera))
        points = numpy_generator(6, k).uniform([2, -5, -2, 0], [60, 5, 1, 1], (301, 4))
        write_velodyne(raw_file(root, DRIVE, "velodyne", k), points)
        file = raw_file(root, DRIVE, "oxts", k)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(line + "\n")
        depth = numpy_generator(7, k).uniform(1, 80, SIZE)
        write_image(annotated_file(root, DRIVE, 2, k), encode_annotated(depth))
    write_date_calib(root / DRIVE[:10], K, SIZE, T_CAM_VELO, np.eye(4))
    stamps = [f"2011-09-26 13:00:{0.1 * k:012.9f}\n" for k in range(FRAMES)]
    (raw_file(root, DRIVE, 2, 0).parent.parent / "timestamps.txt").write_text("".join(stamps))


def write_virtual(root: Path) -> None:
    poses = np.stack([rigid(np.eye(3), np.array([0, 0, -1.1 * k])) for k in range(PAIRS + 1)])
    for k in range(PAIRS + 1):
        numbers = numpy_generator(8, k)
        labels = numbers.integers(0, 12, SIZE)
        depth, flow = numbers.uniform(1, 100, SIZE), numbers.uniform(-15, 15, (2, *SIZE))
        valid = numbers.random(SIZE) < 0.8
        forward = (flow, valid) if k < PAIRS else (None, None)
        backward = (-flow, valid) if k else (None, None)
        write_vkitti2_frame(
            root / "v2", "Scene01", "clone", k, picture(k), depth, labels, *forward, *backward,
            suffix=".png",
        )  # fmt: skip
        cars = np.arange(SIZE[1]) // 16 + np.zeros(SIZE, int)
        write_vkitti1_frame(
            root / "v1", "0001", "clone", k, picture(k), depth, labels, cars, *forward
        )
    write_vkitti2_clip_text(root / "v2", "Scene01", "clone", np.stack([K] * (PAIRS + 1)), poses)
    write_vkitti1_text(root / "v1", "0001", "clone", poses, cars=4)


def write_all(root: Path) -> Path:
    write_raw(root / "raw")
    odometry_from_raw(root / "raw", DRIVE, root / "odometry", "09")
    write_virtual(root)
    for k in range(2):
        points = numpy_generator(9, k).uniform([-3, -3, 2], [3, 3, 50], (*GRID, 3))
        tall = picture(k).transpose(1, 0, 2)[:24, :18]
        write_make3d(root / "make3d", f"10.21op{k}-p-015t000", tall, points, (".jpg", ".png")[k])
    return root


# --- every reader, read to the end ---------------------------------------------------------------


def fields(sample: Sample) -> dict[str, torch.Tensor]:
    return check_sample(sample).tensors()


def all_of(data) -> Found:
    return {str(key): fields(data[i]) for i, key in enumerate(data.keys)}


def rows(values: dict) -> Found:
    return {str(k): {"value": torch.as_tensor(v)} for k, v in values.items()}


def read_odometry(root: Path) -> Found:
    videos = [KittiOdometry(root, SIZE, "09", camera=c) for c in (2, 3)]
    found = {**all_of(videos[0]), **all_of(videos[1])}
    for name in ("poses", "times"):
        found |= {f"{name} {k}": v for k, v in rows(getattr(videos[0], name)()).items()}
    return found


def read_photos(root: Path) -> Found:
    photos = {s.name: s.tensors() for s in Make3dTest(root)}
    for photo in photos.values():
        image, depth = photo["image"], photo["depth"]
        assert image.shape[0] == 3 and 0 <= image.min() and image.max() <= 1
        assert depth.shape == GRID and depth.isfinite().all() and 0 <= depth.min()
        assert depth.max() <= 81
    return photos


READERS: dict[str, tuple[str, Callable[[Path], Found]]] = {  # name -> folder, reader
    "clips": ("raw", lambda root: all_of(KittiRaw(root, SIZE, cameras=(2, 3)))),
    "laser": ("raw", lambda root: all_of(KittiRawDepth(root, SIZE))),
    "annotated": ("raw", lambda root: all_of(KittiAnnotatedDepth(root, SIZE))),
    "oxts": ("raw", lambda root: rows(dict(enumerate(drive_poses(root, DRIVE))))),
    "odometry": ("odometry", read_odometry),
    "vkitti2": ("v2", lambda root: all_of(VirtualKitti2(root, SIZE))),
    "vkitti1": ("v1", lambda root: all_of(VirtualKitti1(root, SIZE))),
    "make3d": ("make3d", read_photos),
}


# --- damage --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    "One thing that happens to a file"

    name: str
    change: Callable[[Path, np.random.Generator], None]  # the file, and what draws the place
    unseen: bool = False  # may pass unnoticed; see the top of this file
    shorter: bool = False  # samples that needed the file may be gone
    other: str = ""  # the file it was swapped with


def bytes_damage(kind: str) -> list[Damage]:
    bare = kind in ("bin", "mat", "jpg", "txt")  # formats without a checksum
    flips = [Damage(f"bit {k}", as_bytes(flip_bit), bare) for k in range(3)]
    return [
        Damage("empty", as_bytes(lambda data, _: b"")),
        Damage("first byte only", as_bytes(lambda data, _: data[:1])),
        Damage("half", cut(0.5), unseen=kind == "txt"),
        Damage("last bytes lost", as_bytes(lambda data, _: data[:-3]), unseen=kind == "txt"),
        Damage("zeros", as_bytes(lambda data, _: bytes(len(data))), unseen=kind == "bin"),
        Damage("noise", as_bytes(lambda data, rng: rng.bytes(len(data)))),
        Damage("shifted", as_bytes(lambda data, rng: rng.bytes(5) + data)),
        Damage("junk behind", as_bytes(lambda data, rng: data + rng.bytes(99))),
        Damage("lost", lambda path, _: path.unlink(), shorter=True),
        Damage("a folder", folder_instead, shorter=True),
        *flips,
    ]


def as_pixels(edit: Callable[[np.ndarray], np.ndarray]) -> Callable:
    return lambda path, _: write_image(path, np.ascontiguousarray(edit(read_image(path))))


def other_type(pixels: np.ndarray) -> np.ndarray:
    wide = pixels.dtype == np.uint8
    return pixels.astype(np.uint16) * 257 if wide else (pixels >> 8).astype(np.uint8)


def other_channels(pixels: np.ndarray) -> np.ndarray:
    return pixels.repeat(3, 2) if pixels.shape[2] == 1 else pixels[..., :1]


def picture_damage(colour: bool, jpeg: bool) -> list[Damage]:
    made = [
        Damage("half size", as_pixels(lambda p: p[::2, ::2])),
        Damage("a row less", as_pixels(lambda p: p[:-1])),
        Damage("turned", as_pixels(lambda p: p.transpose(1, 0, 2))),
        Damage("other channels", as_pixels(other_channels), unseen=colour),
    ]
    return made if jpeg else [*made, Damage("other type", as_pixels(other_type))]


def as_lines(edit: Callable[[list[str], np.random.Generator], list[str]]) -> Callable:
    def change(path: Path, rng: np.random.Generator) -> None:
        path.write_text("\n".join(edit(path.read_text().splitlines(), rng)) + "\n")

    return change


def as_number(word: str) -> Callable:
    "Replace one number of one line"

    def edit(lines: list[str], rng: np.random.Generator) -> list[str]:
        places = [
            (i, j) for i, line in enumerate(lines) for j, w in enumerate(line.split())
            if w.strip("-")[:1].isdigit()
        ]  # fmt: skip
        i, j = places[int(rng.integers(len(places)))]
        words = lines[i].split()
        words[j : j + 1] = word.split()
        return [*lines[:i], " ".join(words), *lines[i + 1 :]]

    return as_lines(edit)


TEXT = [
    Damage("first line lost", as_lines(lambda lines, _: lines[1:])),
    Damage("last line lost", as_lines(lambda lines, _: lines[:-1])),
    Damage("last line twice", as_lines(lambda lines, _: [*lines, lines[-1]])),
    Damage("a word", as_number("none")),
    Damage("not a number", as_number("nan")),
    Damage("infinite", as_number("inf")),
    Damage("a billion", as_number("1000000000")),
    Damage("a number more", as_number("1 1")),
    Damage("a number less", as_number("")),
    Damage("two bytes a letter", as_bytes(lambda data, _: data.decode().encode("utf-16"))),
    Damage("Windows lines", as_bytes(lambda data, _: data.replace(b"\n", b"\r\n"))),
]


def damages(path: str) -> list[Damage]:
    kind = Path(path).suffix[1:]
    made = bytes_damage(kind)
    if kind == "bin":
        made.append(Damage("whole points lost", cut(0.5, 16), unseen=True))
    if kind in ("png", "jpg"):
        colour = any(w in path for w in ("image_", "rgb", "img-")) and "proj" not in path
        made += picture_damage(colour, kind == "jpg")
    if "img-" in path:  # a smaller copy of a photograph is as good
        made = [damage for damage in made if damage.name != "half size"]
    return made + (TEXT if kind == "txt" else [])


RAW = f"2011_09_26/{DRIVE}"
FILES: dict[str, list[str]] = {  # reader -> files that are damaged, one at a time
    "clips": [
        f"{RAW}/image_02/data/0000000001.png", f"{RAW}/image_03/data/0000000001.jpg",
        "2011_09_26/calib_cam_to_cam.txt",
    ],
    "laser": [
        f"{RAW}/velodyne_points/data/0000000001.bin", "2011_09_26/calib_velo_to_cam.txt",
        "2011_09_26/calib_cam_to_cam.txt",
    ],
    "annotated": [f"train/{DRIVE}/proj_depth/groundtruth/image_02/0000000001.png"],
    "oxts": [f"{RAW}/oxts/data/0000000001.txt", "2011_09_26/calib_imu_to_velo.txt"],
    "odometry": [
        "sequences/09/image_2/000001.png", "sequences/09/image_3/000001.jpg",
        "sequences/09/calib.txt", "sequences/09/times.txt", "poses/09.txt",
    ],
    "vkitti2": [
        f"Scene01/clone/frames/{kind}_00001.png" for kind in (
            "rgb/Camera_0/rgb", "depth/Camera_0/depth", "classSegmentation/Camera_0/classgt",
            "forwardFlow/Camera_0/flow", "backwardFlow/Camera_0/backwardFlow",
        )
    ] + [f"Scene01/clone/{name}.txt" for name in ("intrinsic", "extrinsic", "colors")],
    "vkitti1": [
        f"vkitti_1.3.1_{kind}/0001/clone/00001.png"
        for kind in ("rgb", "depthgt", "scenegt", "flowgt")
    ] + [
        "vkitti_1.3.1_extrinsicsgt/0001_clone.txt",
        "vkitti_1.3.1_scenegt/0001_clone_scenegt_rgb_encoding.txt",
    ],
    "make3d": [
        "Test134/img-10.21op0-p-015t000.jpg", "Test134/img-10.21op1-p-015t000.png",
        "Gridlaserdata/depth_sph_corr-10.21op0-p-015t000.mat",
    ],
}  # fmt: skip


def moved(new: str) -> Callable:
    return lambda path, _: path.rename(path.parent / new) and None


def swapped(other: str) -> Callable:
    def change(path: Path, _: np.random.Generator) -> None:
        partner = path.parent / other
        mine = path.read_bytes()
        path.write_bytes(partner.read_bytes())
        partner.write_bytes(mine)

    return change


def pairs(reader: str, *, same: bool = False, **partners: str) -> list[tuple[str, str, Damage]]:
    "Swaps of the reader's files, named by a part of their path"
    made = []
    for part, other in partners.items():
        file = next(f for f in FILES[reader] if part.replace("__", "/") in f)
        damage = Damage(f"swapped with {other}", swapped(other), unseen=same, other=other)
        made.append((reader, file, damage))
    return made


V2, V1 = "../../{}/Camera_0/{}_00001.png", "../../../vkitti_1.3.1_{}/0001/clone/00001.png"
MOVED: list[tuple[str, str, Damage]] = [
    *pairs(
        "vkitti2", rgb=V2.format("depth", "depth"), forward=V2.format("rgb", "rgb"),
        depth=V2.format("classSegmentation", "classgt"), intrinsic="extrinsic.txt",
        colors="intrinsic.txt", classSeg=V2.format("rgb", "rgb"),
        backward=V2.format("depth", "depth"),
    ),
    *pairs(
        "vkitti1", rgb=V1.format("scenegt"), depthgt=V1.format("rgb"), scenegt=V1.format("flowgt"),
        flowgt=V1.format("depthgt"),
        extrinsics="../vkitti_1.3.1_scenegt/0001_clone_scenegt_rgb_encoding.txt",
    ),
    *pairs("clips", calib_cam="calib_velo_to_cam.txt"),
    *pairs("laser", velodyne="../../image_02/data/0000000001.png"),
    *pairs("laser", calib_velo="calib_cam_to_cam.txt"),
    *pairs("annotated", groundtruth=f"../../../../../{RAW}/image_02/data/0000000001.png"),
    *pairs("oxts", oxts="../../image_02/timestamps.txt", imu="calib_cam_to_cam.txt"),
    *pairs("odometry", poses="../sequences/09/calib.txt", times="../../poses/09.txt"),
    *pairs("odometry", calib="times.txt"),
    *pairs("make3d", op0="../Gridlaserdata/depth_sph_corr-10.21op0-p-015t000.mat"),
    *pairs("vkitti2", same=True, rgb="rgb_00002.png", depth="depth_00002.png",
           forward="flow_00000.png", classSeg="classgt_00000.png"),
    *pairs("vkitti1", same=True, rgb="00002.png", flowgt="00000.png"),
    *pairs("clips", same=True, image_02="0000000002.png", image_03="0000000002.jpg"),
    *pairs("laser", same=True, velodyne="0000000002.bin"),
    *pairs("annotated", same=True, groundtruth="0000000002.png"),
    *pairs("oxts", same=True, oxts="0000000002.txt"),
    *[(r, FILES[r][k], Damage(f"named {n}", moved(n), shorter=True, other=n)) for r, k, n in (
        ("clips", 0, "0000000009.png"), ("clips", 0, "picture.png"),
        ("clips", 1, "0000000001.PNG"),
        ("clips", 0, "²³.png"), ("clips", 2, "calib.txt"), ("laser", 0, "0000000044.bin"),
        ("laser", 1, "calib_cam_to_velo.txt"), ("annotated", 0, "0000000099.png"),
        ("oxts", 0, "0000000011.txt"), ("odometry", 0, "000031.png"),
        ("odometry", 2, "calibration.txt"), ("odometry", 4, "9.txt"),
        ("vkitti2", 0, "rgb_00007.png"), ("vkitti2", 1, "depth_1.png"),
        ("vkitti2", 5, "intrinsics.txt"), ("vkitti1", 0, "00017.png"), ("vkitti1", 0, "1.png"),
        ("vkitti1", 4, "0001_fog.txt"), ("make3d", 0, "img-10.21op.jpg"),
        ("make3d", 1, "photo.png"),
        ("make3d", 2, "depth_sph_corr-10.mat"),
    )],
]  # fmt: skip

CASES = [(r, f, d) for r, files in FILES.items() for f in files for d in damages(f)] + MOVED


# --- the test ------------------------------------------------------------------------------------


@contextmanager
def mended(root: Path, spare: Path) -> Iterator[None]:
    "Whatever happens to the files of a folder, afterwards they are as before"
    try:
        yield
    finally:
        kept = {p.relative_to(spare): p for p in spare.rglob("*") if p.is_file()}
        for path in [p for p in root.rglob("*") if p.relative_to(root) not in kept]:
            if path.is_file():
                path.unlink()
        for name, original in kept.items():
            path = root / name
            if path.is_dir():
                shutil.rmtree(path)
            if not path.is_file() or path.read_bytes() != original.read_bytes():
                shutil.copyfile(original, path)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def judge(found: Found, valid: Found, damage: Damage) -> None:
    "What was read in spite of the damage is right, or cannot be told from right"
    lost, new = set(valid) - set(found), set(found) - set(valid)
    assert not new, f"invented {sorted(new)[:3]}"
    assert damage.shorter or not lost, f"lost {sorted(lost)[:3]} silently"
    for key, sample in found.items():
        if not equal(sample, valid[key]):
            assert damage.unseen, f"{key} was read wrong"
            shapes = {n: v.shape for n, v in sample.items()}
            assert shapes == {n: v.shape for n, v in valid[key].items()}
            assert all(v.isfinite().all() for v in sample.values() if v.is_floating_point())


def sentence(problem: InputError, file: Path, other: Path) -> None:
    "One sentence that names the file, or for a numbered file its frame or its folder"
    said = str(problem)
    text = re.sub(r"\(.*?\)|'.*?'", "", said)  # without a decoder's words and lines of the file
    assert type(problem) is InputError and "\n" not in text and ". " not in text
    assert len(text) < 700
    names = [file.name, file.stem, other.name]
    if file.stem[-4:].isdecimal():
        names += [file.stem[-5:], str(file.parent)]
    if other.stem.isdecimal():
        names += [f"frame {int(other.stem)}"]
    if other.stem.startswith("img-"):
        names += [f"{other.stem[3:]}.mat"]
    assert any(name in said for name in names), said


def tried(read: Callable[[], Found], valid: Found, damage: Damage, file: Path) -> str | None:
    "What is wrong with how a reader takes the damage; None if it refuses, empty if it reads"
    try:
        found = read()
    except InputError as refusal:
        return complaint(partial(sentence, refusal, file, Path(damage.other or file))) or None
    except KeyboardInterrupt:
        raise
    except BaseException as fault:  # a panic of the decoder is no Exception
        return repr(fault)
    return complaint(lambda: judge(found, valid, damage))


def complaint(check: Callable[[], None]) -> str:
    try:
        check()
    except AssertionError as problem:
        return str(problem).partition("\n")[0] or "not as it should be"
    return ""


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    "The valid copy, and a spare to mend it from"
    root = write_all(tmp_path_factory.mktemp("formats"))
    return root, Path(shutil.copytree(root, tmp_path_factory.mktemp("spare") / "formats"))


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files(reader: str, copies: tuple[Path, Path]) -> None:
    place, read = READERS[reader]
    root, spare = (copy / place for copy in copies)
    valid = read(root)
    assert len(valid) >= 2 and all(equal(a, b) for a, b in zip(valid.values(), read(root).values()))
    refused, wrong = 0, []
    cases = [case for case in CASES if case[0] == reader]
    for number, (_, name, damage) in enumerate(cases):
        with mended(root, spare), in_time(10):
            damage.change(root / name, numpy_generator(0, reader, number))
            wrong_here = tried(lambda: read(root), valid, damage, root / name)
        refused += wrong_here is None
        wrong += [f"{name}, {damage.name}: {wrong_here}"] if wrong_here else []
    assert not wrong, "\n" + "\n".join(wrong)
    assert len(cases) / 2 < refused < len(cases)
    assert all(equal(a, b) for a, b in zip(valid.values(), read(root).values()))


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and {reader for reader, *_ in CASES} == set(READERS)
    assert sum(not damage.unseen for *_, damage in CASES) >= 200
