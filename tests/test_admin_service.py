"""The admin listener's options, and its life beside the proxy's."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from rproxy.admin.service import attend
from rproxy.options import Options
from rproxy.workers.parent import values_of
from tests.adminclient import TOKEN, control_of
from tests.memory import ProxyCase


def options_of(*arguments: str) -> Options:
    """The options that these arguments make."""
    options = Options()
    options.parseOptions(arguments)
    return options


class OptionTests(SynchronousTestCase):
    def token(self, text: str = TOKEN) -> str:
        """Return the name of a file with a token."""
        path = Path(self.enterContext(TemporaryDirectory())) / "token"
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def test_off(self) -> None:
        self.assertIsNone(options_of()["admin"])

    def test_port(self) -> None:
        """A bare one is of loopback; an endpoint is what it says."""
        self.assertTrue(options_of("--admin", "9000")["admin"].startswith("tcp:9000:"))
        self.assertTrue(options_of("--admin", "9000")["admin"].endswith(":interface=127.0.0.1"))
        self.assertEqual(options_of("--admin", "unix:/run/a.sock")["admin"], "unix:/run/a.sock")

    def test_token(self) -> None:
        """It is read at once, and no worker is told of it."""
        options = options_of("--admin", "9000", "--admin-token", self.token(), "--admin-host", "a.example")
        self.assertEqual((options["admin-token"], options["admin-host"]), (TOKEN, ["a.example"]))
        values = values_of(options, 1, None)
        self.assertEqual((values["admin"], values["admin-token"]), (None, None))

    def test_mistakes(self) -> None:
        for arguments, said in (
            (("--admin-host", "a.example"), "need --admin"),
            (("--admin-token", "x"), "need --admin"),
            (("--admin", "99999"), "is no port"),
            (("--admin", "nothing:1"), "is nothing to listen on"),
            (("--admin", "tls:9000:cert=a:key=b"), "without TLS"),
            (("--admin", "9000", "--admin-token", "/nowhere"), "can't be read"),
            (("--admin", "9000", "--admin-token", self.token("short")), "doesn't hold a token"),
            (("--admin", "9000", "--admin-host", "a b"), "give a name"),
            (("--admin", "9000", "--admin-host", "a:80"), "give a name"),
        ):
            with self.subTest(arguments), self.assertRaisesRegex(UsageError, said):
                options_of(*arguments)


class SlowService(MultiService):
    """A proxy that stops when the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped: Deferred[None] = Deferred()

    def stopService(self) -> Deferred[None]:
        return self.stopped


class LifeTests(ProxyCase):
    def setUp(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.slow = SlowService()
        self.control = control_of(self.proxy())

    def test_outlives_the_proxy(self) -> None:
        """It listens until the proxy has stopped; twice told, it stops once."""
        service: Any = attend(options_of("--admin", "9000"), self.slow, self.control, self.reactor)
        with capturedLogs() as events:
            service.privilegedStartService()
            service.startService()
        self.assertIn("Admin listener on 9000", [formatEvent(event) for event in events])
        ((port, _, _, interface),) = self.reactor.tcpServers
        self.assertEqual((port, interface, self.slow.running), (9000, "127.0.0.1", 1))
        stopped = service.stopService()
        self.successResultOf(service.stopService())
        self.assertNoResult(stopped)
        self.assertEqual(service._listener.port, 9000)
        self.slow.stopped.callback(None)
        self.successResultOf(stopped)
        self.assertRaises(ValueError, lambda: service._listener.port)

    def test_proxy_that_fails_to_stop(self) -> None:
        """The listener is closed all the same, and the failure is told."""
        service: Any = attend(options_of("--admin", "9000"), self.slow, self.control, self.reactor)
        service.privilegedStartService()
        service.startService()
        stopped = service.stopService()
        self.slow.stopped.errback(ValueError("a fault"))
        self.failureResultOf(stopped, ValueError)
        self.assertRaises(ValueError, lambda: service._listener.port)

    def test_stream_that_can_not_be_ended(self) -> None:
        """The listener is closed all the same."""
        service: Any = attend(options_of("--admin", "9000"), self.slow, self.control, self.reactor)
        service.privilegedStartService()
        service.startService()
        self.patch(service._streams, "close", lambda: 1 // 0)
        stopped = service.stopService()
        self.slow.stopped.callback(None)
        self.failureResultOf(stopped, ZeroDivisionError)
        self.assertRaises(ValueError, lambda: service._listener.port)

    def test_none(self) -> None:
        """Where none is asked for, the proxy is by itself."""
        self.assertIs(attend(options_of(), self.slow, self.control, self.reactor), self.slow)
