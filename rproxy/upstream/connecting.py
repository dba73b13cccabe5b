"""The connections to one server address that are being made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.connection import UpstreamConnection
from rproxy.registry.registration import Registration
from rproxy.upstream.members import Members


class Confirmer(Protocol):
    """Who knows whether what other processes have told still stands."""

    @property
    def confirm(self) -> Callable[[], Deferred[None]]:
        """Finds out; fails if that can't be done now."""

    @property
    def lapse(self) -> Callable[[Sequence[Registration]], object]:
        """Told of those that don't stand any more, unless they are heard of again."""


class Attempts:
    """Attempts to make one.

    :param factory: whose connections they become.
    :param ended: told what came of each: the connection, or why there is none.
    :ivar under_way: those that nothing came of yet.
    """

    _logger = Logger(namespace="rproxy.upstream.Upstream")

    def __init__(
        self,
        factory: IProtocolFactory,
        endpoint: IStreamClientEndpoint,
        members: Members,
        confirmer: Confirmer,
        ended: Callable[[UpstreamConnection | Failure], None],
    ) -> None:
        self._factory = factory
        self._endpoint = endpoint
        self._members = members
        self._confirmer = confirmer
        self._ended = ended
        self.under_way: set[Deferred[UpstreamConnection]] = set()

    def begin(self) -> None:
        """Make one more."""
        reached = self._confirm_and_connect() if self._members.found else self._endpoint.connect(self._factory)
        attempt = cast("Deferred[UpstreamConnection]", reached)
        self.under_way.add(attempt)
        attempt.addBoth(self._end, attempt)
        attempt.addErrback(
            lambda failure: self._logger.failure(
                "A connection to a server was mishandled", failure, event="server-mishandled"
            )
        )

    def give_up(self) -> None:
        """Make none of them."""
        for attempt in list(self.under_way):
            attempt.cancel()

    def _end(self, result: UpstreamConnection | Failure, attempt: Deferred[UpstreamConnection]) -> None:
        self.under_way.discard(attempt)
        self._ended(result)

    def _confirm_and_connect(self) -> Deferred[IProtocol]:
        """Make a connection, if the server is still the one that is meant.

        Whoever holds the lease of a server knows when it goes. Of one that is only known from others the store is asked
        before each connection: another server, of another policy, may have its address by now.
        """
        confirmed: Deferred[Any] = self._confirmer.confirm()
        return confirmed.addCallbacks(lambda _: self._endpoint.connect(self._factory), self._unconfirmed)

    def _unconfirmed(self, failure: Failure) -> Failure | Deferred[IProtocol]:
        members = self._members
        if members.found == members.live or failure.check(CancelledError):
            return failure
        # Others are served here, and needn't wait for what nobody can say.
        self._confirmer.lapse([member.registration for member in members.all if member.found and member.live])
        return self._endpoint.connect(self._factory)
