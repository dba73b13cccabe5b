"""Tests for ``rproxy.stores.tables``: its rules by the clock, and beside those of the ledger."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.registry.records import NOBODY, Record
from rproxy.stores import ENDS, LEASED_ENDS, MOST_ENDS, PRESENCE, Message, News, Position, tables
from rproxy.stores.databases import Database, open_database
from rproxy.stores.ledger import Ledger
from tests.contract import LONG, record


class ExchangeTests(SynchronousTestCase):
    """The rules, by the clock."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.path = Path(self.enterContext(TemporaryDirectory())) / "registry"
        self.database = self.open("boot")

    def open(self, boot: str) -> Database:
        database = open_database(self.path, boot, self.clock.seconds())
        self.addCleanup(database.connection.close)
        return database

    def tell(self, message: Message) -> News:
        return self.database.tables.exchange(message, self.clock.seconds())

    def version(self) -> int:
        """A number that is another one after each change of the file by somebody else."""
        with closing(sqlite3.connect(self.path)) as other:
            before = other.execute("PRAGMA data_version").fetchone()[0]
            self.tell(Message("a"))
            return int(other.execute("PRAGMA data_version").fetchone()[0] - before)

    def test_asking_writes_nothing(self) -> None:
        """But now and then, that the process is there."""
        self.tell(Message("a", records=[record()]))
        self.assertEqual(self.version(), 0)
        self.clock.advance(PRESENCE / 3 + 1)
        self.assertEqual(self.version(), 1)
        self.assertEqual(self.version(), 0)

    def test_who_says_nothing_is_gone(self) -> None:
        """Not before its time, and a third of that later at the latest."""
        self.tell(Message("a"))
        self.clock.advance(PRESENCE - 1)
        self.assertEqual(self.tell(Message("b")).processes, 2)
        self.clock.advance(PRESENCE / 3 + 1)
        self.assertEqual(self.tell(Message("c")).processes, 2)

    def test_what_others_are_told_of(self) -> None:
        """A change, once; not a renewal, and not the own ones."""
        leased = record(holder="a", lease=LONG)
        other = self.open("boot").tables
        self.assertFalse(other.changed())

        self.tell(Message("a", records=[leased]))
        self.assertEqual([other.changed(), other.changed(), self.database.tables.changed()], [True, False, False])
        self.tell(Message("a", renewed={leased.key: LONG}))
        self.assertFalse(other.changed())

    def test_only_what_has_no_lease_is_on_the_disk_at_once(self) -> None:
        connection = self.database.connection
        for records, level in ([record(holder="a", lease=LONG)], 1), ([record()], 2), ([], 1), ([record().ended()], 2):
            self.tell(Message("a", records=records))
            self.assertEqual(connection.execute("PRAGMA synchronous").fetchone(), (level,))

    def test_ends_of_before_the_machine_started(self) -> None:
        """Are remembered for their whole time from then on."""
        self.clock.advance(1_000_000)
        self.tell(Message("a", records=[record("1").ended(), record("2", holder="a", lease=LONG).ended()]))
        self.clock.rightNow = 5.0
        self.database = self.open("another boot")

        self.clock.advance(LEASED_ENDS - 1)
        self.assertEqual(len(self.tell(Message("a")).records), 2)
        self.clock.advance(1)
        self.assertEqual([each.server_id for each in self.tell(Message("a")).records], ["1"])
        self.clock.advance(ENDS - LEASED_ENDS)
        self.assertEqual(self.tell(Message("a")).records, [])

    def test_a_failure_changes_nothing(self) -> None:
        self.tell(Message("a", records=[record("1")]))
        trigger = "CREATE TRIGGER no BEFORE UPDATE ON state BEGIN SELECT RAISE(ABORT, 'no'); END"
        self.database.connection.execute(trigger)
        with self.assertRaises(sqlite3.IntegrityError):
            self.tell(Message("a", records=[record("2")]))

        self.assertEqual(self.tell(Message("a")).records, [record("1")])

    def test_the_oldest_ends_are_found_at_once(self) -> None:
        """However many records stand: they aren't walked over."""
        statement = f"EXPLAIN QUERY PLAN SELECT max(sequence), count(*) FROM records WHERE {tables._OLDEST_ENDS}"
        plan = [step for *_, step in self.database.connection.execute(statement, (1,))]
        self.assertEqual(plan[0], "SEARCH records USING PRIMARY KEY (key=?)")
        self.assertIn("SCAN records USING INDEX ends_by_sequence", plan)


