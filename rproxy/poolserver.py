"""The pool server: data packets in, a handler's answers out, in the order of the packets.

Each packet's payload goes to one handler, a plain function, one that returns a Deferred, or a coroutine function. A
plain result that nothing waits before is written without further ado; everything else stands in a queue, and whatever
is answered at the queue's head leaves (docs/protocol.rst, promise 3: answers match packets by order). So whatever is
read gets an answer, an error packet where need be: one packet less answered than asked would shift all that follow.

What is held is bounded: a peer with ``pipeline`` packets unanswered, or one that doesn't read its answers, isn't read
from. A peer that shuts its writing side still gets its answers, so the classic client may also ask a server directly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from inspect import iscoroutine
from typing import Any, cast

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy import packets
from rproxy.framing import Framer, StreamError
from rproxy.hashing import sha1_hex
from rproxy.limits import Limits
from rproxy.lingering import close_lingering
from rproxy.packetlog import shown
from rproxy.packets import Data, PacketError

#: Takes a payload and gives the answer's: a ``str``, a Deferred of one, or a coroutine that returns one.
Handler = Callable[[str], str | Deferred[str] | Coroutine[Any, Any, str]]

#: How many unanswered packets a connection may have, unless told otherwise.
DEFAULT_PIPELINE = 128

#: Answers are written when so many bytes have come together, if not before.
_WRITE_BYTES = 1 << 16

_log = Logger()


@frozen(kw_only=True)
class ServerSettings:
    """What a pool server serves, and within which bounds."""

    server_id: str
    policies: frozenset[str]
    handler: Handler = sha1_hex
    #: Unanswered packets of one connection; it isn't read from beyond them.
    pipeline: int = DEFAULT_PIPELINE
    #: The longest packet, in bytes, either way: the proxy reads no longer answer than it reads packets.
    max_packet: int = Limits().max_packet
    #: How long a connection that is closed for an error is still read from, in seconds.
    linger: float = Limits().linger
    #: Show every packet in the log.
    log_packets: bool = False


@define(eq=False)
class _Slot:
    """A packet's place in the queue of answers."""

    client_id: str
    #: What the handler's result is awaited by, until there is one.
    result: Deferred[str] | None = None
    answer: bytes | None = None


