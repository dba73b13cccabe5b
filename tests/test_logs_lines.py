"""What a line of the log says, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

from twisted.logger import ILogObserver, LogEvent, Logger
from twisted.trial.unittest import SynchronousTestCase

from rproxy.logs.lines import (
    COMMON,
    LONGEST_MESSAGE,
    LONGEST_TRACEBACK,
    LONGEST_VALUE,
    OTHER,
    Line,
    as_json,
    line_of,
)


class LineTests(SynchronousTestCase):
    def said(self, log: Callable[[Logger], object]) -> dict[str, Any]:
        """The object that a call of a logger comes to."""
        events: list[LogEvent] = []
        log(Logger("rproxy.here", observer=cast(ILogObserver, events.append)))
        (event,) = events
        event["log_time"] = 1_800_000_000.1239
        raw = as_json(line_of(event))
        self.assertTrue(raw.isascii() and raw.isprintable(), raw)
        said: dict[str, Any] = json.loads(raw)
        return said

    def test_line(self) -> None:
        """What is common to all lines comes first, in this order; then the fields."""
        said = self.said(
            lambda log: log.warn("Server at {host} port {port} is down", event="server-down", host="::1", port=5)
        )
        shown = {
            "time": "2027-01-15T08:00:00.123Z",
            "level": "warn",
            "event": "server-down",
            "message": "Server at ::1 port 5 is down",
            "logger": "rproxy.here",
            "host": "::1",
            "port": 5,
        }
        self.assertEqual(list(said.items()), list(shown.items()))

    def test_values(self) -> None:
        """Numbers and tables stay what they are; what JSON doesn't have is a text."""
        values = {"a": 1, "b": 0.5, "c": None, "d": True, "e": {"x": 2}, "f": float("inf"), "g": OSError(2, "no")}
        said = self.said(lambda log: log.info("x", event="stopped", **values))
        self.assertEqual([said[name] for name in "abcdefg"], [1, 0.5, None, True, {"x": 2}, "inf", "[Errno 2] no"])

    def test_strangers(self) -> None:
        """A text can neither end a line, nor speak to a terminal, nor be something else."""
        why = '"}\n\r\x1b[2J\x9b\u2028'
        said = self.said(lambda log: log.info("{why}", event="setup-refused", why=f"{why}\ud800"))
        self.assertEqual((said["why"], said["message"]), (f"{why}\ud800", f"{why}\\ud800"))
        said = self.said(lambda log: log.info("x", event="setup-refused", logger="no", message="no"))
        self.assertEqual((said["logger"], said["message"]), ("rproxy.here", "x"))

    def test_bounded(self) -> None:
        """However much comes."""
        said = self.said(lambda log: log.info("{why}", event="setup-refused", why="x" * 10_000))
        self.assertEqual(said["why"], "x" * LONGEST_VALUE + "...")
        self.assertEqual(said["message"], "x" * LONGEST_MESSAGE + "...")

    def test_traceback(self) -> None:
        """It is a field; of a long one, its end."""

        def fail(log: Logger) -> None:
            try:
                raise ValueError("a fault " * 2000)
            except ValueError:
                log.failure("It failed", event="sweep-failed")

        said = self.said(fail)
        self.assertEqual((said["level"], said["message"]), ("critical", "It failed"))
        self.assertEqual(len(said["traceback"]), LONGEST_TRACEBACK)
        self.assertTrue(said["traceback"].endswith("a fault "))

    def test_others(self) -> None:
        """A line that has no name isn't rproxy's: its fields are its own matter."""
        said = self.said(lambda log: log.error("{thing}", thing="a", password="b"))
        self.assertEqual(
            {name: value for name, value in said.items() if name not in {"time", "logger"}},
            {
                "level": "error",
                "event": OTHER,
                "message": "a",
            },
        )

    def test_relayed(self) -> None:
        """A worker's line is that of the worker."""
        line = Line(0.5, "error", "rproxy.there", "audit-away", "m", {"why": "w"}, "t", worker=2)
        said = self.said(lambda log: log.info("x", log_line=line))
        self.assertEqual(
            said,
            {
                "time": "1970-01-01T00:00:00.500Z",
                "level": "error",
                "event": "audit-away",
                "message": "m",
                "logger": "rproxy.there",
                "worker": 2,
                "why": "w",
                "traceback": "t",
            },
        )
        self.assertLessEqual(set(said) - {"why"}, set(COMMON))
