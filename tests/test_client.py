"""The client: many packets in flight, each with its own answer or a reason why not."""

from __future__ import annotations

import json

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.test.iosim import connectedServerAndClient
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets
from rproxy.client import Answer, Client, is_correct
from rproxy.hashing import sha1_hex
from rproxy.packets import Ack, Error
from rproxy.pool.handling import Handling
from rproxy.pool.server import PoolServerFactory
from tests.clientcase import TIMEOUT, ClientCase, ack, data
from tests.endpoints import Peer
from tests.transports import lose


class AnswerTests(ClientCase):
    """Packets and their answers."""

    def test_one(self) -> None:
        """The connection is made for the first packet."""
        self.assertEqual(self.proxy.attempts, [])

        (sent,) = self.connected("a")
        self.assertNoResult(sent)
        self.proxy.answer(ack("b"))

        self.assertEqual(self.successResultOf(sent), Ack("2", "100", "1", "b", "1"))
        self.assertTrue(self.proxy.transport.no_delay)
        self.assertTrue(self.proxy.transport.keep_alive)

    def test_many(self) -> None:
        """Over one connection, and the answers match by order."""
        first, second = self.connected("a", "b")
        (third,) = self.send("c")
        self.assertEqual(self.proxy.received(), [data("c")])

        self.proxy.answer(ack("A"), ack("B"), ack("C"))

        for sent, payload in (first, "A"), (second, "B"), (third, "C"):
            self.assert_answered(sent, payload)

    def test_error(self) -> None:
        """An error packet is an error; the others go on."""
        first, second = self.connected("a", "b")

        self.proxy.answer(packets.error("rproxy", "1", "no-server", "no", "nobody"), ack("B"))

        error = self.assert_failed(first, "no-server", "no")
        self.assertEqual(error.text, "nobody")
        self.assertEqual(str(error), "no-server, delivered: no: nobody")
        self.assert_answered(second, "B")

    def test_error_to_nobody(self) -> None:
        """The proxy doesn't know whom an error is for where it couldn't read the packet."""
        first, second = self.connected("a", "b")

        self.proxy.answer(packets.error("rproxy", "", "too-large", "no", ""))
        lose(self.proxy.protocol)

        self.assert_failed(first, "too-large", "no")
        self.assert_failed(second, "connection-lost", "unknown")

    def test_exchange(self) -> None:
        """A packet as it is, and whatever comes back as it came."""
        raw = b'{"type": 0, "srcid": 7, "privPoliId": 111, "payload": "a"}'
        sent = self.client.exchange(raw, "7")
        self.proxy.accept()
        self.assertEqual(self.proxy.transport.taken(), raw)

        error = packets.error("rproxy", "7", "no-server", "no", "nobody")
        self.proxy.answer(error)

        self.assertEqual(
            self.successResultOf(sent), Answer(error, Error("3", "rproxy", "7", "no-server", "no", "nobody", "6"))
        )

    def test_is_correct(self) -> None:
        """What pool servers answer unless told otherwise."""
        self.assertTrue(is_correct("xyz1", Ack("2", "100", "1", "b0400cf1f3919fdba057dbd2acc52f148fbb43ac")))
        self.assertFalse(is_correct("xyz2", Ack("2", "100", "1", "b0400cf1f3919fdba057dbd2acc52f148fbb43ac")))


class RefusedTests(ClientCase):
    """What isn't sent at all."""

    def test_no_packet(self) -> None:
        """A payload, a policy or an id that can't be one."""
        for client_id, policy, payload in ("1", "111", "\ud800"), ("1", "", "a"), ("1", "1\n", "a"), ("", "111", "a"):
            client = Client(self.proxy, client_id, self.clock)
            self.assert_failed(client.send(policy, payload), "bad-packet", "no")
        self.assertEqual(self.proxy.attempts, [])

    def test_too_large(self) -> None:
        """The proxy would close the connection, with all that is in flight."""
        (sent,) = self.send("x" * 1000)

        self.assert_failed(sent, "too-large", "no")

    def test_overloaded(self) -> None:
        """So many at a time, whether the connection is there or not."""
        sent = self.send(*"abcde")
        self.assert_failed(sent.pop(), "overloaded", "no")
        self.proxy.accept()
        self.assert_failed(self.client.send("111", "f"), "overloaded", "no")

        self.proxy.answer(ack("A"))
        sent += self.send("g")
        self.proxy.answer(*map(ack, "BCDG"))

        for each, payload in zip(sent, "ABCDG", strict=True):
            self.assert_answered(each, payload)


