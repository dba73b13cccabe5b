"""What a scrape of the metrics takes, and for how long at a time it keeps rproxy from all else."""

from __future__ import annotations

from pathlib import Path

from bench.building import SOURCES
from bench.gauges import parse_report
from bench.processes import PATIENCE, Children
from bench.stage import ROOT, Bench
from bench.tables import Row

#: Registered servers.
POINTS = (10, 100, 500, 5_000, 10_000)


def measure(bench: Bench) -> list[Row]:
    """Measure it with more and more servers."""
    return [measure_point(bench, servers) for servers in POINTS]


def measure_point(bench: Bench, servers: int) -> Row:
    """Measure it with so many."""
    env = {} if bench.installed else {"PYTHONPATH": str(ROOT)}
    with Children() as children:
        # Without this folder in the path, where rproxy is the one that is installed.
        argv: list[str | Path] = [bench.python, "-P", SOURCES / "scraped.py", str(servers)]
        report = parse_report(children.start("the scrape", argv, env).finish(PATIENCE))
    bench.say(f"scrape, {servers} servers: {report['longest'] * 1e3:.1f} ms at a time")
    return {"servers": servers, **report}
