"""What every benchmark shares: times of variants in turn, live bytes, a table and a JSON file.

A machine that is busy with other things disturbs every figure. So variants that are compared run in
turn within one process, medians are taken over the rounds, and beside the wall's clock there is the
processor's, which does not count what others do.
"""

import json
import platform
import statistics
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from s3net.base.process import environment

Work = Callable[[], object]


def wait(device: torch.device | str) -> None:
    "Let a GPU finish what it was given"
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def in_turn(
    variants: Mapping[str, Work],  # name -> what is timed
    rounds: int,  # how often each of them
    device: torch.device | str = "cpu",  # waited for before a clock is read
    warm: int = 1,  # rounds that are not counted
) -> dict[str, dict[str, float]]:  # name -> "wall" and "processor", median seconds
    "Time variants in turn"
    found = {name: ([], []) for name in variants}
    for number in range(warm + rounds):
        for name, work in variants.items():
            wait(device)
            wall, processor = time.perf_counter(), time.process_time()
            work()
            wait(device)
            spent = time.perf_counter() - wall, time.process_time() - processor
            if number >= warm:
                for kept, value in zip(found[name], spent):
                    kept.append(value)
    medians = {name: tuple(map(statistics.median, some)) for name, some in found.items()}
    return {name: {"wall": w, "processor": p} for name, (w, p) in medians.items()}


def ratios(times: dict[str, dict[str, float]], slow: str, quick: str) -> dict[str, float]:
    "How many times as quick, by both clocks"
    return {c: times[slow][c] / max(times[quick][c], 1e-9) for c in ("wall", "processor")}


class LiveBytes(TorchDispatchMode):
    "Bytes of all tensors made inside that are alive, and the most there ever were; on any device"

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, weakref.finalize] = {}

    def _gone(self, key: int, size: int) -> None:
        self.now -= size
        self._known.pop(key, None)

    def _seen(self, tensor: object) -> None:
        if not isinstance(tensor, torch.Tensor):
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self.now += size
            self.peak = max(self.peak, self.now)
            self._known[key] = weakref.finalize(storage, self._gone, key, size)

    def __torch_dispatch__(self, func: Callable, types: tuple, args=(), kwargs=None) -> object:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            self._seen(leaf)
        return out


def fit_line(x: list[float], y: list[float]) -> tuple[float, float, float]:
    "Fixed part a >= 0, slope b, and the largest |y - (a + b x)| as a share of y"
    n, mx, my = len(x), statistics.mean(x), statistics.mean(y)
    weight = [1 / v**2 for v in y]  # errors count as shares, so small sizes count as large ones do
    total = sum(weight)
    mx = sum(w * v for w, v in zip(weight, x)) / total
    my = sum(w * v for w, v in zip(weight, y)) / total
    spread = sum(w * (v - mx) ** 2 for w, v in zip(weight, x))
    b = sum(w * (p - mx) * (q - my) for w, p, q in zip(weight, x, y)) / spread
    a = my - b * mx
    if a < 0 and n > 1:
        a, b = (
            0.0,
            sum(w * p * q for w, p, q in zip(weight, x, y))
            / sum(w * p * p for w, p in zip(weight, x)),
        )
    return a, b, max(abs(q - a - b * p) / q for p, q in zip(x, y))


def head(device: torch.device | str) -> dict:
    "Where and with what it was measured"
    found = environment() | {"date": str(date.today()), "machine": platform.machine()}
    if torch.device(device).type == "cpu":
        found["device"] = "cpu"
    found["argv"] = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return found


def show(title: str, rows: list[tuple], names: tuple[str, ...]) -> None:
    "Print a table that markdown understands"
    print(f"\n{title}\n\n| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for row in rows:
        print("| " + " | ".join(str(x) for x in row) + " |", flush=True)


def announce(about: dict) -> None:
    "Print the line under which all tables stand"
    versions = ", ".join(f"{n} {v}" for n, v in about["versions"].items() if v != "absent")
    print(
        f"{about['date']}, commit {about['commit'][:12]}, {about['device']}, {about['machine']}, "
        f"{about['threads']} threads, Python {about['python']}, {versions}"
    )


def write(path: Path | None, about: dict, results: dict) -> None:
    "Write everything that was printed, and more digits of it"
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"about": about, "results": results}, indent=1, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        print(f"\nwritten to {path}")
