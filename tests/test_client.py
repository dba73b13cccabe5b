"""The client: many packets in flight, each with its own answer or a reason why not."""

from __future__ import annotations

import json

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.test.iosim import connectedServerAndClient
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets
from rproxy.client import Answer, Client, ClientProtocol, ProxyError, is_correct
from rproxy.handling import Handling
from rproxy.hashing import sha1_hex
from rproxy.packets import Ack, Data, Error
from rproxy.poolserver import PoolServerFactory
from tests.endpoints import Peer
from tests.transports import lose

TIMEOUT = 60.0


def data(payload: str) -> Data:
    return Data("0", "1", "111", payload, str(len(payload)))


def ack(payload: str, client_id: str = "1") -> bytes:
    return packets.ack("100", client_id, payload)


class ClientCase(SynchronousTestCase):
    """Client 1, of a proxy that is the test."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.proxy = Peer()
        self.client = Client(self.proxy, "1", self.clock, max_in_flight=4, max_packet=1000)

    def tearDown(self) -> None:
        """Everything has its end."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def send(self, *payloads: str) -> list[Deferred[Ack]]:
        return [self.client.send("111", payload) for payload in payloads]

    def connected(self, *payloads: str) -> list[Deferred[Ack]]:
        """Send, and accept the connection."""
        sent = self.send(*payloads)
        self.proxy.accept()
        self.assertEqual(self.proxy.received(), [data(payload) for payload in payloads])
        return sent

    def assert_failed(self, sent: Deferred[Ack] | Deferred[Answer], code: str, delivered: str) -> ProxyError:
        error = self.failureResultOf(sent, ProxyError).value
        assert isinstance(error, ProxyError)
        self.assertEqual((error.code, error.delivered), (code, delivered))
        return error

    def assert_answered(self, sent: Deferred[Ack], payload: str) -> None:
        self.assertEqual(self.successResultOf(sent).payload, payload)


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


class LossTests(ClientCase):
    """A connection that isn't there, or is there no longer."""

    def test_refused(self) -> None:
        """Nothing was written, so nothing was delivered."""
        first, second = self.send("a", "b")
        self.proxy.refuse()

        self.assertIn("refused", self.assert_failed(first, "connection-lost", "no").text)
        self.assert_failed(second, "connection-lost", "no")

    def test_again(self) -> None:
        """The next packet tries again."""
        (first,) = self.send("a")
        self.proxy.refuse()
        self.assert_failed(first, "connection-lost", "no")
        self.assertEqual(self.proxy.attempts, [])

        (second,) = self.connected("b")
        self.proxy.answer(ack("B"))

        self.assert_answered(second, "B")

    def test_lost(self) -> None:
        """What was written may have been delivered; what was answered is answered."""
        first, second = self.connected("a", "b")
        self.proxy.answer(ack("A"))
        lose(self.proxy.protocol, ConnectionLost)

        self.assert_answered(first, "A")
        self.assert_failed(second, "connection-lost", "unknown")

    def test_reconnects(self) -> None:
        """By the next packet, not before."""
        (first,) = self.connected("a")
        lose(self.proxy.protocol)
        self.assert_failed(first, "connection-lost", "unknown")
        self.assertEqual(self.proxy.attempts, [])

        (second,) = self.connected("b")
        self.proxy.answer(ack("B"))

        self.assert_answered(second, "B")

    def test_sends_when_told(self) -> None:
        """Whoever hears of the loss may send at once."""
        (first,) = self.connected("a")
        again = first.addErrback(lambda _: self.client.send("111", "a"))
        lose(self.proxy.protocol)

        self.proxy.accept()
        self.proxy.answer(ack("A"))

        self.assert_answered(again, "A")

    def test_wrong_answers(self) -> None:
        """When an answer is somebody else's, or none, no answer on that connection can be trusted."""
        whole = ack("x", "2"), packets.error("rproxy", "2", "timeout", "no", ""), packets.data("1", "111", "x"), b"{}"
        for wrong in *whole, b"x":
            first, second = self.connected("a", "b")
            self.proxy.answer(wrong, ack("B"))

            self.assert_failed(first, "connection-lost", "unknown")
            self.assert_failed(second, "connection-lost", "unknown")
            self.assertTrue(self.proxy.transport.disconnected)
            # Not even later.
            self.proxy.answer(ack("B"))
            (third,) = self.send("c")
            lose(self.proxy.protocol)
            self.proxy.accept()
            self.proxy.answer(ack("C"))
            self.assert_answered(third, "C")
            self.successResultOf(self.closed())
            self.setUp()

    def closed(self) -> Deferred[None]:
        closing = self.client.close()
        lose(self.proxy.protocol)
        return closing

    def test_unasked(self) -> None:
        """What comes unasked ends the connection."""
        (sent,) = self.connected("a")
        self.proxy.answer(ack("A"))
        self.assert_answered(sent, "A")

        self.proxy.answer(ack("B"))

        self.assertTrue(self.proxy.transport.disconnected)


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
        self.proxy.answer(ack("A"), ack("B"), ack("C"))

        self.assert_answered(third, "C")
        self.assertFalse(self.proxy.transport.disconnecting)

    def test_waiting(self) -> None:
        """What waits for a connection isn't sent any more."""
        (first,) = self.send("a")
        self.clock.advance(TIMEOUT)
        self.assert_failed(first, "timeout", "no")

        (second,) = self.connected("b")
        self.proxy.answer(ack("B"))

        self.assert_answered(second, "B")

    def test_lost_late(self) -> None:
        """Who was told already isn't told of a loss."""
        (sent,) = self.connected("a")
        self.clock.advance(TIMEOUT)
        self.assert_failed(sent, "timeout", "unknown")

        lose(self.proxy.protocol)


