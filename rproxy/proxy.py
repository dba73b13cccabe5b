"""The side of the proxy that clients and registering servers see: packets in, ordered answers out.

A connection's packets stand in one queue in the order in which they came; answers are written from its head, so they
leave in that order whenever they arrive (docs/protocol.rst, promise 4). A connection that has too much unanswered, or
doesn't read its answers, isn't read from until that changes (promise 8).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, cast

from msgspec import UNSET
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IListeningPort,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Server
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy import packets
from rproxy.framing import Framer, StreamError
from rproxy.limits import Limits
from rproxy.lingering import close_lingering
from rproxy.metrics import Counters
from rproxy.packetlog import ProxyLog
from rproxy.packets import PROXY_ID, Data, PacketError, Setup
from rproxy.registry import ConflictError, Registration, Registry
from rproxy.request import Request
from rproxy.routing import Router
from rproxy.upstream import Connect


@implementer(IHalfCloseableProtocol, IPushProducer)
class ProxyProtocol(Protocol):
    """One connection of a client, of a registering server, or of both."""

    _logger = Logger(namespace="rproxy.proxy")

    def __init__(self, factory: ProxyFactory) -> None:
        self._factory = factory
        self._limits = factory.limits
        self._counters = factory.counters
        self._router = factory.router
        self._log = factory.log
        self._seconds = factory.clock.seconds
        self._framer = Framer(packets.peek_data, factory.limits.max_packet)
        #: What has no answer yet, or one that must wait for those before it.
        self._pending: deque[Request] = deque()
        self._pending_bytes = 0
        #: The peer doesn't read its answers.
        self._blocked = False
        #: Packets are left unread for want of room, and the transport isn't read from.
        self._held = False
        self._working = False
        #: No packet will come any more, because the peer shut its writing side or because it broke its stream.
        self._over = False
        self._shut = False
        self._distrusted = False
        self._closing: IDelayedCall | None = None
        self._holds_lease = False
        #: When something was heard last, in the clock's seconds.
        self.heard = self._seconds()

    # From the transport.

    def connectionMade(self) -> None:
        self._transport = cast(Server, self.transport)
        self._transport.registerProducer(self, True)
        self._factory.opened(self)

    def dataReceived(self, data: bytes) -> None:
        if self._distrusted:
            return
        self.heard = self._seconds()
        self._framer.feed(data)
        self._work()

    def readConnectionLost(self) -> None:
        """The peer will send nothing more, and still reads its answers (promise 9)."""
        self._over = self._shut = True
        if self._framer.in_packet and not self._distrusted:
            self._refuse(b"", "", "bad-packet", "the stream ended inside a packet")
        if self._closing is not None:
            self._transport.loseConnection()
        else:
            self._work()

    def writeConnectionLost(self) -> None:
        """Our writing side is shut: see :mod:`rproxy.lingering`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        self._counters.client_gone += len(self._pending)
        for request in self._pending:
            request.abandon()
        self._pending.clear()
        self._factory.closed(self)

    def pauseProducing(self) -> None:
        """The peer reads slower than is sent: read no more from it."""
        self._blocked = True

    def resumeProducing(self) -> None:
        """What was written is sent."""
        self._blocked = False
        if self._held:
            self._work()

    def stopProducing(self) -> None:
        """The connection is lost: see :meth:`connectionLost`."""

    # The way of a packet.

    @property
    def in_flight(self) -> int:
        """Packets received and not yet answered."""
        return len(self._pending)

    def deliver(self) -> None:
        """See :class:`rproxy.request.Asker`."""
        if not self._working:
            self._write_answers()
            if self._held:
                self._work()

    def _work(self) -> None:
        """Read packets while there is room, write the answers that are there, until neither makes way for the other."""
        self._working = True
        try:
            while self._read_packets() and self._write_answers():
                pass
            self._write_answers()
        finally:
            self._working = False
        if self._over and not (self._held or self._pending):
            self._finish()

    def _read_packets(self) -> bool:
        """Take packets in, and answer whether some had to be left for want of room."""
        if self._distrusted:
            return False
        limits = self._limits
        pending = self._pending
        framer = self._framer
        try:
            while not (
                self._blocked or len(pending) >= limits.client_packets or self._pending_bytes >= limits.client_bytes
            ):
                frame = framer.next()
                if frame is None:
                    self._hold(False)
                    return False
                raw, data = frame
                if data is None:
                    self._take_other(raw)
                else:
                    self._take(raw, data)
        except StreamError as error:
            self._over = self._distrusted = True
            self._refuse(b"", "", error.code, str(error))
            self._hold(False)
            return False
        self._hold(True)
        return True

    def _hold(self, hold: bool) -> None:
        if hold is not self._held:
            self._held = hold
            if hold:
                self._transport.pauseProducing()
            elif not self._over:
                self._transport.resumeProducing()

    def _take(self, raw: bytes, data: Data) -> None:
        if data.payloadsize is not UNSET and packets.size_is_wrong(data):
            if self._limits.strict:
                self._refuse(raw, data.srcid, "bad-packet", "payloadsize is not the number of the payload's characters")
                return
            self._counters.wrong_size += 1
        if self._log is not None:
            self._log.received(data)
        request = Request(raw, data.policy, data.srcid, self.heard + self._limits.timeout, self)
        self._pending.append(request)
        self._pending_bytes += len(raw)
        self._counters.received += 1
        self._router.submit(request)

    def _take_other(self, raw: bytes) -> None:
        """Take what isn't a data packet of the usual form."""
        try:
            packet = packets.decode(raw)
        except PacketError as error:
            self._refuse(raw, error.destid, "bad-packet", str(error))
            return
        if isinstance(packet, Data):
            self._take(raw, packet)
        elif isinstance(packet, Setup):
            self._register(packet)
        else:
            self._refuse(raw, packet.srcid, "bad-packet", "only data and setup packets are for the proxy")

    def _refuse(self, raw: bytes, client_id: str, code: str, text: str) -> None:
        """Answer something that is no data packet, in its place among the answers."""
        request = Request(raw, "", client_id, self.heard, self)
        self._pending.append(request)
        self._pending_bytes += len(raw)
        self._counters.received += 1
        request.refuse(code, "no", text)

    def _write_answers(self) -> bool:
        """Write what is answered at the head of the queue, in one go; whether there was anything."""
        pending = self._pending
        replies: list[bytes] = []
        while pending and (reply := pending[0].reply) is not None:
            request = pending.popleft()
            self._pending_bytes -= len(request.raw)
            if request.error is None:
                self._counters.acked += 1
            else:
                self._counters.refused[request.error] += 1
            replies.append(reply)
        if not replies:
            return False
        self._transport.write(replies[0] if len(replies) == 1 else b"".join(replies))
        if self._over and not (self._working or self._held or pending):
            self._finish()
        return True

    def _finish(self) -> None:
        """The last answer is written: close, and where the peer may still be sending, linger."""
        if self._closing is not None:
            return
        self._transport.unregisterProducer()
        if not self._shut:
            self._closing = close_lingering(self._transport, self._factory.clock, self._limits.linger)
        else:
            self._transport.loseConnection()

    # Registration.

    def _register(self, setup: Setup) -> None:
        host = getattr(self._transport.getPeer(), "host", None)
        if host is None:
            self._refuse_setup(setup, "forbidden", "a server registers over TCP, from the address that it serves at")
            return
        try:
            registration = self._factory.registry.register(setup, host.removeprefix("::ffff:"), self)
        except ConflictError as error:
            self._refuse_setup(setup, "conflict", str(error))
            return
        if setup.lease is not None:
            self._holds_lease = True
            text = "draining" if setup.drain else "registered"
            self._send(packets.ack(PROXY_ID, setup.id, text))
        if registration is not None:
            self._counters.registered += 1
            self._logger.info(
                "Received setup message from server id {registration.server_id} ip {registration.host}"
                " privacy policy {registration.policy} port {registration.port}",
                registration=registration,
            )

    def _refuse_setup(self, setup: Setup, code: Literal["forbidden", "conflict"], text: str) -> None:
        self._counters.setup_refused[code] += 1
        self._logger.warn(
            "Refused setup message from server id {server_id} privacy policy {policy}: {code}, {text}",
            server_id=setup.id,
            policy=setup.policy,
            code=code,
            text=text,
        )
        self._send(packets.error(PROXY_ID, setup.id, code, "no", text))

    def _send(self, answer: bytes) -> None:
        self._transport.write(answer)

    def lease_ran_out(self) -> None:
        """The peer didn't renew its lease in time: it has to begin anew."""
        self._transport.abortConnection()

    def close_if_idle(self, silent_since: float) -> None:
        """Close a connection that has sent nothing since, unless an answer or a lease keeps it."""
        if self.heard <= silent_since and not self._pending and not self._holds_lease:
            self._transport.unregisterProducer()
            self._transport.loseConnection()


