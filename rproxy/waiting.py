"""The waiting line of one policy: bounded in packets and bytes, served client by client.

A client with a thousand packets in line delays another client's one packet by one turn, not by a thousand.
"""

from __future__ import annotations

from collections import deque

from rproxy.limits import Limits
from rproxy.request import Asker, Request


class WaitingLine:
    """Requests that no server could take yet. Those that were answered while they waited are passed over."""

    __slots__ = ("_bytes", "_lines", "_turns", "limits", "packets")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lines: dict[Asker, deque[Request]] = {}
        #: Whose turn it is; each asker stands here once.
        self._turns: deque[Asker] = deque()
        #: How many wait.
        self.packets = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self.packets

    def push(self, request: Request) -> bool:
        """Let the request wait, or answer False: the line is full."""
        if self.packets >= self.limits.queue_packets or self._bytes >= self.limits.queue_bytes:
            return False
        # Not by _line: under load every packet comes this way.
        self.packets += 1
        self._bytes += len(request.raw)
        line = self._lines.get(request.asker)
        if line is None:
            self._lines[request.asker] = deque((request,))
            self._turns.append(request.asker)
        else:
            line.append(request)
        return True

    def push_back(self, request: Request) -> None:
        """Let a request that had its turn for nothing wait again, before the others of its asker; never refused.

        An asker that had its turn just now has the next one too: where there is room for one packet at a time, the one
        that is always popped second would else wait for ever.
        """
        self._line(request).appendleft(request)
        if self._turns[-1] is request.asker:
            self._turns.rotate(1)

    def pop(self) -> Request | None:
        """The request whose turn it is, None if nobody waits."""
        while self._turns:
            asker = self._turns.popleft()
            line = self._lines[asker]
            request = line.popleft()
            self.packets -= 1
            self._bytes -= len(request.raw)
            if line:
                self._turns.append(asker)
            else:
                del self._lines[asker]
            if request.reply is None:
                return request
        return None

    def expired(self, now: float) -> list[Request]:
        """Take out every request that has waited long enough, and those that wait for nobody.

        A line isn't in the order of the waits' ends, as one that came back begins to wait anew; so all are looked at.
        They are returned together, because whoever hears that it waited in vain may let the next one wait.
        """
        over = [
            request
            for line in self._lines.values()
            for request in line
            if request.waits_until <= now or request.deadline <= now or request.reply is not None
        ]
        if not over:
            return over
        gone = set(over)
        for asker in {request.asker for request in over}:
            self._lines[asker] = deque(request for request in self._lines[asker] if request not in gone)
        self._lines = {asker: line for asker, line in self._lines.items() if line}
        self._turns = deque(asker for asker in self._turns if asker in self._lines)
        self.packets -= len(over)
        self._bytes -= sum(len(request.raw) for request in over)
        return over

    def _line(self, request: Request) -> deque[Request]:
        self.packets += 1
        self._bytes += len(request.raw)
        line = self._lines.get(request.asker)
        if line is None:
            line = self._lines[request.asker] = deque()
            self._turns.append(request.asker)
        return line
