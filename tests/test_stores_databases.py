"""Tests for ``rproxy.stores.databases`` and ``rproxy.stores.files``: what is a store, and what isn't."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from rproxy.stores import Message, StoreError, StoreRefusedError, files
from rproxy.stores.databases import Database, check_file, open_database
from rproxy.stores.files import APPLICATION, VERSION, alone
from tests.contract import record


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

    def test_replaced_while_it_is_opened(self) -> None:
        """What was looked at has to be what is opened."""
        self.make()
        user = os.geteuid()
        asked: list[None] = []

        def replace() -> int:
            asked.append(None)
            # Of the file, of the lock, and of the file again.
            if len(asked) == 3:
                content = self.path.read_bytes()
                self.path.rename(self.folder / "before")
                self.path.write_bytes(content)
            return user

        self.patch(os, "geteuid", replace)
        with self.assertRaisesRegex(StoreError, "deleted or replaced"):
            self.open()

    def test_it_says_whose_it_is(self) -> None:
        """In the file itself from the beginning, whatever is still beside it."""
        self.open()
        head = self.path.read_bytes()[:100]
        self.assertEqual((head[68:72], head[60:64]), (APPLICATION.to_bytes(4), VERSION.to_bytes(4)))
