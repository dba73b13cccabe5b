"""Writes the audit trail while the proxy works: in a thread, a batch at a time.

Where it can't be written, the proxy takes no more packets, or goes on, as it was told; either way it is tried again,
and what was made in the meantime is kept as far as there is room (:data:`rproxy.audit.backlog.ROOM`).

A file may also take nothing and never say why: a pipe that nobody reads, a disk that hangs. Whoever stops doesn't wait
for it longer than :data:`PATIENCE`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.audit.appending import TrailError, TrailFile
from rproxy.audit.trail import Trail

#: From the first line of a batch until it is written, in seconds: what is lost at most when the process is killed.
GATHER = 0.1
#: From a failure to the next attempt, in seconds.
RETRY = 1.0
#: For the last lines when it is stopped, in seconds; then they are given up.
PATIENCE = 5.0

#: Has something done in a thread.
InThread = Callable[[Callable[[], OSError | None]], "Deferred[OSError | None]"]


class RecordError(SystemExit, Exception):
    """The trail can't be begun; see :class:`rproxy.listening.ListenError` for the bases."""


class Leavable:
    """Has something done that may never end, for who can be told not to wait for it any longer.

    Twisted waits for the threads of its pool when a process ends, and one that is stuck would keep it alive. So a
    thread of the pool only waits here, and what may get stuck is a thread that ends with the process.
    """

    def __init__(self) -> None:
        self._answers: SimpleQueue[Exception | None] = SimpleQueue()

    def __call__(self, write: Callable[[], OSError | None]) -> OSError | None:
        """Return what ``write`` returns, or that nobody waits for it."""
        Thread(target=self._work, args=(write,), name="audit", daemon=True).start()
        answer = self._answers.get()
        if answer is None or isinstance(answer, OSError):
            return answer
        raise answer

    def leave(self) -> None:
        """End the call that waits, or the next one; none may come after it."""
        self._answers.put(OSError(errno.ETIMEDOUT, "nobody waits for it any longer"))

    def _work(self, write: Callable[[], OSError | None]) -> None:
        try:
            answer: Exception | None = write()
        except Exception as error:  # noqa: BLE001 - it is raised where the answer is waited for
            answer = error
        self._answers.put(answer)


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
        self._backlog = trail.backlog
        self._file = file
        self._clock = clock
        self._in_thread = in_thread
        self._set_recording = set_recording
        self._leavable = Leavable()
        self._due: IDelayedCall | None = None
        #: When the trail has something to tell that it counted until then.
        self._sweep: IDelayedCall | None = None
        #: Fires when the batch that is being written is through, or was given up.
        self._batch: Deferred[None] | None = None
        #: Why the last batch wasn't written, ``""`` if it was.
        self._trouble = ""
        self._works = True
        self._gave_up = False

    def startService(self) -> None:
        """Open the file and begin.

        :raises RecordError: it can't be the trail's.
        """
        try:
            end = self._file.open()
        except TrailError as error:
            raise RecordError(str(error)) from None
        super().startService()
        self._backlog.wake = self._wake
        self._trail.alarm = self._set_alarm
        self._trail.start(end)

    def stopService(self) -> Deferred[None]:
        """Write what there is; fires when that is done, failed, or took too long."""
        if not self.running:
            return succeed(None)
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def reopen(self) -> None:
        """Write to the file that has the name now: what has it now was renamed."""
        self._trail.reopen()

    async def _stop(self) -> None:
        for call in self._due, self._sweep:
            if call is not None:
                call.cancel()
        self._due = self._sweep = None
        late = self._clock.callLater(PATIENCE, self._give_up)
        if self._batch is not None:
            await self._batch
        self._trail.stop()
        if not self._gave_up:
            await self._write()
        if self._backlog.size and not (self._gave_up or self._trouble):
            # What could be told only when the lines before were written.
            await self._write()
        self._backlog.wake = lambda: None
        self._trail.alarm = lambda seconds: None
        if not self._gave_up:
            late.cancel()
            # Only then: a thread that is stuck would write to whatever has the number next.
            self._file.close()
        if self._gave_up or self._trouble:
            # Of a batch that was given up some may be there after all.
            self._logger.error(
                "{up_to}{bytes} bytes of the audit trail are lost, and {missed} events that it has no line of",
                event="audit-lost",
                up_to="Up to " if self._gave_up else "",
                bytes=self._backlog.size,
                missed=self._backlog.missed,
            )

    def _give_up(self) -> None:
        """The last lines aren't written in time: whoever waits for them goes on."""
        self._gave_up = True
        self._leavable.leave()
        self._logger.error(
            "The audit trail isn't written to its end within {seconds:g} seconds",
            event="audit-given-up",
            seconds=PATIENCE,
        )
        batch, self._batch = self._batch, None
        if batch is not None:
            batch.callback(None)

    def _set_alarm(self, seconds: float) -> None:
        if self._sweep is None and self.running:
            self._sweep = self._clock.callLater(seconds, self._swept)

    def _swept(self) -> None:
        self._sweep = None
        self._trail.sweep()

    def _wake(self) -> None:
        if self._due is None and self.running:
            self._due = self._clock.callLater(RETRY if self._trouble else GATHER, self._flush)

    def _flush(self) -> None:
        self._due = None
        if self._batch is None:
            self._write()
        else:
            # The disk is slow; when it is through, the next batch has all that came meanwhile.
            self._judge()
            self._wake()

    def _write(self) -> Deferred[None]:
        self._file.put(self._backlog.fetch())
        before = self._file.unwritten
        through: Deferred[None] = Deferred()
        self._batch = through
        writing = self._in_thread(lambda: self._leavable(self._file.write))
        writing.addErrback(self._mishandled).addCallback(self._written, before, through).addErrback(self._mishandled)
        return through

    def _mishandled(self, failure: Failure) -> OSError:
        self._logger.failure("Writing the audit trail was mishandled", failure, event="audit-mishandled")
        return OSError(errno.EIO, f"it was mishandled: {type(failure.value).__name__}")

    def _written(self, error: OSError | None, before: int, through: Deferred[None]) -> None:
        if through.called:
            # It was given up, and what became of it was told as far as it is known.
            return
        self._batch = None
        try:
            self._take_result(error, before)
        finally:
            # Where there is trouble, also without anything new: whether it is over shows only when it is tried, and
            # packets are refused until then.
            if self._backlog.size or self._trouble:
                self._wake()
            # Whoever stops waits for it, and nobody else would end that.
            through.callback(None)

    def _take_result(self, error: OSError | None, before: int) -> None:
        """A batch is written, or isn't."""
        trouble = "" if error is None else error.strerror or str(error)
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                self._logger.error(
                    "The audit trail can't be written: {why}; it is tried again", event="audit-away", why=trouble
                )
            else:
                self._logger.info("The audit trail is written again", event="audit-back")
        if self._file.complaint:
            self._logger.error(
                "Going on in the audit trail's old file: {why}", event="audit-not-reopened", why=self._file.complaint
            )
            self._file.complaint = ""
        self._backlog.written_down(before - self._file.unwritten)
        self._tell_doubt()
        if error is None:
            self._trail.settle()
        self._judge()

    def _tell_doubt(self) -> None:
        size, why = self._file.take_doubt()
        if size and self._trail.doubt(size, why):
            self._logger.error(
                "The disk failed to keep what was written of the audit trail: {why}", event="audit-doubt", why=why
            )

    def _judge(self) -> None:
        works = not self._trouble and not self._backlog.is_full
        if works is not self._works:
            self._works = works
            self._set_recording(works)
