"""The simulation: the options of its command, and how it ends."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from rproxy import simulation
from rproxy.simulation.processes import ChildDied
from rproxy.simulation.running import Stopper, simulate
from tests.simulated import FakeReactor, plan_of


class OptionTests(SynchronousTestCase):
    """What the command takes."""

    def test_defaults(self) -> None:
        """The classic setting."""
        parser = ArgumentParser()
        simulation.add_arguments(parser)
        args = parser.parse_args([])

        self.assertEqual((args.servers, args.policies, args.concurrency), (4, ["111", "222"], 1))
        self.assertEqual((args.clients, args.count, args.packets, args.timeout), (None, None, None, 60.0))


class RunningTests(SynchronousTestCase):
    """How it ends."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.stopper = Stopper()
        running = simulate(plan_of(timeout=60.0), self.reactor, self.stopper, lambda done: None)
        self.running = Deferred.fromCoroutine(running)

    def test_out_of_time(self) -> None:
        """Whatever it waits for, it ends after the timeout, when its processes have ended."""
        proxy = self.reactor.processes[0]
        self.assertTrue(Path(proxy.path).is_dir())
        self.reactor.advance(60)
        self.assertEqual(proxy.signals, ["TERM"])
        self.assertNoResult(self.running)
        proxy.ends()

        self.assertEqual(self.successResultOf(self.running).aborted, "it took longer than 60 s")
        self.assertFalse(Path(proxy.path).exists())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_process_dies(self) -> None:
        """That ends it, and the others are stopped."""
        proxy = self.reactor.processes[0]
        proxy.says("x Running the reverse proxy on port 1234\n")
        _, first, *others = self.reactor.processes
        first.says("It broke\n")
        first.ends(code=1)
        self.assertEqual([process.signals for process in others], [["TERM"]] * 3)
        for process in (*others, proxy):
            process.ends()

        self.assertEqual(self.successResultOf(self.running).aborted, "server 100 ended with exit code 1")
        assert isinstance(self.stopper.why, ChildDied)
        self.assertEqual(self.stopper.why.lines, ("It broke",))

    def test_system_that_does_not_let_it(self) -> None:
        """What it had started is stopped, and it is said what is missing."""
        self.reactor.most = 3
        proxy = self.reactor.processes[0]
        proxy.says("x Running the reverse proxy on port 1234\n")
        _, *servers = self.reactor.processes
        self.assertEqual([process.signals for process in servers], [["TERM"]] * 2)
        for process in (*servers, proxy):
            process.ends()

        why = "server 300 can't be started: Too many open files"
        self.assertEqual(self.successResultOf(self.running).aborted, why)
        self.assertEqual(str(self.stopper.why), why)

    def test_first_reason_counts(self) -> None:
        """What follows from it is none."""
        first = OSError()
        self.stopper.stop(first)
        self.stopper.stop(OSError())
        self.reactor.processes[0].ends()

        self.assertIs(self.stopper.why, first)
        self.successResultOf(self.running)
