"""Files from strangers: each is refused in one sentence or read right, in bounded time and memory.

Every case damages one file of a small, valid run folder (checkpoint, cache, recipe, notebook,
archive), reads it through the product's own reader, and mends it. Damaged pictures and data sets
are in test_formats.py; nothing a file holds may run, and nothing may ask for a gigabyte.
"""

import copy
import html
import io
import json
import os
import pickle
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_notebook
from fuzz import as_bytes, cut, flip_bit, folder_instead, in_memory, in_time
from safetensors.torch import save
from torch import nn

from s3net.app.experiment import read_experiment
from s3net.app.parameters import read_parameters, read_words
from s3net.app.recipes import read_recipe
from s3net.base.config import from_dict, override, preset, to_dict
from s3net.base.core import InputError, numpy_generator, read_json, write_json
from s3net.base.limits import load_tensors, read_arrays
from s3net.base.manifest import write_manifest
from s3net.base.records import parse_record
from s3net.data.cache import open_cache, plan_cache, write_cache
from s3net.data.kitti import KittiRaw
from s3net.data.lists import read_list, read_runs
from s3net.data.make3d import read_laser_grid
from s3net.data.miniworld import lesson_world
from s3net.data.samples import read_image
from s3net.eval.album import write_album
from s3net.eval.depth import METRICS
from s3net.eval.runs import read_evaluations
from s3net.eval.tables import Row, table
from s3net.nets.blocks import read_weights
from s3net.train.pack import pack_run, unpack_run
from s3net.train.record import Run, keep_records, read_metrics, restore, start_run
from s3net.train.sources import real_files, recorded_frames
from s3net.train.state import TrainState, load_weights, save_checkpoint
from s3net.workbench.standing import state_of
from s3net.workbench.trainer import trainer

WITNESS = "written-by-a-file"


class Act:
    "A pickle of this writes a file when it is loaded"

    def __reduce__(self):
        return os.system, (f"touch {WITNESS}",)


class Greedy:
    "A pickle of this asks for eight gigabytes"

    def __reduce__(self):
        return bytearray, (2**33,)


# --- a small valid copy of everything ------------------------------------------------------------


def state_of_one() -> TrainState:
    torch.manual_seed(0)
    state = TrainState({"net": nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))})
    state.add_adam("net", 1e-3, (0.9, 0.999))
    state.modules["net"](torch.ones(2, 4)).sum().backward()
    state.optimisers["net"].step()
    return state


