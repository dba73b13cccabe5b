"""``sqlite:PATH``: registrations in a file, for the processes of one machine.

Locks and disks may take any time, so all of it happens in a thread of its own. That is not Twisted's
``adbapi.ConnectionPool``: closing one blocks the reactor until what runs is done, it begins and ends transactions its
own way, and it can't look in between what other processes changed.

Leases hang on the time since the machine started, sleep included: all its processes have the same, and nobody sets it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed

from rproxy.registry.records import RecordError
from rproxy.stores import Message, News, StoreError
from rproxy.stores.databases import Database, open_database
from rproxy.stores.worker import Worker

#: Seconds between two looks at what other processes changed.
POLL = 0.05
#: Seconds that a file gets to be closed: a disk may hang, and then nothing brings its thread back.
CLOSING = 5.0

_BOOT = Path("/proc/sys/kernel/random/boot_id")

_T = TypeVar("_T")


def boot_id(environ: Mapping[str, str] = os.environ) -> str:
    """Which start of the machine this is.

    :param environ: ``RPROXY_BOOT_ID`` says it to a process that doesn't see it, as in the sandbox of
        ``etc/systemd/rproxy.service``, in systemd's form without dashes.
    """
    given = environ.get("RPROXY_BOOT_ID")
    return str(UUID(given)) if given else _BOOT.read_text("ascii").strip()


def boot_seconds() -> float:
    """Seconds since the machine started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@define(eq=False)
class SqliteStore:
    """See :class:`rproxy.stores.Store`.

    :param path: of the file; its folder has to exist.
    :param reactor: what the answers come back to.
    :param seconds: the clock that leases hang on, the same for all processes; called in a thread.
    :param boot: what that clock counts from: when it is another, all leases are over.
    """

    _path: Path
    _reactor: Any
    _seconds: Callable[[], float] = boot_seconds
    _boot: str = field(factory=boot_id)
    _worker: Worker | None = field(default=None, init=False)
    _changed: Callable[[], object] = field(default=lambda: None, init=False)
    #: Belongs to the thread.
    _database: Database | None = field(default=None, init=False)

    def open(self, changed: Callable[[], object]) -> Deferred[None]:
        """See :class:`rproxy.stores.Store`."""
        self._changed = changed
        if self._worker is None:
            self._worker = Worker(self._reactor, self._look, POLL)
        return self._defer(self._reopen)

    def exchange(self, message: Message) -> Deferred[News]:
        """See :class:`rproxy.stores.Store`."""
        return self._defer(lambda: self._exchange(message))

    def close(self) -> Deferred[None]:
        """See :class:`rproxy.stores.Store`."""
        if self._worker is None:
            return succeed(None)
        worker, self._worker = self._worker, None
        worker.do(self._let_go)
        # Where it takes longer, the thread ends when it can, or with the process.
        return worker.stop().addTimeout(CLOSING, self._reactor).addErrback(lambda _: None)

    def __str__(self) -> str:
        return f"sqlite:{self._path}"

    def _defer(self, action: Callable[[], _T]) -> Deferred[_T]:
        if self._worker is None:
            return fail(StoreError(f"{self}: it isn't open"))
        return self._worker.do(action)

    def _call(self) -> None:
        if self._worker is not None:
            self._changed()

    # What follows runs in the thread.

    def _reopen(self) -> None:
        self._let_go()
        with self._telling():
            self._database = open_database(self._path, self._boot, self._seconds())

    def _exchange(self, message: Message) -> News:
        with self._telling():
            if self._database is None:
                raise StoreError("it isn't open")
            self._database.check()
            return self._database.tables.exchange(message, self._seconds())

    def _look(self) -> None:
        if self._database is None:
            return
        # What is wrong, the next exchange will tell.
        with suppress(sqlite3.Error, RecordError):
            if self._database.tables.changed():
                self._reactor.callFromThread(self._call)

    def _let_go(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with suppress(sqlite3.Error):
                database.connection.close()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """After an error, it is to be opened again; what went wrong is told in the form of the interface."""
        try:
            yield
        except (sqlite3.Error, OSError, RecordError, StoreError) as error:
            self._let_go()
            raise StoreError(f"{self}: {error}") from error
