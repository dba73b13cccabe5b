"""Tests for ``rproxy.stores.waking``."""

from __future__ import annotations

from functools import partial
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.stores.waking import Alarm


class AlarmTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.alarm = Alarm(cast(IReactorTime, self.clock))

    def until_due(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.alarm.until_due())

    def assert_lasts(self, sleep: Deferred[None], seconds: float) -> None:
        self.clock.advance(seconds - 0.5)
        self.assertNoResult(sleep)
        self.clock.advance(0.5)
        self.successResultOf(sleep)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_due(self) -> None:
        """What was said last and least, before it sleeps or while it does."""
        self.alarm.set(9)
        self.alarm.set(5)
        self.alarm.within(7)
        self.assert_lasts(self.until_due(), 5)
        self.alarm.set(5)
        self.alarm.within(3)
        self.assert_lasts(self.until_due(), 3)
        self.alarm.set(5)
        sleep = self.until_due()
        self.alarm.within(7)
        self.alarm.within(2)
        self.assert_lasts(sleep, 2)

    def test_overdue(self) -> None:
        """It isn't slept any more, but for a turn."""
        self.clock.advance(5)
        sleep = self.until_due()
        self.clock.advance(0)
        self.successResultOf(sleep)

    def test_whatever_is_due(self) -> None:
        self.alarm.set(5)
        sleep = Deferred.fromCoroutine(self.alarm.sleep(3))
        self.alarm.within(1)
        self.assert_lasts(sleep, 3)

    def test_wake(self) -> None:
        """Nothing of it is left; where nobody sleeps, nothing happens."""
        self.alarm.wake()
        self.alarm.set(5)
        for begin in self.alarm.until_due, partial(self.alarm.sleep, 5):
            sleep = Deferred.fromCoroutine(begin())
            self.alarm.wake()
            self.successResultOf(sleep)
            self.assertEqual(self.clock.getDelayedCalls(), [])
