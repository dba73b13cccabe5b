"""Who says that a server serves a policy: this process, other processes, or nobody who would have to say so again.

A server may be registered at several processes. Each holds a lease of its own on it and so has a claim of its own; a
registration without a lease is nobody's claim. This module keeps them, and says which of those on a key counts.

The lease of another process is for that process to end, as long as the store is heard of. While it isn't, a lease lasts
for its own length and then lapses: its claim doesn't count any more, unless it is held, which see.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

from attrs import define, evolve, field

from rproxy.registry.records import NOBODY, Record, RecordKey
from rproxy.registry.registration import Address, Key, Registration

#: Where a server listens for a policy: one place is one server's.
Place = tuple[str, Address]


@define(eq=False)
class Claim:
    """One holder's word on one server and policy."""

    record: Record
    #: The setup connection whose end is its end; None if it isn't held here.
    owner: Hashable = None
    #: When its lease runs out, in the clock's seconds; None where that isn't for this process to say.
    expires: float | None = None
    #: Past its lease, as far as is known here: it doesn't count, unless it is heard of again.
    lapsed: bool = False
    #: Lapsed, and counts all the same, over connections that were made before, if nothing else counts; never again once
    #: something else did.
    held: bool = False

    @property
    def registration(self) -> Registration:
        """What it says."""
        registration = self.record.registration
        assert registration is not None, "an end is no claim"
        return registration

    @property
    def key(self) -> Key:
        """What it is on."""
        return self.record.policy, self.record.server_id

    @property
    def place(self) -> Place:
        """Where it says that the server is."""
        return self.record.policy, self.registration.address

    @property
    def order(self) -> tuple[int, str, str]:
        """Grows with the age of claims from old to new, and is the same for no two at one place or on one key."""
        return self.record.version, self.record.holder, self.record.server_id

    def is_late(self, now: float) -> bool:
        """Whether its lease has run out, and nobody has looked at it yet."""
        return self.expires is not None and self.expires <= now

    def count_down(self, now: float) -> None:
        """Have its lease run out, from now on if it doesn't already."""
        if self.expires is None:
            self.expires = now + (self.record.lease or 0.0)

    def lapse(self) -> None:
        """It is past its lease, and not held any more if it was."""
        self.expires, self.lapsed, self.held = None, True, False


