"""How whoever uses the client library ends what it began: a packet, or all of it."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone

from tests.clientcase import TIMEOUT, ClientCase, ack, data, refusal


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
