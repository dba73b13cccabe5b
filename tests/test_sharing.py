"""Two or three whole proxies that share a store: what is said to one counts at all, and is as true there."""

from __future__ import annotations

from typing import Any

from rproxy.limits import Limits
from rproxy.policies import EVERYTHING, Policies, Policy
from rproxy.process.sweeping import SWEEP
from rproxy.registry.registration import Registration
from rproxy.stores.asking import MOST_ASKED_BYTES
from tests.adminclient import Admin, control_of
from tests.links import Link, SharedStore
from tests.memory import HOST, Proxy, ProxyCase, setup
from tests.memorytcp import MemoryReactor

#: What servers listen at.
PORT = 5000
#: The lease of servers, and longer.
LEASE = 10.0
LATER = LEASE + 4.0


class SharingCase(ProxyCase):
    """Proxies called a, b, c; each has its own view of who can be reached."""

    def setUp(self) -> None:
        self.reactor = MemoryReactor()
        self.store = SharedStore(self.reactor)
        self.proxies: list[Proxy] = []
        self.links: dict[Proxy, Link] = {}
        self.ids: dict[tuple[str, str, int], str] = {}
        self.a, self.b = self.make_proxy("a"), self.make_proxy("b")

    def make_proxy(self, name: str, policies: Policies = EVERYTHING, **limits: Any) -> Proxy:
        link = self.store.link()
        proxy = Proxy(Limits(**limits), policies, store=link, name=name, reactor=self.reactor)
        proxy.ids = self.ids
        self.addCleanup(proxy.check_counters)
        self.proxies.append(proxy)
        self.links[proxy] = link
        self.pump()
        return proxy

    def pump(self) -> None:
        for _ in range(3):
            for proxy in self.proxies:
                proxy.pump()

    def advance(self, seconds: float) -> None:
        """Time passes for all of them."""
        for _ in range(round(seconds / SWEEP)):
            self.reactor.advance(SWEEP)
            for proxy in self.proxies:
                proxy.sweep()

    def kill(self, proxy: Proxy) -> None:
        """It is gone without a word."""
        self.proxies.remove(proxy)
        self.links[proxy].cut()
        assert proxy.replica is not None
        proxy.replica.running = 0
        self.pump()

    def standing(self, proxy: Proxy) -> set[tuple[str, str, int]]:
        return {(each.policy, each.server_id, each.port) for each in proxy.factory.registry.standing}

    def one(self, proxy: Proxy) -> Registration:
        [registration] = proxy.factory.registry.standing
        return registration


