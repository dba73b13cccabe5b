"""The text that Prometheus reads, made of tables of metrics by its own library, a piece at a time.

The library takes some microseconds a line (docs/performance.rst), and nothing else happens meanwhile. So a family of
metrics is given to it in pieces of :data:`ROWS` rows, and whoever wants the text decides when to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any

from attrs import frozen
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from rproxy.figures.tallies import BOUNDS, Times, count_of

#: What the text is.
CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
#: Of a piece, at most. A row of a histogram is 17 lines, of most others one.
ROWS = 32

#: Values of labels, in the order of their names, as :func:`label` makes them.
Labels = tuple[str, ...]
#: Parts of the figures of one kind, such as all servers, each with its labels. They are made as they are read: all at
#: once would take long.
Rows = Iterable[tuple[Labels, Any]]
#: What a metric says of one part: further labels, and what ``add_metric`` of its family takes beside labels.
Values = Callable[[Any], Iterable[tuple[Labels, tuple[Any, ...]]]]

_FAMILIES: Mapping[str, type[Any]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "summary": SummaryMetricFamily,
}


@frozen
class Metric:
    """One metric.

    :ivar kind: ``counter``, ``gauge``, ``histogram`` or ``summary``.
    :ivar labels: names of labels beside those of its part.
    """

    name: str
    kind: str
    help: str
    values: Values
    labels: tuple[str, ...] = ()


@frozen
class Part:
    """What is shown of parts of the figures of one kind.

    :ivar labels: the names of the labels that tell them apart.
    :ivar rows: finds them in the figures.
    """

    labels: tuple[str, ...]
    rows: Callable[[Any], Rows]
    metrics: tuple[Metric, ...]


def render(parts: Iterable[Part], figures: object) -> Iterator[bytes]:
    """The text in pieces, each made when it is asked for.

    :param figures: what the parts are parts of; they mustn't change meanwhile.
    """
    for part in parts:
        for metric in part.metrics:
            yield (head := _text(part, metric, ()))
            rows = iter(part.rows(figures))
            while piece := [*islice(rows, ROWS)]:
                yield _text(part, metric, piece).removeprefix(head)


@frozen
class _One(Collector):
    """What the library makes a text of."""

    family: Any

    def collect(self) -> Iterable[Any]:
        return (self.family,)


def _text(part: Part, metric: Metric, rows: Sequence[tuple[Labels, Any]]) -> bytes:
    family = _FAMILIES[metric.kind](metric.name, metric.help, labels=(*part.labels, *metric.labels))
    for labels, row in rows:
        for more, value in metric.values(row):
            family.add_metric((*labels, *more), *value)
    return generate_latest(_One(family))


def label(*values: object) -> Labels:
    """Values of labels. A lone surrogate can't be written in UTF-8, and the library would fail."""
    return tuple(str(value).encode("utf-8", "replace").decode() for value in values)


# What a metric may be made of.


def one(get: Callable[[Any], float | None]) -> Values:
    """A number; None where there is none."""
    return lambda row: () if (number := get(row)) is None else (((), (number,)),)


def by(get: Callable[[Any], Mapping[str, float]]) -> Values:
    """Numbers by the values of one more label."""
    return lambda row: [(label(value), (number,)) for value, number in get(row).items()]


def told(get: Callable[[Any], Labels]) -> Values:
    """Always 1; what is told is in labels."""
    return lambda row: ((get(row), (1,)),)


def summary(get: Callable[[Any], Times]) -> Values:
    """How many times there are, and their sum."""
    return lambda row: (((), (count_of(times := get(row)), times[-1])),)


def histogram(get: Callable[[Any], Times]) -> Values:
    """How many times are within each bound, and the sum of all."""

    def values(row: object) -> Iterable[tuple[Labels, tuple[Any, ...]]]:
        times = get(row)
        return (((), ([*zip(_WITHIN, accumulate(times[:-1]), strict=True)], times[-1])),)

    return values


_WITHIN = [*map(str, BOUNDS), "+Inf"]
