"""A service under systemd tells that it is ready, how it is, that it isn't hung, and when it reloads and stops.

Nothing of this happens where systemd, or what stands in for it, didn't ask for it (``NOTIFY_SOCKET``), and nothing that
goes wrong on the way there harms the service.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.control import Control, ControlError
from rproxy.process.sweeping import SweepService
from rproxy.systemd.messages import Manager, datagram, proxy_status

#: Seconds between two looks at how the service is, and until it is asked again whether it is ready.
STATUS = 5.0
READY = 0.1

Reload = Callable[[], object]


class Notifier:
    """Tells a manager.

    :param manager: None where there is none: then nothing is told.
    """

    _logger = Logger()

    def __init__(self, manager: Manager | None) -> None:
        self.manager = manager
        #: Whether it was told that the service is ready.
        self.is_ready = False
        self._failed = False

    def tell(self, **fields: str | int) -> bool:
        """Send fields of sd_notify(3), and return whether they were sent."""
        if self.manager is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                # It may be full, and the reactor is not to wait.
                sock.setblocking(False)
                sock.sendto(datagram(fields), self.manager.address)
        except OSError as error:
            if not self._failed:
                self._logger.warn("Can't tell systemd how it is: {why}", event="notify-failed", why=error)
            self._failed = True
            return False
        self._failed = False
        return True

    def tell_ready(self) -> bool:
        """Tell that the service is ready, and return whether that was sent."""
        self.is_ready = self.tell(READY=1)
        return self.is_ready

    def around(self, reloads: Sequence[Reload]) -> Sequence[Reload]:
        """Return what SIGHUP is to call so that the manager knows of it, from when the service is ready.

        With a manager that is something also where there is nothing to read again: to it, SIGHUP is always a reload.
        """
        return reloads if self.manager is None else [self._reloading, *reloads, self._reloaded]

    def _reloading(self) -> None:
        if self.is_ready:
            self.tell(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000)

    def _reloaded(self) -> None:
        # To the manager that is the end of a start, too.
        if self.is_ready:
            self.tell(READY=1)


#: For a process of which nobody else wants to know.
NOBODY = Notifier(None)


class SystemdService(MultiService):
    """Tells the manager of a process's services. It is to be the last of them: so it starts last and stops first.

    :param is_ready: whether all ports are open; asked from when the reactor runs.
    :param status: how it is, in a line.
    :param stop_seconds: how long a stop may take at most.
    """

    _logger = Logger()

    def __init__(
        self,
        notifier: Notifier,
        reactor: Any,
        is_ready: Callable[[], bool],
        status: Callable[[], str | Deferred[str]],
        stop_seconds: float,
    ) -> None:
        super().__init__()
        self._notifier = notifier
        self._reactor = reactor
        self._is_ready = is_ready
        self._status = status
        self._stop_seconds = stop_seconds
        self._told = ""
        self._again: IDelayedCall | None = None
        if notifier.manager is not None:
            SweepService(reactor, STATUS, self._look).setServiceParent(self)
            if notifier.manager.watchdog is not None:
                SweepService(reactor, notifier.manager.watchdog / 2, self._feed).setServiceParent(self)

    def startService(self) -> None:
        super().startService()
        if self._notifier.manager is not None:
            self._reactor.callWhenRunning(self._begin)

    def stopService(self) -> Deferred[list[Any]]:
        """Tell that the process stops, and how long that may take."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._notifier.tell(
            STOPPING=1,
            STATUS="stopping: the last packets are being answered",
            EXTEND_TIMEOUT_USEC=round(self._stop_seconds * 1e6),
        )
        return super().stopService()  # type: ignore[no-any-return]  # Twisted's has no types

    def _begin(self) -> None:
        self._again = None
        if not self.running:
            return
        if self._is_ready() and self._notifier.tell_ready():
            self._look()
        else:
            self._again = self._reactor.callLater(READY, self._begin)

    def _look(self) -> None:
        if self._notifier.is_ready:
            maybeDeferred(self._status).addCallbacks(self._tell, self._failed)

    def _tell(self, status: str) -> None:
        if self.running and status != self._told and self._notifier.tell(STATUS=status):
            self._told = status

    def _failed(self, failure: Failure) -> None:
        self._logger.failure("Can't say how the service is", failure, event="status-failed")

    def _feed(self) -> None:
        manager = self._notifier.manager
        if manager is not None and manager.watchdog_pid in {None, os.getpid()}:
            self._notifier.tell(WATCHDOG=1)


class ProxyStatus:
    """How a proxy is, from its figures and those of the time before.

    :param seconds: a clock.
    """

    def __init__(self, control: Control, seconds: Callable[[], float]) -> None:
        self._control = control
        self._seconds = seconds
        self._before: tuple[float, int] | None = None

    def __call__(self) -> Deferred[str]:
        return Deferred.fromCoroutine(self._look())

    async def _look(self) -> str:
        try:
            figures = await self._control.figures()
        except ControlError as error:
            return str(error)
        now, received = self._seconds(), figures.counters.get("received", 0)
        before, rate = self._before, None
        if isinstance(received, int):
            self._before = (now, received)
            # What a worker counted may be lost with it.
            if before is not None and now > before[0] and received >= before[1]:
                rate = (received - before[1]) / (now - before[0])
        return proxy_status(figures, rate)
