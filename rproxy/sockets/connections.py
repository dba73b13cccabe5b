"""Connections of a group: read and written with fewer calls, and written and closed at the end of a turn."""

from __future__ import annotations

import socket
from errno import EAGAIN, EINTR, ENOBUFS
from socket import MSG_DONTWAIT
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

from rproxy.sockets.turns import DONE, LOST, Turns

#: Bytes read at once, and written before the producer is paused: Twisted's numbers.
READ = 1 << 16

_AGAIN = frozenset((EAGAIN, EINTR, ENOBUFS))


class _GroupedConnection(tcp.Connection):
    """How a grouped connection writes and closes; all else is Twisted's.

    The two buffers are Twisted's too (``twisted.internet.abstract.FileDescriptor``): ``_tempDataBuffer`` has what was
    written in this turn, ``dataBuffer`` what the kernel didn't take.
    """

    reactor: Turns  # type: ignore[assignment]  # what Twisted wants of a reactor here, it has
    # The kernel shuts a socket down by closing it: a call before that would be one more.
    _shouldShutdown = False

    def _begin(self) -> None:
        # An object's own attributes are read several times as fast as its class's, and these are for each packet.
        self.disconnecting = False
        self.producerPaused = False
        self._writeDisconnecting = False
        self._writeDisconnected = False
        self.dataBuffer = b""

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
                self.connectionLost(LOST)
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
        self, sock: socket.socket, protocol: Any, client: Any, server: tcp.Port, sessionno: int, reactor: Turns
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
        self._begin()
        self.connected = True
        reactor.watch_accepted(self)

    def connectionLost(self, reason: Failure) -> None:
        if reason is not DONE:
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


def _address(name: Any) -> IPv4Address | IPv6Address:
    return IPv4Address("TCP", *name) if len(name) == 2 else IPv6Address("TCP", *with_link(name))


def with_link(name: Any) -> Any:
    """An IPv6 address with the link that it holds on, if it is of that kind: nobody can connect to it without."""
    if not name[3]:
        return name
    return socket.getnameinfo(name, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0], *name[1:]


class GroupedClient(_GroupedConnection, tcp.Client):
    """A connection that was made."""

    def _connectDone(self) -> None:
        self._begin()
        super()._connectDone()


class GroupedConnector(tcp.Connector):
    """Makes a :class:`GroupedClient`."""

    def _makeTransport(self) -> GroupedClient:
        return GroupedClient(self.host, self.port, self.bindAddress, self, self.reactor)