def write_run(path: Path) -> None:
    run = start_run(path, "phase1", preset("tiny"), {"real": "3 files, 9 bytes"})
    for step in (1, 2):
        state = state_of_one()
        state.step = step
        save_checkpoint(state, run.path / "checkpoints")
    terms = {"task": [0.5, 10.0]}
    lines = [{"step": k, "time": 1.0, "updates": {"self": terms}, "stats": {}} for k in (1, 2)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [{"step": 1, "results": [{"mean": {"abs_rel": 0.1}}]}]
    (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(path / "frames.json", {"2011_09_26_drive_0001_sync/2": "0-3 7"})
    about = {"pid": 1, "started": 5, "time": 1.0, "host": "elsewhere", "command": ["s3net"]}
    write_json(path / "process.json", about)
    write_json(path / "ended.json", {"how": "stopped", "step": 2, "time": 1.0, "message": "so"})
    parameters = {"notebook": "a.ipynb", "code": "0", "parameters": {"steps": 3}}
    write_json(path / "parameters.json", parameters)
    write_json(path / "experiment.json", {"how": "finished", "seconds": 1.0, "message": "so"})
    write_json(path / "result.json", {"abs_rel": 0.1})


def write_all(root: Path) -> Path:
    write_run(root / "run")
    pack_run(root / "run", root / "packed.zip")
    world = lesson_world() / "kitti_raw"
    write_cache(plan_cache(KittiRaw(world, (32, 96)), world, root / "cache", {"a": 1}))
    recipe = Path(read_recipe.__code__.co_filename).parents[1] / "recipes" / "geometry.json"
    names = sorted(recipe.parent.glob("*.json"))
    shutil.copy(names[0], root / names[0].name)
    (root / names[0].name).rename(root / "recipe.json")
    found = read_json(root / "recipe.json") | {"name": "recipe"}
    write_json(root / "recipe.json", found)
    write_json(root / "list.json", [["2011_09_26_drive_0001_sync", 2, 5], ["Scene01", "fog", 7]])
    cell = 'name = ""  # of it\nout = ""\nsteps = 3\nrate = 0.5\nseeds: list = [0]'
    write_notebook(root / "small.ipynb", cell, "print(steps)")
    notebook = read_json(root / "small.ipynb")
    notebook["cells"][0]["metadata"] = {"tags": ["parameters"]}
    write_json(root / "small.ipynb", notebook)
    torch.save({"weight": torch.arange(6.0)}, root / "net.pt")
    np.savez(root / "arrays.npz", a=np.arange(12.0), b=np.ones(3, bool))
    return root


# --- every reader --------------------------------------------------------------------------------


def read_checkpoint(root: Path) -> object:
    state = state_of_one()
    step = restore(Run(root / "run"), state)
    return step, state.hashes()


def read_environment(root: Path) -> object:
    return start_run(root / "run", "phase1", preset("tiny"), {"real": "3 files, 9 bytes"}, True)


def read_records(root: Path) -> object:
    found = read_metrics(root / "run")
    if (root / "run" / "metrics.jsonl").is_file():
        copied = root / "copy.jsonl"
        shutil.copy(root / "run" / "metrics.jsonl", copied)
        keep_records(copied, 1)
        copied.unlink()
    return found


def read_archive(root: Path) -> object:
    with in_place(root / "unpacked") as folder:
        run = unpack_run(root / "packed.zip", folder, most_mib=64)
        escaped = [p for p in root.parent.iterdir() if p not in (root, root.parent / "spare")]
        assert not escaped
        return run.config, sorted(p.name for p in folder.rglob("*"))


class in_place:
    "A folder that is gone afterwards"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def read_cache(root: Path) -> object:
    data = open_cache(root / "cache", lesson_world() / "kitti_raw", {"a": 1})
    return [round(float(data[k].image_tgt.double().sum()), 6) for k in (0, len(data) - 1)]


def told(found: object) -> object:
    "Something that can be compared"
    if isinstance(found, dict):
        return {str(k): told(v) for k, v in found.items()}
    return found.tolist() if isinstance(found, (torch.Tensor, np.ndarray)) else found


RUN = Path("run")
NEWEST = RUN / "checkpoints" / "00000002"
READERS: dict[str, tuple[Path, Callable[[Path], object]]] = {  # name -> damaged file, reader
    "config": (RUN / "config.json", lambda root: Run(root / "run").config),
    "environment": (RUN / "environment.json", read_environment),
    "metrics": (RUN / "metrics.jsonl", read_records),
    "evaluations": (RUN / "evaluations.jsonl", lambda root: read_evaluations(root / "run")),
    "frames": (RUN / "frames.json", lambda root: recorded_frames(root / "run")),
    "process": (RUN / "process.json", lambda root: trainer(root / "run")),
    "ended": (RUN / "ended.json", lambda root: state_of(root / "run", 2, 4)),
    "parameters": (RUN / "parameters.json", lambda root: read_experiment(root / "run")),
    "experiment": (RUN / "experiment.json", lambda root: read_experiment(root / "run")),
    "result": (RUN / "result.json", lambda root: read_experiment(root / "run")),
    "state": (NEWEST / "state.json", read_checkpoint),
    "manifest": (NEWEST / "manifest.json", read_checkpoint),
    "training": (NEWEST / "training.pt", read_checkpoint),
    "weights": (NEWEST / "net.safetensors", read_checkpoint),
    "given": (NEWEST / "net.safetensors", lambda root: plain_weights(root / NEWEST)),
    "archive": (Path("packed.zip"), read_archive),
    "index": (Path("cache/index.json"), read_cache),
    "sources": (Path("cache/sources.npz"), read_cache),
    "recipe": (Path("recipe.json"), lambda root: read_recipe(root / "recipe.json")),
    "list": (Path("list.json"), lambda root: read_list(root / "list.json")),
    "notebook": (Path("small.ipynb"), lambda root: read_parameters(root / "small.ipynb")),
    "tensors": (Path("net.pt"), lambda root: told(load_tensors(root / "net.pt"))),
    "arrays": (Path("arrays.npz"), lambda root: told(read_arrays(root / "arrays.npz"))),
}


def plain_weights(path: Path) -> dict:
    state = state_of_one()
    load_weights(state.modules["net"], path / "net.safetensors")
    return state.hashes()


# --- damage --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bad:
    "One thing that happens to one file"

    reader: str
    name: str
    change: Callable[[Path, np.random.Generator], object]


DEEP = "[" * 100_000 + "]" * 100_000
BYTES: dict[str, Callable] = {
    "empty": as_bytes(lambda data, _: b""),
    "half": cut(0.5),
    "last bytes lost": as_bytes(lambda data, _: data[:-3]),
    "zeros": as_bytes(lambda data, _: bytes(len(data))),
    "noise": as_bytes(lambda data, rng: rng.bytes(len(data))),
    "a bit": as_bytes(flip_bit),
    "another bit": as_bytes(flip_bit),
    "a folder": folder_instead,
    "a pickle": as_bytes(lambda data, _: pickle.dumps(Act())),
}
TEXTS = {
    "nested deep": DEEP,
    "a number": "3",
    "null": "null",
    "a list": "[1, 2]",
    "a word": '"s3net"',
    "an empty object": "{}",
    "code": '__import__("os").system("touch ' + WITNESS + '")',
    "a long number": "9" * 5000,
    "not a number": '{"step": NaN}',
}
VALUES = [None, -1, 3.5, "../../etc/passwd", [], {}, 10**40, "9" * 400, True]


def places(tree: object, path: tuple = ()) -> Iterator[tuple]:
    "Every place in a JSON value"
    if isinstance(tree, (dict, list)):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield (*path, key)
            yield from places(tree[key], (*path, key))


def put(file: Path, number: int, rng: np.random.Generator) -> None:
    "Replace one value somewhere in a JSON file, or leave it out"
    lines = file.suffix == ".jsonl"
    text = file.read_text()
    found = json.loads(text.splitlines()[0] if lines else text)
    spots = list(places(found))
    *way, last = spots[int(rng.integers(len(spots)))]
    there = found
    for key in way:
        there = there[key]
    if number < len(VALUES):
        there[last] = copy.deepcopy(VALUES[number])
    else:
        del there[last]
    rest = text.splitlines()[1:] if lines else []
    file.write_text("\n".join([json.dumps(found), *rest]) + "\n")


def json_damage(reader: str) -> Iterator[Bad]:
    for name, text in TEXTS.items():
        yield Bad(reader, name, lambda path, _, text=text: path.write_text(text + "\n"))
    for number in range(len(VALUES) + 1):
        yield Bad(reader, f"value {number}", lambda path, rng, n=number: put(path, n, rng))


def cases() -> list[Bad]:
    made = []
    for reader, (file, _) in READERS.items():
        made += [Bad(reader, name, change) for name, change in BYTES.items()]
        if file.suffix in (".json", ".jsonl", ".ipynb"):
            made += json_damage(reader)
    return made


CASES = cases()
FREE = {  # readers of what people write by hand or only look at: another value may be a good one
    "metrics", "evaluations", "frames", "process", "ended", "parameters", "experiment", "result",
    "config", "environment", "recipe", "list", "notebook", "index",
}  # fmt: skip


# --- the tests -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("safe")
    return write_all(folder / "all"), Path(shutil.copytree(folder / "all", folder / "spare"))


def mend(root: Path, spare: Path) -> None:
    shutil.rmtree(root)
    shutil.copytree(spare, root)


def sentence(error: InputError) -> str:
    "What is wrong with a refusal"
    said = str(error)
    text = re.sub(r"\(.*?\)|'.*?'", "", said)
    return "" if "\n" not in text and 10 < len(said) < 1500 else f"not one sentence: {said!r}"


def tried(read: Callable[[], object], valid: object, free: bool) -> str | None:
    "What is wrong with how a reader takes it; None = refused, empty = read right"
    try:
        with in_time(20), in_memory():
            found = read()
    except InputError as error:
        return sentence(error) or None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic is no Exception
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "" if free or found == valid else "read as something else"


@pytest.mark.parametrize("reader", READERS)
def test_bad_files(reader: str, copies: tuple[Path, Path]):
    (root, spare), (name, read) = copies, READERS[reader]
    valid, wrong, refused = read(root), [], 0
    mine = [case for case in CASES if case.reader == reader]
    fallback = (1, valid[1]) if reader in ("state", "manifest", "training", "weights") else None
    for number, case in enumerate(mine):
        case.change(root / name, numpy_generator(1, reader, number))
        problem = tried(lambda: read(root), valid, reader in FREE)
        if problem == "read as something else" and fallback is not None:
            problem = None if read_again(root) == 1 else problem
        refused += problem is None
        wrong += [f"{case.name}: {problem}"] if problem else []
        mend(root, spare)
    assert not wrong, "\n".join(["", *wrong])
    assert refused >= 3 and not Path(WITNESS).exists()


def read_again(root: Path) -> int:
    "The step that a run with a damaged newest checkpoint stands at"
    return restore(Run(root / "run"), state_of_one())


def test_there_are_enough():
    assert len(CASES) >= 300, len(CASES)


WORDS = [
    "steps", "=3", "steps=", "steps=many", "steps=1e400", "steps=nan", "steps=-1", "steps=2.5",
    "batch=0", "width=100", "alpha_flow=inf", "lr_depth=-1", "translate=perhaps", "keep=-1",
    "betas_gan=1", "betas_gan=a,b", "betas_gan=1,2,3", "device=__import__('os')", "mask=both",
    "semantics=all", "stpes=3", "__class__=3", "full_disk=maybe", "bad_samples=2", "bad_steps=-1",
    "precision=fp8", "photometric_scales=9", "seed=1e30x", "cache_gib=0", "max_depth=nan",
]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_bad_settings(word: str, tmp_path: Path):
    with pytest.raises(InputError) as refused:
        override(preset("tiny"), [word])
    assert not sentence(refused.value)


def test_bad_values_in_a_config():
    good = to_dict(preset("tiny"))
    for name in good:
        for value in (None, {}, [1, 2, 3], float("nan"), float("inf"), "\0", 10**400):
            try:
                made = from_dict(good | {name: value})
            except InputError as error:
                assert not sentence(error)
                continue
            assert type(getattr(made, name)) is type(getattr(preset("tiny"), name)), (name, value)


# --- bombs ---------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg(width: int, height: int) -> bytes:
    body = struct.pack(">BHHB", 8, height, width, 1) + bytes([1, 0x11, 0])
    return b"\xff\xd8\xff\xc0" + struct.pack(">H", len(body) + 2) + body + b"\xff\xda\0\2\xff\xd9"


def npy(shape: tuple[int, ...], kind: str = "<f8") -> bytes:
    out = io.BytesIO()
    header = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + bytes(64)


def zipped(**members: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name.replace("__", "/").replace("_dot_", "."), data)

    return write


def whole(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def tensors(claimed: list[int]) -> bytes:
    head = json.dumps(
        {"weight": {"dtype": "F32", "shape": claimed, "data_offsets": [0, 4 * claimed[0]]}}
    ).encode()
    return struct.pack("<Q", len(head)) + head + bytes(64)


def mat(claimed: int) -> bytes:
    "A MATLAB 5 file whose only element claims so many bytes"
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x100) + b"IM"
    return head + struct.pack("<II", 14, claimed) + bytes(200)


def pickled(payload: object, packing: int = zipfile.ZIP_STORED, more: bytes = b"") -> Callable:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", packing) as archive:
            archive.writestr("a/data.pkl", pickle.dumps(payload, protocol=2))
            archive.writestr("a/version", "3")
            archive.writestr("a/data/0", more)

    return write


def storage_that_lies(path: Path) -> None:
    "A tensor of a million numbers whose storage holds six"
    torch.save({"weight": torch.arange(6.0)}, path)
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        held = {m.filename: archive.read(m) for m in archive.infolist()}
    name = next(n for n in held if n.endswith("data.pkl"))
    held[name] = held[name].replace(b"K\x06", b"J\x40\x42\x0f\x00")
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in held.items():
            archive.writestr(member, content)


def huge_index(path: Path) -> None:
    path.write_text('{"a/2": "0-99999999999"}')


BOMBS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], object]]] = {
    "png": ("a.png", whole(png(100_000, 100_000)), read_image),
    "png, widest": ("a.png", whole(png(2**31 - 1, 2**31 - 1)), read_image),
    "png, empty": ("a.png", whole(png(0, 0)), read_image),
    "jpeg": ("a.jpg", whole(jpeg(65_535, 65_535)), read_image),
    "gif as png": ("a.png", whole(b"GIF89a" + bytes(99)), read_image),
    "npz": ("a.npz", zipped(a_dot_npy=npy((100_000, 100_000))), read_arrays),
    "npz, negative": ("a.npz", zipped(a_dot_npy=npy((-1, 5))), read_arrays),
    "npz, objects": ("a.npz", zipped(a_dot_npy=npy((3,), "|O")), read_arrays),
    "npz, zeros": ("a.npz", zipped(a_dot_npy=npy((10,)), b=bytes(2**25)), read_arrays),
    "safetensors": ("a.safetensors", whole(tensors([10**10])), read_weights),
    "safetensors, head": ("a.safetensors", whole(struct.pack("<Q", 2**62)), read_weights),
    "safetensors, code": ("a.safetensors", whole(pickle.dumps(Act())), read_weights),
    "pickle": ("a.pt", whole(pickle.dumps(Act())), load_tensors),
    "pickle in a zip": ("a.pt", pickled(Act()), load_tensors),
    "pickle, greedy": ("a.pt", pickled(Greedy()), load_tensors),
    "pickle, zeros": ("a.pt", pickled({}, zipfile.ZIP_DEFLATED, bytes(2**26)), load_tensors),
    "pickle of numpy": ("a.pt", pickled(np.arange(3)), load_tensors),
    "storage": ("a.pt", storage_that_lies, load_tensors),
    "weights as pickle": ("a.pth", pickled(Act()), read_weights),
    "mat": ("a.mat", whole(mat(2**31 - 8)), read_laser_grid),
    "mat, most": ("a.mat", whole(mat(2**32 - 1)), read_laser_grid),
    "runs": ("frames.json", huge_index, lambda path: recorded_frames(path.parent)),
    "deep": ("a.json", lambda path: path.write_text(DEEP) and None, read_json),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, tmp_path: Path):
    file, write, read = BOMBS[name]
    write(tmp_path / file)
    with in_time(20), in_memory(2**29), pytest.raises(InputError) as refused:
        read(tmp_path / file)
    assert not sentence(refused.value) and not Path(WITNESS).exists()


