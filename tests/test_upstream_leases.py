"""Connections to a server whose registration ends, is another process's word, or can't be confirmed by anybody."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from rproxy.policies import Policies, Policy
from rproxy.registry.registration import Registration
from rproxy.routing import upstream_of
from tests.memory import HOST, Proxy, ProxyCase, setup


class LeaseTests(ProxyCase):
    """With a lease, a registration stands as long as it is renewed and its connection open."""

    def setUp(self) -> None:
        self.world: Proxy = self.proxy()
        self.lease = self.world.register("100", "111", 5000, pipeline=3, lease=10)
        self.server = self.world.server(5000)
        self.client = self.world.client()

    def renew(self, **modern: Any) -> None:
        self.lease.send(setup("100", "111", 5000, **{"pipeline": 3, "lease": 10, **modern}))

    def assert_over(self) -> None:
        """Packets for the policy find nobody."""
        self.client.ask("late")
        self.world.advance(6)
        self.assertEqual(self.client.answers(), ["no-server/no"])
        self.assertNotIn("late", self.server.payloads)

    def test_renewed(self) -> None:
        """Setup that is sent again within the time renews it, and disturbs nothing."""
        for number in range(5):
            self.world.advance(9.75)
            self.renew()
            self.client.ask(str(number))
            self.server.answer()
        self.assertEqual(self.client.answers(), [f"{number} by 100" for number in range(5)])
        self.assertEqual(self.server.attempted, 1)

    def test_ends_by_time(self) -> None:
        """It ends when it isn't renewed in time."""
        self.world.advance(10.25)
        self.assert_over()

    def test_ends_by_close(self) -> None:
        """It ends when its connection closes, in order or not."""
        self.lease.close()
        self.assert_over()
        self.setUp()
        self.lease.reset()
        self.assert_over()

    def test_in_flight_is_finished(self) -> None:
        """What is in flight when it ends is finished, and then the connection to the server closed."""
        self.client.ask("a", "b")
        self.lease.close()
        self.server.connection.answer(1)
        self.assertFalse(self.server.connection.gone)
        self.server.answer()
        self.assertEqual(self.client.answers(), ["a by 100", "b by 100"])
        self.assertTrue(self.server.connection.ended)

    def test_idle_connections_are_closed(self) -> None:
        """Connections with nothing in flight are closed at once."""
        self.client.ask("a")
        self.server.answer()
        self.lease.close()
        self.assertEqual(self.server.open, [])

    def test_attempts_are_given_up(self) -> None:
        """So are attempts to connect."""
        self.server.hang()
        self.client.ask("a")
        self.lease.close()
        self.assertEqual(self.server.attempts, [])
        self.world.advance(6)
        self.assertEqual(self.client.answers(), ["no-server/no"])

    def test_registers_again(self) -> None:
        """A server that comes back in time serves what has waited since."""
        self.lease.reset()
        self.client.ask("a")
        self.world.advance(3)
        self.lease = self.world.register("100", "111", 5000, pipeline=3, lease=10)
        self.assertEqual(self.server.payloads, ["a"])

    def test_registers_again_while_its_packets_are_in_flight(self) -> None:
        """Also if it hasn't answered what it had before."""
        self.client.ask("a")
        self.lease.reset()
        self.lease = self.world.register("100", "111", 5000, pipeline=3, lease=10)
        self.client.ask("b")
        self.world.advance(0.25)
        self.server.answer()
        self.world.advance(0.25)
        self.server.answer()
        self.assertEqual(self.client.answers(), ["a by 100", "b by 100"])

    def test_lease_is_given_up(self) -> None:
        """A setup without a lease makes the registration one that stands."""
        self.lease.send(setup("100", "111", 5000, pipeline=3))
        self.lease.close()
        self.world.advance(60)
        self.client.ask("a")
        self.assertEqual(self.server.payloads, ["a"])

    def test_drain(self) -> None:
        """``drain``: it gets nothing new, what is in flight is finished, then its connections are closed."""
        self.client.ask("a", "b")
        self.renew(drain=True)
        self.assertEqual(self.lease.answers(), ["registered", "draining"])
        self.world.register("200", "111", 6000)
        other = self.world.server(6000)
        self.client.ask("c")
        self.assertEqual((self.server.payloads, other.payloads), (["a", "b"], ["c"]))
        other.answer()
        self.server.answer()
        self.assertEqual(self.client.answers(), ["a by 100", "b by 100", "c by 200"])
        self.assertEqual(self.server.open, [])
        self.world.advance(9)
        self.renew(drain=True)
        self.assertEqual(self.lease.answers(), ["draining"])

    def test_drain_while_connecting(self) -> None:
        """What it didn't get yet goes to others."""
        self.server.hang()
        self.client.ask("a", "b")
        self.world.register("200", "111", 6000)
        other = self.world.server(6000)
        self.renew(drain=True)
        self.assertEqual(sorted(other.payloads), ["a", "b"])
        self.server.accept()
        self.assertEqual(self.server.payloads, [])

    def test_drained_by_an_operator_while_connecting(self) -> None:
        """Then too, whatever becomes of the connection."""
        self.server.hang()
        self.client.ask("a", "b")
        self.world.register("200", "111", 6000)
        other = self.world.server(6000)
        drained = next(each.registration for each in self.world.members() if each.server_id == "100")
        self.world.factory.router.drain(drained.key, drained)
        self.world.pump()
        self.assertEqual(["a", "b"], sorted(other.payloads))
        self.server.refuse()
        self.world.advance(60)
        self.assertEqual(0, len(self.server.connections))

    def test_no_longer_draining(self) -> None:
        """A server that drained may come back into the rotation, and then serves what has waited."""
        self.renew(drain=True)
        self.client.ask("a")
        self.assertEqual(self.server.payloads, [])
        self.renew()
        self.assertEqual(self.server.payloads, ["a"])


