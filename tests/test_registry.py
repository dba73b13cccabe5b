"""Who serves which policy: what replaces, renews, conflicts with and ends a registration."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.packets import Setup
from rproxy.policies import Peer, digest
from rproxy.registry import ConflictError, Registry, TooManyError
from rproxy.registry.claims import Claims
from rproxy.registry.records import NOBODY, Record
from rproxy.registry.registration import Key, Registration
from rproxy.registry.standing import Observer

EAST, WEST = "10.0.0.1", "10.0.0.2"


class Connection:
    """A setup connection, as far as the registry knows one."""


class Router:
    """Whoever is told of the changes: it can't lose what it doesn't have."""

    def __init__(self) -> None:
        self.standing: dict[Key, Registration] = {}
        self.heard: list[str] = []

    def registered(self, registration: Registration) -> None:
        self.standing[registration.key] = registration
        self.heard.append(f"{registration.server_id} serves {registration.policy} at {registration.host}")

    def ended(self, registration: Registration) -> None:
        assert self.standing.pop(registration.key) is registration
        self.heard.append(f"{registration.server_id} serves {registration.policy} no more")


def setup(server_id: str = "100", policy: str = "111", port: int = 5000, **modern: Any) -> Setup:
    return Setup(type="1", id=server_id, policy=policy, listenport=port, **modern)


class RegistryCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.router = Router()
        self.forbidden: set[Key] = set()
        self.registry = self.make_registry()
        self.connection = Connection()

    def make_registry(self, displaced: Callable[[object], object] = lambda owner: None, **limits: int) -> Registry:
        observer = Observer(self.router.registered, self.router.ended, displaced=displaced, refuses=self.refuses)
        return Registry(self.clock.seconds, observer, Claims("here", self.clock.seconds), **limits)

    def refuses(self, registration: Registration) -> str | None:
        return "not allowed" if registration.key in self.forbidden else None

    def register(self, setup: Setup, host: str = EAST, owner: object | None = None) -> Registration:
        registration = self.registry.register(setup, Peer(host), owner or self.connection)
        assert registration is not None, "it was a renewal"
        return registration

    def renew(self, setup: Setup, host: str = EAST, owner: object | None = None) -> None:
        self.assertIsNone(self.registry.register(setup, Peer(host), owner or self.connection))

    def assert_heard(self, *lines: str) -> None:
        """The router heard just this since the last time."""
        heard, self.router.heard[:] = list(self.router.heard), []
        self.assertEqual(list(lines), heard)


class TermsTests(RegistryCase):
    """What a setup packet says, and what stands for what it leaves out."""

    def test_a_classic_server(self) -> None:
        registration = self.register(setup("100", "111", 5000))
        self.assertEqual(
            Registration(policy="111", server_id="100", host=EAST, port=5000, connections=8, number=1), registration
        )
        self.assertEqual(("111", "100"), registration.key)
        self.assertEqual((EAST, 5000), registration.address)
        self.assertIsNone(registration.pipeline)
        self.assertIsNone(registration.lease)

    def test_a_modern_server(self) -> None:
        self.assertEqual(
            Registration("111", "100", EAST, 5000, 16, 4, weight=3, draining=True, lease=10.0, number=1),
            self.register(setup(pipeline=16, connections=4, weight=3, drain=True, lease=10.0)),
        )

    def test_one_connection_where_packets_are_pipelined(self) -> None:
        self.assertEqual(1, self.register(setup(pipeline=16)).connections)

    def test_as_many_connections_as_a_pipelining_server_asks_for(self) -> None:
        self.assertEqual(64, self.register(setup(pipeline=16, connections=64)).connections)

    def test_a_server_without_pipeline_may_ask_for_fewer_connections_but_not_for_more_than_its_backlog_holds(
        self,
    ) -> None:
        self.assertEqual(3, self.register(setup(connections=3)).connections)
        self.assertEqual(8, self.register(setup(connections=9)).connections)

    def test_each_registration_has_a_number_of_its_own(self) -> None:
        numbers = [self.register(setup(server_id)).number for server_id in ("100", "101", "100")]
        self.assertEqual([1, 2, 3], numbers)


class ClassicTests(RegistryCase):
    """Registrations without a lease stand."""

    def test_they_outlast_the_connection_and_time(self) -> None:
        self.register(setup())
        self.registry.release(self.connection)
        self.clock.advance(1e9)
        self.assertEqual([], self.registry.expire())
        self.assert_heard("100 serves 111 at 10.0.0.1")

    def test_they_do_not_keep_the_connection_in_memory(self) -> None:
        connection = Connection()
        gone = weakref.ref(connection)
        self.register(setup(), owner=connection)
        self.registry.release(connection)
        del connection
        gc.collect()
        self.assertIsNone(gone())

    def test_each_further_setup_packet_replaces_them(self) -> None:
        first = self.register(setup())
        second = self.register(setup())
        self.assertEqual(evolve(first, number=2), second)
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 at 10.0.0.1")

    def test_also_one_from_another_host(self) -> None:
        self.register(setup(), EAST)
        self.register(setup(), WEST)
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 at 10.0.0.2")

    def test_a_lease_replaces_them_and_ends(self) -> None:
        self.register(setup(), EAST)
        self.register(setup(lease=10.0), WEST)
        self.registry.release(self.connection)
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 at 10.0.0.2", "100 serves 111 no more")

    def test_one_that_replaces_a_lease_of_the_same_connection_stands(self) -> None:
        self.register(setup(lease=10.0))
        self.register(setup())
        self.clock.advance(20)
        self.registry.expire()
        self.registry.release(self.connection)
        self.assertEqual({("111", "100")}, set(self.router.standing))


class LeaseTests(RegistryCase):
    """Registrations with a lease end, and not before."""

    def test_a_lease_ends_on_time(self) -> None:
        self.register(setup(lease=10.0))
        self.clock.advance(9.99)
        self.assertEqual([], self.registry.expire())
        self.assert_heard("100 serves 111 at 10.0.0.1")
        self.clock.advance(0.01)
        self.assertEqual([self.connection], self.registry.expire())
        self.assert_heard("100 serves 111 no more")
        self.assertEqual([], self.registry.expire())
        self.assert_heard()

    def test_the_same_packet_again_renews_it_and_is_no_news_to_anybody(self) -> None:
        self.register(setup(lease=10.0))
        for _renewal in range(5):
            self.clock.advance(9)
            self.registry.expire()
            self.renew(setup(lease=10.0))
        self.assert_heard("100 serves 111 at 10.0.0.1")
        self.clock.advance(10)
        self.registry.expire()
        self.assert_heard("100 serves 111 no more")

    def test_a_renewal_that_is_late_but_before_anybody_noticed_is_one(self) -> None:
        self.register(setup(lease=10.0))
        self.clock.advance(10.1)
        self.renew(setup(lease=10.0))
        self.assertEqual([], self.registry.expire())

    def test_after_the_end_the_same_packet_registers_anew(self) -> None:
        self.register(setup(lease=10.0))
        self.clock.advance(10)
        self.registry.expire()
        self.register(setup(lease=10.0))
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 no more", "100 serves 111 at 10.0.0.1")

    def test_other_terms_make_it_a_new_registration(self) -> None:
        first = setup(lease=10.0, pipeline=4)
        self.register(first)
        changes: list[dict[str, Any]] = [
            {"port": 5001},
            {"pipeline": 8},
            {"pipeline": 4, "connections": 2},
            {"weight": 2},
            {"lease": 11.0},
            {"drain": True},
            {},
        ]
        for number, change in enumerate(changes, 2):
            registration = self.register(setup(**{"lease": 10.0, "pipeline": 4, **change}))
            self.assertEqual(number, registration.number)
        self.assertEqual(["100 serves 111 at 10.0.0.1"] * 8, self.router.heard)

    def test_a_new_registration_has_a_new_lease(self) -> None:
        self.register(setup(lease=10.0))
        self.clock.advance(9)
        self.register(setup(lease=20.0))
        self.clock.advance(19)
        self.assertEqual([], self.registry.expire())
        self.clock.advance(1)
        self.assertEqual([self.connection], self.registry.expire())

    def test_a_lease_ends_with_its_connection(self) -> None:
        self.register(setup(lease=10.0))
        self.registry.release(self.connection)
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 no more")
        self.registry.release(self.connection)
        self.clock.advance(10)
        self.assertEqual([], self.registry.expire())
        self.assert_heard()

    def test_a_connection_ends_only_its_own_and_only_leases(self) -> None:
        other = Connection()
        self.register(setup("100", "111", lease=10.0))
        self.register(setup("100", "222", lease=10.0))
        self.register(setup("100", "333"))
        self.register(setup("101", "111", 5001, lease=10.0), owner=other)
        self.router.heard.clear()
        self.registry.release(self.connection)
        self.assertEqual({"100 serves 111 no more", "100 serves 222 no more"}, set(self.router.heard))
        self.assertEqual({("333", "100"), ("111", "101")}, set(self.router.standing))

    def test_of_two_leases_of_one_connection_each_has_its_own_time(self) -> None:
        self.register(setup("100", "111", lease=10.0))
        self.register(setup("100", "222", lease=20.0))
        self.clock.advance(10)
        self.registry.expire()
        self.assertEqual({("222", "100")}, set(self.router.standing))
        self.registry.release(self.connection)
        self.assertEqual({}, self.router.standing)

    def test_whoever_has_nothing_ends_nothing(self) -> None:
        self.register(setup(lease=10.0))
        self.registry.release(Connection())
        self.assert_heard("100 serves 111 at 10.0.0.1")


class AddressTests(RegistryCase):
    """One port is one server's."""

    def test_a_server_that_comes_back_under_another_id_takes_the_place_of_its_old_self(self) -> None:
        self.register(setup("100"))
        self.register(setup("101"))
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 no more", "101 serves 111 at 10.0.0.1")

    def test_whose_lease_was_on_another_connection(self) -> None:
        displaced: list[object] = []
        self.registry = self.make_registry(displaced=displaced.append)
        self.register(setup("100", lease=10.0))
        self.register(setup("101", lease=10.0), owner=Connection())
        self.assertEqual([self.connection], displaced)
        self.assertFalse(self.registry.is_owner(self.connection))
        self.registry.release(self.connection)
        self.assertEqual({("111", "101")}, set(self.router.standing))

    def test_other_ports_hosts_and_policies_are_others(self) -> None:
        self.register(setup("100"))
        self.register(setup("101", port=5001))
        self.register(setup("102"), WEST)
        self.register(setup("103", "222"))
        self.assertEqual(4, len(self.router.standing))

    def test_a_port_that_was_left(self) -> None:
        """It is free for another server, whose place isn't touched by what becomes of the one that left."""
        self.register(setup("100"))
        self.register(setup("100", port=5001))
        self.register(setup("101"))
        self.register(setup("100", port=5002))
        self.assertEqual({("111", "100"), ("111", "101")}, set(self.router.standing))

    def test_a_place_among_as_many_as_there_may_be(self) -> None:
        self.registry = self.make_registry(most=1)
        self.register(setup("100"))
        self.register(setup("101"))
        self.assertEqual({("111", "101")}, set(self.router.standing))


