"""The rules of a store in SQL: what :mod:`rproxy.stores.ledger` does on dicts, on the tables of an SQLite database.

However many records there are, the statements of an exchange are few, each with one row: lists go in and come out as
JSON. For each row the thread that asks gives up the interpreter and has to get it back, which takes it 5 ms while the
reactor is busy: with thousands of rows, that would be seconds.

Times are whole microseconds of the clock that is passed in, so that they come back as they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from sqlite3 import Connection
from typing import Any

from attrs import define, field, frozen

from rproxy.registry.records import NOBODY, Record, RecordError, RecordKey, decode, encode
from rproxy.stores import ENDS, LEASED_ENDS, MOST_ENDS, PRESENCE, Message, News, Position, StoreError

#: For how long a process counts from the time when it was written that it is there. It is written a third of
#: :data:`PRESENCE` later again at the earliest, so that most exchanges that change nothing needn't write at all.
_PRESENCE = PRESENCE * 4 / 3

#: A record's ``expires`` is when its lease runs out, an end's ``forget`` when it is forgotten; ``ends`` is how many of
#: these there are.
_SCHEMA = """
CREATE TABLE state (
    life TEXT NOT NULL, boot TEXT NOT NULL, sequence INTEGER NOT NULL, forgotten INTEGER NOT NULL, ends INTEGER NOT NULL
);
CREATE TABLE records (
    key TEXT NOT NULL PRIMARY KEY, sequence INTEGER NOT NULL, expires INTEGER, forget INTEGER, record TEXT NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX by_sequence ON records (sequence);
CREATE INDEX by_expires ON records (expires) WHERE expires IS NOT NULL;
CREATE INDEX by_forget ON records (forget) WHERE forget IS NOT NULL;
CREATE INDEX ends_by_sequence ON records (sequence) WHERE forget IS NOT NULL;
CREATE TABLE processes (process TEXT NOT NULL PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
"""

_STATEMENTS = [statement.strip() for statement in _SCHEMA.split(";") if statement.strip()]

_STATE = """
SELECT life, boot, sequence, forgotten, ends,
    (SELECT min(expires) FROM records WHERE expires IS NOT NULL),
    (SELECT min(forget) FROM records WHERE forget IS NOT NULL),
    (SELECT min(until) FROM processes), (SELECT count(*) FROM processes),
    (SELECT until FROM processes WHERE process = ?)
FROM state
"""

#: Found by the index of their own, however many records stand.
_OLDEST_ENDS = (
    "key IN (SELECT key FROM records INDEXED BY ends_by_sequence WHERE forget IS NOT NULL ORDER BY sequence LIMIT ?)"
)


@frozen
class _State:
    """What is asked in every exchange, in one row; ``presence`` is that of the process that asks."""

    life: str
    boot: str
    sequence: int
    forgotten: int
    ends: int
    expires: int | None
    forget: int | None
    until: int | None
    processes: int
    presence: int | None

    def is_late(self, now: int) -> bool:
        """Whether anything has run out."""
        return any(due is not None and due <= now for due in (self.expires, self.forget, self.until))


@define
class Tables:
    """The records of one database.

    :param connection: in autocommit mode; used by one thread.
    :param boot: which start of the machine its clock counts from.
    :param most_ends: how many ends are remembered at most.
    """

    _connection: Connection
    _boot: str
    _most_ends: int = MOST_ENDS
    #: The last change that this process knows of.
    sequence: int = field(default=0, init=False)
    _is_durable: bool | None = field(default=None, init=False)

    def make(self, life: str) -> None:
        """Make the tables, in the transaction that is open."""
        # All at once, by executescript(), would end the transaction first.
        for statement in _STATEMENTS:
            self._connection.execute(statement)
        self._connection.execute("INSERT INTO state VALUES (?, ?, 0, 0, 0)", (life, self._boot))

    def check(self, seconds: float) -> None:
        """Read all records, and end the leases of before the machine started; in the transaction that is open.

        :raises RecordError: something in it is no record, or a table isn't as it was made.
        """
        made = json.loads(self._one("SELECT json_group_array(sql) FROM sqlite_master WHERE sql IS NOT NULL"))
        if not set(_STATEMENTS) <= set(made):
            raise RecordError("its tables aren't those that a store has")
        now = _microseconds(seconds)
        state = self._state("")
        self._records("TRUE")
        self.sequence = state.sequence
        if state.boot == self._boot:
            return
        # These times are of a clock that stands still: leases run out now, and ends are remembered from now on.
        self._connection.execute("UPDATE state SET boot = ?", (self._boot,))
        self._connection.execute("DELETE FROM processes")
        self._connection.execute("UPDATE records SET expires = ? WHERE expires IS NOT NULL", (now,))
        self._connection.execute(
            "UPDATE records SET forget = CASE json_extract(record, '$.holder') WHEN ? THEN ? ELSE ? END"
            " WHERE forget IS NOT NULL",
            (NOBODY, now + _microseconds(ENDS), now + _microseconds(LEASED_ENDS)),
        )

    def changed(self) -> bool:
        """Whether another process changed something since this was last asked, or since the last exchange."""
        before = self.sequence
        self.sequence = self._one("SELECT sequence FROM state")
        return self.sequence != before

    def exchange(self, message: Message, seconds: float) -> News:
        """See :meth:`rproxy.stores.Store.exchange`; on an error nothing is changed.

        :raises StoreError: the database is used by another machine.
        :raises RecordError: something in it is no record.
        :raises sqlite3.Error: it can't be used now.
        """
        now = _microseconds(seconds)
        is_told = bool(message.records or message.renewed or message.leaves)
        # A registration without a lease isn't told again, so it has to be on the disk.
        self._be_durable(any(record.lease is None for record in message.records))
        self._connection.execute("BEGIN IMMEDIATE" if is_told else "BEGIN")
        try:
            state = self._state(message.process)
            if not is_told and (
                state.presence is None or state.presence < now + _microseconds(PRESENCE) or state.is_late(now)
            ):
                self._connection.execute("ROLLBACK")
                self._connection.execute("BEGIN IMMEDIATE")
                state = self._state(message.process)
                is_told = True
            missing: list[RecordKey] = []
            if is_told:
                missing = self._take(message, state, now)
                state = self._state(message.process)
            news = self._news(message.since, state, missing, now)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self.sequence = state.sequence
        return news

    def _be_durable(self, is_durable: bool) -> None:
        """Whether the next transaction is on the disk when it is done; can't be said within one."""
        if is_durable is not self._is_durable:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
            self._is_durable = is_durable

    def _state(self, process: str) -> _State:
        state = _State(*self._row(_STATE, process))
        if state.boot != self._boot and process:
            raise StoreError("another machine uses it")
        return state

    def _take(self, message: Message, state: _State, now: int) -> list[RecordKey]:
        """Do what a message says; returns the keys that couldn't be renewed."""
        self._see(message, now)
        forgotten, ends = state.forgotten, state.ends
        late: list[Record] = []
        if state.is_late(now):
            last, count = self._forget("forget <= ?", now)
            forgotten, ends = max(forgotten, last), ends - count
            late = self._records("expires <= ?", now)
        stored = {record.key: record for record in (*late, *self._stored(message.records))}
        current = dict(stored)
        changes: dict[RecordKey, tuple[int, Record]] = {}
        sequence = state.sequence
        for record in (*[each.ended() for each in late], *message.records):
            if record.replaces(current.get(record.key)):
                sequence += 1
                current[record.key] = record
                changes[record.key] = sequence, record
        if changes:
            self._write(changes.values(), now)
            ends += sum(_is_end(current.get(key)) - _is_end(stored.get(key)) for key in changes)
        if ends > self._most_ends:
            last, count = self._forget(_OLDEST_ENDS, ends - self._most_ends)
            forgotten, ends = max(forgotten, last), ends - count
        if sequence != state.sequence or forgotten != state.forgotten:
            self._connection.execute(
                "UPDATE state SET sequence = ?, forgotten = ?, ends = ?", (sequence, forgotten, ends)
            )
        return self._renew(message, now)

    def _stored(self, records: Sequence[Record]) -> list[Record]:
        """What there is of the same keys."""
        if not records:
            return []
        keys = json.dumps([_key(record.key) for record in records])
        return self._records("key IN (SELECT value FROM json_each(?))", keys)

    def _forget(self, which: str, value: int) -> tuple[int, int]:
        """Returns the number of the last change among these ends, 0 if there are none, and how many they were."""
        last, count = self._row(f"SELECT max(sequence), count(*) FROM records WHERE {which}", value)
        if count:
            self._connection.execute(f"DELETE FROM records WHERE {which}", (value,))
        return last or 0, count

    def _see(self, message: Message, now: int) -> None:
        if message.leaves:
            self._connection.execute("DELETE FROM processes WHERE process = ?", (message.process,))
        else:
            self._connection.execute(
                "INSERT OR REPLACE INTO processes VALUES (?, ?)", (message.process, now + _microseconds(_PRESENCE))
            )
        self._connection.execute("DELETE FROM processes WHERE until <= ?", (now,))

    def _write(self, changes: Iterable[tuple[int, Record]], now: int) -> None:
        rows = []
        for sequence, record in changes:
            expires = None if record.lease is None else now + _microseconds(record.lease)
            lasts = ENDS if record.holder == NOBODY else LEASED_ENDS
            forget = None if record.registration is not None else now + _microseconds(lasts)
            rows.append([_key(record.key), sequence, expires, forget, encode(record)])
        self._connection.execute(
            "INSERT OR REPLACE INTO records SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),"
            " json_extract(value, '$[2]'), json_extract(value, '$[3]'), json_extract(value, '$[4]') FROM json_each(?)",
            (json.dumps(rows),),
        )

    def _renew(self, message: Message, now: int) -> list[RecordKey]:
        if not message.renewed:
            return []
        until = json.dumps({_key(key): now + _microseconds(left) for key, left in message.renewed.items()})
        found = set(
            json.loads(
                self._one(
                    "SELECT json_group_array(key) FROM records"
                    " WHERE key IN (SELECT key FROM json_each(?)) AND expires IS NOT NULL",
                    until,
                )
            )
        )
        self._connection.execute(
            "UPDATE records SET expires = renewed.value FROM json_each(?) AS renewed"
            " WHERE records.key = renewed.key AND expires IS NOT NULL",
            (until,),
        )
        return [key for key in message.renewed if _key(key) not in found]

    def _news(self, since: Position | None, state: _State, missing: list[RecordKey], now: int) -> News:
        is_complete = (
            since is None or since.life != state.life or not state.forgotten <= since.sequence <= state.sequence
        )
        records: list[Record] = []
        if since is None or is_complete:
            records = self._records("TRUE")
        elif since.sequence != state.sequence:
            records = self._records("sequence > ?", since.sequence)
        return News(
            Position(state.life, state.sequence),
            records,
            is_complete,
            missing,
            state.processes,
            None if state.expires is None else (state.expires - now) / 1e6,
        )

    def _records(self, where: str, *values: object) -> list[Record]:
        """Those that are asked for, in the order of their changes."""
        rows: list[list[Any]] = json.loads(
            self._one(f"SELECT json_group_array(json_array(sequence, record)) FROM records WHERE {where}", *values)
        )
        return [decode(text) for _, text in sorted(rows)]

    def _one(self, statement: str, *values: object) -> Any:
        """The only value of the only row of an answer."""
        return self._row(statement, *values)[0]

    def _row(self, statement: str, *values: object) -> tuple[Any, ...]:
        """The only row of an answer.

        :raises RecordError: there is none, as the state is gone: all else has one whatever there is.
        """
        row: tuple[Any, ...] | None = self._connection.execute(statement, values).fetchone()
        if row is None:
            raise RecordError("its state is missing")
        return row


def _is_end(record: Record | None) -> bool:
    return record is not None and record.registration is None


def _key(key: RecordKey) -> str:
    return json.dumps(key, separators=(",", ":"))


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
