"""Grouped sockets behave as Twisted's do: what arrives, who is told of it, and that one's failure is nobody else's.

Each test has real sockets of this machine. One end is the group's, the other a plain socket that does nothing by itself
(:class:`Peer`), so that a test decides what is ready before the reactor takes its next turn.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import select
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from itertools import product
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
    CannotListenError,
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
from twisted.logger import LogEvent, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase
from zope.interface import implementer

from rproxy.sockets import SocketGroup
from rproxy.sockets.connections import READ
from rproxy.sockets.ports import COURTESY, INSISTENCE, PAUSE
from rproxy.sockets.turns import ACCEPTS
from tests.support import FAULT, PATIENCE, Talk, Twistd, data_packet, run, wait_for

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

    def last_word(self, data: bytes) -> None:
        """Write something, and close."""
        self.transport.write(data)
        self.transport.loseConnection()

    def close(self) -> None:
        """Close."""
        self.transport.loseConnection()

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

    def send(self, data: bytes, flags: int) -> int:
        sent: int = self._socket.send(data, flags)
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

    def seconds(self) -> float:
        return self.clock.seconds()

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
        self.port: Any = self.group.listenTCP(0, self.factory, backlog=200, interface=LOOPBACK)
        self.ports: list[Any] = [self.port]

    def make(self, addr: Any) -> Any:
        protocol = self.next.pop(0)() if self.next else Recorder()
        if protocol is not None:
            self.accepted.append(protocol)
        return protocol

    async def tearDown(self) -> None:  # type: ignore[override]  # trial waits for it
        for peer in self.peers:
            peer.close()
        for port in self.ports:
            if port.connected:
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

    async def until_resting(self) -> None:
        """Let the reactor work until the group has nothing to do."""
        before = -1
        while self.group.turns != before:
            before = self.group.turns
            await self.turns()

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

    def connect(self, protocol: Recorder, port: int | None = None, **options: Any) -> Deferred[Any]:
        """Connect to a port of this machine, the group's own unless told otherwise."""
        endpoint = TCP4ClientEndpoint(self.group, LOOPBACK, port or self.port.getHost().port, **options)
        connecting: Deferred[Any] = connectProtocol(endpoint, protocol)
        return connecting

    async def outgoing(self, make: Callable[[], Any] = Recorder) -> tuple[Any, Peer]:
        """The same for a connection that the group made."""
        with socket.create_server((LOOPBACK, 0)) as listener:
            protocol = await self.connect(make(), listener.getsockname()[1])
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

    async def until_received(self, peer: Peer, expected: bytes) -> None:
        """Just that has arrived, and the connection goes on."""
        await self.until(lambda: len(peer.read()) >= len(expected) or peer.gone)
        self.assertEqual((peer.received, peer.gone), (expected, False))

    async def until_ended(self, peer: Peer, expected: bytes = b"") -> None:
        """Just that has arrived, and then the end, in an orderly way."""
        await self.until(peer.at_end)
        self.assertEqual((peer.received, peer.was_reset), (expected, False))

    async def until_reset(self, peer: Peer) -> None:
        """The connection was reset."""
        await self.until(peer.at_end)
        self.assertTrue(peer.was_reset)

    async def until_lost(self, protocol: Any, reason: type[BaseException] = ConnectionDone) -> None:
        """The protocol was told that its connection is lost, once, and nobody is kept busy by it any more."""
        await self.until(lambda: protocol.lost)
        await self.assert_rests()
        self.assertEqual(protocol.lost, [reason])

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

    async def test_both_kinds(self) -> None:
        """Connections that were accepted, and that were made."""
        await self.assert_echoes(*await self.connection())
        await self.assert_echoes(*await self.outgoing())
        await self.assert_rests()

    async def test_with_itself(self) -> None:
        """Both ends in one group."""
        server, client = Recorder(), Recorder()
        self.next.append(lambda: server)
        server.on_data = lambda data: server.last_word(data.upper())
        client.on_made = lambda: client.transport.write(b"hello")
        await self.connect(client)
        await self.until(lambda: client.lost and server.lost)
        self.assertEqual((client.received, client.lost + server.lost), (b"HELLO", [ConnectionDone] * 2))

    async def test_addresses(self) -> None:
        for make in (self.connection, self.outgoing):
            protocol, peer = await make()
            self.assertEqual(protocol.transport.getHost(), IPv4Address("TCP", *peer.socket.getpeername()))
            self.assertEqual(protocol.transport.getPeer(), IPv4Address("TCP", *peer.socket.getsockname()))

    async def test_written_when_made(self) -> None:
        protocol = Recorder()
        protocol.on_made = lambda: protocol.transport.write(b"welcome")
        _, peer = await self.connection(lambda: protocol)
        await self.until_received(peer, b"welcome")

    async def test_written_out_of_turn(self) -> None:
        """What is written while no socket has anything for the group goes out, all in one."""
        protocol, peer = await self.connection()
        counter = SendCounter(protocol.transport)
        for _ in range(3):
            self.reactor.callLater(0, protocol.transport.write, b"a")
        self.reactor.callLater(0, protocol.transport.writeSequence, [b"b", b"c"])
        await self.until_received(peer, b"aaabc")
        self.assertEqual(counter.sends, [b"aaabc"])

    async def test_one_send_for_a_turn(self) -> None:
        """What one segment causes to be written is sent together, in order."""
        protocol, peer = await self.connection()
        counter = SendCounter(protocol.transport)
        protocol.on_data = lambda data: [protocol.transport.write(b"%d," % number) for number in range(100)]
        expected = b"".join(b"%d," % number for number in range(100))
        peer.send(b"go")
        await self.until_received(peer, expected)
        peer.send(b"go")
        await self.until_received(peer, expected * 2)
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
        expected = b"".join(b"<%d>" % number for number in range(20))
        await self.until_received(server_peer, expected)
        self.assertEqual(counter.sends, [expected])

    async def test_nothing_written(self) -> None:
        """What is empty needs no send, and hurts nobody."""
        protocol, peer = await self.connection()
        counter = SendCounter(protocol.transport)
        protocol.transport.write(b"")
        protocol.transport.writeSequence([])
        await self.assert_echoes(protocol, peer)
        self.assertEqual(len(counter.sends), 1)


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
        self._chunks = [MUCH[start : start + 100_000] for start in range(0, 1_000_000, 100_000)]
        self.expected = b"".join(self._chunks)
        transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        self._transport.write(self._chunks.pop(0))
        if not self._chunks:
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        """The connection is lost."""


