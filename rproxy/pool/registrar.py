"""Keeps one policy of a pool server registered at one proxy, whatever becomes of the connection.

There is one registrar, and one connection, for each pair of proxy and policy. A shared connection would save little,
and cost much where it matters: a policy that is refused would take the others down with it, and an old proxy takes
whatever it reads first for exactly one packet.

Old proxies neither answer a setup packet nor keep its connection: :mod:`rproxy.pool.patience` tells them from others.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.logs.packets import shown
from rproxy.pool.leasing import Offer, SetupProtocol
from rproxy.pool.patience import OLD_PROXY_INTERVAL, Patience

#: How long a drain may take to connect once more, in seconds.
LAST_TRY = 1.0


class Registrar(Service):
    """Keeps the registration while it runs; see the module.

    :param endpoint: where the proxy is.
    :param proxy: what to call the proxy in the log.
    :param jitter: see :class:`rproxy.pool.patience.Patience`.
    """

    _log = Logger()

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        proxy: str,
        offer: Offer,
        clock: IReactorTime,
        jitter: Callable[[], float],
    ) -> None:
        self._proxy = proxy
        self._policy = offer.policy
        self._patience = Patience(jitter)
        self._clock = clock
        self._client = _QuietClientService(
            _WatchedEndpoint(endpoint, self._unreachable),
            _SetupFactory(lambda: SetupProtocol(offer, self, clock)),
            # Its number of attempts begins anew with each connection, also with those that are refused.
            retryPolicy=lambda _attempts: self._patience.seconds(),
            clock=clock,
        )
        self._connection: SetupProtocol | None = None
        self._draining = False
        #: Whether the log was told already, since the proxy was last heard of.
        self._told_unreachable = False

    @property
    def is_registered(self) -> bool:
        """Whether the proxy has confirmed it, and the connection that it lives by is there."""
        return self._connection is not None and self._connection.registered

    def startService(self) -> None:
        super().startService()
        self._client.startService()

    def stopService(self) -> Deferred[None]:
        """End the registration; fires when the connection is closed."""
        super().stopService()
        return self._client.stopService()

    def drain(self) -> Deferred[bool]:
        """Ask the proxy for no more packets, and never register again.

        A proxy that has restarted may know the server from its registry, before the server has found it again. So one
        that has answered is asked where there is no registration too, over a connection that is made for it if need
        be, within :data:`LAST_TRY`.

        Fires with whether the proxy acknowledged it. It is False at an old proxy, at one that never answered or can't
        be connected to, and where :data:`rproxy.pool.leasing.DRAIN_TIMEOUT` passes. Never fails.
        """
        self._draining = True
        if not self._patience.has_answered or self._patience.is_old:
            return self._give_up()
        if self._connection is not None:
            return self._connection.drain()
        return self._client.stopService().addCallback(self._drain_anew)

    def _drain_anew(self, _: None) -> Deferred[bool]:
        self._client.startService()
        connected = self._client.whenConnected(failAfterFailures=1).addTimeout(LAST_TRY, self._clock)
        return connected.addCallbacks(
            lambda _: self._connection is not None and self._connection.drain(),
            # The client can't be stopped while it tells that it failed.
            lambda _: deferLater(self._clock, 0, self._client.stopService).addCallback(lambda _: False),
        )

    def _give_up(self) -> Deferred[bool]:
        return self._client.stopService().addCallback(lambda _: False)

    # From the connection: see rproxy.pool.leasing.Owner.

    def connected(self, connection: SetupProtocol) -> None:
        self._connection = connection

    def registered(self) -> None:
        self._patience.registered()
        self._told_unreachable = False
        self._log.info(
            "Registered for privacy policy {policy} at {proxy}",
            event="proxy-registered",
            policy=self._policy,
            proxy=self._proxy,
        )

    def renewed(self) -> None:
        self._patience.renewed()

    def refused(self, code: str, text: str) -> None:
        self._told_unreachable = False
        self._log.warn(
            "{proxy} refuses privacy policy {policy}: {code}, {why}",
            event="proxy-refuses",
            proxy=self._proxy,
            policy=self._policy,
            code=shown(code),
            why=shown(text),
        )
        # A proxy that stops is gone in a moment, and its successor is to be found soon.
        if code != "shutting-down":
            self._patience.refused()

    def broken(self, reason: Failure) -> None:
        # What accepts in the place of a proxy that is away, as balancers do, may well reset each connection.
        self._unreachable(reason)

    def unanswered(self) -> None:
        self._patience.unanswered()

    def lapsed(self) -> None:
        self._log.warn(
            "{proxy} acknowledges no renewal for privacy policy {policy}",
            event="renewal-unacknowledged",
            proxy=self._proxy,
            policy=self._policy,
        )

    def lost(self, *, silent: bool) -> None:
        was_registered = self._connection is not None and self._connection.registered
        self._connection = None
        if self._draining:
            # It is too late to register again. The connection is closed already, so nobody needs to wait for this.
            self._client.stopService()
        elif silent and self.running:
            self._silent()
        elif was_registered and self.running:
            self._log.warn(
                "Lost the registration for privacy policy {policy} at {proxy}",
                event="proxy-lost",
                policy=self._policy,
                proxy=self._proxy,
            )

    def _silent(self) -> None:
        self._told_unreachable = False
        was_old = self._patience.is_old
        self._patience.silent()
        if self._patience.is_old and not was_old:
            self._log.info(
                "{proxy} doesn't answer setup packets, as old proxies do: telling it about privacy policy {policy}"
                " again every {seconds:.0f} seconds",
                event="proxy-old",
                proxy=self._proxy,
                policy=self._policy,
                seconds=OLD_PROXY_INTERVAL,
            )

    def _unreachable(self, failure: Failure) -> None:
        if self.running and not (self._told_unreachable or self._draining):
            self._told_unreachable = True
            self._log.warn(
                "Can't connect to {proxy}, and will go on trying: {why}",
                event="proxy-unreachable",
                proxy=self._proxy,
                why=failure.getErrorMessage(),
            )


class _QuietClientService(ClientService):
    """Without a line in the log for each attempt: a proxy may be gone for days, and :class:`Registrar` says so once."""

    _log = Logger(observer=LogPublisher())


class _SetupFactory(Factory):
    noisy = False

    def __init__(self, build: Callable[[], SetupProtocol]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> SetupProtocol:
        return self._build()


@implementer(IStreamClientEndpoint)
class _WatchedEndpoint:
    """An endpoint whose failures are told, which :class:`ClientService` keeps to itself."""

    def __init__(self, endpoint: IStreamClientEndpoint, failed: Callable[[Failure], None]) -> None:
        self._endpoint = endpoint
        self._failed = failed

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        return self._endpoint.connect(factory).addErrback(self._tell)

    def _tell(self, failure: Failure) -> Failure:
        self._failed(failure)
        return failure