class ProxyFactory(Factory):
    """The proxy: its registry, its router, and its clients' connections.

    :param connect: how to reach a server's address.
    :param random: numbers from 0 to 1, for jitter.
    :param log: where packets are shown, None not to.
    """

    noisy = False
    _logger = Logger(namespace="rproxy.proxy")

    def __init__(
        self,
        limits: Limits,
        clock: IReactorTime,
        connect: Connect,
        random: Callable[[], float],
        log: ProxyLog | None = None,
    ) -> None:
        self.limits = limits
        self.clock = clock
        self.log = log
        self.counters = Counters()
        self.router = Router(limits, self.counters, clock, connect, random, log)
        self.registry = Registry(clock.seconds, self.router.registered, self._ended)
        self.clients: set[ProxyProtocol] = set()
        #: Where clients come in; not accepted from while there are ``max_clients``.
        self.ports: list[IListeningPort] = []
        self._full = False

    def listening(self, port: IListeningPort) -> None:
        """Clients come in here."""
        self.ports.append(port)
        self._logger.info(
            "Running the reverse proxy on port {port}", port=getattr(port.getHost(), "port", port.getHost())
        )

    def buildProtocol(self, addr: IAddress | None) -> ProxyProtocol:
        return ProxyProtocol(self)

    @property
    def in_flight(self) -> int:
        """Packets received and not yet answered, over all clients."""
        return sum(client.in_flight for client in self.clients)

    def opened(self, client: ProxyProtocol) -> None:
        """A connection was made."""
        self.clients.add(client)
        if len(self.clients) >= self.limits.max_clients and not self._full:
            self._full = True
            for port in self.ports:
                port.stopReading()  # type: ignore[attr-defined]  # a TCP port is a FileDescriptor

    def closed(self, client: ProxyProtocol) -> None:
        """A connection was lost."""
        self.clients.discard(client)
        self.registry.release(client)
        if self._full and len(self.clients) < self.limits.max_clients:
            self._full = False
            for port in self.ports:
                port.startReading()  # type: ignore[attr-defined]

    def sweep(self) -> None:
        """End what is past its time: leases, deadlines, waits."""
        for owner in self.registry.expire():
            if isinstance(owner, ProxyProtocol):
                owner.lease_ran_out()
        self.router.sweep()

    def sweep_idle(self) -> None:
        """Close the connections that have been silent for too long."""
        silent_since = self.clock.seconds() - self.limits.idle_timeout
        for client in list(self.clients):
            client.close_if_idle(silent_since)

    def _ended(self, registration: Registration) -> None:
        self._logger.info(
            "Registration of server id {registration.server_id} for privacy policy {registration.policy} ended",
            registration=registration,
        )
        self.router.ended(registration)