class RoomTests(RegistryCase):
    """How many there may be."""

    def setUp(self) -> None:
        super().setUp()
        self.registry = self.make_registry(most=4, most_of_host=2)

    def fill(self, host: str, *server_ids: str) -> None:
        for port, server_id in enumerate(server_ids, 5000):
            self.register(setup(server_id, port=port), host)

    def test_no_host_keeps_the_others_out(self) -> None:
        self.fill(EAST, "1", "2")
        with self.assertRaisesRegex(TooManyError, f"^there are 2 registrations of {EAST} already$"):
            self.registry.register(setup("3", port=6000), Peer(EAST), self.connection)
        self.fill(WEST, "3", "4")
        with self.assertRaisesRegex(TooManyError, "^there are 4 registrations already$"):
            self.registry.register(setup("5"), Peer("10.0.0.3"), self.connection)

    def test_what_takes_the_place_of_another_is_no_further_one(self) -> None:
        self.fill(EAST, "1", "2")
        self.fill(EAST, "1", "3")
        self.assertEqual({"1", "3"}, {each.server_id for each in self.registry.standing})

    def test_when_all_of_a_host_ended(self) -> None:
        """As many of it may come again."""
        for _ in range(2):
            self.register(setup("1", lease=10.0))
            self.register(setup("2", port=5001, lease=10.0))
            self.registry.release(self.connection)

    def test_nor_is_what_moves(self) -> None:
        """To another port, or to another host that has room."""
        self.fill(EAST, "1", "2")
        self.fill(WEST, "3")
        self.register(setup("4", port=7000), "10.0.0.3")
        self.register(setup("2", port=6000), EAST)
        self.register(setup("2", port=6000), WEST)
        self.assertEqual([EAST, WEST, WEST, "10.0.0.3"], [each.host for each in self.registry.standing])

    def test_what_ended_or_moved_makes_room(self) -> None:
        self.register(setup("1", lease=10.0), EAST)
        self.register(setup("2", port=5001), EAST)
        self.registry.release(self.connection)
        self.register(setup("3"), EAST)
        self.register(setup("3"), WEST)
        self.register(setup("4"), EAST)
        with self.assertRaises(TooManyError):
            self.registry.register(setup("3", port=6000), Peer(EAST), self.connection)


