"""Child processes that never outlive what they were started for, whatever ends it."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

#: Seconds between two looks.
POLL = 0.005
#: Seconds for a child to be ready, and to stop before it is killed.
PATIENCE = 30.0
#: Characters of a log that an error shows.
SHOWN = 2000

_PR_SET_PDEATHSIG = 1
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_libc = ctypes.CDLL(None)


class Failure(Exception):
    """Something was wrong with what is measured: a wrong answer, or a process that ended."""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A child process, and what it wrote so far to both its outputs."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._asked_to_end = False
        self._process = process
        self.log_path = log_path

    @property
    def log(self) -> str:
        """What it wrote."""
        return self.log_path.read_text("utf-8", errors="replace")

    @property
    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    @property
    def failed(self) -> bool:
        """Whether it ended by itself, and not well."""
        return bool(self.code) and not self._asked_to_end

    def wait_for(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """Wait until a line of the log matches.

        :raises Failure: it ended before, or took too long.
        """
        deadline = time.monotonic() + seconds
        while True:
            ended = self.code is not None
            if found := re.search(pattern, self.log, re.MULTILINE):
                return found
            if ended:
                raise Failure(f"{self.name} ended with exit code {self.code}: {self.log[-SHOWN:]}")
            if time.monotonic() > deadline:
                raise Failure(f"{self.name} didn't write {pattern!r} in {seconds:g} s, but: {self.log[-SHOWN:]}")
            time.sleep(POLL)

    def finish(self, seconds: float) -> str:
        """Wait until it ends by itself, and return what it wrote.

        :raises Failure: its exit code isn't 0, or it took too long.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} didn't end in {seconds:g} s: {self.log[-SHOWN:]}") from None
        if code:
            raise Failure(f"{self.name} ended with exit code {code}: {self.log[-SHOWN:]}")
        return self.log

    def terminate(self) -> None:
        """Ask it to end, once."""
        if self.code is None and not self._asked_to_end:
            self._asked_to_end = True
            self._process.terminate()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal that doesn't end it."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self._asked_to_end = True
        self._process.kill()
        self._process.wait()

    def stop(self, seconds: float = PATIENCE) -> None:
        """Have it ended."""
        self.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Tail:
    """What a child writes from now on, read line by line."""

    def __init__(self, child: Child) -> None:
        self._path = child.log_path
        self._at = child.log_path.stat().st_size
        self._rest = b""

    def read(self) -> str:
        """The lines that are new."""
        if self._path.stat().st_size == self._at:
            return ""
        with self._path.open("rb") as log:
            log.seek(self._at)
            new = log.read()
        self._at += len(new)
        lines, line_end, self._rest = (self._rest + new).rpartition(b"\n")
        return (lines + line_end).decode("utf-8", "replace")


class Children:
    """A context in which processes are started; they are ended with it, the youngest first."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._folder = tempfile.TemporaryDirectory(prefix="rproxy-bench-")
        #: For whatever files they need.
        self.folder = Path(self._folder.name)

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start one.

        It has a session of its own, so that Ctrl-C reaches this process alone, which then ends its children in order.
        If this process is killed, the kernel kills the children.
        """
        log_path = self.folder / f"{len(self._children)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [str(word) for word in argv],
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - there are no threads here
            )
        child = Child(name, process, log_path)
        self._children.append(child)
        return child

    def failures(self) -> str:
        """Which of them ended though nobody asked them to, and what they wrote; ``""`` if none did."""
        failed = [child for child in self._children if child.failed]
        return "\n".join(f"{child.name} ended with exit code {child.code}: {child.log[-SHOWN:]}" for child in failed)

    def stop(self) -> None:
        """End them all."""
        for child in reversed(self._children):
            child.terminate()
        for child in reversed(self._children):
            child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _signals_held_back():
            self.stop()
            self._folder.cleanup()


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A second Ctrl-C waits until the children are ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
