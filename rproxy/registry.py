"""Who serves which policy: the registrations and their leases, without a word about connections.

A registration's key is its policy and its server's id (docs/protocol.rst, What a modern server adds). Whoever routes is
told of each change through two callables, in the order in which the changes happen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable

from attrs import define, field

from rproxy.limits import CLASSIC_CONNECTIONS
from rproxy.packets import Setup
from rproxy.policies import Peer, digest
from rproxy.registration import Address, Key, Registration


class ConflictError(Exception):
    """Another host holds a live lease on the key."""


class TooManyError(Exception):
    """There is no place for one more registration."""


@define
class _Entry:
    registration: Registration
    #: Whose end is its end; None without a lease, as it is not to keep a connection that is long gone.
    owner: Hashable
    #: When the lease runs out, in the clock's seconds; None without one.
    expires: float | None


@define
class Registry:
    """The registrations of one proxy.

    :param seconds: the clock.
    :param registered: called with each new registration, also when it replaces one of its key.
    :param ended: called with each registration that ended and wasn't replaced.
    :param displaced: called with each owner whose registration became another's.
    :param most: how many registrations there may be.
    :param most_of_host: how many of one host, so that no host keeps the others out.
    :param over: called with each registration that stands no more, replaced ones too, and why, when the others know.
    """

    _seconds: Callable[[], float]
    _registered: Callable[[Registration], None]
    _ended: Callable[[Registration], None]
    _displaced: Callable[[Hashable], None] = lambda owner: None
    _most: int = 1 << 31
    _most_of_host: int = 1 << 31
    _over: Callable[[Registration, str], None] = lambda registration, why: None
    _entries: dict[Key, _Entry] = field(factory=dict, init=False)
    _owned: dict[Hashable, set[Key]] = field(factory=dict, init=False)
    #: Who serves a policy at an address: one port is one server's.
    _at: dict[tuple[str, Address], Key] = field(factory=dict, init=False)
    #: How many each host has.
    _of_host: Counter[str] = field(factory=Counter, init=False)
    _number: int = field(default=0, init=False)

    def register(self, setup: Setup, peer: Peer, owner: Hashable) -> Registration | None:
        """Enter what a setup packet says.

        :param peer: who sent it; the server listens at its host.
        :param owner: whose end ends a registration with a lease: the setup connection.
        :returns: the new registration, or None where the setup packet renewed the lease of one that stands.
        :raises ConflictError: another host holds a live lease on the key.
        :raises TooManyError: there are as many registrations as there may be.
        """
        key = setup.policy, setup.id
        held = self._entries.get(key)
        expires = None if setup.lease is None else self._seconds() + setup.lease
        if held is not None and self._renew(held, setup, peer, owner, expires):
            return None
        predecessor = self._at.get((setup.policy, (peer.host, setup.listenport)), key)
        if predecessor == key and (held is None or held.registration.host != peer.host):
            self._check_room(peer.host, 0 if held is None else 1)
        self._number += 1
        registration = self._read(setup, peer, self._number)
        before = self._disown(key)
        if predecessor != key:
            # What listened there is another server now, and would be waited for in vain under its old id.
            self._displace(predecessor, owner)
        if held is not None:
            self._at.pop((setup.policy, held.registration.address), None)
        self._count(registration.host, 1)
        if held is not None:
            self._count(held.registration.host, -1)
        self._entries[key] = _Entry(registration, None if expires is None else owner, expires)
        self._at[setup.policy, registration.address] = key
        if expires is not None:
            self._owned.setdefault(owner, set()).add(key)
        if before is not None and before is not owner:
            self._displaced(before)
        self._registered(registration)
        if held is not None:
            self._over(held.registration, "replaced")
        return registration

    def _renew(self, held: _Entry, setup: Setup, peer: Peer, owner: Hashable, expires: float | None) -> bool:
        """Whether the setup packet renewed the lease of what stands under its key.

        :raises ConflictError: it is another host's that does.
        """
        if held.expires is None:
            return False
        if held.expires > self._seconds() and held.registration.host != peer.host:
            raise ConflictError(f"another host holds server {setup.id} of policy {setup.policy}")
        terms = self._read(setup, peer, held.registration.number)
        if expires is None or held.owner is not owner or held.registration != terms:
            return False
        held.expires = expires
        return True

    def _check_room(self, host: str, replaced: int) -> None:
        if len(self._entries) - replaced >= self._most:
            raise TooManyError(f"there are {self._most} registrations already")
        if self._of_host[host] >= self._most_of_host:
            raise TooManyError(f"there are {self._most_of_host} registrations of {host} already")

    def _displace(self, key: Key, newcomer: Hashable) -> None:
        before = self._disown(key)
        self._end(key, "another server has its address")
        if before is not None and before is not newcomer:
            self._displaced(before)

    def _count(self, host: str, by: int) -> None:
        self._of_host[host] += by
        if not self._of_host[host]:
            del self._of_host[host]

    def _end(self, key: Key, why: str) -> None:
        registration = self._entries.pop(key).registration
        self._count(registration.host, -1)
        del self._at[registration.policy, registration.address]
        self._ended(registration)
        self._over(registration, why)

    def release(self, owner: Hashable) -> None:
        """End what ``owner`` holds a lease on."""
        for key in self._owned.pop(owner, ()):
            self._end(key, "its connection closed")

    @property
    def standing(self) -> list[Registration]:
        """All registrations."""
        return [entry.registration for entry in self._entries.values()]

    def revoke(self, registration: Registration, why: str) -> None:
        """End a registration that stands."""
        owner = self._disown(registration.key)
        self._end(registration.key, f"revoked: {why}")
        if owner is not None:
            self._displaced(owner)

    def is_owner(self, owner: Hashable) -> bool:
        """Whether ``owner`` holds any lease."""
        return owner in self._owned

    def expire(self) -> list[Hashable]:
        """End every registration whose lease has run out.

        :returns: the owners that let it run out.
        """
        now = self._seconds()
        late = [key for key, entry in self._entries.items() if entry.expires is not None and entry.expires <= now]
        owners = [self._disown(key) for key in late]
        for key in late:
            self._end(key, "its lease ran out")
        return owners

    def _disown(self, key: Key) -> Hashable:
        """The end of the registration no longer hangs on its owner, who is returned."""
        entry = self._entries.get(key)
        if entry is None or entry.owner not in self._owned:
            return None
        keys = self._owned[entry.owner]
        keys.discard(key)
        if not keys:
            del self._owned[entry.owner]
        return entry.owner

    @staticmethod
    def _read(setup: Setup, peer: Peer, number: int) -> Registration:
        connections = setup.connections or (1 if setup.pipeline else CLASSIC_CONNECTIONS)
        return Registration(
            policy=setup.policy,
            server_id=setup.id,
            host=peer.host,
            port=setup.listenport,
            pipeline=setup.pipeline,
            connections=connections if setup.pipeline else min(connections, CLASSIC_CONNECTIONS),
            weight=setup.weight,
            draining=setup.drain,
            lease=setup.lease,
            names=peer.names,
            token=digest(setup.token),
            number=number,
        )
