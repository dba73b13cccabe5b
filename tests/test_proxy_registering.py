"""What registering servers see of the proxy: docs/reference/protocol.rst, from their end."""

from __future__ import annotations

from twisted.internet.address import IPv6Address, UNIXAddress

from tests.memory import HOST, Packet, ProxyCase, data, setup


class SetupTests(ProxyCase):
    """What a server hears of its registration. Where its packets go then: test_routing, test_upstream."""

    def test_classic_server_hears_nothing(self) -> None:
        """A classic server sends one setup packet and closes at once; no answer is forced on it."""
        proxy = self.proxy()
        connection = proxy.client(HOST)
        connection.send(setup("100", "111", 5000))
        self.assertEqual(connection.take(), [])
        with proxy.at_once():
            connection = proxy.client(HOST)
            connection.send(setup("200", "222", 6000))
            connection.close()
        server = proxy.server(6000)
        proxy.client().ask("a", policy="222")
        self.assertEqual(server.payloads, ["a"])

    def test_lease_is_answered(self) -> None:
        """Each setup with a lease is answered with an ACK from the proxy to the server's id."""
        proxy = self.proxy()
        connection = proxy.register("100", "111", 5000, lease=10)
        for _ in range(3):
            (answer,) = connection.take()
            self.assertEqual((answer["type"], answer["srcid"], answer["destid"]), ("2", "rproxy", "100"))
            self.assertEqual(int(answer["payloadsize"]), len(answer["payload"]))
            connection.send(setup("100", "111", 5000, lease=10))
        self.assertFalse(connection.gone)

    def test_lease_runs_out(self) -> None:
        """A registration that isn't renewed in time ends; its connection doesn't, and may register again."""
        proxy = self.proxy(queue_timeout=1)
        connection = proxy.register("100", "111", 5000, lease=10)
        server = proxy.server(5000)
        proxy.advance(9.75)
        connection.send(setup("100", "111", 5000, lease=10))
        proxy.advance(9.75)
        client = proxy.client()
        client.ask("a")
        server.answer()
        proxy.advance(2)
        client.ask("b")
        connection.send(setup("100", "111", 5000, lease=10))
        client.ask("c")
        server.answer()
        self.assertEqual(client.answers(), ["a by 100", "no-server/no", "c by 100"])

    def test_conflict(self) -> None:
        """A setup packet for a key that another host holds a live lease on is refused, and changes nothing."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, lease=10)
        server = proxy.server(5000)
        for modern in ({}, {"lease": 10}):
            intruder = proxy.client("10.0.0.66")
            intruder.send(setup("100", "111", 5000, **modern))
            (error,) = intruder.take()
            self.assertEqual((error["type"], error["error"], error["destid"]), ("3", "conflict", "100"))
            self.assertFalse(intruder.gone)
            intruder.reset()
        proxy.client().ask("a")
        self.assertEqual(server.payloads, ["a"])
        self.assertEqual(proxy.server_at(("10.0.0.66", 5000)).attempted, 0)

    def test_too_many(self) -> None:
        """There are so many registrations and no more; one that stands may still be renewed."""
        proxy = self.proxy(registrations=2)
        first = proxy.register("100", "111", 5000, lease=10)
        proxy.register("200", "111", 6000, lease=10)
        first.take()
        (error,) = proxy.register("300", "111", 7000, lease=10).take()
        self.assertEqual((error["type"], error["error"], error["destid"]), ("3", "overloaded", "300"))
        first.send(setup("100", "111", 5000, lease=10))
        self.assertEqual(first.answers(), ["registered"])

    def test_conflict_ends_with_the_lease(self) -> None:
        """Once the lease is over, another host may have the key."""
        proxy = self.proxy()
        holder = proxy.register("100", "111", 5000, lease=10)
        holder.close()
        other = proxy.register("100", "111", 5000, host="10.0.0.6", lease=10)
        self.assertEqual(other.answers(), ["registered"])

    def test_same_host_is_no_conflict(self) -> None:
        """A server that lost its setup connection without a goodbye registers anew over another one."""
        proxy = self.proxy()
        lost = proxy.register("100", "111", 5000, lease=10)
        again = proxy.register("100", "111", 5000, lease=10)
        self.assertEqual(again.answers(), ["registered"])
        server = proxy.server(5000)
        lost.reset()
        proxy.client().ask("a")
        self.assertEqual(server.payloads, ["a"], "the end of the old connection ended the new registration")

    def test_other_key_is_no_conflict(self) -> None:
        """The key is the policy and the id: other hosts may have the same id for other policies, and the other way."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, lease=10)
        for server_id, policy in (("100", "222"), ("200", "111")):
            connection = proxy.register(server_id, policy, 5000, host="10.0.0.6", lease=10)
            self.assertEqual(connection.answers(), ["registered"])

    def test_without_an_address(self) -> None:
        """Who isn't connected over TCP has no address to be reached at: forbidden. It may still ask."""
        proxy = self.proxy()
        local = proxy.client(address=UNIXAddress(None))
        local.send(setup("100", "111", 5000, lease=10))
        (error,) = local.take()
        self.assertEqual((error["type"], error["error"], error["destid"]), ("3", "forbidden", "100"))
        self.assertFalse(local.gone)
        local.ask("a")
        self.assertEqual(local.answers(), ["no-server/no"])

    def test_mapped_address(self) -> None:
        """A server that comes in over a dual-stack port is reached over IPv4."""
        proxy = self.proxy()
        connection = proxy.client(address=IPv6Address("TCP", f"::ffff:{HOST}", 40000))
        connection.send(setup("100", "111", 5000, lease=10))
        server = proxy.server(5000)
        proxy.client().ask("a")
        self.assertEqual(server.payloads, ["a"])

    def test_bad_setup(self) -> None:
        """A setup packet whose fields can't be: bad-packet, to the server's id, and nothing is registered."""
        wrong: list[Packet] = [
            {"listenport": "0"},
            {"listenport": "65536"},
            {"listenport": "http"},
            {"pipeline": 0},
            {"pipeline": "many"},
            {"connections": 0},
            {"lease": 0},
            {"lease": -1},
            {"weight": 0},
            {"weight": 1.5},
            {"drain": "yes"},
            {"token": []},
        ]
        for changes in wrong:
            with self.subTest(changes):
                proxy = self.proxy()
                connection = proxy.client(HOST)
                connection.send({**setup("100", "111", 5000), **changes})
                (error,) = connection.take()
                self.assertEqual((error["error"], error["destid"]), ("bad-packet", "100"))
                self.assertFalse(connection.gone)
                connection.ask("a")
                self.assertEqual(connection.answers(), ["no-server/no"])

    def test_token_is_ignored(self) -> None:
        """A token is let pass where the proxy asks for none."""
        proxy = self.proxy()
        connection = proxy.register("100", "111", 5000, lease=10, token="secret")
        self.assertEqual(connection.answers(), ["registered"])

    def test_client_and_server_in_one(self) -> None:
        """One connection may register several servers and ask, too."""
        proxy = self.proxy()
        connection = proxy.client(HOST)
        connection.send(setup("100", "111", 5000, lease=10), setup("100", "222", 5000, lease=10), data("a"))
        server = proxy.server(5000)
        self.assertEqual(connection.answers(), ["registered", "registered"])
        proxy.advance(1)
        proxy.ids["111", HOST, 5000] = "100"
        server.answer()
        self.assertEqual(connection.answers(), ["a by 100"])
