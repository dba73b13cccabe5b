"""The workers of a proxy as their operator's system sees them: which there are, what each does, and whom it serves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import PATIENCE, wait_for


def workers_of(parent: int) -> dict[int, int]:
    """The process ids of a proxy's workers by their number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                # One that was killed has none, and one that was just forked has its parent's.
                argv = (folder / "cmdline").read_text().split("\0")
                if "rproxy.worker" in argv:
                    found[int(argv[-2])] = int(folder.name)
    return found


def state_of(pid: int) -> str:
    """What a process does, in the letter that ps has for it; Z where there is none any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it hasn't ended yet."""
    return state_of(pid) != "Z"


@contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    """Have processes not run meanwhile, and so accept nobody."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            wait_for(lambda pid=pid: state_of(pid) == "T", PATIENCE, "the process to stand still")  # type: ignore[misc]
        yield
    finally:
        for pid in pids:
            # It may have been killed meanwhile.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
