"""What other processes tell the registry."""

from __future__ import annotations

from rproxy.policies import Peer
from rproxy.registry import ConflictError, TooManyError
from rproxy.registry.records import NOBODY
from tests.registrycase import EAST, WEST, Connection, HeardCase, setup


class HeardTests(HeardCase):
    """What other processes tell counts as if it had been said here."""

    def test_found(self) -> None:
        self.hear(self.told("a", 5))
        self.assertEqual([each.key for each in self.found], [("111", "100")])
        self.hear(self.told("a", 5).ended())
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 no more")

    def test_later_one_without_a_lease(self) -> None:
        """It ends the lease that is held here, which keeps no other host's out then: what counts is found anew."""
        self.register(setup(lease=10.0))
        self.hear(self.told("a", 5, host=WEST))
        self.assertEqual(self.hosts(), {"100": f"{EAST}:5000"})
        self.hear(self.told(NOBODY, 6))
        self.assertEqual((self.displaced, self.hosts()), ([self.connection], {"100": f"{WEST}:5000"}))
        self.hear(self.told("a", 5, host=WEST).ended())
        self.assertEqual(self.hosts(), {"100": f"{EAST}:5000"})

    def test_own_records(self) -> None:
        """This process knows better."""
        self.hear(self.told("here", 5))
        self.assertEqual(self.found, [])

    def test_seen_again(self) -> None:
        """Once for each word that is news; for how long it is held is no other terms."""
        self.hear(self.told("a", 5))
        self.hear(self.told("b", 6, lease=20.0))
        self.hear(self.told("b", 6, lease=20.0))
        self.registry.reconsider()
        self.assertEqual((len(self.found), self.seen), (1, [("111", "100")]))

    def test_in_the_order_of_registration(self) -> None:
        """However the store has them: it is the order of their turns."""
        self.hear(self.told("a", 7, "102", port=5002), self.told("b", 5, "100"), self.told("a", 6, "101", port=5001))
        self.assertEqual([(each.server_id, each.number) for each in self.found], [("100", 1), ("101", 2), ("102", 3)])

    def test_its_lease_here_ends_and_anothers_stands(self) -> None:
        """It is found anew, as only another process would be told from now on if it went."""
        self.hear(self.told("a", 5))
        self.register(setup(lease=10.0))
        self.registry.release(self.connection)
        self.assertEqual([each.number for each in self.found], [1, 3])
        self.hear(self.told("a", 7))
        self.assertEqual((len(self.found), self.seen), (2, [("111", "100")]))

    def test_not_allowed(self) -> None:
        self.forbidden.add(("111", "100"))
        self.hear(self.told("a", 5))
        self.assertEqual((self.registry.standing, self.refused), ([], [(("111", "100"), "not allowed")]))
        self.forbidden.clear()
        self.registry.reconsider()
        self.assertEqual(len(self.registry.standing), 1)

    def test_a_newer_one_that_is_allowed_now(self) -> None:
        """Also where an older one stands."""
        self.hear(self.told("a", 5), self.told("b", 6, port=5001))
        self.forbidden.add(("111", "100"))
        self.registry.revoke(self.registry.standing[0], "no")
        self.assertEqual(self.registry.standing, [])
        self.forbidden.clear()
        self.registry.reconsider()
        self.assertEqual(self.hosts(), {"100": f"{EAST}:5001"})

    def test_conflict_with_a_lease_elsewhere(self) -> None:
        self.hear(self.told("a", 5, host=WEST))
        with self.assertRaises(ConflictError):
            self.register(setup(lease=10.0))

    def test_conflict_with_a_lease_elsewhere_that_has_to_end(self) -> None:
        """It isn't this host's, which was first, and which goes on; but nothing new of it could count before that."""
        self.register(setup(lease=10.0))
        self.hear(self.told("a", 1 << 50, host=WEST))
        self.clock.advance(9)
        self.renew(setup(lease=10.0))
        for other in setup(lease=10.0, drain=True), setup(lease=10.0), setup():
            with self.assertRaises(ConflictError):
                self.registry.register(other, Peer(EAST), Connection())
        self.clock.advance(9)
        self.assertEqual((self.registry.expire(), self.hosts()), ([], {"100": f"{EAST}:5000"}))

    def test_a_lease_elsewhere_that_ran_out_before_anybody_looked(self) -> None:
        """It is in nobody's way."""
        self.hear(self.told("a", 5, host=WEST))
        self.registry.lose_touch()
        self.clock.advance(10)
        self.register(setup(lease=10.0))
        self.registry.expire()
        self.assertEqual((self.conflicted, self.hosts()), ([], {"100": f"{EAST}:5000"}))

    def test_conflict_that_is_heard_of_later(self) -> None:
        """Whoever was second is refused, by the process that holds its lease."""
        self.clock.advance(1)
        self.register(setup(lease=10.0))
        self.changed.clear()
        self.hear(self.told("a", 5, host=WEST))
        self.assertEqual((self.conflicted, self.hosts()), ([(self.connection, EAST)], {"100": f"{WEST}:5000"}))
        self.assertEqual([each.registration for each in self.changed], [None])
        self.assertFalse(self.registry.is_owner(self.connection))

    def test_two_at_one_place_of_the_same_time(self) -> None:
        """All processes keep the same one, in whatever order they hear."""
        for order in (1, -1):
            self.registry = self.make(100)
            for record in [self.told("a", 5, "100"), self.told("b", 5, "101")][::order]:
                self.hear(record)
            self.assertEqual(self.hosts(), {"101": f"{EAST}:5000"})

    def test_whose_place_another_has_until_that_ends(self) -> None:
        """It is its holder's to end: where the newer one ends first, it still stands."""
        self.hear(self.told("a", 5, "100"))
        self.register(setup("101", lease=10.0))
        self.assertEqual(self.hosts(), {"101": f"{EAST}:5000"})
        self.registry.release(self.connection)
        self.assertEqual(self.hosts(), {"100": f"{EAST}:5000"})

    def test_moved_away_before_its_place_was_taken(self) -> None:
        """Both are heard of at once, the newcomer first: nothing of the one that moved is ended."""
        self.hear(self.told(NOBODY, 5, "100"))
        self.changed.clear()
        self.hear(self.told(NOBODY, 6, "101"), self.told(NOBODY, 7, "100", port=5001))
        self.assertEqual(self.hosts(), {"101": f"{EAST}:5000", "100": f"{EAST}:5001"})
        self.assertEqual(self.changed, [])

    def test_another_claim_on_it_is_elsewhere(self) -> None:
        """Only where it counts it takes a place."""
        self.hear(self.told("a", 5, "101"), self.told("c", 6, "100"), self.told("b", 8, "101", port=5001))
        self.assertEqual(self.hosts(), {"100": f"{EAST}:5000", "101": f"{EAST}:5001"})

    def test_a_place_of_one_without_a_lease(self) -> None:
        """It ends for all, and there is nobody to be told so."""
        self.register(setup())
        [mine] = self.changed
        self.hear(self.told("a", 1 << 50, "101"))
        self.assertEqual((self.changed, self.displaced), ([mine, mine.ended()], []))
        self.assertEqual(self.hosts(), {"101": f"{EAST}:5000"})

    def test_changed_places(self) -> None:
        self.hear(self.told("a", 5, "100"), self.told("b", 6, "101", port=5001))
        self.hear(self.told("a", 7, "100", port=5001), self.told("b", 8, "101"))
        self.assertEqual(self.hosts(), {"100": f"{EAST}:5001", "101": f"{EAST}:5000"})

    def test_a_lease_that_a_later_one_without_replaced(self) -> None:
        self.register(setup(lease=10.0))
        self.hear(self.told(NOBODY, 1 << 50))
        self.assertEqual((self.displaced, self.found), ([self.connection], []))
        self.register(setup(lease=10.0))
        self.assertEqual([each.holder for each in self.changed if each.registration is None], ["here", NOBODY])

    def test_what_a_setup_packet_replaces_ends_for_all(self) -> None:
        """Also older ones that this process hasn't heard of; the word on it that stays is told last."""
        former = Connection()
        self.register(setup())
        self.register(setup(lease=10.0), owner=former)
        self.register(setup(lease=10.0))
        self.register(setup())
        first, _, leased, again, _, last = self.changed
        self.assertEqual([each.holder for each in (first, leased, again, last)], [NOBODY, "here", "here", NOBODY])
        self.assertEqual(self.changed[1], first.ended(leased.version))
        self.assertEqual(self.changed[4], again.ended(last.version))
        self.assertEqual(self.displaced, [former])

    def test_an_end_is_of_what_was_known(self) -> None:
        """A registration that was made elsewhere meanwhile outlives it."""
        self.hear(self.told(NOBODY, 5))
        self.registry.forget(self.registry.without_lease[0], "down")
        self.assertEqual(self.changed, [self.told(NOBODY, 5).ended()])
        self.hear(self.told(NOBODY, 6))
        self.assertEqual(len(self.registry.standing), 1)

    def test_as_many_as_there_may_be(self) -> None:
        """Further ones wait until there is room, and come in by themselves."""
        self.registry = self.make(2)
        self.hear(*(self.told("a", number, str(number), port=number) for number in range(1, 5)))
        self.assertEqual(set(self.hosts()), {"1", "2"})
        self.hear(self.told("a", 1, "1", port=1).ended())
        self.registry.expire()
        self.assertEqual(set(self.hosts()), {"2", "3"})
        with self.assertRaises(TooManyError):
            self.register(setup("9"))
