"""Feeding: the cache against decoding, as the field does it and as our file readers do it.

Pictures of KITTI's size are painted here (1242x375, PNG, textured), so no data set is needed. The
three ways deliver the same pictures at 640x192; files and cache the same bits of everything. Then
steps are fed, with batches made when they are asked for and with two made ahead by a thread
(`prefetch`): how long they wait. Last, the index of the paper's 62,000 samples is opened: seconds
and megabytes.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from measure import in_turn, ratios, show, wait
from reference import DecodingClips
from torch import Tensor

from s3net.data.ahead import Ahead
from s3net.data.cache import CachedStream, open_cache, plan_cache, write_cache
from s3net.data.kitti import KittiRaw, Video, VideoClips
from s3net.data.kitti_files import raw_file, write_date_calib
from s3net.data.lists import read_list
from s3net.data.loaders import Augment, BatchStream
from s3net.data.samples import SyntheticPair, write_image
from s3net.data.vkitti import SyntheticClips

PLACES = ("image_prev", "image_tgt", "image_next")
FULL, SIZE, DRIVE = (375, 1242), (192, 640), "2011_09_26_drive_9001_sync"
K = np.array([[721.5, 0, 609.6], [0, 721.5, 172.9], [0, 0, 1]])


def paint(seed: int) -> np.ndarray:
    "A picture of KITTI's size with structure at every scale and a little noise; 0.8 MB as PNG"
    draw, picture = np.random.default_rng(seed), np.zeros((*FULL, 3))
    for step in (128, 32, 8, 2):
        small = draw.normal(size=(-(-FULL[0] // step), -(-FULL[1] // step), 3))
        large = small.repeat(step, 0).repeat(step, 1)[: FULL[0], : FULL[1]]
        picture += large * np.sqrt(step) * 2
    return (128 + picture + draw.normal(size=(*FULL, 3)) * 2).clip(0, 255).astype(np.uint8)


def make_drive(root: Path, frames: int, size: tuple[int, int] = SIZE) -> KittiRaw:
    "A drive of painted pictures in KITTI's layout, read at a size"
    for frame in range(frames):
        write_image(raw_file(root, DRIVE, 2, frame), paint(frame))
    write_date_calib(root / DRIVE[:10], K, FULL, np.eye(4), np.eye(4))
    return KittiRaw(root, size)


def streams(root: Path, frames: int, batch: int) -> dict[str, Callable[[int], dict[str, Tensor]]]:
    "Three ways to the batch of a step: the field's, from files, from the cache"
    clips = make_drive(root / "raw", frames)
    write_cache(plan_cache(clips, root / "raw", root / "cache"), progress=False)
    files = BatchStream(clips, batch, 0, augment=Augment())
    cache = CachedStream(open_cache(root / "cache", root / "raw"), batch, 0, augment=Augment())
    paths = [
        [raw_file(root / "raw", *key) for key in clips.frames_of(i)] for i in range(len(clips))
    ]
    decoding = DecodingClips(paths, SIZE)

    def reference(step: int) -> dict[str, Tensor]:
        images = decoding.batch(files.indices(step))
        source = torch.Generator().manual_seed(0)
        chosen = torch.rand(batch, generator=source) < 0.5  # half of them, as `Augment` does
        mirror = [torch.where(chosen[:, None, None, None], x.flip(3), x) for x in images]
        return dict(zip(PLACES, mirror))

    return {
        "reference": reference,
        "files": lambda step: files.batch(step).tensors(),
        "cache": lambda step: cache.batch(step).tensors(),
    }


def check_same(root: Path) -> None:
    "The three ways give the same pictures; files and cache the same bits of everything"
    clips = KittiRaw(root / "raw", SIZE)
    cached = open_cache(root / "cache", root / "raw")
    paths = [raw_file(root / "raw", *key) for key in clips.frames_of(1)]
    plain = DecodingClips([paths], SIZE)[0]
    a, b = clips[1].tensors(), cached[1].tensors()
    if not all(torch.equal(a[name], b[name]) for name in a):
        raise SystemExit("a cached sample differs from the one of the files; an error of ours")
    off = max((a[name] - x).abs().max().item() for name, x in zip(PLACES, plain))
    if off > 1e-4:
        raise SystemExit(f"the reference loader differs by {off:.1e} from ours, expected 1e-4")


def rates(root: Path, frames: int, rounds: int, batch: int = 6) -> dict:
    "Seconds a batch of each way, two clocks, in turn; bytes of a picture file on average"
    ways, steps = streams(root, frames, batch), count()
    check_same(root)
    many = 30  # batches of the cache for one of the others, or its time would be too short to read

    def work(way: Callable, repeats: int) -> Callable[[], None]:
        def some() -> None:
            for _ in range(repeats):
                way(next(steps))  # not kept: a training holds one batch at a time too

        return some

    repeats = {"reference": 1, "files": 1, "cache": many}
    times = in_turn({name: work(way, repeats[name]) for name, way in ways.items()}, rounds, warm=2)
    times = {
        name: {clock: value / repeats[name] / batch for clock, value in both.items()}
        for name, both in times.items()
    }
    size = statistics.mean(p.stat().st_size for p in (root / "raw").rglob("*.png"))
    ratio = {name: ratios(times, name, "cache") for name in ("reference", "files")}
    return {"seconds a clip": times, "ratio": ratio, "bytes of a file": size, "batch": batch}


def fed(
    stream: BatchStream,  # where batches come from
    work: Callable[[object], object],  # a step on a batch
    steps: int,  # of each, after one that is not counted
    device: torch.device | str = "cpu",
) -> dict[int, dict[str, float]]:  # batches ahead -> seconds a step, share of them it waits
    "Steps with no batch and with two batches made ahead"
    found = {}
    for ahead in (0, 2):
        feed = Ahead(stream, ahead, device, end=steps + 1)
        work(feed.batch(0))
        wait(device)
        feed.waited, started = 0.0, time.perf_counter()
        for k in range(1, steps + 1):
            work(feed.batch(k))
        wait(device)
        seconds = time.perf_counter() - started
        feed.close()
        found[ahead] = {"seconds": seconds / steps, "waits": feed.waited / seconds}
    return found


def _busy(seconds: float) -> Callable[[object], None]:
    "A step that uses the processor for about so long, by a number of products found here"
    a = torch.rand(256, 256)
    times = in_turn({"product": lambda: [a @ a for _ in range(10)]}, 9)["product"]
    many = max(1, round(10 * seconds / times["processor"]))
    return lambda _: [a @ a for _ in range(many)]


def waiting(root: Path, frames: int, steps: int, batch: int = 6) -> dict:
    "How long steps wait that leave the processor idle, as with a GPU, and that use it"
    clips = make_drive(root / "raw", frames)
    write_cache(plan_cache(clips, root / "raw", root / "cache"), progress=False)
    cached = open_cache(root / "cache", root / "raw")
    ways = {"files": BatchStream(clips, batch, 0, augment=Augment())}
    ways |= {"cache": CachedStream(cached, batch, 0, augment=Augment())}
    found = {}
    for name, stream in ways.items():
        took = statistics.median(_seconds(lambda k=k, s=stream: s.batch(k)) for k in range(3))
        kinds = {"idle": lambda _, s=1.2 * took: time.sleep(s), "busy": _busy(1.2 * took)}
        found[name] = {kind: fed(stream, work, steps) for kind, work in kinds.items()}
    return found


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def tell_waiting(found: dict, title: str = "feeding: a step a fifth longer than its batch") -> None:
    "Print what `waiting` found"
    rows = []
    for name, kinds in found.items():
        for kind, told in kinds.items():
            ratio = told[0]["seconds"] / told[2]["seconds"]
            shares = [f"{one['waits']:.0%}" for one in told.values()]
            rows.append((f"{name}, processor {kind}", *shares, f"{ratio:.2f} x"))
    names = ("batches from", "waits, prefetch=0", "waits, prefetch=2", "steps are quicker by")
    show(f"{title}; {os.cpu_count()} cores", rows, names)


class _Pairs(SyntheticClips):
    "Keys of the paper's synthetic list over one sample"

    def __init__(self, root: Path) -> None:
        self.size, self.texts, self.keys = (32, 96), {}, read_list("s3net_synthetic")
        self.file = lambda _scene, _condition, kind, _frame: root / f"{kind}.png"

    def __getitem__(self, index: int) -> SyntheticPair:
        image, depth = torch.zeros(3, *self.size), torch.ones(1, *self.size)
        labels, valid = torch.zeros(self.size, dtype=torch.int64), torch.ones(1, *self.size) > 0
        return SyntheticPair(
            image_t=image, image_t1=image, depth_t=depth, depth_t1=depth, labels_t=labels,
            labels_t1=labels, flow_t_t1=image[:2], flow_valid=valid, T_t1_t=torch.eye(4),
            K=torch.eye(3),
        )  # fmt: skip


def paper_index(root: Path) -> list[tuple[Path, Path]]:
    "Finished caches of the paper's lists over empty shards: their folders and source folders"
    raw, synthetic = root / "raw", root / "synthetic"
    keys = read_list("s3net")
    videos = {}
    for drive, camera in dict.fromkeys(k[:2] for k in keys):
        frames = sorted(
            {f + s for d, c, f in keys if (d, c) == (drive, camera) for s in (-1, 0, 1)}
        )
        files = {f: raw_file(raw, drive, camera, f) for f in frames}
        files[frames[0]].parent.mkdir(parents=True)
        for file in files.values():
            file.touch()
        videos[drive, camera] = Video(files, torch.from_numpy(K).float(), raw / "calib.txt", FULL)
    (raw / "calib.txt").touch()
    first = VideoClips(videos, (32, 96), keys=keys)
    key = first.frame_keys()[0]
    for path in (videos[key[:2]].files[key[2]], synthetic / "rgb.png"):
        write_image(path, paint(0))
    made = []
    for name, data, source in (("r", first, raw), ("s", _Pairs(synthetic), synthetic)):
        plan = plan_cache(data, source, root / name, megabytes=4)
        (root / name).mkdir()
        for number in plan.shards.missing():
            with plan.shards.path(number).open("wb") as file:
                file.truncate(plan.shards.length(number))
        write_cache(plan, progress=False)
        made.append((root / name, source))
    return made


def megabytes() -> float:
    "Memory of this process now"
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def opening(made: list[tuple[Path, Path]]) -> tuple[int, float, float]:
    "Samples, processor seconds and megabytes of opening both sides in a fresh process"
    script = "import sys, feeding; feeding.report(*sys.argv[1:])"
    words = [str(path) for pair in made for path in pair]
    command = [sys.executable, "-c", script, *words]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
    count, seconds, memory = done.stdout.split()
    return int(count), float(seconds), float(memory)


def report(*words: str) -> None:
    "Open caches, given as folder and source folder in turn, and print what that took"
    before, started = megabytes(), time.process_time()
    caches = [open_cache(folder, root) for folder, root in zip(words[::2], words[1::2])]
    seconds = time.process_time() - started
    print(sum(map(len, caches)), seconds, megabytes() - before)


def tell(found: dict) -> None:
    "Print what `rates` found"
    size = f"1242×375 PNG of {found['bytes of a file'] / 1e6:.2f} MB to 640×192"
    rows = []
    for name, t in found["seconds a clip"].items():
        ratio = found["ratio"].get(name)
        times = f"{ratio['wall']:.0f} x, {ratio['processor']:.0f} x" if ratio else ""
        rows.append((name, *(f"{1000 * t[c]:.2f}" for c in ("wall", "processor")), times))
    names = ("", "wall, ms a clip", "processor, ms a clip", "cache is quicker by (wall, processor)")
    show(f"loader: clips of three frames, {size}, batch {found['batch']}", rows, names)


def index_figures(root: Path) -> dict:
    "Opening the index of the paper's samples"
    count, seconds, memory = opening(paper_index(root))
    return {"samples": count, "processor seconds": seconds, "megabytes": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=48, help="painted pictures")
    parser.add_argument("--rounds", type=int, default=9, help="alternations between the three")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        tell(rates(Path(folder), args.frames, args.rounds))
    with tempfile.TemporaryDirectory() as folder:
        tell_waiting(waiting(Path(folder), args.frames, 10))
    with tempfile.TemporaryDirectory() as folder:
        told = index_figures(Path(folder))
    print(
        f"\nindex: {told['samples']:,} samples opened in {told['processor seconds']:.2f} "
        f"processor s and {told['megabytes']:.0f} MB"
    )


if __name__ == "__main__":
    main()