class ConflictTests(RegistryCase):
    """One key, two hosts."""

    def test_another_host_is_refused_while_the_lease_lives(self) -> None:
        self.register(setup(lease=10.0), EAST)
        for intruder in (setup(lease=10.0), setup(), setup(drain=True), setup(port=5001)):
            with self.assertRaisesRegex(ConflictError, "^another host holds server 100 of policy 111$"):
                self.registry.register(intruder, Peer(WEST), Connection())
        self.assert_heard("100 serves 111 at 10.0.0.1")
        self.renew(setup(lease=10.0))

    def test_it_may_once_the_lease_has_run_out_even_if_nobody_looked_yet(self) -> None:
        self.register(setup(lease=10.0), EAST)
        self.clock.advance(10)
        heir = Connection()
        self.register(setup(lease=10.0), WEST, heir)
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 at 10.0.0.2")
        self.assertEqual([], self.registry.expire())
        self.registry.release(self.connection)
        self.assert_heard()

    def test_it_may_once_the_connection_is_closed(self) -> None:
        self.register(setup(lease=10.0), EAST)
        self.registry.release(self.connection)
        self.register(setup(lease=10.0), WEST, Connection())
        self.assertEqual(WEST, self.router.standing["111", "100"].host)

    def test_another_key_is_free(self) -> None:
        self.register(setup("100", "111", lease=10.0), EAST)
        self.register(setup("100", "222", lease=10.0), WEST, Connection())
        self.register(setup("101", "111", lease=10.0), WEST, Connection())
        self.assertEqual(3, len(self.router.standing))

    def test_the_same_host_may_come_back_before_its_old_connection_is_known_to_be_gone(self) -> None:
        again = Connection()
        self.register(setup(lease=10.0), EAST, self.connection)
        self.register(setup(lease=10.0), EAST, again)
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 at 10.0.0.1")
        self.registry.release(self.connection)
        self.assert_heard()
        self.clock.advance(10)
        self.assertEqual([again], self.registry.expire())
        self.assert_heard("100 serves 111 no more")

    def test_the_old_connection_keeps_what_else_it_holds(self) -> None:
        self.register(setup("100", "111", lease=10.0))
        self.register(setup("100", "222", lease=10.0))
        self.register(setup("100", "111", lease=10.0), EAST, Connection())
        self.registry.release(self.connection)
        self.assertEqual({("111", "100")}, set(self.router.standing))


