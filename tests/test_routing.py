"""Which server gets a packet, and what its client hears if there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rproxy.policies import Policies, Policy
from tests.memory import HOST, Client, MemoryServerHost, Proxy, ProxyCase, ServerConnection, data, encode, setup

#: Longer than a classic server can read.
LONG = "x" * 2048


class PolicyTests(ProxyCase):
    """A data packet is only ever written to a server registered for its policy."""

    def test_each_to_its_own(self) -> None:
        """A server of policy 111 never sees a packet of 222, nor the other way round."""
        proxy = self.proxy()
        servers = {}
        for port, policy in enumerate(("111", "222", "11", "1111"), start=5000):
            proxy.register("100", policy, port)
            servers[policy] = proxy.server(port)
        client = proxy.client()
        for policy in ("222", "111", "1111", "111", "11"):
            client.ask(f"for {policy}", policy=policy)
        for policy, server in servers.items():
            self.assertEqual(set(server.payloads), {f"for {policy}"})

    def test_unknown_policy(self) -> None:
        """A policy nobody serves is an error at once, not a guess: there is no default server and no fall-through."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        server = proxy.server(5000)
        client = proxy.client()
        for policy in ("222", "0111", "111 ", "11", "*", "default"):
            client.ask("a", policy=policy)
            self.assertEqual(client.answers(), ["no-server/no"], policy)
        self.assertEqual(server.attempted, 0)

    def test_setup_between_packets(self) -> None:
        """A server gets what came behind its setup packet, and not what one read brought before it."""
        proxy = self.proxy()
        server = proxy.server(5000)
        proxy.ids["111", HOST, 5000] = "100"
        client = proxy.client(HOST)
        client.send(data("a"), setup("100", "111", 5000), data("b"))
        self.assertEqual(server.payloads, ["b"])
        server.answer()
        self.assertEqual(client.answers(), ["no-server/no", "b by 100"])

    def test_no_panic(self) -> None:
        """Nor is there a fall-through where every server of the policy is down, full or draining."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        proxy.register("200", "111", 5001, drain=True)
        proxy.register("300", "222", 5002)
        draining, other = proxy.server(5001), proxy.server(5002)
        client = proxy.client()
        client.ask("a")
        proxy.advance(6)
        self.assertEqual(client.answers(), ["no-server/no"])
        self.assertEqual((draining.attempted, other.attempted), (0, 0))

    def test_one_server_of_two_policies(self) -> None:
        """A server may serve several policies through several setup packets, and lose one of them."""
        proxy = self.proxy()
        leases = {policy: proxy.register("100", policy, 5000, pipeline=4, lease=60) for policy in ("111", "222")}
        server = proxy.server(5000)
        client = proxy.client()
        client.ask("a")
        client.ask("b", policy="222")
        self.assertEqual(server.connection.payloads, ["a", "b"])
        leases["111"].close()
        client.ask("c")
        client.ask("d", policy="222")
        self.assertEqual(server.payloads, ["a", "b", "d"])
        server.answer()
        proxy.advance(6)
        self.assertEqual(client.answers(), ["a by 100", "b by 100", "no-server/no", "d by 100"])

    def test_packet_that_waited(self) -> None:
        """A server that re-registers for another policy gets none of the packets that wait for its old one."""
        proxy = self.proxy()
        lease = proxy.register("100", "111", 5000, lease=60)
        client = proxy.client()
        client.ask("a")
        lease.close()
        proxy.register("100", "222", 5000, lease=60)
        server = proxy.server(5000)
        client.ask("b", policy="222")
        proxy.advance(6)
        self.assertEqual(server.payloads, ["b"])
        server.answer()
        self.assertEqual(client.answers(), ["no-server/no", "b by 100"])

    def test_packet_that_waited_for_room(self) -> None:
        """Nor does one that was full."""
        proxy = self.proxy()
        lease = proxy.register("100", "111", 5000, pipeline=1, lease=60)
        server = proxy.server(5000)
        client = proxy.client()
        client.ask("a", "b")
        self.assertEqual(server.payloads, ["a"])
        lease.send(setup("100", "222", 5000, pipeline=1, lease=60), setup("100", "111", 6000, pipeline=1, lease=60))
        server.answer()
        self.assertEqual(server.payloads, ["a"])
        self.assertEqual(client.answers(), ["a by 100"])
        moved = proxy.server(6000)
        proxy.advance(1)
        self.assertEqual((server.payloads, moved.payloads), (["a"], ["b"]))

    def test_packet_that_was_being_connected(self) -> None:
        """Nor does one that the proxy was connecting to when it re-registered."""
        for order in ("close first", "register first", "the other policy before"):
            with self.subTest(order):
                proxy = self.proxy()
                if order == "the other policy before":
                    proxy.register("100", "222", 5000, lease=60)
                lease = proxy.register("100", "111", 5000, lease=60)
                server = proxy.server(5000)
                server.hang()
                client = proxy.client()
                client.ask("a")
                self.assertEqual(len(server.attempts), 1)
                if order == "close first":
                    lease.close()
                    proxy.register("100", "222", 5000, lease=60)
                elif order == "register first":
                    proxy.register("100", "222", 5000, lease=60)
                    lease.close()
                else:
                    lease.close()
                server.accept()
                client.ask("b", policy="222")
                proxy.advance(6)
                self.assertEqual(server.payloads, ["b"])
                server.answer()
                self.assertEqual(client.answers(), ["no-server/no", "b by 100"])

    def test_packet_that_was_redispatched(self) -> None:
        """Nor does one that a packet of its old policy is redispatched to."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        lease = proxy.register("200", "111", 5001, lease=60)
        refusing, moving = proxy.server(5000), proxy.server(5001)
        refusing.hang()
        client = proxy.client()
        client.ask("a")
        lease.close()
        proxy.register("200", "222", 5001, lease=60)
        refusing.refuse()
        proxy.advance(6)
        self.assertEqual(moving.payloads, [])
        self.assertEqual(client.answers(), ["no-server/no"])

    def test_other_server_at_the_same_address(self) -> None:
        """A connection is not a licence: what is written to an address is for the policy it serves now."""
        proxy = self.proxy()
        lease = proxy.register("100", "111", 5000, pipeline=4, lease=60)
        server = proxy.server(5000)
        client = proxy.client()
        client.ask("a")
        server.answer()
        with proxy.at_once():
            lease.close()
            proxy.register("200", "222", 5000, pipeline=4, lease=60)
        client.ask("b")
        proxy.advance(6)
        self.assertEqual(server.payloads, ["a"])
        self.assertEqual(client.answers(), ["a by 100", "no-server/no"])


