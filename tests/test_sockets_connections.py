"""Grouped connections behave as Twisted's do: what is sent arrives, at the pace of whoever reads it."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPullProducer, IPushProducer
from zope.interface import implementer

from rproxy.sockets.connections import READ
from tests.socketcase import MUCH, SocketCase
from tests.socketends import Recorder, SendCounter


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