class DeadlineTests(ClientCase):
    """An answer that doesn't come."""

    def test_in_flight(self) -> None:
        """It may have been delivered; the answer that comes late is swallowed, and the order kept."""
        first, second = self.connected("a", "b")
        self.clock.advance(TIMEOUT - 1)
        (third,) = self.send("c")
        self.proxy.received()
        self.assertNoResult(first)

        self.clock.advance(1)
        self.assert_failed(first, "timeout", "unknown")
        self.assert_failed(second, "timeout", "unknown")
        self.assertFalse(self.proxy.transport.disconnecting)
        self.proxy.answer(ack("A"), ack("B"), ack("C"))

        self.assert_answered(third, "C")

    def test_black_hole(self) -> None:
        """No more is written where an answer didn't come in time; that connection goes when nobody waits for it."""
        (first,) = self.connected("a")
        self.clock.advance(TIMEOUT / 2)
        (second,) = self.send("b")
        self.assertEqual(self.proxy.received(), [data("b")])
        hole, hole_transport = self.proxy.protocol, self.proxy.transport
        self.clock.advance(TIMEOUT / 2)
        self.assert_failed(first, "timeout", "unknown")

        (third,) = self.send("c")
        self.reconnect()
        self.assertEqual(self.proxy.received(), [data("c")])
        self.proxy.answer(ack("C"))
        self.assert_answered(third, "C")
        self.assertEqual(hole_transport.taken(), b"")
        self.assertNoResult(second)
        self.assertFalse(hole_transport.disconnected)

        self.clock.advance(TIMEOUT / 2)
        self.assert_failed(second, "timeout", "unknown")
        self.assertTrue(hole_transport.disconnected)
        self.proxy.lose(hole)

    def test_waiting(self) -> None:
        """What waits for a connection isn't sent any more."""
        (first,) = self.send("a")
        self.clock.advance(TIMEOUT)
        self.assert_failed(first, "timeout", "no")

        (second,) = self.connected("b")
        self.proxy.answer(ack("B"))

        self.assert_answered(second, "B")

    def test_no_connection(self) -> None:
        """The error says why there is none."""
        (sent,) = self.send("a")
        while self.clock.seconds() < TIMEOUT:
            self.proxy.refuse()
            self.reconnects_after(0.0)

        text = self.assert_failed(sent, "timeout", "no").text
        self.assertIn("no answer within 60 seconds, and no connection to the proxy: Connection was refused", text)

    def test_once_no_connection(self) -> None:
        """What was wrong before the last connection says nothing."""
        (first,) = self.send("a")
        self.proxy.refuse()
        self.reconnect()
        self.proxy.answer(ack("A"))
        self.assert_answered(first, "A")
        self.proxy.lose(reason=ConnectionDone)
        self.reconnects_after(0.0)
        (sent,) = self.send("b")
        self.clock.advance(TIMEOUT)

        self.assertEqual(self.assert_failed(sent, "timeout", "no").text, "no answer within 60 seconds")

    def test_lost_late(self) -> None:
        """Who was told already isn't told of a loss."""
        (sent,) = self.connected("a")
        self.clock.advance(TIMEOUT)
        self.assert_failed(sent, "timeout", "unknown")
        self.assertTrue(self.proxy.transport.disconnected)

        self.proxy.lose()


class PoolServerTests(SynchronousTestCase):
    """A pool server, which answers as a proxy would."""

    def test_exchange(self) -> None:
        """Payloads that need escaping come through whole, a thousand at a time."""
        handling = Handling(server_id="100", policies=frozenset({"111"}))
        factory = PoolServerFactory(handling, Clock(), pipeline=8)
        endpoint = Peer()
        client = Client(endpoint, "1", Clock())
        payloads = ['"}{\\', "\n", "é€😀", ""] * 250
        sent = [client.send("111", payload) for payload in payloads]
        clients, attempt = endpoint.attempts.pop()
        protocol, _, pump = connectedServerAndClient(
            lambda: factory.buildProtocol(None),
            lambda: clients.buildProtocol(None),  # type: ignore[arg-type]
        )
        assert protocol is not None
        attempt.callback(protocol)
        pump.flush()

        for payload, each in zip(payloads, sent, strict=True):
            answer = self.successResultOf(each)
            self.assertTrue(is_correct(payload, answer), json.dumps(payload))
            self.assertEqual(answer.payload, sha1_hex(payload))
