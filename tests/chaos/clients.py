"""Clients that send in bursts, many packets before the first answer, and write down all that they see."""

from __future__ import annotations

import asyncio
import codecs
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import cast

from tests.chaos.history import Answer, Connection, End, Packet
from tests.chaos.plan import Burst, Draft

HOST = "127.0.0.1"
#: Packets of a connection that may be unanswered; less than the proxy reads, so that no packet waits unread.
WINDOW = 100
#: Packets that a client sends right before it vanishes.
LAST_BURST = 5
#: Seconds between two attempts to reach a proxy that is gone.
RETRY = 0.02


class Wire(asyncio.Protocol):
    """One connection: the answers that come are written into its record.

    :param record: what it is to history.
    """

    def __init__(self, record: Connection) -> None:
        self.record = record
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.record.began = time.monotonic()
        self.record.port = transport.get_extra_info("sockname")[1]

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        text = self.record.leftover + self._utf8.decode(data)
        while text:
            try:
                fields, end = self._json.raw_decode(text)
            except ValueError:
                break
            self.record.answers.append(Answer(now, fields))
            text = text[end:].lstrip()
        self.record.leftover = text
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.record.end is End.OPEN:
            self.record.end = End.CUT
        self.record.ended_at = time.monotonic()
        self._changed.set()

    @property
    def usable(self) -> bool:
        """Whether packets may be sent over it."""
        return self.record.end is End.OPEN

    def send(self, drafts: list[Draft]) -> None:
        """Send packets in one go."""
        now = time.monotonic()
        self.record.packets += [Packet(draft, now) for draft in drafts]
        self._transport.write(b"".join(map(encode, drafts)))

    def vanish(self, form: str) -> None:
        """Leave in one of the forms of :data:`tests.chaos.plan.VANISH_FORMS`."""
        if form == "shut":
            try:
                self._transport.write_eof()
            except OSError:
                # The other side was killed, and the reader will be told so.
                return
            self.record.end = End.SHUT
            return
        self.record.end = End.LEFT
        if form == "reset":
            peer: socket.socket = self._transport.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def room_for(self, packets: int, seconds: float) -> bool:
        """Wait until so many packets more may be sent, and return whether they may."""
        await self._until(lambda: len(self.record.unanswered) + packets <= WINDOW, seconds)
        return self.usable and len(self.record.unanswered) + packets <= WINDOW

    async def answered(self, seconds: float) -> bool:
        """Wait until nothing is unanswered, and return whether more may be sent."""
        await self._until(lambda: not self.record.unanswered, seconds)
        return self.usable and not self.record.unanswered

    async def finish(self, seconds: float) -> None:
        """Wait for the answers that are due, and close."""
        if self.usable:
            await self.answered(seconds)
        if self.usable:
            self.record.end = End.DONE
            self._transport.close()
        await self._until(lambda: False, seconds)
        # A connection that doesn't end by itself is seen in the record, and must not stay.
        self._transport.abort()

    async def _until(self, predicate: Callable[[], bool], seconds: float) -> None:
        """Wait until the record fulfils the predicate; no longer than so many seconds, or than the connection lives."""
        # What is missing then is for the oracle to tell.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not (predicate() or self.record.ended_at):
                    self._changed.clear()
                    await self._changed.wait()


def encode(draft: Draft) -> bytes:
    """Return the bytes of a packet."""
    packet = {"type": "0", "srcid": draft.client_id, "privPoliId": draft.policy, "payload": draft.payload}
    return json.dumps(packet, ensure_ascii=False).encode()


class Client:
    """A client, over all its connections.

    :param drafts: its packets.
    :param bursts: when it sends them, in seconds since the traffic began.
    :param single: whether it makes a connection for each packet.
    :param open_record: makes the record of a connection that was just made.
    :param patience: how long an answer may take, in seconds.
    """

    def __init__(
        self,
        port: int,
        drafts: Iterator[Draft],
        bursts: Iterator[Burst],
        single: bool,
        open_record: Callable[[], Connection],
        patience: float,
    ) -> None:
        self._port = port
        self._drafts = drafts
        self._bursts = bursts
        self._single = single
        self._open_record = open_record
        self._patience = patience
        self._wire: Wire | None = None
        self._leaving: list[Wire] = []
        self._lock = asyncio.Lock()

    async def run(self, until: Callable[[float], Awaitable[None]]) -> None:
        """Send all bursts, as long as answers come.

        :param until: waits for a time since the traffic began.
        """
        for burst in self._bursts:
            await until(burst.at)
            async with self._lock:
                if not await self._send(list(burst.drafts)):
                    return

    async def vanish(self, form: str) -> int:
        """Send a last burst and leave at once, and return how many packets were unanswered.

        The next burst goes over a new connection.
        """
        async with self._lock:
            wire = await self._connected()
            wire.send(list(islice(self._drafts, 1 if self._single else LAST_BURST)))
            unanswered = len(wire.record.unanswered)
            wire.vanish(form)
            self._leave(wire)
        return unanswered

    async def finish(self) -> None:
        """Wait for the answers that are due, on all connections, and close them."""
        if self._wire is not None:
            self._leave(self._wire)
        await asyncio.gather(*(wire.finish(self._patience) for wire in self._leaving))

    async def _send(self, drafts: list[Draft]) -> bool:
        """Send packets; False if no answer came for so long that none will."""
        wire = await self._connected()
        while not await wire.room_for(len(drafts), self._patience):
            if wire.usable:
                return False
            wire = await self._connected()
        wire.send(drafts)
        if self._single:
            await wire.finish(self._patience)
        return True

    async def _connected(self) -> Wire:
        """Return the connection, and make one where there is none: the proxy always comes back."""
        while self._wire is None or not self._wire.usable:
            try:
                _, self._wire = await asyncio.get_running_loop().create_connection(
                    lambda: Wire(self._open_record()), HOST, self._port
                )
            except OSError:
                await asyncio.sleep(RETRY)
        return self._wire

    def _leave(self, wire: Wire) -> None:
        self._leaving.append(wire)
        self._wire = None
