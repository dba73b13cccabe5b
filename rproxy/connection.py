"""One connection to a server: data packets out, answers matched to them by order.

Every data packet that a server ever gets is written by :meth:`UpstreamConnection.write`, which holds the policy check
(docs/reference/protocol.rst, promise 1). Whatever comes back must be the answer to the oldest packet on the connection;
if it is not, nothing on the connection can be told apart any more, and it is closed (promise 3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from msgspec import UNSET
from twisted.internet.interfaces import IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Client
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy import packets
from rproxy.audit.trail import Trail
from rproxy.figures.counters import Counters
from rproxy.framing import Framer, StreamError
from rproxy.limits import Limits
from rproxy.logs.packets import ProxyLog
from rproxy.packets import Ack, Error, PacketError
from rproxy.registry.registration import Address
from rproxy.request import Asker, Refusal, Request, Server
from rproxy.tls.files import TLSError


class Pool(Protocol):
    """Whose connection it is."""

    @property
    def address(self) -> Address:
        """Where it goes."""

    @property
    def seconds(self) -> Callable[[], float]:
        """The clock."""

    def room_made(self) -> None:
        """The connection can take a packet again."""

    def answered(self) -> None:
        """The server gave an answer."""

    def timed_out(self) -> None:
        """The connection owes an answer whose time is over."""

    def lost(self, connection: UpstreamConnection, why: str) -> None:
        """The connection is gone; ``why`` it broke, or ``""`` if nothing was lost with it."""

    def retry(self, requests: Iterable[Request]) -> Iterable[Request]:
        """Give requests that were written, and lost, to other servers where that is allowed; returns the others."""


@implementer(IPushProducer)
class UpstreamConnection(TwistedProtocol):
    """The proxy's side of one connection.

    :param pipeline: packets in flight at a time, or None for a classic server: one packet, then the connection closes.
    """

    _logger = Logger()

    def __init__(
        self, pool: Pool, pipeline: int | None, limits: Limits, counters: Counters, log: ProxyLog | None
    ) -> None:
        self._pool = pool
        self._seconds = pool.seconds
        self._limits = limits
        self._counters = counters
        self._log = log
        self._framer = Framer(packets.peek_ack, limits.max_packet, packets.peek_many_acks)
        self._persistent = pipeline is not None
        self._full_depth = pipeline or 1
        #: Packets in flight at a time now.
        self._depth = self._full_depth
        #: Written and not yet answered, oldest first; also those whose asker was answered by a deadline or is gone.
        self.in_flight: deque[Request] = deque()
        #: How many further packets it takes now.
        self.room = 0
        #: Reasons to take none: the server doesn't read, left a packet unanswered past its deadline, or is to go.
        self._blocked = False
        #: The last of those packets.
        self._overdue: Request | None = None
        self.retiring = False
        self._for_good = False
        #: Set once; what still comes is then discarded.
        self._broken = ""

    def connectionMade(self) -> None:
        self._transport = cast(Client, self.transport)
        # Small packets written one after the other would wait for each other's acknowledgement.
        self._transport.setTcpNoDelay(True)
        self._transport.registerProducer(self, True)
        if ISSLTransport.providedBy(self._transport):
            # With TLS 1.3 the connection is made before the server has looked at the proxy's certificate. If it refuses
            # that, what was written is lost, so it is one packet until an answer says that it took the certificate.
            self._depth = 1
        self.room = self._depth

    def write(self, request: Request, server: Server) -> bool:
        """Send the request's packet, or answer False: there is no room, or the server may not have it (any more)."""
        if self.room <= 0 or not server.live:
            return False
        if server.policy != request.policy or server.target is not self._pool:
            self._report_violation(request, server)
            return False
        request.server = server
        if self._log is not None:
            self._log.forwarding(request, *self._pool.address)
        self.in_flight.append(request)
        self.room -= 1
        self._transport.write(request.raw)
        return True

    def _report_violation(self, request: Request, server: Server) -> None:
        self._counters.violations += 1
        host, port = self._pool.address
        self._logger.critical(
            "A packet of policy {packet_policy} for server id {server} of policy {policy} was about to be written to"
            " {host} port {port}; it was not",
            event="misrouting-prevented",
            packet_policy=request.policy,
            server=server.server_id,
            policy=server.policy,
            host=host,
            port=port,
        )

    def dataReceived(self, data: bytes) -> None:
        if self._broken:
            return
        # The askers in the order of their answers; each is told once, however many of its answers came at once.
        askers: dict[Asker, None] = {}
        awaited = len(self.in_flight)
        now = self._seconds()
        self._framer.feed(data)
        try:
            self._match(self._framer.take(awaited + 1), askers, now)
            if self._framer.error is not None:
                raise self._framer.error
            if self._framer.in_packet and not self.in_flight:
                raise PacketError("the beginning of an answer to nothing")
        except (StreamError, PacketError) as error:
            self._break(str(error))
        if len(self.in_flight) < awaited and not self._broken:
            self._pool.answered()
            self._depth = self._full_depth
            # One late answer isn't all of them: what is sent before the others would be lost with the connection.
            if self._overdue is not None and self._overdue not in self.in_flight:
                self._overdue = None
            self._update_room()
        for asker in askers:
            asker.deliver(now)

    def _match(self, frames: list[tuple[bytes, Ack | None]], askers: dict[Asker, None], now: float) -> None:
        """Give each answer to the packet that it must be the answer to: the oldest in flight.

        :raises StreamError, PacketError: one isn't.
        """
        in_flight = self.in_flight
        log = self._log
        if frames and in_flight and (server := in_flight[0].server) is not None:
            # How long the server took for the first of the answers that one read brought: all would cost too much.
            tally, first = server.tally, in_flight[0]
            tally.times.noted.append(now + tally.policy.timeout - (first.sent or first.deadline))
        answer: Ack | Error | None
        for frame, ack in frames:
            raw, answer = frame, ack
            if answer is None:
                raw, answer = self._look_closer(frame)
            if not in_flight:
                raise PacketError("an answer to nothing")
            request = in_flight[0]
            server = request.server
            if server is None or answer.destid != request.client_id or answer.srcid != server.server_id:
                raise PacketError("an answer to another packet, or of another server")
            size = answer.payloadsize
            # Not by packets.size_is_wrong, which this is, because practically every answer has one.
            if size is not UNSET and size != (length := len(answer.payload)) and size != str(length):
                self._tolerate_wrong_size()
            in_flight.popleft()
            if request.reply is not None:
                self._counters.swallowed += 1
                continue
            if log is not None:
                log.answered(answer)
            request.reply = raw
            if request.allowance is not None:
                request.allowance.used -= 1
            askers[request.asker] = None

    def _tolerate_wrong_size(self) -> None:
        if self._limits.strict:
            raise PacketError("an answer with a wrong payloadsize")
        self._counters.wrong_size += 1

    @staticmethod
    def _look_closer(raw: bytes) -> tuple[bytes, Ack | Error]:
        """An answer in a form that few have, and the reply that it makes.

        :raises StreamError, PacketError: no answer. An error is one only if it says that the packet may have been
            delivered, which is all that a server can know.
        """
        answer = packets.decode(raw)
        if isinstance(answer, Ack):
            return raw, answer
        if isinstance(answer, Error) and answer.delivered == "unknown":
            return Refusal(raw, "failed", "unknown"), answer
        raise PacketError("neither an ACK nor a server's error")

    def _update_room(self) -> None:
        if self._broken:
            return
        if not self.in_flight and (self.retiring or not self._persistent):
            self._close()
        elif not (self._blocked or self._overdue is not None or self.retiring) and self._persistent:
            self.room = self._depth - len(self.in_flight)
            if self.room:
                self._pool.room_made()

    @property
    def refusal(self) -> str | None:
        """Why it takes no packet now, for people; None if it takes one."""
        if self.room > 0:
            return None
        if self._blocked:
            return "it doesn't read what was sent to it"
        if self._overdue is not None:
            return "it owes an answer that is late"
        if self.retiring or self._broken or not self._persistent:
            return "its connection is about to close"
        return f"it has {len(self.in_flight)} packets in flight on a connection, as many as it takes"

    def retire(self, *, for_good: bool = False) -> None:
        """Take nothing more, and close when nothing is awaited.

        :param for_good: it was made on terms that don't hold any more, so :meth:`employ` won't bring it back.
        """
        self.retiring = True
        self._for_good = self._for_good or for_good
        self.room = 0
        self._update_room()

    def employ(self) -> None:
        """Take packets again, if all that spoke against it was that nobody wanted to send any."""
        if self.retiring and not self._for_good and self._transport.connected and not self._transport.disconnecting:
            self.retiring = False
            if self._persistent:
                self._update_room()

    def stop(self) -> None:
        """Refuse what is in flight, and close at once."""
        for request in list(self.in_flight):
            request.refuse("shutting-down", "unknown", "the proxy stopped before the server answered")
        self._break("the proxy stopped")

    def sweep(self, now: float) -> None:
        """End what is past its deadline; nothing new is sent until the server has answered all of that.

        The connection stays, for the late answer to be swallowed: a server of the old kind may not survive a reset. It
        is given up when a packet is late by a whole deadline more.
        """
        late = [request for request in self.in_flight if request.deadline <= now]
        if not late or self._broken:
            return
        for request in late:
            request.refuse("timeout", "unknown", "the server did not answer in time")
        self.room = 0
        news, self._overdue = self._overdue is None, late[-1]
        if news:
            self._pool.timed_out()
        if late[0].deadline + self._limits.timeout <= now:
            self._break("it did not answer in time")

    def _break(self, why: str) -> None:
        """Nothing that comes can be trusted or awaited: close at once."""
        self._broken = why
        self.room = 0
        self._transport.abortConnection()

    def _close(self) -> None:
        self.room = 0
        self._transport.unregisterProducer()
        self._transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.room = 0
        in_flight, self.in_flight = self.in_flight, deque()
        for request in in_flight:
            if request.server is not None:
                request.server.tally.lost += 1
        awaited = any(request.reply is None for request in in_flight)
        why = self._broken or ("the connection broke" if awaited else "")
        if isinstance(reason.value, TLSError):
            # It may be that the server refuses the proxy's certificate: with TLS 1.3 that comes only now.
            why = self._broken or str(reason.value)
        self._pool.lost(self, why)
        for request in self._pool.retry(in_flight) if in_flight else ():
            request.refuse("server-lost", "unknown", f"the server was lost before it answered: {why}")

    def pauseProducing(self) -> None:
        """The server reads slower than is sent."""
        self._blocked = True
        self.room = 0

    def resumeProducing(self) -> None:
        """What was written is sent."""
        self._blocked = False
        self._update_room()

    def stopProducing(self) -> None:
        """The connection is lost: see :meth:`connectionLost`."""


class RecordedConnection(UpstreamConnection):
    """One whose packets are told to the audit trail; a class of its own, so that without a trail none is looked for."""

    def __init__(
        self, trail: Trail, pool: Pool, pipeline: int | None, limits: Limits, counters: Counters, log: ProxyLog | None
    ) -> None:
        super().__init__(pool, pipeline, limits, counters, log)
        self._trail = trail

    def write(self, request: Request, server: Server) -> bool:
        """See :meth:`UpstreamConnection.write`."""
        if not super().write(request, server):
            return False
        self._trail.written(request)
        return True