@implementer(IHalfCloseableProtocol, IPushProducer)
class PoolServerProtocol(Protocol):
    """One connection, from a proxy or straight from a client."""

    def __init__(self, factory: PoolServerFactory) -> None:
        self._factory = factory
        self._settings = factory.settings
        self._framer = Framer(packets.peek_data, factory.settings.max_packet)
        #: Packets that have no answer yet, or one that must wait for those before it.
        self._queue: deque[_Slot] = deque()
        #: Answers that can be written, joined into one write.
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._working = False
        self._reading = True
        #: The peer doesn't read its answers.
        self._blocked = False
        #: No byte will come any more; and none that comes means anything.
        self._half_closed = False
        self._distrusted = False
        #: The last answer is written, or the connection lost.
        self._finished = False
        self._lingering: IDelayedCall | None = None

    # From the transport.

    def connectionMade(self) -> None:
        transport = cast(ITCPTransport, self.transport)
        if ITCPTransport.providedBy(transport):
            # Small answers written one after the other would wait for each other's acknowledgement.
            transport.setTcpNoDelay(True)
            # A proxy whose machine vanished would be waited for without end.
            transport.setTcpKeepAlive(True)
        transport.registerProducer(self, True)
        self._factory.opened(self)

    def dataReceived(self, data: bytes) -> None:
        if not self._distrusted:
            self._framer.feed(data)
            self._work()

    def readConnectionLost(self) -> None:
        """The peer sends nothing more, and still reads its answers."""
        self._half_closed = True
        if self._lingering is not None:
            cast(ITCPTransport, self.transport).loseConnection()
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
            if slot.result is not None:
                # Nobody waits for it any more, and a handler that stalls must not pile up work by reconnections.
                slot.result.cancel()

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
        """Close the connection when what was written is sent; what is in flight is given up."""
        self._finished = True
        transport = cast(ITCPTransport, self.transport)
        # A transport with a producer would wait for it.
        transport.unregisterProducer()
        transport.loseConnection()

    def abort(self) -> None:
        """Drop the connection, whatever is left to be sent."""
        cast(ITCPTransport, self.transport).abortConnection()

    # The way of a packet.

    def _work(self) -> None:
        """Take packets while there is room for their answers, and write those that are there."""
        if self._working or self._finished:
            return
        self._working = True
        exhausted = False
        while not exhausted and self._has_room():
            exhausted = not self._take_next()
            self._collect()
            if exhausted or self._out_bytes >= _WRITE_BYTES or not self._has_room():
                self._write()
        self._collect()
        self._write()
        self._working = False
        if exhausted and not self._queue and (self._half_closed or self._distrusted):
            self._finish()
        else:
            self._set_reading()

    def _has_room(self) -> bool:
        return not self._blocked and len(self._queue) < self._settings.pipeline

    def _take_next(self) -> bool:
        """Take the next packet, or answer False: there is none, for now or for good."""
        if self._distrusted:
            return False
        try:
            frame = self._framer.next()
            if frame is None:
                return False
            self._take(frame[1] or packets.decode(frame[0]))
        except PacketError as error:
            self._put(self._error(error.destid, "bad-packet", str(error)))
        except StreamError as error:
            self._distrusted = True
            self._put(self._error("", error.code, str(error)))
        return True

    def _take(self, packet: packets.Packet) -> None:
        """Answer one packet, or have it answered.

        :raises PacketError: it is none for a pool server.
        """
        if not isinstance(packet, Data):
            raise PacketError("a pool server takes data packets only", getattr(packet, "srcid", ""))
        client_id = packet.srcid
        if packet.policy not in self._settings.policies:
            # The proxy has checked it; whoever else found the way here must not get further.
            _log.warn("Refused a message from client {client_id} for a policy not served", client_id=client_id)
            self._put(self._error(client_id, "forbidden", "this server does not serve that policy"))
            return
        if self._settings.log_packets:
            payload = shown(packet.payload)
            _log.info(
                "Received a message from client {client_id} payload {payload}", client_id=client_id, payload=payload
            )
        try:
            result = self._settings.handler(packet.payload)
        except Exception:  # noqa: BLE001  # whatever a handler raises is its packet's trouble, nobody else's
            self._put(self._failed(client_id, Failure()))
            return
        if isinstance(result, Deferred):
            self._await(client_id, result)
        elif iscoroutine(result):
            self._await(client_id, Deferred.fromCoroutine(result))
        else:
            self._put(self._answer(client_id, result))

    def _put(self, answer: bytes) -> None:
        """Send an answer in its turn."""
        if self._queue:
            self._queue.append(_Slot("", answer=answer))
            self._factory.in_flight.change(1)
        else:
            self._out.append(answer)
            self._out_bytes += len(answer)

    def _await(self, client_id: str, result: Deferred[str]) -> None:
        """Send the answer in its turn when the handler has it."""
        slot = _Slot(client_id, result)
        self._queue.append(slot)
        self._factory.in_flight.change(1)
        result.addCallbacks(self._answer_slot, self._fail_slot, callbackArgs=(slot,), errbackArgs=(slot,))

    def _answer_slot(self, result: object, slot: _Slot) -> None:
        slot.result = None
        if not self._finished:
            slot.answer = self._answer(slot.client_id, result)
            self._work()

    def _fail_slot(self, failure: Failure, slot: _Slot) -> None:
        slot.result = None
        if not self._finished:
            slot.answer = self._failed(slot.client_id, failure)
            self._work()
        elif not failure.check(CancelledError):
            _log.failure("The handler failed, and its client is gone", failure)

    def _collect(self) -> None:
        """Move the answers from the queue's head to what is written next."""
        queue = self._queue
        while queue and (answer := queue[0].answer) is not None:
            queue.popleft()
            self._out.append(answer)
            self._out_bytes += len(answer)
            self._factory.in_flight.change(-1)

    def _write(self) -> None:
        if self._out:
            out, self._out, self._out_bytes = self._out, [], 0
            cast(ITCPTransport, self.transport).write(b"".join(out))

    def _set_reading(self) -> None:
        """Read from the transport just as long as there is room."""
        reading = self._has_room()
        if reading is self._reading or self._half_closed or self._finished:
            return
        self._reading = reading
        transport = cast(IPushProducer, self.transport)
        if reading:
            transport.resumeProducing()
        else:
            transport.pauseProducing()

    def _finish(self) -> None:
        """The last answer is written: close, and where the peer may still be sending, linger."""
        if self._half_closed:
            self.close()
            return
        self._set_reading()
        self._finished = True
        transport = cast(ITCPTransport, self.transport)
        transport.unregisterProducer()
        self._lingering = close_lingering(transport, self._factory.clock, self._settings.linger)

    # Answers.

    def _answer(self, client_id: str, result: object) -> bytes:
        """The ACK with a handler's result, or an error packet if it can't be one."""
        try:
            if not isinstance(result, str):
                raise TypeError(f"the handler gave {type(result).__name__} instead of str")
            answer = packets.ack(self._settings.server_id, client_id, result)
            if len(answer) > self._settings.max_packet:
                raise ValueError(f"the handler's answer makes a packet of {len(answer)} bytes")
        except (TypeError, ValueError):  # a UnicodeEncodeError is one: half of a surrogate pair is no text
            return self._failed(client_id, Failure())
        if self._settings.log_packets:
            payload = shown(result)
            _log.info(
                "Sending a message to the client {client_id} payload {payload}", client_id=client_id, payload=payload
            )
        return answer

    def _failed(self, client_id: str, failure: Failure) -> bytes:
        """The error packet for a handler that failed. What went wrong stays in our log: it may tell of the payload."""
        _log.failure("The handler failed on a message from client {client_id}", failure, client_id=client_id)
        return self._error(client_id, "failed", "the server could not process the payload")

    def _error(self, client_id: str, code: str, text: str) -> bytes:
        """An error packet. The proxy accepts none from a server that claims to know more than ``unknown``."""
        return packets.error(self._settings.server_id, client_id, code, "unknown", text)


