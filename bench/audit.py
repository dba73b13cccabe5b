"""What an audit trail costs: the shapes of traffic with one, beside the same proxy without."""

from __future__ import annotations

from bench.shapes import SHAPES, Shape, alternate, compare
from bench.stage import RPROXY, RPROXY_AUDIT, Bench, Layout, open_stage
from bench.tables import Row


def measure(bench: Bench) -> list[Row]:
    """Measure both in each shape, the rounds alternating between them."""
    return [_measure_shape(bench, shape) for shape in SHAPES]


def _measure_shape(bench: Bench, shape: Shape) -> Row:
    contestants = [RPROXY, RPROXY_AUDIT]
    with open_stage(bench, Layout(), contestants) as stage:
        samples = alternate(
            contestants,
            bench.plan.rounds,
            lambda who: stage.measure(who, bench.plan.seconds, **shape.options),
            lambda line: bench.say(f"audit, {shape.name}, {line}"),
        )
    without, recorded = compare(samples)
    return {
        "shape": shape.name,
        "without": without["micros"],
        "with": recorded["micros"],
        "more": recorded["micros"] - without["micros"],
        "rate_without": without["rate"],
        "rate": recorded["rate"],
        "rounds": {"without": without["rounds"], "with": recorded["rounds"]},
    }