def test_the_bound_of_memory_works():
    with pytest.raises(MemoryError), in_memory(2**29):
        np.ones(2**27)


ESCAPES = [
    "../out.json",
    "/tmp/out.json",
    "checkpoints/../../out",
    "a\\b",
    "run.py",
    ".lock",
    "STOP",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_archives_stay_in_their_folder(name: str, copies: tuple[Path, Path], tmp_path: Path):
    shutil.copy(copies[0] / "packed.zip", tmp_path / "packed.zip")
    with zipfile.ZipFile(tmp_path / "packed.zip", "a") as archive:
        archive.writestr(name, b"{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError):
        unpack_run(tmp_path / "packed.zip", tmp_path / "inner" / "run")
    assert [p for p in sorted(tmp_path.rglob("*")) if p.is_file()] == before


@pytest.mark.parametrize("drive", ["..", "../../etc", "/etc", "a/../..", ""])
def test_lists_stay_in_their_folder(drive: str, tmp_path: Path):
    write_json(tmp_path / "list.json", [[drive, 2, 5]])
    with pytest.raises(InputError):
        read_list(tmp_path / "list.json")


@pytest.mark.parametrize("text", ["0-", "a", "3-1", "0-99999999999", "1 2 x", "-5", "0-1-2"])
def test_bad_runs_of_frames(text: str):
    with pytest.raises(InputError):
        read_runs(text)


@pytest.mark.parametrize(
    "line", ["", "[]", "{", DEEP, "NaN", '"x"', "9" * 5000, '{"a": ' + "9" * 400 + "}x"]
)
def test_bad_records(line: str):
    with pytest.raises(InputError) as refused:
        parse_record(line)
    assert not sentence(refused.value)


CELLS = [
    "import os\nsteps = 3", "steps = __import__('os').getpid()", "steps = 3 if True else 4",
    "steps = [x for x in range(3)]", "steps = {1: 2}", "steps = (1, 2)", "a = b = 3", "steps: int",
    "def f(): pass", "steps = 3\nprint(steps)", "steps = f'{1}'",
    "steps = " + "(" * 500 + ")" * 500,
    "steps = 3;;", "steps = '\\x'", "a.b = 3", "a[0] = 3", "steps = 1 + 2 * 3", "steps += 1",
    "steps = 0x", "\0",
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(CELLS)))
def test_parameters_are_never_evaluated(number: int, tmp_path: Path):
    path = write_notebook(tmp_path / "a.ipynb", CELLS[number])
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["metadata"] = {"tags": ["parameters"]}
    path.write_text(json.dumps(notebook))
    with in_time(20), in_memory(), pytest.raises(InputError) as refused:
        read_parameters(path)
    assert not sentence(refused.value)


def test_words_are_never_evaluated(copies: tuple[Path, Path]):
    path = copies[0] / "small.ipynb"
    declared = read_parameters(path)
    given = read_words(path, declared, ["name=__import__('os').system('touch x')"])
    assert given == {"name": "__import__('os').system('touch x')"}


def test_a_whole_tensor_file_is_still_read(tmp_path: Path):
    held = {"weight": torch.arange(6.0)}
    (tmp_path / "a.safetensors").write_bytes(save(held))
    torch.save(held, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        assert torch.equal(read_weights(tmp_path / name)["weight"], held["weight"])


def test_a_checkpoint_of_a_stranger_runs_nothing(tmp_path: Path):
    "Its list agrees with its files, so nothing but the reader itself can refuse"
    write_run(tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        pickled(Act())(path / "training.pt")
        write_manifest(path)
    with pytest.raises(InputError, match="damaged or not ours"):
        restore(Run(tmp_path / "run"), state_of_one())
    assert not Path(WITNESS).exists()


HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a&b", '"><b>x', "'><i>y"]


@pytest.mark.parametrize("name", HOSTILE)
def test_pages_show_names_as_text(name: str, tmp_path: Path):
    "The name of a run, a setting, a term, a row: none of them becomes a tag"
    plain = name.replace("/", "-")
    run = start_run(tmp_path / plain, "phase1", preset("tiny", real_drives=name))
    record = {"step": 1, "time": 0.0, "seconds": 0.1, "stats": {name: 1.0}}
    record["updates"] = {name: {name: [0.5, 1.0]}}
    (run.path / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    figures = dict.fromkeys(METRICS, 0.5)
    page = write_album(run.path, tmp_path / "album.html").read_text()
    grid = table([Row(name, figures, "from the paper", "miniworld80")], "html", name)
    for text in (page, grid):
        outside = re.sub(r"<script[^>]*>(?!alert).*?</script>", "", text, flags=re.S)
        assert all(tag not in outside for tag in ("<script>alert", "<img src=x", "<b>x", "<i>y"))
    assert html.escape(name) in grid or html.escape(name, quote=False) in grid


@pytest.mark.parametrize("drives", ["..", "../../etc", "/etc", "a/../..", "a\\b"])
def test_settings_stay_in_their_folder(drives: str):
    world = lesson_world()
    cfg = preset("tiny", real=str(world / "kitti_raw"), real_drives=drives)
    with pytest.raises(InputError, match="a name inside its folder"):
        real_files(cfg)
