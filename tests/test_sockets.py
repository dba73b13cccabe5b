"""Grouped sockets behave as Twisted's do: what arrives, who is told of it, and that one's failure is nobody else's.

Each test has real sockets of this machine. One end is the group's, the other a plain socket that does nothing by itself
(:class:`Peer`), so that a test decides what is ready before the reactor takes its next turn.
"""

from __future__ import annotations

import os
import random
import resource
import select
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    connectProtocol,
    serverFromString,
)
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
    TimeoutError,
)
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase
from zope.interface import implementer

from rproxy.sockets import ACCEPTS, PAUSE, READ, SocketGroup
from tests.support import PATIENCE, Talk, Twistd, data_packet, run, wait_for

#: More than the kernels of both ends hold together.
MUCH = random.Random(1).randbytes(10 << 20)
LOOPBACK = "127.0.0.1"
#: Turns after which whatever would happen has happened.
SOME = 10

Make = Callable[[], Protocol | None]


def nothing(data: bytes) -> None:
    """What a protocol does with data unless told otherwise."""


class Recorder(Protocol):
    """Remembers what it is told, and does what the test says."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        #: Why its connection was lost: one reason, or something is wrong.
        self.lost: list[type[BaseException]] = []
        self.on_made: Callable[[], object] = lambda: None
        self.on_data: Callable[[bytes], object] = nothing
        self.on_lost: Callable[[], object] = lambda: None

    def connectionMade(self) -> None:
        self.on_made()

    def dataReceived(self, data: bytes) -> None:
        assert not self.lost, "nothing comes after the end"
        self.received += data
        self.on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.type is not None
        self.lost.append(reason.type)
        self.on_lost()


@implementer(IHalfCloseableProtocol)
class HalfRecorder(Recorder):
    """One that goes on when one direction has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.read_lost = 0
        self.write_lost = 0
        self.on_read_lost: Callable[[], object] = lambda: None
        self.on_write_lost: Callable[[], object] = lambda: None

    def readConnectionLost(self) -> None:
        self.read_lost += 1
        self.on_read_lost()

    def writeConnectionLost(self) -> None:
        self.write_lost += 1
        self.on_write_lost()


class Peer:
    """The far end: a plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.setblocking(False)
        self.received = bytearray()
        self.ended = False
        self.was_reset = False

    @classmethod
    def to(cls, address: Any, family: int = socket.AF_INET) -> Self:
        """Connect; the backlog takes it in."""
        sock = socket.socket(family)
        sock.connect(address)
        return cls(sock)

    def send(self, data: bytes) -> None:
        """Send what the kernel is sure to take."""
        assert self.socket.send(data) == len(data)

    def read(self) -> bytes:
        """Take what is there, and return all that came so far."""
        while not self.gone:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                self.was_reset = True
            else:
                self.received += data
                self.ended = not data
        return bytes(self.received)

    @property
    def gone(self) -> bool:
        """Whether the other side has ended the connection, as far as was read."""
        return self.ended or self.was_reset

    def at_end(self) -> bool:
        """Read, and answer whether that was all."""
        self.read()
        return self.gone

    def shut(self) -> None:
        """Send nothing more."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def close(self) -> None:
        """Go."""
        self.socket.close()


class SendCounter:
    """A transport's socket that remembers each send."""

    def __init__(self, transport: Any) -> None:
        self._socket = transport.socket
        self.sends: list[bytes] = []
        transport.socket = self

    def send(self, data: bytes) -> int:
        sent: int = self._socket.send(data)
        self.sends.append(bytes(data[:sent]))
        return sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class CountingGroup(SocketGroup):
    """Counts how often the reactor finds something to do for it."""

    turns = 0

    def doRead(self) -> None:
        self.turns += 1
        super().doRead()


