"""What may be asked of a running proxy, and done to it: by its admin page, and by commands.

A proxy of several processes answers as one (:class:`Control`): what is done is done in all of them, and what is shown
is what all of them show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from rproxy.figures import Figures
from rproxy.happenings import Happening, Happenings
from rproxy.policies import Peer
from rproxy.proxy import ProxyFactory
from rproxy.registration import Registration
from rproxy.reporting import Explanation, Reporter


class Control(Protocol):
    """A running proxy."""

    def figures(self) -> Deferred[Figures]:
        """What it shows of itself now."""

    def explain(self, policy: str, client: Peer) -> Deferred[Sequence[Explanation]]:
        """What would become of a packet now, by each of its processes."""

    def drain(self, server_id: str, policy: str | None) -> Deferred[int]:
        """Give a server nothing new until :meth:`resume`, however often it registers.

        :param policy: None for all that it serves.
        :returns: of how many registrations that was true.
        """

    def resume(self, server_id: str, policy: str | None) -> Deferred[int]:
        """Undo :meth:`drain`."""

    def revoke(self, server_id: str, policy: str | None) -> Deferred[int]:
        """End the registrations of a server. It may register again, unless the policies don't allow it."""

    def happenings(self) -> Deferred[Sequence[Happening]]:
        """What happened lately, the oldest first."""

    def listen(self, listener: Callable[[Happening], object]) -> Callable[[], None]:
        """Call it with what happens from now on; call what is returned to end that."""


class LocalControl:
    """The control of this process; see :class:`Control`."""

    def __init__(self, factory: ProxyFactory, reporter: Reporter, happenings: Happenings) -> None:
        self._factory = factory
        self._reporter = reporter
        self._happenings = happenings

    def figures(self) -> Deferred[Figures]:
        return succeed(self._reporter.figures())

    def explain(self, policy: str, client: Peer) -> Deferred[Sequence[Explanation]]:
        return succeed([self._reporter.explain(policy, client)])

    def drain(self, server_id: str, policy: str | None) -> Deferred[int]:
        return self._each("drained", server_id, policy, self._factory.router.drain)

    def resume(self, server_id: str, policy: str | None) -> Deferred[int]:
        return self._each("resumed", server_id, policy, self._factory.router.resume)

    def revoke(self, server_id: str, policy: str | None) -> Deferred[int]:
        return self._each("revoked", server_id, policy, self._factory.revoke)

    def _each(
        self, kind: str, server_id: str, policy: str | None, do: Callable[[Registration], object]
    ) -> Deferred[int]:
        those = [
            each
            for each in self._factory.registry.standing
            if each.server_id == server_id and policy in {None, each.policy}
        ]
        for registration in those:
            do(registration)
            self._happenings.note(kind, registration.policy, server_id, "by an operator")
        return succeed(len(those))

    def happenings(self) -> Deferred[Sequence[Happening]]:
        return succeed(self._happenings.lately)

    def listen(self, listener: Callable[[Happening], object]) -> Callable[[], None]:
        return self._happenings.listen(listener)
