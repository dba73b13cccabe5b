"""The proxy: its registry, its router, and every connection of its clients and registering servers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from rproxy.addresses import Addresses, ClientAddress
from rproxy.admission import Admission
from rproxy.audit.trail import Trail
from rproxy.downstream import ProxyProtocol
from rproxy.downstream.hub import Connection
from rproxy.downstream.registering import Registrant
from rproxy.figures.counters import Counters
from rproxy.figures.happenings import Happened
from rproxy.gate import Gate
from rproxy.limits import Limits
from rproxy.logs.packets import ProxyLog
from rproxy.logs.quiet import QuietLog
from rproxy.policies import EVERYTHING, Policies
from rproxy.proxy.doors import Doors
from rproxy.proxy.enrolling import Enrolment
from rproxy.registry import Registry
from rproxy.registry.claims import Claims
from rproxy.registry.records import RecordKey
from rproxy.registry.registration import Registration
from rproxy.registry.standing import Observer
from rproxy.request import Asker, Endings, Request
from rproxy.routing import Router
from rproxy.stores.replica import Replica
from rproxy.upstream import Connect

_logger = Logger()


class Entrance(Factory):
    """Where peers of one kind come in."""

    noisy = False

    def __init__(self, proxy: ProxyFactory, kind: type[ProxyProtocol]) -> None:
        self._proxy = proxy
        self._kind = kind

    def buildProtocol(self, addr: IAddress | None) -> ProxyProtocol | None:
        if not self._proxy.doors.has_room_for(self._kind):
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
        #: See :class:`rproxy.downstream.hub.Hub`.
        self.when_told: Callable[[Callable[[], object]], None] = _at_once
        self.trail = trail
        #: Who records what becomes of packets.
        self.endings: Sequence[Endings] = () if trail is None else (trail,)
        self.clock = clock
        self.seconds = clock.seconds
        self.log = log
        self.counters = Counters()
        self.router = Router(limits, self.counters, clock, connect, random, log, policies, trail)
        self._enrolment = Enrolment(self.router, claims, trail)
        self._observer = Observer(
            registered=self._enrolment.registered,
            ended=self._enrolment.ended,
            found=self._enrolment.found,
            seen=self.router.upstreams.seen,
            displaced=_lease_changed,
            conflicted=_conflicted,
            hold=self.router.upstreams.hold,
        )
        if trail is not None:
            self._observer.over = trail.unregistered
        self.registry = Registry(
            clock.seconds, self._observer, claims, limits.registrations, limits.registrations_per_host
        )
        self.admission = Admission(policies, self.registry, self.counters, clock.seconds, trail)
        self._observer.refuses, self._observer.refused = self.admission.refuses, self.admission.refuse_found
        self.router.let_go = self.registry.let_go
        self.addresses = Addresses(limits, clock.seconds)
        #: Says why a connection was refused.
        self.log_refusal = QuietLog(clock.seconds, _logger.warn, "refused connections")
        #: Whether there is a policy that not everybody may ask for.
        self.asks_clients = policies.ask_something_of_clients
        self.gate = Gate(self.router.submit, self.counters)
        self.doors = Doors(limits)
        self.count_client: Callable[[int], None] = self.doors.count_client
        #: Clients that have an answer which is delivered when what is being done is finished.
        self._undelivered: dict[Asker, None] = {}
        #: What was received until the last sweep, and whether a drain has waited for what may still come.
        self._came = 0
        self._lingered = False
        #: Fire when nothing is in flight any more, and when no connection is left.
        self._drained: list[Deferred[None]] = []
        self._closed: list[Deferred[None]] = []
        self.clients: set[Connection] = set()

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
        self._enrolment.happened = self.router.happened = self.admission.happened = happened

    def record(self, endings: Endings) -> None:
        """Have what becomes of packets recorded there too, of connections that come from now on."""
        self.endings = self.router.callers.endings = (*self.endings, endings)

    def revoke(self, registration: Registration) -> list[RecordKey]:
        """End a registration, although the policies allow it; see :meth:`rproxy.registry.Registry.revoke`."""
        return self.registry.revoke(registration, "by an operator")

    def buildProtocol(self, addr: IAddress | None) -> ProxyProtocol:
        return ProxyProtocol(self, self.address_of(addr))

    def address_of(self, addr: IAddress | None) -> ClientAddress:
        """What a connection from there counts for."""
        return self.addresses.of(getattr(addr, "host", None))

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
            self.doors.count_client(1)
        else:
            self.doors.count_server(1)

    def closed(self, client: Connection, *, is_client: bool) -> None:
        """A connection was lost."""
        self.clients.discard(client)
        if is_client:
            self.doors.count_client(-1)
        elif not client.may_be_client:
            self.doors.count_server(-1)
        if not self.clients:
            _fire(self._closed)

    def deliver_soon(self, client: Asker) -> None:
        """Have the client's answers delivered in a turn of their own."""
        if not self._undelivered:
            self.clock.callLater(0, self._deliver)
        self._undelivered[client] = None

    def _deliver(self) -> None:
        undelivered, self._undelivered = self._undelivered, {}
        now = self.clock.seconds()
        for client in undelivered:
            client.deliver(now)

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

    def drain(self) -> Deferred[None]:
        """Refuse every new packet from now on.

        :returns: fires when nothing is in flight any more, which :meth:`sweep` looks at. If something came since it
            looked last, that is one look later, so that what was on its way is refused, and not lost.
        """
        self.gate.shut()
        self._lingered = False
        drained: Deferred[None] = Deferred(self._drained.remove)
        self._drained.append(drained)
        return drained

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
