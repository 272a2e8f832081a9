"""What watching costs a training: blocks with and without a live panel, in turn.

One training runs as a process of its own on the lessons' world. A Jupyter kernel holds a panel on
its run folder. In each pair of blocks the panel looks every few seconds in one and rests in the
other, in an order drawn anew. The slowdown of a pair is the time of a step with the panel over the
time without it, less one; printed are the mean over all pairs and its 95 % interval (Student's t),
by the wall's clock and by the training's own processor time, which other work on the machine
changes less. No browser is part of this: it runs where the person sits.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from measure import announce, head, write
from scipy.stats import t as student

from s3net.data.miniworld import lesson_world
from s3net.train.record import read_metrics

HERTZ = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    "Processor time of all threads of a process so far"
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / HERTZ


def interval(values: list[float]) -> tuple[float, float]:  # mean, half width
    "Mean and 95 % interval"
    wide = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), wide


class Panel:
    "A live panel in a kernel of its own"

    def __init__(self, run: Path, seconds: float) -> None:
        self.manager, self.client = start_new_kernel(
            cwd=str(run), extra_arguments=["--IPKernelApp.log_level=ERROR"]
        )
        self.ask("from s3net.workbench.live import Live")
        self.ask(f"import json, time; panel = Live({str(run)!r}, seconds={seconds}, poll=False)")

    def ask(self, code: str) -> str:
        "Run code in the kernel; what it prints"
        said: list[str] = []

        def hear(message: dict) -> None:
            content = message["content"]
            said.append(content["text"] if message["msg_type"] == "stream" else "")

        client: BlockingKernelClient = self.client
        reply = client.execute_interactive(code, output_hook=hear, timeout=120)
        if reply["content"]["status"] != "ok":
            raise RuntimeError("\n".join(reply["content"]["traceback"]))
        return "".join(said)

    def processor(self) -> float:
        return json.loads(self.ask("print(time.process_time())"))

    def look(self, on: bool) -> None:
        "Begin to look, or rest"
        self.ask("panel.start_polling()" if on else "panel.poller and panel.poller.end()")

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


def block(run: Path, pid: int, seconds: float) -> tuple[float, float, int]:
    "Seconds of a step by the wall and by the training's processor time, and how many steps"
    time.sleep(0.5)  # what the switch itself cost is over
    wall, own, first = time.monotonic(), processor_seconds(pid), last_step(run)
    time.sleep(seconds)
    steps = last_step(run) - first
    if steps < 3:
        raise SystemExit(f"{steps} steps in a block of {seconds:g} s; make --seconds larger")
    return (time.monotonic() - wall) / steps, (processor_seconds(pid) - own) / steps, steps


def last_step(run: Path) -> int:
    "Steps told so far"
    with open(run / "metrics.jsonl", "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
        return json.loads(file.read().split(b"\n")[-2])["step"]


def train(kind: str, preset: str, run: Path) -> subprocess.Popen:
    "A training that goes on until it is stopped"
    world = lesson_world()
    words = f"""train {kind} --preset {preset} --out {run} synthetic={world / "vkitti2"}
    real={world / "kitti_raw"} alpha_seg=0 steps=1000000 log_every=1 snapshot_every=20
    checkpoint_every=1000000 threads=1""".split()
    if kind == "segmenter":
        words.remove("alpha_seg=0")
    process = subprocess.Popen(
        [sys.executable, "-c", "from s3net.app.cli import main; main()", *words],
        env=os.environ | {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"},
    )
    while not (run / "metrics.jsonl").is_file() or len(read_metrics(run)) < 5:
        if process.poll() is not None:
            raise SystemExit("the training ended before its fifth step; its message is above")
        time.sleep(0.2)
    return process


def measure(run: Path, pid: int, args: argparse.Namespace) -> tuple[list, list, int, float]:
    "Slowdowns of all pairs by the wall and by processor time, steps, share of a core"
    panel, draw, walls, owns, steps = Panel(run, args.look), random.Random(args.seed), [], [], 0
    spent = watched = 0.0
    try:
        for _ in range(args.pairs):
            told = {}
            for on in draw.sample((True, False), 2):
                panel.look(on)
                before, started = panel.processor(), time.monotonic()
                told[on] = block(run, pid, args.seconds)
                if on:
                    spent += panel.processor() - before
                    watched += time.monotonic() - started
            panel.look(False)
            walls.append(told[True][0] / told[False][0] - 1)
            owns.append(told[True][1] / told[False][1] - 1)
            steps += told[True][2] + told[False][2]
    finally:
        panel.close()
    return walls, owns, steps, spent / watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=("segmenter", "phase1"), default="segmenter")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--pairs", type=int, default=12, help="of blocks")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a block")
    parser.add_argument("--look", type=float, default=3.0, help="seconds between two looks")
    parser.add_argument("--seed", type=int, default=0, help="of the order within pairs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/watching.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        process = train(args.kind, args.preset, run)
        try:
            walls, owns, steps, share = measure(run, process.pid, args)
        finally:
            (run / "STOP").touch()
            process.wait(60)
    about, found = head("cpu"), {"kernel, share of a core": share, "steps": steps}
    announce(about)
    print(
        f"{args.kind} at preset {args.preset}, {steps} steps in {args.pairs} pairs of blocks",
        end="",
    )
    print(f" of {args.seconds:g} s; a look every {args.look:g} s")
    for name, values in (("wall", walls), ("processor time of the training", owns)):
        mean, wide = interval(values)
        found[name] = {"slowdown": mean, "half of the 95 % interval": wide, "pairs": values}
        print(f"slowdown by the {name}: {mean:+.2%}, 95 % interval ± {wide:.2%}")
    print(f"the panel's kernel took {share:.2%} of a core")
    write(args.out, about, found)


if __name__ == "__main__":
    main()
