"""How long a packet may wait for a server, and for its answer."""

from __future__ import annotations

from tests.memory import ProxyCase, data, encode

#: Longer than a classic server can read.
LONG = "x" * 2048


class WaitingTests(ProxyCase):
    """While every server of its policy is down, draining or full, a packet waits for one, but not for ever."""

    def test_full(self) -> None:
        """A packet waits until a server has room."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, pipeline=1)
        server = proxy.server(5000)
        client = proxy.client()
        client.ask("a", "b")
        proxy.advance(4.75)
        self.assertEqual(client.answers(), [])
        server.answer()
        self.assertEqual(server.payloads, ["a", "b"])

    def test_full_for_too_long(self) -> None:
        """None came up in time: no-server, after queue_timeout, and not before."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, pipeline=1)
        server = proxy.server(5000)
        busy, client = proxy.client(), proxy.client()
        busy.ask("a")
        client.ask("b")
        proxy.advance(4.75)
        self.assertEqual(client.answers(), [])
        proxy.advance(0.5)
        self.assertEqual(client.answers(), ["no-server/no"])
        server.answer()
        self.assertEqual((busy.answers(), server.payloads), (["a by 100"], ["a"]))

    def test_draining(self) -> None:
        """A packet waits while the only server drains, for the one that comes in its stead."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, drain=True)
        draining = proxy.server(5000)
        client = proxy.client()
        client.ask("a")
        proxy.advance(3)
        proxy.register("200", "111", 6000)
        server = proxy.server(6000)
        proxy.advance(1)
        self.assertEqual((draining.attempted, server.payloads), (0, ["a"]))

    def test_rolling_restart(self) -> None:
        """A rolling restart loses nothing: what comes while the last server is gone waits for the next one."""
        proxy = self.proxy()
        lease = proxy.register("100", "111", 5000, pipeline=4, lease=60)
        old = proxy.server(5000)
        client = proxy.client()
        client.ask("a")
        lease.close()
        client.ask("b")
        proxy.advance(3)
        old.answer()
        old.refuse()
        proxy.register("100", "111", 6000, pipeline=4, lease=60)
        new = proxy.server(6000)
        proxy.advance(2)
        new.answer()
        self.assertEqual(client.answers(), ["a by 100", "b by 100"])
        self.assertEqual((old.payloads, new.payloads), (["a"], ["b"]))

    def test_soon_after_the_last_server_left(self) -> None:
        """So does what comes a moment later: a restart takes a while."""
        proxy = self.proxy()
        lease = proxy.register("100", "111", 5000, lease=60)
        lease.close()
        proxy.advance(2)
        client = proxy.client()
        client.ask("a")
        proxy.advance(2)
        proxy.register("100", "111", 5000, lease=60)
        server = proxy.server(5000)
        proxy.advance(1)
        server.answer()
        self.assertEqual(client.answers(), ["a by 100"])

    def test_deserted_policy(self) -> None:
        """Once the last server is gone for longer than a packet would wait, nobody serves the policy."""
        proxy = self.proxy()
        lease = proxy.register("100", "111", 5000, lease=60)
        lease.close()
        proxy.advance(6)
        client = proxy.client()
        client.ask("a")
        self.assertEqual(client.answers(), ["no-server/no"])

    def test_overloaded(self) -> None:
        """The policy's queue is full: overloaded, at once; other policies have queues of their own."""
        proxy = self.proxy(queue_packets=3)
        for policy, port in (("111", 5000), ("222", 5001)):
            proxy.register("100", policy, port, pipeline=1)
        server, other = proxy.server(5000), proxy.server(5001)
        client = proxy.client()
        client.ask("in flight", "1", "2", "3", "4")
        client.ask("in flight too", "5", policy="222")
        self.assertEqual(proxy.factory.counters.refused["overloaded"], 0, "it waits for those before it")
        for _ in range(4):
            server.answer()
        for _ in range(2):
            other.answer()
        self.assertEqual(
            client.answers(),
            [
                "in flight by 100",
                "1 by 100",
                "2 by 100",
                "3 by 100",
                "overloaded/no",
                "in flight too by 100",
                "5 by 100",
            ],
        )

    def test_overloaded_by_bytes(self) -> None:
        """A queue is bounded in bytes, too."""
        proxy = self.proxy(queue_bytes=1000)
        proxy.register("100", "111", 5000, pipeline=1)
        proxy.server(5000)
        proxy.client().ask("in flight")
        clients = [proxy.client() for _ in range(4)]
        for client in clients:
            client.ask("x" * 400)
        self.assertEqual([client.answers() for client in clients], [[], [], [], ["overloaded/no"]])

    def test_one_client_delays_another_by_one_turn(self) -> None:
        """A client with many packets in line delays another client's one packet by one turn."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, pipeline=1)
        server = proxy.server(5000)
        many, one = proxy.client(), proxy.client()
        many.ask(*map(str, range(100)))
        one.ask("mine")
        for _ in range(3):
            server.answer()
        self.assertEqual(one.answers(), ["mine by 100"])

    def test_waits_in_order(self) -> None:
        """A client's packets leave the line in the order in which they came, also after a connection in vain."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000, pipeline=10)
        client = proxy.client()
        client.ask("1", "2", "3")
        client.ask("4")
        server = proxy.server(5000)
        proxy.advance(1)
        self.assertEqual(server.payloads, ["1", "2", "3", "4"])

    def test_server_comes_back(self) -> None:
        """Packets that waited while their server was down arrive when it is back, within the queue's time."""
        for up_after in (0.25, 1, 3):
            with self.subTest(up_after):
                proxy = self.proxy()
                proxy.register("100", "111", 5000)
                client = proxy.client()
                client.ask("a", "b")
                proxy.advance(up_after)
                self.assertEqual(client.answers(), [])
                server = proxy.server(5000)
                proxy.advance(4.75 - up_after)
                self.assertEqual(sorted(server.payloads), ["a", "b"])


