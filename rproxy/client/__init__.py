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
``ProxyError.delivered`` says. With ``resend`` a packet is sent again where the proxy says that no server got it,
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
from typing import NoReturn

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint

from rproxy import packets
from rproxy.backoff import Backoff
from rproxy.client.connecting import Connections
from rproxy.client.exchanging import Answer, ClientProtocol, ProxyError, Request
from rproxy.client.failover import FailoverEndpoint
from rproxy.hashing import sha1_hex
from rproxy.limits import Limits
from rproxy.packets import Ack, Error, PacketError

__all__ = ["DEFAULT_IN_FLIGHT", "DEFAULT_TIMEOUT", "PASSING", "Answer", "Client", "ProxyError", "is_correct"]

#: How long an answer may take, in seconds: the proxy gives up on a packet after 30.
DEFAULT_TIMEOUT = 60.0
#: How many packets of a client may be unanswered.
DEFAULT_IN_FLIGHT = 1000

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
        self._client_id = client_id
        self._clock = clock
        self._timeout = timeout
        self._max_in_flight = max_in_flight
        self._max_packet = max_packet
        self._resend = resend
        self._max_refusals = max_refusals
        self._jitter = jitter
        self._connections = Connections(self, endpoint, clock, max_packet, reconnect=reconnect, jitter=jitter)
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
        self._connections.leave_late()
        unanswered = self._connections.unanswered + len(self._waiting) + len(self._refused)
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
        closed = self._connections.close()
        for again in self._refused.values():
            again.cancel()
        refused, self._refused = self._refused, {}
        waiting, self._waiting = self._waiting, {}
        for request in (*waiting, *refused):
            request.fail("connection-lost", "this client was closed")
        return closed

    # The way of a packet.

    def _submit(self, request: Request) -> None:
        """Write a packet, now or when there is a connection."""
        if self._connections.current is not None:
            self._connections.current.send(request)
        else:
            self._waiting[request] = None
            self._connections.ask()

    def _resubmit(self, request: Request) -> None:
        del self._refused[request]
        if request.refused_on is not None:
            self._connections.leave_refusing(request.refused_on)
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
            request.connection.retire_late()
        text = f"no answer within {self._timeout:g} seconds"
        if self._connections.why and not request.written:
            text += f", and no connection to the proxy: {self._connections.why}"
        raise request.failure("timeout", text)

    # From the connections: see rproxy.client.connecting.User.

    def connected(self, connection: ClientProtocol) -> None:
        waiting, self._waiting = self._waiting, {}
        for request in waiting:
            connection.send(request)

    def not_connected(self, why: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for request in waiting:
            request.fail("connection-lost", f"there is no connection to the proxy: {why}")

    def answered(self, connection: ClientProtocol, request: Request, answer: Answer) -> None:
        if not self._try_again(connection, request, answer):
            request.end(answer)


def _ack_of(answer: Answer) -> Ack:
    packet = answer.packet
    if isinstance(packet, Error):
        raise ProxyError(packet.error, packet.delivered, packet.payload)
    return packet
