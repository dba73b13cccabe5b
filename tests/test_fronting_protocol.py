"""Connections by way of another proxy: who is believed, and what the proxy makes of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure

from rproxy.fronting.protocol import FrontedFactory
from rproxy.networks import parse_network
from rproxy.policies import Policies
from tests.memory import Client, ProxyCase, data, encode, setup
from tests.strategies import cut

FRONT = "10.9.0.1"
LINE = b"PROXY TCP4 203.0.113.7 10.0.0.1 40000 8000\r\n"
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
#: With a TLV behind the addresses.
BLOCK = SIGNATURE + b"\x21\x11\x00\x10\xcb\x00\x71\x07\x0a\x00\x00\x01\x9c\x40\x1f\x40\x04\x00\x01x"
LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
UNIX = SIGNATURE + b"\x21\x31\x00\xd8" + b"/run/x".ljust(216, b"\0")
SIX = b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 8000\r\n"

#: Servers may be on the public side too: it is the address that is asked about here.
ANYWHERE = Policies(register_from=(parse_network("0.0.0.0/0"), parse_network("::/0")))


class FrontedCase(ProxyCase):
    def serve(self, **limits: Any) -> None:
        self.world = self.proxy(ANYWHERE, **limits)
        self.world.port.factory = FrontedFactory(self.world.factory, self.world.factory, [parse_network("10.9.0.0/16")])
        self.events = self.enterContext(capturedLogs())

    def lines(self) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_namespace"].startswith("rproxy.")]

    def front(self) -> Client:
        """A connection from the other proxy."""
        return self.world.client(FRONT)

    def assert_serves(self, client: Client) -> None:
        client.ask("a", policy="unheard of")
        self.assertEqual(client.answers(), ["no-server/no"])

    def assert_dropped(self, client: Client, why: str) -> None:
        self.assertEqual((client.take_bytes(), client.gone), (b"", True))
        self.assertEqual(self.lines(), [f"Refused a connection from {FRONT}: {why}"])
        self.assertFalse(self.world.factory.clients)


class BelievedTests(FrontedCase):
    """Who comes from a trusted network."""

    def assert_registers(self, header: bytes, host: str) -> None:
        """A setup packet behind the header registers a server at that host."""
        client = self.front()
        client.send(header + encode(setup("100", "111", 5000)))
        self.assertEqual(self.lines()[-1:], [
            f"Received setup message from server id 100 ip {host} privacy policy 111 port 5000"
        ])  # fmt: skip
        client.close()

    def test_the_peer_is_the_one_that_is_named(self) -> None:
        self.serve()
        for header, host in ((LINE, "203.0.113.7"), (BLOCK, "203.0.113.7"), (SIX, "2001:db8::7"), (LOCAL, FRONT)):
            with self.subTest(header):
                self.assert_registers(header, host)

    def test_a_peer_without_an_address(self) -> None:
        """It can send packets, and not serve."""
        self.serve()
        client = self.front()
        client.send(UNIX, setup("100", "111", 5000))
        self.assertEqual(client.answers(), ["forbidden/no"])
        self.assert_serves(client)

    def test_everything_else_is_as_ever(self) -> None:
        """Packets behind the header in its segment, leases, half-closed clients, a stream that breaks."""
        self.serve()
        holder = self.front()
        self.world.ids["111", "203.0.113.7", 5000] = "100"
        holder.send(LINE, setup("100", "111", 5000, lease=60, pipeline=4))
        self.assertEqual(holder.answers(), ["registered"])
        server = self.world.server(5000, "203.0.113.7")
        client = self.front()
        client.send(BLOCK, data("a"), data("b"))
        client.send(data("c"))
        client.half_close()
        self.assertEqual(server.payloads, ["a", "b", "c"])
        server.answer()
        self.assertEqual((client.answers(), client.ended), (["a by 100", "b by 100", "c by 100"], True))
        broken = self.front()
        broken.send(LINE, b"hello")
        self.assertEqual((broken.answers(), broken.ended), (["bad-packet/no"], True))
        holder.close()
        self.assertIn("Registration of server id 100 for privacy policy 111 ended", self.lines())

    @given(st.sampled_from([LINE, BLOCK, SIX, LOCAL]), st.lists(st.integers(1, 9), min_size=1))
    def test_however_it_is_cut(self, header: bytes, sizes: list[int]) -> None:
        self.serve()
        client = self.front()
        for piece in cut(header + encode(data("a", policy="unheard of")), sizes):
            client.send(piece)
        self.assertEqual(client.answers(), ["no-server/no"])

    def test_limits_count_for_the_one_that_is_named(self) -> None:
        self.serve(max_clients_per_address=1)
        first, second, other = self.front(), self.front(), self.front()
        first.send(LINE)
        second.send(LINE, data("a"))
        other.send(SIX)
        self.assertEqual((second.answers(), second.ended), (["overloaded/no"], True))
        self.assert_serves(first)
        self.assert_serves(other)

    def test_they_count_as_clients(self) -> None:
        """With a header or not yet."""
        self.serve(max_clients=2)
        first, second, third = self.front(), self.front(), self.world.client()
        self.assertEqual([*self.world.factory.pending()], [])
        third.send(data("a", policy="unheard of"))
        for client in (first, second):
            client.send(LINE)
            self.assert_serves(client)
        self.assertEqual(third.answers(), [])
        first.close()
        self.assertEqual(third.answers(), ["no-server/no"])

    def test_health_checks(self) -> None:
        """They send a header of their own, or none, and go: nobody has to read of it."""
        self.serve()
        for header in (b"", LOCAL[:5], LOCAL, LINE, b"PROXY UNKNOWN\r\n"):
            for end in (Client.close, Client.reset, Client.half_close):
                client = self.front()
                if header:
                    client.send(header)
                end(client)
                self.assertFalse(self.world.factory.clients)
        self.assertEqual(self.lines(), [])


class RefusedTests(FrontedCase):
    """Who isn't believed, and what is no header."""

    def test_who_comes_from_elsewhere(self) -> None:
        """Is a client like any other; a header of its is no packet, and nothing of it is believed."""
        self.serve()
        self.assert_serves(self.world.client())
        for header in (LINE, BLOCK, LOCAL):
            client = self.world.client()
            client.send(header, setup("100", "111", 5000))
            self.assertEqual((client.answers(), client.ended), (["bad-packet/no"], True))
        self.assertEqual(self.lines(), [])

    def test_a_second_header_is_no_packet(self) -> None:
        self.serve()
        client = self.front()
        client.send(LINE, LINE)
        self.assertEqual((client.answers(), client.ended), (["bad-packet/no"], True))

    def test_no_header(self) -> None:
        self.serve()
        client = self.front()
        client.send(data("a"))
        self.assert_dropped(client, "the connection doesn't begin with a header of the PROXY protocol")

    def test_a_wrong_header(self) -> None:
        self.serve()
        client = self.front()
        client.send(LINE.replace(b"40000", b"70000"))
        self.assert_dropped(client, "a header of version 1 has a wrong port: '70000'")

    def test_a_header_that_doesnt_come(self) -> None:
        """However slowly it drips."""
        self.serve(header_timeout=3)
        client = self.front()
        for byte in LINE[:11]:
            self.world.advance(0.25)
            client.send(bytes([byte]))
        self.assertFalse(client.gone)
        self.world.advance(0.25)
        self.assert_dropped(client, "no header of the PROXY protocol came in time")

    def test_the_log_stays_small(self) -> None:
        self.serve()
        for _ in range(100):
            self.front().send(b"hello")
        self.assertEqual(len(self.lines()), 10)

    def test_a_proxy_that_stops(self) -> None:
        """Nobody waits for a header any more."""
        self.serve()
        client = self.front()
        client.send(LINE[:9])
        closed = self.world.factory.close()
        self.world.pump()
        self.successResultOf(closed)
        self.assertTrue(client.gone)


