"""When a server is down, when it is asked again, and when it is up."""

from __future__ import annotations

from itertools import cycle

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.health import FULL_SHARE, Health


def middle() -> float:
    """No jitter."""
    return 0.5


class UpAndDownTests(SynchronousTestCase):
    """Outcomes decide."""

    def test_a_server_is_up_until_proven_otherwise(self) -> None:
        self.assertTrue(Health(middle).up)

    def test_the_first_failure_takes_it_down(self) -> None:
        health = Health(middle)
        self.assertTrue(health.failed())
        self.assertFalse(health.up)

    def test_so_many_failures_in_a_row_take_it_down(self) -> None:
        health = Health(middle, max_fails=3)
        self.assertEqual([False, False, True], [health.failed() for _failure in range(3)])
        self.assertFalse(health.up)

    def test_a_success_in_between_makes_them_count_anew(self) -> None:
        health = Health(middle, max_fails=3)
        for _round in range(10):
            self.assertEqual([False, False], [health.failed(), health.failed()])
            health.succeeded()
        self.assertTrue(health.up)
        self.assertEqual([False, False, True], [health.failed() for _failure in range(3)])

    def test_going_down_is_told_once(self) -> None:
        health = Health(middle)
        self.assertEqual([True, False, False], [health.failed() for _failure in range(3)])

    def test_a_late_answer_does_not_bring_it_back(self) -> None:
        health = Health(middle)
        health.failed()
        health.succeeded()
        self.assertFalse(health.up)

    def test_a_probe_brings_it_back(self) -> None:
        health = Health(middle, max_fails=2)
        health.failed()
        health.failed()
        health.probed(0.0)
        self.assertTrue(health.up)

    def test_answers_that_do_not_come_in_time_have_a_threshold_of_their_own(self) -> None:
        health = Health(middle, max_fails=1, max_timeouts=3)
        self.assertEqual([False, False, True, False], [health.timed_out() for _timeout in range(4)])
        self.assertFalse(health.up)

    def test_failures_and_timeouts_are_not_added_up(self) -> None:
        health = Health(middle, max_fails=3, max_timeouts=3)
        told = [health.failed(), health.timed_out(), health.failed(), health.timed_out()]
        self.assertEqual(([False] * 4, True), (told, health.up))

    def test_an_answer_makes_timeouts_count_anew(self) -> None:
        health = Health(middle, max_timeouts=2)
        health.timed_out()
        health.succeeded()
        self.assertEqual([False, True], [health.timed_out(), health.timed_out()])

    def test_back_again_timeouts_count_anew(self) -> None:
        health = Health(middle, max_timeouts=2)
        health.timed_out()
        health.timed_out()
        health.probed(0.0)
        self.assertEqual([False, True], [health.timed_out(), health.timed_out()])

    def test_after_that_the_failures_count_anew(self) -> None:
        health = Health(middle, max_fails=2)
        health.failed()
        health.failed()
        health.probed(0.0)
        self.assertEqual([False, True], [health.failed(), health.failed()])

    @given(
        st.integers(1, 4),
        st.integers(1, 4),
        st.lists(st.sampled_from(["failed", "timed_out", "succeeded", "probed"]), max_size=40),
    )
    def test_only_failures_in_a_row_take_it_down_and_only_probes_bring_it_back(
        self, max_fails: int, max_timeouts: int, outcomes: list[str]
    ) -> None:
        health = Health(middle, max_fails=max_fails, max_timeouts=max_timeouts)
        fails = timeouts = 0
        for outcome in outcomes:
            up = health.up
            arguments = (0.0,) if outcome == "probed" else ()
            told = getattr(health, outcome)(*arguments)
            if outcome in {"succeeded", "probed"}:
                fails = timeouts = 0
            fails += outcome == "failed"
            timeouts += outcome == "timed_out"
            goes_down = up and (
                (outcome == "failed" and fails >= max_fails) or (outcome == "timed_out" and timeouts >= max_timeouts)
            )
            self.assertEqual(goes_down, bool(told))
            self.assertEqual(outcome == "probed" or (up and not goes_down), health.up)


