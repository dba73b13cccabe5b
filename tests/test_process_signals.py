"""SIGHUP. How a process ends by the other signals is tested from end to end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rproxy.process.signals import ReloadService, SignalService


class StopOnce:
    """A reactor that somebody else has stopped."""

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        call()

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        call(*arguments)

    def stop(self) -> None:
        raise ReactorNotRunning("Can't stop reactor that isn't running.")


class SignalServiceTests(SynchronousTestCase):
    """What a process does that others end as well."""

    def test_stopped_already(self) -> None:
        """The first signal is no fault then, and doesn't count as the second."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        calls: list[str] = []
        service = SignalService(StopOnce(), lambda: calls.append("at once"))
        service.privilegedStartService()
        service.startService()
        os.kill(os.getpid(), signal.SIGTERM)
        self.assertEqual(calls, [])
        service.stopService()


class ReloadServiceTests(TestCase):
    """Files are read again."""

    timeout = 60

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
