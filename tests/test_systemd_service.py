"""Tests of :mod:`rproxy.systemd.service`."""

import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rproxy.control import Control, ControlError
from rproxy.figures import Figures
from rproxy.systemd.messages import Manager
from rproxy.systemd.service import NOBODY, READY, STATUS, Notifier, ProxyStatus, SystemdService


class Listener:
    """What systemd has: a datagram socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def told(self) -> list[dict[str, str]]:
        """What came since the last time, each datagram's fields."""
        found: list[dict[str, str]] = []
        while True:
            try:
                text = self.socket.recv(1 << 16).decode()
            except BlockingIOError:
                return found
            found.append(dict(line.split("=", 1) for line in text.splitlines()))


class ToldTestCase(SynchronousTestCase):
    """With somebody to tell."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.listener = Listener(str(self.folder / "notify"))
        self.addCleanup(self.listener.socket.close)
        self.told = self.listener.told


class NotifierTests(ToldTestCase):
    """One who tells."""

    def test_it_tells(self) -> None:
        """All fields in one datagram."""
        notifier = Notifier(Manager(self.listener.address))

        self.assertTrue(notifier.tell(READY=1, STATUS="good"))
        self.assertEqual(self.told(), [{"READY": "1", "STATUS": "good"}])

    def test_abstract_address(self) -> None:
        """A name that is no file."""
        listener = Listener(f"\0rproxy-test-{os.getpid()}")
        self.addCleanup(listener.socket.close)

        self.assertTrue(Notifier(Manager(listener.address)).tell(READY=1))
        self.assertEqual(listener.told(), [{"READY": "1"}])

    def test_nobody(self) -> None:
        """Then it is as if nothing had been said."""
        self.assertFalse(NOBODY.tell(READY=1))

    def test_nobody_listens(self) -> None:
        """It is said once, in the log, until it works again."""
        notifier = Notifier(Manager(str(self.folder / "other")))
        with capturedLogs() as logged:
            self.assertFalse(notifier.tell(READY=1))
            self.assertFalse(notifier.tell(READY=1))
            listener = Listener(str(self.folder / "other"))
            self.addCleanup(listener.socket.close)
            self.assertTrue(notifier.tell(READY=1))
            (self.folder / "other").unlink()
            self.assertFalse(notifier.tell(READY=1))
        self.assertEqual(events(logged), ["notify-failed", "notify-failed"])

    def test_full_socket(self) -> None:
        """A manager that doesn't read is told nothing more, and nobody waits for it."""
        notifier = Notifier(Manager(self.listener.address))
        with capturedLogs() as logged:
            while notifier.tell(WATCHDOG=1):
                """Until it is full."""
        self.assertEqual(events(logged), ["notify-failed"])

    def test_reload(self) -> None:
        """What SIGHUP calls is enclosed in words about that, also where it is nothing."""
        notifier = Notifier(Manager(self.listener.address))
        notifier.tell_ready()
        self.told()
        calls: list[str] = []
        for reload in notifier.around([lambda: calls.append("reload")]):
            reload()
        (begin, end) = self.told()
        self.assertEqual((begin.pop("RELOADING"), end), ("1", {"READY": "1"}))
        self.assertGreater(int(begin["MONOTONIC_USEC"]), 0)
        self.assertEqual(calls, ["reload"])
        self.assertEqual(len(notifier.around([])), 2)

    def test_reload_before_it_is_ready(self) -> None:
        """It isn't taken for ready by that."""
        notifier = Notifier(Manager(self.listener.address))
        calls: list[str] = []
        for reload in notifier.around([lambda: calls.append("reload")]):
            reload()
        self.assertEqual((self.told(), calls), ([], ["reload"]))

    def test_reload_without_a_manager(self) -> None:
        """SIGHUP is what it ever was."""
        self.assertEqual(list(NOBODY.around([])), [])


def events(logged: Sequence[LogEvent]) -> list[str]:
    """The names of what was logged, without what Twisted says of itself."""
    return [event["event"] for event in logged if "event" in event]


