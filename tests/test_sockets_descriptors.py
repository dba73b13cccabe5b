"""What a group does without a descriptor to spare."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

from twisted.internet.error import ConnectionDone
from twisted.logger import LogEvent, capturedLogs, formatEvent

from rproxy.sockets.ports import PAUSE
from tests.socketcase import SocketCase
from tests.socketends import HalfRecorder, Peer


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