@define
class Claims:
    """All claims that a process knows of.

    :param holder: what this process is called in its records.
    :param wall: the seconds since 1970, by whatever clock: see :mod:`rproxy.registry.records`.
    """

    holder: str
    _wall: Callable[[], float]
    _claims: dict[Key, dict[str, Claim]] = field(factory=dict, init=False)
    #: The keys that there is a claim on for each place, and how many.
    _at: dict[Place, Counter[Key]] = field(factory=dict, init=False)
    #: What each connection holds leases on.
    owned: dict[Hashable, set[Key]] = field(factory=dict, init=False)
    _version: int = field(default=0, init=False)

    def __iter__(self) -> Iterator[Claim]:
        for claims in self._claims.values():
            yield from claims.values()

    @property
    def keys(self) -> list[Key]:
        """What there are claims on."""
        return list(self._claims)

    def on(self, key: Key) -> list[Claim]:
        """The claims on a key, from the oldest to the newest."""
        return sorted(self._claims.get(key, {}).values(), key=lambda claim: claim.order)

    def keys_at(self, place: Place) -> list[Key]:
        """The servers that somebody says are at a place."""
        return list(self._at.get(place, ()))

    def get(self, key: Key, holder: str) -> Claim | None:
        """One holder's claim."""
        return self._claims.get(key, {}).get(holder)

    def own(self, key: Key) -> Claim | None:
        """The lease that is held here."""
        return self.get(key, self.holder)

    def is_others(self, claim: Claim) -> bool:
        """Whether only another process may end it."""
        return claim.record.holder not in {self.holder, NOBODY}

    # What is said here.

    def next_version(self) -> int:
        """For a record that is newer than all that was seen here."""
        self._version = max(self._version + 1, int(self._wall() * 1e6))
        return self._version

    def make(self, terms: Registration) -> Record:
        """The record of what a setup packet said here."""
        holder = NOBODY if terms.lease is None else self.holder
        return Record(terms.policy, terms.server_id, holder, self.next_version(), terms)

    def put(self, record: Record, owner: Hashable = None, expires: float | None = None) -> None:
        """A claim in the place of any other of its holder.

        :param owner: None where no connection holds it.
        """
        claim = Claim(record, owner, expires)
        self.drop(claim.key, record.holder)
        self._claims.setdefault(claim.key, {})[record.holder] = claim
        self._index(claim, 1)
        if owner is not None:
            self.owned.setdefault(owner, set()).add(claim.key)

    def drop(self, key: Key, holder: str) -> Claim | None:
        """Take a claim away, and return it."""
        claims = self._claims.get(key, {})
        claim = claims.pop(holder, None)
        if claim is None:
            return None
        if not claims:
            del self._claims[key]
        self._index(claim, -1)
        self._disown(claim)
        return claim

    def say_anew(self, claim: Claim, after: int) -> Record:
        """The record of a claim that goes on, although the store has its end.

        It is newer by no more than that takes: who came after it still does.

        :param after: the version that has to be exceeded.
        """
        claim.record = evolve(claim.record, version=max(claim.record.version, after) + 1)
        self._version = max(self._version, claim.record.version)
        return claim.record

    def _disown(self, claim: Claim) -> None:
        keys = self.owned.get(claim.owner)
        if keys is not None:
            keys.discard(claim.key)
            if not keys:
                del self.owned[claim.owner]

    def _index(self, claim: Claim, by: int) -> None:
        keys = self._at.setdefault(claim.place, Counter())
        keys[claim.key] += by
        if not keys[claim.key]:
            del keys[claim.key]
        if not keys:
            del self._at[claim.place]

    # What others say.

    def hear(self, record: Record) -> bool:
        """Take another's record; whether anything changed by it."""
        self._version = max(self._version, record.version)
        key = record.policy, record.server_id
        claim = self.get(key, record.holder)
        if claim is not None and not record.replaces(claim.record):
            return False
        if record.registration is None:
            return self.drop(key, record.holder) is not None
        if claim is None:
            self.put(record)
            return True
        changed = record != claim.record or claim.lapsed
        self._index(claim, -1)
        claim.record, claim.expires, claim.lapsed, claim.held = record, None, False, False
        self._index(claim, 1)
        return changed

    def lose_touch(self, now: float) -> None:
        """The other processes aren't heard of: their leases last as long as they did when they were heard of last."""
        for claim in self:
            if self.is_others(claim) and not claim.lapsed:
                claim.count_down(now)

    def confirm(self, told: Mapping[RecordKey, Record], now: float) -> list[Key]:
        """All that there is was told of, and heard.

        :returns: the keys of claims that were past their lease, and are over.
        """
        over = []
        for claim in [claim for claim in self if self.is_others(claim)]:
            record = told.get(claim.record.key)
            # Of an older one the store would tell the end, which ends no newer one.
            if record is not None and record.version == claim.record.version:
                continue
            if claim.lapsed:
                self.drop(claim.key, claim.record.holder)
                over.append(claim.key)
            else:
                claim.count_down(now)
        return over


def find_standing(
    claims: Iterable[Claim], is_allowed: Callable[[Registration], bool]
) -> tuple[Claim | None, list[Claim]]:
    """Which of the claims on a key counts, as if the setup packets had all come to one process.

    The newest counts; but while one host holds a lease, another host's setup packet is a conflict
    (docs/reference/protocol.rst, What a modern server adds).

    :param claims: from the oldest to the newest.
    :returns: the claim, if any that isn't held; and those that another host's claim stands in the way of.
    """
    standing: Claim | None = None
    conflicting: list[Claim] = []
    for claim in claims:
        if claim.lapsed or not is_allowed(claim.registration):
            continue
        before = None if standing is None else standing.registration
        if before is not None and before.lease is not None and before.host != claim.registration.host:
            conflicting.append(claim)
        else:
            standing = claim
    return standing, conflicting
