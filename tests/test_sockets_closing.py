"""How grouped connections end, and who is told of it."""

from __future__ import annotations

import select
from functools import partial
from itertools import product

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost

from rproxy.sockets.connections import READ
from tests.socketcase import MUCH, SocketCase
from tests.socketends import HalfRecorder, Peer, Recorder


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
