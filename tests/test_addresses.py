"""What the clients at one address may take up together."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rproxy.addresses import Addresses, ClientAddress
from rproxy.limits import Limits
from rproxy.networks import is_within, parse_network
from rproxy.process.sweeping import SWEEP
from tests.memory import BIG, Client, ProxyCase, data, encode

HERE, THERE = "10.1.0.1", "10.1.0.2"


class NetworkTests(SynchronousTestCase):
    def test_what_is_in_a_network(self) -> None:
        for host, text, expected in (
            ("10.0.0.1", "10.0.0.0/8", True),
            ("11.0.0.1", "10.0.0.0/8", False),
            ("10.0.0.1", "10.0.0.1", True),
            ("::ffff:10.0.0.1", "10.0.0.0/8", True),
            ("::1", "10.0.0.0/8", False),
            ("2001:db8::7", "2001:db8::/32", True),
            ("fe80::1%eth0", "fe80::/10", True),
            ("10.0.0.1", "::/0", False),
        ):
            with self.subTest(host, network=text):
                self.assertIs(expected, is_within(host, [parse_network("192.0.2.0/24"), parse_network(text)]))

    def test_what_is_no_network(self) -> None:
        for text in ("", "here", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8,11.0.0.0/8"):
            with self.subTest(text), self.assertRaises(ValueError):
                parse_network(text)


@define(eq=False)
class Reader:
    """Takes as many packets as it may, up to so many."""

    address: ClientAddress
    clock: Clock
    wants: int
    took: list[int] = field(factory=list)

    def deliver(self, now: float) -> None:
        room = min(self.wants, self.address.ask(self, now))
        self.took.append(room)
        self.wants -= room
        self.address.bucket.tokens -= room
        if self.wants and room:
            self.address.ask(self, now)


class AddressesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()

    def addresses(self, **limits: Any) -> Addresses:
        return Addresses(Limits(**limits), self.clock.seconds)

    def test_who_counts_as_one(self) -> None:
        addresses = self.addresses()
        groups = (
            ("10.0.0.1", "::ffff:10.0.0.1", "::ffff:a00:1"),
            ("10.0.0.2",),
            ("2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"),
            ("2001:db8:0:1::1",),
            ("fe80::1%eth0", "fe80::2%eth1"),
            ("::1",),
        )
        found = [{addresses.of(host) for host in hosts} for hosts in groups]
        self.assertEqual([len(each) for each in found], [1] * len(groups))
        self.assertEqual(len(set.union(*found)), len(groups))
        self.assertEqual(len(addresses), len(groups))

    def test_who_has_no_address_counts_alone(self) -> None:
        addresses = self.addresses()
        self.assertIsNot(addresses.of(None), addresses.of(None))
        self.assertEqual(len(addresses), 0)

    def test_the_heaviest(self) -> None:
        """By unanswered bytes, then by connections, then by refused ones; of IPv6 they are networks."""
        addresses = self.addresses()
        for host, number, connections, refused in (
            ("10.0.0.1", 0, 1, 0),
            ("10.0.0.2", 0, 0, 3),
            ("2001:db8:0:1::7", 5, 1, 0),
            ("::ffff:10.0.0.3", 0, 2, 0),
            ("::1", 0, 2, 1),
        ):
            address = addresses.of(host)
            address.bytes, address.connections, address.refused = number, connections, refused
        found, heaviest = addresses.heaviest(9)
        shown = [text for text, _ in heaviest]
        self.assertEqual(shown, ["2001:db8:0:1::/64", "::/64", "10.0.0.3", "10.0.0.1", "10.0.0.2"])
        self.assertIs(heaviest[0][1], addresses.of("2001:db8:0:1::8"))
        self.assertEqual((found, addresses.heaviest(2)), (5, (5, heaviest[:2])))

    def test_who_has_clients(self) -> None:
        """Registered servers aren't clients, nor is who left."""
        addresses = self.addresses()
        addresses.of(HERE).leases = 1
        addresses.of(THERE).connections = 0
        self.assertEqual(addresses.heaviest(9), (0, []))

    def test_the_rate(self) -> None:
        """So many at once, and then as many a second; what isn't used isn't kept for more than a second."""
        address = self.addresses(rate_limit=10.0).of(HERE)
        self.assertEqual(address.room(self.clock.seconds()), 10)
        address.bucket.tokens -= 10
        self.assertEqual(address.room(self.clock.seconds()), 0)
        for seconds, room in ((0.05, 0), (0.05, 1), (0.5, 6), (10, 10)):
            self.clock.advance(seconds)
            self.assertEqual(address.room(self.clock.seconds()), room)

    def test_a_rate_below_one(self) -> None:
        address = self.addresses(rate_limit=0.1).of(HERE)
        address.bucket.tokens -= 1
        self.clock.advance(9)
        self.assertEqual(address.room(self.clock.seconds()), 0)
        self.clock.advance(1.1)
        self.assertEqual(address.room(self.clock.seconds()), 1)

    def test_they_have_turns(self) -> None:
        """Who waited longest reads first, who wants more goes to the end, and who comes now is behind all."""
        addresses = self.addresses(rate_limit=4.0)
        address = addresses.of(HERE)
        first, second = (Reader(address, self.clock, 6) for _ in range(2))
        for reader in (first, second):
            reader.deliver(self.clock.seconds())
        self.assertEqual((first.took, second.took), ([4], [0]))
        self.clock.advance(1)
        late = Reader(address, self.clock, 1)
        late.deliver(self.clock.seconds())
        addresses.sweep()
        self.assertEqual((first.took, second.took, late.took), ([4, 2], [0, 2], [0]))
        for _ in range(2):
            self.clock.advance(1)
            addresses.sweep()
        self.assertEqual((first.took, second.took, late.took), ([4, 2], [0, 2, 3, 1], [0, 1]))
        self.assertFalse(addresses.crowded)

    def test_they_are_forgotten(self) -> None:
        """Once nothing of them is there, and their pause is over: who comes back at once finds what it left."""
        addresses = self.addresses(rate_limit=10.0)
        address = addresses.of(HERE)
        address.connections += 1
        address.bucket.tokens -= 5
        self.clock.advance(100)
        address.room(self.clock.seconds())
        address.bucket.tokens -= 5
        addresses.forget()
        self.assertIs(addresses.of(HERE), address)
        address.connections -= 1
        addresses.forget()
        self.assertIs(addresses.of(HERE), address)
        self.clock.advance(0.5)
        addresses.forget()
        self.assertEqual(len(addresses), 0)


