"""SIGTERM and SIGINT: the first stops in order, and the process ends with exit code 0; the second ends it at once.

Twisted by itself ends a process that was stopped in order with the signal that it got, as if it had been killed.

SIGHUP has files read again, in a process that has any.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalService(Service):
    """Handles the signals while the reactor runs, in the place of the reactor's own handlers.

    It is to be the first service of its process, so that nothing says earlier that the process is ready.

    :param at_once: called by the second signal, in its handler, before the process ends.
    """

    _logger = Logger()

    def __init__(self, reactor: Any, at_once: Callable[[], object] = lambda: None) -> None:
        self._reactor = reactor
        self._at_once = at_once
        self._before: dict[int, Any] = {}
        self._stopping = False

    def privilegedStartService(self) -> None:
        """Keep them waiting until the reactor runs: from now on others may take the process for ready."""
        super().privilegedStartService()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def startService(self) -> None:
        super().startService()
        # Only then, because the reactor sets its own when it begins to run.
        self._reactor.callWhenRunning(self._install)

    def stopService(self) -> None:
        """Leave the handlers, for the second signal, unless the process goes on."""
        super().stopService()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        if not self._stopping:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _install(self) -> None:
        if self.running:
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            self._at_once()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._stopping = True
        self._reactor.callFromThread(self._stop, signal.Signals(number).name)

    def _stop(self, name: str) -> None:
        self._logger.info(
            "Received {signal}: stopping; a second one ends the process at once", event="stopping", signal=name
        )
        # Somebody else may have stopped it already.
        with suppress(ReactorNotRunning):
            self._reactor.stop()


class ReloadService(Service):
    """Calls what reads files again on SIGHUP.

    It does so until the process has ended: the signal would else end it at once, with what is in flight.

    :param reloads: each deals with files that can't be read. Without any, the signal ends the process as ever.
    """

    _logger = Logger()

    def __init__(self, reactor: Any, reloads: Sequence[Callable[[], object]]) -> None:
        self._reactor = reactor
        self._reloads = reloads

    def startService(self) -> None:
        super().startService()
        if self._reloads:
            signal.signal(signal.SIGHUP, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._reload)

    def _reload(self) -> None:
        self._logger.info("Received SIGHUP: reading files again", event="reloading")
        self.reload()

    def reload(self) -> None:
        """Have all files read again."""
        for reload in self._reloads:
            try:
                reload()
            except Exception:  # noqa: BLE001 - whatever it is, the others are to be called too
                self._logger.failure("What was to be read again wasn't", event="reload-failed")
