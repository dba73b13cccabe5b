"""What one process shows of itself, and what it says would become of a packet."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

from attrs import define, field, frozen

from rproxy import __version__
from rproxy.addresses import ClientAddress
from rproxy.figures import (
    MOST_CLIENTS,
    ClientFigures,
    Figures,
    PolicyFigures,
    ProcessFigures,
    ServerFigures,
    StoreFigures,
)
from rproxy.figures.tallies import OTHERS, PolicyTally, ServerTally, Tallies, Times, add_times, count_of
from rproxy.health import FULL_SHARE
from rproxy.policies import Peer
from rproxy.process.lag import Lag
from rproxy.proxy import ProxyFactory
from rproxy.registry.registration import Key
from rproxy.rotation import Member
from rproxy.routes import Route
from rproxy.routing import upstream_of
from rproxy.stores.replica import Replica
from rproxy.upstream import Upstream


@frozen
class Verdict:
    """What would become of a packet at one server now.

    :ivar refusal: why it wouldn't be given the packet; None if it would, when its turn comes.
    """

    server_id: str
    host: str
    port: int
    refusal: str | None


@frozen
class Explanation:
    """What would become of a packet now.

    :ivar refusal: why it would be refused, or would wait, whatever the servers; None if it is for them to take.
    :ivar servers: in the order of their registration.
    """

    policy: str
    refusal: str | None
    servers: list[Verdict]


class Reporter:
    """Makes the figures of one process.

    :param number: of the worker, from 1; 0 where there are no workers.
    """

    def __init__(self, factory: ProxyFactory, replica: Replica, lag: Lag, number: int, store: str) -> None:
        self._factory = factory
        self._replica = replica
        self._lag = lag
        self._number = number
        self._store = store
        self._seconds: Callable[[], float] = factory.seconds
        self._began = self._seconds()

    def figures(self) -> Figures:
        """What there is to show now."""
        factory = self._factory
        addresses, heaviest = factory.addresses.heaviest(MOST_CLIENTS)
        return Figures(
            version=__version__,
            state="draining" if factory.gate.is_shut else "refusing" if factory.gate.refusal else "ready",
            counters=factory.counters.snapshot(),
            in_flight=factory.counters.in_flight,
            policies=self._policies(),
            processes=[self._process()],
            client_addresses=addresses,
            clients=[_client(text, address) for text, address in heaviest],
        )

    def explain(self, policy: str, client: Peer) -> Explanation:
        """What would become of a packet of this policy from this client."""
        refusal = self._factory.policies.refuses_client(policy, client)
        route = self._factory.router.routes.get(policy)
        if self._factory.gate.refusal is not None:
            refusal = self._factory.gate.refusal
        elif refusal is None and (route is None or not len(route.rotation)):
            refusal = f"no server serves policy {policy}"
        elif refusal is None and route is not None:
            refusal = self._factory.router.quotas.refusal(policy, route.policy)
            if refusal is None and route.line.packets:
                refusal = f"{route.line.packets} packets of it wait for a server already"
        members = [] if route is None else _in_order(route)
        return Explanation(policy, refusal, [_judge(member) for member in members])

    def _process(self) -> ProcessFigures:
        now = self._seconds()
        replica = self._replica
        return ProcessFigures(
            number=self._number,
            pid=os.getpid(),
            uptime=now - self._began,
            connections=len(self._factory.clients),
            open_files=_count_open_files(),
            max_open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            lag=self._lag.last,
            max_lag=self._lag.latest,
            store=StoreFigures(
                name=self._store,
                away=replica.away,
                away_for=None if replica.away_since is None else now - replica.away_since,
                processes=replica.processes,
            ),
        )

    def _policies(self) -> list[PolicyFigures]:
        factory = self._factory
        tallies = factory.counters.tallies
        leases = {(policy, server): left for (policy, server, _), left in factory.registry.leases.items()}
        look = _Look(self._seconds(), leases, tallies)
        policies = {name: _policy(name, tally) for name, tally in tallies.policies.items()}
        times: dict[str, list[Times]] = {}
        for (name, _), tally in tallies.servers.items():
            times.setdefault(name, []).append(tally.total_times.sort())
        for name, all_times in times.items():
            policies[name].total_times = add_times(all_times)
            policies[name].acked = count_of(policies[name].total_times)
        for route in factory.router.routes.values():
            shown = policies[route.tally.name]
            # Several policies are shown as one where there are too many.
            shown.description = "" if shown.name == OTHERS else route.policy.description
            shown.waiting += route.line.packets
            shown.servers += [look.server(member) for member in _in_order(route)]
        for request in factory.pending():
            if request.tally is not None:
                policies[request.tally.name].in_flight += 1
        for shown in policies.values():
            # Each packet is counted where it goes out alone, so this costs it nothing.
            shown.received = shown.acked + sum(shown.refused.values()) + shown.client_gone + shown.in_flight
        return list(policies.values())


def _count_open_files() -> int:
    folder = Path("/proc/self/fd")
    # Linux 6.2 and newer say it without listing them; else without the one that the folder is read by.
    return folder.stat().st_size or sum(1 for _ in folder.iterdir()) - 1


def _client(text: str, address: ClientAddress) -> ClientFigures:
    return ClientFigures(
        address=text,
        connections=address.connections,
        unanswered_bytes=address.bytes,
        held_back=len(address.waiting),
        refused=address.refused,
        leases=address.leases,
    )


def _policy(name: str, tally: PolicyTally) -> PolicyFigures:
    return PolicyFigures(
        name=name,
        refused=dict(tally.refused),
        client_gone=tally.client_gone,
        retried=tally.retried,
    )


def _in_order(route: Route) -> list[Member]:
    return sorted(route.rotation.members, key=lambda member: member.order)


@define
class _Look:
    """A look at all servers at a time."""

    now: float
    leases: dict[Key, float]
    tallies: Tallies
    #: Of each server address, what is looked for once for all policies that are served there.
    _in_flight: dict[Upstream, dict[str, int]] = field(factory=dict, init=False)

    def server(self, member: Member) -> ServerFigures:
        registration, tally = member.registration, member.tally
        if not self.tallies.has_to_itself(tally, registration.server_id):
            # What is counted for several servers is in their policy's figures; here it would be shown for each of them.
            tally = ServerTally(tally.policy)
        upstream = upstream_of(member)
        refusal = upstream.refusal(member)
        return ServerFigures(
            policy=registration.policy,
            id=registration.server_id,
            host=registration.host,
            port=registration.port,
            states={_state(member): 1},
            reasons={} if refusal is None else {refusal: 1},
            weight=registration.weight,
            share=upstream.share / FULL_SHARE,
            pipeline=registration.pipeline,
            connections=upstream.connections,
            in_flight=self._in_flight_of(upstream, registration.policy),
            lease_left=self.leases.get(registration.key),
            registrations=tally.registrations,
            acked=count_of(tally.total_times.sort()),
            lost=tally.lost,
            downs=tally.downs,
            down_ago=None if tally.down_at is None else self.now - tally.down_at,
            down_why=tally.down_why,
            total_times=list(tally.total_times.sort()),
            times=list(tally.times.sort()),
        )

    def _in_flight_of(self, upstream: Upstream, policy: str) -> int:
        in_flight = self._in_flight.get(upstream)
        if in_flight is None:
            in_flight = self._in_flight[upstream] = upstream.in_flight
        return in_flight.get(policy, 0)


def _state(member: Member) -> str:
    upstream = upstream_of(member)
    if not member.live:
        return "draining"
    if not upstream.health.up:
        return "down"
    return "held" if upstream.held else "up"


def _judge(member: Member) -> Verdict:
    registration = member.registration
    refusal = upstream_of(member).refusal(member)
    return Verdict(registration.server_id, registration.host, registration.port, refusal)