class AddressCase(ProxyCase):
    """A proxy with a server of policy 111."""

    def serve(self, **limits: Any) -> None:
        self.world = self.proxy(**limits)
        self.world.register("100", "111", 5000, pipeline=1000)
        self.server = self.world.server(5000)

    def clients(self, count: int, host: str = HERE) -> list[Client]:
        return [self.world.client(host) for _ in range(count)]

    def payloads(self) -> list[str]:
        return self.server.payloads if self.server.connections else []


class LeaseTests(AddressCase):
    """Connections that hold a lease are no clients, and still somebody's."""

    def test_they_count_against_one_rate(self) -> None:
        """An address isn't forgotten as long as it has one: each would else have a rate of its own."""
        self.serve(rate_limit=5)
        holders = []
        for number in range(3):
            holders.append(self.world.register(f"server-{number}", "222", 6000 + number, HERE, lease=10_000))
            self.world.advance(10)
        for holder in holders:
            holder.ask(*"abcdefgh")
        self.assertEqual(len(self.payloads()), 5)
        for holder in holders:
            holder.close()
        self.world.advance(60)
        self.assertEqual(len(self.world.factory.addresses), 0)


class ConnectionsTests(AddressCase):
    """``--max-clients-per-address``."""

    def assert_served(self, client: Client) -> None:
        client.ask("a")
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100"])

    def assert_refused(self, client: Client) -> None:
        self.assertEqual((client.answers(), client.ended), (["overloaded/no"], True))

    def test_any_number_unless_told_otherwise(self) -> None:
        self.serve()
        for client in self.clients(500):
            self.assert_served(client)

    def test_those_beyond_are_refused(self) -> None:
        """With an error that arrives, whatever they send; others aren't concerned."""
        self.serve(max_clients_per_address=2)
        served = self.clients(2)
        refused = self.world.client(HERE)
        refused.send(data("unread"))
        self.assert_refused(refused)
        for client in (*served, *self.clients(2, THERE)):
            self.assert_served(client)
        self.assertNotIn("unread", self.payloads())

    def test_one_that_goes_makes_room(self) -> None:
        self.serve(max_clients_per_address=2)
        first, _ = self.clients(2)
        first.close()
        self.assert_served(self.world.client(HERE))
        self.assert_refused(self.world.client(HERE))

    def test_one_that_was_refused_takes_up_no_room(self) -> None:
        """Also while it stays to read its error."""
        self.serve(max_clients_per_address=1)
        first = self.world.client(HERE)
        self.assert_refused(self.world.client(HERE))
        first.close()
        self.assert_served(self.world.client(HERE))

    def test_a_flood_is_dropped(self) -> None:
        """As many as may be here are told at a time, so that nobody fills the proxy with connections being refused."""
        self.serve(max_clients_per_address=3)
        self.clients(3)
        flood = self.clients(100)
        for client in flood[:3]:
            self.assert_refused(client)
        self.assertTrue(all(client.was_reset for client in flood[3:]))
        self.assertEqual(len(self.world.factory.clients), 6)
        self.world.advance(3)
        self.assertEqual(len(self.world.factory.clients), 3)
        self.assert_refused(self.world.client(HERE))

    def test_the_log_stays_small(self) -> None:
        self.serve(max_clients_per_address=1)
        with capturedLogs() as events:
            self.clients(100)
            self.world.advance(61)
        lines = [line for event in events if (line := formatEvent(event)).startswith(("Refused", "Left out"))]
        self.assertEqual(lines[:1], [f"Refused a connection from {HERE}: there are 1 from there"])
        self.assertEqual(lines[-1], "Left out 89 more lines about refused connections within 60 seconds")
        self.assertEqual(len(lines), 11)

    def test_a_network_of_ipv6_counts_as_one(self) -> None:
        self.serve(max_clients_per_address=1)

        def client(host: str) -> Client:
            return self.world.client(address=IPv6Address("TCP", host, 40_000))

        self.assert_served(client("2001:db8::1"))
        self.assert_refused(client("2001:db8::2"))
        self.assert_served(client("2001:db8:0:1::1"))

    def test_sockets_without_an_address_count_alone(self) -> None:
        self.serve(max_clients_per_address=1)
        for _ in range(2):
            self.assert_served(self.world.client(address=UNIXAddress(None)))

    def test_a_connection_with_a_lease_is_no_clients(self) -> None:
        self.serve(max_clients_per_address=1)
        holder = self.world.register("200", "222", 6000, HERE, lease=10)
        self.assertEqual(holder.answers(), ["registered"])
        self.assert_served(self.world.client(HERE))
        # It is one again when the lease is over.
        self.world.advance(11)
        self.assert_refused(self.world.client(HERE))
        holder.close()
        self.world.advance(3)
        self.assert_refused(self.world.client(HERE))

    def test_addresses_that_are_gone_leave_nothing(self) -> None:
        self.serve(max_clients_per_address=1, rate_limit=10.0)
        for number in range(300):
            host = f"10.2.{number // 250}.{number % 250}"
            for client in self.clients(3, host):
                client.ask("a", policy="unheard of")
                client.reset()
        self.world.advance(5)
        self.assertEqual(len(self.world.factory.addresses), 0)
        self.assertFalse(self.world.factory.addresses.crowded)