class Delays:
    """The reactor, but what is to happen later only happens when the test says so."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.clock = Clock()

    def callLater(self, delay: float, function: Callable[..., object], *arguments: object, **named: object) -> Any:
        scheduler = self.clock if delay else self._reactor
        return scheduler.callLater(delay, function, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)


class SocketCase(TestCase):
    """A group with a port; at the end of each test nothing of it is left in the reactor."""

    timeout = 30

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.delays = Delays(reactor)
        self.group = CountingGroup(self.delays)
        self.factory = Factory()
        self.factory.noisy = False
        #: What the port makes of the next connections; those after are Recorders.
        self.next: list[Make] = []
        self.accepted: list[Any] = []
        self.peers: list[Peer] = []
        self.factory.buildProtocol = self.make  # type: ignore[method-assign]
        self.port: Any = self.group.listenTCP(0, self.factory, interface=LOOPBACK)
        self.ports: list[Any] = [self.port]

    def make(self, addr: Any) -> Any:
        protocol = self.next.pop(0)() if self.next else Recorder()
        if protocol is not None:
            self.accepted.append(protocol)
        return protocol

    async def tearDown(self) -> None:
        for peer in self.peers:
            peer.close()
        for port in self.ports:
            await port.stopListening()
        for protocol in self.accepted:
            if protocol.transport is not None and not protocol.transport.disconnected:
                protocol.transport.abortConnection()
        await self.turns()
        self.assertNotIn(self.group, self.reactor.getReaders() + self.reactor.getWriters())
        self.assertEqual(self.delays.clock.getDelayedCalls(), [])
        for protocol in self.accepted:
            self.assertLessEqual(len(protocol.lost), 1)

    async def until(self, predicate: Callable[[], object]) -> None:
        """Let the reactor work until something is so."""
        while not predicate():
            await deferLater(self.reactor, 0.001)

    async def turns(self, count: int = SOME) -> None:
        """Let the reactor take some turns."""
        for _ in range(count):
            await deferLater(self.reactor, 0)

    async def assert_rests(self) -> None:
        """The group has nothing to do: it would be at it in each of the reactor's turns."""
        await self.turns()
        before = self.group.turns
        await self.turns()
        self.assertEqual(self.group.turns, before)

    def ready(self, *waiting: Any, events: int = select.POLLIN) -> None:
        """Wait, without a turn of the reactor's, until something has come for each of these protocols or ports."""
        for each in waiting:
            transport = each if hasattr(each, "fileno") else each.transport
            poll = select.poll()
            poll.register(transport.fileno(), events)
            self.assertTrue(poll.poll(PATIENCE * 1000), f"nothing came for {each}")

    def peer(self, port: Any = None, family: int = socket.AF_INET) -> Peer:
        """A peer that nobody has accepted yet."""
        host = (port or self.port).getHost()
        peer = Peer.to((host.host, host.port), family)
        self.peers.append(peer)
        return peer

    async def connection(self, make: Callable[[], Any] = Recorder) -> tuple[Any, Peer]:
        """An accepted connection's protocol, and its peer."""
        count = len(self.accepted)
        self.next.append(make)
        peer = self.peer()
        await self.until(lambda: len(self.accepted) > count and self.accepted[count].transport is not None)
        return self.accepted[count], peer

    async def outgoing(self, make: Callable[[], Any] = Recorder) -> tuple[Any, Peer]:
        """The same for a connection that the group made."""
        with socket.create_server((LOOPBACK, 0)) as listener:
            endpoint = TCP4ClientEndpoint(self.group, LOOPBACK, listener.getsockname()[1])
            protocol = await connectProtocol(endpoint, make())
            self.accepted.append(protocol)
            accepted, _ = listener.accept()
        peer = Peer(accepted)
        self.peers.append(peer)
        return protocol, peer

    async def assert_echoes(self, protocol: Any, peer: Peer) -> None:
        """The connection works in both directions."""
        protocol.on_data = protocol.transport.write
        before = peer.read()
        peer.send(b"still there?")
        await self.until(lambda: peer.read() == before + b"still there?")

    async def fill(self, protocol: Any) -> bytes:
        """Write until the kernels of both ends are full and a bit is left; return all that was written."""
        written = bytearray()
        while not protocol.transport.dataBuffer:
            protocol.transport.write(MUCH[: READ // 2])
            written += MUCH[: READ // 2]
            await self.turns(2)
        return bytes(written)


class TalkingTests(SocketCase):
    """What is sent arrives."""

    async def test_accepted(self) -> None:
        await self.assert_echoes(*await self.connection())

    async def test_connected(self) -> None:
        await self.assert_echoes(*await self.outgoing())

    async def test_both_ends_in_one_group(self) -> None:
        self.next.append(lambda: server)
        server = Recorder()
        server.on_data = lambda data: server.transport.write(data.upper())
        host = self.port.getHost()
        client = Recorder()
        client.on_made = lambda: client.transport.write(b"hello")
        await connectProtocol(TCP4ClientEndpoint(self.group, host.host, host.port), client)
        await self.until(lambda: client.received == b"HELLO")
        client.transport.loseConnection()
        await self.until(lambda: client.lost and server.lost)
        self.assertEqual(client.lost + server.lost, [ConnectionDone] * 2)

    async def test_addresses(self) -> None:
        for make in (self.connection, self.outgoing):
            protocol, peer = await make()
            self.assertEqual(protocol.transport.getHost(), IPv4Address("TCP", *peer.socket.getpeername()))
            self.assertEqual(protocol.transport.getPeer(), IPv4Address("TCP", *peer.socket.getsockname()))

    async def test_written_when_made(self) -> None:
        protocol = Recorder()
        protocol.on_made = lambda: protocol.transport.write(b"welcome")
        _, peer = await self.connection(lambda: protocol)
        await self.until(lambda: peer.read() == b"welcome")

    async def test_written_out_of_turn(self) -> None:
        """What is written while no socket has anything for the group goes out, all in one."""
        protocol, peer = await self.connection()
        counter = SendCounter(protocol.transport)
        for _ in range(3):
            self.reactor.callLater(0, protocol.transport.write, b"a")
        self.reactor.callLater(0, protocol.transport.writeSequence, [b"b", b"c"])
        await self.until(lambda: peer.read() == b"aaabc")
        self.assertEqual(counter.sends, [b"aaabc"])

    async def test_one_send_for_a_turn(self) -> None:
        """What one segment causes to be written is sent together, in order."""
        protocol, peer = await self.connection()
        counter = SendCounter(protocol.transport)
        protocol.on_data = lambda data: [protocol.transport.write(b"%d," % number) for number in range(100)]
        expected = b"".join(b"%d," % number for number in range(100))
        for times in (1, 2):
            peer.send(b"go")
            await self.until(lambda times=times: peer.read() == expected * times)
        self.assertEqual(counter.sends, [expected] * 2)

    async def test_one_send_for_many_clients(self) -> None:
        """What many clients send at the same time goes on together."""
        server, server_peer = await self.outgoing()
        counter = SendCounter(server.transport)
        clients = [await self.connection() for _ in range(20)]
        for number, (protocol, peer) in enumerate(clients):
            protocol.on_data = server.transport.write
            peer.send(b"<%d>" % number)
            self.ready(protocol)
        await self.until(lambda: server_peer.read().count(b">") == 20)
        self.assertEqual(counter.sends, [b"".join(b"<%d>" % number for number in range(20))])

    async def test_nothing_written(self) -> None:
        """What is empty needs no send, and hurts nobody."""
        protocol, peer = await self.connection()
        counter = SendCounter(protocol.transport)
        protocol.transport.write(b"")
        protocol.transport.writeSequence([])
        await self.assert_echoes(protocol, peer)
        self.assertEqual(len(counter.sends), 1)

    async def test_rests(self) -> None:
        """Idle connections cost nothing, and neither do those that just had something to do."""
        await self.assert_echoes(*await self.connection())
        await self.assert_echoes(*await self.outgoing())
        await self.assert_rests()


@implementer(IPushProducer)
class Source:
    """Writes chunk by chunk while it isn't paused."""

    def __init__(self, transport: Any, chunk: int) -> None:
        self._transport = transport
        self._chunk = chunk
        self.written = 0
        self.paused = False
        self.pauses = 0
        self.stopped = 0
        transport.registerProducer(self, True)

    def run(self) -> None:
        """Write."""
        while not self.paused and self.written < len(MUCH):
            self._transport.write(MUCH[self.written : self.written + self._chunk])
            self.written += self._chunk

    def pauseProducing(self) -> None:
        self.pauses += not self.paused
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        self.run()

    def stopProducing(self) -> None:
        self.stopped += 1


@implementer(IPullProducer)
class Pulled:
    """Writes a chunk each time it is asked to, and leaves after the last."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.chunks = [MUCH[start : start + 100_000] for start in range(0, 1_000_000, 100_000)]
        self.expected = b"".join(self.chunks)
        transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self._transport.write(self.chunks.pop(0))
        if not self.chunks:
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The connection is lost."""


class FlowTests(SocketCase):
    """Who sends faster than is read is paused, and nothing gets lost."""

    async def test_much_at_once(self) -> None:
        """The peer reads late; what the kernel didn't take is sent when it can, and what was written meanwhile after it."""
        protocol, peer = await self.connection()
        protocol.transport.write(MUCH)
        await self.turns()
        protocol.transport.write(b"and ")
        await self.turns()
        protocol.transport.write(b"more")
        await self.until(lambda: len(peer.read()) == len(MUCH) + 8)
        self.assertEqual(peer.received, MUCH + b"and more")
        await self.assert_rests()

    async def test_much_in_both_directions(self) -> None:
        protocol, peer = await self.connection()
        protocol.on_data = protocol.transport.write
        sent = 0

        def exchange() -> bool:
            nonlocal sent
            if sent < len(MUCH):
                try:
                    sent += peer.socket.send(MUCH[sent : sent + 1_000_000])
                except BlockingIOError:
                    peer.read()
            return len(peer.read()) == len(MUCH)

        await self.until(exchange)
        self.assertEqual(peer.received, MUCH)

    async def test_paused_and_resumed(self) -> None:
        """A producer is paused as soon as more is buffered than should be, again and again."""
        for chunk in (1000, 300_000):
            protocol, peer = await self.connection()
            source = Source(protocol.transport, chunk)
            source.run()
            self.assertTrue(source.paused)
            self.assertLessEqual(source.written, READ + chunk)
            await self.turns()
            self.assertLess(source.written, len(MUCH))
            written, pauses = source.written, source.pauses
            await self.turns()
            self.assertEqual((source.written, source.pauses), (written, pauses))
            await self.until(lambda peer=peer: len(peer.read()) == len(MUCH))
            self.assertEqual(peer.received, MUCH)
            self.assertFalse(source.paused)
            self.assertGreater(source.pauses, pauses)

    async def test_resumed_though_all_went_out_at_once(self) -> None:
        """The kernel took everything, and the producer was paused nevertheless, as it couldn't know."""
        protocol, peer = await self.connection()
        source = Source(protocol.transport, READ + 1)
        source.written = len(MUCH) - READ - 1
        source.run()
        self.assertTrue(source.paused)
        await self.until(lambda: not source.paused)
        await self.until(lambda: len(peer.read()) == READ + 1)
        await self.assert_rests()

    async def test_pull_producer(self) -> None:
        """It is asked for more until it leaves; the connection isn't closed before (ITransport.loseConnection)."""
        protocol, peer = await self.connection()
        producer = Pulled(protocol.transport)
        protocol.transport.loseConnection()
        await self.until(peer.at_end)
        self.assertEqual(peer.received, producer.expected)
        await self.until(lambda: protocol.lost)
        self.assertEqual(protocol.lost, [ConnectionDone])

    async def test_closing_waits_for_a_paused_producer(self) -> None:
        """It may have more to send: it is resumed, and the connection closed once it has left."""
        protocol, peer = await self.connection()
        source = Source(protocol.transport, READ + 1)
        source.run()
        protocol.transport.loseConnection()
        await self.until(lambda: len(peer.read()) >= len(MUCH))
        self.assertEqual(peer.received, MUCH + b"")
        self.assertEqual(protocol.lost, [])
        protocol.transport.unregisterProducer()
        await self.until(lambda: protocol.lost)
        self.assertEqual(protocol.lost, [ConnectionDone])
        self.assertTrue(peer.at_end())

    async def test_producer_is_stopped(self) -> None:
        """A producer is told when the connection is lost, once, however it is lost."""
        for lose in (
            lambda protocol, peer: protocol.transport.loseConnection(),
            lambda protocol, peer: protocol.transport.abortConnection(),
            lambda protocol, peer: peer.close(),
            lambda protocol, peer: peer.reset(),
        ):
            protocol, peer = await self.connection()
            source = Source(protocol.transport, 1)
            lose(protocol, peer)
            await self.until(lambda protocol=protocol: protocol.lost)
            self.assertEqual(source.stopped, 1)
            self.assertEqual(len(protocol.lost), 1)

    async def test_reading_paused(self) -> None:
        """Paused, a protocol gets nothing, and nobody is kept busy by what waits."""
        protocol, peer = await self.connection()
        protocol.transport.pauseProducing()
        peer.send(b"hello")
        self.ready(protocol)
        await self.assert_rests()
        self.assertEqual(protocol.received, b"")
        protocol.transport.write(b"writing goes on")
        await self.until(lambda: peer.read() == b"writing goes on")
        protocol.transport.resumeProducing()
        await self.until(lambda: protocol.received == b"hello")

    async def test_reading_paused_while_read(self) -> None:
        protocol, peer = await self.connection()
        protocol.on_data = lambda data: protocol.transport.pauseProducing()
        peer.send(b"first")
        await self.until(lambda: protocol.received)
        peer.send(b"second")
        self.ready(protocol)
        await self.assert_rests()
        self.assertEqual(protocol.received, b"first")
        protocol.transport.resumeProducing()
        await self.until(lambda: protocol.received == b"firstsecond")


class ClosingTests(SocketCase):
    """How a connection ends, and who is told what."""

    async def assert_lost(self, protocol: Any, reason: type[BaseException] = ConnectionDone) -> None:
        """It is, once, and nothing comes after."""
        await self.until(lambda: protocol.lost)
        await self.assert_rests()
        self.assertEqual(protocol.lost, [reason])

    async def test_by_the_peer(self) -> None:
        for make in (self.connection, self.outgoing):
            protocol, peer = await make()
            peer.send(b"bye")
            peer.close()
            await self.assert_lost(protocol)
            self.assertEqual(protocol.received, b"bye")

    async def test_half_closed_by_the_peer(self) -> None:
        """It is told once, keeps nobody busy, and what is written then still arrives."""
        for make in (self.connection, self.outgoing):
            protocol, peer = await make(HalfRecorder)
            peer.send(b"question")
            peer.shut()
            await self.until(lambda protocol=protocol: protocol.read_lost)
            await self.assert_rests()
            self.assertEqual((protocol.received, protocol.read_lost, protocol.lost), (b"question", 1, []))
            protocol.transport.write(b"answer")
            await self.until(lambda peer=peer: peer.read() == b"answer")
            protocol.transport.write(MUCH)
            protocol.transport.loseConnection()
            await self.until(peer.at_end)
            self.assertEqual(peer.received, b"answer" + MUCH)
            await self.assert_lost(protocol)

    async def test_closed_as_soon_as_half_closed(self) -> None:
        """With and without a last word."""
        for last in (b"", b"last word"):
            protocol, peer = await self.connection(HalfRecorder)
            protocol.on_read_lost = lambda protocol=protocol, last=last: (
                protocol.transport.write(last), protocol.transport.loseConnection()
            )  # fmt: skip
            peer.shut()
            await self.until(peer.at_end)
            self.assertEqual(peer.received, last)
            await self.assert_lost(protocol)
            self.assertEqual(protocol.read_lost, 1)

    async def test_half_closed_by_us(self) -> None:
        """All that was written arrives, then the end; what the peer sends is still read."""
        protocol, peer = await self.connection(HalfRecorder)
        protocol.transport.write(MUCH)
        protocol.transport.loseWriteConnection()
        await self.until(peer.at_end)
        self.assertEqual((peer.received, protocol.write_lost), (MUCH, 1))
        protocol.transport.write(b"too late")
        peer.send(b"thanks")
        await self.until(lambda: protocol.received == b"thanks")
        await self.assert_rests()
        self.assertEqual(protocol.lost, [])
        protocol.transport.loseConnection()
        await self.assert_lost(protocol)
        self.assertEqual(peer.read(), MUCH)

    async def test_half_closed_by_both(self) -> None:
        for first in ("we", "the peer"):
            protocol, peer = await self.connection(HalfRecorder)
            if first == "we":
                protocol.transport.loseWriteConnection()
                await self.until(peer.at_end)
                peer.shut()
            else:
                peer.shut()
                await self.until(lambda protocol=protocol: protocol.read_lost)
                protocol.transport.loseWriteConnection()
                await self.until(peer.at_end)
            await self.until(lambda protocol=protocol: protocol.read_lost and protocol.write_lost)
            await self.assert_rests()
            protocol.transport.loseConnection()
            await self.assert_lost(protocol)

    async def test_half_closed_by_us_and_closed_by_the_peer(self) -> None:
        """A protocol that doesn't care for half a connection loses it whole."""
        protocol, peer = await self.connection()
        protocol.transport.loseWriteConnection()
        await self.until(peer.at_end)
        peer.close()
        await self.assert_lost(protocol)

    async def test_half_closed_and_closed_at_once(self) -> None:
        for unsent in (b"", b"last word", MUCH):
            protocol, peer = await self.connection(HalfRecorder)
            protocol.transport.write(unsent)
            protocol.transport.loseWriteConnection()
            protocol.transport.loseConnection()
            await self.until(peer.at_end)
            self.assertEqual((peer.received, peer.was_reset), (unsent, False))
            await self.assert_lost(protocol)

    async def test_closed(self) -> None:
        """All that was written before arrives, then the end; closing once more changes nothing."""
        for make in (self.connection, self.outgoing):
            for unsent in (b"", b"last word", MUCH):
                for times in (1, 3):
                    protocol, peer = await make()
                    protocol.transport.write(unsent)
                    for _ in range(times):
                        protocol.transport.loseConnection()
                    await self.until(peer.at_end)
                    self.assertEqual((peer.received, peer.was_reset), (unsent, False))
                    await self.assert_lost(protocol)

    async def test_closed_with_the_answer(self) -> None:
        """In the turn of the question."""
        protocol, peer = await self.connection()
        protocol.on_data = lambda data: (protocol.transport.write(b"answer"), protocol.transport.loseConnection())
        peer.send(b"question")
        await self.until(peer.at_end)
        self.assertEqual((peer.received, peer.was_reset), (b"answer", False))
        await self.assert_lost(protocol)

    async def test_closed_when_made(self) -> None:
        protocol = Recorder()
        protocol.on_made = lambda: protocol.transport.loseConnection()
        _, peer = await self.connection(lambda: protocol)
        await self.until(peer.at_end)
        await self.assert_lost(protocol)

    async def test_closed_while_there_is_room_again(self) -> None:
        """In the turn that brings data and has room for all that was left: that is the end, not half of it."""
        protocol, peer = await self.connection(HalfRecorder)
        written = await self.fill(protocol)
        protocol.on_data = lambda data: protocol.transport.loseConnection()
        peer.read()
        self.ready(protocol, events=select.POLLOUT)
        peer.send(b"x")
        self.ready(protocol)
        await self.until(peer.at_end)
        self.assertEqual(peer.received, written)
        await self.assert_lost(protocol)
        self.assertEqual(protocol.read_lost, 0)

    async def test_written_after_closing(self) -> None:
        """As long as the connection is there, it is sent; the peer isn't listened to, and keeps nobody busy."""
        for late in (b"late", MUCH):
            protocol, peer = await self.connection()
            protocol.transport.loseConnection()
            protocol.transport.write(late)
            if late is MUCH:
                await self.turns()
                peer.send(b"x")
                self.ready(protocol)
                await self.assert_rests()
                self.assertEqual((protocol.received, protocol.lost), (b"", []))
            await self.until(lambda peer=peer, late=late: len(peer.read()) == len(late))
            self.assertEqual(peer.received, late)
            await self.assert_lost(protocol)

    async def test_used_when_it_is_over(self) -> None:
        """Whatever is asked of a lost connection, it doesn't do and doesn't complain."""
        protocol, peer = await self.connection()
        transport = protocol.transport
        transport.loseConnection()
        await self.until(peer.at_end)
        for use in (
            lambda: transport.write(b"x"),
            lambda: transport.writeSequence([b"x"]),
            transport.loseConnection,
            transport.abortConnection,
            transport.pauseProducing,
            transport.resumeProducing,
            transport.unregisterProducer,
        ):
            use()
        await self.assert_lost(protocol)
        self.assertEqual(peer.read(), b"")

    async def test_written_when_lost(self) -> None:
        """A protocol that says goodbye to a peer that is gone, and to another that isn't."""
        other, other_peer = await self.connection()
        protocol, peer = await self.connection()
        protocol.on_lost = lambda: (protocol.transport.write(b"bye"), other.transport.write(b"it is gone"))
        peer.close()
        await self.assert_lost(protocol)
        await self.until(lambda: other_peer.read() == b"it is gone")

    async def test_aborted(self) -> None:
        """The peer is reset, and gets nothing of what wasn't sent yet."""
        for make in (self.connection, self.outgoing):
            for unsent in (b"", b"x"):
                protocol, peer = await make()
                protocol.transport.write(unsent)
                protocol.transport.abortConnection()
                protocol.transport.write(unsent)
                protocol.transport.abortConnection()
                await self.until(peer.at_end)
                self.assertEqual((peer.received, peer.was_reset), (b"", True))
                await self.assert_lost(protocol, ConnectionAborted)

    async def test_aborted_with_much_unsent(self) -> None:
        protocol, peer = await self.connection()
        protocol.transport.write(MUCH)
        await self.turns()
        protocol.transport.abortConnection()
        await self.until(peer.at_end)
        self.assertTrue(peer.was_reset)
        await self.assert_lost(protocol, ConnectionAborted)

    async def test_aborted_while_closing(self) -> None:
        """And closed while aborting: in either order the peer is reset."""
        for steps in (("loseConnection", "abortConnection"), ("abortConnection", "loseConnection")):
            for unsent in (b"", MUCH):
                protocol, peer = await self.connection()
                protocol.transport.write(unsent)
                for step in steps:
                    getattr(protocol.transport, step)()
                await self.until(peer.at_end)
                self.assertTrue(peer.was_reset, steps)
                await self.assert_lost(protocol, ConnectionAborted)

    async def test_aborted_when_read(self) -> None:
        """In a turn, with more to read."""
        protocol, peer = await self.connection()
        protocol.on_data = lambda data: protocol.transport.abortConnection()
        peer.send(b"x" * (READ + 1))
        await self.until(peer.at_end)
        self.assertTrue(peer.was_reset)
        await self.assert_lost(protocol, ConnectionAborted)
        self.assertEqual(len(protocol.received), READ)

    async def test_reset(self) -> None:
        """Whether it is idle, has something that it couldn't send, or closes."""
        for make in (self.connection, self.outgoing):
            for kind in (Recorder, HalfRecorder):
                for unsent in (b"", MUCH):
                    for closing in (False, True) if unsent else (False,):
                        protocol, peer = await make(kind)
                        protocol.transport.write(unsent)
                        if closing:
                            protocol.transport.loseConnection()
                        await self.turns()
                        peer.reset()
                        await self.assert_lost(protocol, ConnectionLost)

    async def test_reset_while_paused(self) -> None:
        """Something is to be sent, and the peer isn't read from."""
        protocol, peer = await self.connection()
        protocol.transport.write(MUCH)
        protocol.transport.pauseProducing()
        await self.turns()
        peer.reset()
        await self.assert_lost(protocol, ConnectionLost)

    async def test_reset_while_written(self) -> None:
        """The send at the end of the turn is what finds out."""
        protocol, peer = await self.connection()
        protocol.transport.pauseProducing()
        peer.reset()
        self.ready(protocol, events=select.POLLHUP)
        protocol.transport.write(b"x")
        await self.assert_lost(protocol, ConnectionLost)

    async def test_all_at_once(self) -> None:
        """Many connections that end in the same turn, each in its own way."""
        pairs = [await self.connection(HalfRecorder) for _ in range(40)]
        for number, (protocol, peer) in enumerate(pairs):
            protocol.on_data = lambda data, transport=protocol.transport: (
                transport.write(data), transport.loseConnection()
            )  # fmt: skip
            protocol.on_read_lost = protocol.transport.loseConnection
            (lambda: peer.send(b"x"), peer.shut, peer.close, peer.reset)[number % 4]()
            self.ready(protocol, events=select.POLLIN | select.POLLHUP)
        await self.until(lambda: all(protocol.lost for protocol, _ in pairs))
        await self.assert_rests()
        self.assertEqual(
            [protocol.lost for protocol, _ in pairs],
            [[ConnectionDone], [ConnectionDone], [ConnectionDone], [ConnectionLost]] * 10,
        )


class Odd(BaseException):
    """Something that isn't even an Exception, as SystemExit is none."""


def fail(*_: object) -> None:
    """Fail."""
    raise ZeroDivisionError


class FailureTests(SocketCase):
    """A protocol that fails ends its own connection, is logged, and is of no concern to others."""

    async def among_others(
        self, spoil: Callable[[Any], object], act: Callable[[Peer], object] = lambda peer: peer.send(b"x")
    ) -> tuple[Any, Peer]:
        """Let one of three that have something to do in the same turn fail, and return it; all else goes on."""
        pairs = [await self.connection(HalfRecorder) for _ in range(3)]
        failing, failing_peer = pairs.pop(1)
        spoil(failing)
        for protocol, peer in pairs:
            protocol.on_data = protocol.transport.write
        pairs[0][1].send(b"before")
        self.ready(pairs[0][0])
        act(failing_peer)
        self.ready(failing, events=select.POLLIN | select.POLLHUP)
        pairs[1][1].send(b"behind")
        self.ready(pairs[1][0])
        await self.until(lambda: [peer.read() for _, peer in pairs] == [b"before", b"behind"])
        await self.until(lambda: failing.lost)
        self.assertEqual(len(failing.lost), 1)
        for protocol, peer in pairs:
            await self.assert_echoes(protocol, peer)
        await self.assert_echoes(*await self.connection())
        protocol, peer = pairs[0]
        self.reactor.callLater(0, protocol.transport.write, b" out of turn")
        await self.until(lambda: peer.read().endswith(b" out of turn"))
        await self.assert_rests()
        return failing, failing_peer

    def assert_logged(self, count: int, kind: type[BaseException] = ZeroDivisionError) -> None:
        """So many failures were."""
        self.assertEqual(len(self.flushLoggedErrors(kind)), count)

    async def test_when_read(self) -> None:
        failing, peer = await self.among_others(lambda protocol: setattr(protocol, "on_data", fail))
        self.assertEqual(failing.lost, [ZeroDivisionError])
        await self.until(peer.at_end)
        self.assert_logged(1)

    async def test_when_read_with_something_odd(self) -> None:
        def fail_oddly(data: bytes) -> None:
            raise Odd

        failing, peer = await self.among_others(lambda protocol: setattr(protocol, "on_data", fail_oddly))
        self.assertEqual(failing.lost, [Odd])
        await self.until(peer.at_end)
        self.assert_logged(1, Odd)

    async def test_when_half_closed(self) -> None:
        spoil = lambda protocol: setattr(protocol, "on_read_lost", fail)  # noqa: E731
        failing, peer = await self.among_others(spoil, Peer.shut)
        self.assertEqual(failing.lost, [ZeroDivisionError])
        await self.until(peer.at_end)
        self.assert_logged(1)

    async def test_when_lost(self) -> None:
        for end in (Peer.reset, lambda peer: (peer.shut(), peer.close())):
            failing, _ = await self.among_others(
                lambda protocol: (
                    setattr(protocol, "on_lost", fail),
                    setattr(protocol, "on_read_lost", protocol.transport.loseConnection),
                ),
                end,
            )
            self.assertNotIn(ZeroDivisionError, failing.lost)
            self.assert_logged(1)

    async def test_when_read_and_lost(self) -> None:
        """It fails even at being told that it failed."""
        failing, peer = await self.among_others(
            lambda protocol: (setattr(protocol, "on_data", fail), setattr(protocol, "on_lost", fail))
        )
        self.assertEqual(failing.lost, [ZeroDivisionError])
        await self.until(peer.at_end)
        self.assert_logged(2)

    async def test_when_closed_at_the_end_of_the_turn(self) -> None:
        failing, peer = await self.among_others(
            lambda protocol: (
                setattr(protocol, "on_data", lambda data: protocol.transport.loseConnection()),
                setattr(protocol, "on_lost", fail),
            )
        )
        self.assertEqual(failing.lost, [ConnectionDone])
        await self.until(peer.at_end)
        self.assert_logged(1)

    async def test_when_the_send_fails(self) -> None:
        """At the end of the turn, with others that are still to be sent."""
        pairs = [await self.connection() for _ in range(3)]
        failing, failing_peer = pairs.pop(1)
        failing.on_lost = fail
        failing.transport.pauseProducing()
        failing_peer.reset()
        self.ready(failing, events=select.POLLHUP)
        for protocol in (pairs[0][0], failing, pairs[1][0]):
            protocol.transport.write(b"x")
        await self.until(lambda: [peer.read() for _, peer in pairs] == [b"x", b"x"])
        self.assertEqual(failing.lost, [ConnectionLost])
        self.assert_logged(1)
        for protocol, peer in pairs:
            await self.assert_echoes(protocol, peer)

    async def test_when_resumed(self) -> None:
        """A producer fails."""
        protocol, peer = await self.connection()
        source = Source(protocol.transport, READ + 1)
        source.run()
        source.resumeProducing = fail  # type: ignore[method-assign]
        await self.until(peer.at_end)
        self.assertEqual(protocol.lost, [ZeroDivisionError])
        self.assert_logged(1)
        await self.assert_echoes(*await self.connection())

    async def test_when_our_side_is_shut(self) -> None:
        protocol, peer = await self.connection(HalfRecorder)
        protocol.on_write_lost = fail
        protocol.transport.loseWriteConnection()
        await self.until(peer.at_end)
        self.assertEqual(protocol.lost, [ZeroDivisionError])
        self.assert_logged(1)

    async def test_when_made(self) -> None:
        """The port goes on accepting, those in the same turn included."""
        protocol = Recorder()
        protocol.on_made = fail
        self.next = [Recorder, lambda: protocol, Recorder]
        peers = [self.peer() for _ in range(3)]
        await self.until(lambda: len(self.accepted) == 3)
        await self.until(peers[1].at_end)
        self.assertEqual(protocol.lost, [ZeroDivisionError])
        self.assert_logged(1)
        for index in (0, 2):
            await self.assert_echoes(self.accepted[index], peers[index])
        await self.assert_echoes(*await self.connection())

    async def test_when_built(self) -> None:
        """A factory fails: the connection is closed, and the port goes on."""

        def fail_to_build() -> None:
            fail()

        self.next = [Recorder, fail_to_build, Recorder]
        peers = [self.peer() for _ in range(3)]
        await self.until(lambda: len(self.accepted) == 2)
        await self.until(peers[1].at_end)
        self.assert_logged(1)
        for protocol, peer in zip(self.accepted, (peers[0], peers[2]), strict=True):
            await self.assert_echoes(protocol, peer)
        await self.assert_echoes(*await self.connection())

    async def test_when_connected(self) -> None:
        """A connection that was made fails when it is told so."""
        protocol = Recorder()
        protocol.on_made = fail
        with self.assertRaises(ZeroDivisionError):
            await self.outgoing(lambda: protocol)
        await self.assert_echoes(*await self.outgoing())


class PortTests(SocketCase):
    """Accepting, and not accepting."""

    async def test_many(self) -> None:
        """More than are accepted in a turn, and none is left out; who is there already isn't kept waiting."""
        protocol, peer = await self.connection()
        protocol.on_data = protocol.transport.write
        peers = [self.peer() for _ in range(45)]
        self.accepted.clear()
        await self.until(lambda: len(self.accepted) == 45)
        listener: Any = self.group.listenTCP(0, self.factory, backlog=200, interface=LOOPBACK)
        self.ports.append(listener)
        crowd = [self.peer(listener) for _ in range(ACCEPTS + 20)]
        peer.send(b"x")
        self.ready(protocol, listener)
        turns = self.group.turns
        await self.until(lambda: self.group.turns > turns)
        self.assertEqual(len(self.accepted), 45 + ACCEPTS)
        self.assertEqual(peer.read(), b"x")
        await self.until(lambda: len(self.accepted) == 45 + len(crowd))
        for accepted, each in zip(self.accepted, peers + crowd, strict=True):
            await self.assert_echoes(accepted, each)
        self.accepted.append(protocol)

    async def test_told_to_stop_in_a_burst(self) -> None:
        """The rest stays in the backlog until it is told to start again."""

        def third() -> Recorder:
            self.port.stopReading()
            return Recorder()

        self.next = [Recorder, Recorder, third]
        peers = [self.peer() for _ in range(6)]
        await self.until(lambda: len(self.accepted) == 3)
        await self.assert_rests()
        self.assertEqual(len(self.accepted), 3)
        self.port.startReading()
        await self.until(lambda: len(self.accepted) == 6)
        for protocol, peer in zip(self.accepted, peers, strict=True):
            await self.assert_echoes(protocol, peer)

    async def test_no_protocol(self) -> None:
        """Who gets none is closed, and the next is served."""
        self.next = [lambda: None]
        peer = self.peer()
        await self.until(peer.at_end)
        await self.assert_echoes(*await self.connection())

    async def test_stopped(self) -> None:
        """Nobody is accepted any more, and those that are there stay."""
        pair = await self.connection()
        self.ports.clear()
        await self.port.stopListening()
        with self.assertRaises(OSError), socket.create_connection(pair[1].socket.getpeername()):
            pass
        await self.assert_echoes(*pair)

    async def test_stopped_in_a_burst(self) -> None:
        def second() -> Recorder:
            self.port.stopListening()
            return Recorder()

        self.next = [Recorder, second]
        self.ports.clear()
        peers = [self.peer() for _ in range(4)]
        await self.until(peers[3].at_end)
        self.assertEqual(len(self.accepted), 2)
        for protocol, peer in zip(self.accepted, peers, strict=False):
            await self.assert_echoes(protocol, peer)

    async def test_started_when_it_is_closed(self) -> None:
        """A port that is closed, or about to be, can't be told to accept: whoever does so comes late."""
        self.ports.clear()
        closed = self.port.stopListening()
        self.port.startReading()
        await closed
        self.port.startReading()
        self.port.stopReading()

    async def test_ipv6(self) -> None:
        try:
            port: Any = self.group.listenTCP(0, self.factory, interface="::1")
        except Exception as error:
            raise SkipTest(f"no ::1 here: {error}") from None
        self.ports.append(port)
        client = Recorder()
        await connectProtocol(TCP6ClientEndpoint(self.group, "::1", port.getHost().port), client)
        await self.until(lambda: self.accepted)
        (server,) = self.accepted
        for here, there in ((client, server), (server, client)):
            self.assertEqual(here.transport.getHost(), there.transport.getPeer())
            self.assertEqual(here.transport.getHost().type, "TCP")
            self.assertEqual(here.transport.getHost().host, "::1")
        server.on_data = server.transport.write
        client.transport.write(b"hello")
        await self.until(lambda: client.received == b"hello")
        client.transport.loseConnection()
        await self.until(lambda: client.lost and server.lost)

    async def test_ipv6_link_local(self) -> None:
        """A peer's address names its link, without which nobody could connect back to it."""
        host = link_local_address()
        if host is None:
            raise SkipTest("no link-local address here")
        built: list[Any] = []
        listener: Any = self.group.listenTCP(0, self.factory, interface="::")
        self.ports.append(listener)
        self.factory.buildProtocol = lambda addr: (built.append(addr), self.make(addr))[1]  # type: ignore[method-assign]
        address = socket.getaddrinfo(host, listener.getHost().port, socket.AF_INET6, socket.SOCK_STREAM)[0][4]
        peer = Peer.to(address, socket.AF_INET6)
        self.peers.append(peer)
        await self.until(lambda: self.accepted)
        self.assertEqual([each.host for each in built], [host])
        self.assertEqual(self.accepted[0].transport.getPeer().host, host)

    async def test_adopted(self) -> None:
        """A socket that listens already, as systemd hands it over, is listened to and not closed."""
        with socket.create_server((LOOPBACK, 0)) as listener:
            listener.setblocking(False)
            port: Any = await AdoptedStreamServerEndpoint(self.group, listener.fileno(), socket.AF_INET).listen(
                self.factory
            )
            self.assertEqual((port.getHost().host, port.getHost().port), listener.getsockname())
            peer = self.peer(port)
            await self.until(lambda: self.accepted)
            await self.assert_echoes(self.accepted[0], peer)
            await port.stopListening()
            # Still in the kernel's hands.
            self.peers.append(Peer.to(listener.getsockname()))

    async def test_adopted_unix(self) -> None:
        """What isn't TCP is the reactor's."""
        path = self.mktemp()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)
            listener.bind(path)
            listener.listen()
            port: Any = self.group.adoptStreamPort(listener.fileno(), socket.AF_UNIX, self.factory)
            self.ports.append(port)
            peer = Peer.to(path, socket.AF_UNIX)
            self.peers.append(peer)
            await self.until(lambda: self.accepted)
            await self.assert_echoes(self.accepted[0], peer)


def link_local_address() -> str | None:
    """One of this machine's, with its interface: ``fe80::1%eth0``."""
    table = Path("/proc/net/if_inet6")
    for line in table.read_text().splitlines() if table.exists() else ():
        digits, _, _, _, _, interface = line.split()
        if digits.startswith("fe80"):
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))}%{interface}"
    return None


