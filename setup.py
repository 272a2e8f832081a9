"Build s3net from the values in settings.ini, which nbdev reads as well."

import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
if not parser.read(here / "settings.ini", encoding="utf-8"):
    raise SystemExit("settings.ini is missing beside setup.py; check the repository out again")
cfg = parser["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    keywords=cfg["keywords"],
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        f"Intended Audience :: {cfg['audience']}",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Programming Language :: Python :: 3",
    ],
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=["s3net", "s3net.*"]),
    package_data={"s3net": ["py.typed", "recipes/*.json"], "s3net.data": ["splits/*.json"]},
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={
        "dev": shlex.split(
            " ".join(cfg[f"{name}_requirements"] for name in ("dev", "video", "cluster"))
        ),
        "cluster": shlex.split(cfg["cluster_requirements"]),
        "video": shlex.split(cfg["video_requirements"]),
        "onnx": shlex.split(cfg["onnx_requirements"]),
    },
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": ["s3net=s3net._modidx:d"],
    },
    zip_safe=False,
)
