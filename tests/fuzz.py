"""What tests of bad input share: ways to damage a file, and bounds of time and memory."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def as_bytes(edit: Callable[[bytes, np.random.Generator], bytes]) -> Callable:
    return lambda path, rng: path.write_bytes(edit(path.read_bytes(), rng)) and None


def flip_bit(data: bytes, rng: np.random.Generator) -> bytes:
    place, changed = int(rng.integers(len(data))), bytearray(data)
    changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def cut(share: float, step: int = 1) -> Callable:
    return as_bytes(lambda data, _: data[: int(len(data) * share) // step * step + (step == 1)])


def folder_instead(path: Path, _: np.random.Generator) -> None:
    path.unlink()
    path.mkdir()


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    "A reader that hangs is stopped, where the system can"

    def stop(*_) -> None:
        raise TimeoutError(f"more than {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def in_memory(room: int = 2**30) -> Iterator[None]:
    "What asks for more than `room` bytes beyond what is held now gets a MemoryError, on Linux"
    if find_spec("resource") is None:
        yield
        return
    import resource

    held = next((int(x.split()[1]) for x in _status() if x.startswith("VmSize")), None)
    before = resource.getrlimit(resource.RLIMIT_AS)
    if held is not None:
        resource.setrlimit(resource.RLIMIT_AS, (1024 * held + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _status() -> list[str]:
    file = Path("/proc/self/status")
    return file.read_text().splitlines() if file.is_file() else []
