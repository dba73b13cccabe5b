#!/usr/bin/env python3
"""What a scrape keeps a proxy's reactor from all else for: run by scrape.py, in the Python that runs rproxy.

It has the objects of a proxy with so many registered servers, without the sockets, and makes the figures and the
metrics as the proxy does. It prints processor times in seconds, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from rproxy import packets
from rproxy.admin.metrics import make_metrics
from rproxy.claims import Claims
from rproxy.lag import Lag
from rproxy.limits import Limits
from rproxy.packets import Setup
from rproxy.policies import Peer
from rproxy.proxy import ProxyFactory
from rproxy.replica import Replica
from rproxy.reporting import Reporter

#: Servers of one policy.
EACH = 50
ROUNDS = 30


class Silent:
    """A store, or a server, that never says anything."""

    def connect(self, factory: object) -> Deferred[Any]:
        """Connect to it."""
        return Deferred()


def _nothing(*_: object) -> Any:
    """Do nothing."""


def make_reporter(servers: int) -> Reporter:
    """A proxy with so many servers, each of which has done something."""
    clock = cast(Any, Clock())
    silent = cast(Any, Silent())
    factory = ProxyFactory(Limits(), clock, lambda address, by_tls: silent, lambda: 0.5, Claims("here", clock.seconds))
    for number in range(servers):
        policy = f"policy-{number // EACH}"
        setup = packets.decode(packets.setup(f"server-{number}", policy, 5000, lease=60.0, pipeline=16))
        assert isinstance(setup, Setup)
        factory.registry.register(setup, Peer(f"10.0.{number // 250}.{number % 250}"), object())
    for tally in factory.counters.tallies.servers.values():
        tally.policy.refused["timeout"] += 1
        tally.total_times.noted.append(0.0123456789)
        tally.times.noted.append(0.0123456789)
    replica = Replica(silent, factory.registry, clock, _nothing, _nothing, _nothing, lambda: 0.5)
    return Reporter(factory, replica, Lag(clock), 0, "memory")


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long it took, and what it returned."""
    before = time.process_time()
    result = call()
    return time.process_time() - before, result


def main() -> None:
    """Measure, and print."""
    reporter = make_reporter(int(sys.argv[1]))
    rounds = []
    for _ in range(ROUNDS):
        first, figures = timed(reporter.figures)
        second, text = timed(lambda figures=figures: make_metrics(figures))  # type: ignore[misc]  # it is called at once
        rounds.append((first, second))
    report = {
        "figures": median(first for first, _ in rounds),
        "metrics": median(second for _, second in rounds),
        "longest": max(first + second for first, second in rounds),
        "bytes": len(text),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
