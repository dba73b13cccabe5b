"""What becomes of well-behaved clients, and of rproxy's memory, while others ask for more than they give.

Only what has to hold on any machine is judged: that every answer is right, and how much memory rproxy takes at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bench.gauges import parse_report, peak_memory
from bench.processes import PATIENCE
from bench.stage import RPROXY, Bench, Layout, Stage, max_clients, open_stage
from bench.tables import Row

#: The well-behaved.
CLIENTS = 20
#: Messages a second, of all of them together.
RATE = 1000


@dataclass(frozen=True)
class Others:
    """Clients and servers that ask for more than they give.

    :ivar options: those of ``rude.c``.
    :ivar prepare: what else there is.
    """

    name: str
    who: str
    options: dict[str, int] = field(default_factory=dict)
    prepare: Callable[[Stage], object] = lambda stage: None

    def measure(self, bench: Bench) -> list[Row]:
        """Measure the well-behaved before the others come, with them, and after."""
        plan = bench.plan
        options = {**self.options}
        if "connections" in options:
            options["connections"] = min(options["connections"], max_clients() - CLIENTS)
        with open_stage(bench, Layout(), [RPROXY]) as stage:
            self.prepare(stage)
            before = stage.measure(RPROXY, plan.calm_seconds, connections=CLIENTS, rate=RATE)
            rude = stage.start_rude(self.name, seconds=plan.rude_seconds + PATIENCE, **options)
            during = stage.measure(RPROXY, plan.rude_seconds, connections=CLIENTS, rate=RATE)
            peak = peak_memory(stage.pid(RPROXY))
            rude.terminate()
            did = parse_report(rude.finish(PATIENCE))
            after = stage.measure(RPROXY, plan.calm_seconds, connections=CLIENTS, rate=RATE)
            peak = max(peak, peak_memory(stage.pid(RPROXY)))
        row = {"others": self.who, "peak": peak, "did": did, "clients": CLIENTS, "rate": RATE}
        for name, sample in (("before", before), ("with", during), ("after", after)):
            row |= {f"p50_{name}": sample.p50, f"p99_{name}": sample.p99, f"longest_{name}": sample.longest}
        bench.say(
            f"{self.name}: p99 {before.p99 * 1e3:.1f} ms, then {during.p99 * 1e3:.1f}, then {after.p99 * 1e3:.1f};"
            f" {peak / 2**20:.0f} MiB at most; the others: {did}"
        )
        if peak > bench.memory_bound:
            bench.problems.append(
                f"{self.name}: rproxy took {peak / 2**20:.0f} MiB, and may take {bench.memory_bound / 2**20:.0f} MiB"
            )
        return [row]


def _add_mute_server(stage: Stage) -> None:
    """A server for the third policy that accepts connections and does nothing with them."""
    port = stage.targets[RPROXY].port
    stage.start_servers(f"proxy={port}", "only=2", "first=100", "mute=1", layout=Layout(policies=3, servers=1))


OTHERS = (
    Others("never-reads", "a client sends and never reads", {"connections": 1, "payload": 1024, "policies": 2}),
    Others(
        "hopeless",
        "a server accepts and never answers; 50 clients ask it",
        {"connections": 50, "depth": 16, "payload": 10240, "only": 2},
        _add_mute_server,
    ),
    Others(
        "bytewise",
        "500 clients send 1 MiB packets, the last three quarters a byte at a time",
        {"connections": 500, "head": 1 << 18, "rate": 50000},
    ),
)
