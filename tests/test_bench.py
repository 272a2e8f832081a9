"The benchmarks: their references give our values, their figures are whole, and they run anywhere."

import json
import os
import subprocess
import sys
from pathlib import Path

import cpu
import feeding
import growth
import losses
import numpy as np
import overhead
import pytest
import reference
import scoring
import torch
from held import make_phase, step
from measure import LiveBytes, fit_line, in_turn

from s3net.base.config import preset
from s3net.eval.depth import METRICS, depth_metrics, get_protocol
from s3net.losses.objective import phase2_objective

ROOT = Path(__file__).resolve().parents[1]
SIZE = (48, 96)


def numbers(value: object) -> list[float]:
    "Every number in a nest of lists and dictionaries"
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [x for part in value for x in numbers(part)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_loss_is_the_fields_loss_and_so_is_its_gradient() -> None:
    off = losses.agreement(SIZE, batch=2)
    assert off["value, float32"] < 1e-4 and off["value, float64"] < 1e-7
    assert off["gradient, float64"] < 1e-5


def test_reference_would_notice_a_wrong_loss() -> None:
    clip, _ = losses.make_clip(SIZE, 1)
    wrong = losses.theirs(clip._replace(T_src_tgt=clip.T_src_tgt[::-1]))
    assert abs(losses.ours(clip).item() / wrong.item() - 1) > 1e-3


def test_all_pairs_in_one_batch_are_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    "As on a GPU, where every scale and direction is one batch"
    import s3net.losses.objective as objective

    clip, leaves = losses.make_clip(SIZE, 2, dtype=torch.float64)
    apart = losses.ours(clip)
    slopes = torch.autograd.grad(apart, leaves, retain_graph=True)
    plain = objective.warp_errors
    monkeypatch.setattr(objective, "warp_errors", lambda *a: plain(*a, together=True))
    together = phase2_objective({"mask": 1.0}, clip, scales=4).total
    assert torch.isclose(apart, together, rtol=1e-12)
    for one, other in zip(slopes, torch.autograd.grad(together, leaves), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_plain_loader_gives_the_samples_of_ours(tmp_path: Path) -> None:
    clips = feeding.make_drive(tmp_path / "raw", 4)
    feeding.write_cache(
        feeding.plan_cache(clips, tmp_path / "raw", tmp_path / "cache"), progress=False
    )
    feeding.check_same(tmp_path)
    paths = [[feeding.raw_file(tmp_path / "raw", *key) for key in clips.frames_of(0)]]
    plain = reference.DecodingClips(paths, feeding.SIZE)[0]
    assert torch.equal(plain[0], clips[0].image_prev)
    assert not torch.equal(plain[0], plain[1])


@pytest.mark.parametrize("name", ["s3net80", "monodepth2"])
def test_plain_scores_are_ours(name: str) -> None:
    samples, preds = scoring.frames(2)
    truths = [s.depth[0].numpy() for s in samples]
    rows = [depth_metrics(p, t, name) for p, t in zip(preds, truths)]
    protocol = get_protocol(name)
    if name == "s3net80":
        theirs = reference.depth_scores(preds, truths, protocol.min_depth, protocol.cap)
        ours = np.mean([[row[k] for k in METRICS] for row in rows], 0)
        assert np.abs(ours - theirs).max() < 1e-4
    assert all(row["pixels"] > 10_000 for row in rows)


def test_variants_run_in_turn() -> None:
    order = []
    times = in_turn({n: lambda n=n: order.append(n) for n in "ab"}, rounds=3, warm=1)
    assert order == ["a", "b"] * 4 and set(times) == {"a", "b"}
    assert all(t[clock] >= 0 for t in times.values() for clock in ("wall", "processor"))


def test_line_is_found_and_a_square_is_not_called_one() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    fixed, slope, off = fit_line(x, [3 + 2 * v for v in x])
    assert (fixed, slope) == (pytest.approx(3), pytest.approx(2)) and off < 1e-9
    assert fit_line(x, [v * v for v in x])[2] > 0.15


def test_live_bytes_count_what_is_alive() -> None:
    with LiveBytes() as live:
        a = torch.empty(1000, device="meta")
        b = a * 2
        assert live.now == live.peak == 8000
        view = b[:10]
        del a, b
        assert live.now == 4000 and live.peak == 8000
        del view
        assert live.now == 0


def test_recompute_needs_less_memory_and_more_operations() -> None:
    cfg = preset("tiny", batch=4, alpha_scale=0)
    plain = growth.counted("phase1", cfg, (0,))
    less = growth.counted("phase1", preset("tiny", batch=4, alpha_scale=0, recompute=True), (0,))
    assert less["activations"] < 0.8 * plain["activations"]
    assert less["weights"] == plain["weights"] and less["flops"] > plain["flops"]


@pytest.mark.parametrize("kind", ["phase1", "phase2"])
def test_recompute_changes_no_bit_of_a_training(kind: str) -> None:
    found = []
    for recompute in (False, True):
        phase = make_phase(kind, preset("tiny", recompute=recompute), "cpu")
        for number in range(2):
            step(phase, number)
        found.append(phase.state.hashes())
    assert found[0] == found[1]


def test_memory_grows_with_the_batch() -> None:
    sizes = [1, 2, 4]
    bytes_of = [
        growth.counted("phase2", preset("tiny", batch=n, alpha_task2=0, alpha_scale=0), (0,))
        for n in sizes
    ]
    assert fit_line(sizes, [b["activations"] for b in bytes_of])[2] < 0.15


def test_shares_of_a_step_are_whole_and_the_loop_is_the_smallest() -> None:
    rare = dict(log_every=100, snapshot_every=0, checkpoint_every=100)  # tiny writes at every step
    found = overhead.shares("tiny", 4, batch=1, **rare)["processor"]
    parts = ("forward and loss", "backward", "optimisers", "data", "loop")
    assert sum(found[part] for part in parts) == pytest.approx(1, abs=1e-6)
    assert all(found[part] > 0 for part in parts)
    assert found["loop"] < 0.5 * found["forward and loss"]


def test_gpu_script_runs_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--quick", "--out", str(out)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(out.read_text())
    assert {"date", "commit", "device", "versions", "threads", "argv"} <= set(told["about"])
    found = told["results"]
    assert set(found["steps"]) == {"phase1", "supervised", "self"}
    assert set(found["inference"]) == {
        f"{n}, batch {b}" for n in ("alone", "with S_seg") for b in (1, 2)
    }
    assert set(found["epoch minutes"]) == {"phase 1", "phase 2"}
    assert max(found["loss block"]["difference"].values()) < 1e-4
    assert all(x > 0 for x in numbers([found["steps"], found["inference"]]))
    assert "| phase1 | channels last, bf16 |" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_gpu_script_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    env = os.environ | {"PYTHON": sys.executable}
    command = ["benchmarks/gpu.sh", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "no CUDA device" in done.stderr and not list(tmp_path.iterdir())


def test_gpu_script_names_a_missing_interpreter() -> None:
    env = os.environ | {"PYTHON": "no-such-python"}
    done = subprocess.run(["benchmarks/gpu.sh"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "make install" in done.stderr


def test_cpu_script_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "cpu.json"
    words = ["cpu.py", "--quick", "--only", "scores", "losses", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    threads = torch.get_num_threads()
    cpu.main()
    torch.set_num_threads(threads)
    told, said = json.loads(out.read_text()), capsys.readouterr().out
    assert list(told["results"]) == ["scores", "losses"] and told["about"]["device"] == "cpu"
    ratio = told["results"]["scores"]["ratio"]["processor"]
    assert f"{ratio:.1f} x" in said and ratio > 1.5  # generous: machines are shared
