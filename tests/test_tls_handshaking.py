"""TLS between real sockets of this machine, and handshakes and closings that have to end, in memory."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError, NoProtocol
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from rproxy.sockets import SocketGroup
from rproxy.tls.certificates import Certificates
from rproxy.tls.files import Files, TLSError
from rproxy.tls.handshaking import CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT, TLSFactory
from rproxy.tls.peers import peer_names
from rproxy.tls.verifying import TLSClientEndpoint
from tests.authority import Authority

LOOPBACK = "127.0.0.1"
#: More than the kernels of both ends hold together.
MUCH = random.Random(1).randbytes(10 << 20)


@implementer(IPushProducer)
class Recorder(Protocol):
    """Remembers what it is told."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        #: Why its connection was lost, once it was.
        self.lost: list[BaseException] = []
        self.pauses = 0
        self.paused = False
        self.on_data: Callable[[bytes], object] = self.received.extend

    def dataReceived(self, data: bytes) -> None:
        self.on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.value is not None
        self.lost.append(reason.value)

    def pauseProducing(self) -> None:
        self.pauses += 1
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        """See connectionLost."""


class Recorders(Factory):
    """Makes them, and keeps them."""

    noisy = False

    def __init__(self) -> None:
        self.made: list[Recorder] = []

    def buildProtocol(self, addr: object) -> Recorder:
        self.made.append(Recorder())
        return self.made[-1]


class _Closing(Protocol):
    """Ends its connection as soon as it has it.

    :param way: how: a method of its transport.
    :param last: what it writes before.
    """

    transport: Any

    def __init__(self, way: str, last: bytes = b"") -> None:
        self._way = way
        self._last = last

    def connectionMade(self) -> None:
        self.transport.write(self._last)
        getattr(self.transport, self._way)()


class LoopbackCase(TestCase):
    """With a server whose certificate is for 127.0.0.1, and clients that it takes."""

    timeout = 60

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.group: Any = SocketGroup(reactor)
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.authority = Authority(self.folder)
        self.files = self.authority.issue(LOOPBACK, "localhost")
        self.servers = Recorders()
        self.clients = Recorders()
        self.events = self.enterContext(capturedLogs())
        self.addCleanup(self.servers_end)

    def tearDown(self) -> None:
        # Twisted gives pyOpenSSL objects of a kind that newer versions would rather not have.
        self.flushWarnings()

    async def listen(self, factory: Any) -> int:
        port: Any = await TCP4ServerEndpoint(self.group, 0, interface=LOOPBACK).listen(factory)
        self.addCleanup(port.stopListening)
        return int(port.getHost().port)

    async def serve(self, files: Files | None = None) -> int:
        """Listen by TLS; the server's own files unless others are given."""
        return await self.listen(TLSFactory(Certificates(files or self.files), self.servers, self.reactor))

    async def connect(self, port: int, files: Files | None = None, name: str = LOOPBACK) -> Recorder:
        """Connect as a client; one that shows the server's own certificate unless others are given."""
        tcp = TCP4ClientEndpoint(self.group, LOOPBACK, port)
        endpoint = TLSClientEndpoint(tcp, Certificates(files or self.files), name, self.reactor, 10.0)
        client = cast(Recorder, await endpoint.connect(self.clients))
        self.addCleanup(self.leave, client)
        return client

    async def leave(self, client: Recorder) -> None:
        client.transport.abortConnection()
        await self.end(client)

    async def servers_end(self) -> None:
        await self.until(lambda: all(server.lost for server in self.servers.made))

    async def refused(self, port: int, files: Files | None = None, name: str = LOOPBACK) -> str:
        """Connect in vain, and return why."""
        with self.assertRaises(TLSError) as raised:
            await self.connect(port, files, name)
        self.assertEqual(self.clients.made, [], "it was never connected")
        await self.servers_end()
        return str(raised.exception)

    async def end(self, recorder: Recorder) -> BaseException:
        """Wait for a connection's end, and return why."""
        await self.until(lambda: recorder.lost)
        return recorder.lost[0]

    async def until(self, predicate: Callable[[], object]) -> None:
        while not predicate():
            await deferLater(self.reactor, 0)

    def logged(self) -> list[str]:
        return [formatEvent(event) for event in self.events if event["log_namespace"].startswith("rproxy.")]


