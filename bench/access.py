"""What an access log costs: the shapes of traffic with one, of all packets and of a share, beside the proxy without."""

from __future__ import annotations

from bench.shapes import SHAPES, Shape, alternate, compare
from bench.stage import RPROXY, RPROXY_ACCESS, RPROXY_SAMPLE, Bench, Layout, open_stage
from bench.tables import Row


def measure(bench: Bench) -> list[Row]:
    """Measure all in each shape, the rounds alternating between them."""
    return [_measure_shape(bench, shape) for shape in SHAPES]


def _measure_shape(bench: Bench, shape: Shape) -> Row:
    contestants = [RPROXY, RPROXY_ACCESS, RPROXY_SAMPLE]
    with open_stage(bench, Layout(), contestants) as stage:
        samples = alternate(
            contestants,
            bench.plan.rounds,
            lambda who: stage.measure(who, bench.plan.seconds, **shape.options),
            lambda line: bench.say(f"access, {shape.name}, {line}"),
        )
    without, logged, sampled = compare(samples)
    return {
        "shape": shape.name,
        "without": without["micros"],
        "with": logged["micros"],
        "more": logged["micros"] - without["micros"],
        "sampled": sampled["micros"],
        "rate_without": without["rate"],
        "rate": logged["rate"],
        "rounds": {"without": without["rounds"], "with": logged["rounds"], "sampled": sampled["rounds"]},
    }
