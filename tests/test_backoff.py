"""Waits that grow, and that differ."""

from __future__ import annotations

from unittest import TestCase

from rproxy.backoff import Backoff


class BackoffTests(TestCase):
    """Bounds, and what is drawn below them."""

    backoff = Backoff(0.5, 4.0)

    def test_bound(self) -> None:
        """It doubles up to the longest, and stays there however often."""
        self.assertEqual([self.backoff.bound(times) for times in range(1, 7)], [0.5, 1.0, 2.0, 4.0, 4.0, 4.0])
        self.assertEqual(self.backoff.bound(10**9), 4.0)

    def test_longest_at_first(self) -> None:
        """The first bound is no exception."""
        self.assertEqual(Backoff(2.0, 1.0).bound(1), 1.0)

    def test_full_jitter(self) -> None:
        """Anything from nothing to the bound, at the first time too."""
        for times, bound in (1, 0.5), (3, 2.0):
            for jitter in 0.0, 0.25, 1.0:
                self.assertEqual(self.backoff.seconds(times, jitter), bound * jitter)
