"""How much the decoded cache saves: batches of triplets from it and from files, in one run.

Pictures of KITTI's size are painted here (1242x375, PNG, textured), so no data set is needed. Both
streams deliver the same batches at 640x192, bit for bit. Rounds alternate between them, one thread,
medians over batches; on a machine that is busy with other things read the processor's clock. Then
the index of the paper's 62,000 samples is opened: seconds and megabytes.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from s3net.data.cache import CachedStream, open_cache, plan_cache, write_cache
from s3net.data.kitti import KittiRaw, Video, VideoClips
from s3net.data.kitti_files import raw_file, write_date_calib
from s3net.data.lists import read_list
from s3net.data.loaders import Augment, BatchStream
from s3net.data.samples import SyntheticPair, write_image
from s3net.data.vkitti import SyntheticClips

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


def make_drive(root: Path, frames: int) -> KittiRaw:
    "A drive of painted pictures in KITTI's layout"
    for frame in range(frames):
        write_image(raw_file(root, DRIVE, 2, frame), paint(frame))
    write_date_calib(root / DRIVE[:10], K, FULL, np.eye(4), np.eye(4))
    return KittiRaw(root, SIZE)


def rates(root: Path, frames: int, rounds: int, batch: int = 6) -> tuple[dict, dict, float]:
    "Milliseconds a clip from files and from the cache, by two clocks; bytes of a PNG on average"
    clips = make_drive(root / "raw", frames)
    plan = plan_cache(clips, root / "raw", root / "cache")
    write_cache(plan, progress=False)
    cached = open_cache(root / "cache", root / "raw")
    slow = BatchStream(clips, batch, 0, augment=Augment(flip=0.5))
    quick = CachedStream(cached, batch, 0, augment=Augment(flip=0.5))
    for step in range(8):  # also warms up: each file and each shard has been read once
        a, b = slow.batch(step).tensors(), quick.batch(step).tensors()
        if not all(torch.equal(a[name], b[name]) for name in a):
            sys.exit("a cached batch differs from the one of the files; this is an error of ours")
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    times = [{clock: [] for clock in clocks} for _ in range(2)]
    for number in range(rounds):
        for stream, kept, repeats in ((slow, times[0], 1), (quick, times[1], 30)):
            for step in range(number * repeats, (number + 1) * repeats):
                started = {name: clock() for name, clock in clocks.items()}
                stream.batch(step)
                for name, clock in clocks.items():
                    kept[name].append(1000 * (clock() - started[name]) / batch)
    bytes_each = statistics.mean(p.stat().st_size for p in (root / "raw").rglob("*.png"))
    files, cache = ({name: statistics.median(v) for name, v in t.items()} for t in times)
    return files, cache, bytes_each


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
    script = "import sys, bench_cache as b; b.report(*sys.argv[1:])"
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=48, help="painted pictures")
    parser.add_argument("--rounds", type=int, default=9, help="alternations between the two")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files, cache, size = rates(Path(folder), args.frames, args.rounds)
    print(f"{os.cpu_count()} cores, 1 thread; 1242x375 PNG of {size / 1e6:.2f} MB -> 640x192, B 6")
    print("| clock | files, ms a clip of 3 | cache, ms a clip | clips a second | ratio |")
    print("|---|---|---|---|---|")
    for clock, ms in files.items():
        rate = f"{1000 / ms:.0f} -> {1000 / cache[clock]:.0f}"
        ratio = f"{ms / cache[clock]:.0f} x"
        print(f"| {clock} | {ms:.1f} | {cache[clock]:.2f} | {rate} | {ratio} |")
    with tempfile.TemporaryDirectory() as folder:
        count, seconds, memory = opening(paper_index(Path(folder)))
    print(f"index:  {count:,} samples opened in {seconds:.2f} processor s and {memory:.0f} MB")


if __name__ == "__main__":
    main()
