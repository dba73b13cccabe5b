"""When a server is down, when it is asked again, and when it is up."""

from __future__ import annotations

from itertools import cycle

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.health import Health


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
        health.probed()
        self.assertTrue(health.up)

    def test_after_that_the_failures_count_anew(self) -> None:
        health = Health(middle, max_fails=2)
        health.failed()
        health.failed()
        health.probed()
        self.assertEqual([False, True], [health.failed(), health.failed()])

    @given(st.integers(1, 4), st.lists(st.sampled_from(["failed", "succeeded", "probed"]), max_size=40))
    def test_only_failures_in_a_row_take_it_down_and_only_probes_bring_it_back(
        self, max_fails: int, outcomes: list[str]
    ) -> None:
        health = Health(middle, max_fails=max_fails)
        in_a_row = 0
        for outcome in outcomes:
            up = health.up
            told = getattr(health, outcome)()
            in_a_row = in_a_row + 1 if outcome == "failed" else 0
            went_down = up and in_a_row >= max_fails
            self.assertEqual(went_down, bool(told))
            self.assertEqual(outcome == "probed" or (up and not went_down), health.up)


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

    def test_from_the_beginning_when_it_goes_down_again(self) -> None:
        health = Health(middle)
        health.failed()
        self.assertEqual([0.5, 1.0], [health.probe_delay(), health.probe_delay()])
        health.probed()
        health.failed()
        self.assertEqual([0.5, 1.0], [health.probe_delay(), health.probe_delay()])

    def test_a_probe_that_failed_does_not_begin_again(self) -> None:
        health = Health(middle)
        health.failed()
        delays = []
        for _probe in range(3):
            delays.append(health.probe_delay())
            health.failed()
        self.assertEqual([0.5, 1.0, 2.0], delays)

    def test_a_quarter_more_or_less(self) -> None:
        numbers = cycle([0.0, 1.0])
        health = Health(lambda: next(numbers))
        health.failed()
        self.assertEqual([0.375, 1.25, 1.5, 5.0, 6.0, 20.0, 22.5, 37.5], [health.probe_delay() for _probe in range(8)])
