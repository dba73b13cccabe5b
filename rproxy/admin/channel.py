"""Connections to the admin listener, none of which holds anything for long, whatever comes or doesn't.

Twisted's own channel begins to wait anew with each byte, asks on while nobody takes its answers, and waits for ever
until what it wrote is taken before it closes. So who drips bytes, or reads none, would keep a connection, and whatever
memory its answers need.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.server import Request

from rproxy.admin.answers import Failed
from rproxy.lingering import shut_writing

#: The longest body, in bytes.
MOST_BYTES = 1 << 16
#: Seconds until a connection is closed that asks nothing.
IDLE = 60.0
#: From a request's first byte to its last, in seconds: all of them are small, and come from near.
DEADLINE = 10.0
#: So long the other side may take to read the last answer and to close, in seconds.
LINGER = 30.0


class AdminRequest(Request):
    """A request whose body is bounded, and whose path is never Twisted's own matter."""

    channel: AdminChannel
    _came = 0

    def gotLength(self, length: int | None) -> None:
        """See :class:`twisted.web.http.Request`; one of unknown length would get a file."""
        super().gotLength(min(length or 0, MOST_BYTES))

    def process(self) -> None:
        """See :class:`twisted.web.server.Request`, which would answer whatever asks for ``*`` before the guard."""
        if self.path == b"*":
            self.path = b"/*"
        super().process()

    def handleContentChunk(self, data: bytes) -> None:
        self._came += len(data)
        if self._came > MOST_BYTES:
            self.channel.refuse_body()
        else:
            super().handleContentChunk(data)


class AdminChannel(HTTPChannel):
    """One connection."""

    #: Of TCP or of a Unix socket.
    transport: Any
    _begun = _closing = _full = False

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        # There is no time set while a request is answered.
        if data and not (self._begun or self.paused) and self.timeOut is not None:
            self._begun = True
            self.setTimeout(DEADLINE)
        super().dataReceived(data)

    def resetTimeout(self) -> None:
        """Give no more time for a further byte."""

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        length = value.strip(b" \t")
        # Python makes no number of thousands of digits.
        if name.lower() == b"content-length" and length.isdigit() and (len(length) > 9 or int(length) > MOST_BYTES):
            self.refuse_body()
            return False
        return bool(super().headerReceived(line))

    def lineLengthExceeded(self, line: bytes) -> None:
        self._refuse(431, f"send at most {self.MAX_LENGTH} bytes of headers")

    def allContentReceived(self) -> None:
        if not self._closing:
            self._begun = False
            # It is what there is to wait again after the answer.
            self.setTimeout(IDLE)
            super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        if self._full:
            # What it asks beyond waits until it has read its answers.
            self.paused = True
            self.transport.pauseProducing()
        super().requestDone(request)

    def pauseProducing(self) -> None:
        self._full = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._full = False
        super().resumeProducing()
        if self.paused:
            self.paused = False
            self.dataReceived(b"")

    def timeoutConnection(self) -> None:
        if self._closing:
            self.transport.abortConnection()
        elif self._begun:
            self._refuse(408, f"send a request within {DEADLINE:.0f} seconds")
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close as soon as the other side has what was written, and after a while in any case."""
        if not self._closing:
            self._closing = self.paused = True
            self.setTimeout(LINGER)
            self.transport.unregisterProducer()
            shut_writing(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.factory.closed()

    def refuse_body(self) -> None:
        """Say that it is too long, and close."""
        self._refuse(413, f"send at most {MOST_BYTES} bytes")

    def _refuse(self, status: int, text: str) -> None:
        if not self._closing:
            self.transport.write(last_answer(status, text))
            self.loseConnection()


class OneTooMany(Protocol):
    """A connection that is only told so."""

    _over: IDelayedCall | None = None

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.write(last_answer(503, "too many are connected to the admin listener already: try again"))
        shut_writing(transport)
        self._over = self._clock.callLater(LINGER, transport.abortConnection)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._over is not None and self._over.active():
            self._over.cancel()
        factory: Any = self.factory
        factory.closed()


def last_answer(status: int, text: str) -> bytes:
    """The bytes of an answer after which the connection is closed."""
    body = msgspec.json.encode(Failed(text))
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nServer: rproxy\r\nConnection: close\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
