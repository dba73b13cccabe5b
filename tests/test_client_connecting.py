"""The client library's connection: what is lost with it, when there is another one, and when a proxy says goodbye."""

from __future__ import annotations

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone

from rproxy import packets
from rproxy.client import Client
from rproxy.client.connecting import RECONNECT
from tests.clientcase import ClientCase, ack, data, refusal
from tests.transports import connect, lose


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