class RotationTests(ProxyCase):
    """Within a policy packets go round-robin in the order of registration."""

    def serve(self, proxy: Proxy, count: int = 2, policy: str = "111", **modern: Any) -> list[MemoryServerHost]:
        """Register servers 1, 2, ... of the policy."""
        ports = range(5000, 5000 + count)
        for number, port in enumerate(ports, start=1):
            proxy.register(str(number), policy, port, HOST, **modern)
        return [proxy.server(port) for port in ports]

    def test_round_robin(self) -> None:
        """With servers 1 and 2, packets 1 to 5 go to 1, 2, 1, 2, 1."""
        proxy = self.proxy()
        servers = self.serve(proxy)
        client = proxy.client()
        client.ask("1", "2", "3", "4", "5")
        self.assertEqual([server.payloads for server in servers], [["1", "3", "5"], ["2", "4"]])
        for server in servers:
            server.answer()
        self.assertEqual(client.answers(), ["1 by 1", "2 by 2", "3 by 1", "4 by 2", "5 by 1"])

    def test_round_robin_over_clients(self) -> None:
        """Whoever sends them, one packet a connection."""
        proxy = self.proxy()
        servers = self.serve(proxy)
        for number in range(1, 6):
            client = proxy.client()
            client.ask(str(number))
            client.close()
        self.assertEqual([server.payloads for server in servers], [["1", "3", "5"], ["2", "4"]])

    def test_policies_rotate_apart(self) -> None:
        """Packets of another policy take no turn."""
        proxy = self.proxy()
        servers = self.serve(proxy)
        proxy.register("3", "222", 6000)
        proxy.server(6000)
        client = proxy.client()
        for number in range(1, 5):
            client.ask(str(number))
            client.ask("other", policy="222")
        self.assertEqual([server.payloads for server in servers], [["1", "3"], ["2", "4"]])

    def test_replaced_in_its_place(self) -> None:
        """Setting up the same key again replaces it in its place in the rotation, at its new port too."""
        proxy = self.proxy()
        servers = self.serve(proxy, 3)
        client = proxy.client()
        client.ask("1")
        proxy.register("2", "111", 6000)
        moved = proxy.server(6000)
        client.ask("2", "3", "4", "5")
        self.assertEqual([server.payloads for server in servers], [["1", "4"], [], ["3"]])
        self.assertEqual(moved.payloads, ["2", "5"])

    def test_down_server_is_passed_over(self) -> None:
        """A server that is down is passed over, and has its turns again once it is back."""
        proxy = self.proxy()
        servers = self.serve(proxy, 3)
        servers[1].refuse()
        client = proxy.client()
        client.ask("1", "2", "3", "4", "5", "6")
        self.assertEqual([len(server.payloads) for server in servers], [3, 0, 3])
        servers[1].accept()
        proxy.advance(1)
        client.ask("7", "8", "9")
        self.assertEqual([len(server.payloads) for server in servers], [4, 1, 4])

    def test_draining_server_is_passed_over(self) -> None:
        """So is one that drains; what is in flight there is finished."""
        proxy = self.proxy()
        servers = self.serve(proxy)
        client = proxy.client()
        client.ask("1", "2")
        proxy.register("2", "111", 5001, drain=True)
        client.ask("3", "4")
        self.assertEqual([server.payloads for server in servers], [["1", "3", "4"], ["2"]])
        for server in servers:
            server.answer()
        self.assertEqual(client.answers(), ["1 by 1", "2 by 2", "3 by 1", "4 by 1"])
        proxy.register("2", "111", 5001)
        client.ask("5", "6")
        self.assertEqual([len(server.payloads) for server in servers], [4, 2])

    def test_full_server_is_passed_over(self) -> None:
        """So is one that has as much as it takes."""
        proxy = self.proxy()
        proxy.register("1", "111", 5000, pipeline=1)
        proxy.register("2", "111", 5001, pipeline=4)
        servers = [proxy.server(5000), proxy.server(5001)]
        proxy.client().ask("1", "2", "3", "4")
        self.assertEqual([server.payloads for server in servers], [["1"], ["2", "3", "4"]])

    def test_weight(self) -> None:
        """A server's weight is its share in the rotation, evenly spread."""
        proxy = self.proxy()
        proxy.register("1", "111", 5000, weight=3, pipeline=100)
        proxy.register("2", "111", 5001, pipeline=100)
        servers = [proxy.server(5000), proxy.server(5001)]
        proxy.client().ask(*map(str, range(8)))
        self.assertEqual([len(server.packets) for server in servers], [6, 2])
        proxy.register("1", "111", 5000, weight=1, pipeline=100)
        proxy.client().ask(*map(str, range(8)))
        self.assertEqual([len(server.packets) for server in servers], [10, 6])

    def test_order_of_answers(self) -> None:
        """Two servers that answer in the opposite order change nothing about the order of the answers."""
        proxy = self.proxy()
        first, second = self.serve(proxy, pipeline=4)
        client, other = proxy.client(), proxy.client()
        client.ask("1", "2", "3")
        other.ask("4", "5")
        second.answer()
        self.assertEqual((client.answers(), other.answers()), ([], ["4 by 2"]))
        first.answer()
        self.assertEqual((client.answers(), other.answers()), (["1 by 1", "2 by 2", "3 by 1"], ["5 by 1"]))


