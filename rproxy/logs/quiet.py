"""Log lines that strangers can cause, kept few: the first of a period, then one that says how many were left out.

Without it, whoever is refused could fill the disk by asking to be refused again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: Writes a line from a format and its fields, as ``warn`` of a :class:`twisted.logger.Logger` does.
Emit = Callable[..., object]


class QuietLog:
    """Logs a few lines of one kind in each period, and counts the others.

    A period begins with its first line. What was left out is told at its end: by the first line after it, or by
    :meth:`sweep`, whichever comes first.

    :param seconds: the clock.
    :param emit: writes a line.
    :param what: what the lines are about, in the plural, as in "refused connections".
    :param most: how many lines are logged in a period.
    :param period: in seconds.
    """

    def __init__(
        self, seconds: Callable[[], float], emit: Emit, what: str, *, most: int = 10, period: float = 60.0
    ) -> None:
        self._seconds = seconds
        self._emit = emit
        self._what = what
        self._most = most
        self._period = period
        self._ends = float("-inf")
        self._count = 0

    def __call__(self, format: str, /, **fields: Any) -> bool:
        """Log a line, or count it; whether it was logged."""
        now = self._seconds()
        if now >= self._ends:
            self._tell()
            self._ends = now + self._period
            self._count = 0
        self._count += 1
        is_logged = self._count <= self._most
        if is_logged:
            self._emit(format, **fields)
        return is_logged

    def sweep(self) -> None:
        """Tell what was left out, if the period is over."""
        if self._count and self._seconds() >= self._ends:
            self._tell()
            self._count = 0

    def _tell(self) -> None:
        left_out = self._count - self._most
        if left_out > 0:
            self._emit(
                "Left out {left_out} more lines about {what} within {period:g} seconds",
                event="lines-left-out",
                left_out=left_out,
                what=self._what,
                period=self._period,
            )
