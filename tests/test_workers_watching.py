"""A worker that hangs, as a process; what else is watched is in tests/test_workers.py, without one."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable

from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from rproxy.options import Options
from rproxy.process.children import environment
from rproxy.workers.balancing import make_board
from rproxy.workers.parent import values_of
from rproxy.workers.spawning import Orders, Told, WorkerProcess, variables
from rproxy.workers.supervising import BACKOFF, Supervisor
from rproxy.workers.watching import ANSWER, ROUND
from tests.workers import state_of


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that comes about; the test's timeout ends it if it doesn't."""
    while not true():
        await deferLater(reactor, 0.01)


class HangTests(TestCase):
    """One worker, whose supervisor has the time that the test tells it."""

    timeout = 60.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers: list[WorkerProcess] = []
        self.options = Options()
        self.options.parseOptions([])
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listener.close)
        self.board = make_board(1)
        self.addCleanup(os.close, self.board)
        self.said: list[str] = []
        self.supervisor = Supervisor(
            1,
            self.spawn,
            self.clock,
            lambda: 1.0,
            10.0,
            lambda: self.said.append("ready"),
            lambda: self.said.append("gave up"),
        )
        # Where the test fails; one that stands still wouldn't end by itself.
        self.addCleanup(self.supervisor.kill)
        self.events = self.enterContext(capturedLogs())

    def spawn(self, number: int, told: Told) -> WorkerProcess:
        worker = WorkerProcess(number, told)
        env = environment(variables(os.environ), sys.path)
        orders = Orders(number, values_of(self.options, number, None), [socket.AF_INET], [])
        worker.spawn(reactor, orders, self.board, [self.listener.fileno()], env)
        self.workers.append(worker)
        return worker

    def has_said(self, line: str) -> bool:
        return line in [formatEvent(event) for event in self.events]

    async def test_worker_that_stands_still(self) -> None:
        """It is killed and replaced; a worker that runs has answered."""
        self.supervisor.startService()
        await until(lambda: self.said == ["ready"])
        self.clock.advance(ROUND)
        # Answers keep the order of questions, so the worker has answered the first one too.
        await self.supervisor.workers.tell("reload", ANSWER)
        (hung,) = self.workers
        assert hung.pid is not None
        os.kill(hung.pid, signal.SIGSTOP)
        await until(lambda: state_of(hung.pid or 0) == "T")
        self.clock.pump([ROUND] * int(ANSWER / ROUND))
        self.assertFalse(self.has_said("Killing worker 1, which hasn't answered for 30 seconds"))
        self.clock.advance(ROUND)
        self.assertTrue(self.has_said("Killing worker 1, which hasn't answered for 30 seconds"))
        await until(lambda: hung.pid is None)
        self.clock.advance(BACKOFF.first)
        await until(lambda: self.has_said("Worker 1 is back"))
        await self.supervisor.stopService()
        await until(lambda: not any(worker.channel.connected for worker in self.workers))
        self.assertEqual(self.said, ["ready"])
