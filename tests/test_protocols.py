"""Every evaluation protocol against a second implementation, written as plain loops.

The published scripts' bounds, crops and orders of steps are typed in here by hand, without
looking at `PROTOCOLS`: a wrong entry there is an error here.
"""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from s3net.app.scores import app as scores_app
from s3net.base.core import read_json, real_dir
from s3net.data.kitti import KittiAnnotatedDepth
from s3net.data.kitti_files import (
    lidar_depth,
    raw_file,
    read_date_calib,
    read_poses,
    read_velodyne,
)
from s3net.data.layouts import annotate_drives, lesson_layouts
from s3net.data.make3d import Make3dTest
from s3net.data.miniworld import lesson_world
from s3net.eval.depth import METRICS, PROTOCOLS, depth_metrics
from s3net.eval.make3d import MAKE3D_METRICS, MAKE3D_PROTOCOLS, evaluate_make3d, make3d_metrics
from s3net.eval.odometry import score_motion, score_path, snippet_ate, snippet_places
from s3net.eval.runs import evaluate_model
from s3net.eval.truth import truth_facts

REAL = real_dir()
needs_real = pytest.mark.skipif(
    REAL is None, reason="the small real data are not here: set S3NET_REAL to their folder"
)

# ---------------------------------------------------------------- depth, pixel by pixel

GARG = (0.40810811, 0.99189189, 0.03594771, 0.96405229)
WHOLE = (0.0, 1.0, 0.0, 1.0)
INFINITE = math.inf
# name: truth above, truth below, clip from, clip to, crop, median scaling, inverse depth resized
SCRIPTS = {
    "s3net80": (1.0, 80.0, 1.0, 80.0, GARG, False, False),
    "s3net50": (1.0, 50.0, 1.0, 50.0, GARG, False, False),
    "t2net": (1.0, 50.0, 1.0, 50.0, GARG, False, False),
    "monodepth2": (1e-3, 80.0, 1e-3, 80.0, GARG, True, True),
    "sfmlearner": (1e-3, 80.0, 1e-3, 80.0, GARG, True, False),
    "gasda": (1e-3, 80.0, 1e-3, 80.0, GARG, False, False),
    "eigen_benchmark": (1e-3, INFINITE, 1e-3, 80.0, WHOLE, True, True),
    "real80": (1e-3, 80.0, 1e-3, 80.0, GARG, False, False),
    "real50": (1e-3, 50.0, 1e-3, 50.0, GARG, False, False),
    "real80x": (1e-3, 80.0, 1e-3, 80.0, GARG, False, False),
    "real50x": (1e-3, 50.0, 1e-3, 50.0, GARG, False, False),
    "miniworld80": (1.0, 80.0, 1.0, 80.0, WHOLE, False, False),
    "miniworld50": (1.0, 50.0, 1.0, 50.0, WHOLE, False, False),
}
TRUTHS = {  # what the truth of each protocol is: source, convention, rounding
    "s3net80": ("scan", "velodyne_x", "kitti"),
    "s3net50": ("scan", "velodyne_x", "kitti"),
    "t2net": ("scan", "velodyne_x", "kitti"),
    "monodepth2": ("scan", "velodyne_x", "kitti"),
    "sfmlearner": ("scan", "velodyne_x", "kitti"),
    "gasda": ("scan", "camera_z", "kitti"),
    "eigen_benchmark": ("annotated", "camera_z", "kitti"),
    "real80": ("scan", "camera_z", "kitti"),
    "real50": ("scan", "camera_z", "kitti"),
    "real80x": ("scan", "velodyne_x", "kitti"),
    "real50x": ("scan", "velodyne_x", "kitti"),
    "miniworld80": ("scan", "camera_z", "plain"),
    "miniworld50": ("scan", "camera_z", "plain"),
}


