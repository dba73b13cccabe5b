"""The client: payloads out under a policy, ACKs back.

One connection carries many packets at a time, and their answers are matched by order (docs/protocol.rst, promises 3
and 4). It is made when there is something to send, and made again by the next ``send`` after it was lost. Nothing is
ever sent a second time: whoever asked decides that, by what :attr:`ProxyError.delivered` says::

    client = Client(HostnameEndpoint(reactor, "127.0.0.1", 8000), "1", reactor)
    ack = await client.send("111", "xyz1")
    assert is_correct("xyz1", ack)
    await client.close()
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Literal, NoReturn, cast

from attrs import define, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Client as ClientTransport
from twisted.python.failure import Failure

from rproxy import packets
from rproxy.counting import Count
from rproxy.framing import Framer, StreamError
from rproxy.hashing import sha1_hex
from rproxy.limits import Limits
from rproxy.packets import Ack, Error, PacketError

#: How long an answer may take, in seconds: the proxy gives up on a packet after 30.
DEFAULT_TIMEOUT = 60.0
#: How many packets of a client may be unanswered.
DEFAULT_IN_FLIGHT = 1000

Delivered = Literal["no", "unknown"]


class ProxyError(Exception):
    """A packet got no ACK.

    :ivar code: one of the codes of docs/protocol.rst, or ``connection-lost`` where no answer could come any more.
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


def is_correct(payload: str, ack: Ack) -> bool:
    """Whether the ACK has the SHA-1 of the payload, which is what pool servers answer unless told otherwise."""
    return ack.payload == sha1_hex(payload)


@define(eq=False)
class _Request:
    """A packet, and who waits for its answer. Where nobody does any more, the answer is swallowed."""

    raw: bytes
    client_id: str
    answer: Deferred[Answer]
    written: bool = False

    def fail(self, code: str, text: str) -> None:
        if not self.answer.called:
            self.answer.errback(self._error(code, text))

    def timed_out(self, _result: object, seconds: float) -> NoReturn:
        raise self._error("timeout", f"no answer within {seconds:g} seconds")

    def _error(self, code: str, text: str) -> ProxyError:
        return ProxyError(code, "unknown" if self.written else "no", text)


