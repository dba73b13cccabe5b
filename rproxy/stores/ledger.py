"""The rules of a store, on dicts: what :class:`rproxy.stores.Store` promises, as plain as can be.

It is what ``memory:`` is made of, and what the other stores are compared to.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from rproxy.registry.records import NOBODY, Record, RecordKey
from rproxy.stores import ENDS, LEASED_ENDS, MOST_ENDS, PRESENCE, Message, News, Position


@define
class _Kept:
    record: Record
    sequence: int
    #: When its lease runs out, or when its end is forgotten; None for what stands without a lease.
    due: float | None


@define
class Ledger:
    """All records, and who shares them.

    :param life: see :class:`rproxy.stores.Position`.
    :param seconds: the clock that leases hang on.
    :param most_ends: how many ends are remembered at most.
    """

    _life: str
    _seconds: Callable[[], float]
    _most_ends: int = MOST_ENDS
    _kept: dict[RecordKey, _Kept] = field(factory=dict, init=False)
    _processes: dict[str, float] = field(factory=dict, init=False)
    _sequence: int = field(default=0, init=False)
    #: Ends up to here may be forgotten.
    _forgotten: int = field(default=0, init=False)

    @property
    def sequence(self) -> int:
        """The number of the last change."""
        return self._sequence

    def exchange(self, message: Message) -> News:
        """See :meth:`rproxy.stores.Store.exchange`."""
        now = self._seconds()
        if message.leaves:
            self._processes.pop(message.process, None)
        else:
            self._processes[message.process] = now + PRESENCE
        self._end_late(now)
        for record in message.records:
            kept = self._kept.get(record.key)
            if record.replaces(None if kept is None else kept.record):
                self._keep(record, now)
        self._forget_many()
        missing = [key for key, left in message.renewed.items() if not self._renew(key, now + left)]
        since = message.since
        complete = since is None or since.life != self._life or not self._forgotten <= since.sequence <= self._sequence
        changed = [
            kept for kept in self._kept.values() if complete or (since is not None and kept.sequence > since.sequence)
        ]
        changed.sort(key=lambda kept: kept.sequence)
        leases = [kept.due for kept in self._kept.values() if kept.due is not None and kept.record.lease is not None]
        return News(
            Position(self._life, self._sequence),
            [kept.record for kept in changed],
            complete,
            missing,
            len(self._processes),
            min(leases) - now if leases else None,
        )

    def _renew(self, key: RecordKey, until: float) -> bool:
        kept = self._kept.get(key)
        if kept is None or kept.record.lease is None:
            return False
        kept.due = until
        return True

    def _keep(self, record: Record, now: float) -> None:
        self._sequence += 1
        lasts = record.lease
        if record.registration is None:
            lasts = ENDS if record.holder == NOBODY else LEASED_ENDS
        self._kept[record.key] = _Kept(record, self._sequence, None if lasts is None else now + lasts)

    def _end_late(self, now: float) -> None:
        late = [kept for kept in self._kept.values() if kept.due is not None and kept.due <= now]
        for kept in sorted(late, key=lambda kept: kept.sequence):
            if kept.record.registration is not None:
                self._keep(kept.record.ended(), now)
            else:
                self._forget(kept)
        for process in [process for process, until in self._processes.items() if until <= now]:
            del self._processes[process]

    def _forget_many(self) -> None:
        if len(self._kept) <= self._most_ends:
            return
        ends = sorted(
            (kept for kept in self._kept.values() if kept.record.registration is None), key=lambda kept: kept.sequence
        )
        for kept in ends[: max(0, len(ends) - self._most_ends)]:
            self._forget(kept)

    def _forget(self, kept: _Kept) -> None:
        del self._kept[kept.record.key]
        self._forgotten = max(self._forgotten, kept.sequence)
