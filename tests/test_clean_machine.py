"""The first of the README's two commands, on a Debian with the packages that the README names and no others.

Beside them it has systemd, as it is booted, and its packages come from a folder, as it has no network.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import machine
from tests.machine import Machine
from tests.sources import QUICK, clone, sources
from tests.support import ROOT
from tests.wheels import build, fetch


def named() -> set[str]:
    """The packages that the README has installed."""
    found = re.search(r"apt-get install --no-install-recommends (.+)$", (ROOT / "README.rst").read_text(), re.MULTILINE)
    assert found is not None
    return {*found[1].split()}


@pytest.mark.timeout(machine.MAKING)
def test_demo(tmp_path: Path) -> None:
    """An ordinary user's clone needs no more, and its tests run."""
    if why := machine.obstacle():
        pytest.skip(why)
    if not sources():
        pytest.skip("git knows of no clone here")
    wheels, copy, built = tmp_path / "wheels", tmp_path / "clone", tmp_path / "built"
    wheels.mkdir()
    clone(copy)
    # Another one, as building leaves things behind.
    clone(built)
    wheel = build(built, wheels)
    fetch(wheels, str(wheel), "setuptools>=77")
    wheel.unlink()
    with Machine(*(named() - {*machine.PACKAGES}), binds={"/wheels": wheels}) as booted:
        booted.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /wheels\n")
        booted.run("useradd", "--create-home", "somebody")
        booted.copy(copy, "/home/somebody/rproxy")
        booted.run("chown", "--recursive", "somebody:", "/home/somebody")
        as_somebody = ("runuser", "--user", "somebody", "--", "env", "--chdir=/home/somebody/rproxy")
        demo = booted.run(*as_somebody, "make", "demo", seconds=machine.MAKING)
        assert demo.splitlines()[-1] == "All 15 packets were answered rightly, each by a server of its policy."
        trial = (".venv/bin/python", "-m", "twisted.trial", "--reporter=text")
        tested = booted.run(*as_somebody, *trial, *QUICK, seconds=machine.MAKING)
        assert "PASSED" in tested.splitlines()[-1], tested
