"""Packets of callers that are no connections."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from rproxy.forwarding import ForwardError
from rproxy.packets import PacketError
from rproxy.request import Request
from tests.memory import ProxyCase, data, encode, setup


class Endings:
    """Keeps what became of packets."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def ended(self, requests: Iterable[Request], address: str) -> None:
        self.seen += [("ended", request.policy, address) for request in requests]

    def gone(self, requests: Iterable[Request], address: str) -> None:
        self.seen += [("gone", request.policy, address) for request in requests]


class ForwardTests(ProxyCase):
    """``Router.forward``: one packet, a Deferred of its ACK."""

    def setUp(self) -> None:
        self.world = self.proxy()
        self.world.register("100", "111", 5000)
        self.server = self.world.server(5000)

    def forward(self, policy: str = "111") -> Deferred[bytes]:
        return self.world.factory.router.forward(encode(data("a", policy)))

    def assert_refused(self, forwarded: Deferred[bytes], code: str, delivered: str) -> None:
        failure: Failure = self.failureResultOf(forwarded, ForwardError)
        error = failure.value
        assert isinstance(error, ForwardError)
        self.assertEqual((error.code, error.delivered), (code, delivered))
        self.assertIn(" ", str(error))

    def test_ack(self) -> None:
        """It fires with the bytes of the ACK."""
        forwarded = self.forward()
        self.world.pump()
        self.assertNoResult(forwarded)
        answer = b'{"type":"2", "srcid":"100", "destid":"1", "payload":"done"}'
        self.server.connection.send(answer)
        self.assertEqual(self.successResultOf(forwarded), answer)

    def test_refusals(self) -> None:
        """It fails with the error's code, and whether the packet was delivered."""
        forwarded = self.forward("222")
        self.world.pump()
        self.assert_refused(forwarded, "no-server", "no")
        forwarded = self.forward()
        self.world.pump()
        self.server.connection.close()
        self.assert_refused(forwarded, "server-lost", "unknown")

    def test_timeout(self) -> None:
        """It has a deadline."""
        forwarded = self.forward()
        self.world.pump()
        self.world.advance(30.25)
        self.assert_refused(forwarded, "timeout", "unknown")

    def test_cancel(self) -> None:
        """When it is cancelled, the answer is swallowed."""
        forwarded = self.forward()
        self.world.pump()
        forwarded.cancel()
        self.failureResultOf(forwarded, CancelledError)
        client = self.world.client()
        client.ask("b")
        self.server.answer()
        self.assertEqual(client.answers(), ["b by 100"])

    def test_everybody_is_told_how_it_ended(self) -> None:
        """Counters and records have each packet once, also of whoever went away, who is told nothing more."""
        router = self.world.factory.router
        endings = Endings()
        router.callers.endings = (endings,)
        for _ in range(2):
            answered, refused, cancelled = self.forward(), self.forward("222"), self.forward()
            self.assertEqual(3, len(list(router.callers.pending())))
            cancelled.cancel()
            self.failureResultOf(cancelled, CancelledError)
            self.world.pump()
            self.assert_refused(refused, "no-server", "no")
            self.world.reactor.advance(0.125)
            self.server.answer()
            self.successResultOf(answered)
            self.world.advance(1)
        self.assertEqual([("gone", "111", ""), ("ended", "222", ""), ("ended", "111", "")] * 2, endings.seen)
        counters = self.world.factory.counters
        self.assertEqual((6, 2, 2), (counters.received, counters.acked, counters.client_gone))
        self.assertEqual({"no-server": 2}, {code: count for code, count in counters.refused.items() if count})
        tally = router.routes["111"].tally
        self.assertEqual((2, {}), (tally.client_gone, {code: count for code, count in tally.refused.items() if count}))
        [member] = router.routes["111"].rotation.members
        self.assertEqual([0.125, 0.125], member.noted)
        self.assertEqual([], list(router.callers.pending()))

    def test_refused_with_its_policy(self) -> None:
        """What is refused is counted under its policy too."""
        for _ in range(2):
            forwarded = self.forward()
            self.world.pump()
            self.server.open[0].close()
            self.assert_refused(forwarded, "server-lost", "unknown")
            self.world.advance(1)
        tally = self.world.factory.router.routes["111"].tally
        self.assertEqual({"server-lost": 2}, {code: count for code, count in tally.refused.items() if count})

    def test_cancelled_before_it_is_told(self) -> None:
        """Who goes away in the turn in which the answer comes counts as gone, and only so."""
        router = self.world.factory.router
        endings = Endings()
        router.callers.endings = (endings,)
        forwarded = self.forward("222")
        forwarded.cancel()
        self.failureResultOf(forwarded, CancelledError)
        self.world.pump()
        self.assertEqual([("gone", "222", "")], endings.seen)
        counters = self.world.factory.counters
        self.assertEqual((1, 0), (counters.client_gone, sum(counters.refused.values())))

    def test_no_data_packet(self) -> None:
        """Anything but a data packet isn't forwarded."""
        for packet in (setup("200", "222", 6000), {"type": "0"}):
            with self.assertRaises(PacketError):
                self.world.factory.router.forward(encode(packet))
        refused: PacketError = self.assertRaises(
            PacketError, self.world.factory.router.forward, encode(setup("200", "222", 6000))
        )
        self.assertEqual("only data packets are forwarded", str(refused))
        self.assertEqual(0, self.world.factory.counters.received)
