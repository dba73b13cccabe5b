"""The text of the metrics for those who scrape: made once for all who wait for it, and a little in each turn.

Between two turns the reactor does whatever else there is to do. So a scrape may take long, and holds nothing up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Cooperator
from twisted.python.failure import Failure

from rproxy.admin.metrics import make_metrics
from rproxy.control import Control
from rproxy.figures import Figures

#: After how many seconds of a turn it is for others to go on, once a piece is done.
TURN = 0.002


def make_cooperator(clock: IReactorTime) -> Cooperator:
    """Return who divides work into turns of :data:`TURN`."""

    def begin_turn() -> Callable[[], bool]:
        end = clock.seconds() + TURN
        return lambda: clock.seconds() >= end

    return Cooperator(begin_turn, lambda turn: clock.callLater(0, turn))


class Scrapes:
    """Everybody who scrapes.

    Who comes while a text is made waits for the next one: figures that were there before one asked don't show what one
    has just done. So there are no more than two texts to wait for, however many come.
    """

    def __init__(self, control: Control, cooperator: Cooperator) -> None:
        self._control = control
        self._cooperator = cooperator
        #: For whom a text is being made, and who waits for the next one.
        self._readers: list[Deferred[bytes]] = []
        self._waiting: list[Deferred[bytes]] = []
        self._making: Deferred[bytes] | None = None

    def text(self) -> Deferred[bytes]:
        """The text. It may be cancelled; when all have, there is nothing more to do.

        It fails as :meth:`rproxy.control.Control.figures` does.
        """
        reader: Deferred[bytes] = Deferred(self._leave)
        self._waiting.append(reader)
        self._begin()
        return reader

    def _begin(self) -> None:
        if self._making is None and self._waiting:
            self._readers, self._waiting = self._waiting, []
            self._making = Deferred.fromCoroutine(self._make())
            self._making.addBoth(self._tell)

    def _leave(self, reader: Deferred[bytes]) -> None:
        for readers in self._readers, self._waiting:
            if reader in readers:
                readers.remove(reader)
        if not self._readers and self._making is not None:
            self._making.cancel()

    async def _make(self) -> bytes:
        figures = await self._control.figures()
        pieces: list[bytes] = []
        task = self._cooperator.cooperate(_gather(figures, pieces))
        try:
            await task.whenDone()
        except CancelledError:
            task.stop()
            raise
        return b"".join(pieces)

    def _tell(self, result: bytes | Failure) -> None:
        # Whoever is told may ask again, and one of them may leave.
        while self._readers:
            self._readers.pop(0).callback(result)
        self._making = None
        self._begin()


def _gather(figures: Figures, pieces: list[bytes]) -> Iterator[None]:
    for piece in make_metrics(figures):
        pieces.append(piece)
        yield
