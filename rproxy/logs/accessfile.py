"""Writes the access log while the proxy works: several times a second, in the reactor's thread.

A write is at most :data:`CHUNK` bytes, and the reactor does other things between two: a file in the page cache takes
that within a millisecond. What can't be written is tried again.
"""

from __future__ import annotations

import os
from pathlib import Path

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from rproxy.logs.access import AccessLog

#: From the first line of a batch until it is written, in seconds.
GATHER = 0.1
#: From a failure to the next attempt, in seconds.
RETRY = 1.0
#: Bytes that are written at once.
CHUNK = 1 << 20

#: A pipe that nobody reads would else keep the proxy from starting, and from going on.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
#: Clients' addresses and ids stand there.
_MODE = 0o640


class AccessLogError(SystemExit, Exception):
    """The access log can't be opened; see :class:`rproxy.listening.ListenError` for the bases."""


class AccessWriter(Service):
    """Keeps the file of an access log."""

    _logger = Logger()

    def __init__(self, log: AccessLog, path: Path, clock: IReactorTime) -> None:
        self._log = log
        self._path = path
        self._clock = clock
        self._fd = -1
        self._due: IDelayedCall | None = None
        #: What was fetched, and how much of it is written.
        self._batch = b""
        self._written = 0
        #: Why the last attempt failed, ``""`` if it didn't.
        self._trouble = ""

    def startService(self) -> None:
        """Open the file and begin.

        :raises AccessLogError: it can't be opened.
        """
        try:
            self._fd = os.open(self._path, _FLAGS, _MODE)
        except OSError as error:
            raise AccessLogError(f"the access log {self._path} can't be opened: {error.strerror}") from None
        super().startService()
        self._log.wake = self._wake

    def stopService(self) -> None:
        """Write what there is."""
        if not self.running:
            return
        super().stopService()
        self._log.wake = lambda: None
        if self._due is not None:
            self._due.cancel()
            self._due = None
        while self._log.size and self._write():
            pass
        if self._log.size or self._log.left_out:
            self._logger.error(
                "{bytes} bytes of the access log are lost, and {lines} lines that were left out before",
                event="access-log-lost",
                bytes=self._log.size,
                lines=self._log.left_out,
            )
        os.close(self._fd)

    def reopen(self) -> None:
        """Write to the file that has the name now: what has it now was renamed."""
        if not self.running:
            return
        try:
            fd = os.open(self._path, _FLAGS, _MODE)
        except OSError as error:
            self._logger.error(
                "Going on in the access log's old file: {why}", event="access-log-not-reopened", why=error.strerror
            )
            return
        self._write()
        self._finish_line()
        os.close(self._fd)
        self._fd = fd
        self._wake()

    def _finish_line(self) -> None:
        """Let no line be in two files: what is left of one that was begun goes to the old file, or nowhere."""
        if self._written and self._batch[self._written - 1 : self._written] != b"\n":
            end = self._batch.index(b"\n", self._written) + 1
            self._try(end)
            if self._written < end:
                self._logger.error(
                    "A line of the access log's old file is cut short: it took no more", event="access-log-cut"
                )
                self._done(end - self._written)

    def _wake(self) -> None:
        if self._due is None and self.running:
            self._due = self._clock.callLater(RETRY if self._trouble else GATHER, self._flush)

    def _flush(self) -> None:
        self._due = None
        self._write()
        if self._log.size and self._due is None:
            self._due = self._clock.callLater(RETRY if self._trouble else 0, self._flush)

    def _write(self) -> bool:
        """Write a chunk, and answer whether that worked."""
        if self._written == len(self._batch):
            self._batch, self._written = self._log.fetch(), 0
        trouble = self._try(self._written + CHUNK)
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                self._logger.error(
                    "The access log can't be written: {why}; it is tried again", event="access-log-away", why=trouble
                )
            else:
                self._logger.info("The access log is written again", event="access-log-back")
        return not trouble

    def _try(self, end: int) -> str:
        """Write up to there, and return why that failed."""
        try:
            size = os.write(self._fd, memoryview(self._batch)[self._written : end])
        except OSError as error:
            return error.strerror or str(error)
        self._done(size)
        return ""

    def _done(self, size: int) -> None:
        """So many bytes are written, or given up."""
        self._written += size
        left_out = self._log.written_down(size)
        if left_out:
            self._logger.warn(
                "Left out {left_out} lines of the access log: the file took none",
                event="access-log-left-out",
                left_out=left_out,
            )
