"""Keeps one policy of a pool server registered at one proxy, whatever becomes of the connection.

There is one registrar, and one connection, for each pair of proxy and policy. A shared connection would save little,
and cost much where it matters: a policy that is refused would take the others down with it, and an old proxy takes
whatever it reads first for exactly one packet.

Old proxies neither answer a setup packet nor keep its connection. A proxy that closes it without a word, or says
nothing for :data:`rproxy.pool.leasing.ANSWER_TIMEOUT`, and again so, :data:`WAITS` times in a row, is taken for one,
and gets the setup packet again every :data:`OLD_PROXY_INTERVAL`, over a fresh connection each time, because it may have
restarted and forgotten. A proxy that has answered before is taken for an old one only after :data:`SILENCES` such
connections in a row: something in between may have accepted them, while the proxy restarts.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.application.internet import ClientService
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.backoff import Backoff
from rproxy.logs.packets import shown
from rproxy.pool.leasing import Offer, SetupProtocol

#: How often an old proxy is told again, in seconds.
OLD_PROXY_INTERVAL = 60.0
#: How many silent connections in a row make an old proxy of one that has answered before: with the waits below, those
#: of about half a minute. What accepts in its place while it restarts may well close them all at once.
SILENCES = 30
#: How many in a row of another proxy, if it keeps them all: one that is starting may take some seconds to accept.
WAITS = 3
#: The waits for a proxy that is gone, in seconds. It is likely to be back soon, and until it is found it may know no
#: server for our policy, and refuse its clients' packets. So none is anywhere near the 5 seconds that a proxy lets a
#: packet wait for a server. And a thousand servers that lost the same proxy come back spread over half a second at the
#: very first, and knock about a thousand times a second if it stays away.
RETRY = Backoff(0.5, 2.0)
#: The waits after a refusal, which is likely to be repeated until somebody changes something, in seconds.
RETRY_REFUSED = Backoff(1.0, 30.0)
#: How long a drain may take to connect once more, in seconds.
LAST_TRY = 1.0


class Registrar(Service):
    """Keeps the registration while it runs; see the module.

    :param endpoint: where the proxy is.
    :param proxy: what to call the proxy in the log.
    :param jitter: gives random numbers from 0 to 1, so that the servers of a proxy that restarts don't come all at
        once: a wait for a proxy that is gone is anything up to its bound, any other wait half of its bound or more.
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
        self._jitter = jitter
        self._clock = clock
        self._client = _QuietClientService(
            _WatchedEndpoint(endpoint, self._unreachable),
            _SetupFactory(lambda: SetupProtocol(offer, self, clock)),
            retryPolicy=self._delay,
            clock=clock,
        )
        self._connection: SetupProtocol | None = None
        self._draining = False
        #: Whether this proxy ever answered, and how many connections in a row said nothing since.
        self._has_answered = False
        self._silences = 0
        #: Of those connections, how many the proxy kept.
        self._waits = 0
        #: What the log was told already.
        self._told_unreachable = False
        self._told_old = False
        #: How often in a row the connection failed, or was lost before the first renewal, and how often it was refused.
        self._failures = 0
        self._refusals = 0
        #: How long to wait before connecting again, in seconds; 0 as after any failure.
        self._pause = 0.0

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
        if not self._has_answered or self._told_old:
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
        self._told_unreachable = False

    def registered(self) -> None:
        self._has_answered = True
        self._silences = self._waits = self._refusals = 0
        self._told_old = False
        self._log.info(
            "Registered for privacy policy {policy} at {proxy}",
            event="proxy-registered",
            policy=self._policy,
            proxy=self._proxy,
        )

    def renewed(self) -> None:
        self._failures = 0

    def refused(self, code: str, text: str) -> None:
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
            self._refusals += 1
            self._pause = RETRY_REFUSED.bound(self._refusals)

    def unanswered(self) -> None:
        self._waits += 1

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
        """Decide whether a proxy that said nothing is an old one."""
        self._silences += 1
        if self._has_answered and self._silences < SILENCES:
            return
        if not self._has_answered and self._silences == self._waits < WAITS:
            # It may only be busy, or still be starting.
            return
        self._pause = OLD_PROXY_INTERVAL
        if not self._told_old:
            self._told_old = True
            self._log.info(
                "{proxy} doesn't answer setup packets, as old proxies do: telling it about privacy policy {policy}"
                " again every {seconds:.0f} seconds",
                event="proxy-old",
                proxy=self._proxy,
                policy=self._policy,
                seconds=OLD_PROXY_INTERVAL,
            )

    def _unreachable(self, failure: Failure) -> None:
        if not (self._told_unreachable or self._draining or failure.check(CancelledError)):
            self._told_unreachable = True
            self._log.warn(
                "Can't connect to {proxy}, and will go on trying: {why}",
                event="proxy-unreachable",
                proxy=self._proxy,
                why=failure.getErrorMessage(),
            )

    def _delay(self, _attempt: int) -> float:
        """Return how long to wait before connecting again, in seconds.

        The number of attempts doesn't tell enough: it begins anew with each connection, also with those that are
        refused.
        """
        seconds, self._pause = self._pause, 0.0
        if seconds:
            return seconds * (1 + self._jitter()) / 2
        self._failures += 1
        return RETRY.seconds(self._failures, self._jitter())


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
