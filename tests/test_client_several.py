"""The client library with several proxies."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone

from rproxy.client import PASSING, RESEND
from rproxy.client.connecting import RECONNECT
from rproxy.client.failover import HEAD_START, REST, FailoverEndpoint
from tests.clientcase import TIMEOUT, SeveralCase, ack, data, refusal
from tests.transports import connect, lose


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
