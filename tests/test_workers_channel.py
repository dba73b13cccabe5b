"""Two ends of a channel in memory: questions, answers, and no other side any more."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from rproxy.figures import PolicyFigures
from rproxy.figures.tallies import MOST_POLICIES, OTHERS, new_times
from rproxy.limits import Limits
from rproxy.packets import MAX_FIELD
from rproxy.workers.channel import Channel, ChannelError, FullError, Handler
from tests.test_admin_metrics import figures, server


class ChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.later: list[Deferred[Any]] = []
        self.closed: list[str] = []
        handlers: dict[str, Handler] = {
            "add": lambda a, b: a + b,
            "later": self.answer_later,
            "fail": self.fail_to_answer,
            "big": lambda: self.big,
            "surrogate": self.answer_surrogate,
        }
        self.big = ""
        self.near = Channel({}, lambda: self.closed.append("near"))
        self.far = Channel(handlers, lambda: self.closed.append("far"))
        self.pump: IOPump = connect(self.near, FakeTransport(self.near, False), self.far, FakeTransport(self.far, True))

    def answer_later(self) -> Deferred[Any]:
        self.later.append(Deferred())
        return self.later[-1]

    def fail_to_answer(self) -> None:
        raise ValueError("not today")

    def answer_surrogate(self) -> str:
        raise ValueError("not \ud800 today")

    def assert_unanswered(self, asked: Deferred[Any], why: str) -> None:
        self.assertEqual(str(self.failureResultOf(asked, ChannelError).value), why)

    def test_answer(self) -> None:
        asked = self.near.ask("add", a=1, b=2)
        self.pump.flush()
        self.assertEqual(self.successResultOf(asked), 3)

    def test_in_order(self) -> None:
        """What is asked second is not even begun before the first is answered."""
        first, second, third = self.near.ask("later"), self.near.ask("later"), self.near.ask("add", a=1, b=1)
        self.pump.flush()
        self.assertEqual(len(self.later), 1)
        self.later[0].callback("first")
        self.pump.flush()
        self.assertEqual(self.successResultOf(first), "first")
        self.assertNoResult(second)
        self.later[1].callback("second")
        self.pump.flush()
        self.assertEqual((self.successResultOf(second), self.successResultOf(third)), ("second", 2))

    def test_what_can_not_be_answered(self) -> None:
        """It says why, and the next question is answered."""
        unknown, failed, odd = self.near.ask("colour"), self.near.ask("fail"), self.near.ask("surrogate")
        good = self.near.ask("add", a="a", b="b")
        self.pump.flush()
        self.assert_unanswered(unknown, "nobody answers 'colour' here")
        self.assert_unanswered(failed, "ValueError: not today")
        self.assert_unanswered(odd, "ValueError: not ? today")
        self.assertEqual(self.successResultOf(good), "ab")
        # The log of trial itself doesn't take half of a surrogate pair.
        logged = [each for each in self.flushLoggedErrors(ValueError) if not each.check(UnicodeEncodeError)]
        self.assertEqual(len(logged), 2)

    def test_pieces(self) -> None:
        """A message of any length up to the bound arrives as it was sent, and so does what comes behind it."""
        room = Channel.MAX_LENGTH - 1
        for length in (room - len('["answer",""]') + more for more in (-1, 0, 1, room, room * 3 + 5)):
            self.big = "é" + "x" * (length - 2)
            big, behind = self.near.ask("big"), self.near.ask("add", a=1, b=2)
            self.pump.flush()
            self.assertTrue(self.successResultOf(big) == self.big, length)
            self.assertEqual(self.successResultOf(behind), 3)
        written: list[int] = []
        self.patch(self.far, "sendString", lambda piece: written.append(len(piece)))
        self.near.ask("big")
        self.pump.flush()
        self.assertEqual((len(written), max(written)), (5, Channel.MAX_LENGTH))

    def test_too_long_answer(self) -> None:
        """It is told of once until it fits again, without a traceback; whoever asks hears why each time."""
        self.patch(Channel, "LONGEST", 1000)
        for length, lines in ((2000, 1), (2000, 0), (2000, 0), (10, 0), (2000, 1)):
            self.big = "x" * length
            with capturedLogs() as events:
                big, behind = self.near.ask("big"), self.near.ask("add", a=1, b=2)
                self.pump.flush()
            why = "a message of 2013 bytes is too long, 1000 are the most"
            told = [formatEvent(event) for event in events]
            self.assertEqual((told, self.flushLoggedErrors()), ([f"Can't answer big: {why}"] * lines, []))
            if length > 1000:
                self.assert_unanswered(big, f"TooLongError: {why}")
            else:
                self.assertEqual(self.successResultOf(big), self.big)
            self.assertEqual(self.successResultOf(behind), 3)

    def test_too_long_question(self) -> None:
        """It fails, and the next one gets its own answer."""
        self.patch(Channel, "LONGEST", 1000)
        big, good = self.near.ask("add", a="x" * 2000, b=""), self.near.ask("add", a=1, b=2)
        self.pump.flush()
        self.assertIn("is too long", str(self.failureResultOf(big, ChannelError).value))
        self.assertEqual(self.successResultOf(good), 3)

    def test_flood(self) -> None:
        """Somebody who never comes to an end is left, and told of once."""
        self.patch(Channel, "LONGEST", 1000)
        asked = self.near.ask("later")
        with capturedLogs() as events:
            for _ in range(10):
                self.far.sendString(b"+" + b"x" * (Channel.MAX_LENGTH // 2))
            self.pump.flush()
        said = [formatEvent(event) for event in events]
        self.assertEqual(said, ["The other side of a channel sends more than it may"])
        self.assert_unanswered(asked, "the other side is gone")

    def test_figures_fit(self) -> None:
        """Those of as many servers as a proxy may have, whatever strangers have them called."""
        name = "\U0001f600" * (MAX_FIELD - 5)
        times = [float(1 << 40)] * len(new_times())
        why = "it is down: " + "no connection to it could be made" * 4
        many: Any = {"total_times": times, "times": times, "acked": 1 << 40, "down_why": why, "reasons": {why: 1}}
        servers = [server(f"{name}{n:05}", f"{name}{n:05}", **many) for n in range(Limits().registrations)]
        named = [PolicyFigures(name=each.policy, total_times=times) for each in servers[:MOST_POLICIES]]
        whole = figures(*named, PolicyFigures(name=OTHERS, servers=servers))
        length = len(msgspec.json.encode(["answer", whole]))
        # The rest is for what no test foresees, such as what operators say of policies.
        self.assertLess(length, Channel.LONGEST // 2)

    def test_waiting_no_longer(self) -> None:
        """The answer that comes after all isn't taken for the next one's."""
        first, second = self.near.ask("later"), self.near.ask("add", a=1, b=1)
        first.cancel()
        self.assert_unanswered(first, "nobody waits any longer")
        self.assertEqual((self.near.owes("later"), self.near.owes("add")), (True, False))
        self.pump.flush()
        self.later[0].callback("first")
        self.pump.flush()
        self.assertEqual((self.successResultOf(second), self.near.owes("later")), (2, False))

    def test_too_many(self) -> None:
        """Somebody who never answers doesn't fill the memory."""
        asked = [self.near.ask("later") for _ in range(Channel.MOST)]
        self.failureResultOf(self.near.ask("later"), FullError)
        self.pump.flush()
        self.near.connectionLost()
        for each in asked:
            self.assert_unanswered(each, "the other side is gone")

    def test_nobody_there(self) -> None:
        """Both ends are told, and who asks then fails at once."""
        asked = self.near.ask("later")
        self.pump.flush()
        self.far.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
        self.pump.flush()
        self.assert_unanswered(asked, "the other side is gone")
        self.assert_unanswered(self.near.ask("add", a=1, b=2), "there is no other side")
        self.assertEqual(sorted(self.closed), ["far", "near"])
        # An answer for nobody is dropped.
        self.later[0].callback("late")

    def test_before_there_is_a_connection(self) -> None:
        self.assert_unanswered(Channel({}, list).ask("add"), "there is no other side")
