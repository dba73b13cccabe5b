"""The garbage collector, told what a proxy's objects are like.

What a packet costs is freed by reference counting as soon as it is answered, so looking for garbage among the newest
objects finds none. And what start-up made stays, so looking through it is in vain too (docs/performance.rst).
"""

from __future__ import annotations

import gc
from typing import Any

from twisted.application.service import Service

#: New objects until the youngest are looked through, and how often the older ones are then; Python's own are 700
#: (2,000 from 3.13 on), 10 and 10.
THRESHOLD = (20_000, 50, 100)


class CollectorService(Service):
    """Holds the process's collector to :data:`THRESHOLD` while it runs, and leaves it what start-up made."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._before = gc.get_threshold()

    def startService(self) -> None:
        super().startService()
        self._before = gc.get_threshold()
        gc.set_threshold(*THRESHOLD)
        self._reactor.callWhenRunning(self._freeze)

    def stopService(self) -> None:
        super().stopService()
        gc.unfreeze()
        gc.set_threshold(*self._before)

    def _freeze(self) -> None:
        if self.running:
            gc.collect()
            gc.freeze()
