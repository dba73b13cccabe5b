"""What is read off: what ``load`` reports, and the memory and files of other processes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.processes import Failure


@dataclass(frozen=True)
class Sample:
    """What one run of ``load`` or ``nats`` measured.

    :ivar done: messages that were answered, all rightly.
    :ivar seconds: in so much time.
    :ivar cpu_seconds: the processor time that the proxy had meanwhile, all its processes and threads together.
    :ivar p50: half of the answers came within so many seconds; the others likewise.
    """

    done: int
    seconds: float
    cpu_seconds: float
    p50: float
    p90: float
    p99: float
    p999: float
    longest: float

    @property
    def micros(self) -> float:
        """Microseconds of the proxy's processor time for each message."""
        return self.cpu_seconds * 1e6 / self.done

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.done / self.seconds


def parse_report(log: str) -> dict[str, Any]:
    """The JSON that a program in C ended with.

    :raises Failure: there is none.
    """
    lines = [line for line in log.splitlines() if line.startswith("{")]
    if not lines:
        raise Failure(f"there is no report, but: {log!r}")
    report: dict[str, Any] = json.loads(lines[-1])
    return report


def parse_sample(log: str) -> Sample:
    """What ``load`` or ``nats`` measured.

    :raises Failure: nothing.
    """
    report = parse_report(log)
    sample = Sample(**{field.name: report[field.name] for field in fields(Sample)})
    if sample.done < 1:
        raise Failure(f"no message was answered in {sample.seconds:g} s")
    return sample


def family(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, int] = {}
    for stat in proc.glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = parse_parent(stat.read_text())
        except OSError:
            continue  # It ended meanwhile.
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


def parse_parent(stat: str) -> int:
    """The parent's pid, out of ``/proc/PID/stat``: the name may have spaces and brackets."""
    return int(stat.rpartition(")")[2].split()[1])


def parse_sizes(text: str) -> dict[str, int]:
    """The sizes in bytes out of ``/proc/PID/smaps_rollup`` or ``/proc/PID/status``."""
    return {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def own_memory(pid: int) -> int:
    """The memory in bytes that a process and its descendants share with nobody else (USS)."""
    sizes = [parse_sizes(Path(f"/proc/{member}/smaps_rollup").read_text()) for member in family(pid)]
    return sum(size["Private_Clean"] + size["Private_Dirty"] for size in sizes)


def peak_memory(pid: int) -> int:
    """The most memory in bytes that a process and its descendants ever had resident, each for itself."""
    return sum(parse_sizes(Path(f"/proc/{member}/status").read_text())["VmHWM"] for member in family(pid))


def open_files(pid: int) -> int:
    """How many files a process and its descendants have open."""
    return sum(len(list(Path(f"/proc/{member}/fd").iterdir())) for member in family(pid))


def processor_time(pid: int) -> float:
    """The processor time in seconds that a process and all its threads have had, by the kernel's exact clock."""
    # As clock_getcpuclockid(3) makes it: Python has no function for that.
    return time.clock_gettime((~pid << 3) | 2)


def parse_connections(table: str, inodes: Collection[str]) -> set[tuple[int, int]]:
    """The own and the other port of connections, out of ``/proc/PID/net/tcp``.

    :param inodes: of the sockets that count.
    """
    rows = [line.split() for line in table.splitlines()[1:]]
    return {
        (int(row[1].rpartition(":")[2], 16), int(row[2].rpartition(":")[2], 16)) for row in rows if row[9] in inodes
    }


def connections(pid: int) -> set[tuple[int, int]]:
    """The TCP connections over IPv4 of one process: for each its own and the other port."""
    inodes = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = str(path.readlink())
        except OSError:
            continue  # It was closed meanwhile.
        if name.startswith("socket:["):
            inodes.add(name[8:-1])
    return parse_connections(Path(f"/proc/{pid}/net/tcp").read_text(), inodes)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so many of one of the values are within."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
