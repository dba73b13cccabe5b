"""Tests for ``rproxy.stores.replica``: one process and the store, which can be away, hang, fail halfway, lose all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.packets import Setup
from rproxy.policies import Peer
from rproxy.registry import Registry
from rproxy.registry.claims import Claims
from rproxy.registry.records import NOBODY, Record
from rproxy.registry.registration import Key, Registration
from rproxy.registry.standing import Observer
from rproxy.request import Request
from rproxy.stores import PRESENCE, Message, News, Position
from rproxy.stores import replica as module
from rproxy.stores.asking import ASK_TIMEOUT
from rproxy.stores.replica import ASK_INTERVAL, BEAT, Replica
from tests.links import HANGS, Link, SharedStore

EAST, WEST = "10.0.0.1", "10.0.0.2"
LEASE = 10.0


class Asker:
    def deliver(self, now: float) -> None:
        """Nobody waits."""

    def deliver_soon(self) -> None:
        """See above."""


class Process:
    """One process."""

    def __init__(self, clock: Clock, name: str, link: Link) -> None:
        self.link = link
        self.answered: list[Request] = []
        self.sharers: list[int] = []
        observer = Observer(lambda _: None, lambda _: None)
        self.registry = Registry(clock.seconds, observer, Claims(name, clock.seconds))
        the_clock: Any = clock
        self.replica = Replica(
            link, self.registry, the_clock, self._answer, self.sharers.append, lambda: None, lambda: 0.5
        )
        observer.changed, observer.renewed = self.replica.changed, self.replica.renewed

    def _answer(self, requests: Sequence[Request]) -> None:
        self.answered += requests

    def register(self, server_id: str, *, host: str = EAST, lease: float | None = LEASE, port: int = 5000) -> None:
        setup = Setup(type="1", id=server_id, policy="111", listenport=port, lease=lease)
        self.registry.register(setup, Peer(host), self)

    def ask(self) -> Request | None:
        request = Request(b"", "222", "1", 0.0, Asker())
        return request if self.replica.ask(request) else None

    @property
    def knows(self) -> list[Key]:
        return sorted(each.key for each in self.registry.standing)


class StuckStore:
    """One that promises, and never answers a second time."""

    def __init__(self) -> None:
        self.asked = 0

    def open(self, changed: object) -> Deferred[None]:
        return succeed(None)

    def exchange(self, message: Message) -> Deferred[News]:
        self.asked += 1
        if self.asked > 1:
            return Deferred()
        terms = Registration("111", "9", EAST, 5000, pipeline=4, lease=15.0)
        return succeed(News(Position("life", 1), [Record("111", "9", "other", 5, terms)], True, (), 2, 15.0))

    def close(self) -> Deferred[None]:
        return Deferred()


class StuckTests(SynchronousTestCase):
    """A store that breaks its promise to say within some seconds that it can't."""

    def setUp(self) -> None:
        self.clock = Clock()
        store: Any = StuckStore()
        self.process = Process(self.clock, "a", store)
        self.process.replica.startService()

    def pass_(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.process.registry.expire()

    def test_leases_of_others_end(self) -> None:
        self.assertEqual(self.process.knows, [("111", "9")])
        self.pass_(60)
        self.assertEqual(self.process.knows, [])
        self.assertIn("within 5 seconds", self.process.replica.away or "")

    def test_stop(self) -> None:
        self.pass_(17)
        stopped = self.process.replica.stopService()
        assert stopped is not None
        self.assertNoResult(stopped)
        self.pass_(4)
        self.successResultOf(stopped)
        again = self.process.replica.stopService()
        assert again is not None
        self.successResultOf(again)


class ReplicaCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.store = SharedStore(self.clock)
        self.a, self.b = self.process("a"), self.process("b")

    def process(self, name: str) -> Process:
        process = Process(self.clock, name, self.store.link())
        process.replica.startService()
        self.clock.advance(0)
        return process

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)


