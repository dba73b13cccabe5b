"""TCP in memory: sockets, and the reactor and the port that Twisted's own transports have them by.

For :mod:`tests.memory`, which has whoever is at the far ends.
"""

from __future__ import annotations

import socket
from collections import deque
from errno import ECONNRESET, EPIPE, EWOULDBLOCK
from typing import TYPE_CHECKING, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IHalfCloseableDescriptor, IListeningPort, IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.tcp import Connection, Server
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.registry.registration import Address

if TYPE_CHECKING:
    from tests.memory import Client, Peer

#: What a kernel takes for a peer that doesn't read.
KERNEL_BYTES = 16_384


class MemorySocket:
    """The proxy's end of one TCP connection: a non-blocking socket, as far as Twisted's transports use one."""

    def __init__(self, peer: Peer, here: Address, there: Address) -> None:
        self.peer = peer
        #: What came and wasn't read yet, as it was cut, and what comes after it.
        self.segments: deque[bytes] = deque()
        self.ended = False
        self.was_reset = False
        self.closed = False
        #: What was sent and the peer didn't read.
        self.sent = bytearray()
        self._shut = False
        self._abortive = False
        self._names = here, there

    @property
    def readable(self) -> bool:
        """Whether there is something to read, be it the end."""
        return bool(self.segments) or self.ended or self.was_reset

    @property
    def writable(self) -> bool:
        """Whether something can be sent, or the connection's loss be noticed by it."""
        return self.was_reset or self.peer.closed or self.peer.reads or len(self.sent) < KERNEL_BYTES

    def fileno(self) -> int:
        return 1

    def setblocking(self, blocking: bool) -> None:
        assert not blocking

    def getsockname(self) -> Address:
        return self._names[0]

    def getpeername(self) -> Address:
        return self._names[1]

    def setsockopt(self, level: int, option: int, value: object) -> None:
        self._abortive |= (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)

    def recv(self, size: int) -> bytes:
        if self.was_reset:
            raise ConnectionResetError(ECONNRESET, "Connection reset by peer")
        if not self.segments:
            if self.ended:
                return b""
            raise BlockingIOError(EWOULDBLOCK, "Nothing to read")
        segment = self.segments.popleft()
        if len(segment) > size:
            self.segments.appendleft(segment[size:])
        return segment[:size]

    def send(self, buffer: bytes | memoryview) -> int:
        if self.was_reset:
            raise ConnectionResetError(ECONNRESET, "Connection reset by peer")
        if self._shut:
            raise BrokenPipeError(EPIPE, "Broken pipe")
        if self.peer.closed:
            self.was_reset = bool(buffer)
        elif self.peer.reads:
            self.peer.received += buffer
        elif len(self.sent) < KERNEL_BYTES:
            buffer = buffer[: KERNEL_BYTES - len(self.sent)]
            self.sent += buffer
        else:
            raise BlockingIOError(EWOULDBLOCK, "No room")
        return len(buffer)

    def shutdown(self, how: int) -> None:
        if how != socket.SHUT_RD:
            self._shut = True
            self.peer.ended = True

    def close(self) -> None:
        self.closed = True
        if self._abortive or self.segments:
            self.peer.be_reset()
        else:
            self.peer.ended = True


class MemoryReactor(Clock):
    """Time, and turns: each lets whoever waits for something to read or for room to write have it."""

    def __init__(self) -> None:
        super().__init__()
        self._readers: dict[Connection, None] = {}
        self._writers: dict[Connection, None] = {}

    def addReader(self, reader: Connection) -> None:
        self._readers[reader] = None

    def addWriter(self, writer: Connection) -> None:
        self._writers[writer] = None

    def removeReader(self, reader: Connection) -> None:
        self._readers.pop(reader, None)

    def removeWriter(self, writer: Connection) -> None:
        self._writers.pop(writer, None)

    def turn(self) -> bool:
        """Take a turn, and answer whether anything happened."""
        due = bool(self.calls) and self.calls[0].getTime() <= self.seconds()
        self.advance(0)
        happened = due
        for reader in list(self._readers):
            if reader in self._readers and _socket_of(reader).readable:
                happened = True
                if (why := reader.doRead()) is not None:
                    self._disconnect(reader, why, reading=True)
        for writer in list(self._writers):
            if writer in self._writers and _socket_of(writer).writable:
                happened = True
                if (why := writer.doWrite()) is not None:
                    self._disconnect(writer, why, reading=False)
        return happened

    def _disconnect(self, selectable: Connection, why: Exception, reading: bool) -> None:
        """The same as every reactor of Twisted's."""
        self.removeReader(selectable)
        if reading and isinstance(why, ConnectionDone) and IHalfCloseableDescriptor.providedBy(selectable):
            selectable.readConnectionLost(Failure(why))
        else:
            self.removeWriter(selectable)
            selectable.connectionLost(Failure(why))


def _socket_of(selectable: Connection) -> MemorySocket:
    handle = cast(object, selectable.getHandle())
    assert isinstance(handle, MemorySocket)
    return handle


class MemoryServer(Server):
    """The transport of a client's connection; a peer may have another kind of address."""

    address: IAddress

    def getPeer(self) -> IAddress:
        return self.address


class MemoryConnection(Connection):
    """The transport of a connection to a server."""

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self.socket.getsockname())

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", *self.socket.getpeername())


@implementer(IListeningPort)
class MemoryPort:
    """Where clients come in. Those that aren't accepted yet stand in its backlog."""

    connected = True
    disconnecting = False

    def __init__(self, factory: IProtocolFactory, number: int) -> None:
        self.factory = factory
        self.address = "10.0.0.1", number
        self._realPortNumber = number
        self.reading = True
        self.backlog: deque[Client] = deque()

    def startListening(self) -> None:
        raise NotImplementedError("it listens already")

    def stopListening(self) -> None:
        self.reading = False

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self.address)

    def startReading(self) -> None:
        self.reading = True

    def stopReading(self) -> None:
        self.reading = False
