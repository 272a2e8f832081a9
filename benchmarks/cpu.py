"""`make bench`: what the project claims about speed, measured here; tables, and one JSON file.

Every ratio is of two ways that ran in turn in this process and gave the same values to 1e-4.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import feeding
import growth
import losses
import overhead
import parts
import scoring
import torch
from measure import announce, head, show, write


def _in_folder(work: Callable[[str], dict]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        return work(folder)


def _told(found: dict, tell: Callable[[dict], None]) -> dict:
    tell(found)
    return found


def _starts(found: dict) -> None:
    show("from a new process to the end of its first step", [tuple(found.values())], (*found,))


def _index(found: dict) -> None:
    show("index of the paper's samples", [[f"{v:.3g}" for v in found.values()]], (*found,))


SECTIONS: dict[str, Callable[[bool], dict]] = {  # name -> measure and print; True = quick
    "losses": lambda q: _told(
        losses.block((64, 192) if q else losses.PAPER, 1, 2 if q else 5, "cpu"), losses.tell
    ),
    "loader": lambda q: _told(
        _in_folder(lambda f: feeding.rates(Path(f), 8 if q else 32, 2 if q else 5)), feeding.tell
    ),
    "feeding": lambda q: _told(
        _in_folder(lambda f: feeding.waiting(Path(f), 4 if q else 12, 2 if q else 8)),
        feeding.tell_waiting,
    ),
    "index": lambda q: _told(_in_folder(lambda f: feeding.index_figures(Path(f))), _index),
    "scores": lambda q: _told(scoring.scores(12 if q else 697, 4 if q else 12), scoring.tell),
    "overhead": lambda q: _told(
        overhead.shares("tiny" if q else "small", 5, batch=1), overhead.tell
    ),
    "growth": lambda q: _told(growth.growth(1 if q else 2), growth.tell_growth),
    "memory": lambda q: _told(
        growth.presets(("tiny",)) if q else growth.presets(), growth.tell_presets
    ),
    "start": lambda q: _told(_in_folder(growth.start_up), _starts),
    "parts": lambda q: _told(parts.measured(1 if q else 5), parts.tell),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*SECTIONS], default=[*SECTIONS])
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds: a test")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/cpu.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    about = head("cpu")
    announce(about)
    write(args.out, about, {name: SECTIONS[name](args.quick) for name in args.only})


if __name__ == "__main__":
    main()
