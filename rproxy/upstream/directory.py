"""All server addresses that packets go to, or went to and that still have connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.interfaces import IReactorTime

from rproxy.audit.trail import Trail
from rproxy.figures.counters import Counters
from rproxy.health import Health
from rproxy.limits import Limits
from rproxy.logs.packets import ProxyLog
from rproxy.registry.registration import Address, Registration
from rproxy.upstream import Connect, Owner, Upstream


class Upstreams:
    """The one :class:`Upstream` of each address, and of each way to connect to it.

    :param connect: how to reach an address, by TLS or not.
    :param random: numbers from 0 to 1, for jitter.
    :param owner: where their packets come from.
    """

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        clock: IReactorTime,
        connect: Connect,
        random: Callable[[], float],
        owner: Owner,
        log: ProxyLog | None,
        trail: Trail | None,
    ) -> None:
        self._limits = limits
        self._counters = counters
        self._clock = clock
        self._connect = connect
        self._random = random
        self._owner = owner
        self._log = log
        self._trail = trail
        self._sharers = 1
        #: By where they are, and whether they are connected to by TLS.
        self._known: dict[tuple[Address, bool], Upstream] = {}

    def get(self, address: Address, by_tls: bool) -> Upstream | None:
        """The one there, if it is known."""
        return self._known.get((address, by_tls))

    def reach(self, address: Address, by_tls: bool, *, up: bool) -> Upstream:
        """The one there.

        :param up: whether to take it for up, where nothing is known of it.
        """
        upstream = self._known.get((address, by_tls))
        if upstream is None:
            upstream = self._known[address, by_tls] = self._make(address, by_tls, up=up)
        return upstream

    def _make(self, address: Address, by_tls: bool, *, up: bool) -> Upstream:
        limits = self._limits
        return Upstream(
            address,
            self._connect(address, by_tls),
            Health(self._random, limits.max_fails, limits.max_timeouts, limits.slow_start, up=up),
            limits,
            self._counters,
            self._clock,
            self._owner,
            self._log,
            self._trail,
            self._sharers,
        )

    def of(self, registration: Registration) -> list[Upstream]:
        """Those at a server's address: of the old way to connect to it too, while that has something to finish."""
        place = registration.address
        return [each for by_tls in (False, True) if (each := self._known.get((place, by_tls))) is not None]

    def in_touch(self) -> None:
        """The other processes are heard of again: servers that nobody could confirm may be there."""
        for upstream in list(self._known.values()):
            upstream.expect()

    def seen(self, registration: Registration) -> None:
        """A server that is registered said again that it is there, to another process."""
        for upstream in self.of(registration):
            upstream.expect()

    def probe(self, registration: Registration) -> None:
        """Find out whether a server is there."""
        for upstream in self.of(registration):
            upstream.probe()

    def is_down(self, registration: Registration) -> bool:
        """Whether a server is down, or nobody's."""
        return not any(upstream.health.up for upstream in self.of(registration))

    def in_flight_at(self, registration: Registration) -> int:
        """How many packets a server has, under this registration's policy, that it hasn't answered."""
        return sum(upstream.in_flight.get(registration.policy, 0) for upstream in self.of(registration))

    def share_with(self, sharers: int) -> None:
        """So many proxies connect to the same servers."""
        if sharers != self._sharers:
            self._sharers = sharers
            for upstream in self._known.values():
                upstream.share_with(sharers)

    def hold(self, registrations: Sequence[Registration]) -> list[Registration]:
        """Serve these only over connections that are there already, each until it loses one.

        :returns: those for which that is possible. The others must end now.
        """
        return [
            registration
            for registration in registrations
            if any(
                upstream.held or upstream.hold(registrations)
                for upstream in self.of(registration)
                if upstream.members.serve(registration)
            )
        ]

    def sweep(self, now: float) -> None:
        """End what is past its deadline, and forget those that nothing is left of."""
        for place, upstream in list(self._known.items()):
            upstream.sweep(now)
            if upstream.idle:
                del self._known[place]

    def stop(self) -> None:
        """Refuse what is there, and let go of every connection."""
        for upstream in self._known.values():
            upstream.stop()
