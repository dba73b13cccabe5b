"""The client: many packets in flight, each with its own answer or a reason why not."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Literal

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock
from twisted.test.iosim import connectedServerAndClient
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets
from rproxy.client import MAX_REFUSALS, PASSING, RESEND, Answer, Client, ProxyError, is_correct
from rproxy.client.connecting import RECONNECT
from rproxy.client.failover import HEAD_START, REST, FailoverEndpoint
from rproxy.hashing import sha1_hex
from rproxy.packets import Ack, Data, Error
from rproxy.pool.handling import Handling
from rproxy.pool.server import PoolServerFactory
from tests.endpoints import Peer
from tests.transports import connect, lose

TIMEOUT = 60.0


def data(payload: str) -> Data:
    return Data("0", "1", "111", payload, str(len(payload)))


def ack(payload: str, client_id: str = "1") -> bytes:
    return packets.ack("100", client_id, payload)


def refusal(code: str, delivered: Literal["no", "unknown"] = "no") -> bytes:
    return packets.error("rproxy", "1", code, delivered, "because")


class Proxy(Peer):
    """Remembers the connections that it accepted and that aren't lost yet."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[IProtocol] = []

    def accept(self) -> None:
        super().accept()
        self.open.append(self.protocol)

    def lose(self, protocol: IProtocol | None = None, reason: type[Exception] = ConnectionLost) -> None:
        """Lose a connection, the last one unless told otherwise."""
        protocol = protocol or self.protocol
        self.open.remove(protocol)
        lose(protocol, reason)