class HeardTests(RegistryCase):
    """What other processes tell counts as if it had been said here."""

    def setUp(self) -> None:
        super().setUp()
        self.found: list[Registration] = []
        self.seen: list[Key] = []
        self.refused: list[tuple[Key, str]] = []
        self.changed: list[Record] = []
        self.displaced: list[object] = []
        self.conflicted: list[tuple[object, str]] = []
        self.over: list[tuple[str, str]] = []
        self.holds: set[Key] = set()
        self.asked_to_hold: list[Key] = []
        self.registry = self.make(100)

    def make(self, most: int) -> Registry:
        observer = Observer(
            self.router.registered,
            self.router.ended,
            found=self.find,
            seen=lambda registration: self.seen.append(registration.key),
            over=lambda registration, why: self.over.append((registration.server_id, why)),
            displaced=self.displaced.append,
            conflicted=lambda owner, registration: self.conflicted.append((owner, registration.host)),
            refused=lambda registration, why: self.refused.append((registration.key, why)),
            refuses=self.refuses,
            hold=self.hold,
            changed=self.changed.append,
        )
        return Registry(self.clock.seconds, observer, Claims("here", self.clock.seconds), most)

    def find(self, registration: Registration) -> None:
        self.found.append(registration)
        self.router.registered(registration)

    def hold(self, registrations: Sequence[Registration]) -> list[Registration]:
        self.asked_to_hold += [each.key for each in registrations]
        return [each for each in registrations if each.key in self.holds]

    def told(
        self, holder: str, version: int, server_id: str = "100", host: str = EAST, port: int = 5000, **terms: Any
    ) -> Record:
        terms = {"lease": None if holder == NOBODY else 10.0} | terms
        return Record("111", server_id, holder, version, Registration("111", server_id, host, port, **terms))

    def hear(self, *records: Record, complete: bool = False) -> None:
        self.registry.hear(records, complete=complete)

    def hosts(self) -> dict[str, str]:
        return {each.server_id: f"{each.host}:{each.port}" for each in self.registry.standing}

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

    def test_out_of_touch(self) -> None:
        """For one lease; then only what can be held, and it doesn't come back once let go."""
        self.hear(self.told("a", 5, "100"), self.told("a", 6, "101", port=5001), self.told(NOBODY, 7, "102", port=5002))
        self.holds = {("111", "101")}
        self.registry.lose_touch()
        self.clock.advance(9.9)
        self.registry.expire()
        self.assertEqual(set(self.hosts()), {"100", "101", "102"})
        self.clock.advance(0.1)
        self.registry.expire()
        self.assertEqual(set(self.hosts()), {"101", "102"})
        self.registry.lose_touch()
        self.clock.advance(20)
        self.registry.expire()
        self.assertEqual(set(self.hosts()), {"101", "102"})
        held = next(each for each in self.registry.standing if each.server_id == "101")
        self.registry.let_go(held)
        self.registry.let_go(held)
        self.registry.reconsider()
        self.assertEqual(set(self.hosts()), {"102"})

    def test_held_and_heard_of_again(self) -> None:
        self.hear(self.told("a", 5))
        self.holds = {("111", "100")}
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        held = self.registry.standing[0]
        self.hear(self.told("a", 5), complete=True)
        self.assertEqual((self.seen, self.registry.standing), ([held.key], [held]))
        self.registry.let_go(held)
        self.assertEqual(self.registry.standing, [held])

    def test_held_once_the_lease_here_ran_out(self) -> None:
        """Both ran out at once; that the other one is heard of again is news to those who hold it."""
        self.register(setup(lease=10.0))
        self.hear(self.told("a", 5))
        self.holds = {("111", "100")}
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        [held] = self.found
        self.assertEqual(self.registry.standing, [held])
        self.seen.clear()
        self.hear(self.told("a", 5), complete=True)
        self.assertEqual((self.seen, self.registry.standing), ([held.key], [held]))

    def test_held_and_not_heard_of_again(self) -> None:
        self.hear(self.told("a", 5))
        self.holds = {("111", "100")}
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        self.hear(complete=True)
        self.assertEqual(self.registry.standing, [])

    def test_not_told_of(self) -> None:
        """It stays for one more lease, for its holder to come back."""
        self.hear(self.told("a", 5), complete=True)
        self.hear(complete=True)
        self.clock.advance(9.9)
        self.registry.expire()
        self.assertEqual(len(self.registry.standing), 1)
        self.clock.advance(0.1)
        self.registry.expire()
        self.assertEqual(self.registry.standing, [])

    def test_held_and_not_allowed_any_more(self) -> None:
        """It ends, and doesn't come back when it is allowed again."""
        self.hold_one()
        self.forbidden.add(("111", "100"))
        self.registry.revoke(self.registry.standing[0], "no")
        self.assertEqual(self.registry.standing, [])
        self.forbidden.clear()
        self.registry.reconsider()
        self.assertEqual(self.registry.standing, [])

    def test_held_until_something_else_counts(self) -> None:
        """On its key, or at its place; and then never again."""
        for other in setup(lease=10.0), setup("101", lease=10.0):
            self.registry = self.make(100)
            self.hold_one()
            self.register(other)
            self.assertEqual(set(self.hosts()), {other.id})
            self.registry.release(self.connection)
            self.registry.reconsider()
            self.assertEqual(self.registry.standing, [])

    def test_held_by_nothing_else(self) -> None:
        """Not where another lease counts, nor where what stood last was held here."""
        self.hear(self.told("a", 5), self.told("b", 6, lease=20.0))
        self.hear(self.told("a", 5, "101", port=5001))
        self.register(setup("101", port=5001, lease=10.0))
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        self.assertEqual((self.asked_to_hold, set(self.hosts())), ([], {"100"}))
        self.clock.advance(10)
        self.registry.expire()
        self.assertEqual((self.asked_to_hold, self.registry.standing), ([("111", "100")], []))

    def test_revoked_and_others_hold_it(self) -> None:
        """Whoever revokes it is told of the leases that it stands by: one that is held, and none that has lapsed."""
        self.hold_one()
        self.assertEqual(self.registry.revoke(self.registry.standing[0], "no"), [("111", "100", "a")])
        self.hear(self.told("b", 6))
        registration = self.register(setup(lease=10.0))
        self.assertEqual(self.registry.revoke(registration, "no"), [("111", "100", "b")])
        self.hear(self.told("b", 6).ended())
        registration = self.register(setup(lease=10.0))
        self.assertEqual(self.registry.revoke(registration, "no"), [])
        self.assertEqual(self.registry.standing, [])

    def hold_one(self) -> None:
        self.hear(self.told("a", 5))
        self.holds = {("111", "100")}
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        self.assertEqual(set(self.hosts()), {"100"})

    def test_nobody_could_say(self) -> None:
        """What others hold doesn't stand until it is heard of again; what is held here does, and what has changed."""
        self.hear(self.told("a", 5), self.told("a", 6, "101", port=5001), self.told(NOBODY, 7, "102", port=5002))
        self.register(setup("103", port=5003, lease=10.0))
        before = self.registry.standing
        self.hear(self.told("a", 8, "101", port=5009))
        self.registry.lapse(before)
        self.assertEqual(set(self.hosts()), {"101", "102", "103"})
        self.registry.reconsider()
        self.assertEqual(set(self.hosts()), {"101", "102", "103"})
        self.hear(self.told("a", 5))
        self.assertEqual(set(self.hosts()), {"100", "101", "102", "103"})

    def test_why_it_is_over(self) -> None:
        """As the audit trail has it."""
        self.register(setup("1", port=1))
        self.register(setup("1", port=2))
        self.register(setup("2", port=2))
        self.registry.revoke(self.registry.standing[0], "by an operator")
        self.register(setup("3", port=3, lease=10.0))
        self.registry.release(self.connection)
        self.register(setup("4", port=4, lease=10.0))
        self.clock.advance(10)
        self.registry.expire()
        self.hear(self.told("a", 5, "5", port=5))
        self.hear(self.told("a", 5, "5", port=5).ended())
        self.hear(self.told("a", 6, "6", port=6))
        self.registry.lapse(self.registry.standing)
        self.hear(self.told(NOBODY, 7, "7", port=7))
        self.registry.forget(self.registry.without_lease[0], "it was down")
        self.hold_one()
        self.registry.let_go(self.registry.standing[0])
        self.assertEqual(
            self.over,
            [
                ("1", "replaced"),
                ("1", "another server has its address"),
                ("2", "revoked: by an operator"),
                ("3", "its connection closed"),
                ("4", "its lease ran out"),
                ("5", "it ended at another process"),
                ("6", "nobody could say whether it is still there"),
                ("7", "it was down"),
                ("100", "its lease ran out"),
            ],
        )

    def test_leases(self) -> None:
        """Those that are held here, and how long they still have."""
        self.register(setup("100", lease=10.0))
        self.register(setup("101", port=5001, lease=20.0))
        self.hear(self.told("a", 5, "102", port=5002), self.told(NOBODY, 6, "103", port=5003))
        self.registry.lose_touch()
        self.clock.advance(3)
        one, other = ("111", "100", "here"), ("111", "101", "here")
        self.assertEqual(self.registry.leases, {one: 7.0, other: 17.0})
        asked = [("111", "102", "a"), ("111", "100", "a"), ("111", "103", NOBODY), ("111", "103", "here"), other]
        self.assertEqual(self.registry.leases_of(asked), {other: 17.0})

    def test_put_again(self) -> None:
        """As old as it was: who came after it still counts."""
        self.register(setup(lease=10.0))
        [record] = self.changed
        self.hear(self.told("b", record.version + 5, draining=True))
        self.registry.put_again([record.key, ("111", "999", "here"), ("111", "100", "b")])
        self.assertEqual(self.changed, [record, evolve(record, version=record.version + 1)])
        self.assertTrue(self.registry.standing[0].draining)

    def test_put_again_and_newer_by_that(self) -> None:
        """What counts is looked at anew, as the others will."""
        self.register(setup(lease=10.0))
        [record] = self.changed
        self.hear(self.told("a", record.version + 1, draining=True))
        self.assertTrue(self.registry.standing[0].draining)
        self.registry.put_again([record.key])
        self.assertFalse(self.registry.standing[0].draining)

    def test_put_back(self) -> None:
        """What is missing, or older, among all that there is; what others hold is theirs to put back."""
        self.register(setup("100", lease=10.0))
        self.register(setup("101", port=5001))
        self.hear(self.told("a", 5, "102", port=5002))
        mine, nobodys = self.changed
        self.changed.clear()
        self.registry.put_back({mine.key: mine, nobodys.key: nobodys})
        self.assertEqual(self.changed, [])
        self.registry.put_back({mine.key: mine})
        self.assertEqual(self.changed, [nobodys])
        self.changed.clear()
        self.registry.put_back(
            {mine.key: evolve(mine, version=mine.version - 1), nobodys.key: evolve(nobodys, down=9.0)}
        )
        self.assertEqual(self.changed, [mine, nobodys])
        self.changed.clear()
        self.registry.put_back({})
        self.assertEqual(self.changed, [mine, nobodys])

    def test_put_back_what_ended_elsewhere(self) -> None:
        """A lease that is held here goes on; it isn't so with what is nobody's. An older end is none of theirs."""
        self.register(setup("100", lease=10.0))
        self.register(setup("101", port=5001))
        mine, nobodys = self.changed
        self.changed.clear()
        ends = mine.ended(mine.version + 5), nobodys.ended(nobodys.version + 5)
        self.registry.put_back({end.key: end for end in ends})
        again = evolve(mine, version=mine.version + 6)
        self.assertEqual(self.changed, [again])
        self.changed.clear()
        self.registry.put_back({mine.key: mine.ended(), nobodys.key: nobodys.ended(nobodys.version - 1)})
        self.assertEqual(self.changed, [again, nobodys])

    def test_put_back_and_newer_by_that(self) -> None:
        """What counts is looked at anew."""
        self.register(setup(lease=10.0))
        [record] = self.changed
        self.hear(self.told("a", record.version + 5, draining=True))
        self.registry.put_back({record.key: record.ended(record.version + 5)})
        self.assertFalse(self.registry.standing[0].draining)

    def test_set_down(self) -> None:
        """Only what is nobody's, and only what there is."""
        self.hear(self.told(NOBODY, 5))
        self.register(setup("101", port=5001, lease=10.0))
        self.changed.clear()
        self.registry.set_down(self.told(NOBODY, 5), 7.0)
        self.registry.set_down(self.told(NOBODY, 5, "101"), 7.0)
        self.assertEqual(self.changed, [evolve(self.told(NOBODY, 5), down=7.0)])
        self.assertEqual(self.registry.without_lease, self.changed)


