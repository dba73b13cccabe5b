"""``--retry``: a policy whose packets may be given to another server after one may have had them (promise 6)."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

from rproxy.policies import Policies, Policy
from rproxy.request import Request
from rproxy.retrying import RETRIES, RETRY_SHARE
from tests.memory import MemoryServerHost, Proxy, ProxyCase


class RetryTests(ProxyCase):
    def world_with(self, *ports: int, policies: tuple[str, ...] = ("111",), **limits: Any) -> Proxy:
        """A proxy with a modern server at each port, and policy 111 retried."""
        world = self.proxy(Policies(anonymous={"111": Policy(retry=True)}), **limits)
        for port in ports:
            for policy in policies:
                world.register(str(port), policy, port, pipeline=1000)
            world.server(port)
        return world

    def owner(self, world: Proxy, *ports: int) -> MemoryServerHost:
        """The server that has the packet."""
        (server,) = (server for port in ports if (server := world.server(port)).open and server.connection.unanswered)
        return server

    def test_another_server_gets_it(self) -> None:
        world = self.world_with(5000, 6000)
        client = world.client()
        client.ask("a")
        first = self.owner(world, 5000, 6000)
        first.connection.close()
        second = self.owner(world, 5000, 6000)
        self.assertIsNot(first, second)
        second.answer()
        self.assertEqual(client.answers(), [f"a by {second.address[1]}"])
        self.assertEqual((world.factory.counters.retried, world.factory.counters.redispatched), (1, 0))

    def test_an_answer_that_is_none_is_a_loss_too(self) -> None:
        world = self.world_with(5000, 6000)
        client = world.client()
        client.ask("a")
        self.owner(world, 5000, 6000).connection.answer(destid="somebody else")
        self.owner(world, 5000, 6000).answer()
        self.assertEqual(client.answers(), ["a by 6000"])

    def test_other_policies_are_not_retried(self) -> None:
        world = self.world_with(5000, 6000, policies=("111", "222"))
        client = world.client()
        client.ask("a", policy="222")
        self.owner(world, 5000, 6000).connection.close()
        self.assertEqual(client.answers(), ["server-lost/unknown"])

    def test_only_a_server_of_its_policy_gets_it(self) -> None:
        world = self.world_with(5000)
        world.register("200", "222", 6000, pipeline=1000)
        other = world.server(6000)
        client = world.client()
        client.ask("a")
        server = world.server(5000)
        server.refuse()
        server.connection.close()
        world.advance(6)
        self.assertEqual((client.answers(), other.packets), (["no-server/unknown"], []))

    def test_once(self) -> None:
        """A packet that every server dies of takes no more than two down."""
        world = self.world_with(5000, 6000, 7000)
        client = world.client()
        client.ask("deadly")
        for _ in range(2):
            self.owner(world, 5000, 6000, 7000).connection.close()
        self.assertEqual(client.answers(), ["server-lost/unknown"])

    def test_the_only_server_gets_it_when_it_is_back(self) -> None:
        world = self.world_with(5000)
        server = world.server(5000)
        client = world.client()
        client.ask("a")
        server.connection.close()
        self.assertEqual(client.answers(), [])
        world.advance(0.5)
        server.answer()
        self.assertEqual(client.answers(), ["a by 5000"])

    def test_nobody_can_say_that_it_was_not_delivered(self) -> None:
        """Whatever it is refused for in the end, a server may have had it."""
        for timeout, code in ((1, "timeout"), (30, "no-server")):
            world = self.world_with(5000, timeout=timeout)
            server = world.server(5000)
            client = world.client()
            client.ask("a")
            server.refuse()
            server.connection.close()
            world.advance(6)
            self.assertEqual(client.answers(), [f"{code}/unknown"])

    def test_no_policy_any_more(self) -> None:
        """The last server leaves, and is lost with the packet when nobody waits for another one any longer."""
        world = self.world_with(5000)
        client = world.client()
        client.ask("a")
        world.factory.revoke(world.registration())
        world.advance(6)
        self.assertEqual(world.factory.router.routes, {})
        world.server(5000).connection.close()
        (answer,) = client.take()
        self.assertEqual((answer["error"], answer["delivered"]), ("no-server", "unknown"))
        self.assertEqual(answer["payload"], "no server serves policy 111 any more")

    def test_stopping(self) -> None:
        world = self.world_with(5000, 6000)
        client = world.client()
        client.ask("a")
        world.factory.close()
        world.pump()
        self.assertEqual(client.answers(), ["shutting-down/unknown"])
        self.assertEqual(world.factory.counters.retried, 0)

    def test_a_client_that_is_gone(self) -> None:
        world = self.world_with(5000, 6000)
        client = world.client()
        client.ask("a")
        client.reset()
        self.owner(world, 5000, 6000).connection.close()
        self.assertEqual(world.factory.counters.retried, 0)

    def test_budget(self) -> None:
        """No more than a fifth of what is in flight is being retried at a time."""
        world = self.world_with(5000, 6000)
        client = world.client()
        client.ask(*map(str, range(100)))
        world.server(5000).connection.close()
        self.assertEqual(world.factory.counters.retried, RETRY_SHARE * 100)
        world.server(6000).answer()
        answers = Counter(answer.split()[-1] for answer in client.answers())
        self.assertEqual(answers, {"6000": 70, "server-lost/unknown": 30})

    def test_budget_of_few(self) -> None:
        """Where little is in flight, a few are retried all the same."""
        world = self.world_with(5000, 6000)
        client = world.client()
        client.ask(*map(str, range(10)))
        world.server(5000).connection.close()
        self.assertEqual(world.factory.counters.retried, RETRIES)

    def test_budget_is_free_again_after_the_answers(self) -> None:
        world = self.world_with(5000, 6000, slow_start=0)
        client = world.client()
        for round_ in range(1, 4):
            client.ask(*map(str, range(6)))
            world.server(5000).connection.close()
            self.assertEqual(world.factory.counters.retried, round_ * RETRIES)
            world.server(6000).answer()
            world.advance(60)

    def test_budget_is_one_for_all_servers(self) -> None:
        """What is being retried counts when the next server is lost, and no longer once it is answered."""
        world = self.world_with(5000, 6000, 7000)
        client = world.client()
        client.ask(*map(str, range(9)))
        for port in (5000, 6000):
            world.server(port).connection.close()
            self.assertEqual(world.factory.counters.retried, RETRIES)
        world.server(7000).answer()
        self.assertEqual(len(client.answers()), 9)
        world.register("8000", "111", 8000, pipeline=1000)
        world.server(8000)
        client.ask(*map(str, range(6)))
        world.server(8000).connection.close()
        self.assertEqual(world.factory.counters.retried, 2 * RETRIES)

    def test_nothing_is_kept_after_the_answers(self) -> None:
        """No packet stays in the proxy longer than it has to, although no server is lost any more."""
        world = self.world_with(5000, 6000)
        client = world.client()
        client.ask("kept?")
        self.owner(world, 5000, 6000).connection.close()
        self.owner(world, 5000, 6000).answer()
        self.assertEqual(len(client.answers()), 1)
        world.sweep()
        gc.collect()
        kept = [each for each in gc.get_objects() if type(each) is Request and b"kept?" in each.raw]
        self.assertEqual(kept, [])