class FlowTests(SocketCase):
    """Who sends faster than is read is paused, and nothing gets lost."""

    async def test_much_at_once(self) -> None:
        """What the kernel didn't take is sent when it can, and what was written meanwhile is sent after it."""
        protocol, peer = await self.connection()
        protocol.transport.write(MUCH)
        await self.until_resting()
        protocol.transport.write(b"and ")
        await self.until_resting()
        protocol.transport.write(b"more")
        await self.until_received(peer, MUCH + b"and more")
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
                    """Not now."""
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
            await self.until_resting()
            self.assertTrue(source.paused)
            self.assertLess(source.written, len(MUCH))
            pauses = source.pauses
            await self.until_received(peer, MUCH)
            await self.assert_rests()
            self.assertFalse(source.paused)
            self.assertGreater(source.pauses, pauses)

    async def test_resumed_though_all_went_out_at_once(self) -> None:
        """The kernel took everything, and the producer was paused nevertheless, as nobody could know."""
        protocol, peer = await self.connection()
        source = Source(protocol.transport, READ + 1)
        source.written = len(MUCH) - READ - 1
        source.run()
        self.assertTrue(source.paused)
        await self.until_received(peer, MUCH[-READ - 1 :])
        await self.assert_rests()
        self.assertFalse(source.paused)

    async def test_pull_producer(self) -> None:
        """It is asked for more until it leaves."""
        protocol, peer = await self.connection()
        producer = Pulled(protocol.transport)
        await self.until_received(peer, producer.expected)
        await self.assert_rests()
        self.assertEqual(protocol.lost, [])

    async def test_closing_waits_for_a_pull_producer(self) -> None:
        """Until it leaves (ITransport.loseConnection), be it that it was just asked or is about to be."""
        for turns in (0, 1, 2):
            protocol, peer = await self.connection()
            producer = Pulled(protocol.transport)
            await self.turns(turns)
            protocol.transport.loseConnection()
            await self.until_ended(peer, producer.expected)
            await self.until_lost(protocol)

    async def test_closing_waits_for_a_paused_producer(self) -> None:
        """It may have more to send: it is resumed, and the connection closed once it has left."""
        for chunks in (1, 80):
            protocol, peer = await self.connection()
            # It is paused for each chunk, the last included.
            source = Source(protocol.transport, 2 * READ)
            source.written = len(MUCH) - chunks * 2 * READ
            source.run()
            if chunks == 1:
                # Sent, and not yet resumed.
                await self.turns(1)
            protocol.transport.loseConnection()
            await self.until_received(peer, MUCH[-chunks * 2 * READ :])
            await self.assert_rests()
            self.assertEqual((source.paused, protocol.lost), (False, []))
            protocol.transport.unregisterProducer()
            await self.until_ended(peer, MUCH[-chunks * 2 * READ :])
            await self.until_lost(protocol)

    async def test_closing_behind_a_producer_that_stays(self) -> None:
        """One that isn't paused any more isn't waited for, and one that was paused has all its say."""
        for close in ("loseConnection", "loseWriteConnection"):
            protocol, peer = await self.connection()
            # The last chunk is a smaller one.
            source = Source(protocol.transport, READ + 1)
            source.run()
            getattr(protocol.transport, close)()
            await self.until_ended(peer, MUCH)
            self.assertFalse(source.paused)

    async def test_no_room(self) -> None:
        """The kernel takes nothing for the moment, not even a part."""
        protocol, peer = await self.connection()
        sock = protocol.transport.socket

        class Full:
            def send(self, data: bytes, flags: int) -> int:
                protocol.transport.socket = sock
                raise BlockingIOError(errno.EAGAIN, "No room")

            def __getattr__(self, name: str) -> Any:
                return getattr(sock, name)

        protocol.transport.socket = Full()
        protocol.transport.write(b"hello")
        await self.until_received(peer, b"hello")
        await self.assert_rests()

    async def test_nothing_to_read(self) -> None:
        """Asked to read when there is nothing after all, it doesn't wait for something."""
        protocol, _ = await self.connection()
        self.assertIsNone(protocol.transport.doRead())
        self.assertFalse(protocol.lost)

    async def test_producer_is_stopped(self) -> None:
        """A producer is told when the connection is lost, once, however it is lost."""
        for end in ("loseConnection", "abortConnection", "close", "reset"):
            protocol, peer = await self.connection()
            source = Source(protocol.transport, 1)
            getattr(peer if end in {"close", "reset"} else protocol.transport, end)()
            await self.until(lambda protocol=protocol: protocol.lost)  # type: ignore[misc]
            self.assertEqual((source.stopped, len(protocol.lost)), (1, 1))

    async def test_reading_paused(self) -> None:
        """Paused, a protocol gets nothing, and nobody is kept busy by what waits; writing goes on."""
        protocol, peer = await self.connection()
        protocol.transport.pauseProducing()
        peer.send(b"hello")
        self.ready(protocol)
        await self.assert_rests()
        self.assertEqual(protocol.received, b"")
        protocol.transport.write(b"hello yourself")
        await self.until_received(peer, b"hello yourself")
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

    async def test_by_the_peer(self) -> None:
        for make in (self.connection, self.outgoing):
            protocol, peer = await make()
            peer.send(b"bye")
            peer.close()
            await self.until_lost(protocol)
            self.assertEqual(protocol.received, b"bye")

    async def test_half_closed_by_the_peer(self) -> None:
        """The protocol is told once, nobody is kept busy, and what is written then still arrives."""
        for make in (self.connection, self.outgoing):
            protocol, peer = await make(HalfRecorder)
            peer.send(b"question")
            peer.shut()
            await self.until(lambda protocol=protocol: protocol.read_lost)  # type: ignore[misc]
            await self.assert_rests()
            self.assertEqual((protocol.received, protocol.read_lost, protocol.lost), (b"question", 1, []))
            protocol.transport.write(b"answer")
            await self.until_received(peer, b"answer")
            protocol.last_word(MUCH)
            await self.until_ended(peer, b"answer" + MUCH)
            await self.until_lost(protocol)

    async def test_closed_as_soon_as_half_closed(self) -> None:
        """With and without a last word."""
        for last in (b"", b"last word"):
            protocol, peer = await self.connection(HalfRecorder)
            protocol.on_read_lost = partial(protocol.last_word, last)
            peer.shut()
            await self.until_ended(peer, last)
            await self.until_lost(protocol)
            self.assertEqual(protocol.read_lost, 1)

    async def test_half_closed_by_us(self) -> None:
        """All that was written arrives, then the end; what the peer sends is still read."""
        protocol, peer = await self.connection(HalfRecorder)
        protocol.transport.write(MUCH)
        protocol.transport.loseWriteConnection()
        await self.until_ended(peer, MUCH)
        self.assertEqual(protocol.write_lost, 1)
        protocol.transport.write(b"too late")
        peer.send(b"thanks")
        await self.until(lambda: protocol.received == b"thanks")
        await self.assert_rests()
        self.assertEqual(protocol.lost, [])
        protocol.transport.loseConnection()
        await self.until_lost(protocol)
        self.assertEqual(peer.read(), MUCH)

    async def test_half_closed_by_both(self) -> None:
        for peer_first in (True, False):
            protocol, peer = await self.connection(HalfRecorder)
            if peer_first:
                peer.shut()
                await self.assert_rests()
            protocol.transport.loseWriteConnection()
            await self.until_ended(peer)
            if not peer_first:
                peer.shut()
            await self.assert_rests()
            self.assertEqual((protocol.read_lost, protocol.write_lost, protocol.lost), (1, 1, []))
            protocol.transport.loseConnection()
            await self.until_lost(protocol)

    async def test_half_closed_by_us_and_closed_by_the_peer(self) -> None:
        """A protocol that doesn't care for half a connection loses it whole."""
        protocol, peer = await self.connection()
        protocol.transport.loseWriteConnection()
        await self.until_ended(peer)
        peer.close()
        await self.until_lost(protocol)

    async def test_half_closed_and_closed_at_once(self) -> None:
        for unsent in (b"", b"last word", MUCH):
            protocol, peer = await self.connection(HalfRecorder)
            protocol.transport.write(unsent)
            protocol.transport.loseWriteConnection()
            protocol.transport.loseConnection()
            await self.until_ended(peer, unsent)
            await self.until_lost(protocol)

    async def test_closed(self) -> None:
        """All that was written before arrives, then the end; closing once more changes nothing."""
        for make, unsent, times in product((self.connection, self.outgoing), (b"", b"last word", MUCH), (1, 3)):
            protocol, peer = await make()
            protocol.transport.write(unsent)
            for _ in range(times):
                protocol.transport.loseConnection()
            await self.until_ended(peer, unsent)
            await self.until_lost(protocol)

    async def test_closed_with_the_answer(self) -> None:
        """In the turn of the question."""
        protocol, peer = await self.connection()
        protocol.on_data = protocol.last_word
        peer.send(b"echo")
        await self.until_ended(peer, b"echo")
        await self.until_lost(protocol)

    async def test_closed_when_made(self) -> None:
        for make in (self.connection, self.outgoing):
            protocol = Recorder()
            protocol.on_made = partial(protocol.last_word, b"")
            _, peer = await make(partial(lambda made: made, protocol))
            await self.until_ended(peer)
            await self.until_lost(protocol)

    async def test_closed_while_there_is_room_again(self) -> None:
        """In the turn that brings data and has room for all that was left: that is the end, not half of it."""
        protocol, peer = await self.connection(HalfRecorder)
        written = await self.fill(protocol)
        protocol.on_data = lambda data: protocol.transport.loseConnection()
        peer.read()
        self.ready(protocol, events=select.POLLOUT)
        peer.send(b"x")
        self.ready(protocol)
        await self.until_ended(peer, written)
        await self.until_lost(protocol)
        self.assertEqual(protocol.read_lost, 0)

    async def test_written_after_closing(self) -> None:
        """As long as the connection is there, it is sent."""
        for late in (b"late", MUCH):
            protocol, peer = await self.connection()
            protocol.transport.loseConnection()
            protocol.transport.write(late)
            await self.until_ended(peer, late)
            await self.until_lost(protocol)

    async def test_heard_after_closing(self) -> None:
        """Nobody listens to the peer any more while the rest is sent, and nobody is kept busy by what it says."""
        for early, late in ((MUCH, b""), (b"", MUCH)):
            protocol, peer = await self.connection(HalfRecorder)
            protocol.transport.write(early)
            protocol.transport.loseConnection()
            protocol.transport.write(late)
            await self.until_resting()
            peer.send(b"x")
            peer.shut()
            self.ready(protocol)
            await self.assert_rests()
            self.assertEqual((protocol.received, protocol.read_lost, protocol.lost), (b"", 0, []))

    async def test_used_when_it_is_over(self) -> None:
        """Whatever is asked of a lost connection, it doesn't do and doesn't complain."""
        protocol, peer = await self.connection()
        transport = protocol.transport
        transport.loseConnection()
        await self.until_ended(peer)
        transport.write(b"x")
        transport.writeSequence([b"x"])
        transport.loseConnection()
        transport.abortConnection()
        transport.pauseProducing()
        transport.resumeProducing()
        transport.unregisterProducer()
        await self.until_lost(protocol)
        self.assertEqual(peer.read(), b"")

    async def test_written_when_lost(self) -> None:
        """A protocol that says goodbye to a peer that is gone, and to another that isn't."""
        for end in (Peer.close, Peer.shut):
            other, other_peer = await self.connection()
            protocol, peer = await self.connection(HalfRecorder)
            # That of the peer, or that of the turn.
            protocol.on_read_lost = protocol.close
            protocol.on_lost = partial(other.transport.writeSequence, [b"it ", b"is gone"])
            end(peer)
            await self.until_lost(protocol)
            await self.until_received(other_peer, b"it is gone")

    async def test_aborted(self) -> None:
        """The peer is reset, and gets nothing of what wasn't sent yet."""
        for make, unsent in product((self.connection, self.outgoing), (b"", b"x")):
            protocol, peer = await make()
            protocol.transport.write(unsent)
            protocol.transport.abortConnection()
            protocol.transport.write(unsent)
            protocol.transport.abortConnection()
            await self.until_reset(peer)
            self.assertEqual(peer.received, b"")
            await self.until_lost(protocol, ConnectionAborted)

    async def test_aborted_with_much_unsent(self) -> None:
        protocol, peer = await self.connection()
        protocol.transport.write(MUCH)
        await self.until_resting()
        protocol.transport.abortConnection()
        await self.until_reset(peer)
        await self.until_lost(protocol, ConnectionAborted)

    async def test_aborted_while_closing(self) -> None:
        """And closed while aborting: in either order the peer is reset."""
        for backwards, unsent in product((False, True), (b"", MUCH)):
            protocol, peer = await self.connection()
            protocol.transport.write(unsent)
            steps = [protocol.transport.loseConnection, protocol.transport.abortConnection]
            for step in reversed(steps) if backwards else steps:
                step()
            await self.until_reset(peer)
            await self.until_lost(protocol, ConnectionAborted)

    async def test_aborted_when_read(self) -> None:
        """In a turn, with more to read."""
        protocol, peer = await self.connection()
        protocol.on_data = lambda data: protocol.transport.abortConnection()
        peer.send(b"x" * (READ + 1))
        await self.until_reset(peer)
        await self.until_lost(protocol, ConnectionAborted)
        self.assertEqual(len(protocol.received), READ)

    async def test_reset(self) -> None:
        """Whether it is idle, has something that it couldn't send, or closes."""
        for make, kind in product((self.connection, self.outgoing), (Recorder, HalfRecorder)):
            for unsent, closing in ((b"", False), (MUCH, False), (MUCH, True)):
                protocol, peer = await make(kind)
                protocol.transport.write(unsent)
                if closing:
                    protocol.transport.loseConnection()
                await self.until_resting()
                peer.reset()
                await self.until_lost(protocol, ConnectionLost)

    async def test_reset_while_paused(self) -> None:
        """Something is to be sent, and the peer isn't read from."""
        protocol, peer = await self.connection()
        protocol.transport.write(MUCH)
        protocol.transport.pauseProducing()
        await self.until_resting()
        peer.reset()
        await self.until_lost(protocol, ConnectionLost)

    async def test_reset_while_written(self) -> None:
        """The send at the end of the turn is what finds out."""
        protocol, peer = await self.connection()
        protocol.transport.pauseProducing()
        peer.reset()
        self.ready(protocol, events=select.POLLHUP)
        protocol.transport.write(b"x")
        await self.until_lost(protocol, ConnectionLost)

    async def test_all_at_once(self) -> None:
        """Many connections that end in the same turn, each in its own way."""
        pairs = [await self.connection(HalfRecorder) for _ in range(40)]
        for number, (protocol, peer) in enumerate(pairs):
            protocol.on_data = protocol.last_word
            protocol.on_read_lost = protocol.transport.loseConnection
            (partial(peer.send, b"x"), peer.shut, peer.close, peer.reset)[number % 4]()
            self.ready(protocol, events=select.POLLIN | select.POLLHUP)
        await self.until(lambda: all(protocol.lost for protocol, _ in pairs))
        await self.assert_rests()
        reasons = [ConnectionDone, ConnectionDone, ConnectionDone, ConnectionLost] * 10
        self.assertEqual([protocol.lost for protocol, _ in pairs], [[reason] for reason in reasons])


