"""What stands, by all claims that are known: one server under each key, and one key at each place.

What stands depends on the claims alone, not on the order in which they were heard of: so processes that know the same
agree. A claim that counts on its key (:func:`rproxy.registry.claims.find_standing`) stands, unless a newer one that
counts on another key is at its place. One that lost its place, or whose key another host has, is ended by who may end
it; until then it only doesn't count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

from attrs import define, evolve, field

from rproxy.registry.claims import Claim, Claims, Place, find_standing
from rproxy.registry.records import NOBODY, Record, RecordKey
from rproxy.registry.registration import Key, Registration

_DISPLACED = "another server has its address"


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
class Entry:
    """What stands under a key."""

    registration: Registration
    claim: Claim
    #: Of the claim, when it was looked at last: its record's version, and whether it was held.
    version: int
    held: bool = False
    #: Whether this process holds a lease on the key, be it the one that counts or not.
    backed: bool = False

    @property
    def place(self) -> Place:
        """Where the server is."""
        return self.registration.policy, self.registration.address


@define
class Standing:
    """What stands by ``claims``, for ``observer``.

    :param most: how many registrations there may be; further ones wait until others end.
    """

    claims: Claims
    observer: Observer
    most: float
    entries: dict[Key, Entry] = field(factory=dict, init=False)
    #: How many each host has.
    of_host: Counter[str] = field(factory=Counter, init=False)
    #: Whether there was no room for one.
    crowded: bool = field(default=False, init=False)
    _at: dict[Place, Key] = field(factory=dict, init=False)
    _number: int = field(default=0, init=False)

    def occupant(self, place: Place) -> Key | None:
        """Who is there."""
        return self._at.get(place)

    def candidate(self, key: Key) -> tuple[Claim | None, list[Claim]]:
        """Which claim counts on a key, wherever the server is, and those that it is in conflict with."""
        claims = self.claims.on(key)
        claim, conflicting = find_standing(claims, self.is_allowed)
        if claim is None:
            claim = next((each for each in claims if each.held and self.is_allowed(each.registration)), None)
        return claim, conflicting

    def is_allowed(self, registration: Registration) -> bool:
        """Whether whoever observes lets it stand."""
        return self.observer.refuses(registration) is None

    def next_number(self) -> int:
        """For one more registration."""
        self._number += 1
        return self._number

    def settle(self, keys: Iterable[Key], why: str = "", fresh: Registration | None = None) -> None:
        """Have what counts stand.

        :param keys: those whose claims have changed.
        :param why: what stands until now ends, if nothing does any more.
        :param fresh: what a setup packet said just now, which is news whatever stands.
        """
        asked = dict.fromkeys(keys)
        todo = list(reversed(asked))
        waiting: set[Key] = set()
        while todo:
            key = todo.pop()
            claim = self._choose(key)
            occupant = key if claim is None else self._at.get(claim.place, key)
            if occupant != key and occupant in waiting:
                # They change places.
                self._end(occupant, _DISPLACED)
            elif occupant != key:
                waiting.add(key)
                todo += [key, occupant]
                continue
            waiting.discard(key)
            news = fresh if fresh is not None and fresh.key == key else None
            left = self._stand(key, claim, why if key in asked else _DISPLACED, news)
            if left is not None:
                # What it stood in the way of.
                others = (other for other in self.claims.keys_at(left) if other not in self.entries)
                todo += [other for other in others if other != key and other not in waiting]

    def withdraw(self, key: Key, holder: str, version: int | None = None) -> Hashable:
        """End a claim that is this process's to end, for all of them.

        :param version: None to end just this one, so that what nobody here knows of yet stays.
        :returns: its owner, if any.
        """
        claim = self.claims.drop(key, holder)
        if claim is None:
            return None
        self.observer.changed(claim.record.ended(version))
        return claim.owner

    def _choose(self, key: Key) -> Claim | None:
        """Find the claim that stands; end those that lose by this, where that is for this process to do."""
        while True:
            claim, conflicting = self.candidate(key)
            for each in conflicting:
                self._refuse(each)
            taken = claim is not None and self._is_taken(claim)
            for each in self.claims.on(key):
                if each.held and (taken or each is not claim):
                    each.lapse()
            if claim is None:
                return None
            if taken and self.claims.is_others(claim):
                return None
            ended = claim if taken else self._replaced_lease(claim)
            if ended is None:
                return claim
            self._displace(key, ended.record.holder)

    def _replaced_lease(self, claim: Claim) -> Claim | None:
        """The lease that is held here, if a later registration without one took its place, for good."""
        own = self.claims.own(claim.key)
        return own if claim.record.holder == NOBODY and own is not None and own.order < claim.order else None

    def _displace(self, key: Key, holder: str) -> None:
        owner = self.withdraw(key, holder)
        if owner is not None:
            self.observer.displaced(owner)

    def _is_taken(self, claim: Claim) -> bool:
        """Whether a newer server is at its place."""
        others = (self.candidate(key)[0] for key in self.claims.keys_at(claim.place))
        return any(other is not None and other.place == claim.place and other.order > claim.order for other in others)

    def _refuse(self, claim: Claim) -> None:
        """Another host was first; whoever holds this claim ends it."""
        if claim.record.holder == self.claims.holder:
            self.observer.conflicted(self.withdraw(claim.key, claim.record.holder), claim.registration)

    def _stand(self, key: Key, claim: Claim | None, why: str, fresh: Registration | None) -> Place | None:
        """Have a claim stand, or none; returns the place that became free."""
        entry = self.entries.get(key)
        if claim is None:
            return None if entry is None else self._end(key, why)
        if fresh is not None:
            return self._enter(fresh, claim, self.observer.registered)
        if entry is None and len(self.entries) >= self.most:
            self.crowded = True
            return None
        backed = self.claims.own(key) is not None
        unbacked = entry is not None and entry.backed and not backed and self.claims.is_others(claim)
        if entry is None or unbacked or not _has_terms(entry.registration, claim.registration):
            return self._enter(evolve(claim.registration, number=self.next_number()), claim, self.observer.found)
        is_news = claim.record.version > entry.version or (entry.held and not claim.held)
        entry.claim, entry.version, entry.held, entry.backed = claim, claim.record.version, claim.held, backed
        if is_news:
            self.observer.seen(entry.registration)
        return None

    def _enter(self, registration: Registration, claim: Claim, tell: Callable[[Registration], object]) -> Place | None:
        key = registration.key
        before = self.entries.get(key)
        if before is not None:
            self._leave(before)
        backed = self.claims.own(key) is not None
        self.entries[key] = Entry(registration, claim, claim.record.version, claim.held, backed)
        self.of_host[registration.host] += 1
        self._at[claim.place] = key
        tell(registration)
        if before is None:
            return None
        self.observer.over(before.registration, "replaced")
        return before.place

    def _end(self, key: Key, why: str) -> Place:
        entry = self.entries.pop(key)
        self._leave(entry)
        self.observer.ended(entry.registration)
        self.observer.over(entry.registration, why)
        return entry.place

    def _leave(self, entry: Entry) -> None:
        """It isn't at its place any more."""
        del self._at[entry.place]
        host = entry.registration.host
        self.of_host[host] -= 1
        if not self.of_host[host]:
            del self.of_host[host]


def _has_terms(registration: Registration, terms: Registration) -> bool:
    """Whether it differs from them in nothing that matters to packets."""
    return evolve(registration, number=terms.number, lease=terms.lease) == terms
