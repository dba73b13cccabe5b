"""The check before each write, with packets that nothing else would write."""

from __future__ import annotations

from twisted.logger import LogLevel, capturedLogs, formatEvent

from rproxy.limits import Limits
from rproxy.request import Request
from rproxy.upstream import Upstream
from tests.admissioncase import AdmissionCase, described
from tests.memory import HOST, Proxy


class _Nobody:
    """Asks, and doesn't listen."""

    def deliver(self, now: float) -> None:
        """Not to anybody."""

    def deliver_soon(self) -> None:
        """Not to anybody."""


class ViolationTests(AdmissionCase):
    """The check before each write: what is written by hand, as nothing else ever may."""

    def setUp(self) -> None:
        # Not by self.proxy, whose counter must stay zero.
        self.world = Proxy(Limits())
        self.servers = {port: self.modern(self.world, port)[0] for port in (5000, 5001)}
        client = self.world.client()
        client.ask("a", "b")

    def upstream(self, port: int) -> Upstream:
        upstream = self.world.factory.router.upstreams.get((HOST, port), False)
        assert upstream is not None
        return upstream

    def write(self, policy: str, port: int, at: int) -> bool:
        """Write a packet of a policy for the server of one port to the connection to another one."""
        (member,) = self.upstream(port).members.live_of("111")
        (connection,) = self.upstream(at)._open
        written = connection.write(Request(b'{"payload": "forced"}', policy, "1", 10.0, _Nobody()), member)
        self.world.pump()
        self.assertEqual("forced" in self.servers[at].payloads, written)
        return written

    def assert_violation(self, policy: str, port: int, at: int) -> None:
        with capturedLogs() as events:
            self.assertFalse(self.write(policy, port, at))
        (said,) = (formatEvent(event) for event in events if event["log_level"] is LogLevel.critical)
        self.assertEqual(
            said,
            f"A packet of policy {policy} for server id {port} of policy 111 was about to be written to"
            f" {HOST} port {at}; it was not",
        )
        self.assertEqual(self.world.factory.counters.violations, 1)
        self.assertRaises(AssertionError, self.world.check_counters)

    def test_another_policy(self) -> None:
        self.assert_violation("222", 5000, 5000)

    def test_another_server(self) -> None:
        """A connection that doesn't lead to the server that was chosen."""
        self.assert_violation("111", 5000, 5001)

    def test_none(self) -> None:
        """One that ends before it is written to is none: the packet just finds another one."""
        self.assertTrue(self.write("111", 5000, 5000))
        (member,) = self.upstream(5001).members.live_of("111")
        self.world.factory.reload(described())
        self.assertFalse(member.live)
        (connection,) = self.upstream(5001)._open
        self.assertFalse(connection.write(Request(b"{}", "111", "1", 10.0, _Nobody()), member))
        self.assertEqual(self.world.factory.counters.violations, 0)
