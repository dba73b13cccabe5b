"""Packets that wait for the store's word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock, patch

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.stores import asking
from rproxy.stores.asking import ASK_TIMEOUT, Asking


def packet(size: int = 10) -> Any:
    return Mock(raw=b"x" * size)


class AskingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.answered: list[Any] = []
        self.asking = Asking(self.clock, self.answer)

    def answer(self, requests: Sequence[Any]) -> None:
        self.answered += requests

    def test_each_by_its_exchange(self) -> None:
        first, second = packet(), packet()
        self.assertTrue(self.asking.add(first))
        self.asking.begin()
        self.assertTrue(self.asking.add(second))
        self.asking.end()
        self.assertEqual(self.answered, [first])
        self.asking.begin()
        self.asking.end()
        self.assertEqual(self.answered, [first, second])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_for_long(self) -> None:
        first, second = packet(), packet()
        self.asking.add(first)
        self.asking.begin()
        self.asking.add(second)
        self.clock.advance(ASK_TIMEOUT)
        self.assertEqual(self.answered, [first, second])
        self.asking.end()
        self.assertEqual(self.answered, [first, second])

    def test_room(self) -> None:
        """Of so many packets, also while they are asked about, and of so many bytes; what is answered makes room."""
        for name, most, size in ("MOST_ASKED", 2, 10), ("MOST_ASKED_BYTES", 20, 10):
            with patch.object(asking, name, most):
                self.assertTrue(self.asking.add(packet(size)))
                self.asking.begin()
                self.assertTrue(self.asking.add(packet(size)))
                self.assertFalse(self.asking.add(packet(size)))
                self.asking.end()
                self.assertTrue(self.asking.add(packet(size)))
                self.assertFalse(self.asking.add(packet(size)))
                self.asking.end_all()
        self.assertEqual(len(self.answered), 6)