@frozen
class Held:
    """What the model knows of a registration."""

    setup: Setup
    connection: int
    expires: float | None


#: Two hosts with two connections each.
HOSTS = (EAST, EAST, WEST, WEST)

connections = st.integers(0, 3)
setups = st.builds(
    setup,
    st.sampled_from(["100", "101"]),
    st.sampled_from(["111", "222"]),
    st.sampled_from([5000, 5001]),
    lease=st.sampled_from([None, 2.0, 3.0]),
)
steps = st.lists(
    st.tuples(st.just("register"), connections, setups)
    | st.tuples(st.just("release"), connections, st.none())
    | st.tuples(st.just("expire"), st.just(0), st.none())
    | st.tuples(st.just("wait"), st.integers(1, 3), st.none()),
    max_size=40,
)


class RevocationTests(RegistryCase):
    """Registrations that aren't allowed any more."""

    def setUp(self) -> None:
        super().setUp()
        self.displaced: list[object] = []
        self.registry = self.make_registry(displaced=self.displaced.append)

    def test_standing(self) -> None:
        """All of them, in the order of registration, with what each showed."""
        self.assertEqual([], self.registry.standing)
        first = self.register(setup("100"))
        peer = Peer(WEST, frozenset({"a"}))
        second = self.registry.register(setup("101", lease=10.0, token="secret"), peer, self.connection)
        assert second is not None
        self.assertEqual([first, second], self.registry.standing)
        self.assertEqual((peer, digest("secret")), (second.peer, second.token))
        self.assertNotIn("token", repr(second))

    def test_without_a_lease(self) -> None:
        registration = self.register(setup())
        self.forbidden.add(registration.key)
        self.registry.revoke(registration, "not allowed")
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 no more")
        self.assertEqual(([], []), (self.registry.standing, self.displaced))

    def test_with_a_lease(self) -> None:
        """The connection holds it no more, and is told; what it holds beside stays."""
        registration = self.register(setup(lease=10.0))
        self.register(setup(policy="222", lease=10.0))
        self.registry.revoke(registration, "not allowed")
        self.assertEqual([self.connection], self.displaced)
        self.assertTrue(self.registry.is_owner(self.connection))
        self.registry.revoke(self.registry.standing[0], "not allowed")
        self.assertFalse(self.registry.is_owner(self.connection))
        self.registry.release(self.connection)
        self.assertEqual([], self.registry.expire())

    def test_allowed_again(self) -> None:
        """It has to be registered anew: whoever listens there by now may be another server."""
        registration = self.register(setup())
        self.forbidden.add(registration.key)
        self.registry.revoke(registration, "not allowed")
        self.forbidden.clear()
        self.registry.reconsider()
        self.assertEqual([], self.registry.standing)
        self.register(setup())
        self.assertEqual(["100"], [each.server_id for each in self.registry.standing])

    def test_its_key_and_its_place_are_free(self) -> None:
        """For another host, and for another id at the same port."""
        self.registry.revoke(self.register(setup(lease=10.0)), "not allowed")
        self.register(setup(lease=10.0), WEST, Connection())
        self.register(setup("101"))
        self.assertEqual(["100", "101"], [each.server_id for each in self.registry.standing])

    def test_what_was_shown_at_last_counts(self) -> None:
        """Another token is another registration, not a renewal of the one that is allowed."""
        self.register(setup(lease=10.0, token="a"))
        second = self.register(setup(lease=10.0, token="b"))
        self.assertEqual([digest("b")], [each.token for each in self.registry.standing])
        self.renew(setup(lease=10.0, token="b"))
        self.assertEqual([second], self.registry.standing)


