"""Where to listen, and what becomes of a process that can't."""

from __future__ import annotations

import os
import socket
from errno import EADDRINUSE
from typing import cast
from unittest.mock import patch

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorCore, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock, RaisingMemoryReactor
from twisted.python.systemd import ListenFDs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rproxy.listening import BACKLOG, ListenError, ListenerService, parse_listen


@implementer(IListeningPort)
class Port:
    """A port whose socket can be looked at."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.socket = socket.socket(family)
        self.closing: Deferred[None] = Deferred()

    def startListening(self) -> None:
        """It does already."""

    def stopListening(self) -> Deferred[None]:
        self.socket.close()
        return self.closing

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "0.0.0.0", 4711)


class PortReactor(MemoryReactorClock):
    """A reactor that listens at one port, whatever it is asked for."""

    def __init__(self, port: Port) -> None:
        super().__init__()
        self._port = port

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        return self._port


@implementer(IStreamServerEndpoint)
class SlowEndpoint:
    """An endpoint that takes its time."""

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        return Deferred()


class ListenerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.factory = Factory()
        self.bound: list[IListeningPort] = []

    def service(self, text: str = "5000", reactor: IReactorCore | None = None) -> ListenerService:
        return ListenerService(parse_listen(text), self.factory, reactor or self.reactor, self.bound.append)

    def service_on_port(self, port: Port) -> ListenerService:
        self.addCleanup(port.socket.close)
        return self.service(reactor=PortReactor(port))


class ListenerServiceTests(ListenerCase):
    """Binding, and closing."""

    def test_binds_while_privileged(self) -> None:
        """Before the uid is shed, and only once."""
        service = self.service()
        self.assertEqual(self.reactor.tcpServers, [])

        service.privilegedStartService()
        self.assertEqual(self.reactor.tcpServers, [(5000, self.factory, BACKLOG, "")])
        self.assertEqual(len(self.bound), 1)
        service.startService()

        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.assertTrue(service.running)

    def test_binds_when_started(self) -> None:
        """Where nobody had privileges to shed."""
        self.service().startService()

        self.assertEqual(len(self.bound), 1)

    def test_port(self) -> None:
        """Known once it is bound."""
        service = self.service_on_port(Port())
        self.assertRaises(ValueError, lambda: service.port)

        service.startService()

        self.assertEqual(service.port, 4711)

    def test_no_tcp_port(self) -> None:
        """A UNIX socket has none."""
        service = self.service("unix:/nowhere")
        service.startService()

        error = self.assertRaises(ValueError, lambda: service.port)
        self.assertEqual(str(error), "unix:/nowhere has no TCP port")

    def test_no_delay(self) -> None:
        """Set once, on the listening socket."""
        port = Port()
        self.service_on_port(port).startService()

        self.assertTrue(port.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    def test_no_delay_for_tcp_only(self) -> None:
        """A UNIX socket doesn't know it."""
        self.service_on_port(Port(socket.AF_UNIX)).startService()

        self.assertEqual(len(self.bound), 1)

    def test_stop(self) -> None:
        """Fires when the port is closed."""
        port = Port()
        service = self.service_on_port(port)
        service.startService()

        stopped = service.stopService()
        self.assertNoResult(stopped)
        self.assertEqual(port.socket.fileno(), -1)
        port.closing.callback(None)

        self.successResultOf(stopped)
        self.assertFalse(service.running)

    def test_stop_unbound(self) -> None:
        """Nothing to close."""
        self.successResultOf(self.service().stopService())


class FailureTests(ListenerCase):
    """It can't be bound."""

    def test_taken(self) -> None:
        """The process ends with one sentence and code 1; as an Exception too, so that twistd cleans up."""
        for why, said in (
            (OSError("no reason"), "Couldn't listen on any:5000: no reason."),
            (
                OSError(EADDRINUSE, os.strerror(EADDRINUSE)),
                "Address already in use: stop whoever listens there, or give another port",
            ),
        ):
            reason = CannotListenError("", 5000, why)
            service = self.service(reactor=cast(IReactorCore, RaisingMemoryReactor(listenException=reason)))

            error = self.assertRaises(ListenError, service.privilegedStartService)

            self.assertIsInstance(error, Exception)
            self.assertIsInstance(error, SystemExit)
            self.assertEqual(error.code, f"Can't listen on tcp:5000:backlog={BACKLOG}: {said}")
        self.assertEqual(self.bound, [])

    def test_not_at_once(self) -> None:
        """An endpoint that takes its time would come too late, and a failure would be nobody's."""
        service = self.service()
        # None of Twisted's own endpoints does.
        service._endpoint = SlowEndpoint()

        error = self.assertRaises(ListenError, service.privilegedStartService)

        self.assertIn("isn't bound at once", str(error))


class ParseListenTests(SynchronousTestCase):
    """What may be listened on."""

    def test_port(self) -> None:
        """On all interfaces, with a backlog that isn't full at once."""
        self.assertEqual(parse_listen("5000"), f"tcp:5000:backlog={BACKLOG}")
        self.assertEqual(parse_listen("0"), f"tcp:0:backlog={BACKLOG}")
        self.assertEqual(parse_listen("65535"), f"tcp:65535:backlog={BACKLOG}")

    def test_ipv6(self) -> None:
        """Where it is asked for."""
        self.assertEqual(parse_listen("5000", ipv6=True), f"tcp6:5000:backlog={BACKLOG}")
        reactor = MemoryReactorClock()
        ListenerService(parse_listen("5000", ipv6=True), Factory(), reactor).startService()
        self.assertEqual(reactor.tcpServers[0][2:], (BACKLOG, "::"))

    def test_endpoint(self) -> None:
        """Comes back as it is."""
        for text in "tcp:5000", "tcp:5000:interface=127.0.0.1", r"tcp6:5000:interface=\:\:1", "unix:/run/rproxy":
            self.assertEqual(parse_listen(text), text)

    def test_a_socket_of_systemds(self) -> None:
        """It has a backlog already, and with TLS it is still one."""
        given = ListenFDs([5], ["rproxy"])
        with patch("twisted.internet.endpoints._SystemdParser._sddaemon", given):
            for text in "systemd:domain=INET:index=0", "tls:systemd:domain=INET:index=0:cert=a:key=b":
                self.assertEqual(parse_listen(text), text)

    def test_wrong(self) -> None:
        """The text says what to give instead."""
        for text in "65536", "99999999999999999999":
            self.assertIn("from 0 (any free one) to 65535", str(self.assertRaises(ValueError, parse_listen, text)))
        for text in "", "x", "-1", "tcp", "tcp:", "tcp:x", "tcp:1:x=y", "5000:tcp", "systemd:domain=INET:name=x", "٣":
            self.assertIn("such as 5000", str(self.assertRaises(ValueError, parse_listen, text)))