class Odd(BaseException):
    """Something that isn't even an Exception, as SystemExit is none."""


def fail(*_: object) -> None:
    """Fail."""
    raise ZeroDivisionError


def fail_oddly(*_: object) -> None:
    """Fail in a way that few expect."""
    raise Odd


class FailureTests(SocketCase):
    """A protocol that fails ends its own connection, is logged, and is of no concern to others."""

    async def among_others(
        self, act: Callable[[Peer], object] = lambda peer: peer.send(b"x"), **hooks: Callable[..., object]
    ) -> tuple[Any, Peer]:
        """Let one of three that have something to do in the same turn fail, and return it; all else goes on.

        :param act: what its peer does.
        :param hooks: what it does, see :class:`Recorder`; called with the protocol first.
        """
        first, (failing, failing_peer), last = [await self.connection(HalfRecorder) for _ in range(3)]
        for name, hook in hooks.items():
            setattr(failing, name, partial(hook, failing))
        for protocol in (first[0], last[0]):
            protocol.on_data = protocol.transport.write
        first[1].send(b"before")
        self.ready(first[0])
        act(failing_peer)
        self.ready(failing, events=select.POLLIN | select.POLLHUP)
        last[1].send(b"behind")
        self.ready(last[0])
        await self.until_received(first[1], b"before")
        await self.until_received(last[1], b"behind")
        await self.until(lambda: failing.lost)
        self.assertEqual(len(failing.lost), 1)
        for protocol, peer in (first, last, await self.connection()):
            await self.assert_echoes(protocol, peer)
            self.reactor.callLater(0, protocol.transport.write, b" out of turn")
            await self.until_received(peer, peer.read() + b" out of turn")
        await self.assert_rests()
        return failing, failing_peer

    def assert_logged(self, count: int, kind: type[BaseException] = ZeroDivisionError) -> None:
        """So many failures were."""
        self.assertEqual(len(self.flushLoggedErrors(kind)), count)

    async def test_when_read(self) -> None:
        failing, peer = await self.among_others(on_data=fail)
        self.assertEqual(failing.lost, [ZeroDivisionError])
        await self.until_ended(peer)
        self.assert_logged(1)

    async def test_oddly(self) -> None:
        failing, peer = await self.among_others(on_data=fail_oddly, on_lost=fail_oddly)
        self.assertEqual(failing.lost, [Odd])
        await self.until_ended(peer)
        self.assert_logged(2, Odd)

    async def test_when_half_closed(self) -> None:
        failing, peer = await self.among_others(Peer.shut, on_read_lost=fail)
        self.assertEqual(failing.lost, [ZeroDivisionError])
        await self.until_ended(peer)
        self.assert_logged(1)

    async def test_when_lost(self) -> None:
        failing, _ = await self.among_others(Peer.reset, on_lost=fail)
        self.assertEqual(failing.lost, [ConnectionLost])
        self.assert_logged(1)

    async def test_when_read_and_lost(self) -> None:
        """It fails even at being told that it failed."""
        failing, peer = await self.among_others(on_data=fail, on_lost=fail)
        self.assertEqual(failing.lost, [ZeroDivisionError])
        await self.until_ended(peer)
        self.assert_logged(2)

    async def test_when_closed_at_the_end_of_the_turn(self) -> None:
        failing, peer = await self.among_others(Peer.shut, on_read_lost=HalfRecorder.close, on_lost=fail)
        self.assertEqual(failing.lost, [ConnectionDone])
        await self.until_ended(peer)
        self.assert_logged(1)

    async def test_when_the_send_fails(self) -> None:
        """At the end of the turn, with others that are still to be sent."""
        pairs = [await self.connection() for _ in range(3)]
        failing, failing_peer = pairs[1]
        failing.on_lost = fail
        failing.transport.pauseProducing()
        failing_peer.reset()
        self.ready(failing, events=select.POLLHUP)
        for protocol, _ in pairs:
            protocol.transport.write(b"x")
        for protocol, peer in (pairs[0], pairs[2]):
            await self.until_received(peer, b"x")
            await self.assert_echoes(protocol, peer)
        await self.until_lost(failing, ConnectionLost)
        self.assert_logged(1)

    async def test_when_resumed(self) -> None:
        """A producer fails."""
        protocol, peer = await self.connection()
        source = Source(protocol.transport, READ + 1)
        source.run()
        source.resumeProducing = fail  # type: ignore[method-assign]
        await self.until(peer.at_end)
        await self.until_lost(protocol, ZeroDivisionError)
        self.assert_logged(1)
        await self.assert_echoes(*await self.connection())

    async def test_when_our_side_is_shut(self) -> None:
        protocol, peer = await self.connection(HalfRecorder)
        protocol.on_write_lost = fail
        protocol.transport.loseWriteConnection()
        await self.until_ended(peer)
        await self.until_lost(protocol, ZeroDivisionError)
        self.assert_logged(1)

    async def test_when_made(self) -> None:
        """The port goes on accepting, those in the same turn included."""
        protocol = Recorder()
        protocol.on_made = fail
        self.next = [Recorder, lambda: protocol, Recorder]
        peers = [self.peer() for _ in range(3)]
        await self.until_ended(peers[1])
        await self.until_lost(protocol, ZeroDivisionError)
        self.assert_logged(1)
        await self.assert_echoes(self.accepted[0], peers[0])
        await self.assert_echoes(self.accepted[2], peers[2])
        await self.assert_echoes(*await self.connection())

    async def test_when_built(self) -> None:
        """A factory fails: the connection is closed, and the port goes on."""

        def fail_to_build() -> None:
            fail()

        self.next = [Recorder, fail_to_build, Recorder]
        peers = [self.peer() for _ in range(3)]
        await self.until_ended(peers[1])
        self.assert_logged(1)
        await self.assert_echoes(self.accepted[0], peers[0])
        await self.assert_echoes(self.accepted[1], peers[2])
        await self.assert_echoes(*await self.connection())

    async def test_when_connected(self) -> None:
        """A connection that was made fails when it is told so."""
        protocol = Recorder()
        protocol.on_made = fail
        with socket.create_server((LOOPBACK, 0)) as listener:
            self.connect(protocol, listener.getsockname()[1])
            await self.until_lost(protocol, ZeroDivisionError)
        self.assert_logged(1)
        await self.assert_echoes(*await self.outgoing())