@define(eq=False)
class Count:
    """A number of things that somebody may wait to be over."""

    number: int = 0
    _waiting: list[Deferred[None]] = field(factory=list)

    def change(self, by: int) -> None:
        """Add ``by``, and tell who waits when nothing is left."""
        self.number += by
        if not self.number:
            waiting, self._waiting = self._waiting, []
            for deferred in waiting:
                deferred.callback(None)

    def when_zero(self) -> Deferred[None]:
        """Fire when nothing is left, at once if nothing is; cancelling stops the waiting."""
        if not self.number:
            return succeed(None)
        deferred: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(deferred)
        return deferred


class PoolServerFactory(Factory):
    """A pool server's connections, and what is in flight on them.

    :param clock: for the lingering close.
    """

    noisy = False

    def __init__(self, settings: ServerSettings, clock: IReactorTime) -> None:
        self.settings = settings
        self.clock = clock
        self.connections: set[PoolServerProtocol] = set()
        self._open = Count()
        #: Packets that a handler works on, or whose answer must wait for one.
        self.in_flight = Count()

    def buildProtocol(self, addr: IAddress | None) -> PoolServerProtocol:
        return PoolServerProtocol(self)

    def opened(self, connection: PoolServerProtocol) -> None:
        """A connection was made."""
        self.connections.add(connection)
        self._open.change(1)

    def closed(self, connection: PoolServerProtocol, given_up: int) -> None:
        """A connection was lost, and so many packets in flight with it."""
        self.connections.discard(connection)
        self.in_flight.change(-given_up)
        self._open.change(-1)

    def when_idle(self) -> Deferred[None]:
        """Fire when nothing is in flight on any connection."""
        return self.in_flight.when_zero()

    def when_closed(self) -> Deferred[None]:
        """Fire when there is no connection."""
        return self._open.when_zero()
