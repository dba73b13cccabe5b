"""The client: payloads out under a policy, ACKs back.

One connection carries many packets at a time (:mod:`rproxy.client.exchanging`). It is made when there is something to
send, and made again after it was lost, for as long as the client isn't closed; one that carried no packet is let go
until there is one, because proxies close connections that are idle. Packets wait for a connection for as long as for
their answer::

    client = Client(HostnameEndpoint(reactor, "127.0.0.1", 8000), "1", reactor)
    ack = await client.send("111", "xyz1")
    assert is_correct("xyz1", ack)
    await client.close()

Nothing that a server may have got is ever sent a second time: whoever asked decides that, by what
:attr:`ProxyError.delivered` says. With ``resend`` a packet is sent again where the proxy says that no server got it,
for a reason that may pass (:data:`PASSING`): after a random time that grows with each try, up to :data:`MAX_REFUSALS`
times, and within the packet's one timeout. It may then come after packets that were sent later.

With several proxies (:mod:`rproxy.client.failover`) the connection is made to the next one as soon as one fails: no
connection to it can be made, its connection is lost with packets on it, an answer doesn't come in time, or it says that
it is stopping. What was never written is written there. There is a wait only when all have failed. With ``resend`` the
next one is also gone to when a proxy refused a packet that is to be sent again, because another may know a server where
this one doesn't; but only if one hasn't failed or refused something in the last seconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import NoReturn, cast

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from rproxy import packets
from rproxy.backoff import Backoff
from rproxy.client.exchanging import Answer, ClientProtocol, ProxyError, Request
from rproxy.client.failover import FailoverEndpoint
from rproxy.counting import Count
from rproxy.hashing import sha1_hex
from rproxy.limits import Limits
from rproxy.packets import Ack, Error, PacketError

__all__ = ["DEFAULT_IN_FLIGHT", "DEFAULT_TIMEOUT", "PASSING", "Answer", "Client", "ProxyError", "is_correct"]

#: How long an answer may take, in seconds: the proxy gives up on a packet after 30.
DEFAULT_TIMEOUT = 60.0
#: How many packets of a client may be unanswered.
DEFAULT_IN_FLIGHT = 1000

#: The waits before a connection is made again, in seconds.
RECONNECT = Backoff(0.25, 5.0)
#: The waits before a packet is sent again, in seconds.
RESEND = Backoff(0.1, 5.0)
#: How often a packet may be refused.
MAX_REFUSALS = 20
#: The errors that say nothing about the packet itself, so that it may pass another time.
PASSING = frozenset({"no-server", "overloaded", "shutting-down", "timeout"})


def is_correct(payload: str, ack: Ack) -> bool:
    """Whether the ACK has the SHA-1 of the payload, which is what pool servers answer unless told otherwise."""
    return ack.payload == sha1_hex(payload)


class Client:
    """Sends packets as one client.

    :param endpoint: where the proxy is; a :class:`rproxy.client.failover.FailoverEndpoint` if there are several.
    :param client_id: its ``srcid``.
    :param timeout: how long an answer may take, in seconds, with all waits and tries.
    :param max_in_flight: packets unanswered at a time; further ones are refused.
    :param max_packet: the longest packet, in bytes, either way.
    :param reconnect: whether to go on trying where no connection can be made. Otherwise each packet tries, and what
        waits for a connection fails with it.
    :param resend: whether to send again what certainly reached no server; see the module.
    :param max_refusals: how often a packet may be refused; the last refusal is its answer.
    :param jitter: gives random numbers from 0 to 1, so that a restarted proxy's clients don't come all at once.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        client_id: str,
        clock: IReactorTime,
        timeout: float = DEFAULT_TIMEOUT,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        max_packet: int = Limits().max_packet,
        *,
        reconnect: bool = True,
        resend: bool = False,
        max_refusals: int = MAX_REFUSALS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if not isinstance(endpoint, FailoverEndpoint):
            endpoint = FailoverEndpoint({"the proxy": endpoint}, clock)
        self._proxies = endpoint
        self._client_id = client_id
        self._clock = clock
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._max_packet = max_packet
        self._reconnect = reconnect
        self._resend = resend
        self._max_refusals = max_refusals
        self._jitter = jitter
        #: The connection that packets are written to, while there is one.
        self._current: ClientProtocol | None = None
        #: All that are open: also those that retired and still have answers to bring.
        self._connections: set[ClientProtocol] = set()
        self._open = Count()
        #: The attempt to connect, or else the wait before it.
        self._connecting: Deferred[IProtocol] | None = None
        self._pause: IDelayedCall | None = None
        #: How often in a row no connection could be made, or one was lost before it brought an answer; and why.
        self._failures = 0
        self._why = ""
        #: What waits for a connection, in the order in which it will be written.
        self._waiting: dict[Request, None] = {}
        #: What is to be sent again, and when.
        self._refused: dict[Request, IDelayedCall] = {}
        self._closed = False

    def send(self, policy: str, payload: str) -> Deferred[Ack]:
        """Have a payload processed under a policy.

        The Deferred may be cancelled: a packet that isn't written yet is not sent, else its answer is swallowed.

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
        if self._closed:
            return fail(ProxyError("connection-lost", "no", "this client was closed"))
        if len(raw) > self._max_packet:
            return fail(ProxyError("too-large", "no", f"a packet may have at most {self._max_packet} bytes"))
        unanswered = self._unanswered()
        if unanswered >= self._max_in_flight:
            return fail(ProxyError("overloaded", "no", f"{unanswered} packets have no answer yet"))
        answer: Deferred[Answer] = Deferred(lambda _: self._forget(request))
        request = Request(raw, client_id, self._clock.seconds() + self._timeout, answer)
        answer.addTimeout(self._timeout, self._clock, lambda *_: self._timed_out(request))
        self._submit(request)
        return answer

    def close(self) -> Deferred[None]:
        """Close every connection for good; fires when they are gone. What is unanswered fails."""
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._connecting is not None:
            self._connecting.cancel()
        for again in self._refused.values():
            again.cancel()
        for connection in list(self._connections):
            connection.close()
        refused, self._refused = self._refused, {}
        waiting, self._waiting = self._waiting, {}
        for request in (*waiting, *refused):
            request.fail("connection-lost", "this client was closed")
        return self._open.when_zero()

    # The way of a packet.

    def _unanswered(self) -> int:
        """How many packets are held, those among them that only keep their place on a connection."""
        in_flight = sum(len(connection.in_flight) for connection in self._connections)
        return in_flight + len(self._waiting) + len(self._refused)

    def _submit(self, request: Request) -> None:
        """Write a packet, now or when there is a connection."""
        if self._current is not None:
            self._current.send(request)
            return
        self._waiting[request] = None
        if self._connecting is None and self._pause is None:
            self._connect()

    def _resubmit(self, request: Request) -> None:
        del self._refused[request]
        refused_on = request.refused_on
        if refused_on is not None and self._current in (None, refused_on) and self._proxies.has_other_than(refused_on):
            why = "it refused a packet"
            # It may be lost already, with nothing on it.
            self._proxies.leave(refused_on, why)
            refused_on.retire(why)
        self._submit(request)

    def _try_again(self, connection: ClientProtocol, request: Request, answer: Answer) -> bool:
        """Have a packet sent again if it may be, and if that may help."""
        packet = answer.packet
        if not (self._resend and isinstance(packet, Error) and packet.delivered == "no" and packet.error in PASSING):
            return False
        request.refusals += 1
        seconds = RESEND.seconds(request.refusals, self._jitter())
        too_late = self._clock.seconds() + seconds >= request.deadline
        if request.is_over or self._closed or too_late or request.refusals >= self._max_refusals:
            return False
        request.written = False
        request.refused_on = connection
        self._refused[request] = self._clock.callLater(seconds, self._resubmit, request)
        return True

    def _forget(self, request: Request) -> None:
        """Nobody waits for the answer any more: don't send the packet, or else swallow the answer."""
        request.is_over = True
        self._waiting.pop(request, None)
        if (again := self._refused.pop(request, None)) is not None:
            again.cancel()
        if request.connection is not None:
            request.connection.close_if_done()

    def _timed_out(self, request: Request) -> NoReturn:
        if request.connection is not None:
            request.connection.retire("an answer didn't come in time")
        text = f"no answer within {self._timeout:g} seconds"
        if self._why and not request.written:
            text += f", and no connection to the proxy: {self._why}"
        raise request.failure("timeout", text)

    # From a connection: see rproxy.client.exchanging.Owner.

    def opened(self, connection: ClientProtocol) -> None:
        self._connections.add(connection)
        self._open.change(1)

    def answered(self, connection: ClientProtocol, request: Request, answer: Answer) -> None:
        if connection is self._current:
            self._failures = 0
        if not self._try_again(connection, request, answer):
            request.end(answer)

    def unusable(self, connection: ClientProtocol, why: str) -> None:
        if connection is not self._current:
            return
        self._current = None
        if why:
            self._proxies.leave(connection, why)
        if not (connection.used and self._reconnect) or self._closed:
            return
        if why and self._proxies.is_rested:
            self._connect()
        else:
            self._connect_later()

    def closed(self, connection: ClientProtocol) -> None:
        self._connections.discard(connection)
        self._open.change(-1)

    # The connection.

    def _connect_later(self) -> None:
        self._failures += 1
        self._pause = self._clock.callLater(RECONNECT.seconds(self._failures, self._jitter()), self._connect)

    def _connect(self) -> None:
        self._pause = None
        factory = Factory.forProtocol(partial(ClientProtocol, self, self._max_packet))
        factory.noisy = False
        connecting = self._connecting = self._proxies.connect(factory)
        connecting.addCallbacks(self._connected, self._not_connected)

    def _connected(self, protocol: IProtocol) -> None:
        connection = cast(ClientProtocol, protocol)
        if not connection.usable:
            why = "it was lost as soon as it was made"
            self._proxies.leave(connection, why)
            if self._proxies.is_rested and not self._closed:
                self._connect()
            else:
                self._not_connected(Failure(ConnectionError(why)))
            return
        self._connecting = None
        self._why = ""
        self._current = connection
        waiting, self._waiting = self._waiting, {}
        for request in waiting:
            connection.send(request)

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if self._closed:
            return
        self._why = failure.getErrorMessage()
        if self._reconnect:
            self._connect_later()
            return
        waiting, self._waiting = self._waiting, {}
        for request in waiting:
            request.fail("connection-lost", f"there is no connection to the proxy: {self._why}")


def _ack_of(answer: Answer) -> Ack:
    packet = answer.packet
    if isinstance(packet, Error):
        raise ProxyError(packet.error, packet.delivered, packet.payload)
    return packet
