"""Who serves which policy: the registrations and their leases, without a word about connections.

A registration's key is its policy and its server's id (docs/protocol.rst, What a modern server adds). Whoever routes is
told of each change through callables, in the order in which the changes happen.

What stands under a key is what counts among the claims on it (:mod:`rproxy.claims`): those of the setup packets that
came here, and those that other processes have told of. What is decided here is told to them in turn, as records.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

from attrs import define, evolve, field

from rproxy.claims import Claim, Claims, find_standing
from rproxy.limits import CLASSIC_CONNECTIONS
from rproxy.packets import Setup
from rproxy.policies import Peer, digest
from rproxy.records import NOBODY, Record, RecordKey
from rproxy.registration import Address, Key, Registration


class ConflictError(Exception):
    """Another host holds a live lease on the key."""


class TooManyError(Exception):
    """There is no place for one more registration."""


@define
class _Entry:
    """What stands under a key."""

    registration: Registration
    claim: Claim
    #: Of the claim's record when it was looked at last.
    version: int


@define
class Observer:
    """Whoever is to know what happens; each callable is called when the registry is done with it.

    :ivar registered: a setup packet made this registration, which may replace one of its key.
    :ivar renewed: a setup packet renewed the lease of one.
    :ivar found: likewise, by what another process told.
    :ivar seen: another process heard anew of one that stands, on the same terms.
    :ivar ended: one ended and wasn't replaced.
    :ivar over: one stands no more, replaced ones too, and why, when the others know.
    :ivar displaced: an owner's registration became another's.
    :ivar conflicted: an owner's registration ended, because another host's was there before it, at another process.
    :ivar refused: what another process told isn't allowed here, and why.
    :ivar refuses: why a registration isn't allowed; None if it is.
    :ivar hold: those of these registrations whose servers can be kept to the connections that there are.
    :ivar changed: other processes are to be told this.
    """

    registered: Callable[[Registration], object]
    ended: Callable[[Registration], object]
    renewed: Callable[[RecordKey], object] = lambda key: None
    found: Callable[[Registration], object] = lambda registration: None
    seen: Callable[[Registration], object] = lambda registration: None
    over: Callable[[Registration, str], object] = lambda registration, why: None
    displaced: Callable[[Hashable], object] = lambda owner: None
    conflicted: Callable[[Hashable, Registration], object] = lambda owner, registration: None
    refused: Callable[[Registration, str], object] = lambda registration, why: None
    refuses: Callable[[Registration], str | None] = lambda registration: None
    hold: Callable[[Sequence[Registration]], Sequence[Registration]] = lambda registrations: ()
    changed: Callable[[Record], object] = lambda record: None


@define
class Registry:
    """The registrations that one process knows.

    :param seconds: the clock.
    :param observer: who is told of changes.
    :param claims: see :class:`rproxy.claims.Claims`.
    :param most: how many registrations there may be.
    :param most_of_host: how many of one host, so that no host keeps the others out.
    """

    _seconds: Callable[[], float]
    _observer: Observer
    claims: Claims
    _most: int = 1 << 31
    _most_of_host: int = 1 << 31
    _entries: dict[Key, _Entry] = field(factory=dict, init=False)
    _owned: dict[Hashable, set[Key]] = field(factory=dict, init=False)
    #: Who serves a policy at an address: one port is one server's.
    _at: dict[tuple[str, Address], Key] = field(factory=dict, init=False)
    #: How many each host has.
    _of_host: Counter[str] = field(factory=Counter, init=False)
    _number: int = field(default=0, init=False)
    #: Whether the other processes are heard of.
    _in_touch: bool = field(default=True, init=False)

    # What comes here.

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
        self._check_conflict(held, peer)
        if expires is not None and self._renew(setup, peer, owner, expires):
            return None
        occupant = self._at.get((setup.policy, (peer.host, setup.listenport)), key)
        if occupant == key and (held is None or held.registration.host != peer.host):
            self._check_room(peer.host, 0 if held is None else 1)
        self._number += 1
        registration = self._read(setup, peer, self._number)
        before = self._disown(key)
        if occupant != key:
            # What listened there is another server now, and would be waited for in vain under its old id.
            self._displace(occupant, owner)
        record = self.claims.make(registration)
        self._withdraw(key, self.claims.holder if record.holder == NOBODY else NOBODY, record.version)
        claim = self.claims.put(record, owner if expires is not None else None, expires)
        if expires is not None:
            self._owned.setdefault(owner, set()).add(key)
        if before is not None and before is not owner:
            self._observer.displaced(before)
        self._observer.changed(record)
        self._enter(_Entry(registration, claim, record.version), self._observer.registered)
        return registration

    def _check_conflict(self, held: _Entry | None, peer: Peer) -> None:
        if held is None or held.claim.record.lease is None or held.registration.host == peer.host:
            return
        key = held.registration.key
        if held.claim.expires is None or held.claim.expires > self._seconds():
            raise ConflictError(f"another host holds server {key[1]} of policy {key[0]}")
        if held.claim.record.holder != self.claims.holder:
            # Past its lease, which nobody has looked at yet.
            self.claims.drop(key, held.claim.record.holder)

    def _renew(self, setup: Setup, peer: Peer, owner: Hashable, expires: float) -> bool:
        """Whether the setup packet renewed the lease of what stands under its key."""
        own = self.claims.own((setup.policy, setup.id))
        if own is None or own.owner is not owner or own.registration != self._read(setup, peer, 0):
            return False
        own.expires = expires
        self._observer.renewed(own.record.key)
        return True

    def _check_room(self, host: str, replaced: int) -> None:
        if len(self._entries) - replaced >= self._most:
            raise TooManyError(f"there are {self._most} registrations already")
        if self._of_host[host] >= self._most_of_host:
            raise TooManyError(f"there are {self._most_of_host} registrations of {host} already")

    def release(self, owner: Hashable) -> None:
        """End what ``owner`` holds a lease on."""
        for key in self._owned.pop(owner, ()):
            self._withdraw(key, self.claims.holder)
            self._settle(key, "its connection closed")

    def revoke(self, registration: Registration, why: str) -> None:
        """End a registration that stands and isn't allowed any more.

        A lease that is held here ends for all processes. What others hold is theirs to end; and what nobody holds stays
        known, and stands again if it is allowed again.
        """
        owner = self._disown(registration.key)
        if owner is not None:
            self._withdraw(registration.key, self.claims.holder)
        self._settle(registration.key, f"revoked: {why}")
        if owner is not None:
            self._observer.displaced(owner)

    def reconsider(self) -> None:
        """Let those stand that are allowed now."""
        for key in self.claims.keys:
            if key not in self._entries:
                self._settle(key, "")

    def expire(self) -> list[Hashable]:
        """End every registration whose lease has run out.

        :returns: the owners that let it run out.
        """
        now = self._seconds()
        late = [claim for claim in self.claims if claim.expires is not None and claim.expires <= now]
        owners = [self._disown(claim.registration.key) for claim in late if claim.owner is not None]
        mine = self.claims.holder
        others = [claim for claim in late if claim.record.holder != mine]
        if others and not self._in_touch:
            self._hold(others)
        for claim in late:
            key, holder = claim.registration.key, claim.record.holder
            if holder == mine:
                self._withdraw(key, holder)
            elif self._in_touch:
                self.claims.drop(key, holder)
            self._settle(key, "its lease ran out")
        return owners

    # What others tell.

    def hear(self, records: Iterable[Record], *, complete: bool) -> None:
        """Take what other processes say; what this process says itself it knows better.

        :param complete: whether these are all the records that there are. A lease that isn't among them may be renewed
            yet, by a holder who comes back as this process does; for as long as the lease lasts.
        """
        self._in_touch = True
        told = sorted((record for record in records if record.holder != self.claims.holder), key=_version)
        touched: dict[Key, None] = {}
        for record in told:
            if self.claims.hear(record):
                touched[record.policy, record.server_id] = None
                self._say_refused(record)
        released = self._confirm({record.key for record in told}) if complete else []
        touched.update(dict.fromkeys(released))
        for key in touched:
            self._settle(key, "it ended at another process")
        for key in released:
            if (entry := self._entries.get(key)) is not None:
                self._observer.seen(entry.registration)

    def _say_refused(self, record: Record) -> None:
        why = None if record.registration is None else self._observer.refuses(record.registration)
        if record.registration is not None and why is not None:
            self._observer.refused(record.registration, why)

    def _confirm(self, told: set[RecordKey]) -> list[Key]:
        """Find out what was told of; returns the keys of what was past its lease until now."""
        touched = []
        mine = {self.claims.holder, NOBODY}
        for claim in [claim for claim in self.claims if claim.record.holder not in mine]:
            key = claim.registration.key
            if claim.held or claim.lapsed:
                touched.append(key)
            if claim.record.key in told:
                claim.expires, claim.held, claim.lapsed = None, False, False
            elif claim.held or claim.lapsed:
                # It was past its lease before.
                self.claims.drop(key, claim.record.holder)
            elif claim.expires is None:
                claim.expires = self._seconds() + (claim.record.lease or 0.0)
        return touched

    def lose_touch(self) -> None:
        """The other processes aren't heard of: their leases last as long as they did when they were heard of last."""
        self._in_touch = False
        for claim in self.claims:
            if claim.record.holder not in {self.claims.holder, NOBODY} and claim.expires is None and not claim.held:
                claim.expires = self._seconds() + (claim.record.lease or 0.0)

    def _hold(self, late: Sequence[Claim]) -> None:
        """Keep those past their lease that can't have become another server: those whose connections still stand."""
        standing = {
            claim.registration.key: entry.registration
            for claim in late
            if (entry := self._entries.get(claim.registration.key)) is not None and entry.claim is claim
        }
        kept = {registration.key for registration in self._observer.hold(list(standing.values()))}
        for claim in late:
            claim.expires = None
            claim.held = claim.registration.key in kept and claim.registration.key in standing
            claim.lapsed = not claim.held

    def let_go(self, registration: Registration) -> None:
        """A server that was held has lost the connections that it was held by."""
        entry = self._entries.get(registration.key)
        if entry is not None and entry.claim.held:
            entry.claim.held, entry.claim.lapsed = False, True
            self._settle(registration.key, "its lease ran out")

    def put_again(self, missing: Iterable[RecordKey]) -> None:
        """Leases that are held here had run out at the others, or were lost: tell them anew."""
        for policy, server_id, holder in missing:
            own = self.claims.get((policy, server_id), holder)
            if own is not None and holder == self.claims.holder:
                own.record = evolve(own.record, version=self.claims.next_version())
                self._observer.changed(own.record)

    def unknown_among(self, records: Iterable[Record]) -> list[Record]:
        """The registrations without a lease that aren't among all the records that there are."""
        told = {record.key for record in records}
        return [claim.record for claim in self.claims if claim.record.holder == NOBODY and claim.record.key not in told]

    # Being down without a lease.

    @property
    def without_lease(self) -> list[Record]:
        """All registrations without a lease."""
        return [claim.record for claim in self.claims if claim.record.holder == NOBODY]

    def set_down(self, record: Record, seconds: float) -> None:
        """A server without a lease has been down for so long."""
        claim = self.claims.get((record.policy, record.server_id), NOBODY)
        if claim is not None:
            claim.record = evolve(claim.record, down=seconds)
            self._observer.changed(claim.record)

    def forget(self, record: Record, why: str) -> None:
        """End a registration without a lease, for all processes."""
        key = record.policy, record.server_id
        self._withdraw(key, NOBODY)
        self._settle(key, why)

    # What stands.

    @property
    def standing(self) -> list[Registration]:
        """All registrations."""
        return [entry.registration for entry in self._entries.values()]

    @property
    def leases(self) -> dict[RecordKey, float]:
        """How many seconds the leases that are held here still have."""
        now = self._seconds()
        return {
            claim.record.key: claim.expires - now
            for claim in self.claims
            if claim.record.holder == self.claims.holder and claim.expires is not None
        }

    def is_owner(self, owner: Hashable) -> bool:
        """Whether ``owner`` holds any lease."""
        return owner in self._owned

    def _withdraw(self, key: Key, holder: str, version: int | None = None) -> None:
        """A claim that is this process's to end is over, for all of them."""
        claim = self.claims.drop(key, holder)
        if claim is not None:
            self._observer.changed(claim.record.ended(version or self.claims.next_version()))

    def _settle(self, key: Key, why: str) -> None:
        """Have what counts stand.

        :param why: what stands until now ends, if nothing does any more.
        """
        claim, conflicting = find_standing(self.claims.on(key), lambda each: self._observer.refuses(each) is None)
        entry = self._entries.get(key)
        if claim is None:
            if entry is not None:
                self._end(key, why)
        elif entry is None or not _same_terms(entry.registration, claim.registration):
            self._adopt(claim)
        else:
            is_news = claim.record.version > entry.version
            entry.claim, entry.version = claim, claim.record.version
            if is_news:
                self._observer.seen(entry.registration)
        for each in conflicting:
            self._refuse(each)

    def _adopt(self, claim: Claim) -> None:
        """Have another process's claim stand, unless it has no place."""
        record = claim.record
        key = record.policy, record.server_id
        held = self._entries.get(key)
        occupant = self._at.get((record.policy, claim.registration.address), key)
        if occupant != key:
            if self._entries[occupant].version > record.version:
                # It is the older one of two at one address.
                self._leave(key, record.holder)
                return
            self._displace(occupant, None)
        elif held is None and len(self._entries) >= self._most:
            return
        self._number += 1
        registration = evolve(claim.registration, number=self._number)
        self._enter(_Entry(registration, claim, record.version), self._observer.found)

    def _leave(self, key: Key, holder: str) -> None:
        """A claim counts no more, as another server has its address; who holds it finds the same by itself."""
        owner = self._disown(key) if holder == self.claims.holder else None
        self._drop(key, holder)
        if owner is not None:
            self._observer.displaced(owner)
        self._settle(key, "another server has its address")

    def _drop(self, key: Key, holder: str) -> None:
        """End a claim if that is for this process to do; else don't know of it any more."""
        if holder in {self.claims.holder, NOBODY}:
            self._withdraw(key, holder)
        else:
            self.claims.drop(key, holder)

    def _refuse(self, claim: Claim) -> None:
        """Another host was first; whoever holds this claim ends it."""
        if claim.record.holder != self.claims.holder:
            return
        registration = claim.registration
        owner = self._disown(registration.key)
        self._withdraw(registration.key, self.claims.holder)
        if owner is not None:
            self._observer.conflicted(owner, registration)

    def _displace(self, key: Key, newcomer: Hashable) -> None:
        before = self._disown(key)
        for claim in self.claims.on(key):
            self._drop(key, claim.record.holder)
        self._end(key, "another server has its address")
        if before is not None and before is not newcomer:
            self._observer.displaced(before)

    def _enter(self, entry: _Entry, tell: Callable[[Registration], object]) -> None:
        registration = entry.registration
        held = self._entries.get(registration.key)
        if held is not None:
            self._at.pop((registration.policy, held.registration.address), None)
        self._count(registration.host, 1)
        if held is not None:
            self._count(held.registration.host, -1)
        self._entries[registration.key] = entry
        self._at[registration.policy, registration.address] = registration.key
        tell(registration)
        if held is not None:
            self._observer.over(held.registration, "replaced")

    def _count(self, host: str, by: int) -> None:
        self._of_host[host] += by
        if not self._of_host[host]:
            del self._of_host[host]

    def _end(self, key: Key, why: str) -> None:
        registration = self._entries.pop(key).registration
        self._count(registration.host, -1)
        del self._at[registration.policy, registration.address]
        self._observer.ended(registration)
        self._observer.over(registration, why)

    def _disown(self, key: Key) -> Hashable:
        """The end of the registration no longer hangs on its owner, who is returned."""
        own = self.claims.own(key)
        if own is None or own.owner not in self._owned:
            return None
        keys = self._owned[own.owner]
        keys.discard(key)
        if not keys:
            del self._owned[own.owner]
        return own.owner

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


def _version(record: Record) -> int:
    return record.version


def _same_terms(one: Registration, other: Registration) -> bool:
    """Whether they differ in nothing that matters to packets."""
    return evolve(one, number=0, lease=None) == evolve(other, number=0, lease=None)
