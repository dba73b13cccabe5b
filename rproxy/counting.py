"""Counting what there is, for who waits until there is none."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred, succeed


@define(eq=False)
class Count:
    """How many of something there are."""

    number: int = 0
    _waiting: list[Deferred[None]] = field(factory=list, init=False)

    def change(self, by: int) -> None:
        """Add ``by``, and if none is left tell who waits."""
        self.number += by
        if not self.number:
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)

    def when_zero(self) -> Deferred[None]:
        """Fire when none is left, at once if none is; cancel it to wait no longer."""
        if not self.number:
            return succeed(None)
        deferred: Deferred[None] = Deferred(self._forget)
        self._waiting.append(deferred)
        return deferred

    def _forget(self, cancelled: Deferred[None]) -> None:
        # It isn't there any more where another that is just being told cancels it.
        if cancelled in self._waiting:
            self._waiting.remove(cancelled)
