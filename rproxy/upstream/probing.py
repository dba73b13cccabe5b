"""Whether the server at one address is up, as its connections show, and the probes that find out when it is back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.health import FULL_SHARE, Health
from rproxy.registry.registration import Address
from rproxy.rotation import Member
from rproxy.upstream.members import Members


class Watcher(Protocol):
    """Who is told."""

    def reweigh(self, policies: Iterable[str]) -> None:
        """The share of the server has changed, in these policies."""

    def went_down(self, members: Iterable[Member], why: str) -> None:
        """The server that these are is down."""

    def came_up(self, members: Iterable[Member]) -> None:
        """It is up again."""


class Probed(Protocol):
    """Whose connections they are."""

    @property
    def may_probe(self) -> bool:
        """Whether anybody wants to know."""

    def try_to_connect(self) -> None:
        """Make a connection, if anybody wants to know and none is being made."""


class Probing:
    """Up or down, as :class:`rproxy.health.Health` finds, told to whoever has to know.

    :ivar why: why it is down, if it is.
    :ivar share: see :class:`rproxy.rotation.Target`.
    """

    _logger = Logger()

    def __init__(
        self, address: Address, health: Health, clock: IReactorTime, members: Members, watcher: Watcher, pool: Probed
    ) -> None:
        self._address = address
        self._health = health
        self._clock = clock
        self._members = members
        self._watcher = watcher
        self._pool = pool
        self._timer: IDelayedCall | None = None
        self.why = "no connection to it was made yet"
        self.share = FULL_SHARE

    def failed(self, why: str) -> None:
        """A connection couldn't be made, or broke."""
        if self._health.failed():
            self._went_down(why)
        elif not self._health.up:
            self.probe_later()

    def timed_out(self) -> None:
        """A connection owes an answer whose time is over."""
        if self._health.timed_out():
            self._went_down("it does not answer in time")

    def expect(self) -> None:
        """If it is down: it said that it is there, so find out at once, and soon again."""
        if not self._health.up:
            self._health.expected()
            self.probe()

    def probe_later(self) -> None:
        """Find out when it has had some time, if it is down and anybody wants to know."""
        if self._timer is None and not self._health.up and self._pool.may_probe:
            self._timer = self._clock.callLater(self._health.probe_delay(), self.probe)

    def probe(self) -> None:
        """Find out."""
        self.stop()
        self._pool.try_to_connect()

    def stop(self) -> None:
        """Find out nothing, as nobody wants to know."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def succeeded(self) -> None:
        """A connection was made while it was down."""
        now = self._clock.seconds()
        self._health.probed(now)
        self.stop()
        host, port = self._address
        self._logger.info("Server at {host} port {port} is up again", event="server-up", host=host, port=port)
        self._watcher.came_up(self._members.all)
        self._find_share(now)

    def sweep(self, now: float) -> None:
        """A share that grows may be another one now."""
        if self.share != FULL_SHARE:
            self._find_share(now)

    def _find_share(self, now: float) -> None:
        share = self._health.share(now)
        if share != self.share:
            self.share = share
            self._watcher.reweigh(self._members.policies)

    def _went_down(self, why: str) -> None:
        self.why = why
        host, port = self._address
        self._watcher.went_down(self._members.all, why)
        self._logger.warn(
            "Server at {host} port {port} is down: {why}", event="server-down", host=host, port=port, why=why
        )
        self.probe_later()
