"""The life of a proxy: it listens; told to stop, it takes nothing new, has what is in flight answered, and leaves."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, TimeoutError, gatherResults, maybeDeferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.figures.counters import Counters
from rproxy.listening import ListenerService
from rproxy.process.sweeping import SweepService
from rproxy.proxy import ProxyFactory

_logger = Logger()

#: How long connections may take to send the last answers at the end, in seconds.
CLOSE_TIMEOUT = 2.0


class ProxyService(MultiService):
    """One proxy process's proxy.

    :param listeners: where ``factory`` listens.
    :param replica: its part in the store of registrations; it leaves when the last packet is answered.
    :param sweeps: what keeps its deadlines; they go on until the last packet is answered.
    :param drain_timeout: how long a stop may wait for what is in flight, in seconds.
    """

    def __init__(
        self,
        factory: ProxyFactory,
        listeners: Sequence[ListenerService],
        replica: Service,
        sweeps: Sequence[SweepService],
        drain_timeout: float,
        clock: IReactorTime,
    ) -> None:
        super().__init__()
        self._factory = factory
        self._listeners = listeners
        self._replica = replica
        self._drain_timeout = drain_timeout
        self._clock = clock
        for service in (*listeners, replica, *sweeps):
            service.setServiceParent(self)

    def startService(self) -> None:
        """Listen, and take packets."""
        self._factory.gate.open()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Drain, then close everything; fires when that is done."""
        return Deferred.fromCoroutine(self._stop()) if self.running else succeed(None)

    async def _stop(self) -> None:
        await gatherResults([listener.stopService() for listener in self._listeners])
        await self._end(self._factory.drain(), self._drain_timeout, "answering the last packets")
        # Before servers lose their connections, which then says nothing of them.
        await maybeDeferred(self._replica.stopService)
        await self._end(self._factory.close(), CLOSE_TIMEOUT, "closing the last connections")
        self._factory.abort()
        say_stopped(self._factory.counters)
        await maybeDeferred(super().stopService)

    async def _end(self, over: Deferred[None], seconds: float, what: str) -> None:
        try:
            await over.addTimeout(seconds, self._clock)
        except TimeoutError:
            _logger.warn(
                "Gave up {what} after {seconds:g} seconds, with {in_flight} packets in flight on {clients} connections",
                event="stop-timeout",
                what=what,
                seconds=seconds,
                in_flight=self._factory.in_flight,
                clients=len(self._factory.clients),
            )


def say_stopped(counters: Counters) -> None:
    """Tell the log what became of all packets."""
    _logger.info(
        "Stopped after {received} packets: {acked} acked, {refused} refused, {client_gone} whose client was gone",
        event="stopped",
        received=counters.received,
        acked=counters.acked,
        refused=counters.refused.total(),
        client_gone=counters.client_gone,
        by_code=dict(counters.refused),
    )
