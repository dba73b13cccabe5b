"""What a policy's own limits let in. That a whole proxy keeps to it: test_admission_limits."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.policies import Policy
from rproxy.quotas import Quotas
from rproxy.request import Request
from tests.test_gate import Client


class QuotasTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.quotas = Quotas(self.clock.seconds)

    def let_in(self, policy: Policy, name: str = "111") -> list[Request]:
        """Let in as many packets as may be."""
        requests = []
        while self.quotas.refusal(name, policy) is None:
            requests.append(request := Request(b"{}", name, "1", 30.0, Client()))
            self.quotas.count(request, policy)
        return requests

    def test_rate(self) -> None:
        """Those of one second at once, and then as many as come back; by policy."""
        policy = Policy(rate=2.0)
        self.assertEqual((len(self.let_in(policy)), len(self.let_in(policy, "222"))), (2, 2))
        self.assertEqual(self.quotas.refusal("111", policy), "too many packets a second of policy 111")
        self.clock.advance(0.5)
        self.assertEqual(len(self.let_in(policy)), 1)
        self.assertEqual(self.quotas.unanswered, {})

    def test_in_flight(self) -> None:
        """An answer makes room, be it a refusal; by policy."""
        policy = Policy(in_flight=2)
        requests = self.let_in(policy)
        self.assertEqual((len(requests), len(self.let_in(policy, "222"))), (2, 2))
        self.assertEqual(self.quotas.refusal("111", policy), "too many packets of policy 111 have no answer yet")
        requests[0].refuse("timeout", "no", "too late")
        self.assertEqual(self.quotas.unanswered, {"111": 1, "222": 2})
        self.assertEqual(len(self.let_in(policy)), 1)

    def test_renew(self) -> None:
        """New policies have new rates; what is unanswered still counts, and nothing else is kept."""
        policy = Policy(rate=3.0, in_flight=3)
        for request in self.let_in(policy, "222"):
            request.abandon()
        self.let_in(policy)
        self.quotas.renew()
        self.assertEqual(self.quotas.unanswered, {"111": 3})
        self.assertEqual(len(self.let_in(Policy(rate=5.0))), 5)
        self.assertEqual(self.let_in(Policy(in_flight=3)), [])
