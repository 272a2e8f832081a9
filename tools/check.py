"""`make check`: is what is written down consistent? Fast, and changes nothing.

Each check says in one sentence what is wrong and which command mends it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from execute_notebooks import stale
from floors import GENERATED, check_floors
from nbtools import notebooks, project_root, relative
from wheel import check_wheel

BIN = Path(sys.executable).parent


def _said(command: list[str], **options) -> list[str]:
    "What a command printed, if it failed"
    done = subprocess.run(command, capture_output=True, text=True, **options)
    return (done.stdout + done.stderr).strip().splitlines() if done.returncode else []


def _generated(package: Path) -> list[Path]:
    "The files nbdev_export writes, below the package"
    files = sorted(package.rglob("*.py"))
    kept = [f for f in files if f.name == "_modidx.py" or GENERATED.search(f.read_text("utf-8"))]
    return [f.relative_to(package) for f in kept]


def _fresh(root: Path, copy: Path) -> None:
    "Export and clean a copy of the notebooks, into a package that holds nothing else"
    shutil.copytree(root / "nbs", copy / "nbs")
    (copy / "s3net").mkdir()
    shutil.copy(root / "settings.ini", copy)
    shutil.copy(root / "s3net" / "__init__.py", copy / "s3net")
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([BIN / command], cwd=copy, env=env, check=True, capture_output=True)


def check_sync() -> list[str]:
    "Notebooks are clean, and the package is exactly what they export"
    root, problems = project_root(), []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        _fresh(root, copy)
        for path in notebooks():
            if (copy / path.relative_to(root)).read_bytes() != path.read_bytes():
                problems.append(f"nbs/{relative(path)} is not clean; run .venv/bin/nbdev_clean")
        here, there = set(_generated(root / "s3net")), set(_generated(copy / "s3net"))
        for name in sorted(here - there):
            problems.append(f"s3net/{name} comes from no notebook; delete it, run nbdev_export")
        for name in sorted(there):
            mine, fresh = root / "s3net" / name, copy / "s3net" / name
            if not mine.exists() or mine.read_bytes() != fresh.read_bytes():
                fix = "edit notebooks, not modules, and run .venv/bin/nbdev_export"
                problems.append(f"s3net/{name} is not what its notebook exports; {fix}")
    return problems


def check_git() -> list[str]:
    "No file of the package is left out of git while its notebook is in"
    root = project_root()
    command = ["git", "ls-files", "--others", "--exclude-standard", "s3net"]
    new = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.split()
    command = ["git", "ls-files", "nbs"]
    known = subprocess.run(command, cwd=root, capture_output=True, text=True).stdout.split()
    return [f"{name} is not in git; run git add {name}" for name in new] if known else []


def check_lint() -> list[str]:
    "ruff's rules on notebooks, package, tools, tests and benchmarks"
    return _said([BIN / "ruff", "check", "--output-format=concise"], cwd=project_root())


def check_format() -> list[str]:
    "Notebooks and scripts stand as ruff format would write them"
    command = [BIN / "ruff", "format", "--check", "--output-format=concise"]
    said = _said([*command, "nbs", "tools", "tests", "benchmarks", "setup.py"], cwd=project_root())
    return [*said, "run make format"] if said else []


def check_order() -> list[str]:
    "Imports go down the floors; no cycle, no orphan, enough notebooks"
    return check_floors(project_root())


def check_pictures() -> list[str]:
    "Kept outputs were made by the code beside them"
    old = [path for path in notebooks() if stale(path)]
    fix = "run .venv/bin/python tools/execute_notebooks.py --stale"
    return [f"nbs/{relative(path)} keeps outputs older than its code; {fix}" for path in old]


CHECKS = {
    "sync": check_sync,
    "git": check_git,
    "lint": check_lint,
    "format": check_format,
    "floors": check_order,
    "pictures": check_pictures,
    "wheel": check_wheel,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", choices=[[], *CHECKS], help="these checks (all)")
    chosen, failed = parser.parse_args().only or list(CHECKS), 0
    for name in chosen:
        started = time.monotonic()
        problems = CHECKS[name]()
        failed += bool(problems)
        seconds = time.monotonic() - started
        print(f"{'FAIL' if problems else 'ok':4} {seconds:5.1f}s  {name}: {CHECKS[name].__doc__}")
        print("".join(f"      {line}\n" for line in problems), end="", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