class TrafficTests(LoopbackCase):
    """What travels."""

    async def test_much_both_ways(self) -> None:
        """However much, however it is cut."""
        client = await self.connect(await self.serve())
        await self.until(lambda: self.servers.made)
        (server,) = self.servers.made
        server.on_data = server.transport.write
        client.transport.write(MUCH)
        await self.until(lambda: len(client.received) == len(MUCH))
        self.assertEqual(client.received, MUCH)

    async def test_slow_reader(self) -> None:
        """Who doesn't read pauses who writes."""
        client = await self.connect(await self.serve())
        (server,) = self.servers.made
        server.transport.registerProducer(server, True)
        client.transport.pauseProducing()
        server.transport.write(MUCH)
        await self.until(lambda: server.paused)
        client.transport.resumeProducing()
        await self.until(lambda: len(client.received) == len(MUCH) and not server.paused)
        self.assertEqual(client.received, MUCH)

    async def test_close(self) -> None:
        """Everything that was written before arrives, and both sides part in order."""
        client = await self.connect(await self.serve())
        (server,) = self.servers.made
        server.transport.write(MUCH)
        server.transport.loseConnection()
        self.assertIsInstance(await self.end(client), ConnectionDone)
        self.assertIsInstance(await self.end(server), ConnectionDone)
        self.assertEqual(client.received, MUCH)

    async def test_cut_off(self) -> None:
        """An end without TLS's own isn't one in order."""
        client = await self.connect(await self.serve())
        (server,) = self.servers.made
        server.transport.abortConnection()
        self.assertIsInstance(await self.end(client), ConnectionLost)
        server.transport.abortConnection()

    async def test_tcp_below(self) -> None:
        """What is set on a socket goes to the socket."""
        client = await self.connect(await self.serve())
        client.transport.setTcpKeepAlive(True)
        client.transport.setTcpNoDelay(True)
        self.assertTrue(client.transport.getTcpKeepAlive() and client.transport.getTcpNoDelay())
        self.assertEqual(client.transport.getPeer().host, LOOPBACK)

    async def test_names(self) -> None:
        """Both sides know who the other one is."""
        mine = self.authority.issue("client.example", "*.example", "10.0.0.1", "::1", "spiffe://example/client")
        client = await self.connect(await self.serve(), mine)
        client.transport.write(b"something, so that the handshake is over for the server too")
        (server,) = self.servers.made
        await self.until(lambda: server.received)
        names = ("client.example", "*.example", "10.0.0.1", "::1", "spiffe://example/client")
        self.assertEqual(peer_names(server.transport), names)
        self.assertEqual(peer_names(client.transport), ("localhost", LOOPBACK))

    async def test_name_asked_for(self) -> None:
        """A server that has several certificates is told which one is meant, but of no address (RFC 6066)."""
        port = await self.serve()
        for name, told in ("localhost", b"localhost"), (LOOPBACK, None):
            client = await self.connect(port, name=name)
            client.transport.write(b"x")
            server = self.servers.made[-1]
            while not server.received:
                await deferLater(self.reactor, 0)
            self.assertEqual(server.transport.getHandle().get_servername(), told)

    async def test_no_names(self) -> None:
        """Of who shows none, and of who has none."""
        for files in Files(self.files.ca), self.authority.issue():
            server_files = self.files if files.cert else evolve(self.files, ca=None)
            client = await self.connect(await self.serve(server_files), files)
            client.transport.write(b"x")
            server = self.servers.made[-1]
            while not server.received:
                await deferLater(self.reactor, 0)
            self.assertEqual(peer_names(server.transport), ())

    async def test_reload(self) -> None:
        """What is read again holds for new connections; those that are open go on."""
        certificates = Certificates(self.files)
        port = await self.listen(TLSFactory(certificates, self.servers, self.reactor))
        old = await self.connect(port)
        another = Authority(self.folder)
        for name, content in (
            (self.files.ca, another.file),
            (self.files.cert, (fresh := another.issue(LOOPBACK)).cert),
            (self.files.key, fresh.key),
        ):
            # In the place of the file, which is not written to while it is read: as who renews certificates does.
            Path(str(content)).rename(str(name))
        stale = Files(self.authority.issue().ca)
        certificates.reload()
        (server,) = self.servers.made
        server.on_data = server.transport.write
        old.transport.write(b"still here")
        await self.until(lambda: old.received == b"still here")
        new = await self.connect(port, self.files)
        self.servers.made[1].transport.write(b"hello")
        await self.until(lambda: new.received == b"hello")
        self.assertEqual(stale.ca, self.files.ca)


