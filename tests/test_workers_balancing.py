"""Which worker accepts, by how many connections all have."""

from __future__ import annotations

import os
from functools import partial

from twisted.trial.unittest import SynchronousTestCase

from rproxy.workers.balancing import LEAD, LEAD_SHARE, Board, make_board


class BoardTests(SynchronousTestCase):
    def setUp(self) -> None:
        descriptor = make_board(3)
        self.counts = [0, 0, 0]
        self.boards = [Board(descriptor, 3, number, partial(self.count, number)) for number in (1, 2, 3)]
        os.close(descriptor)

    def count(self, number: int) -> int:
        return self.counts[number - 1]

    def have(self, *counts: int) -> None:
        """The workers have so many connections, and all know it."""
        self.counts[:] = counts
        for board in self.boards:
            board.write()

    def test_a_small_lead(self) -> None:
        """It isn't worth the wait."""
        self.have(LEAD, 0, 0)
        self.assertEqual([board.gives_way() for board in self.boards], [False] * 3)

    def test_more_than_that(self) -> None:
        """Of whichever other worker; and the one that has least takes what comes."""
        self.have(LEAD + 1, LEAD, 0)
        self.assertEqual([board.gives_way() for board in self.boards], [True, False, False])

    def test_many(self) -> None:
        """The lead grows with what there is."""
        least = 100 * LEAD_SHARE
        self.have(least + LEAD + 100, least + LEAD + 101, least)
        self.assertEqual([board.gives_way() for board in self.boards], [False, True, False])

    def test_its_own_number_is_always_the_present_one(self) -> None:
        self.have(50, 0, 0)
        self.counts[0] = 0
        self.assertFalse(self.boards[0].gives_way())

    def test_one_that_begins_anew(self) -> None:
        """It has none of what the one before it had."""
        descriptor = make_board(2)
        first = Board(descriptor, 2, 1, lambda: 10)
        Board(descriptor, 2, 2, lambda: 10)
        self.assertFalse(first.gives_way())
        Board(descriptor, 2, 2, lambda: 0)
        self.assertTrue(first.gives_way())
        os.close(descriptor)
