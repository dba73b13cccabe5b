"""SIGHUP: what comes from files is looked at again. The others are tested from end to end."""

from __future__ import annotations

import os
import signal

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rproxy.signals import HangupService


class Reactor(Clock):
    """One whose thread is this one."""

    def callFromThread(self, function: object, *args: object) -> None:
        self.callLater(0, function, *args)  # type: ignore[arg-type]


class HangupTests(SynchronousTestCase):
    def test_reloads(self) -> None:
        """Each is called in the reactor's thread, also behind one that fails; before and after, it isn't."""
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.addCleanup(signal.signal, signal.SIGHUP, before)
        reactor = Reactor()
        done: list[int] = []
        service = HangupService(reactor, [lambda: done.append(1), lambda: done.remove(7), lambda: done.append(2)])
        os.kill(os.getpid(), signal.SIGHUP)
        service.startService()
        with capturedLogs() as logs:
            os.kill(os.getpid(), signal.SIGHUP)
            self.assertEqual(done, [])
            reactor.advance(0)
        service.stopService()
        os.kill(os.getpid(), signal.SIGHUP)
        reactor.advance(0)
        self.assertEqual(done, [1, 2])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(formatEvent(logs[0]), "Received SIGHUP")