class ClientProtocol(Protocol):
    """One connection to a proxy."""

    def __init__(self, max_packet: int) -> None:
        self._framer = Framer(packets.peek_ack, max_packet)
        #: Written and not yet answered, oldest first.
        self.in_flight: deque[_Request] = deque()
        #: Whether no answer will come any more.
        self.broken = False
        self._open = Count(1)

    def connectionMade(self) -> None:
        self._transport = cast(ClientTransport, self.transport)
        # Small packets written one after the other would wait for each other's acknowledgement.
        self._transport.setTcpNoDelay(True)
        self._transport.setTcpKeepAlive(True)

    def send(self, request: _Request) -> None:
        """Write a packet."""
        request.written = True
        self.in_flight.append(request)
        self._transport.write(request.raw)

    def dataReceived(self, data: bytes) -> None:
        if self.broken:
            return
        self._framer.feed(data)
        try:
            while (frame := self._framer.next()) is not None:
                self._take(*frame)
        except (StreamError, PacketError) as error:
            # Which answer belongs to which packet can't be told any more.
            self._break(str(error))
            self._transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._break(reason.getErrorMessage())
        self._open.change(-1)

    def close(self) -> Deferred[None]:
        """Close the connection; fires when it is gone. What is unanswered fails."""
        if self.in_flight:
            # A proxy that doesn't read must not keep us until everything is sent.
            self._transport.abortConnection()
        else:
            self._transport.loseConnection()
        return self._open.when_zero()

    def _take(self, raw: bytes, ack: Ack | None) -> None:
        """Give an answer to the oldest packet.

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
        if not request.answer.called:
            request.answer.callback(Answer(raw, packet))

    def _break(self, why: str) -> None:
        self.broken = True
        in_flight, self.in_flight = self.in_flight, deque()
        for request in in_flight:
            request.fail("connection-lost", f"the connection to the proxy was lost: {why}")


class Client:
    """Sends packets as one client.

    :param endpoint: where the proxy is.
    :param client_id: its ``srcid``.
    :param timeout: how long an answer may take, in seconds.
    :param max_in_flight: packets unanswered at a time; further ones are refused.
    :param max_packet: the longest packet, in bytes, either way.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        client_id: str,
        clock: IReactorTime,
        timeout: float = DEFAULT_TIMEOUT,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        max_packet: int = Limits().max_packet,
    ) -> None:
        self._endpoint = endpoint
        self._client_id = client_id
        self._clock = clock
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._max_packet = max_packet
        self._protocol: ClientProtocol | None = None
        self._connecting: Deferred[IProtocol] | None = None
        #: What waits for the connection to be made.
        self._waiting: list[_Request] = []
        self._closed = False

    def send(self, policy: str, payload: str) -> Deferred[Ack]:
        """Have a payload processed under a policy.

        The Deferred may be cancelled: a packet that wasn't written yet is not sent, else its answer is swallowed.

        :raises ProxyError: (by the Deferred) there is no ACK.
        """
        try:
            raw = packets.data(self._client_id, policy, payload)
            # The proxy would only say the same.
            packets.peek_data(raw) or packets.decode(raw)
        except (PacketError, UnicodeEncodeError) as error:
            return fail(ProxyError("bad-packet", "no", str(error)))
        return self.exchange(raw, self._client_id).addCallback(_ack_of)

    def exchange(self, raw: bytes, client_id: str) -> Deferred[Answer]:
        """Send a packet as it is, and get whatever comes back, an error packet too. Otherwise as :meth:`send`.

        :param client_id: the packet's ``srcid``, which its answer has to name.
        :raises ProxyError: (by the Deferred) nothing came back.
        """
        protocol = self._protocol if self._protocol is not None and not self._protocol.broken else None
        in_flight = len(self._waiting if protocol is None else protocol.in_flight)
        if self._closed:
            return fail(ProxyError("connection-lost", "no", "this client was closed"))
        if len(raw) > self._max_packet:
            return fail(ProxyError("too-large", "no", f"a packet may have at most {self._max_packet} bytes"))
        if in_flight >= self._max_in_flight:
            return fail(ProxyError("overloaded", "no", f"{in_flight} packets have no answer yet"))
        answer: Deferred[Answer] = Deferred(lambda _: self._forget(request))
        request = _Request(raw, client_id, answer)
        answer.addTimeout(self._timeout, self._clock, request.timed_out)
        if protocol is not None:
            protocol.send(request)
        else:
            self._waiting.append(request)
            self._connect()
        return answer

    def close(self) -> Deferred[None]:
        """Close the connection for good; fires when it is gone. What is unanswered fails."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        return succeed(None) if self._protocol is None else self._protocol.close()

    def _connect(self) -> None:
        if self._connecting is None:
            factory = Factory.forProtocol(partial(ClientProtocol, self._max_packet))
            factory.noisy = False
            connecting = self._endpoint.connect(factory)
            self._connecting = connecting
            connecting.addCallbacks(self._connected, self._failed)

    def _connected(self, protocol: IProtocol) -> None:
        self._connecting = None
        self._protocol = cast(ClientProtocol, protocol)
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._protocol.send(request)

    def _failed(self, failure: Failure) -> None:
        self._connecting = None
        waiting, self._waiting = self._waiting, []
        why = "this client was closed" if self._closed else failure.getErrorMessage()
        for request in waiting:
            request.fail("connection-lost", f"there is no connection to the proxy: {why}")

    def _forget(self, request: _Request) -> None:
        """Don't send what nobody waits for any more."""
        if request in self._waiting:
            self._waiting.remove(request)


def _ack_of(answer: Answer) -> Ack:
    packet = answer.packet
    if isinstance(packet, Error):
        raise ProxyError(packet.error, packet.delivered, packet.payload)
    return packet