class RefusalTests(LoopbackCase):
    """Who isn't let in, and what is said to whom."""

    async def test_server_expired(self) -> None:
        """A server with an expired certificate."""
        port = await self.serve(self.authority.issue(LOOPBACK, age_days=5))
        self.assertEqual(await self.refused(port), "its certificate has expired")
        self.assertIn("TLS with 127.0.0.1 failed: the other side refuses: certificate expired", self.logged())

    async def test_server_of_the_future(self) -> None:
        """A server whose certificate isn't valid yet."""
        port = await self.serve(self.authority.issue(LOOPBACK, age_days=-5))
        self.assertEqual(await self.refused(port), "its certificate isn't valid yet")

    async def test_server_with_another_name(self) -> None:
        """A server with a certificate for somebody else, by address and by name."""
        port = await self.serve(self.authority.issue("localhost", "10.0.0.1"))
        said = "its certificate is for localhost, 10.0.0.1, not for "
        self.assertEqual(await self.refused(port), f"{said}127.0.0.1")
        self.assertEqual(await self.refused(port, name="example.org"), f"{said}example.org")
        await self.connect(port, name="localhost")

    async def test_server_without_names(self) -> None:
        """A server whose certificate is for nobody at all, which some take for everybody."""
        port = await self.serve(self.authority.issue())
        self.assertEqual(await self.refused(port), "its certificate is for no name at all, not for 127.0.0.1")
        self.assertEqual(
            await self.refused(port, name="localhost"), "its certificate is for no name at all, not for localhost"
        )

    async def test_server_self_signed(self) -> None:
        """A server that signed its certificate by itself."""
        port = await self.serve(self.authority.issue(LOOPBACK, self_signed=True))
        self.assertRegex(await self.refused(port), "^its certificate (is signed by itself|comes from an authority)")

    async def test_server_of_another_authority(self) -> None:
        """A server with a certificate of an authority that isn't trusted."""
        port = await self.serve(Authority(self.folder).issue(LOOPBACK))
        self.assertEqual(await self.refused(port), "its certificate comes from an authority that isn't trusted")

    async def test_server_without_tls(self) -> None:
        """A server that speaks something else, or leaves."""
        port = await self.listen(self.servers)
        connecting = Deferred.fromCoroutine(self.refused(port))
        await self.until(lambda: self.servers.made and self.servers.made[-1].received)
        self.servers.made[-1].transport.write(b"{}" * 20)
        self.assertRegex(await connecting, "speaks no TLS")
        connecting = Deferred.fromCoroutine(self.refused(port))
        await self.until(lambda: len(self.servers.made) == 2 and self.servers.made[-1].received)
        self.servers.made[-1].transport.loseConnection()
        self.assertEqual(await connecting, "the other side closed the connection instead of a handshake")

    async def test_nobody_there(self) -> None:
        """That is what the endpoint below says."""
        with socket.socket() as taken:
            taken.bind((LOOPBACK, 0))
            with self.assertRaises(ConnectionRefusedError):
                await self.connect(taken.getsockname()[1])

    async def test_not_wanted(self) -> None:
        """Who connects changes its mind during the handshake."""
        unwanted: Any = Factory()
        unwanted.noisy, unwanted.buildProtocol = False, lambda addr: None
        tcp = TCP4ClientEndpoint(self.group, LOOPBACK, await self.serve())
        with self.assertRaises(NoProtocol):
            await TLSClientEndpoint(tcp, Certificates(self.files), LOOPBACK, self.reactor, 10.0).connect(unwanted)

    async def test_strange_name(self) -> None:
        """A name that can't be one fails like anything else."""
        with self.assertRaises(UnicodeError):
            await self.connect(1, name="x" * 64)

    async def refused_client(self, files: Files) -> tuple[str, str]:
        """Connect as a client that isn't let in; return what it is told, and what the server's log has."""
        client = await self.connect(await self.serve(), files)
        error = await self.end(client)
        self.assertIsInstance(error, TLSError)
        (server,) = self.servers.made
        await self.end(server)
        self.assertEqual((server.received, peer_names(server.transport)), (b"", ()))
        (line,) = [line for line in self.logged() if line.startswith("TLS with ")]
        return str(error), line

    async def test_client_without_certificate(self) -> None:
        """A client that shows none."""
        said, line = await self.refused_client(Files(self.files.ca))
        self.assertEqual(said, "the other side refuses: certificate required")
        self.assertEqual(line, "TLS with 127.0.0.1 failed: peer did not return a certificate")

    async def test_client_expired(self) -> None:
        """A client with an expired certificate."""
        said, line = await self.refused_client(self.authority.issue("client", age_days=5))
        self.assertEqual(said, "the other side refuses: certificate expired")
        self.assertEqual(line, "TLS with 127.0.0.1 failed: its certificate has expired")

    async def test_client_self_signed(self) -> None:
        """A client that signed its certificate by itself."""
        said, line = await self.refused_client(self.authority.issue("client", self_signed=True))
        self.assertIn("the other side refuses: ", said)
        self.assertRegex(line, "its certificate (is signed by itself|comes from an authority that isn't trusted)")

    async def test_client_of_another_authority(self) -> None:
        """A client with a certificate of an authority that isn't trusted."""
        files = evolve(Authority(self.folder).issue("client"), ca=self.files.ca)
        said, line = await self.refused_client(files)
        self.assertEqual(said, "the other side refuses: unknown ca")
        self.assertEqual(line, "TLS with 127.0.0.1 failed: its certificate comes from an authority that isn't trusted")

    async def test_cancelled(self) -> None:
        """Who doesn't want to connect any more leaves the handshake."""
        port = await self.listen(self.servers)
        connecting = Deferred.fromCoroutine(self.connect(port))
        await self.until(lambda: self.servers.made and self.servers.made[0].received)
        connecting.cancel()
        with self.assertRaises(CancelledError):
            await connecting
        await self.end(self.servers.made[0])
        self.assertEqual(self.clients.made, [])


