"""One side of a connection in memory, for tests that look at what a single protocol writes and asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from rproxy import packets
from rproxy.framing import Framer


class Transport(StringTransport):
    """A TCP transport that keeps what is written and remembers what is asked for; nothing happens by itself."""

    def __init__(self) -> None:
        super().__init__()
        #: Every write on its own, until :meth:`taken`.
        self.writes: list[bytes] = []
        self.no_delay = False
        self.keep_alive = False
        self.writing_closed = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if not (self.disconnecting or self.writing_closed):
            self.writes.append(data)

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self.keep_alive = enabled

    def loseWriteConnection(self) -> None:
        assert self.producer is None, "a real transport waits for a producer that is paused"
        self.writing_closed = True

    def loseConnection(self) -> None:
        assert self.disconnected or self.producer is None, "a real transport waits for a producer that is paused"
        super().loseConnection()

    @property
    def paused(self) -> bool:
        """Whether it isn't read from."""
        return bool(self.producerState == "paused")

    def taken(self) -> bytes:
        """Return what was written since the last time."""
        written = b"".join(self.writes)
        self.writes.clear()
        return written


def connect(protocol: IProtocol) -> Transport:
    """Connect a protocol to a new transport."""
    transport = Transport()
    protocol.makeConnection(transport)
    return transport


def lose(protocol: IProtocol, reason: type[Exception] = ConnectionDone) -> None:
    """Tell a protocol that its connection is gone."""
    protocol.connectionLost(Failure(reason()))


def packets_in(stream: bytes) -> list[packets.Packet]:
    """Return the packets that were written."""
    framer: Framer[packets.Packet] = Framer(lambda raw: None, 1 << 20)
    framer.feed(stream)
    found = []
    while (frame := framer.next()) is not None:
        found.append(packets.decode(frame[0]))
    assert not framer.in_packet, "the stream ends inside a packet"
    return found


@contextmanager
def logged_lines() -> Iterator[list[str]]:
    """Collect what is logged, as it is shown; the list is filled at the end."""
    lines: list[str] = []
    with capturedLogs() as events:
        yield lines
    lines.extend(formatEvent(event) for event in events)
