"""The processes of a simulation: how they start, end and are stopped."""

from __future__ import annotations

import signal

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rproxy.simulation.processes import GRACE, LAST_LINES, Child, ChildDied, Cluster
from tests.simulated import SERVERS, FakeProcess, FakeReactor, registered


class ChildTests(SynchronousTestCase):
    """One process."""

    def setUp(self) -> None:
        self.deaths: list[ChildDied] = []
        self.child = Child("server 100", self.deaths.append)
        self.process = FakeProcess(self.child, (), "")

    def test_last_lines(self) -> None:
        """However its output is cut, and without a line break at the end, the last lines are there."""
        for number in range(30):
            self.process.says(f"line {number}\r")
            self.process.says("\n")
        self.process.says("the end")
        self.process.ends(code=3)

        self.assertEqual(str(self.deaths[0]), "server 100 ended with exit code 3")
        self.assertEqual(len(self.deaths[0].lines), LAST_LINES)
        self.assertEqual(self.deaths[0].lines[-2:], ("line 29", "the end"))

    def test_ended_by_a_signal(self) -> None:
        """It says by which."""
        self.process.ends(number=signal.SIGKILL)

        self.assertEqual([str(death) for death in self.deaths], ["server 100 was ended by SIGKILL"])

    def test_stop(self) -> None:
        """An end that was asked for is no death."""
        ended = self.child.stop()
        self.assertEqual(self.process.signals, ["TERM"])
        self.process.exited = True
        self.child.kill()
        self.assertNoResult(ended)
        self.process.ends(number=signal.SIGTERM)
        self.child.kill()

        self.successResultOf(ended)
        self.assertEqual(self.deaths, [])


class ClusterTests(SynchronousTestCase):
    """All processes."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.deaths: list[ChildDied] = []
        self.cluster = Cluster(self.reactor, "/folder", self.deaths.append)

    def start(self) -> Deferred[int]:
        starting = Deferred.fromCoroutine(self.cluster.start(SERVERS[:2]))
        self.reactor.processes[0].says("x Running the reverse proxy on port 1234\n")
        return starting

    def test_start(self) -> None:
        """The proxy's port is in its log, and each server is there when the proxy has its registration."""
        starting = self.start()
        proxy, *servers = self.reactor.processes

        self.assertEqual(proxy.arguments[0], "rproxy")
        self.assertEqual(
            [process.arguments[:5] for process in servers],
            [
                ("rpoolserver", "--id", "100", "--pp", "111"),
                ("rpoolserver", "--id", "200", "--pp", "222"),
            ],
        )
        self.assertEqual({process.arguments[-1] for process in servers}, {"127.0.0.1:1234"})
        self.assertEqual({process.path for process in self.reactor.processes}, {"/folder"})
        proxy.says(registered("200"))
        proxy.says(registered("200"))
        self.assertNoResult(starting)
        proxy.says(registered("100"))
        self.assertEqual(self.successResultOf(starting), 1234)

    def test_stop(self) -> None:
        """The servers first; who doesn't stop is killed."""
        self.start().addErrback(lambda _: None)
        proxy, first, second = self.reactor.processes
        stopping = Deferred.fromCoroutine(self.cluster.stop())
        first.ends()
        self.assertEqual((proxy.signals, second.signals), ([], ["TERM"]))
        self.reactor.advance(GRACE)
        self.assertEqual(second.signals, ["TERM", "KILL"])
        second.ends(number=signal.SIGKILL)
        self.assertEqual(proxy.signals, ["TERM"])
        proxy.ends()

        self.successResultOf(stopping)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.deaths, [])

    def test_stop_before_the_start(self) -> None:
        """There is nothing to do."""
        self.successResultOf(Deferred.fromCoroutine(self.cluster.stop()))
