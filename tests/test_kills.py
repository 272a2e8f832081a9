"Six trainings killed with SIGKILL, at random times and inside a checkpoint, end in the same bits."

import os
import random
from pathlib import Path

import pytest

if not hasattr(os, "fork"):
    pytest.skip("a process is killed in a forked copy, which needs fork", allow_module_level=True)

from soak_kills import POINTS, schedule, soak


def test_killed_trainings_end_in_the_same_bits(tmp_path: Path):
    made = soak(tmp_path, kills=6, seed=7, steps=4)
    assert [m["wrong"] for m in made.moments] == [[]] * 6
    assert {m["phase"] for m in made.moments} == {"segmenter", "phase1", "phase2", "weighted"}
    assert sum("number" in m["where"] for m in made.moments) == 3


def test_the_long_version_kills_where_it_should():
    planned = schedule(30, random.Random(0))
    phases = [phase for phase, _ in planned]
    assert phases.count("segmenter") == phases.count("phase1") == 10
    assert phases.count("phase2") == phases.count("weighted") == 5
    assert {point for _, point in planned} == {None, *POINTS}
