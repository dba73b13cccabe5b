"""By how much the reactor is late: a timer that is due often, and how long after that it was called."""

from __future__ import annotations

from collections import deque

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two looks, and for how long the latest is remembered.
INTERVAL = 1.0
WINDOW = 60


class Lag(Service):
    """Measures it while it runs."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._due = 0.0
        self._call: IDelayedCall | None = None
        self._all: deque[float] = deque([0.0], maxlen=WINDOW)

    @property
    def last(self) -> float:
        """By how many seconds the last call was late."""
        return self._all[-1]

    @property
    def latest(self) -> float:
        """By how many the latest was, of a minute."""
        return max(self._all)

    def startService(self) -> None:
        super().startService()
        self._look_later()

    def stopService(self) -> None:
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look_later(self) -> None:
        self._due = self._clock.seconds() + INTERVAL
        self._call = self._clock.callLater(INTERVAL, self._look)

    def _look(self) -> None:
        self._all.append(max(0.0, self._clock.seconds() - self._due))
        self._look_later()
