"""A policy's own limits, as a whole proxy keeps to them."""

from __future__ import annotations

from typing import Any

from rproxy.policies import Policy
from rproxy.process.sweeping import SWEEP
from tests.admissioncase import AdmissionCase, described
from tests.memory import Proxy


class LimitTests(AdmissionCase):
    """Limits that a policy has of its own."""

    def limited(self, **limits: Any) -> Proxy:
        """A server, one policy with limits of its own, and one without."""
        proxy = self.proxy(described(p111=Policy(**limits), p222=Policy()), timeout=4, queue_timeout=3)
        for policy in ("111", "222"):
            proxy.register("5000", policy, 5000, pipeline=100)
        return proxy

    def take_down(self, proxy: Proxy) -> None:
        """Let the server be found to be down, so that what comes waits in line."""
        client = proxy.client()
        client.ask("a", policy="222")
        client.reset()
        proxy.advance(SWEEP)

    def unanswered(self, proxy: Proxy) -> int:
        return proxy.factory.router.quotas.unanswered.get("111", 0)

    def test_timeout(self) -> None:
        """Shorter or longer than the proxy's, for its own packets only."""
        for timeout, expected in (
            (2.0, ["timeout/unknown", "timeout/unknown"]), (6.0, ["timeout/unknown", "late by 5000"])
        ):  # fmt: skip
            proxy = self.limited(timeout=timeout)
            server = proxy.server(5000)
            client, other = proxy.client(), proxy.client()
            client.ask("late")
            other.ask("other", policy="222")
            proxy.advance(2)
            self.assertEqual(client.answers(), expected[:1] if timeout == 2.0 else [])
            self.assertEqual(other.answers(), [])
            proxy.advance(2)
            self.assertEqual(other.answers(), ["timeout/unknown"])
            server.answer()
            self.assertEqual(client.answers(), [] if timeout == 2.0 else expected[1:])

    def test_queue_timeout(self) -> None:
        proxy = self.limited(queue_timeout=1.0)
        client, other = proxy.client(), proxy.client()
        client.ask("a")
        other.ask("b", policy="222")
        proxy.advance(1)
        self.assertEqual((client.answers(), other.answers()), (["no-server/no"], []))
        proxy.advance(2)
        self.assertEqual(other.answers(), ["no-server/no"])

    def test_rate(self) -> None:
        """Those of a second at once, and then as many as come back; those of other policies are not counted."""
        proxy = self.limited(rate=4.0)
        server = proxy.server(5000)
        client, other = proxy.client(), proxy.client()
        client.ask(*"abcdef")
        other.ask(*"abcdef", policy="222")
        server.answer()
        self.assertEqual(client.answers(), [*(f"{each} by 5000" for each in "abcd"), *["overloaded/no"] * 2])
        self.assertNotIn("overloaded/no", other.answers())
        proxy.advance(0.5)
        client.ask(*"ghi")
        server.answer()
        self.assertEqual(client.answers(), ["g by 5000", "h by 5000", "overloaded/no"])

    def test_queue_packets(self) -> None:
        proxy = self.limited(queue_packets=2)
        self.take_down(proxy)
        client, other = proxy.client(), proxy.client()
        client.ask("a", "b", "c")
        other.ask("a", "b", "c", policy="222")
        self.assertEqual(client.answers(), [])
        proxy.server(5000).answer()
        proxy.advance(1)
        proxy.server(5000).answer()
        self.assertEqual(client.answers(), ["a by 5000", "b by 5000", "overloaded/no"])
        self.assertEqual(other.answers(), ["a by 5000", "b by 5000", "c by 5000"])

    def test_in_flight(self) -> None:
        """Exactly so many, whoever asks; each answer makes room for one, whatever it is."""
        proxy = self.limited(in_flight=3)
        server = proxy.server(5000)
        one, two = proxy.client(), proxy.client()
        one.ask("a", "b")
        two.ask("c", "d")
        self.assertEqual((server.payloads, self.unanswered(proxy)), (["a", "b", "c"], 3))
        server.connection.answer(1)
        one.ask("e", "f")
        self.assertEqual((server.payloads, self.unanswered(proxy)), (["a", "b", "c", "e"], 3))
        server.connection.answer(1, type="3", error="failed", delivered="unknown")
        self.assertEqual(self.unanswered(proxy), 2)
        server.answer()
        self.assertEqual(one.answers(), ["a by 5000", "failed/unknown", "e by 5000", "overloaded/no"])
        self.assertEqual(two.answers(), ["c by 5000", "overloaded/no"])
        self.assertEqual(self.unanswered(proxy), 0)
        two.ask("g", policy="222")
        self.assertEqual(self.unanswered(proxy), 0)

    def test_in_flight_comes_back(self) -> None:
        """Also from a client that vanished, a deadline, a server that was lost, and the end of a wait."""
        proxy = self.limited(in_flight=2)
        server = proxy.server(5000)
        vanishing = proxy.client()
        vanishing.ask("a", "b")
        vanishing.reset()
        self.assertEqual(self.unanswered(proxy), 0)
        server.answer()
        client = proxy.client()
        client.ask("c", "d")
        server.connection.reset()
        self.assertEqual((client.answers(), self.unanswered(proxy)), (["server-lost/unknown"] * 2, 0))
        server.refuse()
        proxy.advance(1)
        client.ask("e", "f", "g")
        self.assertEqual(self.unanswered(proxy), 2)
        proxy.advance(3)
        self.assertEqual(client.answers(), ["no-server/no"] * 2 + ["overloaded/no"])
        self.assertEqual(self.unanswered(proxy), 0)
        server.accept()
        proxy.advance(10)
        client.ask("h")
        proxy.advance(4)
        self.assertEqual((client.answers(), self.unanswered(proxy)), (["timeout/unknown"], 0))
        server.answer()
        self.assertEqual(self.unanswered(proxy), 0)

    def test_in_flight_outlasts_the_registration(self) -> None:
        """A policy that nobody served for a while, or that was gone, still has its packets unanswered."""
        for change in (False, True):
            proxy = self.proxy(described(p111=Policy(in_flight=2)), queue_timeout=1)
            lease = proxy.register("5000", "111", 5000, pipeline=10, lease=100)
            server = proxy.server(5000)
            client = proxy.client()
            client.ask("a", "b")
            if change:
                proxy.factory.reload(described())
                proxy.factory.reload(described(p111=Policy(in_flight=2)))
            else:
                lease.close()
            proxy.advance(3)
            proxy.register("5001", "111", 5001, pipeline=10)
            other = proxy.server(5001)
            client.ask("c")
            server.answer()
            client.ask("d")
            other.answer()
            self.assertEqual(client.answers(), ["a by 5000", "b by 5000", "overloaded/no", "d by 5001"])

    def test_retried_counts_once(self) -> None:
        """A packet that is given to a second server, as the file lets it, is one packet."""
        proxy = self.limited(in_flight=1, retry=True)
        proxy.register("5001", "111", 5001, pipeline=100)
        one, two = proxy.server(5000), proxy.server(5001)
        client = proxy.client()
        client.ask("a")
        one.connection.reset()
        self.assertEqual((two.payloads, self.unanswered(proxy)), (["a"], 1))
        two.answer()
        self.assertEqual((client.answers(), self.unanswered(proxy)), (["a by 5001"], 0))

    def test_retry_is_the_policy_s(self) -> None:
        """And changes with the file."""
        proxy = self.limited(retry=True)
        proxy.register("5001", "111", 5001, pipeline=100)
        one, two = proxy.server(5000), proxy.server(5001)
        client = proxy.client()
        proxy.factory.reload(described(p111=Policy(), p222=Policy(retry=True)))
        client.ask("a")
        one.connection.reset()
        self.assertEqual((client.answers(), two.payloads), (["server-lost/unknown"], []))

    def test_other_limits(self) -> None:
        """They hold for what comes from then on; what waits keeps its time."""
        proxy = self.limited(queue_packets=1, queue_timeout=1.0)
        self.take_down(proxy)
        client = proxy.client()
        client.ask("a", "b")
        proxy.factory.reload(described(p111=Policy(queue_packets=3, queue_timeout=2.0, in_flight=2), p222=Policy()))
        client.ask("c", "d", "e")
        proxy.advance(1)
        self.assertEqual(client.answers(), ["no-server/no", "overloaded/no"])
        proxy.advance(1)
        self.assertEqual(client.answers(), ["no-server/no", "no-server/no", "overloaded/no"])
        proxy.factory.reload(described(p111=Policy(), p222=Policy()))
        client.ask(*"abcdefgh")
        proxy.server(5000)
        proxy.advance(2)
        proxy.server(5000).answer()
        self.assertEqual(len(client.answers()), 8)