class Picky(Factory):
    """Takes nobody."""

    def buildProtocol(self, addr: object) -> None:
        return None


class Failing(Protocol):
    """A protocol with a fault."""

    def connectionMade(self) -> None:
        raise ZeroDivisionError


class Greeting(Protocol):
    """A protocol that isn't the proxy's, as one that does TLS would be."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(f"hello {self.transport.getPeer().host}\n".encode())  # type: ignore[attr-defined]

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data.upper())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        lost.append(reason)


lost: list[Failure] = []


class WrappedTests(FrontedCase):
    """Any factory can stand behind it."""

    def test_another_factory(self) -> None:
        self.serve()
        lost.clear()
        factory = Factory.forProtocol(Greeting)
        self.world.port.factory = FrontedFactory(factory, self.world.factory, [parse_network(FRONT)])
        client = self.front()
        client.send(LINE + b"who are you?")
        self.assertEqual(client.take_bytes(), b"hello 203.0.113.7\nWHO ARE YOU?")
        client.close()
        self.assertEqual(len(lost), 1)

    def test_one_that_takes_nobody(self) -> None:
        self.serve()
        self.world.port.factory = FrontedFactory(Picky(), self.world.factory, [parse_network(FRONT)])
        client = self.front()
        client.send(LINE)
        self.assertTrue(client.gone)
        self.assertFalse(self.world.factory.clients)

    def test_one_that_fails(self) -> None:
        """It takes nobody's place for good: the reactor, which ends its connection, tells only the one that failed."""
        self.serve()
        self.world.port.factory = FrontedFactory(
            Factory.forProtocol(Failing), self.world.factory, [parse_network(FRONT)]
        )
        client = self.front()
        with self.assertRaises(ZeroDivisionError):
            client.send(LINE)
        self.assertFalse(self.world.factory.clients)

    def test_it_starts_and_stops_the_other(self) -> None:
        self.serve()
        factory = Factory()
        front = FrontedFactory(factory, self.world.factory, [])
        front.doStart()
        self.assertEqual(factory.numPorts, 1)
        front.doStop()
        self.assertEqual(factory.numPorts, 0)
