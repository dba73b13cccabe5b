"""Which worker accepts: one that has more connections than another one lets that one go first.

All workers wake when a connection comes, and the first to wake takes it. So connections that come one by one, and stay,
would be one worker's all. Each worker therefore writes where all can read it how many it has. There is nothing to wait
for: if the connection is still there after a moment, the others have something better to do, and it is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from mmap import mmap

#: Connections more than another worker that a worker may have: so many, and one for so many of the other's.
LEAD = 4
LEAD_SHARE = 8

_BYTES = 8


def make_board(workers: int) -> int:
    """Return the descriptor of a place for the numbers of so many workers."""
    descriptor = os.memfd_create("rproxy-workers")
    os.ftruncate(descriptor, workers * _BYTES)
    return descriptor


class Board:
    """The numbers of all workers, as one of them uses them.

    :param descriptor: see :func:`make_board`.
    :param number: which worker it is, from 1.
    :param connections: how many it has.
    """

    def __init__(self, descriptor: int, workers: int, number: int, connections: Callable[[], int]) -> None:
        self._numbers = memoryview(mmap(descriptor, workers * _BYTES)).cast("q")
        self._own = number - 1
        self._connections = connections
        self.write()

    def write(self) -> None:
        """Let the others know; called now and then, as they can't know when connections end here."""
        self._numbers[self._own] = self._connections()

    def gives_way(self) -> bool:
        """Whether another worker should accept what comes now."""
        own = self._numbers[self._own] = self._connections()
        least = min(self._numbers)
        return own > least + LEAD + least // LEAD_SHARE