class RoutingTests(SharingCase):
    def test_registered_at_one_and_routed_at_the_other(self) -> None:
        self.a.register("100", "111", PORT, pipeline=4, lease=LEASE)
        server = self.b.server(PORT)
        self.pump()
        client = self.b.client()
        client.ask("x")
        server.answer()
        self.assertEqual(client.answers(), ["x by 100"])

    def test_asked_once_before_it_is_refused(self) -> None:
        """A policy that this proxy hasn't heard of yet."""
        client = self.b.client()
        self.links[self.b].mode = "hang"
        client.ask("x")
        self.advance(0.5)
        self.assertEqual(client.answers(), [])
        server = self.b.server(PORT)
        self.a.register("100", "111", PORT, pipeline=4, lease=LEASE)
        self.links[self.b].heal()
        self.pump()
        self.advance(0.25)
        server.answer()
        self.assertEqual(client.answers(), ["x by 100"])

    def test_asked_within_a_second(self) -> None:
        client = self.b.client()
        self.links[self.b].mode = "hang"
        client.ask("x")
        self.advance(1.0)
        self.assertEqual(client.answers(), ["no-server/no"])

    def test_refused_at_once_while_the_store_is_away(self) -> None:
        self.store.cut()
        self.advance(6)
        client = self.b.client()
        client.ask("x")
        self.assertEqual(client.answers(), ["no-server/no"])

    def test_acknowledged_when_the_others_can_know(self) -> None:
        """Whoever reads that it is registered finds it at every proxy; the answers keep their order."""
        self.links[self.a].mode = "hang"
        server = self.a.client(HOST)
        server.send(setup("100", "111", PORT, pipeline=4, lease=LEASE))
        server.send(setup("100", "222", PORT, pipeline=4, lease=LEASE))
        server.send(setup("100", "111", PORT, pipeline=4, lease=LEASE))
        self.assertEqual(server.answers(), [])
        self.links[self.a].heal()
        self.pump()
        self.assertEqual(server.answers(), ["registered"] * 3)
        self.assertEqual(self.standing(self.b), {("111", "100", PORT), ("222", "100", PORT)})

    def test_acknowledged_all_the_same_when_they_can_not(self) -> None:
        """Once the store is known to be away, at once; else after a second, as servers don't wait long."""
        self.links[self.a].mode = "hang"
        server = self.a.client(HOST)
        server.send(setup("100", "111", PORT, pipeline=4, lease=LEASE))
        self.advance(0.75)
        self.assertEqual(server.answers(), [])
        self.advance(0.5)
        self.assertEqual(server.answers(), ["registered"])
        self.advance(4)
        server.send(setup("100", "222", PORT, pipeline=4, lease=LEASE))
        self.assertEqual(server.answers(), ["registered"])

    def test_who_waits_for_it_may_go(self) -> None:
        self.links[self.a].mode = "hang"
        self.a.client(HOST).send(setup("100", "111", PORT, pipeline=4, lease=LEASE))
        gone = self.a.client(HOST)
        gone.send(setup("200", "111", PORT + 1, pipeline=4, lease=LEASE))
        gone.reset()
        self.links[self.a].heal()
        self.pump()
        self.assertEqual(self.standing(self.b), {("111", "100", PORT)})

    def test_few_bytes_wait_for_it(self) -> None:
        """However long the packets are for policies that nobody has heard of."""
        self.links[self.b].mode = "hang"
        clients = [self.b.client() for _ in range(80)]
        for client in clients:
            client.ask("x" * 900_000, policy="333")
        refused = [client for client in clients if client.answers() == ["no-server/no"]]
        self.assertEqual(len(refused), len(clients) - 1 - MOST_ASKED_BYTES // 900_000)
        self.advance(1.0)
        self.assertEqual(sum(client.answers() == ["no-server/no"] for client in clients), len(clients) - len(refused))

    def test_questions_are_few(self) -> None:
        """However many packets ask for what doesn't exist."""
        client = self.b.client()
        before = self.links[self.b].exchanges
        for number in range(50):
            client.ask("x", policy=str(number))
        self.advance(0.25)
        self.assertEqual(len(client.answers()), 50)
        self.assertLessEqual(self.links[self.b].exchanges - before, 2)

    def test_found_servers_are_probed_first(self) -> None:
        """No packet is written before a connection was made; a classic server outlives every proxy."""
        self.a.register("100", "111", PORT)
        self.kill(self.a)
        self.kill(self.b)
        c = self.make_proxy("c")
        self.assertEqual(self.standing(c), {("111", "100", PORT)})
        server = c.server_at((HOST, PORT))
        self.assertEqual(server.attempted, 1)
        client = c.client()
        client.ask("x")
        self.assertEqual((client.answers(), server.payloads), ([], []))
        server.accept()
        self.advance(2)
        server.answer()
        self.assertEqual(client.answers(), ["x by 100"])

    def test_part_of_a_classic_servers_connections(self) -> None:
        """Eight in all."""
        self.a.register("100", "111", PORT)
        server = self.a.server(PORT)
        self.advance(6)
        client = self.a.client()
        client.ask(*"abcdefgh")
        self.assertEqual(len(server.open), 4)
        for _ in range(3):
            server.answer()
        self.assertEqual(len(client.answers()), 8)


class EndTests(SharingCase):
    def test_leases_of_a_killed_proxy_end_in_time(self) -> None:
        self.a.register("100", "111", PORT, pipeline=4, lease=LEASE)
        self.kill(self.a)
        self.advance(LEASE - 0.5)
        self.assertEqual(len(self.standing(self.b)), 1)
        self.advance(1)
        self.assertEqual(self.standing(self.b), set())

    def test_what_a_stop_closes_ends_nothing(self) -> None:
        """A stopped proxy leaves its leases to run out; its servers have that long to register elsewhere."""
        self.a.register("100", "111", PORT, pipeline=4, lease=LEASE)
        assert self.a.replica is not None
        self.a.replica.stopService()
        self.a.factory.close()
        self.pump()
        self.proxies.remove(self.a)
        self.assertEqual(len(self.standing(self.b)), 1)
        self.advance(LEASE + 0.5)
        self.assertEqual(self.standing(self.b), set())

    def test_lost_at_one_of_two(self) -> None:
        """It stands as long as one of them holds its lease, and nothing changes for packets."""
        at_a = self.a.register("100", "111", PORT, pipeline=4, lease=LEASE)
        at_b = self.b.register("100", "111", PORT, pipeline=4, lease=LEASE)
        self.pump()
        number = self.one(self.a).number
        at_b.close()
        self.pump()
        self.assertEqual(self.one(self.a).number, number)
        self.assertEqual(len(self.standing(self.b)), 1)
        at_a.close()
        self.pump()
        self.assertEqual((self.standing(self.a), self.standing(self.b)), (set(), set()))

    def test_drained_at_one(self) -> None:
        """The newest word counts, everywhere; that the others hear the old one again changes nothing."""
        at_a = self.a.register("100", "111", PORT, pipeline=4, lease=LEASE)
        self.b.register("100", "111", PORT, pipeline=4, lease=LEASE, drain=True)
        self.pump()
        self.assertTrue(self.one(self.a).draining)
        at_a.take()
        at_a.send({"type": "1", "id": "100", "privPolyId": "111", "listenport": str(PORT), "pipeline": 4, "lease": 10})
        self.advance(2)
        self.assertTrue(self.one(self.a).draining)
        self.assertTrue(self.one(self.b).draining)

    def test_revoked(self) -> None:
        """By an operator: it ends where its lease is held, and goes on being served where that can't be ended."""
        server = self.b.server(PORT)
        self.a.register("100", "111", PORT, pipeline=4, lease=LEASE)
        self.pump()
        admin = Admin(control_of(self.b))
        refused = admin.post("/api/v1/servers/100/revoke")
        self.assertEqual(refused.status, 409)
        self.assertIn("server 100 still stands by the lease of another proxy", refused.json["error"])
        self.assertNotIn("revoked", [each["kind"] for each in admin.get("/api/v1/happenings").json])
        self.pump()
        client = self.b.client()
        client.ask("x")
        server.answer()
        self.assertEqual(client.answers(), ["x by 100"])
        self.assertEqual(Admin(control_of(self.a)).post("/api/v1/servers/100/revoke").json, {"registrations": 1})
        self.pump()
        self.assertEqual((self.standing(self.a), self.standing(self.b)), (set(), set()))

    def test_revoked_at_one_of_two(self) -> None:
        """Of those that it was told to end, it says how many did."""
        for policy, proxies in ("111", (self.a, self.b)), ("222", (self.a,)):
            for proxy in proxies:
                proxy.register("100", policy, PORT, pipeline=4, lease=LEASE)
                self.pump()
        admin = Admin(control_of(self.a))
        self.assertEqual(admin.post("/api/v1/servers/100/revoke").json, {"registrations": 1})
        self.assertEqual(self.standing(self.a), {("111", "100", PORT)})
        self.assertEqual(admin.post("/api/v1/servers/100/revoke").status, 409)

    def test_moved(self) -> None:
        self.a.register("100", "111", PORT, pipeline=4, lease=LEASE)
        self.b.register("100", "111", PORT + 1, pipeline=4, lease=LEASE)
        self.pump()
        self.assertEqual(self.standing(self.a), {("111", "100", PORT + 1)})

    def test_another_at_its_address(self) -> None:
        """The newer displaces the older, whoever holds it."""
        self.a.register("100", "111", PORT, pipeline=4, lease=LEASE)
        self.b.register("101", "111", PORT, pipeline=4, lease=LEASE)
        self.pump()
        for proxy in self.proxies:
            self.assertEqual(self.standing(proxy), {("111", "101", PORT)})

    def test_conflict_that_is_raced(self) -> None:
        """Of two hosts that registered one key at two proxies, the second is told so."""
        self.store.cut()
        first = self.a.register("100", "111", PORT, "10.0.0.5", pipeline=4, lease=LEASE)
        self.advance(0.25)
        second = self.b.register("100", "111", PORT, "10.0.0.6", pipeline=4, lease=LEASE)
        self.assertEqual([packet["type"] for packet in second.take()], ["2"])
        self.store.heal()
        self.advance(3)
        self.assertEqual([each.get("error") for each in second.take()], ["conflict"])
        self.assertEqual([each.get("error") for each in first.take()], [None])
        for proxy in self.proxies:
            self.assertEqual(self.one(proxy).host, "10.0.0.5")

    def test_policies_differ(self) -> None:
        """What comes from the store is held to the same as what is sent; a reload counts both ways."""
        nothing = Policies(by_name={"222": Policy()})
        c = self.make_proxy("c", nothing)
        happened: list[tuple[str, ...]] = []
        c.factory.watch(lambda *what: happened.append(what))
        self.a.register("100", "111", PORT, pipeline=4, lease=60)
        self.pump()
        self.assertEqual((len(self.standing(self.b)), self.standing(c)), (1, set()))
        self.assertEqual(happened, [("refused", "111", "100", "forbidden, there is no policy 111")])
        self.assertEqual(c.factory.counters.setup_refused["forbidden"], 1)
        c.factory.reload(EVERYTHING)
        self.assertEqual(len(self.standing(c)), 1)
        c.factory.reload(nothing)
        self.pump()
        self.assertEqual((len(self.standing(self.a)), self.standing(c)), (1, set()))


class AwayTests(SharingCase):
    """The store can't be reached."""

    def setUp(self) -> None:
        super().setUp()
        # Two for each proxy.
        self.terms: dict[str, Any] = {"pipeline": 4, "connections": 4, "lease": LEASE}
        self.lease = self.a.register("100", "111", PORT, **self.terms)
        self.server = self.b.server(PORT)
        self.pump()
        self.client = self.b.client()
        self.client.ask("x")
        self.server.answer()
        self.assertEqual(self.client.answers(), ["x by 100"])

    def test_back_in_time(self) -> None:
        self.store.cut()
        self.advance(8)
        self.store.heal()
        self.advance(LATER)
        # Its server says nothing more.
        self.assertEqual(self.standing(self.b), set())

    def test_served_over_what_stands_until_it_is_lost(self) -> None:
        self.store.cut()
        self.kill(self.a)
        self.advance(3 * LEASE)
        self.client.ask("y")
        self.server.answer()
        self.assertEqual(self.client.answers(), ["y by 100"])
        attempted = self.server.attempted
        self.server.connection.close()
        self.pump()
        self.advance(60)
        self.assertEqual((self.standing(self.b), self.server.attempted), (set(), attempted))

    def test_address_that_is_anothers_by_now(self) -> None:
        """A server of another policy listens there, which this proxy can't know: it gets nothing of the old policy's.

        Not over a second connection, nor by a probe, nor over one that is made after the first was lost.
        """
        self.store.cut()
        self.kill(self.a)
        self.advance(3 * LEASE)
        old = self.server.connection
        before = len(self.server.connections)
        self.client.ask("in flight", "beside it", "more", "still more", "too many")
        self.assertEqual(old.payloads[1:], ["in flight", "beside it", "more", "still more"])
        old.reset()
        self.client.ask("late")
        self.advance(90)
        self.assertEqual(len(self.server.connections), before)
        self.assertEqual(self.client.answers(), ["server-lost/unknown"] * 4 + ["no-server/no"] * 2)

    def test_address_that_is_anothers_within_the_lease(self) -> None:
        """The store can't say so, and before this proxy knows that it can't, the server goes and another one comes."""
        for mode in ("hang", "down"):
            self.links[self.b].mode = mode
            before = len(self.server.connections)
            self.server.connection.reset()
            self.client.ask("late")
            self.advance(4)
            self.assertEqual((len(self.server.connections), self.server.connection.payloads.count("late")), (before, 0))
            self.advance(4)
            self.assertEqual(self.client.answers(), ["no-server/no"])
            self.links[self.b].heal()
            self.renew_for(4)
            self.assertEqual(len(self.server.connections), before + 1)

    def test_confirmed_before_each_connection(self) -> None:
        """What the store says in that moment counts."""
        self.links[self.b].mode = "hang"
        before = len(self.server.connections)
        self.server.connection.reset()
        self.client.ask("late")
        self.lease.reset()
        self.links[self.b].heal()
        self.pump()
        self.advance(1)
        self.assertEqual((len(self.server.connections), len(self.standing(self.b))), (before, 0))

    def test_others_at_the_address_do_not_wait(self) -> None:
        """A server that registers here is connected to, whatever another process said of its address."""
        self.store.cut()
        self.server.connection.reset()
        self.advance(4)
        self.b.register("200", "222", PORT, pipeline=4, lease=LEASE)
        other = self.b.client()
        other.ask("y", policy="222")
        self.client.ask("x")
        self.advance(6)
        self.assertEqual(self.server.connection.payloads, ["y"])
        self.assertEqual(self.client.answers(), ["no-server/no"])

    def test_back_and_held_no_more(self) -> None:
        """What it was held for is over: connections are made again."""
        self.links[self.b].cut()
        self.renew_for(20)
        self.client.ask("w", "x", "y", "z")
        self.assertEqual((len(self.standing(self.b)), len(self.server.connections)), (1, 1))
        self.links[self.b].heal()
        self.renew_for(4)
        self.client.ask("v")
        self.assertEqual(len(self.server.connections), 2)

    def test_lost_once_it_is_back(self) -> None:
        """It is probed, as any server is."""
        self.links[self.b].cut()
        self.renew_for(20)
        self.links[self.b].heal()
        self.renew_for(4)
        self.server.connection.reset()
        self.client.ask("z")
        self.renew_for(4)
        self.server.answer()
        self.assertEqual(self.client.answers(), ["z by 100"])

    def test_heard_of_at_this_proxy_meanwhile(self) -> None:
        """The server registers here: what it was held by is closed, as it may lead to what listened there before."""
        self.store.cut()
        self.kill(self.a)
        self.advance(2 * LEASE)
        old = self.server.connection
        self.b.register("200", "222", PORT, **self.terms)
        self.assertTrue(old.gone)
        self.assertEqual(self.standing(self.b), {("222", "200", PORT)})

    def test_another_host_takes_over_what_is_held(self) -> None:
        """There is no lease any more that it could be in conflict with."""
        self.store.cut()
        self.kill(self.a)
        self.advance(2 * LEASE)
        setup = self.b.register("100", "111", PORT, "10.0.0.6", **self.terms)
        self.assertEqual([packet["type"] for packet in setup.take()], ["2"])
        self.assertEqual(self.one(self.b).host, "10.0.0.6")

    def test_own_lease_beside_the_others(self) -> None:
        """A server that is registered here too is held by nothing."""
        lease = self.b.register("100", "111", PORT, **self.terms)
        self.lease.close()
        self.a.register("100", "111", PORT, **self.terms)
        self.pump()
        self.links[self.b].cut()
        for _ in range(5):
            self.advance(4)
            lease.send({"type": "1", "id": "100", "privPolyId": "111", "listenport": str(PORT), **self.terms})
        self.client.ask("w", "x", "y", "z", "v")
        self.assertEqual(len(self.server.connections), 2)

    def renew_for(self, seconds: float) -> None:
        """The server goes on renewing its lease."""
        for _ in range(round(seconds)):
            self.lease.send({"type": "1", "id": "100", "privPolyId": "111", "listenport": str(PORT), **self.terms})
            self.advance(1)

    def test_empty_when_it_is_back(self) -> None:
        """All that it lost is put there again: leases by those who hold them, the others by everybody."""
        self.b.register("300", "111", PORT + 1)
        self.pump()
        self.store.cut()
        self.advance(6)
        self.store.lose_everything()
        self.store.heal()
        self.advance(3)
        c = self.make_proxy("c")
        self.assertEqual(self.standing(c), {("111", "100", PORT), ("111", "300", PORT + 1)})

    def test_others_without_a_lease_stay(self) -> None:
        self.a.register("300", "111", PORT + 1)
        self.pump()
        self.store.cut()
        self.advance(10 * LEASE)
        self.assertIn(("111", "300", PORT + 1), self.standing(self.b))

    def test_moved_to_tls_while_it_is_held(self) -> None:
        """A reload that has its policy connected to in another way would need new connections: it ends."""
        self.store.cut()
        self.advance(2 * LEASE)
        attempted = self.server.attempted
        self.b.factory.reload(Policies(by_name={"111": Policy(upstream_tls=True)}))
        self.advance(5)
        self.assertEqual((self.standing(self.b), self.server.attempted), (set(), attempted))
