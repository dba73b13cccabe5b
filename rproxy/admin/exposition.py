"""The text that Prometheus reads, format version 0.0.4, made of tables of metrics.

It is written here, line by line, because that takes a tenth of the time that Prometheus' own library takes for it
(docs/performance.rst), and nothing else may happen meanwhile. The tests read it by that library's parser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from attrs import frozen

from rproxy.tallies import BOUNDS, Times, count_of

#: What the text is.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: Parts of the figures of one kind, such as all servers, each with its labels as :func:`label` makes them.
Rows = Sequence[tuple[str, Any]]
#: Makes a metric's lines, given its name.
Lines = Callable[[str, Rows], Iterable[str]]


@frozen
class Metric:
    """One metric.

    :ivar kind: ``counter``, ``gauge``, ``histogram`` or ``summary``.
    :ivar labels: names of labels beside those of its part.
    """

    name: str
    kind: str
    help: str
    lines: Lines
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


def render(parts: Iterable[Part], figures: object) -> bytes:
    """The text.

    :param figures: what the parts are parts of.
    """
    # A lone surrogate can't be written in UTF-8.
    return "".join(_lines(parts, figures)).encode("utf-8", "replace")


def _lines(parts: Iterable[Part], figures: object) -> Iterator[str]:
    for part in parts:
        rows = part.rows(figures)
        for metric in part.metrics:
            yield f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n"
            yield from metric.lines(metric.name, rows)


def label(**values: object) -> str:
    """Labels as they stand between the braces, whatever their values are."""
    return ",".join(f'{name}="{_escape(str(value))}"' for name, value in values.items())


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


# What a metric may be made of.


def one(get: Callable[[Any], float | None]) -> Lines:
    """A number; None where there is none."""
    return lambda name, rows: [
        f"{name}{{{labels}}} {number}\n" for labels, row in rows if (number := get(row)) is not None
    ]


def by(get: Callable[[Any], Mapping[str, float]], what: str) -> Lines:
    """Numbers by the values of one more label, ``what``."""
    return labelled(lambda row: [(label(**{what: value}), number) for value, number in get(row).items()])


def labelled(get: Callable[[Any], Iterable[tuple[str, float]]]) -> Lines:
    """Numbers, each with more labels."""
    return lambda name, rows: [
        f"{name}{{{_join(labels, more)}}} {number}\n" for labels, row in rows for more, number in get(row)
    ]


def summary(get: Callable[[Any], Times]) -> Lines:
    """The sum of times, and how many they are."""

    def lines(name: str, rows: Rows) -> Iterable[str]:
        for labels, row in rows:
            times = get(row)
            yield f"{name}_sum{{{labels}}} {times[-1]}\n{name}_count{{{labels}}} {count_of(times)}\n"

    return lines


def histogram(get: Callable[[Any], Times]) -> Lines:
    """How many times are within each bound, beside their sum and how many they are."""
    ends = summary(get)

    def lines(name: str, rows: Rows) -> Iterable[str]:
        for labels, row in rows:
            for bound, number in zip(_WITHIN, accumulate(get(row)[:-1]), strict=True):
                yield f"{name}_bucket{{{_join(labels, bound)}}} {int(number)}\n"
            yield from ends(name, [(labels, row)])

    return lines


_WITHIN = [label(le=bound) for bound in (*BOUNDS, "+Inf")]


def _join(labels: str, more: str) -> str:
    return f"{labels},{more}" if labels else more
