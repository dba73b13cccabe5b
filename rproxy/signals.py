"""SIGTERM and SIGINT: the first stops in order, and the process ends with exit code 0; the second ends it at once.

Twisted by itself ends a process that was stopped in order with the signal that it got, as if it had been killed. SIGHUP
has what comes from files looked at again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalService(Service):
    """Handles the signals while the reactor runs, in the place of the reactor's own handlers."""

    _logger = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._before: dict[int, Any] = {}
        self._stopping = False

    def startService(self) -> None:
        super().startService()
        # Only then, because the reactor sets its own when it begins to run.
        self._reactor.callWhenRunning(self._install)

    def stopService(self) -> None:
        """Leave the handlers, for the second signal, unless the process goes on."""
        super().stopService()
        if not self._stopping:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _install(self) -> None:
        if self.running:
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._stopping = True
        self._reactor.callFromThread(self._stop, signal.Signals(number).name)

    def _stop(self, name: str) -> None:
        self._logger.info("Received {name}: stopping; a second one ends the process at once", name=name)
        self._reactor.stop()


class HangupService(Service):
    """Has something done on SIGHUP while the reactor runs.

    :param reloads: called one after the other in the reactor's thread; one that fails doesn't keep the others from it.
    """

    _logger = Logger()

    def __init__(self, reactor: Any, reloads: Sequence[Callable[[], object]]) -> None:
        self._reactor = reactor
        self._reloads = reloads
        self._before: Any = None

    def startService(self) -> None:
        super().startService()
        # From now on, not when the reactor runs: it would end a process that isn't quite ready.
        self._before = signal.signal(signal.SIGHUP, self._handle)

    def stopService(self) -> None:
        super().stopService()
        signal.signal(signal.SIGHUP, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        self._logger.info("Received SIGHUP")
        for reload in self._reloads:
            try:
                reload()
            except Exception:  # noqa: BLE001 - whatever it is, the proxy goes on, and so do the others
                self._logger.failure("What SIGHUP asks for failed")
