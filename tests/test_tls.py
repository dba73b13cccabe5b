"""TLS from the names of files, with TLS installed and without."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from attrs import evolve
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rproxy import pooltap, tap
from rproxy.client import Client, ProxyError
from rproxy.downstream import ServerProtocol
from rproxy.limits import Limits
from rproxy.process.sweeping import SweepService
from rproxy.proxy import Entrance, ProxyFactory
from rproxy.registry.claims import Claims
from rproxy.tls.files import CertificatesError
from rproxy.tls.handshaking import CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT
from rproxy.tls.keyring import Files, Keyring, tls_endpoint
from tests.authority import Authority
from tests.support import run

LOOPBACK = "127.0.0.1"


class KeyringTests(SynchronousTestCase):
    """All certificates of a process."""

    def setUp(self) -> None:
        folder = Path(self.enterContext(TemporaryDirectory()))
        self.files = Authority(folder).issue(LOOPBACK)

    def tearDown(self) -> None:
        # Twisted gives pyOpenSSL objects of a kind that newer versions would rather not have.
        self.flushWarnings()

    def test_no_tls(self) -> None:
        """Then everything stays as it is."""
        keyring = Keyring()
        something: Any = object()
        self.assertIs(keyring.server(None, something, Clock()), something)
        self.assertIs(keyring.client(None, something, LOOPBACK, Clock(), 1.0), something)
        self.assertFalse(keyring)

    def test_once(self) -> None:
        """The same files are read once, and read again together."""
        keyring = Keyring()
        one = keyring.load(self.files)
        self.assertIs(keyring.load(self.files), one)
        self.assertIsNot(keyring.load(evolve(self.files, ca=None)), one)
        self.assertTrue(keyring)
        with capturedLogs() as events:
            keyring.reload()
        self.assertEqual([event["log_format"][:15] for event in events], ["New connections"] * 2)

    def test_failures(self) -> None:
        """Those that the log had no line for are told of in the end."""
        keyring, clock = Keyring(), Clock()
        listening: Any = keyring.server(self.files, Factory.forProtocol(Protocol), clock)
        with capturedLogs() as events:
            for _ in range(11):
                tls = listening.buildProtocol(None)
                tls.makeConnection(StringTransport())
                tls.dataReceived(b"no handshake at all")
                tls.connectionLost(Failure(ConnectionDone()))
            keyring.sweep()
            clock.advance(60)
            keyring.sweep()
        self.assertEqual(
            [formatEvent(event).partition(" ")[0] for event in events if event["log_namespace"].startswith("rproxy.")],
            ["TLS"] * 10 + ["Left"],
        )

    def test_who_sweeps(self) -> None:
        """A proxy and a pool server do."""
        proxy, server = tap.Options(), pooltap.Options()
        proxy.parseOptions(["--port", "0"])
        server.parseOptions(["--id", "100", "--pp", "111"])
        for module, options in (tap, proxy), (pooltap, server):
            swept: list[Any] = []

            def sweeps(clock: Any, interval: float, sweep: Any, swept: list[Any] = swept) -> SweepService:
                swept.append(sweep)
                return SweepService(clock, interval, sweep)

            self.patch(module, "SweepService", sweeps)
            cast(Any, module).makeService(options)
            self.assertIn(Keyring.sweep, [getattr(sweep, "__func__", None) for sweep in swept])

    def test_bad(self) -> None:
        """Is no certificate of the process."""
        keyring = Keyring()
        self.assertRaises(CertificatesError, keyring.load, Files("/nowhere"))
        self.assertFalse(keyring)


class NotInstalledTests(SynchronousTestCase):
    """Without what TLS needs everything else is there."""

    def test_sentence(self) -> None:
        """It says what to install."""
        for missing in "OpenSSL", "cryptography":
            done = run([sys.executable, "-c", f"import sys; sys.modules[{missing!r}] = None\n{_LISTEN}"])
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, rf"\ATLS isn't installed \(.*{missing}.*\): pip install 'twisted\[tls\]'\n\Z")


_LISTEN = """
from rproxy import cli, client, pooltap, tap
options = tap.Options()
options.parseOptions(["--listen", "tls:0:cert=a:key=b"])
tap.makeService(options)
"""


class ClientTests(TestCase):
    """The client library over TLS."""

    timeout = 60

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.files = Authority(self.folder).issue("localhost")

    def tearDown(self) -> None:
        # Twisted gives pyOpenSSL objects of a kind that newer versions would rather not have.
        self.flushWarnings()

    async def test_endpoint(self) -> None:
        """A proxy answers."""
        factory = _proxy(self.reactor)
        listening: Deferred[IListeningPort] = TCP4ServerEndpoint(self.reactor, 0, interface=LOOPBACK).listen(
            Keyring().server(self.files, factory, self.reactor)
        )
        port: Any = await listening
        self.addCleanup(port.stopListening)
        endpoint = tls_endpoint(
            self.reactor, "localhost", port.getHost().port, str(self.files.ca), self.files.cert, self.files.key
        )
        client = Client(endpoint, "1", self.reactor)
        with self.assertRaises(ProxyError) as raised:
            await client.send("111", "xyz1")
        self.assertEqual(raised.exception.code, "no-server")
        await client.close()
        await factory.close()


def _proxy(clock: Any, limits: Limits | None = None) -> ProxyFactory:
    def connect(address: object, by_tls: bool) -> Any:
        raise AssertionError("there is no server to connect to")

    return ProxyFactory(limits or Limits(), clock, connect, lambda: 0.5, Claims("here", clock.seconds))


class Port:
    """What a proxy listens at, as far as it is told to accept."""

    connected, disconnecting = True, False

    def __init__(self) -> None:
        self.accepting = True

    def stopReading(self) -> None:
        self.accepting = False

    def startReading(self) -> None:
        self.accepting = True

    def getHost(self) -> Any:
        return None


class ClientsTests(SynchronousTestCase):
    """How many clients there may be."""

    def tearDown(self) -> None:
        # Twisted gives pyOpenSSL objects of a kind that newer versions would rather not have.
        self.flushWarnings()

    def listen(self, factory: Any, clock: Clock) -> Any:
        """Return what to listen with, so that clients speak TLS to the factory's protocols."""
        folder = Path(self.enterContext(TemporaryDirectory()))
        return Keyring().server(Authority(folder).issue(LOOPBACK), factory, clock)

    def test_handshake(self) -> None:
        """Who doesn't end its handshake counts, but not for ever."""
        clock = Clock()
        factory = _proxy(clock, Limits(max_clients=1))
        port: Any = Port()
        factory.doors.listening(port)
        tls: Any = self.listen(factory, clock)
        protocol = tls.buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        self.assertFalse(port.accepting)
        clock.advance(HANDSHAKE_TIMEOUT)
        self.assertTrue(transport.disconnecting)
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assertTrue(port.accepting)
        self.assertEqual(factory.clients, set())

    def test_too_many_of_an_address(self) -> None:
        """One that is turned away before its handshake is gone soon, and nothing is left of it."""
        clock = Clock()
        factory = _proxy(clock, Limits(max_clients_per_address=1))
        tls: Any = self.listen(factory, clock)
        address = IPv4Address("TCP", LOOPBACK, 1)
        first, second = tls.buildProtocol(address), tls.buildProtocol(address)
        transport = StringTransport()
        first.makeConnection(StringTransport())
        second.makeConnection(transport)
        clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(transport.disconnecting)
        second.connectionLost(Failure(ConnectionDone()))
        first.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_too_many_where_servers_register(self) -> None:
        """Those that are one too many aren't connected."""
        clock = Clock()
        tls: Any = self.listen(Entrance(_proxy(clock, Limits(registrations=1)), ServerProtocol), clock)
        tls.buildProtocol(None).makeConnection(StringTransport())
        self.assertIsNone(tls.buildProtocol(None))