class OneWriteTests(ProxyCase):
    """A packet is tried on another server only if not one byte of it was written."""

    def setUp(self) -> None:
        self.world = self.proxy()
        for number in (1, 2):
            self.world.register(str(number), "111", 5000 + number)
        self.first, self.second = self.world.server(5001), self.world.server(5002)
        self.client = self.world.client()

    def test_refused_connection(self) -> None:
        """A packet whose connection is refused goes to the next server, and counts as redispatched."""
        self.first.refuse()
        self.client.ask("a")
        self.assertEqual(self.second.payloads, ["a"])
        self.second.answer()
        self.assertEqual(self.client.answers(), ["a by 2"])
        self.assertEqual(self.world.factory.counters.redispatched, 1)

    def test_connection_that_is_not_made_in_time(self) -> None:
        """So does one whose connection times out."""
        self.first.hang()
        self.client.ask("a")
        self.world.advance(4.75)
        self.assertEqual(self.second.payloads, [])
        self.world.advance(0.5)
        self.assertEqual(self.second.payloads, ["a"])

    def test_every_server_refuses(self) -> None:
        """Where the next one refuses too, the packet waits, and its client is told that it was not delivered."""
        self.first.refuse()
        self.second.refuse()
        self.client.ask("a")
        self.assertEqual((self.first.attempted, self.second.attempted), (1, 1))
        self.world.advance(6)
        self.assertEqual(self.client.answers(), ["no-server/no"])

    def test_lost_after_the_write(self) -> None:
        """A packet that was written is never written again: server-lost, delivered unknown."""
        ways: list[Callable[[ServerConnection], None]] = [
            ServerConnection.close,
            ServerConnection.reset,
            lambda connection: connection.send(b"garbage"),
        ]
        for way in ways:
            self.setUp()
            self.client.ask("a")
            self.assertEqual(self.first.payloads, ["a"])
            way(self.first.connection)
            self.assertEqual(self.client.answers(), ["server-lost/unknown"])
            self.world.advance(10)
            self.assertEqual((self.first.payloads, self.second.payloads), (["a"], []))
            self.assertEqual(self.world.factory.counters.redispatched, 0)

    def test_timeout_after_the_write(self) -> None:
        """Nor is one whose deadline passed."""
        self.client.ask("a")
        self.world.advance(31)
        self.assertEqual(self.client.answers(), ["timeout/unknown"])
        self.assertEqual((self.first.payloads, self.second.payloads), (["a"], []))

    def test_registration_that_ends_before_the_write(self) -> None:
        """A packet whose server leaves while the connection is made goes to another one."""
        self.world.register("1", "111", 5001, drain=True)
        lease = self.world.register("3", "111", 5003, lease=60)
        hanging = self.world.server(5003)
        hanging.hang()
        self.client.ask("a", "b")
        lease.close()
        self.assertEqual(sorted(self.second.payloads), ["a", "b"])
        hanging.accept()
        self.assertEqual(hanging.payloads, [])