class PortTests(SocketCase):
    """Accepting, and not accepting."""

    async def test_many(self) -> None:
        """More than are accepted in a turn: none is left out, and who is there already isn't kept waiting."""
        protocol, peer = await self.connection()
        protocol.on_data = protocol.transport.write
        crowd = [self.peer() for _ in range(ACCEPTS + 20)]
        peer.send(b"x")
        self.ready(self.port, protocol)
        await self.turns(1)
        self.assertLessEqual(len(self.accepted), 1 + ACCEPTS)
        self.assertEqual(peer.read(), b"x")
        await self.until(lambda: len(self.accepted) == 1 + len(crowd))
        for each, its_peer in zip(self.accepted[1:], crowd, strict=True):
            await self.assert_echoes(each, its_peer)

    async def test_one_a_turn(self) -> None:
        """The others are left to whoever accepts from the same socket."""
        self.group.accepts = 1
        before = self.group.turns
        crowd = [self.peer() for _ in range(3)]
        await self.until(lambda: len(self.accepted) == len(crowd))
        self.assertGreaterEqual(self.group.turns - before, len(crowd))

    async def test_left_to_others(self) -> None:
        """For a moment; if nobody took it, it is accepted, and so is all that comes within a while."""
        asked: list[bool] = []

        def gives_way() -> bool:
            asked.append(True)
            return True

        self.group.gives_way = gives_way
        peer = self.peer()
        await self.until(lambda: asked)
        await self.assert_rests()
        self.assertEqual(self.accepted, [])
        self.delays.clock.advance(COURTESY)
        await self.until(lambda: self.accepted)
        await self.assert_echoes(self.accepted[0], peer)
        self.peer()
        await self.until(lambda: len(self.accepted) == 2)
        self.assertEqual(len(asked), 1)
        self.delays.clock.advance(INSISTENCE)
        self.peer()
        await self.until(lambda: len(asked) == 2)
        self.delays.clock.advance(COURTESY)
        await self.until(lambda: len(self.accepted) == 3)

    async def test_left_to_others_and_taken(self) -> None:
        """The next one may be left to them too."""
        asked: list[bool] = []

        def gives_way() -> bool:
            asked.append(True)
            return True

        self.group.gives_way = gives_way
        self.peer()
        await self.until(lambda: asked)
        taken, _ = self.port.socket.accept()
        self.addCleanup(taken.close)
        self.delays.clock.advance(COURTESY)
        self.peer()
        await self.until(lambda: len(asked) == 2)
        self.assertEqual(self.accepted, [])
        self.delays.clock.advance(COURTESY)
        await self.until(lambda: self.accepted)

    async def test_nobody_to_leave_it_to(self) -> None:
        self.group.gives_way = lambda: False
        peer = self.peer()
        await self.until(lambda: self.accepted)
        await self.assert_echoes(self.accepted[0], peer)

    async def test_told_to_stop_in_a_burst(self) -> None:
        """The rest stays in the backlog until the port is told to start again."""

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
        await self.until_ended(self.peer())
        await self.assert_echoes(*await self.connection())

    async def test_stopped(self) -> None:
        """Nobody is accepted any more, and those that are there stay."""
        pair = await self.connection()
        await self.port.stopListening()
        with self.assertRaises(OSError), socket.create_connection(pair[1].socket.getpeername()):
            pass
        await self.assert_echoes(*pair)

    async def test_stopped_in_a_burst(self) -> None:
        def second() -> Recorder:
            self.port.stopListening()
            return Recorder()

        self.next = [Recorder, second]
        peers = [self.peer() for _ in range(4)]
        await self.until(peers[3].at_end)
        self.assertEqual(len(self.accepted), 2)
        await self.assert_echoes(self.accepted[0], peers[0])
        await self.assert_echoes(self.accepted[1], peers[1])

    async def test_told_to_start_when_it_is_closed(self) -> None:
        """Who does so comes late, and needn't know that."""
        closed = self.port.stopListening()
        self.port.startReading()
        await closed
        self.port.startReading()
        self.port.stopReading()

    async def test_ipv6(self) -> None:
        try:
            port: Any = self.group.listenTCP(0, self.factory, interface="::1")
        except CannotListenError as error:
            raise SkipTest(f"no ::1 here: {error}") from None
        self.ports.append(port)
        client = Recorder()
        await connectProtocol(TCP6ClientEndpoint(self.group, "::1", port.getHost().port), client)
        await self.until(lambda: self.accepted)
        (server,) = self.accepted
        for here, there in ((client, server), (server, client)):
            self.assertEqual(here.transport.getHost(), there.transport.getPeer())
            self.assertEqual((here.transport.getHost().type, here.transport.getHost().host), ("TCP", "::1"))
        server.on_data = server.last_word
        client.transport.write(b"hello")
        await self.until(lambda: client.lost and server.lost)
        self.assertEqual(client.received, b"hello")

    async def test_ipv6_link(self) -> None:
        """The address of a peer that only holds on one link names that link: nobody could connect to it without."""
        host = link_local_address()
        if host is None:
            raise SkipTest("no link-local address here")
        built: list[Any] = []

        def build(addr: Any) -> Any:
            built.append(addr)
            return self.make(addr)

        self.factory.buildProtocol = build  # type: ignore[method-assign]
        port: Any = self.group.listenTCP(0, self.factory, interface="::")
        self.ports.append(port)
        address = socket.getaddrinfo(host, port.getHost().port, socket.AF_INET6, socket.SOCK_STREAM)[0][4]
        self.peers.append(Peer.to(address, socket.AF_INET6))
        await self.until(lambda: self.accepted)
        transport = self.accepted[0].transport
        self.assertEqual([each.host for each in (*built, transport.getPeer(), transport.getHost())], [host] * 3)

    async def test_adopted(self) -> None:
        """A socket that listens already, as systemd hands it over, is listened to, and not closed for others."""
        with socket.create_server((LOOPBACK, 0)) as listener:
            listener.setblocking(False)
            # The endpoint closes the number that it is given.
            endpoint = AdoptedStreamServerEndpoint(self.group, os.dup(listener.fileno()), socket.AF_INET)
            port: Any = await endpoint.listen(self.factory)
            self.assertEqual(port.getHost(), IPv4Address("TCP", *listener.getsockname()))
            peer = self.peer(port)
            await self.until(lambda: self.accepted)
            await self.assert_echoes(self.accepted[0], peer)
            await port.stopListening()
            self.peers.append(Peer.to(listener.getsockname()))

    async def test_adopted_unix(self) -> None:
        """What isn't TCP is the reactor's."""
        path = self.mktemp()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)
            listener.bind(path)
            listener.listen()
            self.ports.append(self.group.adoptStreamPort(listener.fileno(), socket.AF_UNIX, self.factory))
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

    def full_listener(self) -> int:
        """A port where a connection is neither accepted nor refused, because its backlog is full."""
        listener = socket.socket()
        self.addCleanup(listener.close)
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        for _ in range(4):
            filling = socket.socket()
            self.addCleanup(filling.close)
            filling.setblocking(False)
            filling.connect_ex(listener.getsockname())
        return int(listener.getsockname()[1])

    async def test_refused(self) -> None:
        with socket.socket() as unused:
            unused.bind((LOOPBACK, 0))
            with self.assertRaises(ConnectionRefusedError):
                await self.connect(Recorder(), unused.getsockname()[1])
        await self.assert_rests()

    async def test_no_answer(self) -> None:
        connecting = self.connect(Recorder(), self.full_listener(), timeout=5)
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
        port = self.full_listener()
        for turns in (0, SOME):
            connecting = self.connect(Recorder(), port)
            await self.turns(turns)
            connecting.cancel()
            with self.assertRaises(ConnectingCancelledError):
                await connecting
            await self.assert_rests()

    async def test_no_protocol(self) -> None:
        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: None  # type: ignore[method-assign]
        with self.assertRaises(NoProtocol):
            await TCP4ClientEndpoint(self.group, LOOPBACK, self.port.getHost().port).connect(factory)
        await self.until(lambda: self.accepted and self.accepted[0].lost)

    async def test_bound_address(self) -> None:
        client = Recorder()
        await self.connect(client, bindAddress=("127.0.0.2", 0))
        await self.until(lambda: self.accepted)
        self.assertEqual(self.accepted[0].transport.getPeer().host, "127.0.0.2")
        client.transport.loseConnection()
        await self.until_lost(client)


