"""Tests for ``rproxy.stores``: its rules by the clock, and the contract for ``memory:``."""

from __future__ import annotations

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rproxy.registry.records import NOBODY
from rproxy.stores import ENDS, LEASED_ENDS, PRESENCE, Message, News, Position, Store
from rproxy.stores.ledger import Ledger
from rproxy.stores.memory import Memory, MemoryStore
from tests.contract import StoreContract, record


class MemoryStoreTests(StoreContract, TestCase):
    """The contract."""

    def setUp(self) -> None:
        assert IReactorTime.providedBy(reactor)
        self.memory = Memory(Ledger("life", reactor.seconds))

    def make_store(self) -> Store:
        return MemoryStore(self.memory)


class LedgerTests(SynchronousTestCase):
    """What takes too long for a contract."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ledger = Ledger("life", self.clock.seconds)

    def tell(self, message: Message) -> News:
        return self.ledger.exchange(message)

    def position(self) -> Position:
        return Position("life", self.ledger.sequence)

    def test_a_lease_runs_out_in_time(self) -> None:
        """Not before, and not after."""
        leased = record(holder="a", lease=15.0)
        self.tell(Message("a", records=[leased]))

        self.clock.advance(14.9)
        self.assertEqual(self.tell(Message("b")).records, [leased])
        self.clock.advance(0.1)

        self.assertEqual(self.tell(Message("b")).records, [leased.ended()])

    def test_a_renewal_says_how_long(self) -> None:
        """It may come later than it was made."""
        leased = record(holder="a", lease=15.0)
        self.tell(Message("a", records=[leased]))
        self.clock.advance(5)

        self.assertEqual(self.tell(Message("a", renewed={leased.key: 14.0})).wait, 14.0)
        self.clock.advance(14)

        self.assertEqual(self.tell(Message("b")).records, [leased.ended()])

    def test_an_end_is_forgotten(self) -> None:
        """Later where nobody else would notice; and who wasn't told meanwhile is told everything."""
        leased, other = record("1", holder="a", lease=1.0), record("2", holder=NOBODY)
        self.tell(Message("a", records=[leased, other.ended()]))
        early = self.position()
        self.clock.advance(1)
        self.assertFalse(self.tell(Message("b", early)).complete)

        self.clock.advance(LEASED_ENDS)

        late = self.tell(Message("b", early))
        self.assertEqual((late.complete, late.records), (True, [other.ended()]))
        self.assertFalse(self.tell(Message("b", late.position)).complete)
        self.clock.advance(ENDS - LEASED_ENDS)
        self.assertEqual(self.tell(Message("b")).records, [])

    def test_there_is_room_for_so_many_ends(self) -> None:
        """The oldest are forgotten, and who wasn't told of them is told everything; what stands stays."""
        self.ledger = Ledger("life", self.clock.seconds, most_ends=2)
        self.tell(Message("a", records=[record("0"), record("1").ended(), record("2").ended()]))
        early = self.position()
        self.assertFalse(self.tell(Message("b", early)).complete)
        self.tell(Message("a", records=[record("3").ended(), record("4").ended(), record("5").ended()]))

        everything = [record("0"), record("4").ended(), record("5").ended()]
        late = self.tell(Message("b", early))
        self.assertEqual((late.complete, late.records), (True, everything))
        self.assertFalse(self.tell(Message("b", late.position)).complete)

    def test_who_says_nothing_is_gone(self) -> None:
        self.tell(Message("a"))
        self.clock.advance(PRESENCE / 2)
        self.tell(Message("b"))
        self.clock.advance(PRESENCE / 2)

        self.assertEqual(self.tell(Message("c")).processes, 2)

    def test_an_end_that_comes_late(self) -> None:
        """Of a record that was never seen here: it is kept, so that the record doesn't come after it."""
        self.tell(Message("a", records=[record(version=3).ended()]))

        self.tell(Message("b", records=[evolve(record(version=3), down=1.0)]))

        self.assertEqual(self.tell(Message("c")).records, [record(version=3).ended()])
