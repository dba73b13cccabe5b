"""Who serves which policy: the registrations and their leases, without a word about connections.

A registration's key is its policy and its server's id (docs/reference/protocol.rst, What a modern server adds). Whoever
routes is told of each change through callables, in the order in which the changes happen.

What stands under a key is what counts among the claims on it (:mod:`rproxy.registry.claims`,
:mod:`rproxy.registry.standing`): those of the setup packets that came here, and those that other processes have told
of. What is decided here is told to them in turn, as records.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from math import inf

from attrs import evolve

from rproxy.packets import Setup
from rproxy.policies import Peer
from rproxy.registry.claims import Claim, Claims, find_standing
from rproxy.registry.records import NOBODY, Record, RecordKey
from rproxy.registry.registration import Key, Registration, read
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
        most: float = inf,
        most_of_host: float = inf,
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
        terms = read(setup, peer)
        key = terms.key
        now = self._seconds()
        own = self.claims.own(key)
        claims = [claim for claim in self.claims.on(key) if not claim.is_late(now)]
        self._check_conflict(terms, claims)
        if terms.lease is not None and own is not None and own.owner is owner and own.registration == terms:
            own.expires = now + terms.lease
            self._observer.renewed(own.record.key)
            return None
        # What other processes hold may have to end, for what stands now, and hasn't yet.
        self._check_conflict(terms, [claim for claim in claims if self.claims.is_others(claim)])
        self._check_room(terms)
        self._drop_late(key, now)
        self._claim(terms, owner, now)
        registration = evolve(terms, number=self._standing.next_number())
        self._standing.settle([key], fresh=registration)
        return registration

    def _check_conflict(self, terms: Registration, claims: Sequence[Claim]) -> None:
        standing, _ = find_standing(claims, self._standing.is_allowed)
        if standing is not None and standing.record.lease is not None and standing.registration.host != terms.host:
            raise ConflictError(f"another host holds server {terms.server_id} of policy {terms.policy}")

    def _check_room(self, terms: Registration) -> None:
        before = self._standing.entries.get(terms.key)
        if before is not None and before.registration.host == terms.host:
            return
        if self._standing.occupant((terms.policy, terms.address)) is not None:
            # Whose place it takes.
            return
        if before is None and len(self._standing.entries) >= self._standing.most:
            raise TooManyError(f"there are {self._standing.most} registrations already")
        if self._standing.of_host[terms.host] >= self._most_of_host:
            raise TooManyError(f"there are {self._most_of_host} registrations of {terms.host} already")

    def _drop_late(self, key: Key, now: float) -> None:
        for claim in self.claims.on(key):
            if self.claims.is_others(claim) and claim.is_late(now):
                self.claims.drop(key, claim.record.holder)

    def _claim(self, terms: Registration, owner: Hashable, now: float) -> None:
        key, own = terms.key, self.claims.own(terms.key)
        record = self.claims.make(terms)
        # What it replaces is over for good, also at processes that this one hasn't heard of yet.
        if terms.lease is None:
            self._standing.withdraw(key, self.claims.holder, record.version)
            self.claims.put(record)
        else:
            self._standing.withdraw(key, NOBODY, record.version)
            self.claims.put(record, owner, now + terms.lease)
        if own is not None and own.owner is not owner:
            self._observer.displaced(own.owner)
        self._observer.changed(record)

    def release(self, owner: Hashable) -> None:
        """End what ``owner`` holds a lease on."""
        if owner not in self.claims.owned:
            # As most connections are, each of which ends here.
            return
        keys = list(self.claims.owned[owner])
        for key in keys:
            self._standing.withdraw(key, self.claims.holder)
        self._standing.settle(keys, "its connection closed")

    def revoke(self, registration: Registration, why: str) -> list[RecordKey]:
        """End a registration that stands.

        It ends for all processes, and won't stand again if it wasn't allowed and is again: its server may be another by
        then, and has to register anew. What other processes hold a lease on is theirs to end.

        :returns: the leases of other processes that it still stands by, if it does.
        """
        self._standing.withdraw(registration.key, NOBODY)
        owner = self._standing.withdraw(registration.key, self.claims.holder)
        self._standing.settle([registration.key], f"revoked: {why}")
        if owner is not None:
            self._observer.displaced(owner)
        if registration.key not in self._standing.entries:
            return []
        return [claim.record.key for claim in self.claims.on(registration.key) if claim.held or not claim.lapsed]

    def reconsider(self) -> None:
        """Have those stand that are allowed now."""
        self._standing.settle(self.claims.keys)

    def expire(self) -> list[Hashable]:
        """End every registration whose lease has run out.

        :returns: the owners that let it run out.
        """
        now = self._seconds()
        late = [claim for claim in self.claims if claim.is_late(now)]
        owners = []
        lapsed = []
        for claim in late:
            if not self.claims.is_others(claim):
                owners.append(self._standing.withdraw(claim.key, claim.record.holder))
            elif self.in_touch:
                self.claims.drop(claim.key, claim.record.holder)
            else:
                claim.lapse()
                lapsed.append(claim)
        self._hold(lapsed)
        self._standing.settle([claim.key for claim in late], "its lease ran out")
        if self._standing.crowded and len(self._standing.entries) < self._standing.most:
            self._standing.crowded = False
            self.reconsider()
        return owners

    def _hold(self, lapsed: Sequence[Claim]) -> None:
        """Keep those past their lease that can't have become another server: those whose connections still stand."""
        entries, candidate = self._standing.entries, self._standing.candidate
        last = [entry for claim in lapsed if (entry := entries.get(claim.key)) is not None and entry.claim is claim]
        standing = [entry.registration for entry in last if candidate(entry.claim.key)[0] is None]
        for registration in self._observer.hold(standing):
            entries[registration.key].claim.held = True

    def let_go(self, registration: Registration) -> None:
        """A server that was held has lost the connections that it was held by."""
        claim = self._claim_behind(registration)
        if claim is not None and claim.held:
            claim.lapse()
            self._standing.settle([claim.key], "its lease ran out")

    def lapse(self, registrations: Iterable[Registration]) -> None:
        """What others hold of these doesn't stand any more, unless it is heard of again."""
        claims = [self._claim_behind(registration) for registration in registrations]
        others = [claim for claim in claims if claim is not None and self.claims.is_others(claim)]
        for claim in others:
            claim.lapse()
        self._standing.settle([claim.key for claim in others], "nobody could say whether it is still there")

    def _claim_behind(self, registration: Registration) -> Claim | None:
        """What it stands by, if it does."""
        entry = self._standing.entries.get(registration.key)
        return entry.claim if entry is not None and entry.registration is registration else None

    # What others tell.

    def hear(self, records: Iterable[Record], *, complete: bool) -> None:
        """Take what other processes say; what this process says itself it knows better.

        :param complete: whether these are all the records that there are. A lease that isn't among them may be renewed
            yet, by a holder who comes back as this process does; for as long as the lease lasts.
        """
        self.in_touch = True
        others = [record for record in records if record.holder != self.claims.holder]
        touched = []
        for record in sorted(others, key=lambda record: record.version):
            if self.claims.hear(record):
                touched.append((record.policy, record.server_id))
                self._say_refused(record)
        if complete:
            touched += self.claims.confirm({record.key: record for record in others}, self._seconds())
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
                self._say_anew(own, own.record.version)

    def put_back(self, told: Mapping[RecordKey, Record]) -> None:
        """Tell what isn't among all the records that there are, as they were lost or ended without this process."""
        for claim in [claim for claim in self.claims if not self.claims.is_others(claim)]:
            known = told.get(claim.record.key)
            if known == claim.record:
                continue
            if known is None or claim.record.replaces(known):
                self._observer.changed(claim.record)
            elif claim.owner is not None:
                self._say_anew(claim, known.version)

    def _say_anew(self, claim: Claim, after: int) -> None:
        self._observer.changed(self.claims.say_anew(claim, after))
        self._standing.settle([claim.key])

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
        return self.leases_of(claim.record.key for claim in self.claims)

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