class ConfirmTests(ProxyCase):
    """The others are asked before a connection is made, and only about servers that are known from them."""

    def test_own(self) -> None:
        world = self.proxy()
        asked: list[Deferred[None]] = []

        def confirms() -> Deferred[None]:
            asked.append(Deferred())
            return asked[-1]

        router = world.factory.router
        router.confirm = confirms
        world.register("100", "111", 5000, pipeline=2)
        server = world.server(5000)
        client = world.client()
        client.ask("a")
        self.assertEqual((0, ["a"]), (len(asked), server.payloads))
        server.connection.close()
        router.registered(world.registration(), found=True)
        client.ask("b")
        self.assertEqual((1, 1), (len(asked), server.attempted))
        asked[0].callback(None)
        world.pump()
        self.assertEqual((["a", "b"], 2), (server.payloads, server.attempted))

    def test_drained_and_resumed(self) -> None:
        """A server that is known from others is so still."""
        world = self.proxy()
        world.register("100", "111", 5000, pipeline=2)
        server = world.server(5000)
        router = world.factory.router
        found = world.registration()
        router.registered(found, found=True)
        asked: list[Deferred[None]] = []

        def confirms() -> Deferred[None]:
            asked.append(Deferred())
            return asked[-1]

        router.confirm = confirms
        router.drain(found.key, found)
        router.resume(found.key, found)
        world.client().ask("a")
        self.assertEqual((1, 0), (len(asked), server.attempted))
        asked[0].callback(None)
        world.pump()
        self.assertEqual(["a"], server.payloads)


