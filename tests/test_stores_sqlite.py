"""Tests for ``rproxy.stores.sqlite`` and what it is made of: ``tables``, ``databases``,
``files`` and ``worker``."""

from __future__ import annotations

import fcntl
import os
import resource
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.registry.records import NOBODY, Record
from rproxy.stores import (
    ENDS,
    LEASED_ENDS,
    MOST_ENDS,
    PRESENCE,
    Message,
    News,
    Position,
    Store,
    StoreError,
    StoreRefusedError,
    files,
    sqlite,
    tables,
)
from rproxy.stores.databases import Database, check_file, open_database
from rproxy.stores.files import APPLICATION, VERSION, alone
from rproxy.stores.ledger import Ledger
from rproxy.stores.sqlite import SqliteStore, boot_id
from rproxy.stores.worker import Worker
from tests.contract import LONG, SHORT, Process, StoreContract, record, until

ROOT = Path(__file__).parent.parent


class SqliteStoreTests(StoreContract, TestCase):
    """The contract, and what becomes of a store whose file fails."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.path = self.folder / "registry"
        self.boot = "boot"

    def make_store(self) -> Store:
        return SqliteStore(self.path, reactor, boot=self.boot)

    def open_files(self) -> list[Path]:
        """Those that this process has open in the folder, and the folder itself."""
        links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return sorted(link for link in links if link.is_relative_to(self.folder))

    async def fails(self, awaited: Deferred[Any], text: str = "") -> None:
        with self.assertRaisesRegex(StoreError, text):
            await awaited

    async def test_it_outlives_who_uses_it(self) -> None:
        a = await self.process("a")
        await a.tell(record("1"), record("2", holder="a", lease=LONG))
        await a.store.close()

        b = await self.process("b")

        self.assertEqual(set(await b.everything()), {"1", "2a"})

    async def test_another_start_of_the_machine(self) -> None:
        """Ends all leases, and nothing else."""
        a = await self.process("a")
        await a.tell(record("1"), record("2", holder="a", lease=LONG))
        await a.store.close()
        self.boot = "another boot"

        b = await self.process("b")
        news = await b.tell()

        self.assertEqual(list(news.records), [record("1"), record("2", holder="a", lease=LONG).ended()])
        self.assertEqual(news.processes, 1)

    async def test_which_start_that_is(self) -> None:
        """Whoever sees it and whoever is told by systemd say the same."""
        seen = boot_id({})
        self.assertEqual(seen, Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        self.assertEqual(boot_id({"RPROXY_BOOT_ID": seen.replace("-", "")}), seen)

    async def test_two_machines_at_once(self) -> None:
        """Their clocks have nothing to do with each other, so who was there first is told, and opens it again."""
        a = await self.process("a")
        self.boot = "another boot"
        await self.process("b")

        await self.fails(a.store.exchange(Message("a")), "another machine")

    async def test_before_it_is_open_and_after(self) -> None:
        store = self.make_store()
        await self.fails(store.exchange(Message("a")), "it isn't open")
        await store.close()
        process = await self.process("a")
        await process.store.close()
        await process.store.close()
        await self.fails(process.store.exchange(Message("a")), "it isn't open")
        await process.open()
        await process.tell()

    async def test_closing_waits_for_what_runs(self) -> None:
        a = await self.process("a")
        told = [a.store.exchange(Message("a", records=[record(str(number))])) for number in range(20)]

        await a.store.close()

        self.assertEqual(len([self.successResultOf(each) for each in told]), 20)

    async def test_closing_a_file_that_hangs(self) -> None:
        """The reactor goes on, and who closes it needn't wait for longer than the bound; the thread ends later."""
        self.patch(sqlite, "CLOSING", SHORT)
        before = threading.active_count()
        a = await self.process("a")
        assert isinstance(a.store, SqliteStore)
        assert a.store._worker is not None
        goes_on = threading.Event()
        self.addCleanup(goes_on.set)
        hanging = a.store._worker.do(goes_on.wait)

        await a.store.close()

        self.assertNoResult(hanging)
        goes_on.set()
        self.assertTrue(await hanging)

        async def has_ended() -> bool:
            return threading.active_count() <= before

        await until(has_ended)

    async def test_nothing_is_left(self) -> None:
        """Neither threads nor open files, also where it couldn't be opened."""
        before = threading.active_count(), self.open_files()
        for path in self.path, self.folder / "nowhere" / "registry", self.folder:
            store = SqliteStore(path, reactor, boot="boot")
            for _ in range(3):
                await store.open(lambda: None).addErrback(lambda _: None)
            await store.close()

        self.assertEqual((threading.active_count(), self.open_files()), before)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["registry", "registry-lock"])

    async def test_deleted(self) -> None:
        """Who uses it is told, and begins a new one; the others come to it too."""
        a, b = await self.process("a"), await self.process("b")
        await a.tell(record())
        self.path.unlink()

        await self.fails(a.store.exchange(Message("a")), "deleted or replaced")
        await a.open()
        news = await a.tell(record("2"))
        self.assertTrue(news.complete)
        await self.fails(b.store.exchange(Message("b")), "deleted or replaced")
        await b.open()

        self.assertEqual(await b.everything(), {"2": record("2")})
        await a.tell(record("3"))
        self.assertEqual(list((await b.tell()).records), [record("2"), record("3")])

    async def test_deleted_while_another_process_uses_it(self) -> None:
        """That process neither disturbs the new one, nor takes it away when it lets go of the old one."""
        script = (
            "import sys; from pathlib import Path; from rproxy.stores import Message\n"
            "from rproxy.stores.databases import open_database; from tests.contract import record\n"
            "database = open_database(Path(sys.argv[1]), 'boot', 0.0)\n"
            "for number in range(50):\n"
            "    database.tables.exchange(Message('b', records=[record(str(number))]), 0.0)\n"
            "print('told', flush=True); sys.stdin.read(); database.connection.close()\n"
        )
        with Popen([sys.executable, "-c", script, self.path], stdin=PIPE, stdout=PIPE, cwd=ROOT) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            self.path.unlink()
            a = await self.process("a")
            await a.tell(record("1"), record("2"))
            child.stdin.close()
            self.assertEqual(child.wait(), 0)
        await a.tell(record("3"))

        b = await self.process("b")
        self.assertEqual(set(await b.everything()), {"1", "2", "3"})
        await a.store.close()
        await b.store.close()
        self.assertEqual(set(await (await self.process("c")).everything()), {"1", "2", "3"})

    async def test_emptied(self) -> None:
        """The same as deleted."""
        a, b = await self.process("a"), await self.process("b")
        await a.tell(record())
        os.truncate(self.path, 0)

        for process in a, b:
            await self.fails(process.store.exchange(Message("a")), "deleted or replaced")
            await process.open()
        await a.tell(record("2"))

        self.assertEqual(await b.everything(), {"2": record("2")})

    async def test_locked(self) -> None:
        """For longer than it waits; and when it isn't any more, it goes on."""
        a = await self.process("a")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await self.fails(a.store.exchange(Message("a", records=[record()])), "locked")

        await a.open()
        await a.tell(record())

    async def test_no_room(self) -> None:
        """For another byte of the file: nothing of the message is kept, and later ones are."""
        a = await self.process("a")
        await a.tell(record("1"))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            many = [record(str(number)) for number in range(2000)]
            await self.fails(a.store.exchange(Message("a", records=many)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        await a.open()

        self.assertEqual(await a.everything(), {"1": record("1")})
        await a.tell(record("2"))
        self.assertEqual(set(await a.everything()), {"1", "2"})

    async def test_what_is_no_record(self) -> None:
        """Whoever put it there meanwhile; later it is refused."""
        a = await self.process("a")
        await a.tell(record())
        with closing(sqlite3.connect(self.path)) as other, other:
            other.execute("UPDATE records SET record = '{}'")

        await self.fails(a.store.exchange(Message("a")), "no record of a registration")
        with self.assertRaisesRegex(StoreRefusedError, "is damaged .no record of a registration"):
            await a.open()

    async def test_without_a_state(self) -> None:
        """Whoever took it away meanwhile: the next exchange tells, and the thread goes on."""
        a = await self.process("a")
        with closing(sqlite3.connect(self.path)) as other, other:
            other.execute("DELETE FROM state")
        assert isinstance(a.store, SqliteStore)
        assert a.store._worker is not None
        # It tells of nothing, and is called by the thread only.
        self.assertIsNone(await a.store._worker.do(a.store._look))

        await self.fails(a.store.exchange(Message("a")), "its state is missing")
        with self.assertRaisesRegex(StoreRefusedError, "is damaged .its state is missing"):
            await a.open()

    async def test_several_processes_at_once(self) -> None:
        """All begin at the same moment, where there is nothing; each of their records is there in the end."""
        script = (
            "import sys; from pathlib import Path; from rproxy.stores import Message\n"
            "from rproxy.stores.databases import open_database; from tests.contract import record\n"
            "sys.stdin.read(1); database = open_database(Path(sys.argv[1]), 'boot', 0.0)\n"
            "for number in range(30):\n"
            "    told = Message(sys.argv[2], records=[record(f'{sys.argv[2]}.{number}')])\n"
            "    database.tables.exchange(told, 0.0)\n"
            "database.connection.close()\n"
        )
        children = [
            Popen([sys.executable, "-c", script, self.path, str(number)], stdin=PIPE, cwd=ROOT) for number in range(4)
        ]
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"x")
            child.stdin.close()
        self.assertEqual([child.wait() for child in children], [0] * 4)

        a = await self.process("a")

        self.assertEqual(len(await a.everything()), 4 * 30)
        assert a.position is None
        self.assertEqual((await a.tell()).position.sequence, 4 * 30)

    async def test_opening_at_once(self) -> None:
        """In one process, for want of more."""
        processes = [Process(str(number), self.make_store()) for number in range(8)]
        for process in processes:
            self.addCleanup(process.store.close)

        await gatherResults([Deferred.fromCoroutine(process.open()) for process in processes])
        await processes[0].tell(record())

        self.assertEqual([set(await process.everything()) for process in processes], [{"100"}] * 8)


class FileTests(SynchronousTestCase):
    """What is a store, and what isn't."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.path = self.folder / "registry"

    def open(self) -> Database:
        database = open_database(self.path, "boot", 0.0)
        self.addCleanup(database.connection.close)
        return database

    def make(self, *statements: str) -> None:
        """A store, changed so."""
        database = self.open()
        database.tables.exchange(Message("a", records=[record(str(number)) for number in range(100)]), 0.0)
        for statement in statements:
            database.connection.execute(statement)
        database.connection.close()

    def refused(self, text: str) -> None:
        """And nothing is changed, beside it neither."""
        before = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        with self.assertRaisesRegex(StoreRefusedError, text) as raised:
            self.open()
        self.assertIn(str(self.path), str(raised.exception))
        self.assertEqual({path.name: path.read_bytes() for path in self.folder.iterdir()}, before)

    def test_a_new_one(self) -> None:
        """Also in the place of an empty file; it isn't for others, as there are digests of tokens in it."""
        self.open()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.path.unlink()
        self.path.touch(0o644)
        self.open()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_no_folder(self) -> None:
        self.path = self.folder / "nowhere" / "registry"
        with self.assertRaises(FileNotFoundError):
            self.open()

    def test_no_file(self) -> None:
        self.path.mkdir()
        with self.assertRaisesRegex(StoreRefusedError, "is no regular file"):
            self.open()

    def test_no_database(self) -> None:
        for junk in b"x", b"registrations = 5\n" * 1000, bytes(8192):
            self.path.write_bytes(junk)
            self.refused("no database|another application")

    def test_another_application_s(self) -> None:
        with closing(sqlite3.connect(self.path)) as other, other:
            other.execute("CREATE TABLE letters (text)")
        self.refused("of another application")

    def test_another_application_s_in_use(self) -> None:
        """What SQLite would do to it by opening it, it doesn't do either."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode = WAL")
            other.execute("CREATE TABLE letters (text)")
            saved = {path.name: path.read_bytes() for path in self.folder.iterdir()}
        for name, content in saved.items():
            (self.folder / name).write_bytes(content)
        self.refused("of another application")

    def test_a_newer_release_s(self) -> None:
        self.make(f"PRAGMA user_version = {VERSION + 1}")
        self.refused("of a newer release")

    def test_damaged(self) -> None:
        """Wherever it is."""
        self.make()
        whole = self.path.read_bytes()
        for page in range(1, len(whole) // 4096):
            place = page * 4096
            self.path.write_bytes(whole[:place] + b"\xff" * 4096 + whole[place + 4096 :])
            self.refused("no database|damaged")
        self.path.write_bytes(whole[: len(whole) // 2])
        self.refused("no database|damaged")

    def test_what_is_no_record(self) -> None:
        self.make("UPDATE records SET record = 'x' WHERE sequence = 7")
        self.refused("damaged .no record")

    def test_other_tables(self) -> None:
        """Without one, or without a column or an index of one."""
        for statement in (
            "DROP TABLE processes",
            "DROP TABLE state",
            "ALTER TABLE state DROP COLUMN ends",
            "DROP INDEX ends_by_sequence",
        ):
            self.make(statement)
            self.refused("is damaged .its tables aren't those")
            self.path.unlink()

    def test_another_form(self) -> None:
        self.make("PRAGMA user_version = 0")
        self.refused("is not a store that rproxy made")

    def test_a_checkpoint_that_was_interrupted(self) -> None:
        """The file has its first page, and all others are beside it yet: SQLite knows."""
        database = self.open()
        database.connection.execute("PRAGMA wal_autocheckpoint = 0")
        beside = self.folder / "registry-wal"
        before = self.path.read_bytes()
        records = [record(str(number)) for number in range(300)]
        database.tables.exchange(Message("a", records=records), 0.0)
        saved = beside.read_bytes()
        database.connection.close()
        self.path.write_bytes(self.path.read_bytes()[:4096] + before[4096:])
        beside.write_bytes(saved)

        check_file(self.path)
        self.assertEqual(self.open().tables.exchange(Message("a"), 0.0).records, records)

    def test_open_to_others(self) -> None:
        """To read it is too much: there are digests of tokens in it."""
        self.make()
        for mode in 0o640, 0o604, 0o620, 0o602:
            self.path.chmod(mode)
            self.refused("is open to other users: close it by: chmod go= ")
            with self.assertRaises(StoreRefusedError):
                check_file(self.path)
        self.path.chmod(0o600)
        self.open()

    def disown(self, path: Path) -> None:
        """As if another user had made it."""
        if os.geteuid() == 0:
            os.chown(path, 12345, -1)
        else:
            self.patch(os, "geteuid", lambda: 12345)

    def test_another_user_s(self) -> None:
        """But who looks at it before privileges are shed can't know whose it has to be."""
        self.make()
        self.disown(self.path)
        self.refused("belongs to another user .uid [0-9]+., who could change it: give it")
        check_file(self.path)

    def test_what_lies_beside_no_file(self) -> None:
        """It has to go for a new file, so it had better be SQLite's."""
        for suffix in "-wal", "-shm":
            beside = self.folder / f"registry{suffix}"
            beside.write_bytes(b"dear diary")
            self.refused("is in the way")
            beside.unlink()
        self.make()
        with closing(sqlite3.connect(self.path)) as other:
            other.execute("SELECT * FROM state").fetchall()
            self.assertEqual(len([*self.folder.glob("registry-[ws]*")]), 2)
            self.path.unlink()
            self.open()

    def test_the_lock(self) -> None:
        """It is nobody else's to hold: neither one that others made, nor one that they may open, nor a link."""
        lock = self.folder / "registry-lock"
        self.open()
        self.assertEqual(stat.S_IMODE(lock.stat().st_mode), 0o600)
        lock.chmod(0o644)
        with self.assertRaisesRegex(StoreRefusedError, "chmod go= .*-lock"):
            self.open()
        lock.unlink()
        lock.symlink_to("elsewhere")
        with self.assertRaises(OSError):
            self.open()
        lock.unlink()
        lock.touch(0o600)
        # The file itself is looked at first, and unless by root it can't be made another user's than the lock.
        self.path.unlink()
        self.disown(lock)
        with self.assertRaisesRegex(StoreRefusedError, "-lock belongs to another user"):
            self.open()
        self.assertFalse((self.folder / "elsewhere").exists())

    def test_the_lock_holds(self) -> None:
        self.patch(files, "BUSY", 0.0)
        with alone(self.path), self.assertRaisesRegex(StoreError, "another process has"):
            self.open()

    def test_a_lock_that_is_deleted(self) -> None:
        """By the time that it is held, it isn't what others would lock: another one is made."""
        lock, flock = self.folder / "registry-lock", fcntl.flock
        deleted: list[None] = []

        def delete_first(descriptor: int, how: int) -> None:
            if not deleted:
                lock.unlink()
                deleted.append(None)
            flock(descriptor, how)

        self.patch(fcntl, "flock", delete_first)
        with alone(self.path):
            self.assertTrue(lock.exists())

    def test_it_says_whose_it_is(self) -> None:
        """In the file itself from the beginning, whatever is still beside it."""
        self.open()
        head = self.path.read_bytes()[:100]
        self.assertEqual((head[68:72], head[60:64]), (APPLICATION.to_bytes(4), VERSION.to_bytes(4)))


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


class WorkerTests(TestCase):
    """The thread."""

    def worker(self, look: Callable[[], object] = lambda: None) -> Worker:
        worker = Worker(reactor, look, SHORT)
        self.addCleanup(worker.stop)
        return worker

    async def test_it_does_things_in_order(self) -> None:
        done: list[int] = []
        worker = self.worker()

        def do(number: int) -> int:
            done.append(number)
            return threading.get_ident()

        threads = await gatherResults([worker.do(partial(do, number)) for number in range(9)])

        self.assertEqual(done, list(range(9)))
        self.assertEqual(len(set(threads)), 1)
        self.assertNotIn(threading.get_ident(), threads)

    async def test_it_looks_around(self) -> None:
        """More than once, if nothing is to be done."""
        looked: Deferred[None] = Deferred()
        times: list[None] = []

        def look() -> None:
            times.append(None)
            if len(times) == 2:
                reactor.callFromThread(looked.callback, None)  # type: ignore[attr-defined]  # the module's stand-in

        self.worker(look)
        await looked

    async def test_a_look_that_fails(self) -> None:
        """Is logged once, and the thread goes on."""
        looked: Deferred[None] = Deferred()
        times: list[None] = []

        def look() -> None:
            times.append(None)
            if len(times) == 3:
                reactor.callFromThread(looked.callback, None)  # type: ignore[attr-defined]  # the module's stand-in
            raise ZeroDivisionError

        worker = self.worker(look)
        await looked

        self.assertEqual(await worker.do(lambda: 5), 5)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_what_fails(self) -> None:
        worker = self.worker()
        with self.assertRaises(ZeroDivisionError):
            await worker.do(lambda: 1 / 0)
        self.assertEqual(await worker.do(lambda: 5), 5)
