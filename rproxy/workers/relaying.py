"""Log lines from a worker to its parent, which writes them to the one log that there is.

Each goes by itself, as one message over a pair of sockets that keeps messages apart, and it is sent when it is logged:
nothing is gathered, so nothing is lost when the worker dies, and a flood fills no memory. Where the parent is behind, a
line is left out and counted, and so is one that is longer than the system has messages be. The parent reads a few lines
a turn, and writes each before it reads the next.
"""

from __future__ import annotations

import json
import socket
import time
from typing import Any

from attrs import asdict, evolve
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.logs.lines import Line, line_of

#: The longest text of a line, in characters: up to six bytes each in JSON, and the socket takes no more than 208 KiB
#: at once (net.core.wmem_default, which may be set to less).
LONGEST = 1 << 14
#: How many lines the parent reads in one turn.
LINES = 32

_LARGEST = 1 << 18

_logger = Logger()


def log_sockets() -> tuple[socket.socket, socket.socket]:
    """Return the two ends: for the :class:`LineReader`, and for the :class:`LineSender`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


@implementer(ILogObserver)
class LineSender:
    """A worker's log: sends each line to the parent.

    :param sock: the worker's end of :func:`log_sockets`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._left_out = 0

    def __call__(self, event: LogEvent) -> None:
        if self._left_out and self._send(_left_out(self._left_out)):
            self._left_out = 0
        line = line_of(event)
        if line.text and not self._send(line):
            self._left_out += 1

    def _send(self, line: Line) -> bool:
        if len(line.text) > LONGEST:
            rest = max(0, LONGEST - len(line.message) - 1)
            traceback = f"{line.traceback[:rest]}..." if line.traceback else ""
            line = evolve(line, message=_cut(line.message, LONGEST), traceback=traceback)
        try:
            raw = json.dumps(asdict(line), ensure_ascii=False).encode("utf-8", "surrogatepass")
            self._socket.send(raw)
        except ConnectionError:
            # The parent is gone, and with it the log. What comes of that is the channel's matter.
            return True
        except OSError:
            # The parent is behind, or the line is longer than the system has messages be.
            return False
        return True


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."


def _left_out(lines: int) -> Line:
    return Line(
        time=time.time(),
        level="warn",
        namespace=__name__,
        event="worker-lines-left-out",
        message=f"Left out {lines} lines: there was no room for them on their way to the log",
        fields={"left_out": lines},
    )


@implementer(IReadDescriptor)
class LineReader:
    """Writes a worker's lines to the log.

    :param reactor: provides ``IReactorFDSet``.
    :param sock: the parent's end of :func:`log_sockets`.
    :param worker: its number.
    """

    def __init__(self, reactor: Any, sock: socket.socket, worker: int) -> None:
        self._reactor = reactor
        self._socket = sock
        self._worker = worker
        self.fileno = sock.fileno
        reactor.addReader(self)

    def doRead(self) -> None:
        """Some lines came."""
        for _ in range(LINES):
            if not self._read():
                return

    def finish(self) -> None:
        """Write what there is; nothing more comes, as the worker has ended."""
        while self._read():
            pass
        self.connectionLost()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The worker has ended, or the reactor is stopping."""
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()

    def logPrefix(self) -> str:
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return f"worker {self._worker}"

    def _read(self) -> bool:
        """Write a line, if there is one."""
        raw = b""
        if self._socket.fileno() >= 0:
            try:
                raw = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return False
            except OSError:
                raw = b""
        if not raw:
            self.connectionLost()
            return False
        write_line(evolve(Line(**json.loads(raw)), worker=self._worker))
        return True


def relay(worker: int, text: str) -> None:
    """Write what a worker printed, a line of it."""
    _logger.warn("worker {worker}: {text}", event="worker-printed", worker=worker, text=text)


def write_line(line: Line) -> None:
    """Write a line of a worker's."""
    logger = Logger(namespace=line.namespace)
    level = LogLevel.lookupByName(line.level)
    logger.emit(level, "worker {worker}: {text}", worker=line.worker, text=line.text, log_line=line)
