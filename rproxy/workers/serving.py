"""The life of a worker beside its proxy's: it says when it accepts, does what it is told, and leaves its counters."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, TimeoutError, maybeDeferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from rproxy.control import LocalControl
from rproxy.figures.counters import Counters
from rproxy.policies import Peer
from rproxy.registry.records import RecordKey
from rproxy.workers.channel import Channel, ChannelError, Handler

#: How long the parent may take to hear the last words, in seconds.
FAREWELL = 2.0


class WorkerService(Service):
    """A proxy, and the channel to the parent.

    :param proxy: the proxy's service.
    :param counters: the proxy's.
    :param reload: has the proxy read its files again.
    :param answers: what else the parent may ask, such as :func:`answers_of` has.
    :param connect: makes the connection that the channel is for.
    """

    _logger = Logger()

    def __init__(
        self,
        proxy: IService,
        counters: Counters,
        reload: Callable[[], object],
        answers: Mapping[str, Handler],
        connect: Callable[[Channel], object],
        reactor: Any,
    ) -> None:
        self._proxy = proxy
        self._counters = counters
        self._connect = connect
        self._reactor = reactor
        self._channel = Channel(
            {
                "stop": self._leave,
                "reload": reload,
                "ping": lambda: None,
                **answers,
            },
            self._orphaned,
        )

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._proxy.privilegedStartService()

    def startService(self) -> None:
        """Start the proxy, and tell the parent as soon as the reactor runs."""
        super().startService()
        self._proxy.startService()
        self._connect(self._channel)
        self._reactor.callWhenRunning(self._tell, "ready")

    def stopService(self) -> Deferred[None]:
        """Stop the proxy, and tell the parent what it has counted."""
        return Deferred.fromCoroutine(self._stop()) if self.running else succeed(None)

    async def _stop(self) -> None:
        super().stopService()
        await maybeDeferred(self._proxy.stopService)
        await self._tell("stopped", counters=self._counters.snapshot()).addTimeout(FAREWELL, self._reactor)

    def _tell(self, name: str, **arguments: Any) -> Deferred[Any]:
        # A parent that is gone can't be told, and one that doesn't listen isn't waited for.
        return self._channel.ask(name, **arguments).addErrback(lambda failure: failure.trap(ChannelError, TimeoutError))

    def _leave(self) -> None:
        # By a signal it may be leaving already.
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _orphaned(self) -> None:
        if self.running:
            self._logger.warn("The parent process is gone: stopping", event="parent-gone")
            self._leave()


def answers_of(control: LocalControl, number: int) -> dict[str, Handler]:
    """What the parent may ask of the proxy's control; see :class:`rproxy.workers.controlling.WorkersControl`.

    :param number: of this worker, from 1.
    """

    async def explain(policy: str, client: str) -> Any:
        (explanation,) = await control.explain(policy, Peer(client))
        return explanation

    async def happenings(since: Mapping[str, int]) -> Any:
        return [each for each in await control.happenings() if each.number > since.get(str(number), 0)]

    def end(keys: Iterable[tuple[str, str]]) -> tuple[str, list[RecordKey]]:
        return control.holder, control.end((policy, server_id) for policy, server_id in keys)

    def set_drained(keys: Iterable[tuple[str, str]]) -> None:
        control.set_drained((policy, server_id) for policy, server_id in keys)

    return {
        "figures": control.figures,
        "explain": _awaited(explain),
        "happenings": _awaited(happenings),
        "find": control.find,
        "end": end,
        "set_drained": set_drained,
    }


def _awaited(function: Callable[..., Coroutine[Deferred[Any], Any, Any]]) -> Handler:
    return lambda **arguments: Deferred.fromCoroutine(function(**arguments))