class TimeTests(SynchronousTestCase):
    """What has to end, on a clock."""

    def setUp(self) -> None:
        folder = Path(self.enterContext(TemporaryDirectory()))
        self.certificates = Certificates(Authority(folder).issue(LOOPBACK))
        self.clock = Clock()
        self.servers = Recorders()
        self.events = self.enterContext(capturedLogs())

    def tearDown(self) -> None:
        # Twisted gives pyOpenSSL objects of a kind that newer versions would rather not have.
        self.flushWarnings()

    def test_silent_client(self) -> None:
        """One that never begins the handshake counts as connected, and is dropped."""
        transport = StringTransport()
        tls: Any = TLSFactory(self.certificates, self.servers, self.clock).buildProtocol(None)
        tls.makeConnection(transport)
        self.assertTrue(self.servers.made[0].connected)
        self.clock.advance(HANDSHAKE_TIMEOUT - 1)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(transport.disconnecting)

    def test_early_end(self) -> None:
        """No timer outlives a connection."""
        tls: Any = TLSFactory(self.certificates, self.servers, self.clock).buildProtocol(None)
        tls.makeConnection(StringTransport())
        tls.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        tls.abortConnection()
        tls.loseConnection()
        # And if one did, there would be no handshake to end.
        tls._end_handshake()

    def test_closed_at_once(self) -> None:
        """A protocol that closes its connection as soon as it has it is waited for as long as any other that closes."""
        tls = self.build(_Closing("loseConnection", b"there are too many"))
        transport = StringTransport()
        tls.makeConnection(transport)
        self.clock.advance(CLOSE_TIMEOUT)
        self.assertTrue(transport.disconnecting)
        tls.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_last_word_at_once(self) -> None:
        """What it wrote before arrives, if the handshake is over by then."""
        server, client = self.build(_Closing("loseConnection", b"there are too many")), self.client()
        below = FakeTransport(server, True)
        connect(server, below, client, FakeTransport(client, False)).flush()
        self.assertEqual([recorder.received for recorder in self.servers.made], [b"there are too many"])
        self.assertTrue(below.disconnected)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_dropped_at_once(self) -> None:
        """A protocol may drop its connection as soon as it has it, be it that this is noticed at once."""
        tls = self.build(_Closing("abortConnection"))
        transport = StringTransport()
        self.patch(transport, "abortConnection", lambda: tls.connectionLost(Failure(ConnectionLost())))
        tls.makeConnection(transport)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_protocol(self) -> None:
        """Where a factory wants no connection, there is none."""
        self.assertIsNone(self.build(None))

    def test_many_failures(self) -> None:
        """Of handshakes that fail the log has a few, and then how many more there were."""
        factory = TLSFactory(self.certificates, self.servers, self.clock)
        for _ in range(12):
            tls = cast(Any, factory.buildProtocol(None))
            tls.makeConnection(StringTransport())
            tls.dataReceived(b"no handshake at all")
            tls.connectionLost(Failure(ConnectionDone()))
        self.clock.advance(60)
        factory.log_failure.sweep()
        lines = [formatEvent(event) for event in self.events if event["log_namespace"].startswith("rproxy.")]
        self.assertEqual(lines[:-1], ["TLS with 192.168.1.1 failed: the other side speaks no TLS"] * 10)
        self.assertEqual(lines[-1], "Left out 2 more lines about failed TLS handshakes within 60 seconds")

    def test_silent_server(self) -> None:
        """The time for connecting is for the handshake too."""
        connected: Deferred[Any] = Deferred()
        factories: list[Any] = []

        class Endpoint:
            def connect(self, factory: Any) -> Deferred[Any]:
                factories.append(factory)
                return connected

        endpoint = TLSClientEndpoint(cast(Any, Endpoint()), self.certificates, LOOPBACK, self.clock, 5.0)
        connecting = endpoint.connect(self.servers)
        self.clock.advance(4)
        tls = factories[0].buildProtocol(None)
        transport = StringTransport()
        tls.makeConnection(transport)
        connected.callback(tls)
        self.assertNoResult(connecting)
        self.clock.advance(1)
        self.assertTrue(transport.disconnecting)
        tls.connectionLost(Failure(ConnectionDone()))
        error = self.failureResultOf(connecting, TLSError)
        self.assertEqual(error.getErrorMessage(), "the handshake took too long")
        self.assertEqual(self.servers.made, [])

    def build(self, protocol: Protocol | None) -> Any:
        """Return a listening side's TLS for that protocol."""
        factory = Factory()
        self.patch(factory, "buildProtocol", lambda addr: protocol)
        return TLSFactory(self.certificates, factory, self.clock).buildProtocol(None)

    def client(self) -> Any:
        """Return a connecting side's TLS."""
        return TLSFactory(self.certificates, self.servers, self.clock, until=10.0).buildProtocol(None)

    def pair(self) -> tuple[Any, Any, IOPump, FakeTransport]:
        """Return both ends of a connection after its handshake, what moves bytes, and what is below the server's."""
        server: Any = TLSFactory(self.certificates, self.servers, self.clock).buildProtocol(None)
        client = self.client()
        below = FakeTransport(server, True)
        pump = connect(server, below, client, FakeTransport(client, False))
        pump.flush()
        return server, client, pump, below

    def test_after_the_handshake(self) -> None:
        """Its end is not the connection's."""
        _, _, pump, below = self.pair()
        self.clock.advance(HANDSHAKE_TIMEOUT)
        pump.flush()
        self.assertFalse(below.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_silent_goodbye(self) -> None:
        """One that doesn't say that it closes too is waited for, but not for long."""
        server, _, _, below = self.pair()
        server.loseConnection()
        self.clock.advance(CLOSE_TIMEOUT / 2)
        server.loseConnection()
        self.clock.advance(CLOSE_TIMEOUT / 2 - 0.1)
        self.assertFalse(below.disconnecting)
        self.clock.advance(0.1)
        self.assertTrue(below.disconnecting)

    def test_goodbye(self) -> None:
        """One that does is not waited for any longer, and what it had sent before was read."""
        server, client, pump, below = self.pair()
        client.write(b"a last word")
        client.loseConnection()
        server.loseConnection()
        pump.flush()
        self.assertTrue(below.disconnected)
        self.assertIn(b"a last word", [recorder.received for recorder in self.servers.made])
        self.assertEqual(self.clock.getDelayedCalls(), [])
