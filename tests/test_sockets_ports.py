"""Ports that accept grouped connections."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import AdoptedStreamServerEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SkipTest

from rproxy.sockets.ports import COURTESY, INSISTENCE
from rproxy.sockets.turns import ACCEPTS
from tests.socketcase import SocketCase
from tests.socketends import LOOPBACK, Peer, Recorder
from tests.test_sockets_connecting import link_local_address


class PortTests(SocketCase):
    """Accepting, and not accepting."""

    def addresses(self) -> list[Any]:
        """Those that the factory is told, from now on."""
        told: list[Any] = []

        def build(addr: Any) -> Any:
            told.append(addr)
            return self.make(addr)

        self.factory.buildProtocol = build  # type: ignore[method-assign]
        return told

    async def test_address(self) -> None:
        """It is no other than Twisted would have made."""
        told = self.addresses()
        _, peer = await self.connection()
        made = IPv4Address("TCP", *peer.socket.getsockname())
        self.assertEqual([(made, hash(made), repr(made), vars(made))], [(a, hash(a), repr(a), vars(a)) for a in told])

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
        built = self.addresses()
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
