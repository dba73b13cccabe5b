"""Sends packets and takes the time of each answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults

from rproxy.client import Answer, ProxyError, is_correct
from rproxy.packets import Error
from rproxy.simulation.plan import Packet
from rproxy.simulation.verdict import Outcome

#: Called with the number of each packet, from 0, and what came of it.
Heard = Callable[[int, Outcome], object]


class Connection(Protocol):
    """What is needed of :class:`rproxy.client.Client`."""

    def exchange(self, raw: bytes, client_id: str) -> Deferred[Answer]:
        """Send a packet, get its answer."""

    def close(self) -> Deferred[None]:
        """Close it."""


@define(eq=False)
class Traffic:
    """The packets of one simulation on their way.

    :param clients: connections, each with every ``clients``-th packet.
    :param connect: gives a connection, which is made when it is first used.
    :param seconds: a monotonic clock.
    """

    _packets: Sequence[Packet]
    _clients: int
    _connect: Callable[[], Connection]
    _seconds: Callable[[], float]
    _heard: Heard
    _connections: dict[int, Connection] = field(factory=dict, init=False)
    #: How many packets each connection still has to carry.
    _left: Counter[int] = field(factory=Counter, init=False)

    async def send(self, concurrency: int) -> None:
        """Send all packets in their order, so many at a time; return when each has its answer or won't get one."""
        numbers = iter(range(len(self._packets)))
        self._left.update(number % self._clients for number in range(len(self._packets)))

        async def work() -> None:
            for number in numbers:
                await self._send(number)

        workers = [Deferred.fromCoroutine(work()) for _ in range(min(concurrency, len(self._packets)))]
        await gatherResults(workers, consumeErrors=True)

    async def close(self) -> None:
        """Close the connections that are open."""
        while self._connections:
            _, connection = self._connections.popitem()
            await connection.close()

    async def _send(self, number: int) -> None:
        client = number % self._clients
        if client not in self._connections:
            self._connections[client] = self._connect()
        self._heard(number, await self._exchange(self._packets[number], self._connections[client]))
        self._left[client] -= 1
        if not self._left[client]:
            await self._connections.pop(client).close()

    async def _exchange(self, packet: Packet, connection: Connection) -> Outcome:
        started = self._seconds()
        try:
            answer = (await connection.exchange(packet.raw, packet.client_id)).packet
        except ProxyError as error:
            return Outcome(packet, error=f"{error.code}: {error.text}")
        seconds = self._seconds() - started
        if isinstance(answer, Error):
            return Outcome(packet, seconds=seconds, error=f"{answer.error}: {answer.payload}")
        return Outcome(packet, answer.srcid, is_correct(packet.payload, answer), seconds)
