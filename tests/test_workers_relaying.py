"""Log lines from one end to the other."""

from __future__ import annotations

from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

from twisted.logger import Logger, LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rproxy.logs.lines import line_of
from rproxy.workers.relaying import LINES, LONGEST, LineReader, LineSender, log_sockets


class Readers:
    """What a reactor does with readers."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()
        self.addReader = self.readers.add
        self.removeReader = self.readers.discard


class RelayTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Readers()
        ours, self.theirs = log_sockets()
        self.addCleanup(self.theirs.close)
        self.reader = LineReader(self.reactor, ours, 2)
        self.addCleanup(self.reader.connectionLost)
        self.log = Logger(namespace="rproxy.there", observer=LineSender(self.theirs))

    def read(self, finish: bool = False) -> list[tuple[str, str, str]]:
        """The lines that are written in one turn."""
        with capturedLogs() as events:
            self.reader.finish() if finish else self.reader.doRead()
        return [(event["log_level"].name, event["log_namespace"], formatEvent(event)) for event in events]

    def test_lines(self) -> None:
        """Each keeps its level and its namespace, and says whose it is."""
        self.log.info("a {thing}", thing="{b}")
        self.log.warn("c\nd")
        shown = [("info", "rproxy.there", "worker 2: a {b}"), ("warn", "rproxy.there", "worker 2: c\nd")]
        self.assertEqual(self.read(), shown)

    def test_failures(self) -> None:
        """The traceback comes along."""
        try:
            raise ValueError("a fault")
        except ValueError:
            self.log.failure("It failed")
        ((level, _, text),) = self.read()
        self.assertEqual(level, LogLevel.critical.name)
        self.assertRegex(text, r"(?s)worker 2: It failed.*Traceback.*ValueError: a fault")

    def test_fields(self) -> None:
        """A line's name and its fields come along, and the traceback apart from the message."""
        try:
            raise ValueError("a fault")
        except ValueError:
            self.log.failure("{what} failed", event="sweep-failed", what="\ud800")
        with capturedLogs() as events:
            self.reader.doRead()
        line = line_of(events[0])
        self.assertEqual((line.event, line.fields, line.worker), ("sweep-failed", {"what": "\ud800"}, 2))
        self.assertEqual(
            (line.message, line.traceback.splitlines()[-1]), ("\\ud800 failed", "builtins.ValueError: a fault")
        )

    def test_largest(self) -> None:
        """Whatever is in it, and however long all of it is, it is let through."""
        worst = "\x01" * (LONGEST + 1)
        try:
            raise ValueError(worst)
        except ValueError:
            self.log.failure("{a}", event="x", a=worst, b=worst, c=worst, d=worst, e=worst, f=worst)
        ((_, _, text),) = self.read()
        self.assertTrue(text.startswith("worker 2: " + "\x01" * LONGEST))

    def test_long_line(self) -> None:
        """The longest that there may be fits, whatever its characters are."""
        self.log.info("{text}", text="\N{PILE OF POO}" * (LONGEST + 1))
        ((_, _, text),) = self.read()
        self.assertEqual(text, "worker 2: " + "\N{PILE OF POO}" * LONGEST + "...")

    def test_flood(self) -> None:
        """What doesn't fit is left out, counted, and told before the next line."""
        for number in range(10_000):
            self.log.info("line {number}", number=number)
        self.assertEqual(len(self.read()), LINES)
        self.log.info("another")
        with capturedLogs() as events:
            self.reader.finish()
        lines = [formatEvent(event) for event in events]
        first = [line for line in lines if line.startswith("worker 2: line")]
        left_out = 10_000 - LINES - len(first)
        self.assertGreater(left_out, 0)
        told = f"worker 2: Left out {left_out} lines: there was no room for them on their way to the log"
        self.assertEqual(lines[len(first) :], [told, "worker 2: another"])
        self.assertEqual(first[-1], f"worker 2: line {LINES + len(first) - 1}")

    def test_small_messages(self) -> None:
        """Where the system has no long ones, a line that is too long for it is left out like any other."""
        self.theirs.setsockopt(SOL_SOCKET, SO_SNDBUF, 4096)
        self.log.info("{text}", text="x" * LONGEST)
        self.log.info("another")
        told = "worker 2: Left out 1 lines: there was no room for them on their way to the log"
        self.assertEqual([text for _, _, text in self.read()], [told, "worker 2: another"])

    def test_worker_has_ended(self) -> None:
        """Its last lines are written, and then nothing is watched any more."""
        for _ in range(LINES + 1):
            self.log.info("last")
        self.theirs.close()
        self.assertEqual(len(self.read(finish=True)), LINES + 1)
        self.assertEqual((self.reactor.readers, self.read(), self.read(finish=True)), (set(), [], []))

    def test_parent_is_gone(self) -> None:
        """Lines for nobody are no fault."""
        self.reader.connectionLost()
        self.log.info("a")

    def test_nothing_to_say(self) -> None:
        """An event without a text is no line."""
        self.log.info("")
        self.assertEqual(self.read(), [])
