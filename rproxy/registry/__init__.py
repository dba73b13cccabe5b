"""Who serves which policy: the registrations and their leases, without a word about connections.

A registration's key is its policy and its server's id (docs/protocol.rst, What a modern server adds). Whoever routes is
told of each change through callables, in the order in which the changes happen.

What stands under a key is what counts among the claims on it (:mod:`rproxy.registry.claims`,
:mod:`rproxy.registry.standing`): those of the setup packets that came here, and those that other processes have told
of. What is decided here is told to them in turn, as records.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from attrs import evolve

from rproxy.limits import CLASSIC_CONNECTIONS
from rproxy.packets import Setup
from rproxy.policies import Peer, digest
from rproxy.registry.claims import Claim, Claims, find_standing
from rproxy.registry.records import NOBODY, Record, RecordKey
from rproxy.registry.registration import Key, Registration
from rproxy.registry.standing import Observer, Standing


class ConflictError(Exception):
    """Another host holds a live lease on the key."""


class TooManyError(Exception):
    """There is no place for one more registration."""


class Registry:
    """The registrations that one process knows.

    :param seconds: the clock.
    :param observer: who is told of changes.
    :param claims: see :class:`rproxy.registry.claims.Claims`.
    :param most: how many registrations there may be.
    :param most_of_host: how many of one host may be made here, so that no host keeps the others out.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        observer: Observer,
        claims: Claims,
        most: int = 1 << 31,
        most_of_host: int = 1 << 31,
    ) -> None:
        self._seconds = seconds
        self._observer = observer
        self.claims = claims
        self._standing = Standing(claims, observer, most)
        self._most_of_host = most_of_host
        #: Whether the other processes are heard of.
        self.in_touch = True

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
        now = self._seconds()
        expires = None if setup.lease is None else now + setup.lease
        self._check_conflict(key, peer, now)
        if expires is not None and self._renew(setup, peer, owner, expires):
            return None
        self._check_room(key, peer.host, setup.listenport)
        self._drop_late(key, now)
        registration = _read(setup, peer, self._standing.next_number())
        record = self.claims.make(registration)
        own = self.claims.own(key)
        before = None if own is None else own.owner
        # What it replaces is over for good, also at processes that this one hasn't heard of yet.
        self._standing.withdraw(key, self.claims.holder if record.holder == NOBODY else NOBODY, record.version)
        self.claims.put(record, None if expires is None else owner, expires)
        if before is not None and before is not owner:
            self._observer.displaced(before)
        self._observer.changed(record)
        self._standing.settle([key], "", registration)
        return registration

    def _check_conflict(self, key: Key, peer: Peer, now: float) -> None:
        # One that is past its lease counts no more, even if nobody has looked at it yet.
        claims = [claim for claim in self.claims.on(key) if claim.expires is None or claim.expires > now]
        # What other processes hold may have to end, for what stands now, and hasn't yet.
        for each in claims, [claim for claim in claims if self.claims.is_others(claim)]:
            standing, _ = find_standing(each, lambda registration: self._observer.refuses(registration) is None)
            if standing is not None and standing.record.lease is not None and standing.registration.host != peer.host:
                raise ConflictError(f"another host holds server {key[1]} of policy {key[0]}")

    def _renew(self, setup: Setup, peer: Peer, owner: Hashable, expires: float) -> bool:
        """Whether the setup packet renewed the lease that its connection holds."""
        own = self.claims.own((setup.policy, setup.id))
        if own is None or own.owner is not owner or own.registration != _read(setup, peer, 0):
            return False
        own.expires = expires
        self._observer.renewed(own.record.key)
        return True

    def _check_room(self, key: Key, host: str, port: int) -> None:
        entries, most = self._standing.entries, self._standing.most
        held = entries.get(key)
        if self._standing.occupant((key[0], (host, port))) not in {None, key}:
            return
        if held is not None and held.registration.host == host:
            return
        if len(entries) - (held is not None) >= most:
            raise TooManyError(f"there are {most} registrations already")
        if self._standing.of_host[host] >= self._most_of_host:
            raise TooManyError(f"there are {self._most_of_host} registrations of {host} already")

    def _drop_late(self, key: Key, now: float) -> None:
        for claim in self.claims.on(key):
            if self.claims.is_others(claim) and claim.expires is not None and claim.expires <= now:
                self.claims.drop(key, claim.record.holder)

    def release(self, owner: Hashable) -> None:
        """End what ``owner`` holds a lease on."""
        if owner not in self.claims.owned:
            # As most connections are, each of which ends here.
            return
        keys = list(self.claims.owned[owner])
        for key in keys:
            self._standing.withdraw(key, self.claims.holder)
        self._standing.settle(keys, "its connection closed")

    def revoke(self, registration: Registration, why: str) -> None:
        """End a registration that stands and isn't allowed any more.

        It ends for all processes, and won't stand again if it is allowed again: its server may be another by then, and
        has to register anew. What other processes hold a lease on is theirs to end.
        """
        self._standing.withdraw(registration.key, NOBODY)
        owner = self._standing.withdraw(registration.key, self.claims.holder)
        self._standing.settle([registration.key], f"revoked: {why}")
        if owner is not None:
            self._observer.displaced(owner)

    def reconsider(self) -> None:
        """Have those stand that are allowed now."""
        self._standing.settle(self.claims.keys, "")

    def expire(self) -> list[Hashable]:
        """End every registration whose lease has run out.

        :returns: the owners that let it run out.
        """
        now = self._seconds()
        late = [claim for claim in self.claims if claim.expires is not None and claim.expires <= now]
        owners = []
        for claim in late:
            if not self.claims.is_others(claim):
                owners.append(self._standing.withdraw(claim.key, claim.record.holder))
            elif self.in_touch:
                self.claims.drop(claim.key, claim.record.holder)
            else:
                claim.expires, claim.lapsed = None, True
        if late:
            self._hold([claim for claim in late if claim.lapsed])
            self._standing.settle([claim.key for claim in late], "its lease ran out")
        if self._standing.crowded and len(self._standing.entries) < self._standing.most:
            self._standing.crowded = False
            self.reconsider()
        return [owner for owner in owners if owner is not None]

    def _hold(self, late: Sequence[Claim]) -> None:
        """Keep those past their lease that can't have become another server: those whose connections still stand."""
        last: dict[Key, Claim] = {}
        for claim in late:
            entry = self._standing.entries.get(claim.key)
            if entry is not None and entry.claim is claim and self._standing.candidate(claim.key)[0] is None:
                last[claim.key] = claim
        standing = [self._standing.entries[key].registration for key in last]
        for registration in self._observer.hold(standing) if standing else ():
            claim = last[registration.key]
            claim.held, claim.lapsed = True, False

    def let_go(self, registration: Registration) -> None:
        """A server that was held has lost the connections that it was held by."""
        entry = self._standing.entries.get(registration.key)
        if entry is not None and entry.registration is registration and entry.claim.held:
            entry.claim.held, entry.claim.lapsed = False, True
            self._standing.settle([registration.key], "its lease ran out")

    def lapse(self, registrations: Iterable[Registration]) -> None:
        """What others hold of these doesn't stand any more, unless it is heard of again."""
        keys = []
        for registration in registrations:
            entry = self._standing.entries.get(registration.key)
            if entry is not None and entry.registration is registration and self.claims.is_others(entry.claim):
                entry.claim.expires, entry.claim.held, entry.claim.lapsed = None, False, True
                keys.append(registration.key)
        self._standing.settle(keys, "nobody could say whether it is still there")

    # What others tell.

    def hear(self, records: Iterable[Record], *, complete: bool) -> None:
        """Take what other processes say; what this process says itself it knows better.

        :param complete: whether these are all the records that there are. A lease that isn't among them may be renewed
            yet, by a holder who comes back as this process does; for as long as the lease lasts.
        """
        self.in_touch = True
        told = sorted((record for record in records if record.holder != self.claims.holder), key=_version)
        touched: dict[Key, None] = {}
        for record in told:
            if self.claims.hear(record):
                touched[record.policy, record.server_id] = None
                self._say_refused(record)
        if complete:
            over = self.claims.confirm({record.key: record for record in told}, self._seconds())
            touched.update(dict.fromkeys(over))
        self._standing.settle(touched, "it ended at another process")

    def _say_refused(self, record: Record) -> None:
        if record.registration is not None:
            why = self._observer.refuses(record.registration)
            if why is not None:
                self._observer.refused(record.registration, why)

    def lose_touch(self) -> None:
        """The other processes aren't heard of: their leases last as long as they did when they were heard of last."""
        self.in_touch = False
        self.claims.lose_touch(self._seconds())

    def put_again(self, missing: Iterable[RecordKey]) -> None:
        """Leases that are held here had run out at the others: tell them anew."""
        for policy, server_id, holder in missing:
            own = self.claims.own((policy, server_id))
            if own is not None and holder == self.claims.holder:
                self._observer.changed(self.claims.say_anew(own, own.record.version))
                self._standing.settle([own.key], "")

    def put_back(self, told: Mapping[RecordKey, Record]) -> None:
        """Tell what isn't among all the records that there are, as they were lost or ended without this process."""
        for claim in [claim for claim in self.claims if not self.claims.is_others(claim)]:
            known = told.get(claim.record.key)
            if claim.record.replaces(known) and claim.record != known:
                self._observer.changed(claim.record)
            elif known is not None and known.registration is None and claim.owner is not None:
                self._observer.changed(self.claims.say_anew(claim, known.version))
                self._standing.settle([claim.key], "")

    # Being down without a lease.

    @property
    def without_lease(self) -> list[Record]:
        """All registrations without a lease."""
        return [claim.record for claim in self.claims.without_lease]

    def set_down(self, record: Record, seconds: float) -> None:
        """A server without a lease has been down for so long."""
        claim = self.claims.get((record.policy, record.server_id), NOBODY)
        if claim is not None:
            claim.record = evolve(claim.record, down=seconds)
            self._observer.changed(claim.record)

    def forget(self, record: Record, why: str) -> None:
        """End a registration without a lease, for all processes."""
        key = record.policy, record.server_id
        self._standing.withdraw(key, NOBODY)
        self._standing.settle([key], why)

    # What stands.

    @property
    def standing(self) -> list[Registration]:
        """All registrations."""
        return [entry.registration for entry in self._standing.entries.values()]

    @property
    def leases(self) -> dict[RecordKey, float]:
        """How many seconds the leases that are held here still have."""
        return self.leases_of([claim.record.key for claim in self.claims if claim.expires is not None])

    def leases_of(self, keys: Iterable[RecordKey]) -> dict[RecordKey, float]:
        """The same, for those of these that are held here."""
        now = self._seconds()
        leases = {}
        for policy, server_id, holder in keys:
            own = self.claims.own((policy, server_id)) if holder == self.claims.holder else None
            if own is not None and own.expires is not None:
                leases[own.record.key] = own.expires - now
        return leases

    def is_owner(self, owner: Hashable) -> bool:
        """Whether ``owner`` holds any lease."""
        return owner in self.claims.owned


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
