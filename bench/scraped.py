#!/usr/bin/env python3
"""What a scrape keeps a proxy's reactor from all else for: run by scrape.py, in the Python that runs rproxy.

It has the objects of a proxy with so many registered servers, without the sockets, and makes the figures and the
metrics as the proxy does, turn by turn. It prints processor times in seconds, as JSON.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from rproxy import packets
from rproxy.admin.scraping import Scrapes, make_cooperator
from rproxy.control.reporting import Reporter
from rproxy.figures import Figures
from rproxy.limits import Limits
from rproxy.packets import Setup
from rproxy.policies import Peer
from rproxy.process.collecting import THRESHOLD
from rproxy.process.lag import Lag
from rproxy.proxy import ProxyFactory
from rproxy.registry.claims import Claims
from rproxy.stores.replica import Replica

#: Servers of one policy.
EACH = 50
ROUNDS = 10


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


class Turns:
    """A reactor that does nothing else."""

    seconds = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self._calls: list[Callable[[], object]] = []

    def callLater(self, delay: float, call: Callable[[], object]) -> None:
        """Call it in the next turn."""
        self._calls.append(call)

    def run(self) -> list[float]:
        """Make turns until there is nothing to do, and return how long each took."""
        times = []
        while self._calls:
            times.append(timed(self._calls.pop()))
        return times


class Shown:
    """What shows the figures."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def figures(self) -> Deferred[Figures]:
        """See :class:`rproxy.control.Control`."""
        return succeed(self._reporter.figures())


def timed(call: Callable[[], object]) -> float:
    """How long it took."""
    before = time.process_time()
    call()
    return time.process_time() - before


def main() -> None:
    """Measure, and print."""
    turns = Turns()
    reporter = make_reporter(int(sys.argv[1]))
    # As a proxy's collector is.
    gc.set_threshold(*THRESHOLD)
    gc.collect()
    gc.freeze()
    scrapes = Scrapes(cast(Any, Shown(reporter)), make_cooperator(cast(Any, turns)))
    texts: list[bytes] = []
    rounds = []
    for _ in range(ROUNDS):
        texts.clear()
        # The figures are made in the turn in which they are asked for.
        first = timed(lambda: scrapes.text().addCallback(texts.append))
        rounds.append((first, turns.run()))
    report = {
        "figures": median(first for first, _ in rounds),
        "metrics": median(sum(further) for _, further in rounds),
        "turn": median(max(further) for _, further in rounds),
        "longest": max(max(first, *further) for first, further in rounds),
        "bytes": len(texts[0]),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