class TellingTests(ReplicaCase):
    def test_at_once(self) -> None:
        self.a.register("100")
        self.clock.advance(0)
        self.assertEqual(self.b.knows, [("111", "100")])
        self.a.registry.release(self.a)
        self.clock.advance(0)
        self.assertEqual(self.b.knows, [])

    def test_nothing_to_say(self) -> None:
        """Now and then in any case: so both know how many they are."""
        before = self.a.link.exchanges
        self.advance(2 * BEAT)
        self.assertEqual(self.a.link.exchanges - before, 2)
        self.assertEqual((self.a.sharers[-1], self.b.sharers[-1]), (2, 2))

    def test_renewals_are_gathered(self) -> None:
        for number in range(20):
            self.a.register(str(number), port=5000 + number)
        self.clock.advance(0)
        before = self.a.link.exchanges
        for number in range(20):
            self.a.register(str(number), port=5000 + number)
        self.advance(1)
        self.assertEqual(self.a.link.exchanges - before, 1)
        self.assertEqual(len(self.a.link.messages[-1].renewed), 20)

    def test_a_lease_told_late_is_no_longer_for_that(self) -> None:
        self.a.link.cut()
        self.a.register("100")
        self.advance(6)
        self.a.link.heal()
        self.advance(2)
        self.assertEqual(self.b.knows, [("111", "100")])
        self.a.link.cut()
        self.advance(LEASE - 8 + 0.25)
        self.assertEqual(self.b.knows, [])

    def test_ends_that_nobody_could_be_told_of(self) -> None:
        """Are kept up to a number; what stands is kept, however much that is."""
        self.patch(module, "MOST_PENDING", 3)
        self.a.link.cut()
        self.advance(6)
        for number in range(5):
            self.a.register(str(number), lease=None, port=5000 + number)
        self.assertEqual(len(self.a.replica._pending), 5)
        for record in self.a.registry.without_lease:
            self.a.registry.forget(record, "down")
        self.assertLessEqual(len(self.a.replica._pending), 3)


