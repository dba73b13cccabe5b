"""What a process has open, counted by who explains it (Linux only: it is read from ``/proc``).

The keys of the counters are:

- ``listening``: a socket that listens.
- ``taken``: a connection that was made to one of its ports.
- ``made to PORT``: a connection that it made.
- ``socket``: any other socket.
- ``pipe``, ``file``, or what else the kernel calls it, such as ``anon_inode:[eventpoll]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

#: The state of a listening socket in ``/proc/net/tcp``.
_LISTEN = "0A"


def open_files(pid: int, port: int) -> Counter[str]:
    """Return what a process has open now.

    :param port: where it listens.
    """
    connections = _connections(pid, port)
    found: Counter[str] = Counter()
    for path in _targets(pid):
        target = str(path)
        kind, _, inode = target.rstrip("]").partition(":[")
        if kind == "socket":
            target = connections.get(inode, kind)
        elif kind == "pipe":
            target = kind
        elif target.startswith("/"):
            # A log has another path in each life.
            target = "file"
        found[target] += 1
    return found


def has_open(pid: int, pattern: str) -> bool:
    """Whether a process has a file open whose name matches."""
    return any(target.match(pattern) for target in _targets(pid))


def ports_of_peers(pid: int, port: int) -> frozenset[int]:
    """Return the ports of all who are connected to a process at a port of its own."""
    mine = {str(target) for target in _targets(pid)}
    lines = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return frozenset(
        _port(remote)
        for _, local, remote, state, *rest in lines
        if _port(local) == port and state != _LISTEN and f"socket:[{rest[5]}]" in mine
    )


def _targets(pid: int) -> Iterator[Path]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        # It may be closed while we look.
        with suppress(FileNotFoundError):
            yield entry.readlink()


def _connections(pid: int, port: int) -> dict[str, str]:
    """Return what each TCP socket of this machine is, by inode, as seen from a process that listens at the port."""
    found = {}
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, *rest = line.split()
        inode = rest[5]
        if state == _LISTEN:
            found[inode] = "listening"
        elif _port(local) == port:
            found[inode] = "taken"
        else:
            found[inode] = f"made to {_port(remote)}"
    return found


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