SECONDS = st.sampled_from([0.0, 0.5, 1.0, 14.5, 15.0, LEASED_ENDS - 1, LEASED_ENDS, ENDS])
HOLDERS = st.sampled_from([NOBODY, "a", 'b"\u00e9'])
RECORDS = st.builds(
    lambda server_id, holder, version, lease, down: evolve(
        record(server_id, holder=holder, version=version, lease=lease), down=down
    ),
    st.sampled_from("123"),
    HOLDERS,
    st.integers(1, 4),
    st.sampled_from([None, 0.5, 15.0]),
    st.sampled_from([0.0, 0.25]),
)
TOLD = RECORDS | st.builds(Record.ended, RECORDS)
KEYS = st.builds(lambda number, holder: ("111", number, holder), st.sampled_from("123"), HOLDERS)
#: Seconds that go by before it, who asks, from how long ago or from nowhere, and what it tells.
STEPS = st.tuples(
    SECONDS,
    st.sampled_from("ab"),
    st.none() | st.integers(-1, 8),
    st.lists(TOLD, max_size=4),
    st.dictionaries(KEYS, st.sampled_from([0.0, 0.5, 15.0]), max_size=3),
    st.booleans(),
)


class LedgerTests(SynchronousTestCase):
    """The same answers as the plain rules give."""

    @given(st.lists(STEPS, max_size=12), st.sampled_from([MOST_ENDS, 0, 1, 3]))
    def test_same_answers(self, steps: list[Any], most_ends: int) -> None:
        """To any messages, with room for all ends or for few.

        Who is there is written down less often, which has its own tests.
        """
        now = 0.0
        with TemporaryDirectory() as folder:
            database = open_database(Path(folder) / "registry", "boot", now, most_ends)
            with closing(database.connection):
                life = database.tables.exchange(Message("a"), now).position.life
                ledger = Ledger(life, lambda: now, most_ends)
                for seconds, process, ago, records, renewed, leaves in steps:
                    now += seconds
                    since = None if ago is None else Position(life, ledger.sequence - ago)
                    message = Message(process, since, records, renewed, leaves)
                    expected = ledger.exchange(message)
                    self.assertEqual(
                        evolve(database.tables.exchange(message, now), processes=0), evolve(expected, processes=0)
                    )

    def test_same_ends(self) -> None:
        """With room for few of them, after ends that come, are replaced by others or by records, and run out."""
        random = Random(7)
        for most_ends in range(4):
            clock = Clock()
            with TemporaryDirectory() as folder:
                database = open_database(Path(folder) / "registry", "boot", 0.0, most_ends)
                with closing(database.connection):
                    life = database.tables.exchange(Message("a"), 0.0).position.life
                    ledger = Ledger(life, clock.seconds, most_ends)
                    for version in range(1, 60):
                        clock.advance(random.choice((0.0, LEASED_ENDS / 4)))
                        lease = random.choice((None, 0.5))
                        told = record(
                            random.choice("12345"), holder=random.choice(("", "a")), lease=lease, version=version
                        )
                        told = random.choice((told, told.ended(), told.ended()))
                        message = Message("a", Position(life, ledger.sequence - random.randrange(5)), [told])
                        expected = evolve(ledger.exchange(message), processes=0)
                        self.assertEqual(
                            evolve(database.tables.exchange(message, clock.seconds()), processes=0), expected
                        )
