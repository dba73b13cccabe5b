"""A worker as its parent sees it: a process, the channel to it, and what it has to say in the log."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.python.failure import Failure

from rproxy.process.children import how_it_ended
from rproxy.registry.registration import Key
from rproxy.workers.channel import Channel, ChannelError
from rproxy.workers.relaying import LineReader, log_sockets, relay

#: The worker's descriptors: its end of the channel, where its log lines go, where all say how many connections they
#: have (:mod:`rproxy.workers.balancing`), and the first that it accepts from.
CHANNEL, LOG, BOARD, LISTENERS = 3, 4, 5, 6

#: The longest line that is kept of what it prints, in bytes.
_LONGEST_LINE = 1 << 14

#: What systemd told the parent is nothing to a worker.
_PARENTS_OWN = frozenset(
    {"LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
)


@frozen
class Orders:
    """What a worker is told when it starts; it reads that from its standard input.

    :ivar number: its own, from 1.
    :ivar options: the values of :class:`rproxy.options.Options`, as its parent read them.
    :ivar families: of each socket that it accepts from, in the order of the options that name them.
    :ivar drained: what an operator had drained before it started.
    """

    number: int
    options: Mapping[str, Any]
    families: Sequence[int]
    drained: Sequence[Key]


class Told(Protocol):
    """Whom a worker tells of itself."""

    def ready(self) -> None:
        """It accepts."""

    def counted(self, counters: Mapping[str, Any]) -> None:
        """It leaves, and has counted this; see :meth:`rproxy.figures.counters.Counters.snapshot`."""

    def ended(self, how: str) -> None:
        """It is no more; ``how`` is the rest of a sentence that begins with its name."""


class WorkerProcess(ProcessProtocol):
    """One worker's process.

    It has ended when the channel has, too: what it said last is heard before that.
    """

    def __init__(self, number: int, told: Told) -> None:
        self._number = number
        self._told = told
        self._partial = {1: b"", 2: b""}
        self._lines: LineReader | None = None
        #: How it ended, once it has.
        self._how = ""
        self.channel = Channel({"ready": told.ready, "stopped": told.counted}, self._tell_end)

    @property
    def pid(self) -> int | None:
        """Its process id, as long as it has one."""
        transport: IProcessTransport | None = self.transport
        return transport and transport.pid  # type: ignore[return-value]  # an int, or None once it has ended

    def spawn(self, reactor: Any, orders: Orders, board: int, listeners: Sequence[int], env: Mapping[str, str]) -> None:
        """Start the process.

        :param reactor: provides ``IReactorProcess``, ``IReactorSocket`` and ``IReactorFDSet``.
        :param board: see :func:`rproxy.workers.balancing.make_board`.
        :param listeners: the sockets to accept from.
        :raises OSError: the system doesn't let it.
        """
        argv = [sys.executable, "-P", "-m", "rproxy.worker", str(orders.number)]
        told = pickle.dumps(orders)
        with self._connected(reactor) as channel, self._logged(reactor) as log:
            files: dict[int, Any] = {0: "w", 1: "r", 2: "r", CHANNEL: channel, LOG: log, BOARD: board}
            files.update(enumerate(listeners, LISTENERS))
            # The last that may fail: from here on it says by itself how it ends.
            transport = reactor.spawnProcess(self, sys.executable, argv, env=env, childFDs=files)
        transport.write(told)
        transport.closeStdin()

    def ask(self, name: str, **arguments: Any) -> Deferred[Any]:
        """See :meth:`Channel.ask`."""
        return self.channel.ask(name, **arguments)

    def owes(self, name: str) -> bool:
        """See :meth:`Channel.owes`."""
        return self.channel.owes(name)

    def stop(self) -> None:
        """Have it drain and leave."""
        # One that can't be asked is leaving.
        self.ask("stop").addErrback(lambda failure: failure.trap(ChannelError))

    def kill(self) -> None:
        """End it at once; may be called in a signal handler."""
        if self.pid is not None:
            with suppress(ProcessExitedAlready, ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    # From the process.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._partial[childFD] + data).split(b"\n")
        self._partial[childFD] = rest[-_LONGEST_LINE:]
        for line in lines:
            relay(self._number, line.decode(errors="replace"))

    def processEnded(self, reason: Failure) -> None:
        for descriptor, rest in self._partial.items():
            if rest:
                self.childDataReceived(descriptor, b"\n")
        if self._lines is not None:
            self._lines.finish()
        self._how = how_it_ended(reason.value)
        self._tell_end()

    def _tell_end(self) -> None:
        if self._how and not self.channel.connected:
            self._told.ended(self._how)

    # What it is started with.

    @contextmanager
    def _connected(self, reactor: Any) -> Iterator[int]:
        """Begin the channel, and give the descriptor of its other end."""
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            far.setblocking(False)
            factory = Factory.forProtocol(lambda: self.channel)
            factory.noisy = False
            reactor.adoptStreamConnection(near.fileno(), socket.AF_UNIX, factory)
            yield far.fileno()

    @contextmanager
    def _logged(self, reactor: Any) -> Iterator[int]:
        """Begin to read its log, and give the descriptor to write there."""
        near, far = log_sockets()
        self._lines = LineReader(reactor, near, self._number)
        with far:
            try:
                yield far.fileno()
            except BaseException:
                self._lines.connectionLost()
                raise


def variables(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the parent's that are for its workers, too."""
    return {name: value for name, value in given.items() if name not in _PARENTS_OWN}
