"""Build the wheel, import all of it where Jupyter is not installed, run the README's quick start.

The environment is a new, empty venv. The wheel is installed into it; its run-time dependencies,
less the Jupyter ones, are linked in from this environment, file by file as their own records list
them. So nbdev, fastcore, ipywidgets, IPython and JupyterLab are absent there, not merely hidden.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires
from pathlib import Path

from nbtools import project_root
from packaging.requirements import Requirement

JUPYTER = {"ipywidgets", "anywidget", "jupyterlab", "papermill"}
ABSENT = ("nbdev", "fastcore", "ipywidgets", "IPython", "jupyterlab", "papermill", "nbclient")
WIDGET_FLOOR = "workbench"
WALK = f"""
import importlib, importlib.util, pkgutil, s3net, sys
there = [name for name in {ABSENT!r} if importlib.util.find_spec(name)]
assert not there, f"these should not be installed here: {{there}}"
names = [m.name for m in pkgutil.walk_packages(s3net.__path__, "s3net.")]
names = [n for n in names if n.split(".")[1] != "{WIDGET_FLOOR}"]
for name in names:
    importlib.import_module(name)
assert names and "site-packages" in s3net.__file__, (names, s3net.__file__)
print(len(names), "modules of the wheel imported where Jupyter is not installed")
"""


def run_time(root_requirements: list[str]) -> dict[str, Distribution]:
    "The installed distributions that these requirements lead to, Jupyter ones left out"
    found, waiting = {}, list(root_requirements)
    while waiting:
        need = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", need.name).lower()
        if name in JUPYTER or name in found:
            continue
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        waiting += found[name].requires or []
    return found


def link(dist: Distribution, site: Path) -> None:
    "Make one installed distribution visible in another site-packages folder"
    for top in {file.parts[0] for file in dist.files or [] if file.parts[0] != ".."}:
        if not (site / top).exists():
            (site / top).symlink_to(Path(dist.locate_file(top)))


def build(folder: Path) -> Path:
    "The wheel, built from a copy, so that the checkout stays as it is"
    root, copy = project_root(), folder / "source"
    copy.mkdir()
    shutil.copytree(root / "s3net", copy / "s3net", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "setup.py", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, copy]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return next(folder.glob("*.whl"))


def environment(folder: Path, wheel: Path) -> Path:
    "A new venv that holds the wheel and what it needs at run time; its python"
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    for dist in run_time(requires("s3net")).values():
        link(dist, site)
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return python


def quick_start(readme: str) -> str | None:
    "The first Python block after the words 'quick start'"
    found = re.search(r"quick start.*?^```python\n(.*?)^```", readme, re.I | re.M | re.S)
    return found.group(1) if found else None


def check_command(python: Path, folder: Path, env: dict[str, str]) -> list[str]:
    "`s3net data lists` as installed, in an empty folder: its data came along, torch did not"
    command = [python.with_name("s3net"), "data", "lists"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    seconds, lines = time.monotonic() - started, done.stdout.splitlines()
    if done.returncode or not any(line.split()[:2] == ["s3net", "41,738"] for line in lines):
        said = (done.stderr or done.stdout).splitlines()[-1:]
        return [f"s3net data lists of the wheel ended with {done.returncode}: {' '.join(said)}"]
    print(f"      s3net data lists of the wheel: {len(lines)} lines in {seconds:.1f} s")
    return []


def check_wheel() -> list[str]:
    "What goes wrong on the way from the checkout to an import elsewhere; prints what was done"
    snippet = quick_start((project_root() / "README.md").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            python = environment(folder, build(folder))
            elsewhere = folder / "elsewhere"
            elsewhere.mkdir()
            clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "S3NET"))}
            clean |= {"HOME": str(elsewhere), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
            for script in filter(None, (WALK, snippet)):
                done = subprocess.run(
                    [python, "-c", script],
                    check=True,
                    capture_output=True,
                    text=True,
                    cwd=elsewhere,
                    env=clean,
                    timeout=300,
                )
                print("      " + done.stdout.strip().replace("\n", "\n      "))
            if problems := check_command(python, elsewhere, clean):
                return problems
        except subprocess.CalledProcessError as error:
            what = "the quick start in README.md" if error.cmd[-1] == snippet else "the wheel"
            return [f"{what}: " + "\n".join((error.stderr or error.stdout).splitlines()[-8:])]
    return [] if snippet else ["README.md has no quick start followed by a ```python block"]


if __name__ == "__main__":
    problems = check_wheel()
    print(*problems, sep="\n")
    sys.exit(bool(problems))