class ProbeTests(SynchronousTestCase):
    """How long until it is asked again, in seconds."""

    def test_half_a_second_then_twice_as_long_each_time_up_to_half_a_minute(self) -> None:
        health = Health(middle)
        health.failed()
        self.assertEqual(
            [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0], [health.probe_delay() for _probe in range(9)]
        )

    def test_for_days(self) -> None:
        health = Health(middle)
        health.failed()
        self.assertEqual({30.0}, {health.probe_delay() for _probe in range(10_000)} - {0.5, 1.0, 2.0, 4.0, 8.0, 16.0})

    def test_from_the_beginning_when_it_answered_in_between(self) -> None:
        health = Health(middle)
        health.failed()
        self.assertEqual([0.5, 1.0], [health.probe_delay(), health.probe_delay()])
        health.probed(0.0)
        health.succeeded()
        health.failed()
        self.assertEqual([0.5, 1.0], [health.probe_delay(), health.probe_delay()])

    def test_a_server_that_connects_and_never_answers_is_probed_ever_more_seldom(self) -> None:
        health = Health(middle, max_timeouts=1)
        delays = []
        for _time in range(4):
            health.timed_out()
            delays.append(health.probe_delay())
            health.probed(0.0)
        self.assertEqual([0.5, 1.0, 2.0, 4.0], delays)

    def test_a_probe_that_failed_does_not_begin_again(self) -> None:
        health = Health(middle)
        health.failed()
        delays = []
        for _probe in range(3):
            delays.append(health.probe_delay())
            health.failed()
        self.assertEqual([0.5, 1.0, 2.0], delays)

    def test_one_that_said_that_it_is_there_is_probed_soon_again(self) -> None:
        health = Health(middle)
        health.failed()
        self.assertEqual([0.5, 1.0, 2.0], [health.probe_delay() for _probe in range(3)])
        health.expected()
        self.assertEqual([0.5, 1.0], [health.probe_delay(), health.probe_delay()])
        self.assertFalse(health.up)

    def test_a_quarter_more_or_less(self) -> None:
        numbers = cycle([0.0, 1.0])
        health = Health(lambda: next(numbers))
        health.failed()
        self.assertEqual([0.375, 1.25, 1.5, 5.0, 6.0, 20.0, 22.5, 37.5], [health.probe_delay() for _probe in range(8)])


class ShareTests(SynchronousTestCase):
    """A server that came back takes its full share again by and by."""

    def back(self, slow_start: float = 10.0) -> Health:
        """One that was reached, went down, and came back when the clock showed 100 seconds."""
        health = Health(middle, slow_start=slow_start)
        health.succeeded()
        health.failed()
        health.probed(100.0)
        return health

    def test_it_grows_in_equal_steps(self) -> None:
        health = self.back()
        shares = [health.share(100.0 + seconds) for seconds in range(11)]
        self.assertEqual([1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5], shares)
        self.assertEqual(5, FULL_SHARE)

    def test_once_full_it_stays_so(self) -> None:
        for full in (108.0, 110.0):
            health = self.back()
            self.assertEqual(FULL_SHARE, health.share(full))
            self.assertEqual(FULL_SHARE, health.share(100.0))

    def test_a_server_that_was_always_up_has_it_all(self) -> None:
        health = Health(middle, slow_start=10.0)
        health.succeeded()
        self.assertEqual(FULL_SHARE, health.share(50.0))

    def test_so_has_one_that_was_not_up_yet(self) -> None:
        health = Health(middle, slow_start=10.0)
        health.failed()
        health.probed(50.0)
        self.assertEqual(FULL_SHARE, health.share(50.0))

    def test_down_again_before_it_was_full(self) -> None:
        health = self.back()
        health.failed()
        health.probed(105.0)
        self.assertEqual([1, 2], [health.share(105.0), health.share(107.0)])

    def test_without_a_slow_start(self) -> None:
        self.assertEqual(FULL_SHARE, self.back(slow_start=0.0).share(100.0))
