"""The programs in C: load, servers, and what else has to be quicker than what is measured."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

#: Where their sources are.
SOURCES = Path(__file__).resolve().parent
#: Each is one source file.
PROGRAMS = ("load", "servers", "nats", "rude", "registrants")


class Missing(Exception):
    """Something that has to be installed first isn't there."""


def build(folder: Path, compiler: str = "cc") -> None:
    """Compile the programs into a folder.

    :raises Missing: there is no compiler, or it can't.
    """
    found = shutil.which(compiler)
    if found is None:
        raise Missing(f"{compiler}, a C compiler, is missing; on Debian and Ubuntu: apt-get install gcc libc6-dev")
    for name in PROGRAMS:
        argv = [found, "-O2", "-Wall", "-Wextra", "-std=gnu11", "-o", str(folder / name), str(SOURCES / f"{name}.c")]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"{' '.join(argv)} failed:\n{done.stderr.strip()}")
