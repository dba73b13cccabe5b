"""Work that comes round: on time, whatever happened the last time, and no more once it is stopped."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.process.sweeping import SweepService


class Broken(Exception):
    """What a sweep may run into."""


class SweepTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.swept: list[float] = []
        self.trouble: Exception | None = None
        self.service = SweepService(self.clock, 0.25, self.sweep)

    def sweep(self) -> None:
        self.swept.append(self.clock.seconds())
        if self.trouble is not None:
            raise self.trouble

    def test_nothing_happens_before_it_starts(self) -> None:
        self.clock.advance(1)
        self.assertEqual([], self.swept)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_it_comes_round_the_first_time_after_one_interval(self) -> None:
        self.service.startService()
        self.assertEqual([], self.swept)
        self.clock.pump([0.25] * 4)
        self.assertEqual([0.25, 0.5, 0.75, 1.0], self.swept)

    def test_rounds_that_were_missed_are_not_made_up_for(self) -> None:
        self.service.startService()
        self.clock.advance(1.0)
        self.clock.advance(0.25)
        self.assertEqual([1.0, 1.25], self.swept)

    def test_it_goes_on_when_a_sweep_fails_and_says_so(self) -> None:
        self.service.startService()
        self.trouble = Broken()
        self.clock.pump([0.25] * 3)
        self.assertEqual(3, len(self.flushLoggedErrors(Broken)))
        self.trouble = None
        self.clock.advance(0.25)
        self.assertEqual([0.25, 0.5, 0.75, 1.0], self.swept)

    def test_stopped_it_leaves_nothing_behind(self) -> None:
        self.service.startService()
        self.clock.advance(0.25)
        self.assertIsNone(self.service.stopService())
        self.assertEqual([], self.clock.getDelayedCalls())
        self.clock.advance(1)
        self.assertEqual([0.25], self.swept)

    def test_a_sweep_may_stop_it(self) -> None:
        def stop() -> None:
            self.service.stopService()

        self.service = SweepService(self.clock, 0.25, stop)
        self.service.startService()
        self.clock.advance(0.25)
        self.assertFalse(self.service.running)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_it_can_be_started_again(self) -> None:
        self.service.startService()
        self.service.stopService()
        self.clock.advance(1)
        self.service.startService()
        self.clock.advance(0.25)
        self.assertEqual([1.25], self.swept)

    def test_stopping_what_was_not_started_is_no_trouble(self) -> None:
        self.assertIsNone(self.service.stopService())
