"""By how much the reactor is late."""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.process.lag import INTERVAL, WINDOW, Lag


class LagTests(SynchronousTestCase):
    """Measured by a timer."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.lag = Lag(cast(IReactorTime, self.clock))
        self.lag.startService()

    def be_late(self, seconds: float) -> None:
        """The next look comes so late."""
        self.clock.advance(INTERVAL + seconds)

    def test_begin(self) -> None:
        """Nothing was late yet."""
        self.assertEqual((self.lag.last, self.lag.latest), (0.0, 0.0))

    def test_late(self) -> None:
        """The last, and the latest."""
        for seconds in (0.0, 2.5, 0.25):
            self.be_late(seconds)
        self.assertAlmostEqual(self.lag.last, 0.25)
        self.assertAlmostEqual(self.lag.latest, 2.5)

    def test_window(self) -> None:
        """The latest is forgotten after a minute of looks."""
        self.be_late(2.5)
        for _ in range(WINDOW - 1):
            self.be_late(0.0)
        self.assertAlmostEqual(self.lag.latest, 2.5)
        self.be_late(0.0)
        self.assertAlmostEqual(self.lag.latest, 0.0)

    def test_stop(self) -> None:
        """It leaves no timer behind, and can go on later."""
        self.lag.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.clock.advance(100)
        self.lag.startService()
        self.be_late(0.5)
        self.assertAlmostEqual(self.lag.latest, 0.5)
        self.lag.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_clock_set_back(self) -> None:
        """Nothing is early."""
        # By the time of the calls it is due; by the clock's, which was set back, it is long before.
        self.patch(self.clock, "seconds", lambda: -100.0)
        self.clock.advance(INTERVAL)
        self.assertEqual(self.lag.last, 0.0)
