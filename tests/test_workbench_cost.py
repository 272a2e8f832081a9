"""What the live panel costs: opening a long run, one look, one picture, ten minutes of looks.

Each is measured where a person would pay for it, in a Jupyter kernel of its own, in processor time
of that kernel, which other work on the machine changes little. The figures are printed.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from s3net.base.config import preset, to_dict
from s3net.base.core import write_json
from s3net.base.records import record_line
from s3net.show.pictures import save_picture

RECORDS, SNAPSHOTS = 200_000, 2_000
TERMS = ("gan", "identity", "seg", "flow", "task", "smooth", "segmenter")
STATS = ("depth_near", "depth_far", "depth_mean", "class_share", "accuracy", "critic_real")
TOOLS = """
import json, os, sys, threading, time
from pathlib import Path
from s3net.base.process import peak_memory

def resident():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")
"""


def line(step: int) -> str:
    "A record of phase 1, as long as real ones are"
    weighted = {name: [1.0 / (1 + step / 1e5) + 0.1234567890123, 10.0] for name in TERMS}
    updates = {"translator": weighted, "critic": {"critic": [0.1432537866592407, 1.0]}}
    record = {"step": step, "time": 1.7e9 + 0.25 * step, "seconds": 0.2732813, "memory": 469803008}
    stats = {name: 0.2908528745174408 for name in STATS}
    return record_line(record | {"recording": 0.0047, "updates": updates, "stats": stats})


def make_run(path: Path, records: int, snapshots: int, size: tuple[int, int]) -> Path:
    "A run folder without a training"
    settings = to_dict(preset("tiny", steps=10 * records))
    write_json(path / "config.json", {"kind": "phase1", "config": settings})
    with (path / "metrics.jsonl").open("w") as file:
        file.writelines(line(step) for step in range(10, 10 * records + 1, 10))
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    save_picture(path / "one.jpg", picture)
    for k in range(1, snapshots + 1):
        folder = path / f"snapshots/{10 * k * (records // snapshots):08d}"
        folder.mkdir(parents=True)
        for name in ("image", "translated", "real", "depth_real"):
            (folder / f"{name}.jpg").hardlink_to(path / "one.jpg")
    return path


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[BlockingKernelClient]:
    "A kernel that nobody else uses"
    manager, client = start_new_kernel(
        cwd=str(ROOT), extra_arguments=["--HistoryManager.enabled=False"]
    )
    try:
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def ask(client: BlockingKernelClient, code: str) -> dict:
    "Run code in the kernel; the last line it prints is JSON"
    said: list[str] = []

    def hear(message: dict) -> None:
        kind, content = message["msg_type"], message["content"]
        said.append(content["text"] if kind == "stream" else "")
        said.extend(content["traceback"] if kind == "error" else [])

    reply = client.execute_interactive(TOOLS + code, output_hook=hear, timeout=200)
    assert reply["content"]["status"] == "ok", "\n".join(said)
    return json.loads("".join(said).strip().splitlines()[-1])


def test_a_long_run_opens_quickly(tmp_path: Path, kernel: BlockingKernelClient):
    run = make_run(tmp_path / "run", RECORDS, SNAPSHOTS, (64, 96))
    found = ask(
        kernel,
        f"""
from s3net.workbench.live import Live
before, wall, cpu = resident(), time.perf_counter(), time.process_time()
panel = Live({str(run)!r})
told = dict(seconds=time.perf_counter() - wall, cpu=time.process_time() - cpu)
again = time.process_time()
panel.refresh()
told |= dict(again=time.process_time() - again, before=before, resident=resident())
told |= dict(peak=peak_memory() / 2**20)
told |= dict(lines=panel.watch.tail.lines, snapshots=len(panel.watch.snapshots))
told |= dict(said=panel.said, step=panel.watch.step, shown=panel.film.told.widget.value)
print(json.dumps(told))
""",
    )
    print(f"\n{RECORDS:,} records and {SNAPSHOTS:,} snapshots: opened in {found['seconds']:.2f} s")
    print(f"processor {found['cpu']:.2f} s, the next look {1e3 * found['again']:.0f} ms")
    print(f"kernel holds {found['resident']:.0f} MB, {found['before']:.0f} of them before")
    assert found["lines"] == RECORDS and found["snapshots"] == SNAPSHOTS
    assert found["step"] == 10 * RECORDS and found["said"] == ""
    assert f"of {SNAPSHOTS:,}" in found["shown"]
    assert found["cpu"] < 3 and max(found["resident"], found["peak"]) < 500


def test_looks_are_cheap_and_leave_nothing_behind(tmp_path: Path, kernel: BlockingKernelClient):
    run = make_run(tmp_path / "run", 400, 20, (64, 96))
    more = "".join(line(step) for step in range(4010, 6010 + 10 * 240 * 12, 10))
    (tmp_path / "more.jsonl").write_text(more)
    found = ask(
        kernel,
        f"""
