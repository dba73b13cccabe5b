"""Packets of callers that are no connections."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from rproxy.forwarding import ForwardError
from rproxy.packets import PacketError
from tests.memory import ProxyCase, data, encode, setup


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

    def test_no_data_packet(self) -> None:
        """Anything but a data packet isn't forwarded."""
        for packet in (setup("200", "222", 6000), {"type": "0"}):
            with self.assertRaises(PacketError):
                self.world.factory.router.forward(encode(packet))
