"""The connections of a pool server: frames in, answers out in the order of the frames.

An answer that is there at once, and that nothing waits before, is written without further ado. Every other stands in
a queue, and leaves when it has come to the queue's head.

What is held is bounded (docs/protocol.rst, promise 8): a peer with ``pipeline`` packets unanswered, or one that
doesn't read its answers, isn't read from. A peer that shuts its writing side still gets its answers, so that a classic
client may ask a server directly.
"""

from __future__ import annotations

from collections import deque
from typing import cast

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Server
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy import packets
from rproxy.counting import Count
from rproxy.framing import Framer, StreamError
from rproxy.limits import Limits
from rproxy.lingering import shut_writing
from rproxy.pool.handling import Handling

#: How many unanswered packets a connection may have, unless told otherwise.
DEFAULT_PIPELINE = 128

#: Answers are written when so many bytes have come together, if not before.
_WRITE_BYTES = 1 << 16


@define(eq=False)
class _Slot:
    """A packet's place in the queue of answers."""

    #: The answer, once it is there, and until then the Deferred of it.
    answer: bytes | None = None
    awaited: Deferred[bytes] | None = None


@implementer(IHalfCloseableProtocol, IPushProducer)
class PoolServerProtocol(Protocol):
    """One connection, from a proxy or straight from a client."""

    def __init__(self, factory: PoolServerFactory) -> None:
        self._factory = factory
        self._take = factory.handling.take
        self._pipeline = factory.pipeline
        self._framer = Framer(packets.peek_data, factory.handling.max_packet)
        #: Packets that have no answer yet, or one that must wait for those before it.
        self._queue: deque[_Slot] = deque()
        #: Answers to be joined into the next write, and how many of them were in flight.
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._out_awaited = 0
        self._working = False
        #: Whether the transport reads, and whether the peer reads too slowly.
        self._reading = True
        self._blocked = False
        #: No byte will come any more; or none that still means anything.
        self._half_closed = False
        self._distrusted = False
        #: The last answer is written, or nobody is there to read it.
        self._finished = False
        self._lingering: IDelayedCall | None = None

    # From the transport.

    def connectionMade(self) -> None:
        self._transport = cast(Server, self.transport)
        # Small answers written one after the other would wait for each other's acknowledgement.
        self._transport.setTcpNoDelay(True)
        # A proxy whose machine vanished would be waited for without end.
        self._transport.setTcpKeepAlive(True)
        self._transport.registerProducer(self, True)
        self._factory.opened(self)

    def dataReceived(self, data: bytes) -> None:
        if not (self._distrusted or self._finished):
            self._framer.feed(data)
            self._work()

    def readConnectionLost(self) -> None:
        """The peer sends nothing more, and still reads its answers."""
        self._half_closed = True
        if self._finished:
            self._transport.loseConnection()
        else:
            self._work()

    def writeConnectionLost(self) -> None:
        """Our writing side is shut: see :mod:`rproxy.lingering`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._finished = True
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        queue, self._queue = self._queue, deque()
        self._factory.closed(self, len(queue))
        for slot in queue:
            if slot.awaited is not None:
                # Nobody waits for it any more, and a slow handler must not gather work from each reconnection.
                slot.awaited.cancel()

    def pauseProducing(self) -> None:
        """The peer reads slower than is written."""
        self._blocked = True
        self._set_reading()

    def resumeProducing(self) -> None:
        """What was written is sent."""
        self._blocked = False
        self._work()

    def stopProducing(self) -> None:
        """The connection is lost: see :meth:`connectionLost`."""

    def close(self) -> None:
        """Close the connection when what was written is sent; what is still in flight is given up."""
        if self._finished:
            return
        self._finished = True
        # A transport that has a producer would go on waiting for it.
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def abort(self) -> None:
        """Drop the connection, whatever is left to be sent."""
        self._transport.abortConnection()

    # The way of a packet.

    def _work(self) -> None:
        """Take packets while there is room for their answers, and write those that are there."""
        if self._working or self._finished:
            return
        self._working = True
        self._collect()
        exhausted = False
        while not exhausted and self._has_room():
            exhausted = not self._take_next()
            self._collect()
            if self._out_bytes >= _WRITE_BYTES:
                self._write()
        self._write()
        self._working = False
        if exhausted and not self._queue and (self._half_closed or self._distrusted):
            self._finish()
        self._set_reading()

    def _has_room(self) -> bool:
        return not (self._blocked or self._finished) and len(self._queue) < self._pipeline

    def _take_next(self) -> bool:
        """Take the next packet, or answer False: there is none, for now or for good."""
        if self._distrusted:
            return False
        try:
            frame = self._framer.next()
            if frame is None:
                return False
            self._put(self._take(*frame))
        except StreamError as error:
            self._distrusted = True
            self._put(self._factory.handling.refuse("", error.code, str(error)))
        return True

    def _put(self, answer: bytes | Deferred[bytes]) -> None:
        """Send an answer in its turn."""
        if isinstance(answer, Deferred):
            slot = _Slot(awaited=answer)
            self._enqueue(slot)
            answer.addCallback(self._answered, slot)
        elif self._queue:
            self._enqueue(_Slot(answer))
        else:
            self._out.append(answer)
            self._out_bytes += len(answer)

    def _enqueue(self, slot: _Slot) -> None:
        self._queue.append(slot)
        self._factory.in_flight.change(1)

    def _answered(self, answer: bytes, slot: _Slot) -> None:
        slot.answer = answer
        slot.awaited = None
        self._work()

    def _collect(self) -> None:
        """Move what is answered at the queue's head to what is written next."""
        queue = self._queue
        while queue and (answer := queue[0].answer) is not None:
            queue.popleft()
            self._out.append(answer)
            self._out_bytes += len(answer)
            self._out_awaited += 1

    def _write(self) -> None:
        if self._out:
            out, self._out, self._out_bytes = self._out, [], 0
            self._transport.write(b"".join(out))
            # Not before, as whoever waits for this may close the connection.
            awaited, self._out_awaited = self._out_awaited, 0
            self._factory.in_flight.change(-awaited)

    def _set_reading(self) -> None:
        """Read from the transport as long as there is room."""
        reading = self._has_room()
        if reading is self._reading or self._half_closed or self._finished:
            return
        self._reading = reading
        if reading:
            self._transport.resumeProducing()
        else:
            self._transport.pauseProducing()

    def _finish(self) -> None:
        """The last answer is written: close, and where the peer may still be sending, linger."""
        if self._half_closed or self._finished:
            self.close()
            return
        self._set_reading()
        self._finished = True
        self._transport.unregisterProducer()
        shut_writing(self._transport)
        # From here on, because nothing else would ever end a connection whose peer doesn't read what was written.
        self._lingering = self._factory.clock.callLater(self._factory.linger, self._transport.abortConnection)