class DescriptorTests(SocketCase):
    """Descriptors are few, and their numbers are used again."""

    @asynccontextmanager
    async def exhausted(self, count: int) -> AsyncIterator[list[Peer]]:
        """So many that wait to be accepted while the process can have no further files.

        It must end where a test fails: even the failure couldn't be noted without a file.
        """
        # The reactor itself needs some when it starts.
        await self.turns(1)
        peers = [self.peer() for _ in range(count)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        first_free = os.dup(0)
        os.close(first_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
        try:
            await self.turns()
            yield peers
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def complaints(self, events: Sequence[LogEvent]) -> int:
        """How often it was said that nobody can be accepted."""
        return sum("Can't accept" in (formatEvent(event) or "") for event in events)

    async def test_closed_earlier_in_the_turn(self) -> None:
        """What had come for a connection that is closed before its turn came isn't given to it, or to its successor."""
        closed, closed_peer = await self.connection()
        number = closed.transport.fileno()
        closing, closing_peer = await self.connection()
        closed.transport.loseWriteConnection()
        await self.until_ended(closed_peer)
        # At once, as its writing side is shut.
        closing.on_data = lambda data: closed.transport.loseConnection()
        with ExitStack() as stack:
            # The next free number will be that one.
            while (hole := os.dup(0)) < number:
                stack.callback(os.close, hole)
            stack.callback(os.close, hole)
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

    async def test_closing_earlier_in_the_turn(self) -> None:
        """The same for one that is to be closed at the end of the turn."""
        closed, closed_peer = await self.connection(HalfRecorder)
        closing, closing_peer = await self.connection()
        closing.on_data = closed.last_word
        closing_peer.send(b"bye")
        self.ready(closing)
        closed_peer.shut()
        self.ready(closed)
        await self.until_ended(closed_peer, b"bye")
        await self.until_lost(closed)
        self.assertEqual((closed.received, closed.read_lost), (b"", 0))

    async def test_none_left(self) -> None:
        """Nobody is accepted for a while, which is said once and costs nothing; who is there goes on."""
        pair = await self.connection()
        with capturedLogs() as events:
            async with self.exhausted(3) as peers:
                await self.assert_rests()
                await self.assert_echoes(*pair)
                self.assertEqual((len(self.accepted), self.complaints(events)), (1, 1))
                self.delays.clock.advance(PAUSE)
                await self.assert_rests()
                self.assertEqual((len(self.accepted), self.complaints(events)), (1, 2))
            self.delays.clock.advance(PAUSE)
            await self.until(lambda: len(self.accepted) == 4)
            self.assertEqual(self.complaints(events), 2)
        for protocol, peer in zip(self.accepted[1:], peers, strict=True):
            await self.assert_echoes(protocol, peer)

    async def test_none_left_and_told_to_stop(self) -> None:
        """Who told the port to stop meanwhile has the say: a pause only ends what it began."""
        async with self.exhausted(1) as peers:
            self.port.stopReading()
        self.delays.clock.advance(PAUSE)
        await self.assert_rests()
        self.assertEqual(self.accepted, [])
        self.port.startReading()
        await self.until(lambda: self.accepted)
        await self.assert_echoes(self.accepted[0], peers[0])

    async def test_none_left_and_told_to_start(self) -> None:
        """It is one pause, whoever wants to end it early."""
        with capturedLogs() as events:
            async with self.exhausted(1):
                for _ in range(3):
                    self.port.stopReading()
                    self.port.startReading()
                    await self.turns()
                await self.assert_rests()
                self.assertEqual((self.complaints(events), len(self.delays.clock.getDelayedCalls())), (1, 1))
        self.delays.clock.advance(PAUSE)
        await self.until(lambda: self.accepted)

    async def test_none_left_and_stopped(self) -> None:
        """No pause outlives its port."""
        async with self.exhausted(1):
            self.assertEqual(len(self.delays.clock.getDelayedCalls()), 1)
        await self.port.stopListening()
        self.assertEqual(self.delays.clock.getDelayedCalls(), [])


class TLSTests(SocketCase):
    """With TLS on top."""

    def pem(self) -> str:
        """A key and a certificate, in a file."""
        x509 = import_module("cryptography.x509")
        hashes = import_module("cryptography.hazmat.primitives.hashes")
        codes = import_module("cryptography.hazmat.primitives.serialization")
        ec = import_module("cryptography.hazmat.primitives.asymmetric.ec")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "rproxy")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        private = key.private_bytes(codes.Encoding.PEM, codes.PrivateFormat.PKCS8, codes.NoEncryption())
        path = Path(self.mktemp())
        path.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(codes.Encoding.PEM))
        return str(path)

    async def test_endpoints(self) -> None:
        """A TLS port is the reactor's; over a connection of the group's TLS is spoken as over any other."""
        from twisted.internet.endpoints import wrapClientTLS

        options = import_module("twisted.internet.ssl").CertificateOptions
        pem = self.pem()
        description = f"ssl:0:interface={LOOPBACK}:privateKey={pem}:certKey={pem}"
        port: Any = await serverFromString(self.group, description).listen(self.factory)
        self.ports.append(port)
        client = Recorder()
        endpoint = TCP4ClientEndpoint(self.group, LOOPBACK, port.getHost().port)
        await connectProtocol(wrapClientTLS(options(), endpoint), client)
        await self.until(lambda: self.accepted)
        (server,) = self.accepted
        server.on_data = server.transport.write
        client.transport.write(MUCH)
        await self.until(lambda: len(client.received) == len(MUCH))
        self.assertEqual(client.received, MUCH)
        client.transport.loseConnection()
        await self.until(lambda: client.lost and server.lost)
        # Twisted itself uses of pyOpenSSL what newer ones would rather not have used.
        self.flushWarnings()

    async def test_not_in_between(self) -> None:
        """What would be written in the clear after all isn't written."""
        protocol, _ = await self.connection()
        with self.assertRaises(NotImplementedError):
            protocol.transport.startTLS(import_module("twisted.internet.ssl").CertificateOptions())


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


