"""TCP sockets that cost less: Twisted's transports with fewer system calls and fewer Python calls around them.

A :class:`SocketGroup` is handed out in the reactor's place to whatever makes TCP ports and connections. It watches them
with an epoll set of its own, which the reactor sees as one file. When the reactor says that something happened there,
the group reads from every ready socket, and only then, at the end of the turn, sends what was written meanwhile: one
``send`` for each connection and turn, at once, without asking first whether the socket is writable. So packets for one
server that came from many clients travel together, and nothing is registered for writing but what the kernel didn't
take (docs/performance.rst has the figures).

What a transport does is inherited from Twisted. What isn't plain TCP (TLS, Unix sockets) goes to the reactor as ever.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from errno import EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, POLLIN, epoll, poll
from socket import MSG_DONTWAIT
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.internet.protocol import ClientFactory, Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

#: Bytes read at once, and written before the producer is paused: Twisted's numbers.
READ = 1 << 16
#: Connections accepted in one turn, so that those that are there aren't kept waiting by those that come.
ACCEPTS = 64
#: Seconds until accepting is tried again after the process has run out of files or memory.
PAUSE = 0.5
#: Seconds for which a connection is left to other processes, and for which none is once they left one.
COURTESY = 0.003
INSISTENCE = 0.25

_AGAIN = frozenset((EAGAIN, EINTR, ENOBUFS))
_EXHAUSTED = frozenset((EMFILE, ENFILE, ENOBUFS, ENOMEM))
# Made once: a Failure costs as much as a packet.
_DONE = Failure(ConnectionDone())
_LOST = Failure(ConnectionLost())


class _GroupedConnection(tcp.Connection):
    """How a grouped connection writes and closes; all else is Twisted's.

    The two buffers are Twisted's too (``twisted.internet.abstract.FileDescriptor``): ``_tempDataBuffer`` has what was
    written in this turn, ``dataBuffer`` what the kernel didn't take.
    """

    reactor: SocketGroup  # type: ignore[assignment]  # what Twisted wants of a reactor here, it has
    # The kernel shuts a socket down by closing it: a call before that would be one more.
    _shouldShutdown = False

    def doRead(self) -> ConnectionLost | ConnectionDone | None:  # type: ignore[override]  # as Connection's, untyped here
        try:
            data = self.socket.recv(READ, MSG_DONTWAIT)
        except OSError as error:
            return None if error.errno in _AGAIN else CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def write(self, data: bytes) -> None:
        if self._writeDisconnected or not self.connected or not data:
            return
        waiting = self._tempDataLen
        if not waiting:
            self.reactor.send_later(self)
        self._tempDataBuffer.append(data)
        self._tempDataLen = waiting = waiting + len(data)
        if waiting > READ or self.dataBuffer:
            self._maybePauseProducer()

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def send(self) -> None:
        """Send what was written in this turn, unless the kernel already has more than it can take."""
        if not self.connected or self.dataBuffer or not self._tempDataLen:
            return
        parts = self._tempDataBuffer
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._tempDataLen = 0
        try:
            sent = self.socket.send(data, MSG_DONTWAIT)
        except OSError as error:
            if error.errno not in _AGAIN:
                self.connectionLost(_LOST)
                return
            sent = 0
        if sent < len(data):
            self.dataBuffer = data
            self.offset = sent
            self.startWriting()
        elif (
            self.producerPaused
            or self.disconnecting
            or self._writeDisconnecting
            or (not self.streamingProducer and self.producer is not None)
        ):
            self.startWriting()

    def writeSomeData(self, data: bytes) -> int | ConnectionLost:
        try:
            return int(self.socket.send(data, MSG_DONTWAIT))
        except OSError as error:
            return 0 if error.errno in _AGAIN else CONNECTION_LOST

    def loseConnection(self) -> None:
        unsent = self._tempDataLen or self.dataBuffer
        # A producer that is to be resumed may have more.
        waiting = self.producer is not None and (self.producerPaused or not self.streamingProducer)
        if unsent or waiting or self._writeDisconnected or self.disconnecting:
            super().loseConnection()
        elif self.connected:
            self.disconnecting = True
            self.reactor.close_later(self)

    def abortConnection(self) -> None:
        super().abortConnection()
        # As Twisted does with doWrite: nothing is sent any more.
        self.send = _nothing  # type: ignore[method-assign]

    def startTLS(self, ctx: Any, normal: bool = True) -> None:
        # Twisted's would leave write as it is here: in the clear.
        raise NotImplementedError("TLS goes on top of a grouped connection, by an endpoint, not into it")

    def connectionLost(self, reason: Failure) -> None:
        self.reactor.forget(self)
        super().connectionLost(reason)


def _nothing() -> None:
    """What an aborted connection sends."""


class GroupedServer(_GroupedConnection, tcp.Server):
    """A connection that was accepted."""

    def __init__(
        self, sock: socket.socket, protocol: Any, client: Any, server: tcp.Port, sessionno: int, reactor: SocketGroup
    ) -> None:
        # Not Server's, most of which prepares texts for the log. The socket is one that blocks: that each call says it
        # must not costs less than telling the socket once.
        self.socket = sock
        self.fileno = sock.fileno
        self.protocol = protocol
        self.reactor = reactor
        self._tempDataBuffer = []
        self._tempDataLen = 0
        self.client = client
        self.connected = True
        reactor.watch_accepted(self)

    def connectionLost(self, reason: Failure) -> None:
        if reason is not _DONE:
            super().connectionLost(reason)
        elif self.connected:
            # The same for the end that all but few have, in half the time.
            self.reactor.forget(self)
            self.connected, self.disconnected = False, True
            protocol = self.protocol
            self.socket.close()
            del self.protocol, self.socket, self.fileno
            if self.producer is not None:
                self.producer.stopProducing()
                self.producer = None
            protocol.connectionLost(reason)

    def getPeer(self) -> Any:
        return _address(self.client)

    def getHost(self) -> Any:
        return _address(self.socket.getsockname())

    def logPrefix(self) -> str:
        return "client"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} from {self.client}>"


def _is_readable(each: socket.socket) -> bool:
    looks = poll()
    looks.register(each, POLLIN)
    return bool(looks.poll(0))


def _address(name: Any) -> IPv4Address | IPv6Address:
    return IPv4Address("TCP", *name) if len(name) == 2 else IPv6Address("TCP", *_with_link(name))


def _with_link(name: Any) -> Any:
    """An IPv6 address with the link that it holds on, if it is of that kind: nobody can connect to it without."""
    if not name[3]:
        return name
    return socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0], *name[1:]


class GroupedClient(_GroupedConnection, tcp.Client):
    """A connection that was made."""


class GroupedConnector(tcp.Connector):
    """Makes a :class:`GroupedClient`."""

    def _makeTransport(self) -> GroupedClient:
        return GroupedClient(self.host, self.port, self.bindAddress, self, self.reactor)


class GroupedPort(tcp.Port):
    """Accepts connections. Told to stop reading, it does so at once: the next one stays in the backlog."""

    reactor: SocketGroup  # type: ignore[assignment]  # see above
    _accepting = False
    #: The end of a pause, see :meth:`_rest`.
    _resting: IDelayedCall | None = None
    #: Until when nobody is given way to, as nobody took what was left to them, in the clock's seconds.
    _insists_until = 0.0
    #: Something is left to others now.
    _gave_way = False

    def startReading(self) -> None:
        # Who says so may not know yet that the port is closed.
        if self.connected and not self.disconnecting:
            self._accepting = True
            if self._resting is None:
                super().startReading()

    def stopReading(self) -> None:
        self._accepting = False
        super().stopReading()

    def doRead(self) -> None:
        listener: Any = self.socket
        factory: Any = self.factory
        group = self.reactor
        if group.gives_way is not None and self._give_way(group.gives_way):
            return
        family, kind, proto = listener.family, listener.type, listener.proto
        for _ in range(group.accepts):
            if not self._accepting:
                return
            try:
                # What socket.accept calls, without the two microseconds that it adds.
                descriptor, address = listener._accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._logger.warn("Can't accept connections for now: {why}", event="accept-failed", why=error)
                    self._rest(PAUSE)
                return
            # Nor is what the class socket.socket adds to this one of any use here.
            accepted: Any = socket.SocketType(family, kind, proto, descriptor)
            transport = None
            try:
                if len(address) == 4:
                    address = _with_link(address)
                protocol = factory.buildProtocol(self._buildAddr(address))
                if protocol is not None:
                    transport = GroupedServer(accepted, protocol, address, self, 0, group)
                    protocol.makeConnection(transport)
            except BaseException:  # noqa: BLE001 - see SocketGroup._handle
                group.fail(transport)
            if transport is None:
                accepted.close()

    def _give_way(self, gives_way: Callable[[], bool]) -> bool:
        """Leave a connection to another process for a moment; but not if nobody took the one before."""
        now = self.reactor.seconds()
        if now < self._insists_until or not gives_way():
            return False
        self._gave_way = True
        self._rest(COURTESY)
        return True

    def _rest(self, seconds: float) -> None:
        """Accept nobody for a while, whoever says so, and let those that wait stay in the backlog."""
        super().stopReading()
        self._resting = self.reactor.callLater(seconds, self._resume)

    def _resume(self) -> None:
        self._resting = None
        if self._gave_way:
            self._gave_way = False
            if _is_readable(self.socket):
                self._insists_until = self.reactor.seconds() + INSISTENCE
        if self._accepting:
            self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        super().connectionLost(reason)


@implementer(IReadDescriptor)
class SocketGroup:
    """TCP ports and connections that are read, written and closed turn by turn.

    It has a reactor's methods: its own for TCP and for watching sockets, and the reactor's for all else.

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
        self._unsent: list[_GroupedConnection] = []
        self._closing: list[_GroupedConnection] = []
        #: Whether the end of the turn is sure to come.
        self._turning = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    # As IReactorTCP.

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> GroupedPort:
        """See :meth:`twisted.internet.interfaces.IReactorTCP.listenTCP`."""
        listener = GroupedPort(port, factory, backlog, interface, self)
        listener.startListening()
        return listener

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: Factory) -> Any:
        """See :meth:`twisted.internet.interfaces.IReactorSocket.adoptStreamPort`."""
        if addressFamily not in {socket.AF_INET, socket.AF_INET6}:
            return self._reactor.adoptStreamPort(fileDescriptor, addressFamily, factory)
        listener = GroupedPort._fromListeningDescriptor(self, fileDescriptor, addressFamily, factory)
        listener.startListening()
        return listener

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: ClientFactory,
        timeout: float = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> GroupedConnector:
        """See :meth:`twisted.internet.interfaces.IReactorTCP.connectTCP`."""
        connector = GroupedConnector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

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

    def watch_accepted(self, connection: GroupedServer) -> None:
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

    def send_later(self, connection: _GroupedConnection) -> None:
        """Have :meth:`_GroupedConnection.send` called at the end of the turn."""
        self._unsent.append(connection)
        if not self._turning:
            self._turn_later()

    def close_later(self, connection: _GroupedConnection) -> None:
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
            if descriptor is not None:
                self._handle(descriptor, event)
        self._end_turn()

    def _handle(self, descriptor: Any, event: int) -> None:
        # What was closed in this turn has been read to its end.
        reading = event & EPOLLIN and not descriptor.disconnecting
        try:
            why = descriptor.doRead() if reading else None
            if why is None and event & EPOLLOUT:
                why = descriptor.doWrite()
                # An end that is reached by writing is the end of both directions.
                reading = False
            elif why is None and not reading and event & (EPOLLHUP | EPOLLERR):
                why = CONNECTION_LOST
            if why is CONNECTION_DONE and reading and IHalfCloseableProtocol.providedBy(descriptor.protocol):
                descriptor.protocol.readConnectionLost()
                if not descriptor.disconnecting:
                    self.removeReader(descriptor)
            elif why is not None:
                descriptor.connectionLost(_DONE if why is CONNECTION_DONE else _LOST)
        except BaseException:  # noqa: BLE001 - as in the reactor: whatever fails ends its own connection and no other
            self.fail(descriptor)

    def _end_turn(self) -> None:
        # What is done here may write and close again.
        while self._unsent or self._closing:
            unsent, self._unsent = self._unsent, []
            closing, self._closing = self._closing, []
            for connection in unsent:
                self._finish(connection, connection.send)
            for connection in closing:
                if not connection.connected or connection._aborting:
                    continue
                if connection.dataBuffer:
                    # Something was written after all. It will be closed when that is sent.
                    connection.stopReading()
                else:
                    self._finish(connection, connection.connectionLost, _DONE)
        self._turning = False

    def _finish(self, descriptor: Any, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except BaseException:  # noqa: BLE001 - see _handle
            self.fail(descriptor)

    def fail(self, descriptor: Any) -> None:
        """Log the exception that is being handled, and end the connection that it came from, if there is one yet."""
        self._logger.failure("A connection failed", event="connection-failed")
        try:
            if descriptor is not None:
                descriptor.connectionLost(Failure())
        except BaseException:  # noqa: BLE001 - see _handle
            self._logger.failure("A connection failed at its end", event="connection-end-failed")

    # As a descriptor of the reactor.

    def logPrefix(self) -> str:
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return "sockets"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor is stopping."""
        for descriptor in list(self._watched.values()):
            self._finish(descriptor, descriptor.connectionLost, reason)