class ServiceTests(ToldTestCase):
    """The life of a service, as it is told."""

    def setUp(self) -> None:
        super().setUp()
        self.reactor = MemoryReactorClock()
        self.reactor.hasInstalled = True
        self.is_ready = True
        self.status: Callable[[], str | Deferred[str]] = lambda: "fine"

    def start(self, **manager: Any) -> SystemdService:
        """Start one, and run the reactor."""
        service = SystemdService(
            Notifier(Manager(self.listener.address, **manager)),
            self.reactor,
            lambda: self.is_ready,
            self.say,
            40.5,
        )
        service.startService()
        self.assertEqual(self.told(), [], "the reactor doesn't run yet")
        for function, arguments, keywords in self.reactor.whenRunningHooks:
            function(*arguments, **keywords)
        return service

    def say(self) -> str | Deferred[str]:
        """What the test says now."""
        return self.status()

    def test_ready(self) -> None:
        """When the reactor runs, and how it is."""
        self.start()
        self.assertEqual(self.told(), [{"READY": "1"}, {"STATUS": "fine"}])

    def test_not_ready_yet(self) -> None:
        """It is asked again until it is; nothing is told before."""
        self.is_ready = False
        self.start()
        self.reactor.pump([READY] * 100)
        self.assertEqual(self.told(), [])
        self.is_ready = True
        self.reactor.advance(READY)
        self.assertEqual(self.told()[0], {"READY": "1"})

    def test_ready_is_told_again_if_it_was_lost(self) -> None:
        """Else systemd would wait, and then kill what works."""
        with capturedLogs():
            (self.folder / "notify").rename(self.folder / "away")
            self.start()
            self.reactor.advance(READY)
            (self.folder / "away").rename(self.folder / "notify")
            self.reactor.advance(READY)
        self.assertEqual(self.told()[0], {"READY": "1"})

    def test_status(self) -> None:
        """It is told when it is another one."""
        self.start()
        self.told()
        self.reactor.advance(STATUS)
        self.assertEqual(self.told(), [])
        self.status = lambda: succeed("better")
        self.reactor.advance(STATUS)
        self.assertEqual(self.told(), [{"STATUS": "better"}])

    def test_status_that_fails(self) -> None:
        """It is logged, and asked for again."""
        self.status = lambda: fail(ZeroDivisionError())
        self.start()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.status = lambda: "fine"
        self.reactor.advance(STATUS)
        self.assertEqual(self.told()[-1], {"STATUS": "fine"})

    def test_watchdog(self) -> None:
        """Twice in the time that systemd gives."""
        self.start(watchdog=2.0)
        self.told()
        self.reactor.pump([1.0] * 3)
        self.assertEqual(self.told(), [{"WATCHDOG": "1"}] * 3)

    def test_another_processes_watchdog(self) -> None:
        """What was meant for another process is its own business."""
        self.start(watchdog=2.0, watchdog_pid=os.getpid() + 1)
        self.told()
        self.reactor.pump([1.0] * 3)
        self.assertEqual(self.told(), [])

    def test_stop(self) -> None:
        """It is told at once, with the time that it may take, and then nothing more."""
        service = self.start(watchdog=2.0)
        self.told()
        self.successResultOf(service.stopService())
        (told,) = self.told()
        self.assertEqual((told["STOPPING"], told["EXTEND_TIMEOUT_USEC"]), ("1", "40500000"))
        self.reactor.advance(60)
        self.assertEqual(self.told(), [])

    def test_stop_before_it_was_ready(self) -> None:
        """It never says that it is."""
        self.is_ready = False
        service = self.start()
        self.successResultOf(service.stopService())
        self.is_ready = True
        self.reactor.advance(60)
        self.assertNotIn({"READY": "1"}, self.told())

    def test_status_that_comes_too_late(self) -> None:
        """A stopping service isn't said to be fine."""
        late: Deferred[str] = Deferred()
        self.status = lambda: late
        service = self.start()
        self.successResultOf(service.stopService())
        self.told()
        late.callback("fine")
        self.assertEqual(self.told(), [])

    def test_nobody(self) -> None:
        """Without a manager nothing is done at all."""
        service = SystemdService(NOBODY, self.reactor, lambda: True, self.status, 1.0)
        service.startService()
        self.assertEqual((self.reactor.whenRunningHooks, self.reactor.getDelayedCalls()), ([], []))
        self.successResultOf(service.stopService())


class _Control:
    """A proxy that has received so many packets, or doesn't answer."""

    received = 0
    error: Exception | None = None

    def figures(self) -> Deferred[Figures]:
        if self.error is not None:
            return fail(self.error)
        counters: dict[str, int | dict[str, int]] = {"received": self.received}
        return succeed(Figures(version="1", state="ready", counters=counters, in_flight=0, policies=[], processes=[]))


class ProxyStatusTests(SynchronousTestCase):
    """A proxy's status, with the rate of its packets."""

    def setUp(self) -> None:
        self.control = _Control()
        self.now = 100.0
        self.status = ProxyStatus(cast(Control, self.control), lambda: self.now)

    def text(self, seconds: float, received: int) -> str:
        self.now += seconds
        self.control.received += received
        return self.successResultOf(self.status())

    def test_rate(self) -> None:
        """From the second time on, since the time before."""
        self.assertNotIn("packets/s", self.text(0, 5))
        self.assertIn(" 120 packets/s", self.text(5, 600))
        self.assertIn(" 0 packets/s", self.text(5, 0))

    def test_lost_count(self) -> None:
        """What a worker took along when it died makes no rate."""
        self.text(0, 500)
        self.assertNotIn("packets/s", self.text(5, -100))
        self.assertIn(" 20 packets/s", self.text(5, 100))

    def test_nobody_answers(self) -> None:
        """That is how it is, then."""
        self.control.error = ControlError("no process answers")
        self.assertEqual(self.text(0, 0), "no process answers")