class ProcessTests(SynchronousTestCase):
    """What a test can only see in another process."""

    def test_everybody_is_told(self) -> None:
        """The reactor stops, and each protocol hears that, those that fail then notwithstanding."""
        ended = run([sys.executable, "-c", _STOPPED])
        self.assertEqual(ended.returncode, 0, ended.stderr)
        lost = [f"lost {number} ConnectionLost" for number in range(1, 7)]
        self.assertEqual(sorted(ended.stdout.splitlines()), ["left False", *lost])

    def test_proxy_without_descriptors(self) -> None:
        """Clients that are there go on, those that come wait, and in between the proxy rests."""
        question = data_packet("1", "111", "xyz1")
        with ExitStack() as stack:
            proxy = stack.enter_context(Twistd("rproxy", "--port", "0"))
            first = stack.enter_context(Talk(proxy.port))
            self.assertEqual(first.ask(question)["error"], "no-server")
            # What is open now, and a few more.
            numbers = {int(entry.name) for entry in Path(f"/proc/{proxy.pid}/fd").iterdir()}
            limit = max(numbers) + 1 + 3
            hard = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (limit, hard))
            served = [stack.enter_context(Talk(proxy.port)) for _ in range(limit - len(numbers))]
            for talk in served:
                self.assertEqual(talk.ask(question)["error"], "no-server")
            waiting = [stack.enter_context(Talk(proxy.port)) for _ in range(5)]
            for talk in waiting:
                talk.send(question)

            def complaints() -> int:
                return proxy.log.count("Can't accept connections for now")

            wait_for(complaints, PATIENCE, "the first pause")
            before = cpu_seconds(proxy.pid)
            wait_for(lambda: complaints() >= 3, PATIENCE, "two more pauses")
            self.assertLess(cpu_seconds(proxy.pid) - before, PAUSE / 2)
            self.assertEqual(first.ask(question)["error"], "no-server")
            for talk in served:
                talk.close()
            for talk in waiting:
                self.assertEqual(talk.answer()["error"], "no-server")
                talk.close()
            self.assertEqual(first.ask(question)["error"], "no-server")
            self.assertNotRegex(proxy.log, FAULT)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
