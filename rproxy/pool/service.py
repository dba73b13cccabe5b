"""The life of a pool server: it listens, then registers; it stops being sent to, then stops serving.

A proxy connects to a server as soon as it knows it, so the port has to be open by then. And it is open until the end,
because a proxy that can't be told to send no more may still do so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.hostports import format_address
from rproxy.listening import ListenError, ListenerService
from rproxy.pool.registrar import Registrar
from rproxy.pool.server import PoolServerFactory

#: How long connections may take to send the last answers at the end, in seconds.
CLOSE_TIMEOUT = 2.0

#: How long packets may be on their way from proxies that were asked for no more, in seconds, where another proxy
#: doesn't answer that: a proxy that does closes its connections at once when they are idle.
ON_THEIR_WAY = 2.0

#: A proxy's host and port.
Address = tuple[str, int]


class PoolService(Service):
    """One pool server.

    :param listener: where ``factory`` listens.
    :param policies: what it serves, in the order that it says so.
    :param register: makes the registrars for all policies at one proxy, given the port that is listened on.
    :param drain_timeout: how long a stop may wait for what is in flight, in seconds.
    """

    _log = Logger()

    def __init__(
        self,
        listener: ListenerService,
        factory: PoolServerFactory,
        policies: Sequence[str],
        proxies: Sequence[Address],
        register: Callable[[Address, int], Sequence[Registrar]],
        drain_timeout: float,
        clock: IReactorTime,
    ) -> None:
        self._listener = listener
        self._factory = factory
        self._policies = policies
        self._proxies = proxies
        self._register = register
        self._drain_timeout = drain_timeout
        self._clock = clock
        self._port = 0
        #: One for each policy at each proxy.
        self.registrars: list[Registrar] = []

    @property
    def registered(self) -> int:
        """How many registrations proxies have confirmed, and hold."""
        return sum(registrar.is_registered for registrar in self.registrars)

    @property
    def in_flight(self) -> int:
        """How many packets it works on."""
        return self._factory.in_flight.number

    def privilegedStartService(self) -> None:
        """Listen.

        :raises ListenError: that isn't possible.
        """
        super().privilegedStartService()
        self._log.info(
            "Server running with id {server}", event="server-running", server=self._factory.handling.server_id
        )
        for policy in self._policies:
            self._log.info("Server serving privacy policy {policy}", event="policy-served", policy=policy)
        self._listener.privilegedStartService()
        try:
            self._port = self._listener.port
        except ValueError as error:
            raise ListenError(f"A pool server listens on TCP: {error}") from None
        self._log.info("Listening on port {port}", event="listening", port=self._port)

    def startService(self) -> None:
        """Register."""
        super().startService()
        self._listener.startService()
        if len(self._proxies) > 1:
            # The lines that people know tell the ports only.
            names = ", ".join(format_address(*proxy) for proxy in self._proxies)
            self._log.info(
                "Registering with {count} reverse proxies: {proxies}",
                event="registering",
                count=len(self._proxies),
                proxies=names,
            )
        for proxy in self._proxies:
            host, port = proxy
            self._log.info(
                "Connecting to the reverse proxy on port {port}", event="proxy-connecting", host=host, port=port
            )
            self.registrars += self._register(proxy, self._port)
        for registrar in self.registrars:
            registrar.startService()

    def stopService(self) -> Deferred[None]:
        """Have what is in flight answered, then close everything; fires when that is done."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        await self._drain(self._clock.seconds() + self._drain_timeout)
        await gatherResults([registrar.stopService() for registrar in self.registrars])
        await self._listener.stopService()
        await self._close()

    async def _drain(self, deadline: float) -> None:
        """Ask for no more packets, and wait for those that are there."""
        drained = await gatherResults([registrar.drain() for registrar in self.registrars])
        # A proxy closes its connections to a server that drains when they are idle, so then nothing is on its way any
        # more. One that doesn't know of draining, or hangs, keeps its connections for as long as it likes: where there
        # is one, the others' last packets have so long to come, and from then on only what is there is waited for.
        patience = deadline if all(drained) else min(deadline, self._clock.seconds() + ON_THEIR_WAY)
        if any(drained) and await self._is_over(self._factory.when_closed(), patience):
            return
        if not await self._is_over(self._factory.when_idle(), deadline):
            self._log.warn(
                "Stopping with {in_flight} packets in flight, {seconds:g} seconds after being told to",
                event="drain-timeout",
                in_flight=self._factory.in_flight.number,
                seconds=self._drain_timeout,
            )

    async def _is_over(self, over: Deferred[None], until: float) -> bool:
        """Wait for something, and return whether it came by then, in the clock's seconds."""
        try:
            await over.addTimeout(max(0.0, until - self._clock.seconds()), self._clock)
        except TimeoutError:
            return False
        return True

    async def _close(self) -> None:
        for connection in list(self._factory.connections):
            connection.close()
        if not await self._is_over(self._factory.when_closed(), self._clock.seconds() + CLOSE_TIMEOUT):
            for connection in list(self._factory.connections):
                connection.abort()
            await self._factory.when_closed()
