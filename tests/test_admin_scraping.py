"""Scrapes: made in turns, for all who wait, and for nobody else."""

from __future__ import annotations

from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.admin.exposition import ROWS
from rproxy.admin.scraping import Scrapes, make_cooperator
from rproxy.control import Control, ControlError
from rproxy.figures import Figures, PolicyFigures
from tests.adminclient import Admin, hang_up, read_reply
from tests.test_admin_metrics import figures, server, text_of


class SlowClock(Clock):
    """A clock that is a millisecond later whenever somebody looks at it, with turns one by one."""

    def seconds(self) -> float:
        """The time."""
        self.rightNow += 0.001
        return self.rightNow

    def turn(self) -> None:
        """Let the reactor make one turn."""
        calls, self.calls = self.calls, []
        for call in calls:
            call.called = 1
            call.func(*call.args, **call.kw)

    def turns(self) -> int:
        """Let it make them until there is nothing to do, and return how many they were."""
        made = 0
        while self.calls:
            self.turn()
            made += 1
        return made


def many(servers: int, version: str = "1") -> Figures:
    """The figures of a proxy with so many servers."""
    return figures(
        PolicyFigures(name="111", servers=[server(server_id=str(n)) for n in range(servers)]), version=version
    )


@define
class Shown:
    """A control that shows one figures after the other."""

    answers: list[Deferred[Figures]] = field(factory=list)
    asked: int = 0

    def figures(self) -> Deferred[Figures]:
        """See :class:`rproxy.control.Control`."""
        self.asked += 1
        return self.answers.pop(0) if self.answers else succeed(many(1, str(self.asked)))


class ScrapesTests(SynchronousTestCase):
    """Who scrapes, in whatever order."""

    def setUp(self) -> None:
        self.clock = SlowClock()
        self.control = Shown()
        self.scrapes = Scrapes(cast(Control, self.control), make_cooperator(self.clock))

    def version(self, reader: Deferred[bytes]) -> str:
        """Which figures somebody was told."""
        return self.successResultOf(reader).split(b'rproxy_build_info{version="')[1][:1].decode()

    def test_turns(self) -> None:
        """Nothing is made at once, and no more in one turn than there is time for; in the end it is the whole text."""
        shown = many(10 * ROWS)
        self.control.answers.append(succeed(shown))
        reader = self.scrapes.text()
        self.clock.turn()
        self.assertNoResult(reader)
        # Two of these pieces are made in a turn, and there are ten of each metric of a server.
        self.assertGreater(self.clock.turns(), 13 * 10 // 3)
        self.assertEqual(self.successResultOf(reader), text_of(shown))

    def test_share(self) -> None:
        """Who comes while a text is made waits for the next one, together with all others who do."""
        readers = [self.scrapes.text() for _ in range(5)]
        self.clock.turns()
        self.assertEqual([self.version(reader) for reader in readers], ["1", "2", "2", "2", "2"])
        self.assertEqual(self.control.asked, 2)

    def test_again(self) -> None:
        """Who was told may ask again at once."""
        again: list[Deferred[bytes]] = []

        def ask_again(text: bytes) -> bytes:
            again.append(self.scrapes.text())
            return text

        first = self.scrapes.text().addCallback(ask_again)
        self.clock.turns()
        self.assertEqual([self.version(reader) for reader in (first, *again)], ["1", "2"])

    def test_all_leave(self) -> None:
        """Then nothing goes on, and who comes later is told what there is then."""
        reader = self.scrapes.text()
        self.clock.turn()
        reader.cancel()
        self.failureResultOf(reader, CancelledError)
        self.assertEqual(self.clock.turns(), 0)
        later = self.scrapes.text()
        self.clock.turns()
        self.assertEqual(self.version(later), "2")

    def test_some_leave(self) -> None:
        """The others are told as if nothing were."""
        readers = [self.scrapes.text() for _ in range(4)]
        self.clock.turn()
        readers[2].cancel()
        self.clock.turn()
        readers[0].cancel()
        for reader in readers[0], readers[2]:
            self.failureResultOf(reader, CancelledError)
        self.clock.turns()
        self.assertEqual([self.version(readers[n]) for n in (1, 3)], ["2", "2"])

    def test_leave_before_the_figures(self) -> None:
        """The control may take its time; by then nobody may wait any more."""
        late: Deferred[Figures] = Deferred()
        self.control.answers.append(late)
        reader = self.scrapes.text()
        reader.cancel()
        self.failureResultOf(reader, CancelledError)
        late.callback(many(1))
        self.assertEqual(self.clock.calls, [])

    def test_failure(self) -> None:
        """All who wait are told, and the next one is not."""
        late: Deferred[Figures] = Deferred()
        self.control.answers += [late, fail(ControlError("nobody"))]
        readers = [self.scrapes.text() for _ in range(3)]
        late.errback(ControlError("nobody"))
        for reader in readers:
            self.failureResultOf(reader, ControlError)
        last = self.scrapes.text()
        self.clock.turns()
        self.assertEqual(self.version(last), "3")


class RequestTests(SynchronousTestCase):
    """The same over HTTP."""

    def setUp(self) -> None:
        self.clock = SlowClock()
        self.admin = Admin(cast(Any, Shown()), cooperator=make_cooperator(self.clock))

    def test_answer(self) -> None:
        """It comes in the end, in one."""
        channel, transport = self.admin.open("GET", "/metrics")
        self.clock.turn()
        self.assertEqual(transport.value(), b"")
        self.clock.turns()
        self.assertEqual(read_reply(transport.value()).body, text_of(many(1, "1")))
        hang_up(channel)

    def test_hang_up(self) -> None:
        """Nothing is made for a client that is gone, nothing is written to it, and nothing is logged."""
        channel, transport = self.admin.open("GET", "/metrics")
        _, other = self.admin.open("GET", "/metrics")
        self.clock.turn()
        hang_up(channel)
        self.clock.turns()
        self.assertEqual(transport.value(), b"")
        self.assertEqual(read_reply(other.value()).status, 200)
        channel, _ = self.admin.open("GET", "/metrics")
        self.clock.turn()
        hang_up(channel)
        self.assertEqual(self.clock.turns(), 0)
