"""One connection of the client library: packets out, and to each the answer that is its own by order.

What binds an answer to its packet is nothing but its place (docs/reference/protocol.rst, promises 3 and 4). So a packet
keeps its place until its answer came, also where nobody waits for that any more; and a connection that brings anything
else than the next answer is given up, because from there on no answer on it is certain.

A connection *retires* when it takes no more packets, and still brings the answers to those that it has. It does so

- when the proxy says that it is stopping: another one is to be found, or the same one after its restart;
- when a packet that the proxy refused is to be sent again, and there is another proxy to send it to;
- when an answer didn't come in time. Either the other side is gone without a word, and whatever else is written there
  would be lost too; or the answer is late, and everything behind it would have to wait for it.

It is closed as soon as nobody waits for an answer on it: at the latest when the last packet's time is over.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, cast
from typing import Protocol as Interface

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Client as ClientTransport
from twisted.python.failure import Failure

from rproxy import packets
from rproxy.framing import Framer, StreamError
from rproxy.packets import Ack, Error, PacketError

Delivered = Literal["no", "unknown"]


class ProxyError(Exception):
    """A packet got no ACK.

    :ivar code: one of the codes of docs/reference/protocol.rst, or ``connection-lost`` where no answer could come any
        more.
    :ivar delivered: ``no`` if no server has got the packet, so that sending it again is safe, else ``unknown``.
    :ivar text: a sentence for people.
    """

    def __init__(self, code: str, delivered: Delivered, text: str) -> None:
        super().__init__(code, delivered, text)
        self.code = code
        self.delivered = delivered
        self.text = text

    def __str__(self) -> str:
        return f"{self.code}, delivered: {self.delivered}: {self.text}"


@frozen
class Answer:
    """What came back: the bytes as they came, and what they say."""

    raw: bytes
    packet: Ack | Error


@define(eq=False)
class Request:
    """A packet, and who waits for its answer.

    :ivar client_id: whom the answer has to name.
    :ivar deadline: until when the answer is waited for, in the clock's seconds.
    """

    raw: bytes
    client_id: str
    deadline: float
    answer: Deferred[Answer]
    #: Nobody waits for the answer any more.
    is_over: bool = field(default=False, init=False)
    #: A server may have got the packet.
    written: bool = field(default=False, init=False)
    #: Where its answer is to come.
    connection: ClientProtocol | None = field(default=None, init=False)
    #: How often a proxy said that no server got it, and on which connection the last time.
    refusals: int = field(default=0, init=False)
    refused_on: ClientProtocol | None = field(default=None, init=False)

    def end(self, answer: Answer) -> None:
        """Give the answer to who waits for it, if anybody does."""
        if not self.is_over:
            self.is_over = True
            self.answer.callback(answer)

    def fail(self, code: str, text: str) -> None:
        """Tell who waits, if anybody does, that no answer will come."""
        if not self.is_over:
            self.is_over = True
            self.answer.errback(self.failure(code, text))

    def failure(self, code: str, text: str) -> ProxyError:
        """Return what to fail with now."""
        return ProxyError(code, "unknown" if self.written else "no", text)


class Owner(Interface):
    """Who has the connection."""

    def opened(self, connection: ClientProtocol) -> None:
        """It was made."""

    def answered(self, connection: ClientProtocol, request: Request, answer: Answer) -> None:
        """The answer to a packet came; it may be that nobody waits for it any more."""

    def unusable(self, connection: ClientProtocol, why: str) -> None:
        """It takes no more packets; told once.

        :param why: how the proxy failed; empty if it didn't, as where an idle connection was closed.
        """

    def closed(self, connection: ClientProtocol) -> None:
        """It is gone, and what was on it has failed."""


class ClientProtocol(Protocol):
    """One connection to a proxy.

    :param max_packet: the longest answer, in bytes.
    """

    def __init__(self, owner: Owner, max_packet: int) -> None:
        self._owner = owner
        self._framer = Framer(packets.peek_ack, max_packet)
        #: Written and not yet answered, oldest first.
        self.in_flight: deque[Request] = deque()
        #: Whether a packet was ever written to it.
        self.used = False
        #: Whether it takes packets.
        self.usable = True
        #: No answer is looked at any more.
        self._over = False

    def connectionMade(self) -> None:
        self._transport = cast(ClientTransport, self.transport)
        # Small packets written one after the other would wait for each other's acknowledgement.
        self._transport.setTcpNoDelay(True)
        self._transport.setTcpKeepAlive(True)
        self._owner.opened(self)

    def send(self, request: Request) -> None:
        """Write a packet."""
        self.used = True
        request.written = True
        request.connection = self
        self.in_flight.append(request)
        self._transport.write(request.raw)

    @property
    def unanswered(self) -> int:
        """How many packets are on it, those among them that only keep their place."""
        return 0 if self._over else len(self.in_flight)

    def is_late(self, now: float) -> bool:
        """Whether the next answer should be here by now, in the clock's seconds, also where nobody waits for it."""
        return bool(self.in_flight) and self.in_flight[0].deadline <= now

    def retire_late(self) -> None:
        """Retire, because an answer didn't come in time."""
        self.retire("an answer didn't come in time")

    def retire(self, why: str) -> None:
        """Take no more packets, and close when nobody waits for an answer any more.

        :param why: how the proxy failed.
        """
        self._set_unusable(why)
        self.close_if_done()

    def close_if_done(self) -> None:
        """Close if it is retired and nobody waits for an answer on it; to be called when somebody no longer does."""
        if not (self.usable or self._over) and all(request.is_over for request in self.in_flight):
            self.close()

    def close(self) -> None:
        """Close the connection. What is unanswered fails when it is gone."""
        self._over = True
        self._set_unusable("")
        if self.in_flight:
            # A proxy that doesn't read must not keep us until everything is sent.
            self._transport.abortConnection()
        else:
            self._transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._over:
            return
        answered: list[tuple[Request, Answer]] = []
        fault = None
        self._framer.feed(data)
        try:
            while (frame := self._framer.next()) is not None:
                answered.append(self._match(*frame))
        except (StreamError, PacketError) as error:
            # Which answer belongs to which packet can't be told any more.
            fault = str(error)
        # First of all, because whoever is told of an answer may send the next packet at once.
        if fault is not None or any(_says_goodbye(answer) for _, answer in answered):
            self._set_unusable(fault or "it is stopping")
        for request, answer in answered:
            self._owner.answered(self, request, answer)
        if fault is not None:
            self._give_up(fault)
            self._transport.abortConnection()
        else:
            self.close_if_done()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._give_up(reason.getErrorMessage())
        self._owner.closed(self)

    def _match(self, raw: bytes, ack: Ack | None) -> tuple[Request, Answer]:
        """Return an answer with the packet that it belongs to, which is the oldest.

        :raises StreamError: it isn't JSON.
        :raises PacketError: it is no answer, or nobody's, or somebody else's.
        """
        packet = ack or packets.decode(raw)
        if not isinstance(packet, Ack | Error) or not self.in_flight:
            raise PacketError("the proxy sent something that wasn't asked for")
        request = self.in_flight[0]
        # Whom an error is for is left empty where the proxy couldn't read that far.
        if packet.destid != request.client_id and (packet.destid or isinstance(packet, Ack)):
            raise PacketError("the proxy sent somebody else's answer")
        self.in_flight.popleft()
        request.connection = None
        return request, Answer(raw, packet)

    def _set_unusable(self, why: str) -> None:
        if self.usable:
            self.usable = False
            self._owner.unusable(self, why)

    def _give_up(self, why: str) -> None:
        """No answer will come any more."""
        self._over = True
        # Idle connections are closed by proxies that are as good as before.
        self._set_unusable(why if self.in_flight else "")
        in_flight, self.in_flight = self.in_flight, deque()
        for request in in_flight:
            request.connection = None
            request.fail("connection-lost", f"the connection to the proxy was lost: {why}")


def _says_goodbye(answer: Answer) -> bool:
    """Whether the proxy is stopping, so that it will refuse everything that comes after this."""
    return isinstance(answer.packet, Error) and answer.packet.error == "shutting-down"
