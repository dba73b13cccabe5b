"""What clients see of the proxy: docs/reference/protocol.rst, from their end."""

from __future__ import annotations

from typing import Any

from tests.memory import BIG, Client, ProxyCase, data, encode


class ClientTests(ProxyCase):
    """How clients come, stay and go."""

    def setUp(self) -> None:
        self.serve()

    def serve(self, **limits: Any) -> None:
        """Begin anew, with one modern server that takes much at a time."""
        self.world = self.proxy(**limits)
        self.world.register("100", "111", 5000, pipeline=1000)
        self.server = self.world.server(5000)

    def ask_many(self, client: Client, count: int, first: int = 0) -> list[str]:
        """Send that many packets, and return their payloads."""
        payloads = [str(number) for number in range(first, first + count)]
        client.ask(*payloads)
        return payloads

    def test_half_closed_client_gets_its_answers(self) -> None:
        """A client that has sent its packets and shut down its writing side still gets its answers."""
        client = self.world.client()
        with self.world.at_once():
            client.ask("a", "b")
            client.half_close()
        self.world.advance(1)
        self.assertFalse(client.gone)
        self.server.connection.answer(1)
        self.assertEqual(client.answers(), ["a by 100"])
        self.assertFalse(client.gone)
        self.server.answer()
        self.assertEqual(client.answers(), ["b by 100"])
        self.assertTrue(client.ended)

    def test_half_closed_client_that_awaits_nothing(self) -> None:
        """Once nothing is left to answer, a client that shut its side is let go."""
        client = self.world.client()
        client.ask("a")
        self.server.answer()
        client.half_close()
        self.assertEqual(client.answers(), ["a by 100"])
        self.assertTrue(client.ended)

    def test_half_closed_in_the_middle_of_a_packet(self) -> None:
        """A stream that ends inside a packet is none: bad-packet, after the earlier answers."""
        client = self.world.client()
        client.send(data("a"), b'{"type": "0", ')
        client.half_close()
        self.assertEqual(client.answers(), [])
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100", "bad-packet/no"])
        self.assertTrue(client.ended)

    def test_half_closed_with_more_than_it_may_have_unanswered(self) -> None:
        """All of its packets are answered, also those that weren't read yet when it shut its side."""
        client = self.world.client()
        payloads = self.ask_many(client, 300)
        client.half_close()
        for _ in range(3):
            self.server.answer()
        self.assertEqual(client.answers(), [f"{payload} by 100" for payload in payloads])
        self.assertTrue(client.ended)

    def test_client_that_leaves(self) -> None:
        """Its answer is swallowed, and never given to another."""
        leaving = self.world.client()
        leaving.ask("a")
        staying = self.world.client()
        staying.ask("b")
        leaving.reset()
        self.server.connection.answer(1)
        self.assertEqual(staying.answers(), [])
        self.server.connection.answer(1)
        self.assertEqual(staying.answers(), ["b by 100"])
        counters = self.world.factory.counters
        self.assertEqual((counters.acked, counters.client_gone, counters.swallowed), (1, 1, 1))

    def test_same_client_id_twice(self) -> None:
        """Two connections may use the same client id: each gets its own answers."""
        clients = [self.world.client(), self.world.client()]
        clients[1].ask("b")
        clients[0].ask("a")
        self.server.answer()
        self.assertEqual([client.answers() for client in clients], [["a by 100"], ["b by 100"]])

    def test_client_that_leaves_while_it_waits(self) -> None:
        """What it asked for and wasn't written yet never is."""
        self.server.hang()
        client = self.world.client()
        client.ask("a")
        client.reset()
        self.server.accept()
        self.assertEqual(self.server.payloads, [])
        self.assertEqual(self.world.factory.counters.client_gone, 1)

    def test_answers_come_in_the_order_of_the_packets(self) -> None:
        """A client that sends several packets on one connection gets the answers in the order of its packets."""
        self.world.register("200", "222", 6000)
        other = self.world.server(6000)
        client = self.world.client()
        client.ask("a")
        client.ask("b", policy="222")
        client.ask("c")
        client.ask("d", policy="333")
        client.send(b'{"type": "e"}')
        other.answer()
        self.assertEqual(client.answers(), [])
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100", "b by 200", "c by 100", "no-server/no", "bad-packet/no"])

    def test_unanswered_packets_are_bounded(self) -> None:
        """A client with 128 unanswered packets isn't read from, and is again after answers."""
        client = self.world.client()
        payloads = self.ask_many(client, 128)
        payloads += self.ask_many(client, 50, 128)
        self.assertEqual(self.server.payloads, payloads[:128])
        self.assertFalse(client.is_read_from)
        self.server.connection.answer(30)
        self.assertEqual(self.server.payloads, payloads[: 128 + 30])
        self.server.connection.answer(1)
        self.assertEqual(self.server.payloads, payloads[: 128 + 31])
        self.server.answer()
        self.assertTrue(client.is_read_from)
        self.server.answer()
        self.assertEqual(client.answers(), [f"{payload} by 100" for payload in payloads])

    def test_more_in_one_segment_than_may_be_unanswered(self) -> None:
        """It makes no difference that the packets were read already."""
        client = self.world.client()
        payloads = self.ask_many(client, 300)
        self.assertEqual(self.server.payloads, payloads[:128])
        client.send(data("300"))
        self.assertFalse(client.is_read_from)
        for _ in range(3):
            self.server.answer()
        self.assertTrue(client.is_read_from)
        self.assertEqual(len(client.answers()), 301)

    def test_refusals_dont_fill_a_client_up(self) -> None:
        """What is answered at once makes room at once."""
        client = self.world.client()
        client.send(*(data(str(number), policy="333") for number in range(300)))
        self.assertEqual(client.answers(), ["no-server/no"] * 300)
        self.assertTrue(client.is_read_from)

    def test_unanswered_bytes_are_bounded(self) -> None:
        """Long packets fill a client up before 128 of them."""
        self.serve(client_bytes=1000)
        client = self.world.client()
        for number in range(5):
            client.ask(str(number) + "x" * 400)
        self.assertEqual(len(self.server.packets), 3)
        self.assertFalse(client.is_read_from)
        self.server.answer()
        self.assertEqual(len(self.server.packets), 5)

    def test_client_that_doesnt_read(self) -> None:
        """A client that doesn't read its answers isn't read from; when it reads again, it is."""
        client = self.world.client()
        client.reads = False
        client.ask("a")
        self.server.connection.answer(payload=BIG, payloadsize=None)
        for number in range(10):
            client.ask(f"b{number}")
        self.assertEqual(self.server.payloads, ["a"])
        self.assertFalse(client.is_read_from)
        client.read_again()
        self.assertEqual(len(self.server.packets), 11)
        self.server.answer()
        self.assertEqual(client.answers(), [BIG] + [f"b{number} by 100" for number in range(10)])

    def test_client_that_doesnt_read_delays_nobody_else(self) -> None:
        """Whoever shares its server still gets answers."""
        deaf, other = self.world.client(), self.world.client()
        deaf.reads = False
        deaf.ask("a")
        self.server.connection.answer(payload=BIG)
        other.ask("b")
        self.server.answer()
        self.assertEqual(other.answers(), ["b by 100"])

    def test_idle_client(self) -> None:
        """A client that sends no packet for too long is closed; any packet will do, and white space is none."""
        self.serve(idle_timeout=10)
        client, dripping = self.world.client(), self.world.client()
        for _ in range(19):
            self.world.advance(0.5)
            dripping.send(b" \n")
        client.send(b"{}")
        self.assertEqual(client.answers(), ["bad-packet/no"])
        self.world.advance(1)
        self.assertTrue(dripping.ended)
        self.world.advance(8.5)
        self.assertFalse(client.gone)
        self.world.advance(1)
        self.assertTrue(client.ended)

    def test_unfinished_packet(self) -> None:
        """A packet that is begun and not finished in time: bad-packet, then closed, however it drips."""
        self.serve(packet_timeout=10, idle_timeout=5)
        for drips in (False, True):
            with self.subTest(drips=drips):
                client = self.world.client()
                client.send(b'{"payload": "')
                for _ in range(19):
                    self.world.advance(0.5)
                    if drips:
                        client.send(b"x")
                self.assertEqual((client.answers(), client.gone), ([], False))
                self.world.advance(1)
                client.send(b'"}', data("after"))
                self.assertEqual(client.answers(), ["bad-packet/no"])
                self.assertTrue(client.ended)
                self.world.advance(3)
                self.assertFalse(self.world.factory.clients)

    def test_unfinished_packet_behind_others(self) -> None:
        """The time counts for each packet, and the error comes after the answers to those before."""
        self.serve(packet_timeout=10)
        client = self.world.client()
        raw = encode(data("a"))
        client.send(raw[:9])
        for _ in range(3):
            self.world.advance(9)
            client.send(raw[9:] + raw[:9])
        self.world.advance(11)
        self.assertEqual((client.answers(), client.gone), ([], False))
        self.server.answer()
        self.server.answer()
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100"] * 3 + ["bad-packet/no"])
        self.assertTrue(client.ended)

    def test_unfinished_packet_of_a_server(self) -> None:
        """A lease is no reason to wait for it either."""
        self.serve(packet_timeout=10)
        connection = self.world.register("200", "222", 6000, lease=100)
        connection.take()
        connection.send(b"{")
        self.world.advance(11)
        self.assertEqual(connection.answers(), ["bad-packet/no"])

    def test_unfinished_packet_of_a_client_that_isnt_read_from(self) -> None:
        """No time runs while the proxy doesn't read: it is the proxy that keeps the packet from being finished."""
        self.serve(packet_timeout=10, idle_timeout=100)
        client = self.world.client()
        client.reads = False
        client.ask("a")
        self.server.connection.answer(payload=BIG)
        raw = encode(data("b"))
        client.send(raw[:9])
        self.world.advance(20)
        client.send(raw[9:])
        client.read_again()
        self.assertEqual(self.server.payloads, ["a", "b"])
        self.server.answer()
        self.assertEqual(client.answers()[1:], ["b by 100"])

    def test_waiting_client_is_not_idle(self) -> None:
        """Not while packets of its are in flight."""
        self.serve(idle_timeout=10)
        client = self.world.client()
        client.ask("a")
        self.world.advance(20)
        self.assertFalse(client.gone)
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100"])
        self.world.advance(10)
        self.assertTrue(client.ended)

    def test_lease_holder_is_not_idle(self) -> None:
        """Nor if a lease hangs on its connection."""
        self.serve(idle_timeout=10)
        connection = self.world.register("200", "222", 6000, lease=100)
        self.world.advance(50)
        self.assertFalse(connection.gone)

    def test_idle_client_that_doesnt_read(self) -> None:
        """A client that is silent and doesn't read its answers either is got rid of all the same."""
        self.serve(idle_timeout=10)
        client = self.world.client()
        client.reads = False
        client.ask("a")
        self.server.connection.answer(payload=BIG)
        self.world.advance(60)
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_half_closed_client_that_doesnt_read(self) -> None:
        """So is one that has shut its writing side, and so can't be silent for longer."""
        self.serve(idle_timeout=10)
        client = self.world.client()
        client.reads = False
        client.ask("a")
        client.half_close()
        self.server.connection.answer(payload=BIG)
        self.world.advance(60)
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_servers_are_no_clients(self) -> None:
        """Connections that a lease hangs on don't count, as long as it does."""
        self.serve(max_clients=2)
        holder = self.world.register("200", "222", 6000, lease=10)
        clients = [self.world.client() for _ in range(3)]
        for client in clients:
            client.ask(str(clients.index(client)))
        self.assertEqual(self.server.payloads, ["0", "1"])
        holder.close()
        self.assertEqual(self.server.payloads, ["0", "1"])
        clients[0].reset()
        self.assertEqual(self.server.payloads, ["0", "1", "2"])

    def test_lease_that_another_connection_took(self) -> None:
        """A connection whose registrations are another's now counts again, and may be closed for being silent."""
        self.serve(max_clients=2, idle_timeout=10)
        old = self.world.register("200", "222", 6000, lease=100)
        self.world.register("200", "222", 6000, lease=100)
        client = self.world.client()
        client.ask("a")
        waiting = self.world.client()
        waiting.ask("b")
        self.assertEqual(self.server.payloads, ["a"])
        self.world.advance(20)
        self.assertTrue(old.ended)
        self.assertEqual(self.server.payloads, ["a", "b"])

    def test_clients_are_bounded(self) -> None:
        """Beyond max_clients further clients wait in the backlog, and come in as others go."""
        self.serve(max_clients=2)
        clients = [self.world.client() for _ in range(4)]
        for client in clients:
            client.ask(str(clients.index(client)))
        self.assertEqual(self.server.payloads, ["0", "1"])
        self.assertFalse(self.world.port.reading)
        clients[0].reset()
        self.assertEqual(self.server.payloads, ["0", "1", "2"])
        self.assertFalse(self.world.port.reading)
        clients[1].reset()
        clients[2].reset()
        self.assertEqual(self.server.payloads, ["0", "1", "2", "3"])
        self.assertTrue(self.world.port.reading)
