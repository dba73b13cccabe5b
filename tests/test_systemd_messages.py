"""Tests of :mod:`rproxy.systemd.messages`."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rproxy.figures import Figures, PolicyFigures, ServerFigures
from rproxy.systemd.messages import Manager, datagram, pool_status, proxy_status, read_manager


class ManagerTests(SynchronousTestCase):
    """Who is to be told."""

    def test_nobody(self) -> None:
        """Without a socket, or with one of a kind that this isn't, there is nobody."""
        for environ in {}, {"WATCHDOG_USEC": "1000"}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}:
            self.assertIsNone(read_manager(environ))

    def test_addresses(self) -> None:
        """A path is itself, and an abstract name begins with a zero byte."""
        self.assertEqual(read_manager({"NOTIFY_SOCKET": "/run/notify"}), Manager("/run/notify"))
        self.assertEqual(read_manager({"NOTIFY_SOCKET": "@a/b"}), Manager("\0a/b"))

    def test_watchdog(self) -> None:
        """Seconds are made of its microseconds, and what is no number is as if it weren't there."""
        environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "17"}
        self.assertEqual(read_manager(environ), Manager("/x", 2.5, 17))
        for text in "", "0", "-1", "1.5", "٣":
            self.assertEqual(read_manager({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": text}), Manager("/x"))


class DatagramTests(SynchronousTestCase):
    """What is told."""

    def test_lines(self) -> None:
        """A line for each field, in order."""
        self.assertEqual(datagram({"READY": 1, "STATUS": "für alle"}), "READY=1\nSTATUS=für alle".encode())

    def test_one_line_stays_one(self) -> None:
        """A status can't tell of anything else."""
        self.assertEqual(datagram({"STATUS": "a\nSTOPPING=1\r"}), b"STATUS=a?STOPPING=1?")


def server(server_id: str, policy: str, state: str) -> ServerFigures:
    """A server in that state."""
    return ServerFigures(
        policy=policy,
        id=server_id,
        host="127.0.0.1",
        port=5000,
        states={state: 1},
        weight=1,
        share=1.0,
        pipeline=1,
        connections=1,
        in_flight=0,
    )


class StatusTests(SynchronousTestCase):
    """How a service is."""

    def figures(self, **further: Any) -> Figures:
        policies = [
            PolicyFigures(name="111", servers=[server("100", "111", "up"), server("101", "111", "down")]),
            PolicyFigures(name="222", servers=[server("100", "222", "held")]),
            PolicyFigures(name="333"),
        ]
        known = {"version": "1", "state": "ready", "counters": {}, "in_flight": 14, "policies": policies}
        return Figures(**{**known, "processes": [], **further})

    def test_proxy(self) -> None:
        """Policies that have servers, how many of these are up, and the packets."""
        text = "ready: 2 policies, 2 servers up of 3, 120 packets/s, 14 in flight"
        self.assertEqual(proxy_status(self.figures(), 119.7), text)

    def test_without_a_rate(self) -> None:
        """It isn't known at first."""
        text = "draining: 0 policies, 0 servers up of 0, 14 in flight"
        self.assertEqual(proxy_status(self.figures(state="draining", policies=[]), None), text)

    def test_missing_workers(self) -> None:
        """They are told of, as the rest is without them."""
        self.assertTrue(proxy_status(self.figures(missing=[2]), None).endswith("14 in flight, no answer from 1 worker"))

    def test_pool_server(self) -> None:
        """How many of its registrations stand."""
        self.assertEqual(pool_status(1, 2, 3), "ready: 1 of 2 registrations confirmed, 3 in flight")
        self.assertEqual(pool_status(1, 1, 0), "ready: 1 of 1 registration confirmed, 0 in flight")
