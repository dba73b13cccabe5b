"""What can be known of the file of ``sqlite:PATH`` without SQLite, and what is made before SQLite opens it.

Nothing that isn't ours may be changed, and SQLite may change what it opens: it finishes what another process left
undone. So files are looked at by their first bytes.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rproxy.stores import StoreError, StoreRefusedError

#: What says in a file that it is ours: "rpxy".
APPLICATION = 0x72707879
#: Of the tables.
VERSION = 1
#: Seconds to wait for another process.
BUSY = 3.0

HINT = "move it away, or name another file; nothing in it was changed"

_OPEN = os.O_CLOEXEC | os.O_NONBLOCK
#: What every database begins with, and how much of it says what it is.
_MAGIC = b"SQLite format 3\0"
_HEADER = 100
#: What SQLite keeps beside a database, and how that may begin. What is shared is of the machine's own byte order, and
#: zeros until something is written.
_BESIDE = {
    "-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83"),
    "-shm": ((3007000).to_bytes(4, sys.byteorder), bytes(4)),
}


def identity(path: Path) -> tuple[int, int] | None:
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


def inspect(path: Path) -> os.stat_result | None:
    """Whether the file is ours, or can be made; None where it is to be made.

    Whether it is whole is for SQLite to say, which knows what is in the files beside it.

    :raises StoreRefusedError: it isn't, or others may read or write it.
    :raises OSError: it can't be read.
    """
    if identity(path) is None:
        _check_beside(path)
        return None
    with os.fdopen(os.open(path, os.O_RDONLY | _OPEN), "rb") as file:
        header = file.read(_HEADER)
        status = os.fstat(file.fileno())
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        raise StoreRefusedError(f"{path} is no database: {HINT}")
    check_kind(path, int.from_bytes(header[68:72]), int.from_bytes(header[60:64]))
    _check_mode(path, status)
    return status


def check_kind(path: Path, application: int, version: int) -> None:
    """Whether a database is ours, by two numbers in it.

    :raises StoreRefusedError: it isn't, or is of a newer release.
    """
    if application != APPLICATION:
        raise StoreRefusedError(f"{path} is a database of another application: {HINT}")
    if version > VERSION:
        raise StoreRefusedError(
            f"{path} is of a newer release of rproxy (its version is {version}, and {VERSION} is known here): use"
            " that release, or name another file; nothing in it was changed"
        )
    if version != VERSION:
        raise StoreRefusedError(f"{path} is not a store that rproxy made (its version is {version}): {HINT}")


def check_owner(path: Path, status: os.stat_result) -> None:
    """Whether nobody else may change a file, or let others do so.

    :raises StoreRefusedError: it belongs to another user than root or this process's.
    """
    if status.st_uid not in {0, os.geteuid()}:
        raise StoreRefusedError(
            f"{path} belongs to another user (uid {status.st_uid}), who could change it: give it to the user that"
            " rproxy runs as, by chown, or name another file"
        )


def _check_mode(path: Path, status: os.stat_result) -> None:
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise StoreRefusedError(f"{path} is open to other users: close it by: chmod go= {path}")


def _check_beside(path: Path) -> None:
    """Whether what will have to go for a new file is what SQLite left there."""
    for suffix, beginnings in _BESIDE.items():
        beside = path.with_name(path.name + suffix)
        if identity(beside) is None:
            continue
        with os.fdopen(os.open(beside, os.O_RDONLY | _OPEN), "rb") as file:
            beginning = file.read(4)
        if beginning not in beginnings:
            raise StoreRefusedError(f"{beside} is in the way, and not of SQLite: {HINT}")


def begin(path: Path) -> os.stat_result:
    """Make an empty file.

    A new one even in the place of an empty one: processes may still use what was in that. For the same reason, what
    SQLite keeps beside the file is not to be taken over.
    """
    for suffix in ("", *_BESIDE):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other process opens or makes the file meanwhile.

    By a file of its own beside it, as whoever may open a file may lock it, and a folder is often open to everybody.

    :raises StoreError: one does, and doesn't come to an end.
    :raises StoreRefusedError: others may lock it.
    """
    lock = path.with_name(f"{path.name}-lock")
    until = time.monotonic() + BUSY
    while (descriptor := _lock(lock)) is None:
        if time.monotonic() > until:
            raise StoreError(f"another process has {lock} locked")
        time.sleep(0.01)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(lock: Path) -> int | None:
    """Return what is to be closed; None where another process has it."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | _OPEN, 0o600)
    is_locked = False
    try:
        status = os.fstat(descriptor)
        check_owner(lock, status)
        _check_mode(lock, status)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Who deletes it lets another process make one.
        is_locked = os.path.samestat(status, lock.lstat())
    except (BlockingIOError, FileNotFoundError):
        return None
    finally:
        if not is_locked:
            os.close(descriptor)
    return descriptor if is_locked else None
