"""Opening the file of ``sqlite:PATH``: made where there is none, and left alone where it is anything else."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection

from attrs import frozen

from rproxy.registry.records import RecordError
from rproxy.stores import MOST_ENDS, StoreError, StoreRefusedError
from rproxy.stores.files import (
    APPLICATION,
    BUSY,
    HINT,
    VERSION,
    alone,
    begin,
    check_kind,
    check_owner,
    identity,
    inspect,
)
from rproxy.stores.tables import Tables

#: Errors of SQLite that say that the file isn't one, or isn't whole.
_UNUSABLE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


@frozen
class Database:
    """A file that is open.

    :ivar identity: of the file that was opened, whatever has its name now.
    """

    path: Path
    connection: Connection
    tables: Tables
    identity: tuple[int, int]

    def check(self) -> None:
        """Whether the file is still there.

        :raises StoreError: it was deleted, or there is another one.
        """
        if identity(self.path) != self.identity:
            raise StoreError("the file was deleted or replaced")


def open_database(path: Path, boot: str, seconds: float, most_ends: int = MOST_ENDS) -> Database:
    """Open the file, and make it a store if there is nothing yet.

    :param boot: which start of the machine its clock counts from.
    :param seconds: what that clock says.
    :param most_ends: how many ends are remembered at most.
    :raises StoreError: it can't be used now.
    :raises StoreRefusedError: it is something else, corrupt, or of a newer release.
    :raises sqlite3.Error: it can't be used now.
    :raises OSError: likewise.
    """
    # Looked at first without the lock too, which isn't to be made beside what isn't ours.
    _find(path)
    with alone(path):
        status = _find(path) or begin(path)
        connection = _connect(path)
        database = Database(path, connection, Tables(connection, boot, most_ends), (status.st_dev, status.st_ino))
        try:
            _prepare(path, connection, database.tables, seconds)
            database.check()
        except BaseException:
            connection.close()
            raise
        return database


def check_file(path: Path) -> None:
    """Find out, without touching it, whether the file can be a store.

    Whose it has to be isn't known yet: the process may shed its privileges before it opens it.

    :raises StoreRefusedError: it can't; or its folder doesn't exist, which is a mistake rather than a failure.
    """
    if not path.parent.is_dir():
        raise StoreRefusedError(f"there is no folder {path.parent}: make it, or name a file elsewhere")
    try:
        inspect(path)
    except OSError:
        # It may be readable when it is needed.
        return


def _find(path: Path) -> os.stat_result | None:
    status = inspect(path)
    if status is not None:
        check_owner(path, status)
    return status


def _connect(path: Path) -> Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=BUSY, isolation_level=None)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What says that the file is unusable for good, as such."""
    try:
        yield
    except RecordError as error:
        raise StoreRefusedError(f"{path} is damaged ({error}): {HINT}") from None
    except sqlite3.DatabaseError as error:
        # The low byte is the error, the rest its kind.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNUSABLE:
            raise StoreRefusedError(f"{path} is no database, or a damaged one ({error}): {HINT}") from None
        raise


def _prepare(path: Path, connection: Connection, tables: Tables, seconds: float) -> None:
    """Make the tables if there are none, and look whether all that is there can be used."""
    with _refusing(path):
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            # Written the old way, which puts it into the file itself: there it is seen without touching anything.
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
            tables.make(secrets.token_hex(8))
        # What isn't in the file itself yet counts too.
        numbers = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        check_kind(path, *numbers)
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreRefusedError(f"{path} is damaged ({verdict}): {HINT}")
        tables.check(seconds)
        connection.execute("COMMIT")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError("a file system that can't share memory between processes")
