"""What may be asked of a running proxy, and done to it: by its admin page, and by commands.

A proxy of several processes answers as one (:class:`Control`): what is done is done in all of them, and what is shown
is what all of them show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from rproxy.figures import Figures
from rproxy.happenings import Happening, Happenings
from rproxy.policies import Peer
from rproxy.proxy import ProxyFactory
from rproxy.registration import Key
from rproxy.reporting import Explanation, Reporter

#: For how long figures may be shown again, in seconds.
FRESH = 0.25
#: What may be done to servers, and the kinds of :class:`rproxy.happenings.Happening` that tell of it.
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
        """End the registrations of a server. It may register again, unless the policies don't allow it."""

    def happenings(self) -> Deferred[Sequence[Happening]]:
        """What happened lately, the oldest first."""

    def listen(self, listener: Callable[[Happening], object]) -> Callable[[], None]:
        """Call it with what happens from now on; call what is returned to end that."""


class ControlError(Exception):
    """Nobody is there to ask; the text says why."""


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
        return self._factory.refusal is None

    def figures(self) -> Deferred[Figures]:
        now = self._factory.seconds()
        if self._figures is None or now - self._made_at >= FRESH:
            self._figures, self._made_at = self._reporter.figures(), now
        return succeed(self._figures)

    def explain(self, policy: str, client: Peer) -> Deferred[Sequence[Explanation]]:
        return succeed([self._reporter.explain(policy, client)])

    def drain(self, server_id: str, policy: str | None) -> Deferred[int]:
        return succeed(len(self.change("drain", server_id, policy)))

    def resume(self, server_id: str, policy: str | None) -> Deferred[int]:
        return succeed(len(self.change("resume", server_id, policy)))

    def revoke(self, server_id: str, policy: str | None) -> Deferred[int]:
        return succeed(len(self.change("revoke", server_id, policy)))

    def change(self, what: str, server_id: str, policy: str | None) -> list[Key]:
        """Drain, resume or revoke, and return what that was true of: policies and server ids."""
        self._figures = None
        router = self._factory.router
        standing = {each.key: each for each in self._factory.registry.standing}
        keys = [
            key
            for key in (sorted(router.drained) if what == "resume" else standing)
            if key[1] == server_id and policy in {None, key[0]}
        ]
        for key in keys:
            if what == "drain":
                router.drain(key, standing[key])
            elif what == "resume":
                router.resume(key, standing.get(key))
            else:
                self._factory.revoke(standing[key])
            self._happenings.note(DONE[what], *key, "by an operator")
        return keys

    def keep_drained(self, keys: Iterable[Key]) -> None:
        """Drain these too, be they registered here by now or later: another process was told of them."""
        self._figures = None
        router = self._factory.router
        standing = {each.key: each for each in self._factory.registry.standing}
        for key in set(keys) - router.drained:
            router.drain(key, standing.get(key))

    def happenings(self) -> Deferred[Sequence[Happening]]:
        return succeed(self._happenings.lately)

    def listen(self, listener: Callable[[Happening], object]) -> Callable[[], None]:
        return self._happenings.listen(listener)
