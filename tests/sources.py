"""What is in git, for tests that begin with a clone: as it is now, committed or not."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.support import ROOT

#: Tests that need nothing but what rproxy itself needs, and take some seconds: a little of all that there are.
QUICK = (
    *("tests.test_packaging", "tests.test_routing", "tests.test_cli"),
    *("tests.test_proxy", "tests.test_proxy_packets", "tests.test_proxy_registering"),
    *("tests.test_tap", "tests.test_tap_listening", "tests.test_tap_policies", "tests.test_tap_service"),
)


def sources() -> list[str]:
    """The files that are in git, by their paths; none if this is no clone, or there is no git."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [name for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]


def clone(folder: Path) -> None:
    """Put a copy of each into a folder, links as links."""
    for name in sources():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