class ConnectTests(SocketCase):
    """Connections that aren't made."""

    async def full_listener(self, stack: ExitStack) -> int:
        """A port where a connection is neither accepted nor refused, because its backlog is full."""
        listener = stack.enter_context(socket.socket())
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(4):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex((LOOPBACK, port))
        return port

    async def test_refused(self) -> None:
        with socket.socket() as unused:
            unused.bind((LOOPBACK, 0))
            endpoint = TCP4ClientEndpoint(self.group, LOOPBACK, unused.getsockname()[1])
            with self.assertRaises(ConnectionRefusedError):
                await connectProtocol(endpoint, Recorder())
        await self.assert_rests()

    async def test_no_answer(self) -> None:
        with ExitStack() as stack:
            endpoint = TCP4ClientEndpoint(self.group, LOOPBACK, await self.full_listener(stack), timeout=5)
            connecting = connectProtocol(endpoint, Recorder())
            await self.assert_rests()
            self.delays.clock.advance(4.9)
            await self.turns()
            self.assertNoResult(connecting)
            self.delays.clock.advance(0.2)
            with self.assertRaises(TimeoutError):
                await connecting
            await self.assert_rests()

    async def test_cancelled(self) -> None:
        """Before anything happened, or while the connection is being made."""
        for turns in (0, 5):
            with ExitStack() as stack:
                endpoint = TCP4ClientEndpoint(self.group, LOOPBACK, await self.full_listener(stack))
                connecting: Deferred[Any] = connectProtocol(endpoint, Recorder())
                await self.turns(turns)
                connecting.cancel()
                with self.assertRaises(ConnectingCancelledError):
                    await connecting
                await self.assert_rests()

    async def test_no_protocol(self) -> None:
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: None  # type: ignore[method-assign]
        host = self.port.getHost()
        with self.assertRaises(NoProtocol):
            await TCP4ClientEndpoint(self.group, host.host, host.port).connect(factory)
        await self.until(lambda: self.accepted and self.accepted[0].lost)

    async def test_closed_when_made(self) -> None:
        protocol = Recorder()
        protocol.on_made = lambda: protocol.transport.loseConnection()
        _, peer = await self.outgoing(lambda: protocol)
        await self.until(peer.at_end)
        await self.until(lambda: protocol.lost)
        self.assertEqual(protocol.lost, [ConnectionDone])

    async def test_bound_address(self) -> None:
        host = self.port.getHost()
        endpoint = TCP4ClientEndpoint(self.group, host.host, host.port, bindAddress=("127.0.0.2", 0))
        client = Recorder()
        await connectProtocol(endpoint, client)
        await self.until(lambda: self.accepted)
        self.assertEqual(self.accepted[0].transport.getPeer().host, "127.0.0.2")
        client.transport.loseConnection()
        await self.until(lambda: client.lost)


