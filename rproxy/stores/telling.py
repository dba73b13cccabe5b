"""What waits until the store was told of what happened before it, in order, and not for long."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds that an acknowledgement may wait for the store: a server that hears nothing for some seconds takes the proxy
#: for an old one (:data:`rproxy.pool.leasing.ANSWER_TIMEOUT`).
TOLD_TIMEOUT = 1.0


class Telling:
    """What is to be done when the next exchange is over, and when the one is that is being made."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._next: list[Callable[[], object]] = []
        self._now: list[Callable[[], object]] = []
        self._timer: IDelayedCall | None = None

    def add(self, then: Callable[[], object], *, untold: bool) -> None:
        """Call this when what comes before it was told, be it at once.

        :param untold: whether there is something that the next exchange tells.
        """
        if untold:
            self._next.append(then)
        elif self._now:
            self._now.append(then)
        else:
            then()
        if (self._now or self._next) and self._timer is None:
            self._timer = self._clock.callLater(TOLD_TIMEOUT, self._end_late)

    def begin(self) -> None:
        """The next exchange is being made now."""
        self._now, self._next = self._next, []

    def end(self) -> None:
        """The exchange is over."""
        now, self._now = self._now, []
        if self._timer is not None and not self._next:
            self._timer.cancel()
            self._timer = None
        for then in now:
            then()

    def end_all(self) -> None:
        """There is nothing to wait for."""
        self._now, self._next = self._now + self._next, []
        self.end()

    def _end_late(self) -> None:
        self._timer = None
        self.end_all()