class ClientCase(SynchronousTestCase):
    """Client 1, of a proxy that is the test, without jitter: it always waits as long as it may."""

    resend = False
    jitter = 1.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.proxy = Proxy()
        self.client = self.make_client()

    def make_client(self, *, reconnect: bool = True) -> Client:
        return Client(
            self.proxy,
            "1",
            self.clock,
            max_in_flight=4,
            max_packet=1000,
            reconnect=reconnect,
            resend=self.resend,
            jitter=lambda: self.jitter,
        )

    def tearDown(self) -> None:
        """Everything has its end: no connection, no timer, no attempt to connect."""
        closing = self.client.close()
        for protocol in self.proxy.open:
            lose(protocol)
        self.successResultOf(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.proxy.attempts, [])

    def reconnects_after(self, since: float) -> float:
        """Let time pass until there is another attempt to connect; return how long after ``since`` that was."""
        self.assertEqual(self.proxy.attempts, [])
        while not self.proxy.attempts:
            self.clock.advance(min(call.getTime() for call in self.clock.getDelayedCalls()) - self.clock.seconds())
        return round(self.clock.seconds() - since, 3)

    def reconnect(self) -> None:
        """Let the next attempt succeed."""
        self.reconnects_after(0.0)
        self.proxy.accept()

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

    def test_lost(self) -> None:
        """What was written may have been delivered; what was answered is answered."""
        first, second = self.connected("a", "b")
        self.proxy.answer(ack("A"))
        self.proxy.lose()

        self.assert_answered(first, "A")
        self.assert_failed(second, "connection-lost", "unknown")

    def test_reconnects(self) -> None:
        """By itself."""
        (first,) = self.connected("a")
        self.proxy.lose()
        self.assert_failed(first, "connection-lost", "unknown")

        self.assertEqual(self.reconnects_after(0.0), RECONNECT.first)
        self.proxy.accept()
        (second,) = self.send("b")
        self.assertEqual(self.proxy.received(), [data("b")])
        self.proxy.answer(ack("B"))

        self.assert_answered(second, "B")

    def test_waits(self) -> None:
        """What is sent meanwhile waits, and goes in its order; nothing is written twice."""
        (lost,) = self.connected("a")
        self.proxy.lose()
        self.assert_failed(lost, "connection-lost", "unknown")
        waiting = self.send("b", "c")
        self.reconnects_after(0.0)
        waiting += self.send("d")
        for _ in range(3):
            self.proxy.refuse()
            self.reconnects_after(0.0)

        self.proxy.accept()

        self.assertEqual(self.proxy.received(), [data("b"), data("c"), data("d")])
        self.proxy.answer(ack("B"), ack("C"), ack("D"))
        for sent, payload in zip(waiting, "BCD", strict=True):
            self.assert_answered(sent, payload)

    def test_backoff(self) -> None:
        """Ever more seldom, and forever, also where nothing waits any more."""
        self.connected("a")[0].addErrback(lambda _: None)
        self.proxy.lose()
        for wait in 0.25, 0.5, 1.0, 2.0, 4.0, 5.0, *[5.0] * 20:
            self.assertEqual(self.reconnects_after(self.clock.seconds()), wait)
            self.proxy.refuse()

    def test_jitter(self) -> None:
        """A wait may be anything up to that, the first one too, so that not all clients come at once."""
        self.connected("a")[0].addErrback(lambda _: None)
        self.jitter = 0.1
        self.proxy.lose()
        self.assertEqual(self.reconnects_after(self.clock.seconds()), 0.025)
        for jitter, wait in (0.5, 0.25), (0.0, 0.0), (0.25, 0.5):
            self.jitter = jitter
            self.proxy.refuse()
            self.assertEqual(self.reconnects_after(self.clock.seconds()), wait)

    def test_lost_again_and_again(self) -> None:
        """A connection that brings no answer is none: the waits grow until there is one."""
        for wait in 0.25, 0.5, 1.0:
            (lost,) = self.send("a")
            if not self.proxy.attempts and not self.proxy.open:
                self.reconnects_after(0.0)
            self.proxy.accept()
            self.proxy.lose()
            self.assert_failed(lost, "connection-lost", "unknown")
            self.assertEqual(self.reconnects_after(self.clock.seconds()), wait)
        (sent,) = self.send("b")
        self.proxy.accept()
        self.proxy.answer(ack("B"))
        self.assert_answered(sent, "B")
        self.proxy.lose()

        self.assertEqual(self.reconnects_after(self.clock.seconds()), 0.25)

    def test_first_attempt(self) -> None:
        """The very first packet waits for the proxy to come up, too."""
        (sent,) = self.send("a")
        self.proxy.refuse()
        self.assertNoResult(sent)
        self.reconnect()
        self.proxy.answer(ack("A"))

        self.assert_answered(sent, "A")

    def test_idle(self) -> None:
        """A connection that carried nothing isn't made again before something is sent: idle ones are closed."""
        (first,) = self.connected("a")
        self.proxy.answer(ack("A"))
        self.assert_answered(first, "A")
        self.proxy.lose()
        self.reconnect()

        self.proxy.lose(reason=ConnectionDone)

        self.assertEqual(self.clock.getDelayedCalls(), [])
        (second,) = self.connected("b")
        self.proxy.answer(ack("B"))
        self.assert_answered(second, "B")

    def test_lost_at_once(self) -> None:
        """An endpoint may take longer to say that it connected than the connection lasts."""
        (sent,) = self.send("a")
        ((factory, attempt),) = self.proxy.attempts
        self.proxy.attempts.clear()
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        assert protocol is not None
        connect(protocol)
        lose(protocol)
        attempt.callback(protocol)
        self.assertNoResult(sent)

        self.reconnect()

        self.assertEqual(self.proxy.received(), [data("a")])
        self.proxy.answer(ack("A"))
        self.assert_answered(sent, "A")

    def test_sends_when_told(self) -> None:
        """Whoever hears of the loss may send at once."""
        (first,) = self.connected("a")
        again = first.addErrback(lambda _: self.client.send("111", "a"))
        self.proxy.lose()

        self.reconnect()
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
            self.proxy.lose()
            self.reconnect()
            self.proxy.answer(ack("C"))
            self.assert_answered(third, "C")
            self.tearDown()
            self.setUp()

    def test_unasked(self) -> None:
        """What comes unasked ends the connection."""
        (sent,) = self.connected("a")
        self.proxy.answer(ack("A"))
        self.assert_answered(sent, "A")

        self.proxy.answer(ack("B"))

        self.assertTrue(self.proxy.transport.disconnected)