class DescriptorTests(SocketCase):
    """Descriptors' numbers are few and used again."""

    def exhaust(self) -> None:
        """Let the process have no further files."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        first_free = os.dup(0)
        os.close(first_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))

    async def test_closed_earlier_in_the_turn(self) -> None:
        """What had come for a connection that is closed before its turn came isn't given to it, or to its successor."""
        closed, closed_peer = await self.connection()
        number = closed.transport.fileno()
        closing, closing_peer = await self.connection()
        closed.transport.loseWriteConnection()
        await self.until(closed_peer.at_end)
        # At once, as its writing side is shut.
        closing.on_data = lambda data: closed.transport.loseConnection()
        with ExitStack() as stack:
            while True:
                hole = os.dup(0)
                stack.callback(os.close, hole)
                if hole > number:
                    break
            closing_peer.send(b"x")
            self.ready(closing)
            successor_peer = self.peer()
            self.ready(self.port)
            closed_peer.send(b"for the one that was")
            self.ready(closed)
            await self.until(lambda: len(self.accepted) == 3)
        successor = self.accepted[2]
        self.assertEqual((closed.received, closed.lost), (b"", [ConnectionDone]))
        self.assertEqual(successor.transport.fileno(), number)
        await self.assert_echoes(successor, successor_peer)
        self.assertEqual(successor.received, b"still there?")
        self.assertEqual(self.flushLoggedErrors(), [])

    async def test_closing_earlier_in_the_turn(self) -> None:
        """The same for one that is to be closed at the end of the turn."""
        closed, closed_peer = await self.connection()
        closing, closing_peer = await self.connection()
        closing.on_data = lambda data: (closed.transport.write(b"bye"), closed.transport.loseConnection())
        closing_peer.send(b"x")
        self.ready(closing)
        closed_peer.shut()
        self.ready(closed)
        await self.until(closed_peer.at_end)
        self.assertEqual(closed_peer.received, b"bye")
        await self.until(lambda: closed.lost)
        self.assertEqual((closed.received, closed.lost), (b"", [ConnectionDone]))

    async def test_none_left(self) -> None:
        """Nobody is accepted for a while, which is said once and costs nothing; who is there goes on."""
        pair = await self.connection()
        peers = [self.peer() for _ in range(3)]
        with capturedLogs() as events:
            self.exhaust()
            await self.assert_rests()
            self.assertEqual(len(self.accepted), 1)
            await self.assert_echoes(*pair)
            self.assertEqual(len(self.said(events)), 1)
            self.delays.clock.advance(PAUSE)
            await self.assert_rests()
            self.assertEqual(len(self.said(events)), 2)
            self.doCleanups()
            self.delays.clock.advance(PAUSE)
            await self.until(lambda: len(self.accepted) == 4)
            self.assertEqual(len(self.said(events)), 2)
        for protocol, peer in zip(self.accepted[1:], peers, strict=True):
            await self.assert_echoes(protocol, peer)

    def said(self, events: list[Any]) -> list[str | None]:
        """What was, about the ports."""
        return [text for text in map(formatEvent, events) if text and "Can't accept" in text]

    async def test_none_left_and_told_to_stop(self) -> None:
        """Who told the port to stop meanwhile has the say; the pause only ends what it began."""
        peer = self.peer()
        self.exhaust()
        await self.turns()
        self.port.stopReading()
        self.doCleanups()
        self.delays.clock.advance(PAUSE)
        await self.assert_rests()
        self.assertEqual(self.accepted, [])
        self.port.startReading()
        await self.until(lambda: self.accepted)
        await self.assert_echoes(self.accepted[0], peer)

    async def test_none_left_and_told_to_start(self) -> None:
        """It is one pause, whoever wants it to end early."""
        self.peer()
        with capturedLogs() as events:
            self.exhaust()
            await self.turns()
            for _ in range(3):
                self.port.stopReading()
                self.port.startReading()
                await self.turns()
            self.assertEqual(len(self.said(events)), 1)
            self.assertEqual(len(self.delays.clock.getDelayedCalls()), 1)
        self.doCleanups()
        self.delays.clock.advance(PAUSE)
        await self.until(lambda: self.accepted)

    async def test_none_left_and_stopped(self) -> None:
        """No pause outlives its port."""
        self.peer()
        self.exhaust()
        await self.turns()
        self.doCleanups()
        self.ports.clear()
        await self.port.stopListening()
        self.assertEqual(self.delays.clock.getDelayedCalls(), [])

    async def test_none_left_for_the_proxy(self) -> None:
        """The whole of it, in a process of its own: no faster than the pauses, and without work in between."""
        question = data_packet("1", "111", "xyz1")
        with ExitStack() as stack:
            proxy = stack.enter_context(Twistd("rproxy", "--port", "0"))
            first = stack.enter_context(Talk(proxy.port))
            self.assertEqual(first.ask(question)["error"], "no-server")
            # What is open now, and three more.
            numbers = {int(entry.name) for entry in Path(f"/proc/{proxy.pid}/fd").iterdir()}
            limit = max(numbers) + 1 + 3
            room = limit - len(numbers)
            hard = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (limit, hard))
            served = [stack.enter_context(Talk(proxy.port)) for _ in range(room)]
            for talk in served:
                self.assertEqual(talk.ask(question)["error"], "no-server")
            waiting = [stack.enter_context(Talk(proxy.port)) for _ in range(5)]
            for talk in waiting:
                talk.send(question)
            complaints = lambda: proxy.log.count("Can't accept connections for now")  # noqa: E731
            wait_for(complaints, PATIENCE, "the first pause")
            seconds = cpu_seconds(proxy.pid)
            wait_for(lambda: complaints() >= 3, PATIENCE, "two more pauses")
            # Two pauses are a second.
            self.assertLess(cpu_seconds(proxy.pid) - seconds, PAUSE / 2)
            self.assertEqual(first.ask(question)["error"], "no-server")
            for talk in served:
                talk.close()
            for talk in waiting:
                self.assertEqual(talk.answer()["error"], "no-server")
                talk.close()
            self.assertEqual(first.ask(question)["error"], "no-server")
            self.assertNotIn("Traceback", proxy.log)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


