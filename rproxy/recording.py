"""Writes the audit trail while the proxy works: in a thread, a batch at a time.

Where it can't be written, the proxy takes no more packets, or goes on, as it was told; either way it is tried again,
and what was made in the meantime is kept as far as there is room (:data:`rproxy.trail.ROOM`).
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.audit.appending import TrailError, TrailFile
from rproxy.trail import ROOM, Trail

#: From the first line of a batch until it is written, in seconds: what is lost at most when the process is killed.
GATHER = 0.1
#: From a failure to the next attempt, in seconds.
RETRY = 1.0

#: Has something done in a thread.
InThread = Callable[[Callable[[], OSError | None]], "Deferred[OSError | None]"]


class RecordError(SystemExit, Exception):
    """The trail can't be begun; see :class:`rproxy.listening.ListenError` for the bases."""


class Recorder(Service):
    """Keeps the file of a trail.

    :param set_recording: told whether packets may be taken, each time that changes.
    """

    _logger = Logger()

    def __init__(
        self,
        trail: Trail,
        file: TrailFile,
        clock: IReactorTime,
        in_thread: InThread,
        set_recording: Callable[[bool], object] = lambda works: None,
    ) -> None:
        self._trail = trail
        self._file = file
        self._clock = clock
        self._in_thread = in_thread
        self._set_recording = set_recording
        self._due: IDelayedCall | None = None
        #: Fires when the batch that is being written is through.
        self._batch: Deferred[None] | None = None
        #: Why the last batch wasn't written, ``""`` if it was.
        self._trouble = ""
        self._works = True

    def startService(self) -> None:
        """Open the file and begin.

        :raises RecordError: it can't be the trail's.
        """
        try:
            end = self._file.open()
        except TrailError as error:
            raise RecordError(str(error)) from None
        super().startService()
        self._trail.wake = self._wake
        self._trail.start(end)

    def stopService(self) -> Deferred[None]:
        """Write what there is; fires when that is done, or failed."""
        if not self.running:
            return succeed(None)
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def reopen(self) -> None:
        """Write to the file that has the name now: what has it now was renamed."""
        self._trail.reopen()

    async def _stop(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._batch is not None:
            await self._batch
        self._trail.stop()
        await self._write()
        self._trail.wake = lambda: None
        self._file.close()
        if self._trouble:
            self._logger.error(
                "{size} bytes of the audit trail are lost, and {missed} events that it has no line of",
                size=self._file.unwritten,
                missed=self._trail.missed,
            )

    def _wake(self) -> None:
        if self._due is None and self.running:
            self._due = self._clock.callLater(RETRY if self._trouble else GATHER, self._flush)

    def _flush(self) -> None:
        self._due = None
        if self._batch is None:
            batch = self._write()
            self._batch = None if batch.called else batch
        else:
            # The disk is slow; when it is through, the next batch has all that came meanwhile.
            self._judge()
            self._wake()

    def _write(self) -> Deferred[None]:
        self._file.put(self._trail.fetch())
        before = self._file.unwritten
        writing = self._in_thread(self._file.write)
        return writing.addErrback(self._mishandled).addCallback(self._written, before)

    def _mishandled(self, failure: Failure) -> OSError:
        self._logger.failure("Writing the audit trail was mishandled", failure)
        return OSError(errno.EIO, f"it was mishandled: {type(failure.value).__name__}")

    def _written(self, error: OSError | None, before: int) -> None:
        self._batch = None
        trouble = "" if error is None else error.strerror or str(error)
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                self._logger.error("The audit trail can't be written: {trouble}; it is tried again", trouble=trouble)
            else:
                self._logger.info("The audit trail is written again")
        if self._file.complaint:
            self._logger.error("Going on in the audit trail's old file: {why}", why=self._file.complaint)
            self._file.complaint = ""
        self._trail.written_down(before - self._file.unwritten)
        self._judge()
        if self._trail.size:
            self._wake()

    def _judge(self) -> None:
        works = not self._trouble and self._trail.size < ROOM
        if works is not self._works:
            self._works = works
            self._set_recording(works)
