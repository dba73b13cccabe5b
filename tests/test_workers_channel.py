"""Two ends of a channel in memory: questions, answers, and no other side any more."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from rproxy.workers.channel import Channel, ChannelError, Handler


class ChannelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.later: list[Deferred[Any]] = []
        self.closed: list[str] = []
        handlers: dict[str, Handler] = {
            "add": lambda a, b: a + b,
            "later": self.answer_later,
            "fail": self.fail_to_answer,
            "big": self.big,
        }
        self.near = Channel({}, lambda: self.closed.append("near"))
        self.far = Channel(handlers, lambda: self.closed.append("far"))
        self.pump: IOPump = connect(self.near, FakeTransport(self.near, False), self.far, FakeTransport(self.far, True))

    def answer_later(self) -> Deferred[Any]:
        self.later.append(Deferred())
        return self.later[-1]

    def fail_to_answer(self) -> None:
        raise ValueError("not today")

    def big(self) -> str:
        return "x" * Channel.MAX_LENGTH

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
        unknown, failed, big = self.near.ask("colour"), self.near.ask("fail"), self.near.ask("big")
        good = self.near.ask("add", a="a", b="b")
        self.pump.flush()
        self.assert_unanswered(unknown, "nobody answers 'colour' here")
        self.assert_unanswered(failed, "ValueError: not today")
        self.assertIn("is too long", str(self.failureResultOf(big, ChannelError).value))
        self.assertEqual(self.successResultOf(good), "ab")
        self.assertEqual(len(self.flushLoggedErrors(ValueError, ChannelError)), 2)

    def test_waiting_no_longer(self) -> None:
        """The answer that comes after all isn't taken for the next one's."""
        first, second = self.near.ask("later"), self.near.ask("add", a=1, b=1)
        first.cancel()
        self.assert_unanswered(first, "nobody waits any longer")
        self.pump.flush()
        self.later[0].callback("first")
        self.pump.flush()
        self.assertEqual(self.successResultOf(second), 2)

    def test_too_many(self) -> None:
        """Somebody who never answers doesn't fill the memory."""
        asked = [self.near.ask("later") for _ in range(Channel.MOST)]
        self.assert_unanswered(self.near.ask("later"), "too many questions wait for their answer")
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
