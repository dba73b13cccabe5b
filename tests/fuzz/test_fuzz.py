"""A short look with the fuzzer; ``python -m tests.fuzz TARGET --seconds N`` looks longer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS
from tests.support import PATIENCE, environment

SECONDS = 4


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_breaks_it(target: str, tmp_path: Path) -> None:
    """Nothing that is found within a few seconds does."""
    argv = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", target, "--seconds", str(SECONDS)]
    found = subprocess.run(
        argv, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=3 * PATIENCE, check=False
    )
    runs = re.search(r"^Done (\d+) runs", found.stderr, re.MULTILINE)
    assert found.returncode == 0 and runs, found.stdout[-2000:] + found.stderr[-2000:]
    assert int(runs[1]) > 100, "it hardly ran"


@pytest.mark.parametrize("target", TARGETS)
def test_bytes_can_be_run_again(target: str, tmp_path: Path) -> None:
    """What broke a target is run by itself to see why."""
    found = tmp_path / "crash-1"
    found.write_bytes(b"\1\2\3\4" + b'{"type": "0", "srcid": "1", "privPoliId": "111", "payload": "xyz1"}')
    argv = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", target, "--bytes", str(found)]
    again = subprocess.run(argv, cwd=tmp_path, env=environment(), capture_output=True, timeout=PATIENCE, check=False)
    assert again.returncode == 0, again.stderr