class FailureTests(ReplicaCase):
    def test_before_or_after_it_was_done(self) -> None:
        """What was told is told again, and counts once."""
        for server_id, mode in (("100", "before"), ("101", "after")):
            self.a.link.fail_once(mode)
            self.a.register(server_id, port=int(server_id))
            self.advance(1)
            self.assertIn(("111", server_id), self.b.knows)
            self.a.link.fail_once(mode)
            self.a.registry.release(self.a)
            self.advance(1)
            self.assertEqual(self.b.knows, [])

    def test_an_end_that_was_not_heard(self) -> None:
        """It is told again, and not undone by what the store still has."""
        self.a.register("100", lease=None)
        self.clock.advance(0)
        self.a.link.fail_once("before")
        self.a.registry.forget(self.a.registry.without_lease[0], "down")
        self.advance(2)
        self.assertEqual((self.a.knows, self.b.knows), ([], []))

    def test_an_end_while_what_it_ends_is_told(self) -> None:
        """What came later counts, though what came before is told again."""
        self.a.link.mode = "hang"
        self.a.register("100", lease=None)
        self.clock.advance(0)
        self.a.registry.forget(self.a.registry.without_lease[0], "down")
        self.a.link.cut()
        (pending,) = self.a.replica._pending.values()
        self.assertIsNone(pending.registration)
        self.a.link.heal()
        self.advance(3)
        self.assertEqual((self.a.knows, self.b.knows), ([], []))

    def test_an_end_that_there_was_no_room_for(self) -> None:
        """It is told once both sides are compared."""
        no_room = self.patch(module, "MOST_PENDING", 0)
        self.a.register("100")
        self.clock.advance(0)
        self.a.link.cut()
        self.a.registry.release(self.a)
        no_room.restore()
        self.assertEqual((self.a.replica._pending, self.b.knows), ({}, [("111", "100")]))
        self.advance(BEAT)
        self.a.link.heal()
        self.advance(3)
        self.assertEqual(self.b.knows, [])

    def test_hanging(self) -> None:
        """It counts as away once it says so itself; until then nothing is lost."""
        self.a.link.mode = "hang"
        self.a.register("100")
        self.advance(1)
        self.a.register("101", port=5001)
        self.assertIsNone(self.a.replica.away)
        self.advance(HANGS)
        self.assertIsNotNone(self.a.replica.away)
        self.a.link.heal()
        self.advance(2)
        self.assertIsNone(self.a.replica.away)
        self.assertEqual(self.b.knows, [("111", "100"), ("111", "101")])

    def test_what_ended_while_the_store_thought(self) -> None:
        """The news of it come from before, and don't bring it back."""
        self.a.register("100", lease=None)
        self.clock.advance(0)
        self.a.link.fail_once("after")
        self.advance(BEAT)
        self.a.link.mode = "hang"
        self.advance(BEAT)
        [record] = self.a.registry.without_lease
        self.a.registry.forget(record, "down")
        self.a.replica._position = None
        self.a.link.heal()
        self.assertEqual(self.a.knows, [])
        self.clock.advance(0)
        self.assertEqual((self.a.knows, self.b.knows), ([], []))

    def test_a_broken_store(self) -> None:
        """An error that none may raise is logged, and then it counts as away."""
        self.b.register("100")
        self.clock.advance(0)
        self.a.link.mode = "broken"
        self.advance(BEAT)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIsNotNone(self.a.replica.away)
        self.assertIsNone(self.a.ask())
        self.advance(LEASE)
        self.a.registry.expire()
        self.assertEqual(self.a.knows, [])
        self.a.link.heal()
        self.advance(3)
        self.assertIsNone(self.a.replica.away)

    def test_what_it_cannot_go_on_from(self) -> None:
        """That is logged when it happens, and the store counts as away."""

        def mistake() -> None:
            raise ZeroDivisionError

        self.a.link.mode = "hang"
        for server_id, port in (("100", 5000), ("101", 5001)):
            self.a.register(server_id, port=port)
            self.a.replica.when_told(mistake)
            self.clock.advance(0)
        self.a.link.cut()
        # One for who waited for the exchange, and one for who waited for the next.
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertIsNotNone(self.a.replica.away)
        stopped = self.a.replica.stopService()
        assert stopped is not None
        self.successResultOf(stopped)

    def test_everything_lost(self) -> None:
        """All is put back, in the order in which it was said: also without anybody having been away."""
        self.a.register("100")
        self.b.register("101", lease=None, port=5001)
        self.b.register("100", port=5002)
        self.clock.advance(0)
        self.store.lose_everything()
        self.advance(BEAT + 2)
        c = self.process("c")
        self.assertEqual(c.knows, [("111", "100"), ("111", "101")])
        self.assertEqual({each.port for each in c.registry.standing}, {5001, 5002})

    def test_a_lease_put_back_is_no_longer_for_that(self) -> None:
        self.a.register("100")
        self.advance(4)
        self.store.lose_everything()
        self.advance(2)
        self.assertEqual(self.b.knows, [("111", "100")])
        self.a.link.cut()
        self.advance(LEASE - 6 + 0.25)
        self.assertEqual(self.b.knows, [])

    def test_some_lost(self) -> None:
        """The store has an older record than was told: it gets the newer one again."""
        self.a.register("100", port=5000)
        self.clock.advance(0)
        old = self.store.ledger._kept.copy()
        self.a.register("100", port=5001)
        self.a.register("101", lease=None, port=5002)
        self.clock.advance(0)
        self.store.lose_everything()
        self.store.ledger._kept.update(old)
        self.advance(BEAT + 2)
        c = self.process("c")
        self.assertEqual({each.port for each in c.registry.standing}, {5001, 5002})

    def test_ended_in_the_store_meanwhile(self) -> None:
        """Its holder, who was cut off, still has it: it comes back for all, as old as it was."""
        self.a.register("100")
        self.clock.advance(0)
        self.a.link.cut()
        for _ in range(3):
            self.advance(5)
            self.a.register("100")
        self.assertEqual(self.b.knows, [])
        self.b.register("100", host=WEST)
        self.clock.advance(0)
        self.a.link.heal()
        self.advance(2)
        self.assertEqual([each.host for each in self.b.registry.standing], [EAST])
        self.assertEqual([each.host for each in self.a.registry.standing], [EAST])

    def test_ended_elsewhere_meanwhile(self) -> None:
        self.a.register("100", lease=None)
        self.clock.advance(0)
        self.b.link.cut()
        [record] = self.a.registry.without_lease
        self.a.registry.forget(record, "down")
        self.advance(10)
        self.b.link.heal()
        self.advance(3)
        self.assertEqual((self.a.knows, self.b.knows), ([], []))


