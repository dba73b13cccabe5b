"""Where registrations outlive a process and span several: stores of records behind one small interface.

A store knows nothing of servers or policies. It keeps records (:mod:`rproxy.registry.records`), the newest of each key;
ends those whose lease runs out, by a clock of its own that all its processes share; and tells each process what changed
since it last asked. All of that is one :meth:`Store.exchange`, done as one piece: so a store is easy to get right, and
costs a process one round trip however much it has to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred

from rproxy.registry.records import Record, RecordKey

#: Seconds for which an end is remembered, so that whoever was away hears of it: of a record with a lease, which its
#: holder would renew if it still stood, and of one without, which any process that still knows it would put back.
LEASED_ENDS = 600.0
ENDS = 24 * 3600.0
#: How many ends are remembered at most, as whoever may register can cause any number of them. Beyond that, the oldest
#: are forgotten; who wasn't told of them yet is told everything.
MOST_ENDS = 20_000
#: Seconds for which a process counts as one of those that share the store, from its last exchange; a store that saves
#: itself writing down each of them may take it for there for a third longer.
PRESENCE = 15.0


class StoreError(Exception):
    """The store can't be used now; it may be back later. The text says what is wrong."""


class StoreRefusedError(Exception):
    """The store can't be used by this release, or isn't one: nothing in it was changed. The text says what to do."""


@frozen
class Position:
    """How much of a store's history a process has seen.

    :ivar life: which history it is: a store that lost everything begins a new one.
    :ivar sequence: the number of the last change.
    """

    life: str
    sequence: int


@frozen
class Message:
    """What a process tells the store, and from where on it wants to be told.

    :ivar process: which process it is; it counts as there for :data:`PRESENCE` seconds.
    :ivar since: None to be told everything.
    :ivar records: each is kept if it replaces what the store has of its key
        (:meth:`rproxy.registry.records.Record.replaces`). A lease begins with its whole length.
    :ivar renewed: how many seconds the leases of these still have, at most.
    :ivar leaves: whether the process counts as gone from now on.
    """

    process: str
    since: Position | None = None
    records: Sequence[Record] = ()
    renewed: Mapping[RecordKey, float] = field(factory=dict)
    leaves: bool = False


@frozen
class News:
    """The store's answer.

    :ivar position: to be given as ``since`` the next time.
    :ivar records: of each key that changed since then, the record as it is now, ends too; in the order of the changes.
        They include what the message itself changed.
    :ivar complete: whether these are all records that there are, because the process asked for them, or because the
        store can't say (any more) what changed since its position.
    :ivar missing: the keys in ``renewed`` that have no record, or one that ended: put them again if they stand.
    :ivar processes: how many processes share the store now.
    :ivar wait: seconds until the next lease runs out, None if none does: the store ends it at the next exchange after
        that, whoever makes it.
    """

    position: Position
    records: Sequence[Record]
    complete: bool
    missing: Sequence[RecordKey] = ()
    processes: int = 1
    wait: float | None = None


class Store(Protocol):
    """One process's access to a store."""

    def open(self, changed: Callable[[], object]) -> Deferred[None]:
        """Connect, and make it a store if there is nothing yet.

        :param changed: called when another process changed something, and now and then for nothing. Not called while
            the store is away: whoever can reach it again is to ask for everything.
        :returns: fires when it can be used; fails with :class:`StoreError` if it can't now, and may be called again;
            fails with :class:`StoreRefusedError` if it is no store of ours, or one of a newer release.
        """

    def exchange(self, message: Message) -> Deferred[News]:
        """Tell the store, and be told.

        :returns: fails with :class:`StoreError` if it can't be reached, within a few seconds. What was told may have
            arrived all the same. Then the store is to be opened again.
        """

    def close(self) -> Deferred[None]:
        """Let go of it; fires when that is done, and never fails. What is in it stays there."""

    def __str__(self) -> str:
        """What to call it in logs: without passwords."""
