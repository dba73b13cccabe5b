"""What waits until the store was told of what happened before it."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.stores.telling import TOLD_TIMEOUT, Telling


class TellingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.telling = Telling(self.clock)
        self.done: list[str] = []

    def add(self, name: str, *, untold: bool) -> None:
        self.telling.add(lambda: self.done.append(name), untold=untold)

    def test_nothing_to_tell(self) -> None:
        self.add("a", untold=False)
        self.assertEqual(self.done, ["a"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_order(self) -> None:
        """What comes during the exchange, and has nothing to tell, isn't done before what waits for it."""
        self.add("a", untold=True)
        self.telling.begin()
        self.add("b", untold=False)
        self.add("c", untold=True)
        self.assertEqual(self.done, [])
        self.telling.end()
        self.assertEqual(self.done, ["a", "b"])
        self.telling.begin()
        self.telling.end()
        self.assertEqual(self.done, ["a", "b", "c"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_for_long(self) -> None:
        self.add("a", untold=True)
        self.telling.begin()
        self.add("b", untold=True)
        self.clock.advance(TOLD_TIMEOUT - 0.1)
        self.assertEqual(self.done, [])
        self.clock.advance(0.1)
        self.assertEqual(self.done, ["a", "b"])
        self.telling.end()
        self.assertEqual(self.done, ["a", "b"])

    def test_not_for_long_after_another_exchange(self) -> None:
        self.add("a", untold=True)
        self.telling.begin()
        self.add("b", untold=True)
        self.telling.end()
        self.assertEqual(self.done, ["a"])
        self.clock.advance(TOLD_TIMEOUT)
        self.assertEqual(self.done, ["a", "b"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_nothing_to_wait_for(self) -> None:
        self.add("a", untold=True)
        self.telling.begin()
        self.add("b", untold=True)
        self.telling.end_all()
        self.assertEqual(self.done, ["a", "b"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