class AskingTests(ReplicaCase):
    def test_answered_by_the_next_exchange(self) -> None:
        request = self.a.ask()
        self.assertEqual(self.a.answered, [])
        self.clock.advance(ASK_INTERVAL)
        self.assertEqual(self.a.answered, [request])

    def test_seldom(self) -> None:
        before = self.a.link.exchanges
        for _ in range(20):
            self.a.ask()
            self.clock.advance(ASK_INTERVAL / 10)
        self.clock.advance(ASK_INTERVAL)
        self.assertEqual(len(self.a.answered), 20)
        self.assertLessEqual(self.a.link.exchanges - before, 3)

    def test_no_longer_than_that(self) -> None:
        self.a.link.mode = "hang"
        request = self.a.ask()
        self.clock.advance(ASK_TIMEOUT - 0.1)
        self.assertEqual(self.a.answered, [])
        self.clock.advance(0.1)
        self.assertEqual(self.a.answered, [request])
        self.a.link.heal()
        self.clock.advance(1)
        self.assertEqual(self.a.answered, [request])

    def test_not_while_it_is_away(self) -> None:
        """Who asked before that is answered when it is known."""
        request = self.a.ask()
        self.a.link.cut()
        self.clock.advance(ASK_INTERVAL)
        self.assertEqual(self.a.answered, [request])
        self.assertIsNone(self.a.ask())
        self.a.link.heal()
        self.advance(2)
        self.assertIsNotNone(self.a.ask())

    def test_who_asked_when_it_stopped(self) -> None:
        self.a.link.mode = "hang"
        request = self.a.ask()
        self.clock.advance(ASK_INTERVAL)
        self.a.replica.stopService()
        self.a.link.cut()
        self.assertEqual(self.a.answered, [request])


class StopTests(ReplicaCase):
    def stop(self) -> Deferred[None]:
        stopped = self.a.replica.stopService()
        assert stopped is not None
        return stopped

    def test_it_leaves(self) -> None:
        """And says nothing of what ends then."""
        self.a.register("100")
        self.a.register("101", lease=None, port=5001)
        self.successResultOf(self.stop())
        self.a.registry.release(self.a)
        self.clock.advance(0)
        self.assertEqual(self.b.knows, [("111", "100"), ("111", "101")])
        self.advance(BEAT)
        self.assertEqual(self.b.sharers[-1], 1)
        self.advance(LEASE - BEAT)
        self.assertEqual(self.b.knows, [("111", "101")])
        self.assertNotIn(self.a.link, self.store.links)

    def test_while_it_is_away(self) -> None:
        self.a.link.cut()
        self.advance(BEAT)
        self.successResultOf(self.stop())
        self.advance(PRESENCE + BEAT)
        self.assertEqual(self.b.sharers[-1], 1)

    def test_while_it_thinks(self) -> None:
        self.a.link.mode = "hang"
        self.a.register("100", lease=None)
        self.clock.advance(0)
        stopped = self.stop()
        self.assertNoResult(stopped)
        self.a.link.heal()
        self.successResultOf(stopped)
        self.clock.advance(0)
        self.assertEqual(self.b.knows, [("111", "100")])
        self.assertEqual([record.holder for record in self.b.registry.without_lease], [NOBODY])
