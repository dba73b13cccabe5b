"""The garbage collector's settings while the proxy runs."""

from __future__ import annotations

import gc

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.process.collecting import THRESHOLD, CollectorService


class CollectorTests(SynchronousTestCase):
    def setUp(self) -> None:
        before = gc.get_threshold()
        self.reactor = MemoryReactorClock()
        self.service = CollectorService(self.reactor)
        self.addCleanup(gc.set_threshold, *before)
        self.addCleanup(gc.unfreeze)

    def test_while_it_runs(self) -> None:
        """Set at the start and set back at the end."""
        gc.set_threshold(123, 4, 5)
        self.service.startService()
        self.assertEqual(gc.get_threshold(), THRESHOLD)
        self.service.stopService()
        self.assertEqual(gc.get_threshold(), (123, 4, 5))

    def test_what_start_up_made(self) -> None:
        """It is left alone once the reactor runs, until the end."""
        gc.unfreeze()
        self.service.startService()
        self.assertEqual(gc.get_freeze_count(), 0)
        self.reactor.run()
        self.assertGreater(gc.get_freeze_count(), 1000)
        self.service.stopService()
        self.assertEqual(gc.get_freeze_count(), 0)

    def test_stopped_before_the_reactor_ran(self) -> None:
        """Then there is nothing to leave alone."""
        gc.unfreeze()
        self.service.startService()
        self.service.stopService()
        self.reactor.run()
        self.assertEqual(gc.get_freeze_count(), 0)