class DeadlineTests(ProxyCase):
    """Each packet has one deadline, from the moment it was read whole, waiting included."""

    def test_in_flight(self) -> None:
        """The deadline passed after the packet was written: timeout, delivered unknown."""
        proxy = self.proxy()
        proxy.register("100", "111", 5000)
        proxy.server(5000)
        client = proxy.client()
        client.ask("a")
        proxy.advance(29.75)
        self.assertEqual(client.answers(), [])
        proxy.advance(0.5)
        self.assertEqual(client.answers(), ["timeout/unknown"])

    def test_while_it_waits(self) -> None:
        """It passed while the packet was waiting: timeout, delivered no."""
        proxy = self.proxy(timeout=3)
        proxy.register("100", "111", 5000)
        client = proxy.client()
        client.ask("a")
        proxy.advance(2.75)
        self.assertEqual(client.answers(), [])
        proxy.advance(0.5)
        self.assertEqual(client.answers(), ["timeout/no"])

    def test_while_a_connection_is_made(self) -> None:
        """It passed before there was a connection: timeout, delivered no, and the packet isn't written later."""
        proxy = self.proxy(timeout=3)
        proxy.register("100", "111", 5000)
        server = proxy.server(5000)
        server.hang()
        client = proxy.client()
        client.ask("a")
        proxy.advance(3.25)
        self.assertEqual(client.answers(), ["timeout/no"])
        server.accept()
        self.assertEqual(server.payloads, [])

    def test_waiting_counts(self) -> None:
        """What it waited for a server, the packet can't wait for its answer any more."""
        proxy = self.proxy(timeout=6)
        proxy.register("100", "111", 5000, pipeline=1)
        server = proxy.server(5000)
        proxy.client().ask("a")
        client = proxy.client()
        client.ask("b")
        proxy.advance(4)
        server.answer()
        self.assertEqual(server.payloads, ["a", "b"])
        proxy.advance(1.75)
        self.assertEqual(client.answers(), [])
        proxy.advance(0.5)
        self.assertEqual(client.answers(), ["timeout/unknown"])

    def test_from_the_last_byte(self) -> None:
        """A packet that comes slowly isn't late for that."""
        proxy = self.proxy(timeout=3)
        proxy.register("100", "111", 5000)
        server = proxy.server(5000)
        client = proxy.client()
        raw = encode(data("a"))
        client.send(raw[:20])
        proxy.advance(10)
        client.send(raw[20:])
        proxy.advance(2.75)
        server.answer()
        self.assertEqual(client.answers(), ["a by 100"])

    def test_waited_in_vain_for_a_connection(self) -> None:
        """A connection that comes to nothing gives no packet a later deadline, nor those that came before it."""
        proxy = self.proxy(timeout=3)
        proxy.register("100", "111", 5000, pipeline=10)
        server = proxy.server(5000)
        server.hang()
        client = proxy.client()
        client.ask("a")
        proxy.advance(2)
        client.ask("b")
        proxy.advance(0.5)
        server.refuse()
        proxy.advance(0.75)
        self.assertEqual(client.answers(), ["timeout/no"])

    def test_packets_that_were_not_read_are_not_late(self) -> None:
        """A packet's deadline begins when it is read: one that waited unread in its client's way has all of it."""
        proxy = self.proxy(timeout=3)
        proxy.register("100", "111", 5000, pipeline=1000)
        server = proxy.server(5000)
        client = proxy.client()
        client.reads = False
        client.ask("a")
        server.connection.answer(payload="x" * 200_000)
        client.ask("b")
        proxy.advance(4)
        client.read_again()
        self.assertEqual(server.payloads, ["a", "b"])
        proxy.advance(2.75)
        server.answer()
        self.assertEqual(client.answers()[1:], ["b by 100"])

    def test_late_packets_break_no_connection(self) -> None:
        """Nor do they cost others their answers."""
        proxy = self.proxy(timeout=3)
        proxy.register("100", "111", 5000, pipeline=1000)
        server = proxy.server(5000)
        deaf, other = proxy.client(), proxy.client()
        deaf.reads = False
        deaf.ask("a")
        server.connection.answer(payload="x" * 200_000)
        deaf.ask("b")
        proxy.advance(10)
        other.ask("c")
        deaf.read_again()
        proxy.advance(0.5)
        server.answer()
        self.assertEqual(other.answers(), ["c by 100"])

    def test_more_comes_while_deadlines_pass(self) -> None:
        """That a timeout makes room for the client's next packet disturbs none of the others' deadlines."""
        proxy = self.proxy(timeout=3, client_packets=2)
        proxy.register("100", "111", 5000, pipeline=10)
        server = proxy.server(5000)
        server.hang()
        client, other = proxy.client(), proxy.client()
        client.ask("1", "2", "3", "4", "5")
        other.ask("6")
        proxy.advance(3.25)
        self.assertEqual(other.answers(), ["timeout/no"])
        proxy.advance(10)
        self.assertEqual(len(client.answers()), 5)


class DesertedTests(ProxyCase):
    """A policy whose last server left."""

    def test_it_is_not_kept_by_being_asked_for(self) -> None:
        """For as long as packets may wait they do; later ones hear at once that nobody is there, however many come."""
        proxy = self.proxy(queue_timeout=5)
        proxy.register("100", "111", 5000, lease=100).close()
        client = proxy.client()
        for number in range(5):
            client.ask(str(number))
            self.assertEqual(client.answers(), [])
            proxy.advance(0.75)
        proxy.advance(1.25)
        self.assertEqual(client.answers(), ["no-server/no"])
        late = proxy.client()
        late.ask("late")
        self.assertEqual(late.answers(), ["no-server/no"])