class RateTests(AddressCase):
    """``--rate-limit``."""

    def test_any_number_unless_told_otherwise(self) -> None:
        self.serve()
        (client,) = self.clients(1)
        for _ in range(10):
            client.ask(*"a" * 100)
            self.server.answer()
        self.assertEqual(client.answers(), ["a by 100"] * 1000)

    def test_what_is_beyond_is_read_later(self) -> None:
        """Nothing of it is refused or lost, and others aren't concerned."""
        self.serve(rate_limit=10.0)
        (fast,), (other,) = self.clients(1), self.clients(1, THERE)
        fast.ask(*map(str, range(30)))
        self.assertEqual(self.payloads(), [str(number) for number in range(10)])
        other.ask("other")
        self.assertEqual(self.payloads()[10:], ["other"])
        fast.ask("30")
        self.assertFalse(fast.is_read_from)
        self.world.advance(1)
        self.assertEqual(len(self.payloads()), 21)
        self.world.advance(2)
        self.assertEqual(len(self.payloads()), 32)
        self.server.answer()
        self.assertEqual(fast.answers(), [f"{number} by 100" for number in range(31)])
        self.assertTrue(fast.is_read_from)

    def test_it_counts_for_all_connections_of_an_address(self) -> None:
        """Also for one after the other."""
        self.serve(rate_limit=10.0)
        for client in self.clients(20):
            client.ask("a")
            client.half_close()
        self.assertEqual(len(self.payloads()), 10)
        self.world.advance(1)
        self.assertEqual(len(self.payloads()), 20)
        self.server.answer()
        self.assertEqual(self.world.factory.counters.acked, 20)

    def test_what_is_no_data_packet_counts_too(self) -> None:
        self.serve(rate_limit=10.0)
        (client,) = self.clients(1)
        client.send(b"{}" * 30)
        self.assertEqual(client.answers(), ["bad-packet/no"] * 10)
        self.world.advance(2)
        self.assertEqual(client.answers(), ["bad-packet/no"] * 20)

    def test_each_connection_has_its_turn(self) -> None:
        """One that sends a thousand packets doesn't keep its neighbour waiting for more than a turn."""
        self.serve(rate_limit=8.0)
        greedy, modest = self.clients(2)
        greedy.ask(*map(str, range(100)))
        modest.ask("modest")
        self.assertNotIn("modest", self.payloads())
        self.world.advance(2 * SWEEP)
        self.assertIn("modest", self.payloads())

    def test_who_waits_is_not_idle(self) -> None:
        """It is the proxy that doesn't read."""
        self.serve(rate_limit=0.1, idle_timeout=5, packet_timeout=5)
        (client,) = self.clients(1)
        client.ask("a", "b")
        self.server.answer()
        self.world.advance(11)
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100", "b by 100"])
        self.world.advance(6)
        self.assertTrue(client.ended)

    def test_who_waits_may_go(self) -> None:
        self.serve(rate_limit=1.0)
        clients = self.clients(4)
        for number, client in enumerate(clients):
            client.ask(str(number))
        clients[1].reset()
        clients[2].half_close()
        self.world.advance(4)
        # The loss of one that isn't read from shows when it is.
        self.assertEqual(self.payloads(), ["0", "1", "2", "3"])
        self.server.answer()
        self.assertEqual(clients[2].answers(), ["2 by 100"])
        self.assertTrue(clients[2].ended)