class HoldTests(ProxyCase):
    """A server may be held by its connections, when nobody can say whether it is still at its address."""

    def setUp(self) -> None:
        self.world = self.proxy()
        self.router = self.world.factory.router

    def test_by_a_connection(self) -> None:
        """It is used as ever, and no other one is made; when it is gone, so is what held the server."""
        self.world.register("100", "111", 5000, pipeline=1, connections=2)
        server = self.world.server(5000)
        held = self.world.registration()
        client = self.world.client()
        client.ask("a")
        self.assertEqual([held], self.router.upstreams.hold([held]))
        self.assertEqual([held], self.router.upstreams.hold([held]))
        client.ask("b")
        self.assertEqual((["a"], 1), (server.payloads, server.attempted))
        server.answer()
        server.answer()
        self.assertEqual(["a by 100", "b by 100"], client.answers())
        server.connection.close()
        client.ask("c")
        self.assertEqual((["a", "b", "c"], 2), (server.payloads, server.attempted))

    def test_by_one_that_breaks(self) -> None:
        """The server is down then, and is probed, if it is still registered."""
        self.world.register("100", "111", 5000, pipeline=1)
        server = self.world.server(5000)
        self.world.client().ask("a")
        held = self.world.registration()
        self.assertEqual([held], self.router.upstreams.hold([held]))
        server.connection.reset()
        self.assertEqual(1, server.attempted)
        self.world.advance(0.5)
        self.assertEqual(2, server.attempted)
        self.world.client().ask("b")
        self.assertEqual(["a", "b"], server.payloads)

    def test_attempts_and_probes_are_given_up(self) -> None:
        self.world.register("100", "111", 5000, pipeline=1, connections=3)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("a")
        server.hang()
        client.ask("b", "c")
        self.assertEqual(2, len(server.attempts))
        held = self.world.registration()
        self.assertEqual([held], self.router.upstreams.hold([held]))
        self.assertEqual([], server.attempts)
        self.world.advance(1)
        server.answer()
        server.answer()
        server.answer()
        self.assertEqual(["a by 100", "b by 100", "c by 100"], client.answers())
        self.assertEqual(3, server.attempted)

    def test_not_without_one(self) -> None:
        """Nor where the server is of the old kind, or the one connection is about to close."""
        self.world.register("100", "111", 5000, pipeline=1)
        held = self.world.registration()
        self.assertEqual([], self.router.upstreams.hold([held]))
        server = self.world.server(5000)
        self.world.client().ask("a")
        self.router.bar([held])
        self.world.register("100", "222", 5001)
        classic = self.world.server(5001)
        self.world.client().ask("b", policy="222")
        self.assertEqual([], self.router.upstreams.hold([self.world.registration("222")]))
        self.world.client().ask("c", policy="222")
        self.assertEqual((1, 2), (server.attempted, classic.attempted))

    def test_not_where_others_are_served(self) -> None:
        """What one may be connected to for, it may not be held for."""
        for policy in ("111", "222"):
            self.world.register("100", policy, 5000, pipeline=1)
        self.world.server(5000)
        self.world.client().ask("a")
        both = [self.world.registration(policy) for policy in ("111", "222")]
        self.assertEqual([], self.router.upstreams.hold(both[:1]))
        self.assertEqual([], self.router.upstreams.hold(both[1:]))
        self.assertEqual(both, self.router.upstreams.hold(both))

    def test_of_two_ways_to_one_address(self) -> None:
        """The one that leads to the server's policy counts."""
        policies = {"111": Policy(upstream_tls=True), "222": Policy()}
        world = self.proxy(Policies(by_name=policies))
        for policy in ("111", "222"):
            world.register("100", policy, 5000, pipeline=1)
        world.server(5000)
        both = [world.registration(policy) for policy in ("111", "222")]
        self.assertEqual([], world.factory.router.upstreams.hold(both))
        world.client().ask("a")
        self.assertEqual(both[:1], world.factory.router.upstreams.hold(both))

    def test_heard_of_again(self) -> None:
        """Then connections are made again; one that is down is probed at once."""
        self.world.register("100", "111", 5000, pipeline=1, connections=2)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("a")
        held = self.world.registration()
        self.router.upstreams.hold([held])
        client.ask("b")
        self.assertEqual(1, server.attempted)
        self.router.upstreams.seen(held)
        self.world.pump()
        self.assertEqual((["a", "b"], 2), (server.payloads, server.attempted))
        client.ask("c")
        server.connection.answer()
        self.assertEqual((["a", "b", "c"], 2), (server.payloads, server.attempted))

    def test_more_than_its_part_and_heard_of_again(self) -> None:
        """As many connections as there may be by then stay."""
        self.world.register("100", "111", 5000, pipeline=1, connections=2)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("a", "b")
        held = self.world.registration()
        self.router.upstreams.hold([held])
        self.router.upstreams.share_with(2)
        server.answer()
        self.assertEqual(2, len(server.open))
        self.router.upstreams.seen(held)
        self.world.pump()
        self.assertEqual(1, len(server.open))

    def test_drained_and_resumed(self) -> None:
        """It is still who it was, so nothing is let go of."""
        self.world.register("100", "111", 5000, pipeline=1)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("a")
        held = self.world.registration()
        self.router.upstreams.hold([held])
        let_go: list[Registration] = []
        self.router.let_go = let_go.append
        self.router.drain(held.key, held)
        self.router.resume(held.key, held)
        server.answer()
        client.ask("b")
        self.assertEqual((["a", "b"], 1, []), (server.payloads, server.attempted, let_go))

    def test_down_drained_and_resumed(self) -> None:
        """No connection is made to find out whether it is up."""
        self.world.register("100", "111", 5000, pipeline=1, connections=2)
        server = self.world.server(5000)
        self.world.client().ask("a", "b")
        held = self.world.registration()
        self.router.upstreams.hold([held])
        for _ in range(3):
            upstream_of(self.world.members()[0]).timed_out()
        self.router.drain(held.key, held)
        self.router.resume(held.key, held)
        self.world.pump()
        self.assertEqual((2, True), (server.attempted, self.router.upstreams.is_down(held)))

    def test_up_and_heard_of_again(self) -> None:
        """It isn't connected to for that."""
        self.world.register("100", "111", 5000, pipeline=1)
        server = self.world.server(5000)
        self.router.upstreams.seen(self.world.registration())
        self.world.pump()
        self.assertEqual(0, server.attempted)

    def test_down_and_heard_of_again(self) -> None:
        self.world.register("100", "111", 5000, pipeline=1)
        self.world.client().ask("a")
        self.world.advance(10)
        server = self.world.server_at((HOST, 5000))
        attempted = server.attempted
        self.router.upstreams.seen(self.world.registration())
        self.world.pump()
        self.assertEqual(attempted + 1, server.attempted)
        self.world.advance(0.5)
        self.assertEqual(attempted + 2, server.attempted)
