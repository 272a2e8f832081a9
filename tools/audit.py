"""`make audit`: what is installed against what is pinned; its files, its licences.

python tools/audit.py             the installed set against constraints.txt
python tools/audit.py --files     also every installed file against the hash its package lists
python tools/audit.py --licences  a table of packages, versions and licences
"""

import argparse
import base64
import hashlib
import re
import shlex
import sys
from configparser import ConfigParser
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
TOOLS = {"pip", "s3net"}  # not pinned: what installs, and what is installed
SHORT = {  # classifiers and free text as SPDX names
    "Apache Software License": "Apache-2.0", "MIT License": "MIT", "BSD License": "BSD",
    "Python Software Foundation License": "PSF-2.0", "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "The Unlicense (Unlicense)": "Unlicense",
}  # fmt: skip


def plain(name: str) -> str:
    "A package's name as registries compare it"
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(file: Path) -> dict[str, str]:
    "Name -> version of a constraints file"
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    rows = [line.split("==") for line in lines if line]
    odd = [row for row in rows if len(row) != 2]
    if odd:
        raise SystemExit(f"{file.name} holds {odd[0]}, expected name==version on every line")
    return {plain(name): version for name, version in rows}


def installed() -> dict[str, Distribution]:
    "Every package that can be imported here"
    return {plain(d.metadata["Name"]): d for d in distributions() if d.metadata["Name"]}


def against_pins(here: dict[str, Distribution], pins: dict[str, str]) -> list[str]:
    "What is installed in another version, or pinned by nobody"
    said = []
    for name, found in sorted(here.items()):
        version = found.version.partition("+")[0]  # +cpu and the like are builds of one version
        if name not in pins and name not in TOOLS:
            said.append(f"{name} {found.version} is installed and not pinned; add it or remove it")
        elif name in pins and Version(version) != Version(pins[name]):
            said.append(f"{name} is {found.version}, pinned is {pins[name]}; install with -c")
    return said


def against_ranges(pins: dict[str, str], settings: Path) -> list[str]:
    "Pins that the package's own metadata does not allow"
    cfg = ConfigParser(delimiters=["="])
    cfg.read(settings, encoding="utf-8")
    words = [w for key, text in cfg["DEFAULT"].items() if key.endswith("requirements")
             for w in shlex.split(text)]  # fmt: skip
    said = []
    for need in map(Requirement, words):
        version = pins.get(plain(need.name))
        if version is None:
            said.append(f"{need.name} is asked for and not pinned; add it to constraints.txt")
        elif not need.specifier.contains(version, prereleases=True):
            said.append(f"{need.name} is pinned to {version}, which {need} does not allow")
    return said


def changed_files(found: Distribution) -> list[str]:
    "Files of a package that are not what its own list says"
    said = []
    for file in found.files or []:
        path = Path(str(file.locate()))
        if file.hash is None or path.suffix == ".pyc":
            continue
        if not path.is_file():
            said.append(f"{found.metadata['Name']}: {file} is missing; install it again")
            continue
        with path.open("rb") as data:
            digest = hashlib.file_digest(data, file.hash.mode).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            said.append(f"{found.metadata['Name']}: {file} was changed; install it again")
    return said


def licence(about: Message) -> str:
    "The licence a package names, as short as it can be said"
    if about.get("License-Expression"):
        return about["License-Expression"]
    classes = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if "License" in c]
    named = [SHORT.get(c, c) for c in classes if c != "OSI Approved"]
    free = (about.get("License") or "").strip().splitlines()
    return " and ".join(named) or (free[0][:60] if free else "") or "unknown"


def licences(here: dict[str, Distribution]) -> list[tuple[str, str, str]]:
    "Name, version and licence of everything installed"
    return [(name, d.version, licence(d.metadata)) for name, d in sorted(here.items())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", action="store_true", help="compare every installed file too")
    parser.add_argument("--licences", action="store_true", help="print the table of licences")
    args, here = parser.parse_args(), installed()
    if args.licences:
        rows = licences(here)
        for name, version, words in rows:
            print(f"{name:32}{version:20}{words}")
        unknown = [name for name, _, words in rows if words == "unknown"]
        print(f"{len(rows)} packages, {len(unknown)} name no licence: {', '.join(unknown) or '-'}")
        return 0
    pins = pinned(ROOT / "constraints.txt")
    said = against_pins(here, pins) + against_ranges(pins, ROOT / "settings.ini")
    if args.files:
        for name, found in sorted(here.items()):
            said += changed_files(found) if name not in TOOLS else []
    print("".join(f"{line}\n" for line in said), end="")
    what = "versions and files" if args.files else "versions"
    print(f"{len(here)} packages, {len(pins)} pins, {what} compared: {len(said)} problems")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
