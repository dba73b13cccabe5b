"""Whether packets are taken at all. Whole proxies: test_proxy, test_audit_recording and test_proxyservice."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from rproxy.figures.counters import Counters
from rproxy.gate import Gate
from rproxy.request import Refusal, Request


class Client:
    """Whoever asks."""

    def deliver(self, now: float) -> None:
        raise NotImplementedError

    def deliver_soon(self) -> None:
        """It reads what it was answered from the request."""


class GateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.taken: list[Request] = []
        self.counters = Counters()
        self.gate = Gate(self.taken.extend, self.counters)

    def submit(self) -> str:
        """Submit a packet, and return what became of it."""
        request = Request(b"{}", "111", "1", 30.0, Client())
        self.gate.submit((request,))
        if self.taken:
            self.assertEqual(self.taken.pop(), request)
            self.assertIsNone(request.reply)
            return "taken"
        assert isinstance(request.reply, Refusal)
        self.assertEqual(request.unserved, self.counters.tallies.unserved("111"))
        return f"{request.reply.code}/{request.reply.delivered}"

    def test_open(self) -> None:
        self.assertEqual((self.submit(), self.gate.refusal, self.gate.is_shut), ("taken", None, False))

    def test_recording(self) -> None:
        """Nothing is taken while it can't be recorded."""
        self.gate.set_recording(False)
        self.assertEqual((self.submit(), self.gate.is_shut), ("overloaded/no", False))
        self.assertEqual(self.gate.refusal, "the proxy can't write its audit trail")
        self.gate.set_recording(True)
        self.assertEqual((self.submit(), self.gate.refusal), ("taken", None))

    def test_shut(self) -> None:
        """For good, whatever can be recorded; until it is opened anew."""
        self.gate.shut()
        for works in (False, True):
            self.gate.set_recording(works)
            self.assertEqual((self.submit(), self.gate.is_shut), ("shutting-down/no", True))
            self.assertEqual(self.gate.refusal, "the proxy is stopping")
        self.gate.open()
        self.assertEqual((self.submit(), self.gate.refusal, self.gate.is_shut), ("taken", None, False))
