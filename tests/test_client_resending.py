"""What the client library sends again, where it was asked to."""

from __future__ import annotations

from itertools import pairwise

from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionDone

from rproxy import packets
from rproxy.client import MAX_REFUSALS, PASSING, RESEND
from rproxy.packets import Error
from tests.clientcase import TIMEOUT, ClientCase, ack, data, refusal


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
