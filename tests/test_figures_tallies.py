"""What is counted by policy and by server, and how long things took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.figures import tallies as module
from rproxy.figures.tallies import BOUNDS, OTHERS, Tallies, Times, Timings, count_of, new_times, observe, quantile


class TimesTests(SynchronousTestCase):
    """How long things took, in classes."""

    def test_classes(self) -> None:
        """A bound belongs to the class below it."""
        for number, bound in enumerate(BOUNDS):
            times = new_times()
            observe(times, bound + 1e-9, bound)
            self.assertEqual((times[number], times[number + 1], count_of(times)), (1, 1, 2))

    def test_bounds(self) -> None:
        """They grow."""
        self.assertEqual(sorted({*BOUNDS}), [*BOUNDS])

    def test_observe(self) -> None:
        """Each is counted once, and adds to the sum."""
        times = new_times()
        for seconds in (0.0, 0.2, 1000.0):
            observe(times, seconds)
        self.assertEqual((count_of(times), times[0], times[-2], times[-1]), (3, 1, 1, 1000.2))
        self.assertEqual(len(times), len(BOUNDS) + 2)

    def test_together(self) -> None:
        """Many at once are the same as one after the other; less than nothing is nothing."""
        seconds = (3.0, 0.5, -1.0, 0.0, 0.25, 1000.0, 0.5)
        one_by_one, together = new_times(), new_times()
        for each in seconds:
            observe(one_by_one, each)
        observe(together, *seconds)
        observe(together)
        self.assertEqual(together, one_by_one)
        self.assertEqual((together[0], together[-1]), (2, 1004.25))

    def test_noted(self) -> None:
        """What was noted is in its class when it is asked for, once, and in the same list is room for more."""
        timings = Timings()
        noted = timings.noted
        noted.append(0.5)
        self.assertEqual(count_of(timings.sort()), 1)
        noted.append(2.0)
        self.assertEqual((count_of(timings.sort()), timings.sort()[-1], noted), (2, 2.5, []))


class TalliesTests(SynchronousTestCase):
    """Which is whose."""

    def setUp(self) -> None:
        self.tallies = Tallies()

    def test_same(self) -> None:
        """Who comes back goes on where it was, with the timeout of now."""
        first = self.tallies.policy("111", 30.0)
        server = self.tallies.server(first, "100")
        self.assertIs(self.tallies.policy("111", 5.0), first)
        self.assertIs(self.tallies.server(first, "100"), server)
        self.assertEqual((first.timeout, first.name), (5.0, "111"))

    def test_apart(self) -> None:
        """A server is counted for each of its policies."""
        one, two = (self.tallies.policy(name, 30.0) for name in ("111", "222"))
        here, there = (self.tallies.server(policy, "100") for policy in (one, two))
        self.assertIsNot(here, there)
        self.assertIs(there.policy, two)

    def test_unserved(self) -> None:
        """A policy that never had a server makes no tally."""
        self.assertIsNone(self.tallies.unserved("111"))
        self.assertEqual(self.tallies.policies, {})
        tally = self.tallies.policy("111", 30.0)
        self.assertIs(self.tallies.unserved("111"), tally)

    def test_sweep(self) -> None:
        """What was noted doesn't get much, though nobody asks."""
        tally = self.tallies.server(self.tallies.policy("111", 30.0), "100")
        tally.times.noted.extend([0.1] * module.MANY)
        tally.total_times.noted.append(0.1)
        self.tallies.sweep()
        self.assertEqual((len(tally.times.noted), len(tally.total_times.noted)), (0, 1))
        self.assertEqual((count_of(tally.times.sort()), count_of(tally.total_times.sort())), (module.MANY, 1))

    def test_too_many_policies(self) -> None:
        """What is beyond is counted as one; what was there stays by itself."""
        self.patch(module, "MOST_POLICIES", 2)
        first, second, third, fourth = (self.tallies.policy(name, 30.0) for name in ("1", "2", "3", "4"))
        self.assertIs(third, fourth)
        self.assertEqual([*self.tallies.policies], ["1", "2", OTHERS])
        self.assertIs(self.tallies.policy("2", 30.0), second)
        self.assertIs(self.tallies.server(third, "100"), self.tallies.server(third, "200"))
        self.assertFalse(self.tallies.has_to_itself(self.tallies.server(third, "100"), "100"))
        self.assertTrue(self.tallies.has_to_itself(self.tallies.server(first, "100"), "100"))

    def test_too_many_servers(self) -> None:
        """The same, by policy, so that a policy's sum is right."""
        self.patch(module, "MOST_SERVERS", 2)
        one, two = (self.tallies.policy(name, 30.0) for name in ("1", "2"))
        first = self.tallies.server(one, "100")
        self.tallies.server(one, "200")
        third = self.tallies.server(one, "300")
        self.assertIs(third, self.tallies.server(one, "400"))
        self.assertIsNot(third, self.tallies.server(two, "300"))
        self.assertIs(self.tallies.server(one, "100"), first)
        self.assertFalse(self.tallies.has_to_itself(third, "300"))
        self.assertLessEqual(len(self.tallies.servers), 2 + 2)


def times(*seconds: float) -> Times:
    """Times of things that took so long."""
    found = new_times()
    observe(found, *seconds)
    return found


class QuantileTests(SynchronousTestCase):
    """As well as the classes tell."""

    def test_nothing(self) -> None:
        """There is none."""
        for share in (0.0, 0.5, 1.0):
            self.assertIsNone(quantile(new_times(), share))

    def test_within_a_class(self) -> None:
        """It is taken for evenly spread."""
        found = times(*[0.002] * 10)
        for share, expected in ((0.0, 0.001), (0.5, 0.00175), (1.0, 0.0025)):
            self.assertAlmostEqual(quantile(found, share) or 0, expected)

    def test_several_classes(self) -> None:
        """The class is the right one, empty ones between or not."""
        found = times(*[0.0005] * 90, *[0.3] * 9, 7.0)
        self.assertAlmostEqual(quantile(found, 0.9) or 0, 0.001)
        self.assertAlmostEqual(quantile(found, 0.99) or 0, 0.5)
        self.assertAlmostEqual(quantile(found, 0.995) or 0, 7.5)

    def test_beyond(self) -> None:
        """What took longer than the last bound counts as that."""
        self.assertEqual(quantile(times(100.0), 0.5), BOUNDS[-1])

    @given(st.lists(st.floats(0, 29), min_size=1), st.floats(0, 1))
    def test_any(self, seconds: list[float], share: float) -> None:
        """It is in the class of the thing that is so far from the shortest."""
        found = quantile(times(*seconds), share)
        assert found is not None
        ordered = sorted(seconds)
        below, above = (ordered[min(max(int(len(ordered) * share) - n, 0), len(ordered) - 1)] for n in (1, 0))
        low = max((bound for bound in (0.0, *BOUNDS) if bound < below), default=0.0)
        high = min(bound for bound in BOUNDS if bound >= above)
        self.assertTrue(low <= found <= high * (1 + 1e-9), (found, low, high))
