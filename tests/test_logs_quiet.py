"""A few lines of one kind in each period, and how many there were beside them."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.logs.quiet import QuietLog


class QuietLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.lines: list[str] = []
        self.log = QuietLog(self.clock.seconds, self.emit, "strangers", most=2, period=60)

    def emit(self, format: str, **fields: Any) -> None:
        self.lines.append(format.format_map(fields))

    def say(self, count: int) -> None:
        for number in range(count):
            self.log("stranger {number}", number=number)

    def taken(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines

    def test_the_first_lines_are_logged(self) -> None:
        self.say(2)
        self.assertEqual(self.taken(), ["stranger 0", "stranger 1"])

    def test_the_others_are_counted_until_the_next_line(self) -> None:
        self.say(5)
        self.clock.advance(59)
        self.say(1)
        self.assertEqual(self.taken(), ["stranger 0", "stranger 1"])
        self.clock.advance(1)
        self.say(1)
        self.assertEqual(self.taken(), ["Left out 4 more lines about strangers within 60 seconds", "stranger 0"])

    def test_or_until_the_period_is_over(self) -> None:
        self.say(3)
        self.taken()
        self.clock.advance(59)
        self.log.sweep()
        self.assertEqual(self.taken(), [])
        self.clock.advance(1)
        for _ in range(2):
            self.log.sweep()
        self.assertEqual(self.taken(), ["Left out 1 more lines about strangers within 60 seconds"])

    def test_each_period_begins_with_its_first_line(self) -> None:
        for _ in range(3):
            self.say(2)
            self.assertEqual(self.taken(), ["stranger 0", "stranger 1"])
            self.clock.advance(100)
            self.log.sweep()
        self.assertEqual(self.taken(), [])

    def test_however_many_come_the_lines_are_few(self) -> None:
        for _ in range(600):
            self.say(100)
            self.clock.advance(1)
        # Ten periods; each tells of the one before.
        self.assertEqual(len(self.lines), 29)
