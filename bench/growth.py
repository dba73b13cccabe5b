"""How the cost of a message grows with what there is: clients, policies, servers, bytes. Keep-alive, one in flight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.plan import Plan
from bench.shapes import alternate, compare
from bench.stage import HAPROXY_HTTP, RPROXY, Bench, Layout, max_clients, open_stage
from bench.tables import Row, count, size

#: Clients that send.
ACTIVE = 50


@dataclass(frozen=True)
class Curve:
    """Something that there can be more of.

    :ivar points: how much of it, according to the plan.
    :ivar layout: what there is at a point.
    :ivar options: those of ``load.c`` there.
    """

    name: str
    points: Callable[[Plan], tuple[int, ...]]
    layout: Callable[[int], Layout] = lambda point: Layout()
    options: Callable[[int], dict[str, int]] = lambda point: {"connections": ACTIVE}
    show: Callable[[int], str] = count

    def measure(self, bench: Bench) -> list[Row]:
        """Measure rproxy and HAProxy at each point."""
        rows = []
        for point in self.points(bench.plan):
            if self.name == "clients" and point > max_clients():
                bench.note(
                    f"{self.name}: {point} is left out, as the limit of open files leaves room for {max_clients()}"
                )
                continue
            rows += self._measure_point(bench, point)
        return rows

    def _measure_point(self, bench: Bench, point: int) -> list[Row]:
        contestants = bench.present([RPROXY, HAPROXY_HTTP])
        with open_stage(bench, self.layout(point), contestants) as stage:
            samples = alternate(
                contestants,
                bench.plan.curve_rounds,
                lambda who: stage.measure(who, bench.plan.curve_seconds, **self.options(point)),
                lambda line: bench.say(f"{self.name} {self.show(point)}, {line}"),
            )
        rows = compare(samples)
        for row in rows:
            row["point"] = point
            if self.name == "payloads":
                row["nanos_per_byte"] = row["micros"] * 1e3 / point
        return rows


def _clients(point: int) -> dict[str, int]:
    active = min(ACTIVE, point)
    return {"connections": active, "idle": point - active, "used": 1}


CURVES = (
    Curve("clients", lambda plan: plan.clients, options=_clients),
    Curve("policies", lambda plan: plan.policies, lambda point: Layout(policies=point)),
    Curve("servers", lambda plan: plan.servers, lambda point: Layout(servers=point)),
    Curve("payloads", lambda plan: plan.payloads, lambda point: Layout(payload=point), show=size),
)
