"""One grouped connection's failure is nobody else's."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost

from rproxy.sockets.connections import READ
from tests.socketcase import SocketCase
from tests.socketends import LOOPBACK, HalfRecorder, Peer, Recorder
from tests.test_sockets_connections import Source


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
