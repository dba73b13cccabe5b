"""The two ends of a grouped connection: protocols that write down what they hear, and plain sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Self

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

LOOPBACK = "127.0.0.1"

Make = Callable[[], Protocol | None]


def nothing(data: bytes) -> None:
    """What a protocol does with data unless told otherwise."""


class Recorder(Protocol):
    """Remembers what it is told, and does what the test says."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        #: Why its connection was lost: one reason, or something is wrong.
        self.lost: list[type[BaseException]] = []
        self.on_made: Callable[[], object] = lambda: None
        self.on_data: Callable[[bytes], object] = nothing
        self.on_lost: Callable[[], object] = lambda: None

    def last_word(self, data: bytes) -> None:
        """Write something, and close."""
        self.transport.write(data)
        self.transport.loseConnection()

    def close(self) -> None:
        """Close."""
        self.transport.loseConnection()

    def connectionMade(self) -> None:
        self.on_made()

    def dataReceived(self, data: bytes) -> None:
        assert not self.lost, "nothing comes after the end"
        self.received += data
        self.on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.type is not None
        self.lost.append(reason.type)
        self.on_lost()


@implementer(IHalfCloseableProtocol)
class HalfRecorder(Recorder):
    """One that goes on when one direction has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.read_lost = 0
        self.write_lost = 0
        self.on_read_lost: Callable[[], object] = lambda: None
        self.on_write_lost: Callable[[], object] = lambda: None

    def readConnectionLost(self) -> None:
        self.read_lost += 1
        self.on_read_lost()

    def writeConnectionLost(self) -> None:
        self.write_lost += 1
        self.on_write_lost()


class Peer:
    """The far end: a plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setblocking(False)
        self.received = bytearray()
        self.ended = False
        self.was_reset = False

    @classmethod
    def to(cls, address: Any, family: int = socket.AF_INET) -> Self:
        """Connect; the backlog takes it in."""
        sock = socket.socket(family)
        sock.connect(address)
        return cls(sock)

    def send(self, data: bytes) -> None:
        """Send what the kernel is sure to take."""
        assert self.socket.send(data) == len(data)

    def read(self) -> bytes:
        """Take what is there, and return all that came so far."""
        while not self.gone:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.was_reset = True
            else:
                self.received += data
                self.ended = not data
        return bytes(self.received)

    @property
    def gone(self) -> bool:
        """Whether the other side has ended the connection, as far as was read."""
        return self.ended or self.was_reset

    def at_end(self) -> bool:
        """Read, and answer whether that was all."""
        self.read()
        return self.gone

    def shut(self) -> None:
        """Send nothing more."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self) -> None:
        """Go."""
        self.socket.close()


class SendCounter:
    """A transport's socket that remembers each send."""

    def __init__(self, transport: Any) -> None:
        self._socket = transport.socket
        self.sends: list[bytes] = []
        transport.socket = self

    def send(self, data: bytes, flags: int) -> int:
        sent: int = self._socket.send(data, flags)
        self.sends.append(bytes(data[:sent]))
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)