class AnyOrderTests(SynchronousTestCase):
    """Whatever comes in whatever order, what stands is what the protocol says."""

    @given(steps)
    def test_what_stands(self, steps: list[tuple[str, int, Setup | None]]) -> None:
        clock = Clock()
        router = Router()
        registry = Registry(clock.seconds, Observer(router.registered, router.ended), Claims("here", clock.seconds))
        owners = [Connection() for _host in HOSTS]
        model: dict[Key, Held] = {}
        for step, number, packet in steps:
            now = clock.seconds()
            if packet is not None:
                key = packet.policy, packet.id
                held = model.get(key)
                live = held is not None and held.expires is not None and held.expires > now
                expires = None if packet.lease is None else now + packet.lease
                if held is not None and live and HOSTS[held.connection] != HOSTS[number]:
                    with self.assertRaises(ConflictError):
                        registry.register(packet, Peer(HOSTS[number]), owners[number])
                    continue
                same = held is not None and (held.setup, held.connection) == (packet, number)
                renewed = registry.register(packet, Peer(HOSTS[number]), owners[number]) is None
                self.assertEqual(same and expires is not None, renewed)
                place = HOSTS[number], packet.policy, packet.listenport
                model = {
                    k: h for k, h in model.items() if (HOSTS[h.connection], h.setup.policy, h.setup.listenport) != place
                }
                model[key] = Held(packet, number, expires)
            elif step == "release":
                registry.release(owners[number])
                model = {k: h for k, h in model.items() if h.expires is None or h.connection != number}
            elif step == "expire":
                late = {k: h for k, h in model.items() if h.expires is not None and h.expires <= now}
                self.assertEqual({owners[h.connection] for h in late.values()}, set(registry.expire()))
                model = {k: h for k, h in model.items() if k not in late}
            else:
                clock.advance(number)
            self.assertEqual(
                {key: (HOSTS[held.connection], held.setup.listenport) for key, held in model.items()},
                {key: registration.address for key, registration in router.standing.items()},
            )