class PoolServerFactory(Factory):
    """A pool server's connections, and what is in flight on them.

    :param pipeline: unanswered packets of one connection; it isn't read from beyond them.
    :param linger: how long a connection that is closed for an error is still read from, in seconds.
    """

    noisy = False

    def __init__(
        self,
        handling: Handling,
        clock: IReactorTime,
        pipeline: int = DEFAULT_PIPELINE,
        linger: float = Limits().linger,
    ) -> None:
        self.handling = handling
        self.clock = clock
        self.pipeline = pipeline
        self.linger = linger
        self.connections: set[PoolServerProtocol] = set()
        self._open = Count()
        #: Packets that a handler works on, or whose answers wait for those before them.
        self.in_flight = Count()

    def buildProtocol(self, addr: IAddress | None) -> PoolServerProtocol:
        return PoolServerProtocol(self)

    def opened(self, connection: PoolServerProtocol) -> None:
        """A connection was made."""
        self.connections.add(connection)
        self._open.change(1)

    def closed(self, connection: PoolServerProtocol, given_up: int) -> None:
        """A connection was lost, and with it so many packets in flight."""
        self.connections.discard(connection)
        self.in_flight.change(-given_up)
        self._open.change(-1)

    def when_idle(self) -> Deferred[None]:
        """Fire when nothing is in flight on any connection."""
        return self.in_flight.when_zero()

    def when_closed(self) -> Deferred[None]:
        """Fire when there is no connection."""
        return self._open.when_zero()