class BytesTests(AddressCase):
    """``--max-bytes-per-address``."""

    def test_the_sum_over_its_connections_is_bounded(self) -> None:
        """Beside the packet that crosses the line; others aren't concerned."""
        size = len(encode(data(BIG)))
        self.serve(max_bytes_per_address=3 * size)
        for client in self.clients(10):
            client.ask(BIG)
        (other,) = self.clients(1, THERE)
        other.ask("other")
        self.assertEqual(len(self.payloads()), 4)
        self.world.advance(1)
        self.assertEqual(len(self.payloads()), 4)
        for served in (7, 10, 11):
            self.server.answer()
            self.world.advance(2 * SWEEP)
            self.assertEqual(len(self.payloads()), served)
        self.server.answer()
        self.assertEqual(self.world.factory.counters.acked, 11)

    def test_nothing_is_left_over(self) -> None:
        """Whatever becomes of the packets."""
        self.serve(timeout=2)
        acked, refused, timed_out, gone = self.clients(4)
        address = self.world.factory.addresses.of(HERE)
        acked.ask("a")
        self.server.answer()
        refused.send(b"{}", data("a", policy="unheard of"), b"no JSON")
        timed_out.ask("a")
        gone.ask("a", "b")
        self.assertGreater(address.bytes, 0)
        gone.reset()
        self.world.advance(3)
        self.assertEqual(timed_out.answers(), ["timeout/unknown"])
        self.assertEqual(address.bytes, 0)