from s3net.workbench.live import Live
run, lines = Path({str(run)!r}), Path({str(tmp_path / "more.jsonl")!r}).read_text().splitlines(True)
panel = Live(run)

def grow(k):
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(lines[12 * k : 12 * k + 12])
    folder = run / f"snapshots/{{5000 + k:08d}}"
    folder.mkdir()
    for name in ("image", "translated", "real", "depth_real"):
        data = (run / "one.jpg").read_bytes()
        (folder / f"{{name}}.jpg").write_bytes(data + bytes([k % 256]))

for k in range(40):
    grow(k)
    panel.refresh()
start, spent, sent = resident(), 0.0, panel.film.frames[0].sent
for k in range(40, 240):
    grow(k)
    before = time.process_time()
    panel.refresh()
    spent += time.process_time() - before
told = dict(look=spent / 200, grown=resident() - start, said=panel.said)
told |= dict(sent=panel.film.frames[0].sent - sent, step=panel.watch.step)
told |= dict(trains=[m for m in sys.modules if m.startswith("s3net.train")])
print(json.dumps(told))
""",
    )
    share = found["look"] / 3.0
    print(
        f"\none look, 12 new records and 4 new pictures: {1e3 * found['look']:.1f} ms of processor"
    )
    print(f"at one look every 3 s: {share:.2%} of a core")
    print(f"200 looks, as in 10 minutes: the kernel grew by {found['grown']:.1f} MB")
    assert found["sent"] == 200 and found["said"] == "" and found["step"] == 4000 + 240 * 120
    assert share < 0.05 and found["grown"] < 20
    assert found["trains"] == []  # it reads trainings and starts them elsewhere


def test_a_picture_costs_little(tmp_path: Path, kernel: BlockingKernelClient):
    for k in range(2):
        smooth = np.linspace(0, 255, 640)[None, :, None] * np.ones((192, 1, 3))
        noise = np.random.default_rng(k).normal(0, 20, smooth.shape)
        save_picture(tmp_path / f"{k}.jpg", np.clip(smooth + noise, 0, 255).astype(np.uint8))
    found = ask(
        kernel,
        f"""
import numpy as np
from PIL import Image
from s3net.workbench.parts import PictureView
from s3net.workbench.views import FilePicture
files = [Path({str(tmp_path)!r}) / f"{{k}}.jpg" for k in range(2)]
arrays = [np.asarray(Image.open(f)) for f in files]
as_file, as_array = FilePicture("file"), PictureView("array")

def cost(show):
    for k in range(4):
        show(k % 2)
    start = time.process_time()
    for k in range(60):
        show(k % 2)
    return (time.process_time() - start) / 60

told = dict(file=cost(lambda k: as_file.show_file(files[k], "x")))
told |= dict(array=cost(lambda k: as_array.show(arrays[k])), sent=as_file.sent + as_array.sent)
print(json.dumps(told))
""",
    )
    print(f"\na picture of 640 x 192: {1e3 * found['file']:.1f} ms from a snapshot's file,")
    print(f"{1e3 * found['array']:.1f} ms from an array")
    assert found["sent"] >= 128 and found["file"] < 0.02 and found["array"] < 0.02


def test_the_panel_module_imports_no_training():
    code = "import sys, s3net.workbench.live; print([m for m in sys.modules if 's3net.train' in m])"
    run = [sys.executable, "-c", code]
    said = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