class NoReconnectTests(ClientCase):
    """A client that doesn't go on trying, as a command with somebody before it."""

    def make_client(self, *, reconnect: bool = False) -> Client:
        return super().make_client(reconnect=reconnect)

    def test_refused(self) -> None:
        """Nothing was written, so nothing was delivered."""
        first, second = self.send("a", "b")
        self.proxy.refuse()

        self.assertIn("refused", self.assert_failed(first, "connection-lost", "no").text)
        self.assert_failed(second, "connection-lost", "no")

    def test_again(self) -> None:
        """The next packet tries again, at once and not before."""
        (first,) = self.send("a")
        self.proxy.refuse()
        self.assert_failed(first, "connection-lost", "no")
        self.assertEqual((self.proxy.attempts, self.clock.getDelayedCalls()), ([], []))

        (second,) = self.connected("b")
        self.proxy.answer(ack("B"))

        self.assert_answered(second, "B")

    def test_lost(self) -> None:
        """Nor is a connection made again before."""
        (first,) = self.connected("a")
        self.proxy.lose()
        self.assert_failed(first, "connection-lost", "unknown")
        self.assertEqual((self.proxy.attempts, self.clock.getDelayedCalls()), ([], []))

        (second,) = self.connected("b")
        self.proxy.answer(ack("B"))

        self.assert_answered(second, "B")

    def test_cancelled_by_another(self) -> None:
        """Whoever hears of a failed connection may cancel the others."""
        first, second = self.send("a", "b")
        first.addErrback(lambda _: second.cancel())

        self.proxy.refuse()

        self.successResultOf(first)
        self.failureResultOf(second, CancelledError)


class GoodbyeTests(ClientCase):
    """A proxy that is stopping."""

    def test_restart(self) -> None:
        """The old connection brings its answers still; what is sent from then on waits for the new proxy."""
        first, second, third = self.connected("a", "b", "c")
        old, old_transport = self.proxy.protocol, self.proxy.transport
        self.proxy.answer(ack("A"), refusal("shutting-down"))
        self.assert_answered(first, "A")
        self.assert_failed(second, "shutting-down", "no")
        (fourth,) = self.send("d")
        self.assertEqual(old_transport.taken(), b"")

        self.reconnect()
        self.assertEqual(self.proxy.received(), [data("d")])
        old.dataReceived(ack("C"))
        self.proxy.answer(ack("D"))

        self.assert_answered(third, "C")
        self.assert_answered(fourth, "D")
        self.assertTrue(old_transport.disconnecting)
        self.assertFalse(self.proxy.transport.disconnecting)
        # Which is no loss.
        self.proxy.lose(old, ConnectionDone)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_sends_when_told(self) -> None:
        """Nobody's next packet is written into the proxy's end, though it is sent at an answer that came with it."""
        first, second = self.connected("a", "b")
        again = first.addCallback(lambda _: self.client.send("111", "c"))
        self.proxy.answer(ack("A"), refusal("shutting-down"))
        self.assertEqual(self.proxy.received(), [])
        self.assert_failed(second, "shutting-down", "no")

        self.reconnect()
        self.proxy.answer(ack("C"))

        self.assert_answered(again, "C")

    def test_stays(self) -> None:
        """A proxy that stays and goes on saying so is asked ever more seldom."""
        self.send("a")[0].addErrback(lambda _: None)
        for wait in 0.25, 0.5, 1.0:
            self.proxy.accept()
            self.proxy.answer(refusal("shutting-down"))
            self.send("a")[0].addErrback(lambda _: None)
            self.assertEqual(self.reconnects_after(self.clock.seconds()), wait)


