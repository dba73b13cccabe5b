"""Test cases with a group of real sockets of this machine.

One end is the group's, the other a plain socket that does nothing by itself (:class:`~tests.socketends.Peer`), so that
a test decides what is ready before the reactor takes its next turn.
"""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from rproxy.sockets import SocketGroup
from rproxy.sockets.connections import READ
from tests.socketends import LOOPBACK, Make, Peer, Recorder
from tests.support import PATIENCE

#: More than the kernels of both ends hold together.
MUCH = random.Random(1).randbytes(10 << 20)
#: Turns after which whatever would happen has happened.
SOME = 10


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
