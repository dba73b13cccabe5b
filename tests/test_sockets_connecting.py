"""Grouped connections that are made from here."""

from __future__ import annotations

import socket
from pathlib import Path

from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectingCancelledError, ConnectionRefusedError, NoProtocol, TimeoutError
from twisted.internet.protocol import Factory

from tests.socketcase import SOME, SocketCase
from tests.socketends import LOOPBACK, Recorder


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
