"""Several proxies behind one endpoint: the next one is connected to when one fails.

The proxies stand in a line. Its head is connected to; a proxy that fails goes to its end. So whoever uses this stays
with a proxy that works, and comes back to one that failed when all the others failed after it: nothing is probed, and a
proxy that is back isn't flooded by clients that leave another one, which works.

Which proxy is the head at first is drawn by lot, and the order of the others too. Clients are so spread evenly over all
proxies, and those of a proxy that fails evenly over the others: if all had the same order, one proxy would have all
clients, and if each began somewhere in the same circle, all clients of a proxy that fails would come to its neighbour.
The price is that a proxy that is back gets no clients but new ones, until others fail.

An attempt to connect that takes longer than a head start is neither waited for nor given up: the next proxy is tried
beside it, and whoever connects first has the connection. So a host that answers nothing costs a second, and a network
that is slow everywhere costs nothing::

    proxies = {f"{host}:8000": HostnameEndpoint(reactor, host, 8000) for host in ("10.0.0.1", "10.0.0.2")}
    client = Client(FailoverEndpoint(proxies, reactor), "1", reactor)
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from attrs import define
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

#: How long an attempt to connect may take before the next proxy is tried beside it, in seconds. A SYN that was lost is
#: sent again after one second; a proxy that is there answers much sooner.
HEAD_START = 1.0
#: How long a proxy that failed is left alone if that can be: when the next one in the line failed less than so many
#: seconds ago, then all have, and it is time to wait.
REST = 5.0


class NoProxyError(Exception):
    """No proxy could be connected to; the text says why, for each."""


@define(eq=False)
class _Proxy:
    """A proxy in the line.

    :ivar failed_at: when it failed the last time, in the clock's seconds.
    """

    name: str
    endpoint: IStreamClientEndpoint
    failed_at: float = -inf


@implementer(IStreamClientEndpoint)
class FailoverEndpoint:
    """Connects to one of several proxies; see the module. Many clients may share one, and what it has learned.

    :param proxies: where they are, by what to call them.
    :param shuffle: puts the line in its first order, by lot unless told otherwise.
    :param connected: told which proxy there is a connection to.
    :param left: told which proxy failed, which one is the next, and why.
    :param head_start: seconds before the next proxy is tried beside one that doesn't answer.
    :raises ValueError: there is no proxy.
    """

    def __init__(
        self,
        proxies: Mapping[str, IStreamClientEndpoint],
        clock: IReactorTime,
        *,
        shuffle: Callable[[list[Any]], object] = random.shuffle,
        connected: Callable[[str], object] = lambda name: None,
        left: Callable[[str, str, str], object] = lambda name, following, why: None,
        head_start: float = HEAD_START,
    ) -> None:
        if not proxies:
            raise ValueError("there is no proxy to connect to")
        self._line = [_Proxy(name, endpoint) for name, endpoint in proxies.items()]
        shuffle(self._line)
        self._clock = clock
        self._told_connected = connected
        self._left = left
        self._head_start = head_start
        self._connected: WeakKeyDictionary[IProtocol, _Proxy] = WeakKeyDictionary()

    @property
    def is_rested(self) -> bool:
        """Whether the proxy at the head hasn't failed for a while, so that there is no reason to wait first."""
        return self._rested(self._line[0])

    def has_other_than(self, connection: IProtocol) -> bool:
        """Whether the same holds for any proxy but a connection's own."""
        own = self._connected.get(connection)
        return any(proxy is not own and self._rested(proxy) for proxy in self._line)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See :meth:`twisted.internet.interfaces.IStreamClientEndpoint.connect`. Each proxy is tried once.

        :raises NoProxyError: (by the Deferred) none could be connected to. If there is one only, its own failure.
        """
        race = _Race([*self._line], protocolFactory, self._clock, self._head_start, self._fail)
        return race.run().addCallback(self._remember)

    def leave(self, connection: IProtocol, why: str) -> None:
        """Take the proxy of a connection for one that failed.

        :param connection: what :meth:`connect` fired with.
        """
        proxy = self._connected.pop(connection, None)
        if proxy is not None:
            self._fail(proxy, why)

    def _rested(self, proxy: _Proxy) -> bool:
        return self._clock.seconds() - proxy.failed_at >= REST

    def _remember(self, result: tuple[_Proxy, IProtocol]) -> IProtocol:
        proxy, protocol = result
        self._connected[protocol] = proxy
        self._told_connected(proxy.name)
        return protocol

    def _fail(self, proxy: _Proxy, why: str) -> None:
        proxy.failed_at = self._clock.seconds()
        self._line.remove(proxy)
        self._line.append(proxy)
        self._left(proxy.name, self._line[0].name, why)


class _Race:
    """One connection, to whichever proxy gives it first.

    :param proxies: in the order in which they start.
    :param failed: told of each that failed or was overtaken, and why.
    """

    def __init__(
        self,
        proxies: Sequence[_Proxy],
        factory: IProtocolFactory,
        clock: IReactorTime,
        head_start: float,
        failed: Callable[[_Proxy, str], None],
    ) -> None:
        self._coming = deque(proxies)
        self._factory = factory
        self._clock = clock
        self._head_start = head_start
        self._failed = failed
        #: The attempts that neither succeeded nor failed yet, the oldest first.
        self._pending: dict[_Proxy, Deferred[IProtocol]] = {}
        self._failures: list[tuple[_Proxy, Failure]] = []
        self._next: IDelayedCall | None = None
        self._over: Deferred[tuple[_Proxy, IProtocol]] = Deferred(lambda _: self._stop())

    def run(self) -> Deferred[tuple[_Proxy, IProtocol]]:
        """Fire with the connection, and whose it is."""
        self._start()
        return self._over

    def _start(self) -> None:
        self._next = None
        proxy = self._coming.popleft()
        attempt = self._pending[proxy] = maybeDeferred(proxy.endpoint.connect, self._factory)
        if self._coming:
            self._next = self._clock.callLater(self._head_start, self._start)
        attempt.addCallbacks(self._succeed, self._fail, callbackArgs=(proxy,), errbackArgs=(proxy,))

    def _succeed(self, protocol: IProtocol, proxy: _Proxy) -> None:
        # Those that started before it lost; those that started after it had less time.
        slower = [*takewhile(lambda each: each is not proxy, self._pending)]
        del self._pending[proxy]
        self._stop()
        for each in slower:
            self._failed(each, "it was slower to connect than the next one")
        self._over.callback((proxy, protocol))

    def _fail(self, failure: Failure, proxy: _Proxy) -> None:
        if self._pending.pop(proxy, None) is None:
            # It was cancelled.
            return
        self._failures.append((proxy, failure))
        self._failed(proxy, failure.getErrorMessage())
        if self._coming:
            self._stop_waiting()
            self._start()
        elif not self._pending:
            self._over.errback(self._why())

    def _why(self) -> Failure:
        if len(self._failures) == 1:
            return self._failures[0][1]
        whys = "; ".join(f"{proxy.name}: {failure.getErrorMessage()}" for proxy, failure in self._failures)
        return Failure(NoProxyError(whys))

    def _stop(self) -> None:
        self._stop_waiting()
        self._coming.clear()
        pending, self._pending = self._pending, {}
        for attempt in pending.values():
            attempt.cancel()

    def _stop_waiting(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
