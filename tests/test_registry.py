"""What a registration says, and what replaces, renews and ends it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from attrs import evolve

from rproxy.registry.registration import Registration
from tests.registrycase import EAST, WEST, Connection, RegistryCase, setup


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
