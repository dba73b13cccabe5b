"""A proxy, twenty servers and forty clients under faults, for a few seconds each; see :mod:`tests.chaos`."""

import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.chaos import oracle, plan, report, running
from tests.chaos.plan import Fault

#: Chosen so that each fault comes in one of them.
SEEDS = (3, 18, 22)
SECONDS = 3.0


class ChaosTests(SynchronousTestCase):
    """Each seed keeps every promise. A failure says how to run it again."""

    def run_seed(self, seed: int) -> None:
        """Run a seed, and fail with all that the oracle has to say."""
        with tempfile.TemporaryDirectory(prefix="rproxy-chaos-") as folder:
            history = running.run(plan.make(seed, SECONDS), Path(folder))
        violations = oracle.judge(history)

        self.assertFalse(violations, report.failure(history, violations))

    def test_first_seed(self) -> None:
        """Ordinary faults."""
        self.run_seed(SEEDS[0])

    def test_second_seed(self) -> None:
        """And a proxy that is restarted."""
        self.run_seed(SEEDS[1])

    def test_third_seed(self) -> None:
        """And a proxy that is killed."""
        self.run_seed(SEEDS[2])

    def test_seeds_have_every_fault(self) -> None:
        """Otherwise others have to be chosen."""
        found = {event.fault for seed in SEEDS for event in plan.make(seed, SECONDS).events}

        self.assertEqual(found, set(Fault))
