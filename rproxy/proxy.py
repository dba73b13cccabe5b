"""The proxy: its registry, its router, and every connection of its clients and registering servers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from rproxy.addresses import Addresses, ClientAddress
from rproxy.admission import Admission
from rproxy.audit.trail import Trail
from rproxy.downstream import ProxyProtocol
from rproxy.downstream.hub import Connection
from rproxy.downstream.registering import Registrant
from rproxy.figures.counters import Counters
from rproxy.figures.happenings import Happened, nothing_happened
from rproxy.limits import Limits
from rproxy.logs.packets import ProxyLog
from rproxy.logs.quiet import QuietLog
from rproxy.policies import EVERYTHING, Policies
from rproxy.registry import Registry
from rproxy.registry.claims import Claims
from rproxy.registry.registration import Registration
from rproxy.registry.standing import Observer
from rproxy.request import Asker, Endings, Request
from rproxy.routing import Router
from rproxy.stores.replica import Replica
from rproxy.upstream import Connect

_logger = Logger()

#: Why a proxy refuses every packet.
_STOPPING = "the proxy is stopping"
_UNRECORDED = "the proxy can't write its audit trail"


class Entrance(Factory):
    """Where peers of one kind come in."""

    noisy = False

    def __init__(self, proxy: ProxyFactory, kind: type[ProxyProtocol]) -> None:
        self._proxy = proxy
        self._kind = kind

    def buildProtocol(self, addr: IAddress | None) -> ProxyProtocol | None:
        if not self._proxy.has_room_for(self._kind):
            return None
        return self._kind(self._proxy, self._proxy.address_of(addr))


class ProxyFactory(Factory):
    """The proxy: its registry, its router, and its clients' connections.

    :param connect: how to reach a server's address.
    :param random: numbers from 0 to 1, for jitter.
    :param claims: who says that a server serves a policy; empty yet.
    :param log: where packets are shown, None not to.
    :param policies: who may serve what, and who may ask for it.
    :param trail: where it is recorded what becomes of packets and registrations, None nowhere.
    """

    noisy = False

    def __init__(
        self,
        limits: Limits,
        clock: IReactorTime,
        connect: Connect,
        random: Callable[[], float],
        claims: Claims,
        log: ProxyLog | None = None,
        policies: Policies = EVERYTHING,
        trail: Trail | None = None,
    ) -> None:
        self.limits = limits
        self.policies = policies
        self.happened: Happened = nothing_happened
        #: See :class:`rproxy.downstream.hub.Hub`.
        self.when_told: Callable[[Callable[[], object]], None] = _at_once
        self.trail = trail
        #: Who records what becomes of packets.
        self.endings: Sequence[Endings] = () if trail is None else (trail,)
        self.clock = clock
        self.seconds = clock.seconds
        self.log = log
        self.counters = Counters()
        self.router = Router(limits, self.counters, clock, connect, random, log, policies, trail, self._let_go)
        self._observer = Observer(
            registered=self._registered,
            ended=self._ended,
            found=self._found,
            seen=self.router.upstreams.seen,
            displaced=_lease_changed,
            conflicted=_conflicted,
            refused=self._refused,
            refuses=self._refuses,
            hold=self.router.upstreams.hold,
        )
        if trail is not None:
            self._observer.over = trail.unregistered
        self.registry = Registry(
            clock.seconds, self._observer, claims, limits.registrations, limits.registrations_per_host
        )
        self.admission = Admission(policies, self.registry, self.counters, clock.seconds, trail)
        self.addresses = Addresses(limits, clock.seconds)
        #: Says why a connection was refused.
        self.log_refusal = QuietLog(clock.seconds, _logger.warn, "refused connections")
        #: Whether there is a policy that not everybody may ask for.
        self.asks_clients = policies.ask_something_of_clients
        #: Where the clients' packets go.
        self.submit: Callable[[Request], None] = self.router.submit
        #: Clients that have an answer which is delivered when what is being done is finished.
        self._undelivered: dict[Asker, None] = {}
        #: What was received until the last sweep, and whether a drain has waited for what may still come.
        self._came = 0
        self._lingered = False
        #: Fire when nothing is in flight any more, and when no connection is left.
        self._drained: list[Deferred[None]] = []
        self._closed: list[Deferred[None]] = []
        self.clients: set[Connection] = set()
        #: Where clients come in; not accepted from while there are ``max_clients``.
        self.ports: list[IListeningPort] = []
        #: Connections that count as clients: all but those that a lease hangs on.
        self._client_count = 0
        #: Connections that came in where only servers do.
        self._server_count = 0
        self._full = False

    def share(self, replica: Replica) -> None:
        """Tell other processes of registrations, and hear of theirs, by this replica."""
        self._observer.changed = replica.changed
        self._observer.renewed = replica.renewed
        self.when_told = replica.when_told
        self.router.ask = replica.ask
        self.router.confirm = replica.confirm
        self.router.lapse = replica.lapse

    def watch(self, happened: Happened) -> None:
        """Tell of what happens to servers and registrations from now on."""
        self.happened = self.router.happened = self.admission.happened = happened

    def record(self, endings: Endings) -> None:
        """Have what becomes of packets recorded there too, of connections that come from now on."""
        self.endings = self.router.callers.endings = (*self.endings, endings)

    def revoke(self, registration: Registration) -> None:
        """End a registration, although the policies allow it."""
        self.router.bar([registration])
        self.registry.revoke(registration, "by an operator")

    def listening(self, port: IListeningPort) -> None:
        """Clients come in here."""
        self.ports.append(port)
        say_running(port)

    def registering(self, port: IListeningPort) -> None:
        """Servers come in here, and nobody else, however many clients there are."""
        say_registering(port)

    def buildProtocol(self, addr: IAddress | None) -> ProxyProtocol:
        return ProxyProtocol(self, self.address_of(addr))

    def address_of(self, addr: IAddress | None) -> ClientAddress:
        """What a connection from there counts for."""
        return self.addresses.of(getattr(addr, "host", None))

    def has_room_for(self, kind: type[ProxyProtocol]) -> bool:
        """Whether one more of this kind may come in; clients wait in the backlog, and are never turned away."""
        return kind.may_be_client or self._server_count < self.limits.registrations

    @property
    def is_draining(self) -> bool:
        """Whether no new packet is taken any more, for good."""
        return self.submit == self._refuse_shutting_down

    @property
    def refusal(self) -> str | None:
        """Why every packet is refused now, whatever it asks for; None if they are taken."""
        if self.is_draining:
            return _STOPPING
        return _UNRECORDED if self.submit == self._refuse_unrecorded else None

    @property
    def in_flight(self) -> int:
        """Packets received and not yet answered, over all clients."""
        return sum(client.in_flight for client in self.clients)

    def pending(self) -> Iterator[Request]:
        """Those packets, and those of the callers of :meth:`rproxy.routing.Router.forward`."""
        for client in self.clients:
            yield from client.pending
        yield from self.router.callers.pending()

    def reload(self, policies: Policies) -> None:
        """Keep to these policies from now on, and revoke the registrations that they don't allow."""
        self.policies = policies
        self.asks_clients = policies.ask_something_of_clients
        revoked = self.admission.reload(policies)
        self.router.bar([registration for registration, _ in revoked])
        for registration, why in revoked:
            self.registry.revoke(registration, why)
            _logger.warn(
                "Revoked the registration of server id {server} for privacy policy {policy}: {why}; packets that it had"
                " and hasn't answered: {in_flight}",
                event="registration-revoked",
                server=registration.server_id,
                policy=registration.policy,
                why=why,
                in_flight=self.router.upstreams.in_flight_at(registration),
            )
        self.router.reload(policies)
        self.registry.reconsider()
        for client in self.clients:
            if isinstance(client, ProxyProtocol):
                client.policies_changed()

    def opened(self, client: Connection) -> None:
        """A connection was made."""
        self.counters.accepted += 1
        self.clients.add(client)
        if client.may_be_client:
            self.count_client(1)
        else:
            self._server_count += 1

    def closed(self, client: Connection, *, is_client: bool) -> None:
        """A connection was lost."""
        self.clients.discard(client)
        if is_client:
            self.count_client(-1)
        elif not client.may_be_client:
            self._server_count -= 1
        if not self.clients:
            _fire(self._closed)

    def count_client(self, by: int) -> None:
        """So many clients more: accept connections, or leave them in the backlog."""
        self._client_count += by
        if self._client_count >= self.limits.max_clients:
            self._full = True
            for port in self.ports:
                port.stopReading()  # type: ignore[attr-defined]  # a TCP port is a FileDescriptor
        elif self._full:
            self._full = False
            for port in self.ports:
                if port.connected and not port.disconnecting:  # type: ignore[attr-defined]
                    port.startReading()  # type: ignore[attr-defined]

    def deliver_soon(self, client: Asker) -> None:
        """Have the client's answers delivered in a turn of their own."""
        if not self._undelivered:
            self.clock.callLater(0, self._deliver)
        self._undelivered[client] = None

    def _deliver(self) -> None:
        undelivered, self._undelivered = self._undelivered, {}
        for client in undelivered:
            client.deliver()

    def sweep(self) -> None:
        """End what is past its time: leases, deadlines, waits; those of clients too that were held back."""
        for owner in self.registry.expire():
            _lease_changed(owner)
        self.router.sweep()
        self.addresses.sweep()
        self.counters.tallies.sweep()
        came, self._came = self._came, self.counters.received
        if not self._drained or self.in_flight:
            return
        if self._came != came and not self._lingered:
            self._lingered = True
        else:
            # Later, because what waits for it stops the sweeps, which one of them can't do.
            self.clock.callLater(0, _fire, self._drained)

    def sweep_idle(self) -> None:
        """Close the connections that have been silent, or over a packet, for too long."""
        now = self.clock.seconds()
        for client in list(self.clients):
            client.close_if_idle(now)
        self.addresses.forget()
        self.log_refusal.sweep()
        self.admission.log_refusal.sweep()

    def open(self) -> None:
        """Take packets."""
        self.submit = self.router.submit

    def set_recording(self, works: bool) -> None:
        """Take packets only while it can be recorded what becomes of them."""
        if not self.is_draining:
            self.submit = self.router.submit if works else self._refuse_unrecorded

    def drain(self) -> Deferred[None]:
        """Refuse every new packet from now on.

        :returns: fires when nothing is in flight any more, which :meth:`sweep` looks at. If something came since it
            looked last, that is one look later, so that what was on its way is refused, and not lost.
        """
        self.submit = self._refuse_shutting_down
        self._lingered = False
        drained: Deferred[None] = Deferred(self._drained.remove)
        self._drained.append(drained)
        return drained

    def _refuse_shutting_down(self, request: Request) -> None:
        request.unserved = self.counters.tallies.unserved(request.policy)
        request.refuse("shutting-down", "no", _STOPPING)

    def _refuse_unrecorded(self, request: Request) -> None:
        request.unserved = self.counters.tallies.unserved(request.policy)
        request.refuse("overloaded", "no", _UNRECORDED)

    def close(self) -> Deferred[None]:
        """Refuse what is in flight, and close every connection when its answers are written.

        :returns: fires when all are closed.
        """
        self.router.stop()
        # Their answers now, while they can be sent.
        self._deliver()
        closed: Deferred[None] = Deferred(self._closed.remove)
        self._closed.append(closed)
        for client in list(self.clients):
            client.close()
        if not self.clients:
            _fire(self._closed)
        return closed

    def abort(self) -> None:
        """Drop the connections that are left."""
        for client in list(self.clients):
            client.abort()

    def _registered(self, registration: Registration) -> None:
        if self.trail is not None:
            # First, because the router may write packets to it at once.
            self.trail.registered(registration)
        self.router.registered(registration, counts=not registration.draining)
        text = f"{registration.host} port {registration.port}"
        self.happened("draining" if registration.draining else "registered", *registration.key, text)

    def _found(self, registration: Registration) -> None:
        _logger.info(
            "Found in the registry: server id {server} ip {host} privacy policy {policy} port {port}",
            event="registration-found",
            server=registration.server_id,
            policy=registration.policy,
            host=registration.host,
            port=registration.port,
        )
        if self.trail is not None:
            self.trail.registered(registration)
        # One that also holds its lease here would be told if it went.
        found = registration.lease is not None and self.registry.claims.own(registration.key) is None
        self.router.registered(registration, up=False, found=found)
        self.happened("found", *registration.key, f"{registration.host} port {registration.port}")

    def _refused(self, registration: Registration, why: str) -> None:
        self.admission.refuse_found(registration, why)

    def _refuses(self, registration: Registration) -> str | None:
        """Why a registration isn't allowed: what is found in a store is held to the same as what is sent."""
        policy, server_id = registration.key
        return self.policies.refuses_server(policy, server_id, registration.peer, registration.token)

    def _let_go(self, registration: Registration) -> None:
        self.registry.let_go(registration)

    def _ended(self, registration: Registration) -> None:
        _logger.info(
            "Registration of server id {server} for privacy policy {policy} ended",
            event="registration-ended",
            server=registration.server_id,
            policy=registration.policy,
        )
        self.router.ended(registration)
        self.happened("ended", *registration.key, "")


def say_running(port: IListeningPort) -> None:
    """Tell the log where clients come in (docs/protocol.rst, What the terminals show)."""
    _logger.info("Running the reverse proxy on port {port}", event="listening", port=_shown(port))


def say_registering(port: IListeningPort) -> None:
    """Tell the log where servers register, where that is elsewhere."""
    _logger.info("Registering servers on port {port}", event="listening-for-servers", port=_shown(port))


def _shown(port: IListeningPort) -> object:
    return getattr(port.getHost(), "port", port.getHost())


def _lease_changed(owner: Hashable) -> None:
    assert isinstance(owner, Registrant)
    owner.lease_changed()


def _conflicted(owner: Hashable, registration: Registration) -> None:
    assert isinstance(owner, Registrant)
    owner.conflicted(registration)


def _at_once(then: Callable[[], object]) -> None:
    then()


def _fire(waiting: list[Deferred[None]]) -> None:
    fired = waiting.copy()
    waiting.clear()
    for deferred in fired:
        deferred.callback(None)