class CancelTests(ClientCase):
    """Nobody waits any more."""

    def test_in_flight(self) -> None:
        """The answer is swallowed, and the order kept."""
        first, second = self.connected("a", "b")

        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.proxy.answer(ack("A"), ack("B"))

        self.assert_answered(second, "B")

    def test_waiting(self) -> None:
        """What wasn't sent yet isn't sent."""
        first, second = self.send("a", "b")

        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.proxy.accept()

        self.assertEqual(self.proxy.received(), [data("b")])
        self.proxy.answer(ack("B"))
        self.assert_answered(second, "B")

    def test_by_another(self) -> None:
        """Whoever hears of a failed connection may cancel the others."""
        first, second = self.send("a", "b")
        first.addErrback(lambda _: second.cancel())

        self.proxy.refuse()

        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)


class CloseTests(ClientCase):
    """The end."""

    def test_idle(self) -> None:
        """Fires when the connection is gone."""
        (sent,) = self.connected("a")
        self.proxy.answer(ack("A"))
        self.assert_answered(sent, "A")

        closing = self.client.close()
        self.assertTrue(self.proxy.transport.disconnecting)
        self.assertNoResult(closing)
        lose(self.proxy.protocol)

        self.successResultOf(closing)
        self.successResultOf(self.client.close())

    def test_in_flight(self) -> None:
        """What is unanswered fails, and nothing keeps the connection."""
        (sent,) = self.connected("a")

        closing = self.client.close()
        self.assertTrue(self.proxy.transport.disconnected)
        lose(self.proxy.protocol, ConnectionLost)

        self.assert_failed(sent, "connection-lost", "unknown")
        self.successResultOf(closing)

    def test_connecting(self) -> None:
        """A connection that is being made isn't made."""
        (sent,) = self.send("a")

        closing = self.client.close()

        self.successResultOf(closing)
        self.assertEqual(self.proxy.cancelled, 1)
        self.assert_failed(sent, "connection-lost", "no")

    def test_never_connected(self) -> None:
        """Nothing to do."""
        self.successResultOf(self.client.close())

    def test_send(self) -> None:
        """Nothing is sent after it."""
        self.client.close()

        self.assert_failed(self.client.send("111", "a"), "connection-lost", "no")
        self.assertEqual(self.proxy.attempts, [])


class PoolServerTests(SynchronousTestCase):
    """A pool server, which answers as a proxy would."""

    def test_exchange(self) -> None:
        """Payloads that need escaping come through whole, a thousand at a time."""
        handling = Handling(server_id="100", policies=frozenset({"111"}))
        factory = PoolServerFactory(handling, Clock(), pipeline=8)
        protocol, _, pump = connectedServerAndClient(
            lambda: factory.buildProtocol(None), lambda: ClientProtocol(1 << 20)
        )
        endpoint = Peer()
        client = Client(endpoint, "1", Clock())
        payloads = ['"}{\\', "\n", "é€😀", ""] * 250
        sent = [client.send("111", payload) for payload in payloads]
        endpoint.attempts.pop()[1].callback(protocol)
        pump.flush()

        for payload, each in zip(payloads, sent, strict=True):
            answer = self.successResultOf(each)
            self.assertTrue(is_correct(payload, answer), json.dumps(payload))
            self.assertEqual(answer.payload, sha1_hex(payload))
