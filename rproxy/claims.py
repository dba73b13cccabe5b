"""Who says that a server serves a policy: this process, other processes, or nobody who would have to say so again.

A server may be registered at several processes. Each holds a lease of its own on it and so has a claim of its own; a
registration without a lease is nobody's claim. This module keeps them, and says which of them counts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator

from attrs import define, evolve, field

from rproxy.records import NOBODY, Record
from rproxy.registration import Key, Registration


@define
class Claim:
    """One holder's word on one server and policy."""

    record: Record
    #: The setup connection whose end is its end; None if it isn't held here.
    owner: Hashable = None
    #: When its lease runs out, in the clock's seconds; None where that isn't for this process to say.
    expires: float | None = None
    #: Past its lease, as far as is known here: it counts only over connections that were made before.
    held: bool = False
    #: Past its lease: it doesn't count, unless it is heard of again.
    lapsed: bool = False

    @property
    def registration(self) -> Registration:
        """What it says."""
        registration = self.record.registration
        assert registration is not None, "an end is no claim"
        return registration


@define
class Claims:
    """All claims that a process knows of.

    :param holder: what this process is called in its records.
    :param wall: the seconds since 1970, by whatever clock: see :mod:`rproxy.records`.
    """

    holder: str
    _wall: Callable[[], float]
    _claims: dict[Key, dict[str, Claim]] = field(factory=dict, init=False)
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
        return sorted(self._claims.get(key, {}).values(), key=lambda claim: (claim.record.version, claim.record.holder))

    def get(self, key: Key, holder: str) -> Claim | None:
        """One holder's claim."""
        return self._claims.get(key, {}).get(holder)

    def own(self, key: Key) -> Claim | None:
        """The lease that is held here."""
        return self.get(key, self.holder)

    def next_version(self) -> int:
        """For a record that is newer than all that was seen here."""
        self._version = max(self._version + 1, int(self._wall() * 1e6))
        return self._version

    def put(self, record: Record, owner: Hashable = None, expires: float | None = None) -> Claim:
        """A claim in the place of any other of its holder."""
        self._version = max(self._version, record.version)
        claim = Claim(record, owner, expires)
        self._claims.setdefault((record.policy, record.server_id), {})[record.holder] = claim
        return claim

    def drop(self, key: Key, holder: str) -> Claim | None:
        """Take a claim away, and return it."""
        claims = self._claims.get(key, {})
        claim = claims.pop(holder, None)
        if not claims:
            self._claims.pop(key, None)
        return claim

    def make(self, registration: Registration) -> Record:
        """The record of what a setup packet said here."""
        holder = NOBODY if registration.lease is None else self.holder
        terms = evolve(registration, number=0)
        return Record(registration.policy, registration.server_id, holder, self.next_version(), terms)

    def hear(self, record: Record) -> bool:
        """Take another's record; whether anything changed by it."""
        self._version = max(self._version, record.version)
        key = record.policy, record.server_id
        claim = self.get(key, record.holder)
        if record.registration is None:
            ends = claim is not None and record.replaces(claim.record)
            return ends and self.drop(key, record.holder) is not None
        if claim is None:
            self.put(record)
            return True
        if not record.replaces(claim.record):
            return False
        changed = record != claim.record or claim.lapsed
        claim.record, claim.expires, claim.held, claim.lapsed = record, None, False, False
        return changed


def find_standing(
    claims: Iterable[Claim], is_allowed: Callable[[Registration], bool]
) -> tuple[Claim | None, list[Claim]]:
    """Which of the claims on a key counts, as if the setup packets had all come to one process.

    The newest counts; but while one host holds a lease, another host's setup packet is a conflict (docs/protocol.rst,
    What a modern server adds).

    :param claims: from the oldest to the newest.
    :returns: the claim, if any; and those that another host's claim stands in the way of.
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
