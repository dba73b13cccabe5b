"""Who is served at one address: the members, one for each policy and server id."""

from __future__ import annotations

from rproxy.registry.registration import Registration
from rproxy.rotation import Member


class Members:
    """Those that an upstream stands behind.

    :ivar live: how many of them may be written to.
    :ivar found: how many of those are only known from other processes.
    """

    def __init__(self) -> None:
        self._by_policy: dict[str, list[Member]] = {}
        self.live = 0
        self.found = 0

    def __bool__(self) -> bool:
        return bool(self._by_policy)

    def add(self, member: Member) -> None:
        """One more."""
        self._by_policy.setdefault(member.policy, []).append(member)
        self.live += member.live
        self.found += member.live and member.found

    def bar(self, member: Member) -> None:
        """Nothing more is written for this member, which is about to leave."""
        self.live -= member.live
        self.found -= member.live and member.found
        member.live = False

    def remove(self, member: Member) -> None:
        """One less."""
        self.bar(member)
        members = self._by_policy[member.policy]
        members.remove(member)
        if not members:
            del self._by_policy[member.policy]

    @property
    def policies(self) -> list[str]:
        """What they serve."""
        return list(self._by_policy)

    @property
    def all(self) -> list[Member]:
        """All of them."""
        return [member for members in self._by_policy.values() for member in members]

    def live_of(self, policy: str) -> list[Member]:
        """Those that may be written to for a policy."""
        return [member for member in self._by_policy.get(policy, ()) if member.live]

    def serve(self, registration: Registration) -> bool:
        """Whether this is one of them, as it is registered now."""
        return any(member.registration is registration for member in self._by_policy.get(registration.policy, ()))