class ResendTests(ClientCase):
    """What certainly wasn't delivered is sent again."""

    resend = True

    def test_passing(self) -> None:
        """Each of the errors that may pass, after a wait, over the same connection where that is as good as before."""
        for code in PASSING - {"shutting-down"}:
            begin = self.clock.seconds()
            (sent,) = self.connected("a")
            self.proxy.answer(refusal(code))
            self.assertNoResult(sent)
            self.clock.advance(RESEND.first - 0.01)
            self.assertEqual(self.proxy.received(), [])
            self.clock.advance(0.02)
            self.assertEqual(self.proxy.received(), [data("a")])
            self.proxy.answer(ack("A"))

            self.assert_answered(sent, "A")
            self.assertLess(self.clock.seconds(), begin + 1)
            self.tearDown()
            self.setUp()

    def test_restart(self) -> None:
        """A proxy that stops, is gone, and comes back before its servers do."""
        sent = self.connected("a", "b")
        self.proxy.answer(refusal("shutting-down"), refusal("shutting-down"))
        self.proxy.lose(reason=ConnectionDone)
        for _ in range(4):
            self.reconnects_after(0.0)
            self.proxy.refuse()
        self.reconnect()
        self.assertEqual(self.proxy.received(), [data("a"), data("b")])
        self.proxy.answer(refusal("no-server"), refusal("no-server"))
        self.clock.advance(1)
        self.assertEqual(self.proxy.received(), [data("a"), data("b")])
        self.proxy.answer(ack("A"), ack("B"))

        for each, payload in zip(sent, "AB", strict=True):
            self.assert_answered(each, payload)

    def test_others(self) -> None:
        """Not what another try wouldn't change, and nothing that may have been delivered."""
        never = "bad-packet", "too-large", "forbidden", "conflict", "failed", "server-lost", "something-new"
        final = [*(refusal(code) for code in never), *(refusal(code, "unknown") for code in (*never, *PASSING))]
        for raw in final:
            (sent,) = self.connected("a")
            self.proxy.answer(raw)

            error = packets.decode(raw)
            assert isinstance(error, Error)
            self.assert_failed(sent, error.error, error.delivered)
            self.tearDown()
            self.setUp()

    def test_lost(self) -> None:
        """What was written and not answered isn't, though it was refused before."""
        (sent,) = self.connected("a")
        self.proxy.answer(refusal("no-server"))
        self.clock.advance(RESEND.first)
        self.assertEqual(self.proxy.received(), [data("a")])
        self.proxy.lose()

        self.assert_failed(sent, "connection-lost", "unknown")
        self.reconnect()
        self.assertEqual(self.proxy.received(), [])

    def test_off(self) -> None:
        """Nor anything where it isn't asked for."""
        self.tearDown()
        self.resend = False
        self.setUp()
        (sent,) = self.connected("a")
        self.proxy.answer(refusal("overloaded"))

        self.assert_failed(sent, "overloaded", "no")

    def test_exchange(self) -> None:
        """An error packet is what comes back at last."""
        raw = packets.data("7", "111", "a")
        sent = self.client.exchange(raw, "7")
        self.proxy.accept()
        error = packets.error("rproxy", "7", "no-server", "no", "nobody")
        for _ in range(MAX_REFUSALS):
            self.assertNoResult(sent)
            self.assertEqual(self.proxy.transport.taken(), raw)
            self.proxy.answer(error)
            self.jitter = 0.2
            self.clock.advance(1)

        self.assertEqual(self.successResultOf(sent).raw, error)
        self.assertEqual(self.proxy.received(), [])

    def test_deadline(self) -> None:
        """The tries come ever more seldom, and one that would come too late isn't waited for."""
        (sent,) = self.connected("a")
        tries = [self.clock.seconds()]
        self.proxy.answer(refusal("no-server"))
        while pending := [call for call in self.clock.getDelayedCalls() if call.getTime() < TIMEOUT]:
            self.clock.advance(pending[0].getTime() - self.clock.seconds())
            self.assertEqual(self.proxy.received(), [data("a")])
            tries.append(self.clock.seconds())
            self.proxy.answer(refusal("no-server"))

        self.assertEqual(self.assert_failed(sent, "no-server", "no").text, "because")
        waits = [round(after - before, 3) for before, after in pairwise(tries)]
        self.assertEqual(waits[:8], [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_waits_for_connection(self) -> None:
        """What was refused, and finds no connection until it is too late, still wasn't delivered."""
        (sent,) = self.connected("a")
        self.proxy.answer(refusal("shutting-down"))
        self.proxy.lose()
        while self.clock.seconds() < TIMEOUT:
            self.reconnects_after(0.0)
            self.proxy.refuse()

        self.assertIn("refused", self.assert_failed(sent, "timeout", "no").text)

    def test_cancel(self) -> None:
        """What waits to be sent again isn't, once nobody waits for it."""
        first, second = self.connected("a", "b")
        self.proxy.answer(refusal("no-server"), refusal("no-server"))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.clock.advance(RESEND.first)

        self.assertEqual(self.proxy.received(), [data("b")])
        self.proxy.answer(ack("B"))
        self.assert_answered(second, "B")

    def test_cancelled_in_flight(self) -> None:
        """Nor is what was cancelled before it was refused."""
        (sent,) = self.connected("a")
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.proxy.answer(refusal("no-server"))

        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close(self) -> None:
        """Nor is anything once the client is closed."""
        (sent,) = self.connected("a")
        self.proxy.answer(refusal("no-server"))
        self.client.close()

        self.assert_failed(sent, "connection-lost", "no")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_closed_by_another(self) -> None:
        """Also where it is closed by who is told of an answer that came before."""
        first, second = self.connected("a", "b")
        first.addCallback(lambda _: self.client.close())
        self.proxy.answer(ack("A"), refusal("no-server"))

        self.assertNoResult(first)
        self.assert_failed(second, "no-server", "no")

    def test_overloaded(self) -> None:
        """What waits to be sent again counts, so that nobody gathers more than so many."""
        sent = self.connected(*"abcd")
        self.proxy.answer(*[refusal("no-server")] * 4)
        self.assert_failed(self.client.send("111", "e"), "overloaded", "no")
        self.clock.advance(RESEND.first)
        self.assertEqual(len(self.proxy.received()), 4)
        self.proxy.answer(*map(ack, "ABCD"))
        for each, payload in zip(sent, "ABCD", strict=True):
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


class CancelTests(ClientCase):
    """Nobody waits any more."""

    def test_in_flight(self) -> None:
        """The answer is swallowed, and the order kept, on a connection that is as good as before."""
        first, second = self.connected("a", "b")

        first.cancel()
        self.failureResultOf(first, CancelledError)
        (third,) = self.send("c")
        self.assertEqual(self.proxy.received(), [data("c")])
        self.proxy.answer(ack("A"), ack("B"), ack("C"))

        self.assert_answered(second, "B")
        self.assert_answered(third, "C")

    def test_waiting(self) -> None:
        """What wasn't sent yet isn't sent."""
        first, second = self.send("a", "b")

        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.proxy.accept()

        self.assertEqual(self.proxy.received(), [data("b")])
        self.proxy.answer(ack("B"))
        self.assert_answered(second, "B")

    def test_between_attempts(self) -> None:
        """Nor what waits for the next attempt to connect."""
        (sent,) = self.send("a")
        self.proxy.refuse()

        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.reconnect()

        self.assertEqual(self.proxy.received(), [])

    def test_retired(self) -> None:
        """The last one on a connection that takes nothing new lets it go."""
        first, second = self.connected("a", "b")
        self.proxy.answer(refusal("shutting-down"))
        self.assert_failed(first, "shutting-down", "no")
        self.assertFalse(self.proxy.transport.disconnected)

        second.cancel()
        self.failureResultOf(second, CancelledError)

        self.assertTrue(self.proxy.transport.disconnected)

    def test_black_hole(self) -> None:
        """Who never waits as long as the timeout is helped too where the proxy says nothing any more."""
        for sent in *self.connected("a"), *self.send("b", "c", "d"):
            sent.cancel()
            self.failureResultOf(sent, CancelledError)
        (refused,) = self.send("e")
        self.assert_failed(refused, "overloaded", "no")
        hole, hole_transport = self.proxy.protocol, self.proxy.transport
        self.clock.advance(TIMEOUT)
        self.assertFalse(hole_transport.disconnected)

        (sent,) = self.send("e")
        self.assertTrue(hole_transport.disconnected)
        self.reconnect()
        self.assertEqual(self.proxy.received(), [data("e")])
        self.proxy.answer(ack("E"))
        self.assert_answered(sent, "E")
        self.proxy.lose(hole)

    def test_by_another(self) -> None:
        """Whoever hears of a loss may cancel the others."""
        first, second = self.connected("a", "b")
        first.addErrback(lambda _: second.cancel())

        self.proxy.lose()

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
        self.proxy.lose(reason=ConnectionDone)

        self.successResultOf(closing)
        self.successResultOf(self.client.close())

    def test_in_flight(self) -> None:
        """What is unanswered fails, and nothing keeps the connection."""
        (sent,) = self.connected("a")

        closing = self.client.close()
        self.assertTrue(self.proxy.transport.disconnected)
        self.proxy.lose()

        self.assert_failed(sent, "connection-lost", "unknown")
        self.successResultOf(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_connecting(self) -> None:
        """A connection that is being made isn't made."""
        (sent,) = self.send("a")

        closing = self.client.close()

        self.successResultOf(closing)
        self.assertEqual(self.proxy.cancelled, 1)
        self.assertIn("was closed", self.assert_failed(sent, "connection-lost", "no").text)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_between_attempts(self) -> None:
        """Nor is one tried again."""
        (sent,) = self.send("a")
        self.proxy.refuse()

        closing = self.client.close()

        self.successResultOf(closing)
        self.assert_failed(sent, "connection-lost", "no")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_retired(self) -> None:
        """All connections are waited for, those too that still had an answer to bring."""
        first, second = self.connected("a", "b")
        self.proxy.answer(refusal("shutting-down"))
        self.assert_failed(first, "shutting-down", "no")
        old = self.proxy.protocol
        self.reconnect()

        closing = self.client.close()
        self.proxy.lose(reason=ConnectionDone)
        self.assertNoResult(closing)
        self.proxy.lose(old)

        self.successResultOf(closing)
        self.assert_failed(second, "connection-lost", "unknown")

    def test_never_connected(self) -> None:
        """Nothing to do."""
        self.successResultOf(self.client.close())

    def test_send(self) -> None:
        """Nothing is sent after it, not even by who is told of it."""
        (sent,) = self.send("a")
        again = sent.addErrback(lambda _: self.client.send("111", "a"))
        self.client.close()

        self.assert_failed(again, "connection-lost", "no")
        self.assert_failed(self.client.send("111", "a"), "connection-lost", "no")
        self.assertEqual(self.proxy.attempts, [])


class SeveralCase(SynchronousTestCase):
    """Client 1, of the proxies a and b in that order, without jitter."""

    resend = False
    reconnect = True
    jitter = 1.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.a, self.b = Proxy(), Proxy()
        self.left: list[str] = []
        self.endpoint = FailoverEndpoint(
            {"a": self.a, "b": self.b},
            self.clock,
            shuffle=lambda line: None,
            left=lambda name, *_: self.left.append(name),
        )
        self.client = self.make_client()

    def make_client(self) -> Client:
        return Client(
            self.endpoint,
            "1",
            self.clock,
            reconnect=self.reconnect,
            resend=self.resend,
            jitter=lambda: self.jitter,
        )

    def tearDown(self) -> None:
        closing = self.client.close()
        for proxy in self.a, self.b:
            for protocol in proxy.open:
                lose(protocol)
            self.assertEqual(proxy.attempts, [])
        self.successResultOf(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def send(self, payload: str) -> Deferred[Ack]:
        return self.client.send("111", payload)

    def assert_failed(self, sent: Deferred[Ack], code: str, delivered: str) -> str:
        error = self.failureResultOf(sent, ProxyError).value
        assert isinstance(error, ProxyError)
        self.assertEqual((error.code, error.delivered), (code, delivered))
        return error.text

    def assert_served(self, proxy: Proxy, sent: Deferred[Ack], payload: str) -> None:
        """The proxy has the packet and nothing else, and answers it."""
        self.assertEqual(proxy.received(), [data(payload)])
        proxy.answer(ack(payload.upper()))
        self.assertEqual(self.successResultOf(sent).payload, payload.upper())

    def served_by_a(self) -> None:
        sent = self.send("first")
        self.a.accept()
        self.assert_served(self.a, sent, "first")


class SeveralTests(SeveralCase):
    """The next proxy is connected to when one fails, at once; a wait comes when all have failed."""

    def test_refused(self) -> None:
        sent = self.send("a")
        self.a.refuse()
        self.b.accept()

        self.assert_served(self.b, sent, "a")
        self.assertEqual(self.clock.seconds(), 0)

    def test_black_hole(self) -> None:
        """What was never written goes to the next one, after a bounded time."""
        sent = self.send("a")
        self.clock.advance(HEAD_START)
        self.b.accept()

        self.assert_served(self.b, sent, "a")
        self.assertEqual(self.a.cancelled, 1)

    def test_lost(self) -> None:
        """What was written isn't sent again; what wasn't goes to the next one."""
        self.served_by_a()
        lost = self.send("lost")
        self.a.lose()
        self.assert_failed(lost, "connection-lost", "unknown")
        sent = self.send("a")
        self.b.accept()

        self.assert_served(self.b, sent, "a")
        self.assertEqual(self.clock.seconds(), 0)

    def test_idle(self) -> None:
        """A connection that was closed with nothing on it is no failure of its proxy."""
        self.served_by_a()
        self.a.lose(reason=ConnectionDone)
        self.assertEqual((self.a.attempts, self.b.attempts), ([], []))
        self.clock.advance(RECONNECT.first)
        self.assertEqual((len(self.a.attempts), self.b.attempts), (1, []))
        self.a.accept()

    def test_stopping(self) -> None:
        """The old connection brings its answers still, while the next proxy has what is sent from then on."""
        self.served_by_a()
        refused, answered = self.send("refused"), self.send("b")
        old = self.a.protocol
        self.a.received()
        self.a.answer(refusal("shutting-down"))
        self.assert_failed(refused, "shutting-down", "no")
        sent = self.send("a")
        self.b.accept()
        self.assert_served(self.b, sent, "a")
        old.dataReceived(ack("B"))

        self.assertEqual(self.successResultOf(answered).payload, "B")

    def test_hangs(self) -> None:
        """A proxy that keeps its connection and says nothing is left at the first answer that is late."""
        self.served_by_a()
        late = self.send("late")
        self.clock.advance(TIMEOUT)
        self.assert_failed(late, "timeout", "unknown")
        sent = self.send("a")
        self.b.accept()

        self.assert_served(self.b, sent, "a")

    def test_hangs_and_nobody_waits(self) -> None:
        """Also at one that its packet was cancelled before; another one behind it, which has time, stays there."""
        self.served_by_a()
        late = self.send("late")
        late.cancel()
        self.failureResultOf(late, CancelledError)
        self.clock.advance(TIMEOUT / 2)
        behind = self.send("behind")
        self.clock.advance(TIMEOUT / 2)
        sent = self.send("a")
        self.b.accept()

        self.assert_served(self.b, sent, "a")
        self.a.answer(ack("LATE"), ack("BEHIND"))
        self.assertEqual(self.successResultOf(behind).payload, "BEHIND")

    def test_lost_at_once(self) -> None:
        """What accepts connections and closes them isn't waited for while there is another proxy."""
        sent = self.send("a")
        self.lose_at_once()
        self.b.accept()

        self.assert_served(self.b, sent, "a")

    def lose_at_once(self) -> None:
        """Accept the connection to a, and lose it before that is known."""
        ((factory, attempt),) = self.a.attempts
        self.a.attempts.clear()
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        assert protocol is not None
        connect(protocol)
        lose(protocol)
        attempt.callback(protocol)

    def test_closed_when_told(self) -> None:
        """Whoever hears that a proxy failed may have had enough."""
        self.close_when_told()
        sent = self.send("a")
        self.a.accept()
        self.a.lose()
        self.assert_failed(sent, "connection-lost", "unknown")
        self.assertEqual(self.b.attempts, [])
        self.successResultOf(self.closing.pop())

    def test_closed_when_told_at_once(self) -> None:
        """The same where there was no connection yet."""
        self.close_when_told()
        sent = self.send("a")
        self.lose_at_once()
        self.assert_failed(sent, "connection-lost", "no")
        self.assertEqual(self.b.attempts, [])
        self.successResultOf(self.closing.pop())

    def close_when_told(self) -> None:
        self.closing: list[Deferred[None]] = []
        self.endpoint = FailoverEndpoint(
            {"a": self.a, "b": self.b},
            self.clock,
            shuffle=lambda line: None,
            left=lambda *_: self.closing.append(self.client.close()),
        )
        self.client = self.make_client()

    def test_all_fail(self) -> None:
        """Then the waits are as ever, and grow; each time every proxy is tried."""
        sent = self.send("a")
        for wait in 0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0:
            self.a.refuse()
            self.b.refuse()
            self.assertEqual((self.a.attempts, self.b.attempts), ([], []))
            self.clock.advance(wait - 0.01)
            self.assertEqual((self.a.attempts, self.b.attempts), ([], []))
            self.clock.advance(0.01)
        self.a.accept()

        self.assert_served(self.a, sent, "a")

    def test_all_lose(self) -> None:
        """Also where each of them accepts, and breaks."""
        for proxy in self.a, self.b:
            lost = self.send("a")
            proxy.accept()
            proxy.lose()
            self.assert_failed(lost, "connection-lost", "unknown")
        self.assertEqual((self.a.attempts, self.b.attempts), ([], []))
        self.clock.advance(RECONNECT.first)
        self.a.accept()

    def test_cancel(self) -> None:
        """A packet that nobody waits for any more is written nowhere."""
        sent = self.send("a")
        self.a.refuse()
        sent.cancel()
        self.failureResultOf(sent, CancelledError)
        self.b.accept()

        self.assertEqual(self.b.received(), [])

    def test_close(self) -> None:
        """No attempt goes on, at no proxy."""
        sent = self.send("a")
        self.clock.advance(HEAD_START)
        self.successResultOf(self.client.close())

        self.assertEqual((self.a.cancelled, self.b.cancelled), (1, 1))
        self.assert_failed(sent, "connection-lost", "no")


class SeveralNoReconnectTests(SeveralCase):
    """Each packet tries all proxies once."""

    reconnect = False

    def test_all_refused(self) -> None:
        sent = self.send("a")
        self.a.refuse()
        self.b.refuse()

        text = self.assert_failed(sent, "connection-lost", "no")
        self.assertIn("a: Connection was refused by other side.; b: Connection was refused by other side.", text)


class SeveralResendTests(SeveralCase):
    """What no server got goes to the next proxy, which may know one."""

    resend = True

    def test_refused(self) -> None:
        """For each reason that may pass; what the first proxy still has, it answers."""
        for code in PASSING:
            self.served_by_a()
            sent, other = self.send("a"), self.send("other")
            old = self.a.protocol
            self.a.received()
            self.a.answer(refusal(code))
            self.clock.advance(RESEND.first)
            self.b.accept()
            self.assert_served(self.b, sent, "a")
            old.dataReceived(ack("OTHER"))
            self.assertEqual(self.successResultOf(other).payload, "OTHER")
            self.tearDown()
            self.setUp()

    def test_closed_after_it(self) -> None:
        """Also where the first one closes its connection after the refusal."""
        sent = self.send("a")
        self.a.accept()
        self.a.answer(refusal("overloaded"))
        self.a.lose(reason=ConnectionDone)
        self.clock.advance(RESEND.first)
        self.clock.advance(RECONNECT.first)
        self.b.accept()

        self.assert_served(self.b, sent, "a")

    def test_connected_again_after_it(self) -> None:
        """A connection that was made since is as good as any: it isn't left for what was said on another one."""
        sent = self.send("a")
        self.a.accept()
        self.a.answer(refusal("overloaded"))
        self.jitter = 0.0
        self.a.lose(reason=ConnectionDone)
        self.clock.advance(0)
        self.a.accept()
        self.clock.advance(RESEND.first)

        self.assert_served(self.a, sent, "a")
        self.assertEqual(self.left, [])

    def test_delivered(self) -> None:
        """Nothing that a server may have got."""
        sent = self.send("a")
        self.a.accept()
        self.a.answer(refusal("timeout", "unknown"))

        self.assert_failed(sent, "timeout", "unknown")
        self.assertEqual(self.b.attempts, [])

    def test_lost(self) -> None:
        """Nor what was written to the next one and lost there."""
        sent = self.send("a")
        self.a.accept()
        self.a.answer(refusal("no-server"))
        self.clock.advance(RESEND.first)
        self.b.accept()
        self.assertEqual(self.b.received(), [data("a")])
        self.b.lose()

        self.assert_failed(sent, "connection-lost", "unknown")
        self.clock.advance(RECONNECT.first)
        self.a.accept()
        self.a.received()
        self.clock.advance(REST)
        self.assertEqual(self.a.received(), [])

    def test_nowhere(self) -> None:
        """A policy that nobody serves doesn't drive a client to and fro: a proxy is come back to after a rest."""
        self.send("a").addErrback(lambda _: None)
        self.a.accept()
        self.a.answer(refusal("no-server"))
        self.clock.advance(RESEND.first)
        self.b.accept()
        while self.clock.seconds() < REST:
            if self.b.received():
                self.b.answer(refusal("no-server"))
            self.assertEqual((self.a.attempts, self.b.attempts), ([], []))
            self.clock.advance(0.1)
        while not self.a.attempts:
            if self.b.received():
                self.b.answer(refusal("no-server"))
            self.clock.advance(0.1)
        self.a.accept()
        self.assertEqual(self.a.received()[-1:], [data("a")])


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