class LongPacketTests(ProxyCase):
    """Classic servers read 2,048 bytes at a time and take that for one packet."""

    def test_only_classic_servers(self) -> None:
        """A longer packet for a policy with only classic servers: too-large, without closing."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        server = proxy.server(5000)
        client = proxy.client()
        client.ask(LONG, "a")
        self.assertEqual(server.payloads, ["a"])
        server.answer()
        self.assertEqual(client.answers(), ["too-large/no", "a by 100"])
        self.assertFalse(client.gone)

    def test_just_fits(self) -> None:
        """One of 2,048 bytes goes through."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        server = proxy.server(5000)
        payload = "x" * (2048 - len(encode(data(""))))
        client = proxy.client()
        client.ask(payload, payload + "x")
        self.assertEqual(server.payloads, [payload])
        self.assertEqual(len(server.connection.take_bytes()), 0)

    def test_modern_server_beside(self) -> None:
        """Where a modern server serves the policy too, it gets all of them."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        proxy.register("200", "111", 6000, pipeline=10)
        classic, modern = proxy.server(5000), proxy.server(6000)
        proxy.client().ask(LONG, LONG, LONG)
        self.assertEqual((classic.payloads, modern.payloads), ([], [LONG] * 3))

    def test_waiting_for_the_modern_server(self) -> None:
        """One that the modern server can't take now doesn't wait: it would keep the others from the classic one."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        proxy.register("200", "111", 6000, pipeline=10)
        classic = proxy.server(5000)
        long, short = proxy.client(), proxy.client()
        long.ask(LONG)
        short.ask("a")
        self.assertEqual(classic.payloads, ["a"])
        classic.answer()
        self.assertEqual(short.answers(), ["a by 100"])
        self.assertEqual(long.answers(), ["too-large/no"])

    def test_others_after_it(self) -> None:
        """Nor for good: once it is gone from the line, the line is served again."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        proxy.register("200", "111", 6000, pipeline=10)
        classic = proxy.server(5000)
        proxy.client().ask(LONG)
        clients = []
        for number in range(10):
            proxy.advance(1)
            clients.append(proxy.client())
            clients[-1].ask(str(number))
            classic.answer()
        self.assertEqual([client.answers() for client in clients], [[f"{number} by 100"] for number in range(10)])

    def test_server_that_becomes_classic(self) -> None:
        """A server that registers anew as a classic one gets no long packet, not even one that it was given before."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, pipeline=10)
        server = proxy.server(5000)
        server.hang()
        client = proxy.client()
        client.ask(LONG)
        proxy.register("100", "111", 5000)
        server.accept()
        proxy.advance(6)
        self.assertEqual(len(server.packets), 0)
        self.assertIn(client.answers(), (["too-large/no"], ["no-server/no"]))


