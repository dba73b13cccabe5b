"""The file that a trail is written to: opened, locked, continued, appended to, and exchanged for another.

Nothing in it is ever overwritten or cut off, so the file may be one that can only be appended to (``chattr +a``). What
could not be written stays here and is tried again, from the very byte that was the first to fail.

What was written, and the disk then failed to keep, is not written again: the system may have dropped it or not, tells
nobody which, and calls the next attempt a success. Written twice it would break a chain that is good wherever the bytes
did stay, and they can't be written in their old place, which is closed to whoever can only append. It is counted, so
that the trail can say so (:class:`rproxy.audit.lines.Doubt`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from attrs import evolve

from rproxy.audit.keys import Key
from rproxy.audit.reading import End, ReadError, find_end

#: What one call writes at most, in bytes: so much is lost sight of where a call fails in its middle.
_CHUNK = 1 << 20
#: A pipe that nobody reads would else keep the proxy from starting, and from being told to stop.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
#: The trail names clients' addresses.
_MODE = 0o640


class TrailError(Exception):
    """A file can't be the trail's; the text says which, and why."""


class TrailFile:
    """The trail's file. Its methods block; call one at a time.

    :param key: what its lines were written with, if it has some.
    """

    def __init__(self, path: Path, key: Key) -> None:
        self._path = path
        self._key = key
        self._fd = -1
        #: What is to be written; before each but the first, the file is opened anew.
        self._parts: deque[bytes] = deque()
        #: Bytes that were written since the disk was last asked to keep them.
        self._unsynced = 0
        #: Bytes that were written and that the disk then failed to keep, and why, since :meth:`take_doubt`.
        self._doubtful = 0
        self._doubt = ""
        #: What went wrong otherwise, for the log.
        self.complaint = ""

    @property
    def unwritten(self) -> int:
        """Bytes that were put here and are not written."""
        return sum(map(len, self._parts))

    def open(self) -> End | None:
        """Open the file, and return where the trail stands: at its end, or where it is new, at that of the file that it
        was before it was renamed.

        :returns: None where a trail begins.
        :raises TrailError: it can't be opened or locked, is another process's, or is no trail with this key.
        """
        self._fd = _open(self._path)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            return None
        try:
            return find_end(self._path, self._key) or self._find_predecessor()
        except ReadError as error:
            self.close()
            raise TrailError(str(error)) from None

    def _find_predecessor(self) -> End | None:
        """Where the file ends that was renamed while no proxy ran; a file beside it that is no trail is none."""
        beside = [each for each in self._path.parent.glob(f"{_escape(self._path.name)}[.-]*") if each.is_file()]
        for path in sorted(beside, key=_changed, reverse=True):
            with suppress(ReadError):
                if (end := find_end(path, self._key)) is not None:
                    return evolve(end, here=False)
        return None

    def put(self, parts: Sequence[bytes]) -> None:
        """Have something written: all of the first part to this file, each other to one that is opened for it."""
        if self._parts and parts:
            self._parts[-1] += parts[0]
            parts = parts[1:]
        self._parts.extend(parts)

    def write(self) -> OSError | None:
        """Write what was put here, and see that the disk has it.

        :returns: why it couldn't; then :attr:`unwritten` says how much is left, and :meth:`take_doubt` of how much that
            was written it isn't known. With nothing left to write, the disk is asked all the same.
        """
        try:
            while self._parts:
                self._write_part()
                self._parts.popleft()
                if self._parts:
                    self._open_anew()
            self._sync()
        except OSError as error:
            return error
        return None

    def take_doubt(self) -> tuple[int, str]:
        """Return how many bytes the disk failed to keep since the last time, and why."""
        doubt = self._doubtful, self._doubt
        self._doubtful, self._doubt = 0, ""
        return doubt

    def _sync(self) -> None:
        """See that the disk has what was written."""
        unsynced, self._unsynced = self._unsynced, 0
        try:
            with suppress_no_disk():
                os.fdatasync(self._fd)
        except OSError as error:
            if unsynced:
                self._doubtful += unsynced
                self._doubt = error.strerror or str(error)
            raise

    def _write_part(self) -> None:
        part = memoryview(self._parts[0])
        done = 0
        try:
            while done < len(part):
                done += os.write(self._fd, part[done : done + _CHUNK])
        finally:
            self._parts[0] = bytes(part[done:])
            self._unsynced += done

    def _open_anew(self) -> None:
        """Go on in the file that has the name now; where that can't be, in the one that had it."""
        # A disk that fails is one more reason to leave the old file.
        with suppress(OSError):
            self._sync()
        try:
            fd = _open(self._path, self._fd)
        except TrailError as error:
            self.complaint = str(error)
            return
        if fd != self._fd:
            os.close(self._fd)
            self._fd = fd

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class suppress_no_disk(suppress):  # noqa: N801 - like the class that it is made of
    """Let pass that a device which is no disk can't be told to have something."""

    def __init__(self) -> None:
        super().__init__(OSError)

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        return isinstance(error, OSError) and error.errno in {errno.EINVAL, errno.ENOTSUP, errno.EROFS}


def _open(path: Path, held: int = -1) -> int:
    """Open and lock a file.

    :param held: what is open already; returned where it is the same file.
    :raises TrailError: it can't be opened or locked, another process has it, or, beside one that is open, something is
        in it.
    """
    try:
        fd = os.open(path, _FLAGS, _MODE)
    except OSError as error:
        raise TrailError(f"the audit trail {path} can't be opened: {error.strerror}") from None
    try:
        if held >= 0 and os.path.samestat(os.fstat(fd), os.fstat(held)):
            os.close(fd)
            return held
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if held >= 0 and os.fstat(fd).st_size:
            raise TrailError(f"the audit trail {path} is not empty: it is not continued by another file's lines")
        os.set_blocking(fd, True)
    except BlockingIOError:
        os.close(fd)
        raise TrailError(f"the audit trail {path} is another process's: give each proxy its own") from None
    except OSError as error:
        os.close(fd)
        raise TrailError(
            f"the audit trail {path} can't be locked: {error.strerror}; put it where files can be, as on a local disk"
        ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _changed(path: Path) -> float:
    """When it was changed last, in seconds since 1970."""
    try:
        return path.stat().st_mtime
    except OSError:
        # Whoever renames and compresses may be at it.
        return 0.0


def _escape(name: str) -> str:
    return "".join(f"[{each}]" if each in "*?[" else each for each in name)
