"""The waiting line of one policy: bounded in packets and bytes, served client by client.

A client with a thousand packets in line delays another client's one packet by one turn, not by a thousand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from rproxy.limits import Limits
from rproxy.request import Asker, Request


class WaitingLine:
    """Requests that no server could take yet. Those that were answered while they waited are passed over."""

    __slots__ = ("_bytes", "_limits", "_lines", "_packets", "_turns")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lines: dict[Asker, deque[Request]] = {}
        #: Whose turn it is; each asker stands here once.
        self._turns: deque[Asker] = deque()
        self._packets = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._packets

    def push(self, request: Request) -> bool:
        """Let the request wait, or answer False: the line is full."""
        if self._packets >= self._limits.queue_packets or self._bytes >= self._limits.queue_bytes:
            return False
        self._line(request).append(request)
        return True

    def push_back(self, request: Request) -> None:
        """Let a request that had its turn for nothing wait again, before the others of its asker; never refused."""
        self._line(request).appendleft(request)

    def pop(self) -> Request | None:
        """The request whose turn it is, None if nobody waits."""
        while self._turns:
            asker = self._turns.popleft()
            line = self._lines[asker]
            request = line.popleft()
            self._packets -= 1
            self._bytes -= len(request.raw)
            if line:
                self._turns.append(asker)
            else:
                del self._lines[asker]
            if request.reply is None:
                return request
        return None

    def expired(self, now: float) -> Iterator[Request]:
        """Take out every request that has waited long enough, and those that wait for nobody."""
        for asker in [asker for asker, line in self._lines.items() if _is_over(line[0], now)]:
            line = self._lines[asker]
            while line and _is_over(line[0], now):
                request = line.popleft()
                self._packets -= 1
                self._bytes -= len(request.raw)
                yield request
            if not line:
                del self._lines[asker]
                self._turns.remove(asker)

    def _line(self, request: Request) -> deque[Request]:
        self._packets += 1
        self._bytes += len(request.raw)
        line = self._lines.get(request.asker)
        if line is None:
            line = self._lines[request.asker] = deque()
            self._turns.append(request.asker)
        return line


def _is_over(request: Request, now: float) -> bool:
    return request.reply is not None or request.waits_until <= now or request.deadline <= now
