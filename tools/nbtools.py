"""Which notebooks there are and what their cells say, by nbdev's own rules."""

import hashlib
import json
from pathlib import Path

from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import NBProcessor

REASONS = {
    "data": "needs the real frames",
    "gpu": "needs a GPU",
    "slow": "takes more than 10 s",
    "notest": "is marked as no test",
    "eval": "is marked as never run",
}


def project_root() -> Path:
    "The folder of the settings.ini that governs the working directory"
    return get_config().config_path


def notebooks() -> list[Path]:
    "The notebooks nbdev_test would run, in reading order"
    found = (Path(path).absolute() for path in nbglob(as_path=True))
    return sorted(path for path in found if not (path.parent / ".notest").exists())


def relative(path: Path) -> str:
    "A notebook's name as people say it: its path below nbs/"
    return path.relative_to(get_config().nbs_path).as_posix()


def skip_flags(force: set[str] = frozenset()) -> set[str]:
    "The directives that keep a cell from running, less those asked for"
    return set(get_config().tst_flags.split()) - force


def held_back(path: Path, flags: set[str]) -> dict[int, str]:
    "Cell number -> the flag for which nbdev_test leaves that code cell out"
    held = {}
    for index, cell in enumerate(NBProcessor(path).nb.cells):
        directives = cell.directives_ if cell.cell_type == "code" else {}
        named = sorted(flags & directives.keys())
        if directives.get("eval:", [""])[0].lower() == "false":
            named.append("eval")
        if named:
            held[index] = named[0]
    return held


def read(path: Path) -> dict:
    "A notebook as plain JSON"
    return json.loads(path.read_text(encoding="utf-8"))


def code_hash(notebook: dict) -> str:
    "Fingerprint of all code cells: it moves when kept pictures may no longer be true"
    sources = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()
