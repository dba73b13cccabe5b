"""Opening the file of ``sqlite:PATH``: made where there is none, and left alone where it is anything else.

Nothing that isn't ours may be changed, and SQLite may change what it opens: it finishes what another process left
undone. So a file is first looked at in a way in which SQLite neither locks nor writes.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from sqlite3 import Connection

from attrs import frozen

from rproxy.records import RecordError
from rproxy.stores import MOST_ENDS, StoreError, StoreRefusedError
from rproxy.stores.tables import Tables

#: What says in a file that it is ours: "rpxy".
APPLICATION = 0x72707879
#: Of the tables.
VERSION = 1
#: Seconds to wait for another process that writes.
BUSY = 3.0

#: Errors of SQLite that say that the file isn't one, or isn't whole.
_UNUSABLE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_HINT = "move it away, or name another file; nothing in it was changed"


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
        if _identity(self.path) != self.identity:
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
    with _alone(path.parent):
        identity = _identity(path)
        if identity is None:
            identity = _begin(path)
        else:
            _inspect(path)
        connection = _connect(path, "rw")
        try:
            tables = Tables(connection, boot, most_ends)
            _prepare(path, connection, tables, seconds)
        except BaseException:
            connection.close()
            raise
        if identity != _identity(path):
            connection.close()
            raise StoreError("the file was deleted while it was opened")
        return Database(path, connection, tables, identity)


def check_file(path: Path) -> None:
    """Find out, without touching it, whether the file can be a store.

    :raises StoreRefusedError: it can't; or its folder doesn't exist, which is a mistake rather than a failure.
    """
    if not path.parent.is_dir():
        raise StoreRefusedError(f"there is no folder {path.parent}: make it, or name a file elsewhere")
    try:
        if _identity(path) is not None:
            _inspect(path)
    except (OSError, sqlite3.Error):
        # It may be readable when it is needed.
        return


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process opens or makes a file of the folder meanwhile.

    :raises StoreError: one does, and doesn't come to an end.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + BUSY
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise StoreError("another process has its folder locked") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has the name; None where there is none, or nothing in it.

    :raises StoreRefusedError: it is no file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise StoreRefusedError(f"{path} is no regular file: name another one")
    return (status.st_dev, status.st_ino) if status.st_size else None


def _begin(path: Path) -> tuple[int, int]:
    """Make an empty file.

    A new one even in the place of an empty one: processes may still use what was in that. For the same reason, what
    SQLite keeps beside the file is not to be taken over.
    """
    for name in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        name.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino
    finally:
        os.close(descriptor)


def _connect(path: Path, mode: str) -> Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, timeout=BUSY, isolation_level=None)


def _inspect(path: Path) -> None:
    """Whether the file is ours, without touching it.

    :raises StoreRefusedError: it isn't.
    """
    with _refusing(path), closing(_connect(path, "ro&immutable=1")) as connection:
        _check_kind(path, connection)


def _check_kind(path: Path, connection: Connection) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION:
        raise StoreRefusedError(f"{path} is a database of another application: {_HINT}")
    if version != VERSION:
        raise StoreRefusedError(
            f"{path} is of a newer release of rproxy (its version is {version}, and {VERSION} is known here): use"
            " that release, or name another file; nothing in it was changed"
        )


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What says that the file is unusable for good, as such."""
    try:
        yield
    except RecordError as error:
        raise StoreRefusedError(f"{path} is damaged ({error}): {_HINT}") from None
    except sqlite3.DatabaseError as error:
        # The low byte is the error, the rest its kind.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNUSABLE:
            raise StoreRefusedError(f"{path} is no database, or a damaged one ({error}): {_HINT}") from None
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
        _check_kind(path, connection)
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreRefusedError(f"{path} is damaged ({verdict}): {_HINT}")
        tables.check(seconds)
        connection.execute("COMMIT")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError("a file system that can't share memory between processes")
