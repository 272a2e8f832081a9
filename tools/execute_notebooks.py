"""`make notebooks`: run the notebooks in place and keep their small evidence pictures.

The real frames are out of reach while this runs, and cells flagged `data`, `gpu` or `slow` are not
run and lose what they held: no KITTI pixel can end up in a notebook. Templates in experiments/ keep
no outputs at all. Each notebook is stamped with a hash of its code, so that `make check` can name
pictures older than their code. A notebook with a failing cell stays as it was.
"""

import argparse
import json
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from execnb.nbio import dict2nb, nb2str
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbtools import code_hash, held_back, notebooks, read, relative, skip_flags

WIDGET = "application/vnd.jupyter.widget-view+json"
SETTINGS = {
    "IN_TEST": "1",
    "JUPYTER_PREFER_ENV_PATH": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "OMP_NUM_THREADS": "1",
    "PLOTLY_RENDERER": "plotly_mimetype",
    "S3NET_REAL": os.devnull,  # not a folder, so no real frames
}


def _unwanted(output: dict) -> bool:
    "Progress bars and warnings, and widgets, which mean nothing without their kernel"
    return output.get("name") == "stderr" or WIDGET in output.get("data", {})


def clean_text(notebook: dict) -> str:
    "The notebook as nbdev_clean would leave it, stamped with its code's hash"
    config = get_config()
    notebook["metadata"].pop("widgets", None)
    notebook["metadata"]["s3net"] = {"code_hash": code_hash(notebook)}
    cells = dict2nb(notebook)
    clean_nb(
        cells,
        allowed_metadata_keys=config.get("allowed_metadata_keys").split(),
        allowed_cell_metadata_keys=config.get("allowed_cell_metadata_keys").split(),
        clean_ids=config.clean_ids,
    )
    return nb2str(cells)


def run_cells(path: Path, notebook: nbformat.NotebookNode) -> list[str]:
    "Fill in the outputs of all cells that may run; returns what they wrote to stderr"
    flagged = held_back(path, skip_flags())
    idle = [
        cell
        for index, cell in enumerate(notebook.cells)
        if index in flagged or "nbdev_export(" in cell.source
    ]
    sources = [cell.source for cell in idle]
    for cell in idle:
        cell.source = ""
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    ).execute()
    for cell, source in zip(idle, sources, strict=True):
        cell.source, cell.outputs = source, []
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return [o.text for o in outputs if o.get("name") == "stderr"]


def execute(path: Path) -> tuple[str, float, str]:
    "Run one notebook and write it back: what went wrong (empty if nothing), seconds, its stderr"
    started, notebook, notes = time.monotonic(), nbformat.read(path, as_version=4), []
    if get_config().nbs_path / "experiments" in path.parents:
        for cell in notebook.cells:
            cell.update({"outputs": []} if cell.cell_type == "code" else {})
    else:
        try:
            notes = run_cells(path, notebook)
        except CellExecutionError as error:
            return re.sub(r"\x1b\[[0-9;]*m", "", str(error)), time.monotonic() - started, ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not _unwanted(o)]
    text = clean_text(json.loads(nbformat.writes(notebook)))
    if text != path.read_text(encoding="utf-8"):
        temporary = path.with_suffix(".ipynb.part")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    return "", time.monotonic() - started, "".join(notes)


def stale(path: Path) -> bool:
    "Does the notebook hold outputs that were not made by the code it holds?"
    notebook = read(path)
    kept = any(cell.get("outputs") for cell in notebook["cells"])
    stamp = notebook["metadata"].get("s3net", {}).get("code_hash")
    return kept and stamp != code_hash(notebook)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", type=Path, help="these notebooks (default: all)")
    parser.add_argument("--stale", action="store_true", help="only where code and outputs differ")
    args = parser.parse_args()
    paths = [path.absolute() for path in args.only or notebooks()]
    paths = [path for path in paths if stale(path)] if args.stale else paths
    os.environ.update(SETTINGS)
    failed = 0
    with ProcessPoolExecutor(2) as pool:
        for path, (error, seconds, notes) in zip(paths, pool.map(execute, paths), strict=True):
            print(f"{'FAIL' if error else 'ok':4} {seconds:6.1f}s  {relative(path)}", flush=True)
            print("".join(f"     {line}\n" for line in (error or notes).splitlines()), end="")
            failed += bool(error)
    print(f"{len(paths) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
