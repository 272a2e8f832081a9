"The watch over a tree of processes says what grew: the parent, a training, later ones, open files."

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from soak_demo import judge, kind_of, lives, main, read, tree, watch

MIB = 2**20
TRAIN = "python -c from s3net.app.cli import main; main() train phase1 --out runs/{} --resume x=1"


def looks(
    rounds: int = 6,
    minutes: float = 20,
    parent: float = 0.0,
    child: float = 0.0,
    later: float = 0.0,
    files: tuple[float, float] = (0, 0),
) -> list[dict]:
    """Two hours of a parent and two trainings a round, ten seconds apart.

    `parent` is its growth in an hour, `child` that of a training in the last third of its life,
    `later` how much more each round needs; `files` opened in an hour by parent and trainings.
    """
    source, samples = random.Random(0), []
    for number in range(rounds):
        for look in range(int(6 * minutes)):
            share, hours = look / (6 * minutes), (number * minutes + look / 6) / 60

            def one(pid: int, memory: float, opened: float, cmd: str) -> dict:
                memory *= MIB * (1 + source.gauss(0, 0.005))
                return dict(
                    pid=pid, rss=int(2 * memory), anon=int(memory), threads=4, fds=int(4 + opened),
                    cmd=cmd,
                )  # fmt: skip

            held = 400 * (1 + parent * hours)
            seen = [one(1, held, files[0] * hours, "/a/bin/python bin/s3net demo ")]
            filled = min(1, 0.4 + share * 2) * (1 + later * number)  # its store of samples
            held = 700 * filled * (1 + child * max(0, 3 * share - 2))
            for name in ("phase1", "t2net"):
                pid = 10 * number + len(seen) + 1
                cmd = TRAIN.format(f"round{number}/{name}-s{number}")
                seen.append(one(pid, held, files[1] * share * minutes / 60, cmd))
            samples.append({"time": 1e9 + 3600 * hours, "processes": seen})
    return samples


def growing(samples: list[dict]) -> list[str]:
    return [v.what.partition(" ")[0] for v in judge(samples) if v.flat is False]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"parent": 0.005}, []),
        ({"parent": 0.02}, ["parent"]),
        ({"parent": -0.02}, []),
        ({"child": 0.05}, ["phase1", "t2net", "all"]),
        ({"child": 0.012}, ["phase1", "t2net", "all"]),
        ({"later": 0.02}, ["phase1", "t2net"]),
        ({"files": (4, 0)}, ["parent"]),
        ({"files": (0, 30)}, ["phase1", "t2net"]),
    ],
)
def test_what_grows_is_named(changes: dict, found: list[str]):
    assert growing(looks(**changes)) == found


def test_what_is_too_short_is_said():
    verdicts = judge(looks(rounds=2, minutes=3))
    assert verdicts[-1].flat is None and "2 × phase1, 2 × t2net" in str(verdicts[-1])
    parent, *kinds, together, _ = verdicts
    assert parent.flat is None and together.flat is None
    assert all(kind.flat and "later ones need" in kind.said for kind in kinds)  # by their peaks
    assert not {v.flat for v in judge(looks(rounds=1, minutes=1))} - {None}
    assert [v.flat for v in judge([])] == [None]


def test_a_parent_with_a_folder_is_no_training():
    samples = looks(parent=0.02)
    for sample in samples:
        sample["processes"][0]["cmd"] += "--out runs/demo "
    assert growing(samples) == ["parent"]


def test_a_training_that_was_stopped_is_left_out(tmp_path: Path):
    "It may not have seen every sample, so that its store still fills"
    samples = looks(child=0.05, rounds=2)
    folder = tmp_path / "phase1-s0"
    folder.mkdir()
    for sample in samples:
        one = sample["processes"][1]
        one["cmd"] = one["cmd"].replace("runs/round0", str(tmp_path))
    assert growing(samples) == ["phase1", "t2net", "all"]
    (folder / "ended.json").write_text('{"how": "stopped"}')
    assert growing(samples) == ["t2net"]
    (folder / "ended.json").write_text('{"how": "finished"}')
    assert growing(samples) == ["phase1", "t2net", "all"]


def test_a_training_that_the_end_of_the_watch_cut_off_is_left_out(tmp_path: Path):
    samples = looks(child=0.05, rounds=1)
    assert growing(samples) == [] and "1 × phase1, 1 × t2net" in str(judge(samples)[-1])
    (tmp_path / "phase1-s0").mkdir()
    (tmp_path / "phase1-s0" / "ended.json").write_text('{"how": "finished"}')
    for sample in samples:
        one = sample["processes"][1]
        one["cmd"] = one["cmd"].replace("runs/round0", str(tmp_path))
    assert growing(samples) == ["phase1"]  # it had just ended


def test_names_and_lives():
    assert kind_of("p/python x train phase1 --out /r/phase1-abca29e65c-s2 --resume") == (
        "phase1-abca29e65c"
    )
    assert kind_of("/a/bin/python /b/bin/s3net ablate table4 ") == "python s3net ablate table4"
    found = lives(looks(rounds=3))
    assert len(found) == 7 and found[0].pid == 1 and len(found[0].looks) == 360


def test_a_real_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    "A parent with a child, watched until it ends; a line cut short does no harm"
    if not Path("/proc/self/status").is_file():
        pytest.skip("memory is read from /proc")
    code = "import subprocess as s; s.run(['sleep', '1.5'])"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        file = tmp_path / "looks.jsonl"
        watch(process.pid, file, 60, every=0.1)
        assert process.wait() == 0 and tree(process.pid) == [process.pid]
    samples = read(file)
    named = {one["cmd"].split("/")[-1] for s in samples for one in s["processes"][1:]}
    assert len(samples) > 3 and "sleep 1.5 " in named
    for sample in samples:
        for one in sample["processes"]:
            assert 0 < one["anon"] <= one["rss"] and one["threads"] == 1 and one["fds"] > 0
    with file.open("a") as out:
        out.write(json.dumps(samples[0])[:50])
    assert len(read(file)) == len(samples)
    monkeypatch.setattr(sys, "argv", ["soak_demo.py", "--read", str(file)])
    main()
    assert f"parent {process.pid}" in capsys.readouterr().out


def test_one_that_was_stopped_early_is_no_measure_and_parents_may_be_several():
    samples = looks(rounds=3)
    for sample in samples[20:120]:  # the first round's trainings are stopped while they fill up
        sample["processes"] = sample["processes"][:1]
    for sample in samples:
        sample["processes"].append(sample["processes"][0] | {"pid": 2})
    verdicts = judge(samples)
    assert [v.what[:8] for v in verdicts[:2]] == ["parent 1", "parent 2"]
    assert growing(samples) == [] and [v.flat for v in verdicts[:2]] == [True, True]
    kinds = [v.said for v in verdicts if v.what in ("phase1", "t2net")]
    assert len(kinds) == 2 and all("3 lived 3, 20, 20" in said for said in kinds)
