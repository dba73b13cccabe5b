"""Puts a simulation together: starts, sends, stops, and reports."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from contextlib import suppress
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from attrs import define, field
from rich.console import Console
from twisted.internet.defer import CancelledError, Deferred, FirstError
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import react

from rproxy.client import Client
from rproxy.simulation import plot, report
from rproxy.simulation.plan import Plan, make_plan
from rproxy.simulation.processes import HOST, ChildDied, Cluster
from rproxy.simulation.traffic import Heard, Traffic
from rproxy.simulation.verdict import Outcome, Result

WRONG = 1
NOT_STARTED = 2
#: What a shell adds to a signal's number for the exit code of what the signal ended.
_BY_SIGNAL = 128

#: What would end the process without cleaning up.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class OutOfTime(Exception):
    """The simulation took too long."""


class Interrupted(Exception):
    """A signal came.

    :ivar number: which.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.number = number


@define(eq=False)
class Stopper:
    """Ends some work before its time, and remembers why; the first reason counts."""

    why: Exception | None = field(default=None, init=False)
    _work: Deferred[None] | None = field(default=None, init=False)

    async def wait_for(self, work: Deferred[None]) -> None:
        """Return when the work is done or stopped; what else it fails with is raised."""
        self._work = work
        if self.why is not None:
            work.cancel()
        try:
            await work
        except (CancelledError, FirstError):
            if self.why is None:
                raise

    def stop(self, why: Exception) -> None:
        """Stop the work, for this reason."""
        if self.why is None:
            self.why = why
            if self._work is not None:
                self._work.cancel()


async def simulate(plan: Plan, reactor: Any, stopper: Stopper, told: report.Told) -> Result:
    """Run a simulation to its end, which is when nothing of it is left.

    :param reactor: provides ``IReactorProcess``, ``IReactorTCP`` and ``IReactorTime``.
    :param stopper: stops it: also called by what it starts, and by its deadline.
    :param told: see :func:`rproxy.simulation.report.progress`.
    """
    outcomes: dict[int, Outcome] = {}

    def heard(number: int, outcome: Outcome) -> None:
        outcomes[number] = outcome
        told(len(outcomes))

    with TemporaryDirectory(prefix="rproxy-simulation-") as folder:
        cluster = Cluster(reactor, folder, stopper.stop)
        deadline = reactor.callLater(
            plan.timeout, lambda: stopper.stop(OutOfTime(f"it took longer than {plan.timeout:g} s"))
        )
        try:
            await stopper.wait_for(Deferred.fromCoroutine(_send_through(plan, reactor, cluster, heard, told)))
        except ChildDied as error:
            stopper.stop(error)
        finally:
            why = stopper.why
            if deadline.active():
                deadline.cancel()
            await cluster.stop()
    return Result(
        servers=plan.servers,
        planned=len(plan.packets),
        outcomes=tuple(outcome for _, outcome in sorted(outcomes.items())),
        source=plan.source,
        judge_turns=plan.concurrency == 1,
        aborted="" if why is None else str(why),
    )


async def _send_through(plan: Plan, reactor: Any, cluster: Cluster, heard: Heard, told: report.Told) -> None:
    """Start the processes and send the packets."""
    endpoint = TCP4ClientEndpoint(reactor, HOST, await cluster.start(plan.servers))
    told(0)

    def connect() -> Client:
        return Client(endpoint, "rproxy-simulate", reactor, timeout=plan.timeout, max_in_flight=plan.concurrency)

    traffic = Traffic(plan.packets, plan.clients, connect, time.perf_counter, heard)
    try:
        await traffic.send(plan.concurrency)
    finally:
        await traffic.close()


def run(args: argparse.Namespace) -> int:
    """Simulate, report, and return the exit code."""
    stopper = Stopper()
    try:
        plan = _plan(args)
        result = _run_reactor(plan, stopper)
    except ValueError as error:
        _complain(str(error))
        return NOT_STARTED
    except KeyboardInterrupt:
        # From the reactor's start on, signals are handled there.
        _complain("interrupted before anything was started")
        return _BY_SIGNAL + signal.SIGINT
    if result is None:
        return WRONG
    return _report(result, stopper.why, args)


def _plan(args: argparse.Namespace) -> Plan:
    """Return what the options ask for.

    :raises ValueError: it can't be done; the text says why.
    """
    if args.plot is not None:
        plot.check(args.plot)
    return make_plan(
        servers=args.servers,
        policies=args.policies,
        folder=args.packets,
        count=args.count,
        seed=args.seed,
        clients=args.clients,
        concurrency=args.concurrency,
        timeout=args.timeout,
    )


def _run_reactor(plan: Plan, stopper: Stopper) -> Result | None:
    """Simulate in a reactor of its own; None if that failed in a way that was logged."""
    results: list[Result] = []

    async def main(reactor: Any) -> None:
        running: Deferred[None] = Deferred()
        reactor.callWhenRunning(running.callback, None)
        # From then on the reactor has installed its signal handlers, and they can be replaced.
        await running
        _stop_on_signals(reactor, stopper)
        with report.progress(Console(stderr=True), len(plan.packets)) as told:
            results.append(await simulate(plan, reactor, stopper, told))

    with suppress(SystemExit):
        react(main)
    return results[0] if results else None


def _stop_on_signals(reactor: Any, stopper: Stopper) -> None:
    """Stop in an orderly way where a signal would leave something behind."""

    def stop(number: int, frame: FrameType | None) -> None:
        reactor.callFromThread(stopper.stop, Interrupted(number))

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _report(result: Result, why: Exception | None, args: argparse.Namespace) -> int:
    """Show the result, and return the exit code."""
    if isinstance(why, Interrupted):
        _complain(f"{why}; everything that it had started is stopped")
        return _BY_SIGNAL + why.number
    if args.json:
        print(json.dumps(report.as_json(result), indent=2))
    else:
        report.show(result, Console())
    if isinstance(why, ChildDied):
        _complain(f"{why}; {'the last lines of its log:' if why.lines else 'its log is empty'}")
        for line in why.lines:
            print("   ", report.plain(line), file=sys.stderr)
    if args.plot is not None:
        try:
            plot.draw(result, args.plot)
        except OSError as error:
            _complain(f"--plot {args.plot} can't be written: {error.strerror or error}")
            return WRONG
    return 0 if result.ok else WRONG


def _complain(text: str) -> None:
    print(f"rproxy simulate: {report.plain(text)}", file=sys.stderr)
