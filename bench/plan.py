"""How much is measured: seconds, rounds, and the points of the curves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """How much is measured. Times are seconds.

    :ivar rounds: of the shapes, each ``seconds`` for each contestant, one after the other.
    :ivar curve_rounds: the same for each point of a growth curve.
    :ivar payloads: bytes.
    :ivar idle_clients: over so many the memory of one is measured.
    :ivar calm_seconds: how long well-behaved clients are measured before and after the others come.
    :ivar rude_seconds: how long with them.
    :ivar sharings: registrations that another process is to hear of, of each kind.
    :ivar proxies: that share a store, with so many ``registrants`` whose leases are of ``lease`` seconds.
    :ivar registry_rounds: each ``registry_seconds`` of nothing but renewals.
    :ivar deaths: servers whose connections are closed, one after the other.
    """

    rounds: int
    seconds: float
    curve_rounds: int
    curve_seconds: float
    clients: tuple[int, ...]
    policies: tuple[int, ...]
    servers: tuple[int, ...]
    payloads: tuple[int, ...]
    idle_clients: int
    latency_rounds: int
    latency_seconds: float
    calm_seconds: float
    rude_seconds: float
    sharings: int
    proxies: int
    registrants: int
    lease: float
    registry_rounds: int
    registry_seconds: float
    deaths: int


#: Some twenty minutes.
FULL = Plan(
    rounds=5,
    seconds=3,
    curve_rounds=3,
    curve_seconds=2,
    clients=(10, 100, 1000, 5000),
    policies=(1, 10, 100, 1000),
    servers=(1, 10, 100, 500),
    payloads=(100, 1 << 10, 10 << 10, 100 << 10, 1 << 20),
    idle_clients=5000,
    latency_rounds=3,
    latency_seconds=5,
    calm_seconds=4,
    rude_seconds=8,
    sharings=200,
    proxies=10,
    registrants=1000,
    lease=15,
    registry_rounds=3,
    registry_seconds=15,
    deaths=20,
)

#: About two minutes.
QUICK = Plan(
    rounds=1,
    seconds=0.7,
    curve_rounds=1,
    curve_seconds=0.5,
    clients=(100, 2000),
    policies=(1, 100),
    servers=(1, 100),
    payloads=(100, 100 << 10),
    idle_clients=1000,
    latency_rounds=1,
    latency_seconds=1.5,
    calm_seconds=1,
    rude_seconds=2,
    sharings=20,
    proxies=3,
    registrants=60,
    lease=3,
    registry_rounds=1,
    registry_seconds=3,
    deaths=3,
)
