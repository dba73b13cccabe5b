"""What may be asked of a running proxy, and done to it: by its admin page, and by commands.

A proxy of several processes answers as one (:class:`Control`): what is done is done in all of them, and what is shown
is what all of them show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, fail, succeed

from rproxy.control.reporting import Explanation, Reporter
from rproxy.figures import Figures
from rproxy.figures.happenings import Happening, Happenings
from rproxy.policies import Peer
from rproxy.proxy import ProxyFactory
from rproxy.registry.records import RecordKey
from rproxy.registry.registration import Key, Registration

#: For how long figures may be shown again, in seconds.
FRESH = 0.25
#: What may be done to servers, and the kinds of :class:`rproxy.figures.happenings.Happening` that tell of it.
DONE = {"drain": "drained", "resume": "resumed", "revoke": "revoked"}


class Control(Protocol):
    """A running proxy. What is asked fails with :exc:`ControlError` where none of its processes answers."""

    @property
    def is_ready(self) -> bool:
        """Whether it takes packets: not before it accepts, nor once it is told to stop."""

    def figures(self) -> Deferred[Figures]:
        """What it shows of itself now, or did a moment ago: :data:`FRESH` at most, and after what was done by this."""

    def explain(self, policy: str, client: Peer) -> Deferred[Sequence[Explanation]]:
        """What would become of a packet now, by each of its processes."""

    def drain(self, server_id: str, policy: str | None) -> Deferred[int]:
        """Give a server nothing new until :meth:`resume`, however often it registers.

        :param policy: None for all that it serves.
        :returns: of how many registrations that was true.
        """

    def resume(self, server_id: str, policy: str | None) -> Deferred[int]:
        """Undo :meth:`drain`, also for servers that aren't registered now.

        :returns: how many registrations, standing or not, had been drained.
        """

    def revoke(self, server_id: str, policy: str | None) -> Deferred[int]:
        """End the registrations of a server. It may register again, unless the policies don't allow it.

        :returns: how many stand no more.
        :raises HeldElsewhereError: (the Deferred) all still do, by leases that another proxy holds.
        """

    def happenings(self) -> Deferred[Sequence[Happening]]:
        """What happened lately, the oldest first."""

    def listen(self, listener: Callable[[Happening], object]) -> Callable[[], None]:
        """Call it with what happens from now on; call what is returned to end that."""


class ControlError(Exception):
    """Nobody is there to ask; the text says why."""


class HeldElsewhereError(Exception):
    """What stands by a lease of another proxy can't be ended here."""


class LocalControl:
    """The control of this process; see :class:`Control`.

    However many ask, figures are made every :data:`FRESH` at most, and anew after each change.
    """

    def __init__(self, factory: ProxyFactory, reporter: Reporter, happenings: Happenings) -> None:
        self._factory = factory
        self._reporter = reporter
        self._happenings = happenings
        self._figures: Figures | None = None
        self._made_at = 0.0

    @property
    def is_ready(self) -> bool:
        return self._factory.gate.refusal is None

    def figures(self) -> Deferred[Figures]:
        now = self._factory.seconds()
        if self._figures is None or now - self._made_at >= FRESH:
            self._figures, self._made_at = self._reporter.figures(), now
        return succeed(self._figures)

    def explain(self, policy: str, client: Peer) -> Deferred[Sequence[Explanation]]:
        return succeed([self._reporter.explain(policy, client)])

    def drain(self, server_id: str, policy: str | None) -> Deferred[int]:
        keys = self.find(server_id, policy)
        self.set_drained(self._factory.router.drained.union(keys))
        return succeed(len(keys))

    def resume(self, server_id: str, policy: str | None) -> Deferred[int]:
        drained = self._factory.router.drained
        keys = matching(drained, server_id, policy)
        self.set_drained(drained.difference(keys))
        return succeed(len(keys))

    def revoke(self, server_id: str, policy: str | None) -> Deferred[int]:
        keys = self.find(server_id, policy)
        left = {(name, server) for name, server, _ in self.end(keys)}
        if keys and len(left) == len(keys):
            return fail(HeldElsewhereError())
        return succeed(len(keys) - len(left))

    def find(self, server_id: str, policy: str | None) -> list[Key]:
        """Which registrations of a server stand: policies and server ids."""
        return matching((each.key for each in self._factory.registry.standing), server_id, policy)

    @property
    def holder(self) -> str:
        """What this process is called in the leases that it holds."""
        return self._factory.registry.claims.holder

    def end(self, keys: Iterable[Key]) -> list[RecordKey]:
        """Revoke those of these registrations that stand.

        :returns: the leases of other processes that some of them still stand by.
        """
        self._figures = None
        standing = self._standing()
        left: list[RecordKey] = []
        for key in keys:
            if key in standing:
                leases = self._factory.revoke(standing[key])
                if not leases:
                    self._happenings.note(DONE["revoke"], *key, "by an operator")
                left += leases
        return left

    def set_drained(self, keys: Iterable[Key]) -> None:
        """Have these drained and no others, be they registered by now or later."""
        self._figures = None
        router = self._factory.router
        standing = self._standing()
        wanted, drained = set(keys), router.drained
        for key in sorted(wanted - drained):
            router.drain(key, standing.get(key))
            # What isn't registered here is news of another process, or of long ago.
            if key in standing:
                self._happenings.note(DONE["drain"], *key, "by an operator")
        for key in sorted(drained - wanted):
            router.resume(key, standing.get(key))
            self._happenings.note(DONE["resume"], *key, "by an operator")

    def _standing(self) -> dict[Key, Registration]:
        return {each.key: each for each in self._factory.registry.standing}

    def happenings(self) -> Deferred[Sequence[Happening]]:
        return succeed(self._happenings.lately)

    def listen(self, listener: Callable[[Happening], object]) -> Callable[[], None]:
        return self._happenings.listen(listener)


def matching(keys: Iterable[Key], server_id: str, policy: str | None) -> list[Key]:
    """Those of a server, under one policy or, where that is None, under all."""
    return sorted(key for key in keys if key[1] == server_id and policy in {None, key[0]})
