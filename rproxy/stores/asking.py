"""Packets that wait for the store's word on their policies: bounded, and none for long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rproxy.request import Request

#: Seconds that a packet may wait.
ASK_TIMEOUT = 1.0
#: Packets that may wait, and their bytes.
MOST_ASKED = 10_000
MOST_ASKED_BYTES = 64 << 20


class Asking:
    """Those that the next exchange is for, and those that the one is for that is being made.

    :param answer: what becomes of them afterwards.
    """

    def __init__(self, clock: IReactorTime, answer: Callable[[Sequence[Request]], object]) -> None:
        self._clock = clock
        self._answer = answer
        self._next: list[Request] = []
        self._now: list[Request] = []
        self._bytes = 0
        self._timer: IDelayedCall | None = None

    def add(self, request: Request) -> bool:
        """Have a packet wait for the next exchange; False where there is no room."""
        if len(self._next) + len(self._now) >= MOST_ASKED or self._bytes >= MOST_ASKED_BYTES:
            return False
        self._bytes += len(request.raw)
        self._next.append(request)
        if self._timer is None:
            self._timer = self._clock.callLater(ASK_TIMEOUT, self._end_late)
        return True

    def begin(self) -> None:
        """The next exchange is being made now."""
        self._now, self._next = self._next, []

    def end(self) -> None:
        """The exchange is over."""
        self._hand_back(self._now)

    def end_all(self) -> None:
        """Nobody waits any longer."""
        self._hand_back(self._now, self._next)

    def _end_late(self) -> None:
        self._timer = None
        self.end_all()

    def _hand_back(self, *waiting: list[Request]) -> None:
        requests = [request for each in waiting for request in each]
        self._bytes -= sum(len(request.raw) for request in requests)
        for each in waiting:
            each.clear()
        if self._timer is not None and not (self._next or self._now):
            self._timer.cancel()
            self._timer = None
        if requests:
            self._answer(requests)
