"""When the next thing is due, for the one who sleeps until then."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarm:
    """One at a time sleeps here."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        #: In the clock's seconds.
        self._due = 0.0
        self._sleeping: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        #: Whether the sleep ends when something is due.
        self._is_until_due = False

    def set(self, seconds: float) -> None:
        """The next thing is due in so many seconds, whatever was before."""
        self._due = self._clock.seconds() + seconds

    def within(self, seconds: float) -> None:
        """It is due in so many seconds, if it isn't sooner."""
        due = self._clock.seconds() + seconds
        if due < self._due:
            self._due = due
            if self._timer is not None and self._is_until_due:
                self._timer.reset(seconds)

    async def until_due(self) -> None:
        """Sleep until it is due, or until :meth:`wake`."""
        self._is_until_due = True
        await self._sleep(max(0.0, self._due - self._clock.seconds()))

    async def sleep(self, seconds: float) -> None:
        """Sleep for so long, whatever is due, or until :meth:`wake`."""
        self._is_until_due = False
        await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        self._sleeping = Deferred()
        self._timer = self._clock.callLater(seconds, self.wake)
        await self._sleeping

    def wake(self) -> None:
        """End the sleep, if somebody sleeps."""
        timer, self._timer = self._timer, None
        sleeping, self._sleeping = self._sleeping, None
        if timer is not None and timer.active():
            timer.cancel()
        if sleeping is not None:
            sleeping.callback(None)
