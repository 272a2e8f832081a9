"Pairs of which film shows nothing, in a whole phase 1: fed ahead, stopped and gone on with."

import json
from dataclasses import replace
from pathlib import Path

import pytest

from s3net.base.config import Config, preset
from s3net.base.core import InputError
from s3net.data.miniworld import lesson_world
from s3net.train.runs import run_phase1, run_segmenter
from s3net.train.sources import synthetic_dataset
from s3net.train.state import checkpoints


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A folder with an S_seg and a list of the pairs of one scene"
    folder = tmp_path_factory.mktemp("unlike")
    cfg = settings(folder)
    run_segmenter(cfg, folder / "segmenter")
    pairs = [key for key in synthetic_dataset(cfg).keys if key[0] == "Scene002"]
    (folder / "unlike.json").write_text(json.dumps(pairs))
    return folder


def settings(folder: Path, **changes: object) -> Config:
    world = lesson_world()
    quiet = dict(snapshot_every=0, shares_every=0, checkpoint_every=2, steps=4, threads=1)
    where = dict(synthetic=str(world / "vkitti2"), real=str(world / "kitti_raw"))
    where |= dict(segmenter_run=str(folder / "segmenter"))
    return preset("tiny", device="cpu", **(where | quiet | changes))


def bits(run: Path) -> dict[str, bytes]:
    last = checkpoints(run / "checkpoints")[-1]
    return {p.name: p.read_bytes() for p in last.glob("*.safetensors")}


def test_the_same_bits_fed_ahead_and_gone_on_with(place: Path, tmp_path: Path) -> None:
    cfg = settings(place, semantics="both", unlike_list=str(place / "unlike.json"))
    run_phase1(cfg, tmp_path / "whole")
    run_phase1(replace(cfg, prefetch=2), tmp_path / "ahead")
    run_phase1(cfg, tmp_path / "halves", until=2)
    assert not (tmp_path / "halves" / "checkpoints" / "00000004").exists()
    run_phase1(cfg, tmp_path / "halves", resume=True)
    whole = bits(tmp_path / "whole")
    assert whole and whole == bits(tmp_path / "ahead") == bits(tmp_path / "halves")
    run_phase1(replace(cfg, unlike_list=""), tmp_path / "none")
    assert whole != bits(tmp_path / "none")


def test_without_translation_the_list_is_not_read(place: Path, tmp_path: Path) -> None:
    cfg = settings(place, translate=False, unlike_list=str(tmp_path / "absent.json"))
    assert run_phase1(cfg, tmp_path / "run").finished()


def test_a_list_of_every_pair_is_refused_before_anything_is_written(
    place: Path, tmp_path: Path
) -> None:
    file = tmp_path / "all.json"
    file.write_text(json.dumps(synthetic_dataset(settings(place)).keys))
    with pytest.raises(InputError, match="unlike_list is .*expected some left"):
        run_phase1(settings(place, unlike_list=str(file)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
