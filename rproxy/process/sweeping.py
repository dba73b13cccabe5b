"""Work that comes round: deadlines, waits and leases are looked at together, so that none needs a timer of its own."""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

#: Seconds between two looks at deadlines, waits and leases: how late each of them may be noticed.
SWEEP = 0.25


class SweepService(Service):
    """Calls something every so often, and goes on when it fails.

    :param interval: seconds.
    """

    _logger = Logger()

    def __init__(self, clock: IReactorTime, interval: float, sweep: Callable[[], None]) -> None:
        self._interval = interval
        self._sweep = sweep
        self._loop = LoopingCall(self._run)
        self._loop.clock = clock

    def startService(self) -> None:
        super().startService()
        done = self._loop.start(self._interval, now=False)
        done.addErrback(lambda failure: self._logger.failure("A sweep ended", failure, event="sweep-ended"))

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()
        return None

    def _run(self) -> None:
        try:
            self._sweep()
        except Exception:  # noqa: BLE001 - whatever it is, deadlines must go on being kept
            self._logger.failure("A sweep failed", event="sweep-failed")
