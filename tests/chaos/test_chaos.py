"""A proxy, twenty servers and forty clients under faults, for a few seconds each; see :mod:`tests.chaos`."""

import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.chaos import agreement, oracle, plan, report, running
from tests.chaos.plan import Fault

#: With the number of workers, and chosen so that each fault comes in one of them.
SEEDS = ((22, 1), (18, 2), (37, 2))
SECONDS = 3.0


class ChaosTests(SynchronousTestCase):
    """Each seed keeps every promise. A failure says how to run it again."""

    def run_seed(self, seed: int, workers: int) -> None:
        """Run a seed, and fail with all that the oracle has to say."""
        with tempfile.TemporaryDirectory(prefix="rproxy-chaos-") as folder:
            history = running.run(plan.make(seed, SECONDS, workers=workers), Path(folder))
        violations = [*oracle.judge(history), *agreement.judge(history)]

        self.assertFalse(violations, report.failure(history, violations))

    def test_first_seed(self) -> None:
        """Ordinary faults, and a proxy that is killed, and knows its classic servers from a file."""
        self.run_seed(*SEEDS[0])

    def test_second_seed(self) -> None:
        """And workers that are killed and stopped, and restarted all together."""
        self.run_seed(*SEEDS[1])

    def test_third_seed(self) -> None:
        """And a parent that is killed, with registrations in a file, and an audit trail of each worker."""
        self.run_seed(*SEEDS[2])

    def test_seeds_have_every_fault(self) -> None:
        """Otherwise others have to be chosen."""
        plans = [plan.make(seed, SECONDS, workers=workers) for seed, workers in SEEDS]

        self.assertEqual({event.fault for made in plans for event in made.events}, set(Fault))
        for name in ("durable", "policies", "retry", "audit"):
            self.assertEqual({getattr(made.proxy, name) for made in plans}, {True, False}, name)
