"""`make lowest`: the lowest versions that the metadata allows, on real work.

    python tools/lowest.py [--folder DIR] [--only torch kornia kornia_rs]

Makes a virtual environment beside the project's, installs the package with every runtime
requirement at its lower bound (or only those named), and runs tests there that train and resume.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
import venv
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/test_properties.py", "tests/test_kills.py", "tests/test_pixels.py")
BESIDE = ("pytest", "pytest-timeout", "hypothesis", "packaging", "execnb", "nbdev", "fastcore")


def lower_bounds(settings: Path, only: list[str]) -> list[str]:
    "name==lowest for each runtime requirement"
    cfg = ConfigParser(delimiters=["="])
    cfg.read(settings, encoding="utf-8")
    needs = [Requirement(word) for word in shlex.split(cfg["DEFAULT"]["requirements"])]
    bounds = {n.name: s.version for n in needs for s in n.specifier if s.operator == ">="}
    unknown = sorted(set(only) - bounds.keys())
    if unknown:
        raise SystemExit(f"{unknown[0]} is no requirement; expected some of {', '.join(bounds)}")
    return [f"{name}=={version}" for name, version in bounds.items() if not only or name in only]


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="of the environment (default: a temporary one)")
    parser.add_argument("--only", nargs="*", default=[], help="these requirements at their lowest")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as spare:
        folder = args.folder or Path(spare) / "venv"
        bounds = lower_bounds(ROOT / "settings.ini", args.only)
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        run(python, "-m", "pip", "install", "-q", *bounds, ROOT, *BESIDE)
        run(python, "-m", "pip", "uninstall", "-q", "-y", "s3net")  # the checkout's own is tested
        run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600", *TESTS)
        print("passed with " + " ".join(bounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
