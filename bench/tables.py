"""Rows of results as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: A row of results, as it stands in the JSON too.
Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    :ivar key: what it shows of a row. A row that hasn't got it, or has None there, shows a dash.
    """

    title: str
    key: str
    show: Callable[[Any], str]


def render(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """Rows as lines of text, the first column aligned left, numbers right."""
    cells = [[column.title for column in columns]]
    cells += [
        ["-" if row.get(column.key) is None else column.show(row[column.key]) for column in columns] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    left = [column.show is str for column in columns]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in cells
    )


def decimal(number: float) -> str:
    """A number with three digits that count, and no fewer before the point."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    if abs(number) >= 10:
        return f"{number:.1f}"
    return f"{number:.2f}" if abs(number) >= 0.01 else f"{number:.2g}"


def millis(seconds: float) -> str:
    """Seconds as milliseconds."""
    return decimal(seconds * 1e3)


def count(number: float) -> str:
    """A whole number."""
    return f"{number:,.0f}"


def ratio(number: float) -> str:
    """A ratio."""
    return f"{number:.2f}"


def percent(number: float) -> str:
    """A share of one, in percent."""
    return f"{number * 100:.0f} %"


def size(number: int) -> str:
    """Bytes in the largest unit that they are a whole number of."""
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number % factor == 0 and number:
            return f"{number // factor} {unit}"
    return f"{number} B"
