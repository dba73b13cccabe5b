"""A server that came back from being down gets its full share by and by."""

from __future__ import annotations

from collections import Counter
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rproxy.figures.tallies import PolicyTally, ServerTally
from rproxy.health import FULL_SHARE
from rproxy.registry.registration import Registration
from rproxy.request import Request
from rproxy.rotation import Member, Rotation
from tests.memory import Client, Proxy, ProxyCase


class Nobody:
    """Whoever asks."""

    def deliver_soon(self) -> None:
        raise NotImplementedError

    def deliver(self, now: float) -> None:
        raise AssertionError("the rotation answers nobody")


class Server:
    """Takes whatever it gets."""

    takes_at_most = 1 << 20

    def __init__(self) -> None:
        self.share = FULL_SHARE

    def take(self, request: Request, member: Member) -> bool:
        return True


class TurnTests(SynchronousTestCase):
    """What a share means for the turns of a rotation."""

    def setUp(self) -> None:
        self.rotation = Rotation()
        self.servers: dict[str, Server] = {}

    def put(self, **weights: int) -> None:
        """Register these servers, in this order."""
        for server_id, weight in weights.items():
            server = self.servers[server_id] = Server()
            self.rotation.put(
                Member(
                    Registration("111", server_id, "10.0.0.1", 5000, weight=weight),
                    server,
                    ServerTally(PolicyTally(30.0)),
                )
            )

    def share(self, server_id: str, share: int) -> None:
        """Let a server have another share."""
        self.servers[server_id].share = share
        self.rotation.reweigh()

    def turns(self, number: int) -> str:
        """Who takes the next packets."""
        members = [self.rotation.offer(Request(b"{}", "111", "1", 30.0, Nobody())) for _turn in range(number)]
        return " ".join(member.server_id if member else "-" for member in members)

    def test_a_fifth_of_the_others_turns(self) -> None:
        self.put(a=1, b=1, c=1)
        self.share("b", 1)
        self.assertEqual({"a": 50, "b": 10, "c": 50}, Counter(self.turns(110).split()))

    def test_its_turns_are_spread_over_the_round(self) -> None:
        self.put(a=1, b=1)
        self.share("b", 2)
        self.assertEqual({"a": 5, "b": 2}, Counter(self.turns(7).split()))
        self.assertNotIn("b b", self.turns(70))

    def test_by_weight(self) -> None:
        self.put(a=1, b=4)
        self.share("b", 1)
        self.assertEqual({"a": 50, "b": 40}, Counter(self.turns(90).split()))

    def test_alone_it_takes_all(self) -> None:
        self.put(a=1)
        self.share("a", 1)
        self.assertEqual("a a a", self.turns(3))

    def test_equal_shares_are_the_order_of_registration(self) -> None:
        self.put(a=1, b=1, c=1)
        for server_id in "abc":
            self.share(server_id, 2)
        self.assertEqual("a b c a b c", self.turns(6))

    def test_full_again_the_round_goes_on(self) -> None:
        self.put(a=1, b=1, c=1)
        self.share("b", 4)
        self.turns(14)
        self.share("b", FULL_SHARE)
        turns = self.turns(6)
        self.assertIn(turns, {"a b c a b c", "b c a b c a", "c a b c a b"})


class ComingBackTests(ProxyCase):
    """The same through the whole proxy."""

    def world_with(self, *ports: int, **limits: Any) -> tuple[Proxy, Client]:
        """A proxy with a modern server at each port, all of them connected to, and a client."""
        world = self.proxy(**limits)
        for port in ports:
            world.register(str(port), "111", port, pipeline=100)
            world.server(port)
        client = world.client()
        client.ask(*("first" for _port in ports))
        for port in ports:
            world.server(port).answer()
        return world, client

    def down_and_up(self, world: Proxy, port: int) -> None:
        """Let the server lose a packet, and come back at the first probe."""
        doomed = world.client()
        server = world.server(port)
        while not server.connection.unanswered:
            doomed.ask("doomed")
        server.connection.close()
        world.advance(0.5)
        self.answer(world)

    def answer(self, world: Proxy) -> None:
        for port in (5000, 6000):
            world.server(port).answer()

    def spread(self, world: Proxy, number: int) -> dict[str, int]:
        """By which servers so many packets are answered."""
        client = world.client()
        for _packet in range(number):
            client.ask("x")
            self.answer(world)
        return Counter(answer.split()[-1] for answer in client.answers())

    def test_a_growing_share(self) -> None:
        world, _ = self.world_with(5000, 6000)
        self.down_and_up(world, 5000)
        self.assertEqual({"5000": 10, "6000": 50}, self.spread(world, 60))
        world.advance(4)
        self.assertEqual({"5000": 30, "6000": 50}, self.spread(world, 80))
        world.advance(6)
        self.assertEqual({"5000": 50, "6000": 50}, self.spread(world, 100))

    def test_the_only_server_takes_all_at_once(self) -> None:
        world, client = self.world_with(5000)
        self.down_and_up(world, 5000)
        client.ask(*map(str, range(50)))
        self.assertEqual(50, len(world.server(5000).connection.unanswered))

    def test_the_only_one_that_is_up_takes_all_at_once(self) -> None:
        world, client = self.world_with(5000, 6000)
        self.down_and_up(world, 5000)
        other = world.server(6000)
        other.refuse()
        other.connection.close()
        client.ask(*map(str, range(50)))
        self.assertEqual(50, len(world.server(5000).connection.unanswered))

    def test_a_server_that_was_not_up_yet_has_its_full_share(self) -> None:
        """As a classic server that registers before it binds its port."""
        world, _ = self.world_with(6000)
        world.register("5000", "111", 5000, pipeline=100)
        client = world.client()
        client.ask("x", "y")
        self.answer(world)
        world.server(5000)
        world.advance(1)
        self.answer(world)
        self.assertEqual({"5000": 10, "6000": 10}, self.spread(world, 20))

    def test_told_not_to(self) -> None:
        world, _ = self.world_with(5000, 6000, slow_start=0.0)
        self.down_and_up(world, 5000)
        self.assertEqual({"5000": 10, "6000": 10}, self.spread(world, 20))
