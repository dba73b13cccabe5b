"""The error must arrive: how a connection is closed while its peer still sends."""

from __future__ import annotations

from typing import cast

from twisted.internet.interfaces import ISSLTransport
from twisted.internet.tcp import Connection
from zope.interface import alsoProvides

from rproxy.lingering import shut_writing
from tests.memory import BIG, ProxyCase, data


class LingeringTests(ProxyCase):
    """A client that broke its stream."""

    def setUp(self) -> None:
        self.world = self.proxy()
        self.world.register("100", "111", 5000, pipeline=1000)
        self.server = self.world.server(5000)
        self.client = self.world.client()

    def test_error_arrives_though_more_is_sent(self) -> None:
        """What the client sends meanwhile doesn't reset the connection before it has read the error."""
        with self.world.at_once():
            self.client.send(b"garbage")
            for _ in range(100):
                self.client.send(b"x" * 100_000)
        self.client.send(b"x")
        self.world.advance(1)
        self.client.send(b"x")
        self.assertFalse(self.client.was_reset)
        self.assertEqual(self.client.answers(), ["bad-packet/no"])

    def test_after_the_earlier_answers(self) -> None:
        """The error comes after the earlier answers, and the end after the error."""
        self.client.send(data("a"), data("b"), b"garbage")
        self.world.advance(10)
        self.assertEqual(self.client.answers(), [])
        self.server.connection.answer(1)
        self.assertEqual(self.client.answers(), ["a by 100"])
        self.assertFalse(self.client.gone)
        self.server.answer()
        self.assertEqual(self.client.answers(), ["b by 100", "bad-packet/no"])
        self.assertTrue(self.client.ended)

    def test_input_is_discarded(self) -> None:
        """No packet that comes after is taken for one, neither before the error is sent nor after."""
        self.client.send(data("a"), b"garbage", data("b"))
        self.client.send(data("c"))
        self.assertTrue(self.client.is_read_from)
        self.server.answer()
        self.client.send(data("d"))
        self.assertTrue(self.client.is_read_from)
        self.assertEqual(self.server.payloads, ["a"])
        self.assertEqual(self.client.answers(), ["a by 100", "bad-packet/no"])
        self.assertEqual(self.world.factory.counters.received, 2)

    def test_closed_after_a_moment(self) -> None:
        """A client that neither stops nor goes is dropped after ``linger`` seconds."""
        self.client.send(b"garbage")
        self.assertEqual(self.client.answers(), ["bad-packet/no"])
        for _ in range(7):
            self.world.advance(0.25)
            self.client.send(b"x")
            self.assertFalse(self.client.was_reset)
        self.world.advance(0.25)
        self.assertTrue(self.client.was_reset)
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_closed_by_the_client(self) -> None:
        """A client that closes when it has read the error isn't waited for."""
        self.client.send(b"garbage")
        self.assertEqual(len(self.world.factory.clients), 1)
        self.client.close()
        self.assertEqual(len(self.world.factory.clients), 0)
        self.world.advance(5)

    def test_reset_by_the_client(self) -> None:
        """Nor one that is gone."""
        self.client.send(b"garbage")
        self.client.reset()
        self.assertEqual(len(self.world.factory.clients), 0)
        self.world.advance(5)

    def test_client_that_shut_its_side(self) -> None:
        """One that has sent its end can't send more: it is closed at once."""
        with self.world.at_once():
            self.client.send(b"garbage")
            self.client.half_close()
        self.assertEqual(self.client.answers(), ["bad-packet/no"])
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_client_that_shuts_its_side_while_it_waits(self) -> None:
        """Also if it does so before the earlier answers are there."""
        self.client.send(data("a"), b"garbage")
        self.client.half_close()
        self.server.answer()
        self.assertEqual(self.client.answers(), ["a by 100", "bad-packet/no"])
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_client_that_reads_slowly(self) -> None:
        """The moment begins when everything was sent, so that a slow reader gets all of it."""
        self.client.ask("a")
        self.client.reads = False
        self.server.connection.answer(payload=BIG)
        self.client.send(b"garbage")
        self.world.advance(10)
        self.client.read_again()
        self.assertEqual(self.client.answers()[1:], ["bad-packet/no"])
        self.world.advance(2.25)
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_client_that_doesnt_read(self) -> None:
        """One that doesn't read is dropped as a silent one is."""
        self.client.ask("a")
        self.client.reads = False
        self.server.connection.answer(payload=BIG)
        self.client.send(b"garbage")
        self.world.advance(2 * self.world.limits.idle_timeout)
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_client_that_was_not_read_from(self) -> None:
        """One that had too much unanswered when it broke its stream is read from again, to be discarded."""
        self.client.send(*(data(str(number)) for number in range(200)), b"garbage")
        with self.world.at_once():
            for _ in range(10):
                self.client.send(b"x" * 100_000)
        self.server.answer()
        self.server.answer()
        self.assertTrue(self.client.is_read_from)
        answers = self.client.answers()
        self.assertEqual((len(answers), answers[-1]), (201, "bad-packet/no"))
        self.client.close()
        self.assertEqual(len(self.world.factory.clients), 0)


class ShutTransport:
    """A transport that can be shut one way, and tells how it was."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def loseConnection(self) -> None:
        self.calls.append("lose")

    def loseWriteConnection(self) -> None:
        self.calls.append("shut")


class ShutWritingTests(ProxyCase):
    """Which side is shut."""

    def test_tcp(self) -> None:
        """Of a TCP connection, ours."""
        transport = ShutTransport()
        shut_writing(cast(Connection, transport))
        self.assertEqual(transport.calls, ["shut"])

    def test_tls(self) -> None:
        """Of one with TLS, both: what it has for shutting one is the socket's beneath it, and would cut off its end."""
        transport = ShutTransport()
        alsoProvides(transport, ISSLTransport)
        shut_writing(cast(Connection, transport))
        self.assertEqual(transport.calls, ["lose"])
