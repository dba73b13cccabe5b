"""SIGHUP. How a process ends by the other signals is tested from end to end."""

from __future__ import annotations

import os
import signal

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from rproxy.signals import ReloadService


class ReloadServiceTests(TestCase):
    """Files are read again."""

    timeout = 10

    def setUp(self) -> None:
        self.addCleanup(signal.signal, signal.SIGHUP, signal.getsignal(signal.SIGHUP))

    async def test_all_are_called(self) -> None:
        """Also those after one that fails, and by the reactor, not in the middle of something."""
        from twisted.internet import reactor

        calls = []
        over: Deferred[None] = Deferred()

        def fail() -> None:
            calls.append("fail")
            raise ValueError("a fault")

        def end() -> None:
            calls.append("end")
            over.callback(None)

        service = ReloadService(reactor, [fail, end])
        service.startService()
        with capturedLogs() as events:
            os.kill(os.getpid(), signal.SIGHUP)
            self.assertEqual(calls, [])
            await over
        self.assertEqual(calls, ["fail", "end"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)
        self.assertEqual(events[0]["log_format"], "Received SIGHUP: reading files again")

    def test_until_the_end(self) -> None:
        """It doesn't end a process that is stopping."""
        from twisted.internet import reactor

        service = ReloadService(reactor, [list])
        service.startService()
        handler = signal.getsignal(signal.SIGHUP)
        service.stopService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), handler)

    def test_nothing_to_read(self) -> None:
        """Then it is nobody's."""
        from twisted.internet import reactor

        before = signal.getsignal(signal.SIGHUP)
        ReloadService(reactor, []).startService()
        self.assertEqual(signal.getsignal(signal.SIGHUP), before)
