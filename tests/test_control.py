"""What is said of a packet, and what becomes of it; and what an operator does to servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from rproxy.control import FRESH, LocalControl
from rproxy.figures import Figures
from rproxy.networks import parse_network
from rproxy.policies import ClientRule, Peer, Policies, Policy
from rproxy.request import Request
from rproxy.routing import upstream_of
from tests.adminclient import control_of
from tests.memory import BIG, CLIENT_HOST, HOST, Client, MemoryServerHost, Proxy, ProxyCase, ServerConnection, data


class Nobody:
    """Waits for no answer."""

    def deliver(self, now: float) -> None:
        """See :class:`rproxy.request.Asker`."""

    def deliver_soon(self) -> None:
        """See :class:`rproxy.request.Asker`."""


@frozen
class World:
    """A proxy, and what may happen to it."""

    proxy: Proxy
    control: LocalControl
    client: Client

    def server(self, server_id: str) -> MemoryServerHost:
        """Where that server listens."""
        return self.proxy.server_at((HOST, 5000 + int(server_id)))

    def register(self, server_id: str, **modern: Any) -> None:
        """It registers, in one way or another."""
        self.proxy.register(server_id, "111", 5000 + int(server_id), **modern)

    def each(self, server_id: str, do: Callable[[ServerConnection], object]) -> None:
        """Do something to its connections that there are."""
        for connection in self.server(server_id).connections:
            if not (connection.closed or connection.gone):
                do(connection)


def stall(connection: ServerConnection) -> None:
    """Read no more."""
    connection.reads = False


STEPS: list[Callable[[World, str], object]] = [
    lambda world, it: world.register(it, pipeline=2, lease=30),
    lambda world, it: world.register(it, pipeline=2, connections=2, lease=30),
    lambda world, it: world.register(it, pipeline=2, lease=30, drain=True),
    lambda world, it: world.register(it),
    lambda world, it: world.control.drain(it, None),
    lambda world, it: world.control.resume(it, None),
    lambda world, it: world.control.revoke(it, None),
    lambda world, it: world.client.ask("a", "b", "c"),
    lambda world, it: world.client.ask("a"),
    lambda world, it: world.client.ask(BIG),
    lambda world, it: world.server(it).refuse(),
    lambda world, it: world.server(it).accept(),
    lambda world, it: world.server(it).hang(),
    lambda world, it: world.each(it, ServerConnection.answer),
    lambda world, it: world.each(it, ServerConnection.reset),
    lambda world, it: world.each(it, stall),
    lambda world, it: world.proxy.advance(1.0),
]


class ExplainTests(ProxyCase):
    """What is said of a packet is what becomes of it."""

    @given(st.data())
    @settings(max_examples=150, deadline=None)
    def test_refusal_is_take(self, drawn: st.DataObject) -> None:
        """For each server, in whatever state: it is said to take a packet if and only if it takes one."""
        proxy = self.proxy(max_fails=1, timeout=2.0)
        control = control_of(proxy)
        client = proxy.client()
        world = World(proxy, control, client)
        for server_id in "1", "2":
            getattr(world.server(server_id), drawn.draw(st.sampled_from(["accept", "hang"])))()
            world.register(server_id, pipeline=2, connections=drawn.draw(st.integers(1, 3)), lease=30)
        for step in drawn.draw(st.lists(st.sampled_from(STEPS), max_size=14)):
            step(world, drawn.draw(st.sampled_from(["1", "2"])))
        policy = proxy.factory.router.routes.get("111")
        if policy is None:
            return
        (told,) = self.successResultOf(control.explain("111", Peer(CLIENT_HOST)))
        for member, verdict in zip(
            sorted(policy.rotation.members, key=lambda each: each.order), told.servers, strict=True
        ):
            raw = json.dumps(data("xyz1")).encode()
            request = Request(raw, "111", "1", proxy.reactor.seconds() + 2.0, Nobody())
            takes = member.live and upstream_of(member).take(request, member)
            self.assertEqual(verdict.refusal is None, takes, verdict)
            if takes:
                request.abandon()

    def test_no_server(self) -> None:
        """A packet that would be refused whatever the servers is, with the same words."""
        proxy = self.proxy()
        client = proxy.client()
        (told,) = self.successResultOf(control_of(proxy).explain("111", Peer(CLIENT_HOST)))
        client.ask("xyz1")
        self.assertEqual([each["payload"] for each in client.take()], [told.refusal])

    def test_forbidden_client(self) -> None:
        policies = Policies(by_name={"111": Policy(clients=ClientRule(networks=(parse_network("10.0.0.0/24"),)))})
        proxy = self.proxy(policies)
        control = control_of(proxy)
        proxy.server(5000)
        proxy.register("100", "111", 5000, pipeline=8, lease=30)
        for host, code in ((CLIENT_HOST, None), ("10.9.9.9", "forbidden")):
            client = proxy.client(host)
            (told,) = self.successResultOf(control.explain("111", Peer(host)))
            client.ask("xyz1")
            self.assertEqual([each["error"] for each in client.take()], [] if code is None else [code])
            self.assertEqual(told.refusal is None, code is None, told.refusal)

    def test_full(self) -> None:
        """A server that has all it takes says so, and those that wait are told of."""
        proxy = self.proxy()
        control = control_of(proxy)
        proxy.server(5000)
        proxy.register("100", "111", 5000, pipeline=2, connections=1, lease=30)
        client = proxy.client()
        client.ask("a", "b")
        (told,) = self.successResultOf(control.explain("111", Peer(CLIENT_HOST)))
        self.assertIn("2 packets in flight", told.servers[0].refusal or "")
        client.ask("c")
        (told,) = self.successResultOf(control.explain("111", Peer(CLIENT_HOST)))
        self.assertEqual(told.refusal, "1 packets of it wait for a server already")


class FiguresTests(ProxyCase):
    """What is shown is made no more often than it has to be."""

    def setUp(self) -> None:
        self.running = self.proxy()
        self.control = control_of(self.running)
        self.running.server(5000)
        self.running.register("100", "111", 5000, pipeline=8, lease=30)

    def figures(self) -> Figures:
        return self.successResultOf(self.control.figures())

    def states(self) -> list[dict[str, int]]:
        return [server.states for policy in self.figures().policies for server in policy.servers]

    def test_shared(self) -> None:
        """All who ask within a moment are shown the same; later on it is made anew."""
        first = self.figures()
        self.running.client().ask("xyz1")
        self.assertIs(self.figures(), first)
        self.running.reactor.advance(FRESH)
        self.assertEqual(self.figures().counters["received"], 1)

    def test_changes(self) -> None:
        """What was done here is seen at once."""
        found = [self.states()]
        for do in self.control.drain, self.control.resume, self.control.revoke:
            do("100", None)
            found.append(self.states())
        self.assertEqual(found, [[{"up": 1}], [{"draining": 1}], [{"up": 1}], []])

    def test_drained_by_another_process(self) -> None:
        """So is what another process was told."""
        self.assertEqual(self.states(), [{"up": 1}])
        self.control.set_drained([("111", "100")])
        self.assertEqual(self.states(), [{"draining": 1}])