def enlarged(small: list, row: int, column: int, size: tuple[int, int]) -> float:
    "One pixel of a map resized bilinearly, areas aligned, borders repeated"
    total = 0.0
    y = (row + 0.5) * len(small) / size[0] - 0.5
    x = (column + 0.5) * len(small[0]) / size[1] - 0.5
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            weight = (1 - abs(y - i)) * (1 - abs(x - j))
            i_held = min(max(i, 0), len(small) - 1)
            j_held = min(max(j, 0), len(small[0]) - 1)
            total += weight * small[i_held][j_held]
    return total


def middle(values: list) -> float:
    "The median, mean of the two middle values of an even number"
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def pairs_of(name: str, pred: list, truth: list) -> list[tuple[float, float]]:
    "(truth, prediction) of the pixels that count, before scaling and clipping"
    above, below, _, _, crop, _, inverse = SCRIPTS[name]
    height, width = len(truth), len(truth[0])
    small = [[1 / v for v in line] for line in pred] if inverse else pred
    found = []
    for row in range(int(crop[0] * height), int(crop[1] * height)):
        for column in range(int(crop[2] * width), int(crop[3] * width)):
            if above < truth[row][column] < below:
                value = enlarged(small, row, column, (height, width))
                found.append((truth[row][column], 1 / value if inverse else value))
    return found


def plain_metrics(name: str, pred: list, truth: list) -> tuple[list[float], int, float]:
    "Seven metrics, pixels and scale, one pixel after another"
    _, _, low, high, _, scaled, _ = SCRIPTS[name]
    found = pairs_of(name, pred, truth)
    scale = middle([g for g, _ in found]) / middle([p for _, p in found]) if scaled else 1.0
    found = [(g, min(max(p * scale, low), high)) for g, p in found]
    n = len(found)
    abs_rel = sum(abs(g - p) / g for g, p in found) / n
    sq_rel = sum((g - p) ** 2 / g for g, p in found) / n
    rmse = math.sqrt(sum((g - p) ** 2 for g, p in found) / n)
    rmse_log = math.sqrt(sum((math.log(g) - math.log(p)) ** 2 for g, p in found) / n)
    shares = [sum(max(g / p, p / g) < 1.25**k for g, p in found) / n for k in (1, 2, 3)]
    return [abs_rel, sq_rel, rmse, rmse_log, *shares], n, scale


