"""Who may take which place: that of another, one among many, or one in dispute."""

from __future__ import annotations

from rproxy.policies import Peer
from rproxy.registry import ConflictError, TooManyError
from tests.registrycase import EAST, WEST, Connection, RegistryCase, setup


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
