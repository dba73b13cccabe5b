"""The turn: an epoll set between the reactor and the sockets, and what is done when something happened there."""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, epoll
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

#: Connections accepted in one turn, so that those that are there aren't kept waiting by those that come.
ACCEPTS = 64

# Made once: a Failure costs as much as a packet.
DONE = Failure(ConnectionDone())
LOST = Failure(ConnectionLost())


@implementer(IReadDescriptor)
class Turns:
    """Reads, writes and closes sockets turn by turn, for who makes the transports.

    They take it for their reactor: it has a reactor's methods, its own for watching sockets, and the reactor's for all
    else.

    :param accepts: how many connections a port accepts in one turn.
    """

    _logger = Logger(namespace="rproxy.sockets")
    #: Whether a connection that comes is better left to another process that accepts from the same sockets; None where
    #: there is none.
    gives_way: Callable[[], bool] | None = None

    def __init__(self, reactor: Any, accepts: int = ACCEPTS) -> None:
        self.accepts = accepts
        self._reactor = reactor
        self._epoll = epoll()
        self.fileno = self._epoll.fileno
        self._watched: dict[int, Any] = {}
        self._events: dict[int, int] = {}
        # Connections as those of rproxy.sockets.connections.
        self._unsent: list[Any] = []
        self._closing: list[Any] = []
        #: Whether the end of the turn is sure to come.
        self._turning = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    # As IReactorFDSet, for the transports.

    def addReader(self, reader: Any) -> None:
        """Watch for something to read."""
        self._watch(reader, EPOLLIN, 0)

    def addWriter(self, writer: Any) -> None:
        """Watch for room to write."""
        self._watch(writer, EPOLLOUT, 0)

    def removeReader(self, reader: Any) -> None:
        """Don't watch for something to read."""
        self._watch(reader, 0, EPOLLIN)

    def removeWriter(self, writer: Any) -> None:
        """Don't watch for room to write."""
        self._watch(writer, 0, EPOLLOUT)

    def watch_accepted(self, connection: Any) -> None:
        """Watch a connection that is new for something to read."""
        fd = connection.fileno()
        self._epoll.register(fd, EPOLLIN)
        self._watched[fd] = connection
        self._events[fd] = EPOLLIN

    def _watch(self, descriptor: Any, more: int, less: int) -> None:
        fd = descriptor.fileno()
        before = self._events.get(fd, 0)
        events = (before | more) & ~less
        if events == before:
            return
        if not before:
            self._epoll.register(fd, events)
            if not self._watched:
                self._reactor.addReader(self)
            self._watched[fd] = descriptor
            self._events[fd] = events
        elif events:
            self._epoll.modify(fd, events)
            self._events[fd] = events
        else:
            self._epoll.unregister(fd)
            self.forget(descriptor)

    def forget(self, descriptor: Any) -> None:
        """Its socket will be closed now, which is all that the kernel needs to forget it too."""
        fd = descriptor.fileno()
        if self._events.pop(fd, 0):
            del self._watched[fd]
            if not self._watched:
                self._reactor.removeReader(self)

    # The turn.

    def send_later(self, connection: Any) -> None:
        """Have the connection's ``send`` called at the end of the turn."""
        self._unsent.append(connection)
        if not self._turning:
            self._turn_later()

    def close_later(self, connection: Any) -> None:
        """Have the connection closed at the end of the turn."""
        self._closing.append(connection)
        if not self._turning:
            self._turn_later()

    def _turn_later(self) -> None:
        self._turning = True
        self._reactor.callLater(0, self._end_turn)

    def doRead(self) -> None:
        """Something happened at some of the sockets: one turn."""
        self._turning = True
        watched = self._watched
        for fd, event in self._epoll.poll(0):
            descriptor = watched.get(fd)
            if descriptor is None:
                continue
            try:
                if event == EPOLLIN and not descriptor.disconnecting:
                    # What _handle would do, for what happens nearly always.
                    why = descriptor.doRead()
                    if why is not None:
                        self._end(descriptor, why, reading=True)
                else:
                    self._handle(descriptor, event)
            except BaseException:  # noqa: BLE001 - as in the reactor: whatever fails ends its own connection and no other
                self.fail(descriptor)
        self._end_turn()

    def _handle(self, descriptor: Any, event: int) -> None:
        # What was closed in this turn has been read to its end.
        reading = bool(event & EPOLLIN) and not descriptor.disconnecting
        why = descriptor.doRead() if reading else None
        if why is None and event & EPOLLOUT:
            why = descriptor.doWrite()
            # An end that is reached by writing is the end of both directions.
            reading = False
        elif why is None and not reading and event & (EPOLLHUP | EPOLLERR):
            why = CONNECTION_LOST
        if why is not None:
            self._end(descriptor, why, reading)

    def _end(self, descriptor: Any, why: Exception, reading: bool) -> None:
        if why is CONNECTION_DONE and reading and IHalfCloseableProtocol.providedBy(descriptor.protocol):
            descriptor.protocol.readConnectionLost()
            if not descriptor.disconnecting:
                self.removeReader(descriptor)
        else:
            descriptor.connectionLost(DONE if why is CONNECTION_DONE else LOST)

    def _end_turn(self) -> None:
        # What is done here may write and close again.
        while self._unsent or self._closing:
            unsent, self._unsent = self._unsent, []
            closing, self._closing = self._closing, []
            for connection in unsent:
                try:
                    connection.send()
                except BaseException:  # noqa: BLE001 - see doRead
                    self.fail(connection)
            for connection in closing:
                if not connection.connected or connection._aborting:
                    continue
                if connection.dataBuffer:
                    # Something was written after all. It will be closed when that is sent.
                    connection.stopReading()
                else:
                    self._finish(connection, connection.connectionLost, DONE)
        self._turning = False

    def _finish(self, descriptor: Any, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except BaseException:  # noqa: BLE001 - see doRead
            self.fail(descriptor)

    def fail(self, descriptor: Any) -> None:
        """Log the exception that is being handled, and end the connection that it came from, if there is one yet."""
        self._logger.failure("A connection failed", event="connection-failed")
        try:
            if descriptor is not None:
                descriptor.connectionLost(Failure())
        except BaseException:  # noqa: BLE001 - see doRead
            self._logger.failure("A connection failed at its end", event="connection-end-failed")

    # As a descriptor of the reactor.

    def logPrefix(self) -> str:
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return "sockets"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor is stopping."""
        for descriptor in list(self._watched.values()):
            self._finish(descriptor, descriptor.connectionLost, reason)
