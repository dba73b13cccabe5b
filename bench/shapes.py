"""What a message costs, in three shapes of traffic: beside the peers, round by round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.gauges import Sample
from bench.stage import HAPROXY_HTTP, HAPROXY_TCP, NATS, RPROXY, Bench, Layout, open_stage
from bench.tables import Row


@dataclass(frozen=True)
class Shape:
    """How 50 clients send.

    :ivar options: of ``load.c``.
    :ivar peers: who is measured beside rproxy.
    :ivar routes_each: those of the peers that route each message by its policy in this shape. HAProxy in TCP mode does
        where each message is a connection: it goes by the first packet of that.
    """

    name: str
    options: Mapping[str, int]
    peers: tuple[str, ...]
    routes_each: tuple[str, ...]

    def measure(self, bench: Bench) -> list[Row]:
        """Measure everybody, the rounds alternating between them."""
        contestants = bench.present([RPROXY, *self.peers])
        with open_stage(bench, Layout(), contestants) as stage:
            samples = alternate(
                contestants,
                bench.plan.rounds,
                lambda who: stage.measure(who, bench.plan.seconds, **self.options),
                lambda line: bench.say(f"{self.name}, {line}"),
            )
        rows = compare(samples)
        for row in rows:
            routes = row["who"] == RPROXY or row["who"] in self.routes_each
            row |= {"shape": self.name, "routes_each": "yes" if routes else "no"}
        return rows


SHAPES = (
    Shape("one-shot", {"connections": 50, "one_shot": 1}, (HAPROXY_TCP, HAPROXY_HTTP), (HAPROXY_TCP, HAPROXY_HTTP)),
    Shape("keep-alive", {"connections": 50}, (HAPROXY_TCP, HAPROXY_HTTP, NATS), (HAPROXY_HTTP, NATS)),
    Shape("pipelined", {"connections": 50, "depth": 16}, (HAPROXY_TCP, HAPROXY_HTTP, NATS), (HAPROXY_HTTP, NATS)),
)


def alternate(
    contestants: Sequence[str], rounds: int, measure: Callable[[str], Sample], say: Callable[[str], None]
) -> dict[str, list[Sample]]:
    """Measure each contestant in each round, so that a noisy time is everybody's; every other round runs backwards."""
    samples: dict[str, list[Sample]] = {who: [] for who in contestants}
    for number in range(rounds):
        for who in contestants if number % 2 == 0 else reversed(contestants):
            samples[who].append(measure(who))
        told = ", ".join(f"{who} {samples[who][-1].micros:.1f} µs" for who in contestants)
        say(f"round {number + 1} of {rounds}: {told}")
    return samples


def compare(samples: Mapping[str, Sequence[Sample]]) -> list[Row]:
    """A row for each contestant: medians over the rounds, and the median of the ratios of the same round."""
    ours = samples[RPROXY]
    return [
        {
            "who": who,
            "micros": median(sample.micros for sample in theirs),
            "rate": median(sample.rate for sample in theirs),
            "ratio": None
            if who == RPROXY
            else median(our.micros / their.micros for our, their in zip(ours, theirs, strict=True)),
            "rounds": [sample.micros for sample in theirs],
            "messages": sum(sample.done for sample in theirs),
        }
        for who, theirs in samples.items()
    ]


def check_limits(rows: Sequence[Row], limits: Mapping[str, float]) -> list[str]:
    """Which shapes cost more than they may, as a multiple of what the peer needs that they are compared to."""
    against = {"one-shot": HAPROXY_TCP, "keep-alive": HAPROXY_HTTP, "pipelined": HAPROXY_HTTP}
    problems = []
    for shape, limit in limits.items():
        found = [row["ratio"] for row in rows if (row["shape"], row["who"]) == (shape, against[shape])]
        if not found:
            problems.append(f"{shape}: there is a limit of {limit:g}, and {against[shape]} wasn't measured")
        elif found[0] > limit:
            problems.append(f"{shape}: {found[0]:.2f} times what {against[shape]} needs, which is more than {limit:g}")
    return problems
