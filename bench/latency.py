"""How long answers take at half the rate that rproxy can take, where messages come by the clock."""

from __future__ import annotations

from statistics import median

from bench.shapes import alternate
from bench.stage import HAPROXY_HTTP, NO_PROXY, RPROXY, Bench, Layout, open_stage
from bench.tables import Row

CLIENTS = 50


def measure(bench: Bench) -> list[Row]:
    """Measure rproxy, at the same rate HAProxy, and without any of them: what is seen there too, they don't cause."""
    contestants = bench.present([RPROXY, HAPROXY_HTTP, NO_PROXY])
    with open_stage(bench, Layout(), contestants) as stage:
        most = stage.measure(RPROXY, bench.plan.seconds, connections=CLIENTS).rate
        bench.say(f"latency, {CLIENTS} clients that send as soon as they have an answer: {most:.0f} messages/s")
        samples = alternate(
            contestants,
            bench.plan.latency_rounds,
            lambda who: stage.measure(who, bench.plan.latency_seconds, connections=CLIENTS, rate=round(most / 2)),
            lambda line: bench.say(f"latency, {line}"),
        )
    return [
        {
            "who": who,
            "rate": median(sample.rate for sample in theirs),
            **{name: median(getattr(sample, name) for sample in theirs) for name in ("p50", "p90", "p99", "p999")},
            "longest": max(sample.longest for sample in theirs),
            "busy": None if who == NO_PROXY else median(sample.cpu_seconds / sample.seconds for sample in theirs),
            "most": most,
        }
        for who, theirs in samples.items()
    ]
