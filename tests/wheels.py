"""Wheels of rproxy, and of all that it needs, for machines (:mod:`tests.machine`) that have no network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from tests.support import ROOT

#: What makes a wheel.
_SOURCES = ("rproxy", "twisted", "etc", "setup.cfg", "pyproject.toml", "README.rst", "LICENSE")
_PIP = (sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check")


def make(folder: Path, extras: str) -> Path:
    """Put a wheel of rproxy as it is here, and all that it needs, into ``wheels`` in a folder; return rproxy's.

    :param extras: what it is installed with, as in ``redis,tls``.
    """
    sources, wheels = folder / "sources", folder / "wheels"
    sources.mkdir()
    for name in _SOURCES:
        # As it is, the link to etc/ too; a copy, as the build leaves things behind.
        subprocess.run(["cp", "--archive", str(ROOT / name), str(sources)], check=True)
    wheel = build(sources, wheels)
    shutil.rmtree(sources)
    fetch(wheels, f"{wheel}[{extras}]")
    return wheel


def pretend(path: Path, text: str = "") -> Path:
    """Write what is a wheel of rproxy as far as ``rproxy ec2`` looks, and return it.

    :param text: what makes it another one.
    """
    with ZipFile(path, "w") as archive:
        archive.writestr(ZipInfo("twisted/plugins/rproxy_plugins.py"), text)
    return path


def build(sources: Path, wheels: Path) -> Path:
    """Put a wheel of these sources into a folder, and return it."""
    subprocess.run([*_PIP, "wheel", "--no-deps", f"--wheel-dir={wheels}", str(sources)], check=True)
    (wheel,) = wheels.glob("rproxy-*.whl")
    return wheel


def fetch(wheels: Path, *wanted: str) -> None:
    """Put what is wanted, and all that it needs, into a folder, for the machines' Python."""
    argv = [*_PIP, "download", "--only-binary=:all:", "--python-version=3.11", f"--dest={wheels}", *wanted]
    subprocess.run(argv, check=True)