_STOPPED = """
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from rproxy.sockets import SocketGroup

group = SocketGroup(reactor)
made = []

class Told(Protocol):
    def connectionMade(self):
        made.append(self)
        self.number = len(made)
        if self.number == 6:
            # One has something to send that nobody reads, one would like to, one closes.
            made[1].transport.write(bytes(10 << 20))
            reactor.callLater(0, reactor.stop)

    def connectionLost(self, reason):
        print("lost", self.number, reason.type.__name__, flush=True)
        for other in made:
            other.transport.write(b"x")
            other.transport.loseConnection()
        if self.number % 2:
            raise ZeroDivisionError

port = group.listenTCP(0, Factory.forProtocol(Told), interface="127.0.0.1")
for _ in range(3):
    connectProtocol(TCP4ClientEndpoint(group, "127.0.0.1", port.getHost().port), Told())
reactor.run()
print("left", group in reactor.getReaders())
"""


class StopTests(TestCase):
    """The reactor stops."""

    timeout = 30

    def test_everybody_is_told(self) -> None:
        """Each protocol, those that fail then notwithstanding."""
        ended = run([sys.executable, "-c", _STOPPED])
        self.assertEqual(ended.returncode, 0, ended.stderr)
        lost = [f"lost {number} ConnectionLost" for number in range(1, 7)]
        self.assertEqual(sorted(ended.stdout.splitlines()), ["left False", *lost])
