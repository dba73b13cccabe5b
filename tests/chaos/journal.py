"""What a server received, one line a packet, in a file that outlives the server.

A line is written by one ``write`` before the packet is answered, so not even SIGKILL takes back a line of a packet that
was answered. This module is also imported by :mod:`tests.chaos.faultserver`, which has to start at once: it imports
little, and nothing that isn't Python's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: The variable that tells :mod:`tests.chaos.journaling` which file to write to.
VARIABLE = "CHAOS_JOURNAL"
#: How long a server works on a packet, in seconds: one that answers at once has hardly anything that could be lost.
WORK = 0.015
#: What a server did with a packet, unless it was ordered to do something else.
ANSWERED = "answer"


class Receipt(NamedTuple):
    """A packet that a server received.

    ``at`` is in seconds of the monotonic clock, which all processes of a machine share. ``client_id`` and ``policy``
    are empty where the server isn't told them. ``deed`` is what the server then did: :data:`ANSWERED`, or its order.
    """

    server_id: str
    at: float
    digest: str
    client_id: str
    policy: str
    deed: str


def sha1_hex(payload: str) -> str:
    """Return the digest that payloads are known by, which is also what servers answer."""
    return hashlib.sha1(payload.encode(), usedforsecurity=False).hexdigest()


class Journal:
    """Where a server writes."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def add(self, digest: str, client_id: str = "", policy: str = "", deed: str = ANSWERED) -> None:
        """Write down a packet, before it is answered."""
        line = json.dumps([time.monotonic(), digest, client_id, policy, deed])
        os.write(self._file, f"{line}\n".encode())


def read(path: Path, server_id: str) -> Iterator[Receipt]:
    """Give what is in a server's journal; nothing if the server never had one."""
    if path.exists():
        for line in path.read_text().splitlines():
            yield Receipt(server_id, *json.loads(line))