def depth_cases() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    "(prediction, truth): random at several sizes, and made to break things"
    rng = np.random.default_rng(5)
    sizes = [
        ((38, 125), (12, 40)),
        ((37, 122), (37, 122)),
        ((20, 31), (48, 64)),
        ((31, 20), (8, 8)),
    ]
    for size, small in sizes:
        truth = np.where(rng.random(size) < 0.3, rng.uniform(0.0005, 120, size), 0)
        yield rng.uniform(0.01, 100, small), truth  # anything
        yield np.full(small, 10.0), truth  # a constant
        yield np.full(small, 1e-4), truth  # nearer than every bound
        yield np.full(small, 1e5), truth  # farther than every bound
        lonely = np.zeros(size)
        lonely[size[0] * 3 // 4, size[1] // 2] = 30.0
        yield rng.uniform(20, 40, small), lonely  # one valid pixel
    edges = np.tile([1e-3, 1.0, 50.0, 80.0, 40.0, 12.5, 0.0, 10.0], (24, 4))
    yield np.full((24, 32), 10.0), edges  # truth on the bounds, ratios on 1.25
    yield np.full((24, 32), 8.0), edges
    yield rng.uniform(1, 90, (1, 1)), rng.uniform(0.5, 90, (24, 32))  # a prediction of one pixel
    even = np.zeros((24, 32))
    even[14:16, 10:12] = [[5.0, 9.0], [20.0, 40.0]]
    yield rng.uniform(4, 50, (24, 32)), even  # an even number of pixels


def test_every_protocol_is_typed_in() -> None:
    "A new protocol needs its line here"
    assert set(SCRIPTS) == set(TRUTHS) == set(PROTOCOLS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_depth_metrics_pixel_by_pixel(name: str) -> None:
    "All seven metrics to 1e-9, the scale to 1e-9, the pixels exactly"
    for pred, truth in depth_cases():
        fast = depth_metrics(pred, truth, name)
        slow, pixels, scale = plain_metrics(name, pred.tolist(), truth.tolist())
        assert fast["pixels"] == pixels and fast["scale"] == pytest.approx(scale, rel=1e-9)
        assert [fast[m] for m in METRICS] == pytest.approx(slow, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", TRUTHS)
def test_truth_of_a_protocol(name: str) -> None:
    "Each protocol asks for the truth that its script was given"
    protocol = PROTOCOLS[name]
    assert (protocol.source, protocol.convention, protocol.rounding) == TRUTHS[name]


def test_eight_bit() -> None:
    "T2Net's picture: floor of 255 steps over 80 m, before anything else"
    rng = np.random.default_rng(6)
    pred, truth = rng.uniform(1.5, 79, (12, 20)), rng.uniform(1.5, 79, (24, 40))
    coded = [[math.floor(v / 80 * 255) / 255 * 80 for v in line] for line in pred.tolist()]
    slow, _, _ = plain_metrics("t2net", coded, truth.tolist())
    fast = depth_metrics(pred, truth, replace(PROTOCOLS["t2net"], eight_bit=True))
    assert [fast[m] for m in METRICS] == pytest.approx(slow, rel=1e-9, abs=1e-9)


def test_benchmark_reads_annotated_maps(tmp_path: Path) -> None:
    "eigen_benchmark is scored on annotated maps, and a scan cannot be taken for one"
    world = shutil.copytree(lesson_world(), tmp_path / "world")
    frames = [tuple(row) for row in read_json(world / "test.json")]
    raw = world / "kitti_raw"
    annotate_drives(world, raw, frames)
    predict = lambda images: 2 + 30 * images[:, :1]  # noqa: E731
    (found,) = evaluate_model(predict, raw, frames, ["eigen_benchmark"], size=(32, 96))
    assert found.n == len(frames) and "annotated" in found.protocol.describe()
    for sample, row in zip(KittiAnnotatedDepth(raw, (32, 96), frames), found.per_image):
        pred, truth = predict(sample.image[None])[0, 0].double(), sample.depth[0].double()
        slow, pixels, _ = plain_metrics("eigen_benchmark", pred.tolist(), truth.tolist())
        assert row["pixels"] == pixels == int((truth > 0).sum())
        assert [row[m] for m in METRICS] == pytest.approx(slow, rel=1e-9, abs=1e-9)


# ---------------------------------------------------------------- laser scans, point by point


def one_pixel_after_another(
    points: np.ndarray, folder: Path, size: tuple[int, int], rounding: str
) -> tuple[np.ndarray, np.ndarray]:
    "camera_z and velodyne_x of a scan with scalars, reading the calibration files by itself"
    numbers = {}
    for file in ("calib_cam_to_cam.txt", "calib_velo_to_cam.txt"):
        for line in (folder / file).read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in ("P_rect_02", "R_rect_00", "R", "T"):
                numbers[key if file.startswith("calib_cam") else f"velo {key}"] = [
                    float(word) for word in rest.split()
                ]
    R, T = numbers["velo R"], numbers["velo T"]
    rect, P = numbers["R_rect_00"], numbers["P_rect_02"]
    depth_z, depth_x = np.full(size, INFINITE), np.full(size, INFINITE)
    for x, y, z, _ in points.astype(np.float64).tolist():
        if x < 0:
            continue
        camera = [R[3 * i] * x + R[3 * i + 1] * y + R[3 * i + 2] * z + T[i] for i in range(3)]
        level = [sum(rect[3 * i + k] * camera[k] for k in range(3)) for i in range(3)]
        a, b, c = (sum(P[4 * i + k] * (*level, 1.0)[k] for k in range(4)) for i in range(3))
        if c <= 0:
            continue
        shift = 1 if rounding == "kitti" else 0
        u, v = round(a / c) - shift, round(b / c) - shift  # Python rounds half to even
        if 0 <= u < size[1] and 0 <= v < size[0]:
            depth_z[v, u] = min(depth_z[v, u], c)
            depth_x[v, u] = min(depth_x[v, u], x)
    return tuple(np.where(np.isfinite(d), d, 0) for d in (depth_z, depth_x))


@needs_real
def test_projection_agrees_with_scalars() -> None:
    "All 25 scans under both conventions to 1e-6 m; the other rounding on the first"
    raw, drive = REAL / "kitti_raw", "2011_09_26_drive_0052_sync"
    scans = sorted(raw_file(raw, drive, "velodyne", 0).parent.glob("*.bin"))
    assert len(scans) == 25
    calib, size, share = read_date_calib(raw / drive[:10]), (375, 1242), []
    for k, scan in enumerate(scans):
        points = read_velodyne(scan)
        for rounding in ("plain", "kitti") if k == 0 else ("kitti",):
            slow = one_pixel_after_another(points, raw / drive[:10], size, rounding)
            for convention, dense in zip(("camera_z", "velodyne_x"), slow):
                fast = lidar_depth(points, calib, size, convention, rounding)
                assert ((fast > 0) == (dense > 0)).all()
                assert np.abs(fast - dense.astype(np.float32)).max() <= 1e-6
        share.append((slow[0] > 0).mean())
    assert round(100 * np.mean(share), 2) == 3.52


@needs_real
def test_truth_of_the_real_frames() -> None:
    "Valid share, the gap between the conventions, and the constant's rows"
    facts = truth_facts(REAL / "kitti_raw")
    assert len(facts.names) == 25 and round(100 * facts.share.mean(), 2) == 3.52
    assert round(100 * facts.share.min(), 2) == 3.26 and round(100 * facts.share.max(), 2) == 3.68
    assert round(facts.gap.mean(), 3) == 0.278
    rows = {r.protocol.name: r.mean["abs_rel"] for r in facts.constant}
    assert rows["real80+median"] == pytest.approx(0.354, abs=0.002)
    assert rows["real80x+median"] == pytest.approx(0.341, abs=0.002)


# ---------------------------------------------------------------- Make3D, cell by cell

# name: truth below, first and last row of the grid, median scaling
MAKE3D_SCRIPTS = {
    "make3d_c1": (70.0, 17, 38, False),
    "make3d_c1+median": (70.0, 17, 38, True),
    "make3d_t2net": (80.0, 0, 55, False),
}


def plain_make3d(name: str, pred: list, truth: list) -> tuple[list[float], int]:
    "The posted script with scalars: nearest neighbour, cut from above, both logarithms"
    cap, top, bottom, scaled = MAKE3D_SCRIPTS[name]
    found = []
    for i in range(top, bottom):
        for j in range(len(truth[0])):
            row = math.floor((i - top) * len(pred) / (bottom - top))
            column = math.floor(j * len(pred[0]) / len(truth[0]))
            if 0 < truth[i][j] < cap:
                found.append((truth[i][j], pred[row][column]))
    scale = middle([g for g, _ in found]) / middle([p for _, p in found]) if scaled else 1.0
    found = [(g, min(p * scale, cap)) for g, p in found]
    n = len(found)
    values = [
        sum(abs(g - p) / g for g, p in found) / n,
        sum((g - p) ** 2 / g for g, p in found) / n,
        math.sqrt(sum((g - p) ** 2 for g, p in found) / n),
        math.sqrt(sum((math.log10(g) - math.log10(p)) ** 2 for g, p in found) / n),
        math.sqrt(sum((math.log(g) - math.log(p)) ** 2 for g, p in found) / n),
    ]
    return values, n


@pytest.mark.parametrize("name", MAKE3D_PROTOCOLS)
def test_make3d_cell_by_cell(name: str) -> None:
    "Five errors to 1e-9, the cells exactly; the two logarithms differ by ln 10"
    rng = np.random.default_rng(8)
    for size in ((192, 640), (21, 305), (5, 7), (1, 1)):
        truth = np.where(rng.random((55, 305)) < 0.9, rng.uniform(0.5, 85, (55, 305)), 0)
        truth[20, :4] = [70.0, 80.0, 69.999, 79.999]
        pred = rng.uniform(0.1, 120, size)
        fast = make3d_metrics(pred, truth, MAKE3D_PROTOCOLS[name])
        slow, cells = plain_make3d(name, pred.tolist(), truth.tolist())
        assert fast["pixels"] == cells
        assert [fast[m] for m in MAKE3D_METRICS] == pytest.approx(slow, rel=1e-9, abs=1e-9)
        assert fast["rmse_ln"] / fast["rmse_log10"] == pytest.approx(math.log(10))


def test_make3d_band() -> None:
    "The network is shown rows 710 to 1562 of 2272: here the same parts of a smaller picture"
    shown, samples = [], Make3dTest(lesson_layouts())

    def predict(images: torch.Tensor) -> torch.Tensor:
        shown.append(images[0])
        return 1 + images[:, :1]

    height, width = samples[0].image.shape[-2:]
    rows = width // 2
    first = (height - rows) // 2
    evaluate_make3d(predict, samples, (rows, width), ["make3d_c1", "make3d_c1+median"])
    assert len(shown) == len(samples)  # once for both protocols
    for picture, sample in zip(shown, samples):
        assert torch.equal(picture, sample.image[:, first : first + rows])


# ---------------------------------------------------------------- motion


def made_up_paths(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    "A true path and a worse one, from small random turns"
    rng = np.random.default_rng(7)

    def path(noise: float) -> np.ndarray:
        poses = [np.eye(4)]
        for k in range(count - 1):
            yaw, pitch = 0.05 * math.sin(k / 7) + noise * rng.normal(), noise * rng.normal()
            turn = np.array(
                [[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]]
            )
            nod = np.array(
                [
                    [1, 0, 0],
                    [0, math.cos(pitch), -math.sin(pitch)],
                    [0, math.sin(pitch), math.cos(pitch)],
                ]
            )
            step = np.eye(4)
            step[:3, :3], step[:3, 3] = turn @ nod, [0, 0, 1 + noise * rng.normal()]
            poses.append(poses[-1] @ step)
        return np.stack(poses)

    return path(0.0), path(0.03)


def test_snippets_with_scalars() -> None:
    "SfMLearner's figure for 3 and 5 frames, from sums over coordinates"
    truth, pred = made_up_paths()
    for n in (3, 5):
        errors = []
        for start in range(len(truth) - n + 1):
            places = []
            for poses in (truth, pred):
                R, t = poses[start, :3, :3], poses[start, :3, 3]
                places.append([(R.T @ (poses[start + k, :3, 3] - t)).tolist() for k in range(n)])
            dot = sum(g * p for a, b in zip(*places) for g, p in zip(a, b))
            length = sum(p * p for b in places[1] for p in b)
            left = sum((dot / length * p - g) ** 2 for a, b in zip(*places) for g, p in zip(a, b))
            errors.append(math.sqrt(left) / n)
        mean = sum(errors) / len(errors)
        deviation = math.sqrt(sum((e - mean) ** 2 for e in errors) / len(errors))
        score = score_motion(truth, pred)[(n - 3) // 2]
        assert (score.protocol, score.n) == (f"snippet-{n}", len(truth) - n + 1)
        assert score.ate == pytest.approx(mean, rel=1e-9)
        assert score.ate_std == pytest.approx(deviation, rel=1e-9)
    by_hand = snippet_ate([[0, 0, 0], [0, 0, 1], [0, 0, 2]], [[0, 0, 0], [0, 0, 1], [0, 1, 2]])
    assert by_hand[0] == pytest.approx(math.sqrt(5 / 6) / 3)


@pytest.mark.parametrize("scaled", [False, True])
def test_no_motion_fits_better(scaled: bool) -> None:
    "The alignment is the best there is: a minimiser that starts elsewhere finds the same error"
    from scipy.optimize import minimize
    from scipy.spatial.transform import Rotation

    truth, pred = made_up_paths()
    g, p = truth[:, :3, 3], pred[:, :3, 3]

    def error(x: np.ndarray) -> float:
        factor = math.exp(x[6]) if scaled else 1.0
        moved = factor * Rotation.from_rotvec(x[:3]).apply(p) + x[3:6]
        return ((moved - g) ** 2).sum(1).mean()

    best = minimize(error, np.full(7, 0.1), method="BFGS", options=dict(gtol=1e-9))
    assert score_path(truth, pred, scaled).ate == pytest.approx(math.sqrt(best.fun), rel=1e-6)


def test_a_moved_path_costs_nothing() -> None:
    "A path seen from another start is the same path; a smaller one only under Sim(3)"
    truth, _ = made_up_paths()
    moved = truth[20] @ truth
    assert score_path(truth, moved, False).ate < 1e-9
    assert score_path(truth, moved, False).rpe < 1e-9
    moved[:, :3, 3] *= 0.5
    assert score_path(truth, moved, True).ate < 1e-9 < 1 < score_path(truth, moved, False).ate
    assert score_path(truth, moved, True).scale == pytest.approx(2)
    assert np.abs(snippet_places(moved, 3) * 2 - snippet_places(truth, 3)).max() < 1e-9


@needs_real
@pytest.mark.parametrize(
    ("system", "rigid", "similar"), [("ORB", 1.3034497, 0.9377091), ("SPTAM", 3.7384879, 3.6352936)]
)
def test_paths_of_known_systems(system: str, rigid: float, similar: float) -> None:
    "evo's figures for sequence 00 to 1e-6 m"
    truth = read_poses(REAL / "trajectories" / "KITTI_00_gt.txt")
    pred = read_poses(REAL / "trajectories" / f"KITTI_00_{system}.txt")
    scores = {s.protocol: s.ate for s in score_motion(truth, pred)}
    assert scores["full SE(3)"] == pytest.approx(rigid, abs=1e-6)
    assert scores["full Sim(3)"] == pytest.approx(similar, abs=1e-6)


# ---------------------------------------------------------------- what the commands print


@needs_real
@pytest.mark.parametrize(
    ("system", "figures"),
    [("ORB", ("1.3034497", "0.9377091")), ("SPTAM", ("3.7384879", "3.6352936"))],
)
def test_command_trajectory_prints(system: str, figures: tuple, tmp_path: Path) -> None:
    "s3net trajectory GT EST: both alignments, named, and a drawing"
    folder = REAL / "trajectories"
    words = ["trajectory", folder / "KITTI_00_gt.txt", folder / f"KITTI_00_{system}.txt"]
    words += ["--drawing", tmp_path / "path.png"]
    said = CliRunner().invoke(scores_app, list(map(str, words)), catch_exceptions=False).stdout
    for protocol, figure in zip(("full SE(3)", "full Sim(3)"), figures):
        line = next(text for text in said.splitlines() if protocol in text)
        assert line.startswith(f"KITTI_00_{system}") and figure in line
    assert (tmp_path / "path.png").stat().st_size > 10_000


@needs_real
def test_command_truth_prints() -> None:
    "s3net truth ROOT: share, gap, and the constant under both conventions"
    words = ["truth", str(REAL / "kitti_raw")]
    said = CliRunner().invoke(scores_app, words, catch_exceptions=False).stdout
    assert "25 scans" in said and "3.52 % (3.26 to 3.68 % by frame)" in said and "0.278 m" in said
    rows = [line.split() for line in said.splitlines() if line.startswith("constant 10 m")]
    assert [row[3] for row in rows[:2]] == ["0.354", "0.341"]