class WordsTests(ProxyCase):
    """A refusal says in words why."""

    def assert_told(self, client: Client, *told: tuple[str, str, str]) -> None:
        self.assertEqual(list(told), [(each["error"], each["delivered"], each["payload"]) for each in client.take()])

    def test_nobody_serves_it(self) -> None:
        proxy = self.proxy()
        client = proxy.client()
        client.ask("a", policy="222")
        self.assert_told(client, ("no-server", "no", "no server serves policy 222"))

    def test_nobody_serves_it_any_more(self) -> None:
        """As long as others wait that came earlier, it is known that somebody did."""
        proxy = self.proxy(queue_timeout=1, timeout=10)
        proxy.register("100", "111", 5000, lease=100).close()
        router = proxy.factory.router
        first, second, third = proxy.client(), proxy.client(), proxy.client()
        proxy.reactor.advance(0.75)
        first.ask("a")
        proxy.reactor.advance(0.25)
        second.ask("b")
        self.assertIn("111", router.routes)
        self.assert_told(second, ("no-server", "no", "no server serves policy 111 any more"))
        proxy.advance(1)
        self.assert_told(first, ("no-server", "no", "no server of policy 111 could take it within 1 s"))
        self.assertNotIn("111", router.routes)
        third.ask("c")
        self.assert_told(third, ("no-server", "no", "no server serves policy 111"))

    def test_too_many_wait(self) -> None:
        proxy = self.proxy(queue_packets=1)
        proxy.register("100", "111", 5000, pipeline=1)
        proxy.server(5000)
        proxy.client().ask("in flight", "in line")
        client = proxy.client()
        client.ask("a")
        self.assert_told(client, ("overloaded", "no", "too many packets wait for a server of policy 111"))

    def test_too_large(self) -> None:
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        proxy.server(5000)
        client = proxy.client()
        client.ask(LONG)
        words = "policy 111 has servers of the old kind, which take at most 2048 bytes"
        self.assert_told(client, ("too-large", "no", words))

    def test_waited_in_vain(self) -> None:
        for limits, told in (
            ({"queue_timeout": 2.5}, ("no-server", "no", "no server of policy 111 could take it within 2.5 s")),
            (
                {"queue_timeout": 10, "timeout": 3},
                ("timeout", "no", "no server could take it before its deadline"),
            ),
        ):
            proxy = self.proxy(**limits)
            proxy.register("100", "111", 5000)
            client = proxy.client()
            client.ask("a")
            proxy.advance(2.25)
            self.assert_told(client)
            proxy.advance(0.75)
            self.assert_told(client, told)

    def test_in_vain_for_a_connection(self) -> None:
        proxy = self.proxy(timeout=3)
        proxy.register("100", "111", 5000)
        proxy.server_at((HOST, 5000)).hang()
        client = proxy.client()
        client.ask("a")
        proxy.advance(2.75)
        self.assert_told(client)
        proxy.advance(0.25)
        self.assert_told(client, ("timeout", "no", "no connection to the server was made in time"))

    def test_stopped(self) -> None:
        """In line, and with a server to which a connection was being made."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        proxy.register("100", "222", 5001)
        proxy.server_at((HOST, 5001)).hang()
        waiting, given = proxy.client(), proxy.client()
        waiting.ask("a", "b")
        given.ask("c", policy="222")
        proxy.factory.close()
        proxy.pump()
        in_line = ("shutting-down", "no", "the proxy stopped before a server could take it")
        self.assert_told(waiting, in_line, in_line)
        self.assert_told(given, ("shutting-down", "no", "the proxy stopped before the server was reached"))

    def test_abolished(self) -> None:
        """In line, and given back by a server of it."""
        proxy = self.proxy(Policies(by_name={"111": Policy(), "222": Policy()}))
        proxy.register("100", "111", 5000, lease=100)
        waiting = proxy.client()
        waiting.ask("a")
        proxy.factory.reload(Policies(by_name={"222": Policy()}))
        proxy.pump()
        self.assert_told(waiting, ("no-server", "no", "there is no policy 111 any more"))

    def test_beyond_the_limits_of_the_policy(self) -> None:
        policies = {"111": Policy(rate=1.0), "222": Policy(in_flight=1)}
        proxy = self.proxy(Policies(anonymous=policies))
        proxy.register("100", "111", 5000)
        proxy.register("100", "222", 5000)
        for policy, words in (
            ("111", "too many packets a second of policy 111"),
            ("222", "too many packets of policy 222 have no answer yet"),
        ):
            client = proxy.client()
            proxy.client().ask("a", policy=policy)
            client.ask("b", policy=policy)
            self.assert_told(client, ("overloaded", "no", words))


class ReentryTests(ProxyCase):
    """A refusal may make room for the client's next packet, and that one may be a setup packet."""

    def test_setup_behind_packets_that_a_setup_refuses(self) -> None:
        """The policy guarantee holds: who isn't registered any more gets nothing, whatever order things came in."""
        proxy = self.proxy(timeout=300, queue_timeout=200)
        holder = proxy.register("100", "111", 5000, pipeline=8, lease=600)
        server = proxy.server_at((HOST, 5000))
        server.hang()
        client = proxy.client(HOST)
        long = [data(LONG) for _ in range(8)]
        short = [data(str(number)) for number in range(120)]
        client.send(*long, *short, setup("100", "111", 5000, pipeline=3, lease=600))
        holder.send(setup("100", "111", 5000, lease=600))
        for connection in (holder, client):
            connection.reset()
        proxy.register("300", "111", 7000, pipeline=1, lease=600, host="10.0.0.6")
        proxy.server(7000, "10.0.0.6")
        server.accept()
        proxy.client().ask("one", "two")
        proxy.advance(40)
        self.assertEqual(server.payloads, [])

    def test_setup_behind_packets_that_the_end_refuses(self) -> None:
        """The end comes to an end."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, pipeline=200, lease=600)
        proxy.server(5000).hang()
        client = proxy.client(HOST)
        setups = [setup("7", f"p{number}", 6000 + number, pipeline=3, lease=600) for number in range(3)]
        client.send(*(data(str(number)) for number in range(128)), *setups)
        proxy.factory.drain()
        closed = proxy.factory.close()
        proxy.pump()
        self.successResultOf(closed)
        self.assertEqual([answer for answer in client.answers() if answer != "registered"], ["shutting-down/no"] * 128)
