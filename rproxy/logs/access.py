"""The access log: a line for each packet, without its payload, for who looks for what became of one (docs/logs.rst).

Unlike the audit trail it proves nothing and stops nothing: where it can't be written, lines are left out and counted.
Nothing is written here: lines are kept until they are fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct
from msgspec.json import Encoder

from rproxy.audit.lines import stamp
from rproxy.figures.tallies import Tallies
from rproxy.hostports import format_address
from rproxy.request import Refusal, Request

#: Lines that are not written yet, in bytes; beyond that, lines are left out.
ROOM = 16 << 20

_encoder = Encoder()


class Access(Struct):
    """A line: one packet.

    :ivar time: when its answer was given to the client, or its connection was lost.
    :ivar client: the address of the connection, ``unix`` for a Unix socket.
    :ivar server: the last one it was given to.
    :ivar outcome: ``acked``, ``client-gone``, or the code of the error.
    :ivar delivered: whether a server received it: ``yes``, ``no`` or ``unknown``.
    :ivar seconds: from when it was read, None where that isn't known; likewise ``waited``, until it was written to that
        server.
    """

    time: str
    client: str
    client_id: str
    policy: str
    server: str | None
    server_address: str | None
    outcome: str
    delivered: str
    bytes_in: int
    bytes_out: int
    seconds: float | None
    waited: float | None
    retried: bool


class LeftOut(Struct):
    """A line: so many were left out before it, as the file took none."""

    time: str
    left_out: int


class AccessLog:
    """A proxy's access log, as far as it isn't written yet.

    :param share: of the packets that were acked, the part that has lines, above 0 and up to 1.
    :param wall: the time since 1970, in seconds.
    :param seconds: the time that deadlines are counted in.
    :param timeout: from a packet to its deadline, in seconds, unless its policy has one of its own.
    """

    def __init__(
        self, share: float, wall: Callable[[], float], seconds: Callable[[], float], timeout: float, tallies: Tallies
    ) -> None:
        self._share = share
        self._wall = wall
        self._seconds = seconds
        self._timeout = timeout
        self._tallies = tallies
        #: What the next packet that is acked adds to; at 1 there is a line.
        self._due = 0.0
        self._lines: list[bytes] = []
        self._left_out = 0
        #: Bytes of the lines that aren't written.
        self.size = 0
        #: Called when there is a line to be fetched, and was none.
        self.wake: Callable[[], object] = lambda: None

    def ended(self, requests: Iterable[Request], address: str) -> None:
        """See :class:`rproxy.request.Endings`."""
        logged = []
        for request in requests:
            if not isinstance(request.reply, Refusal):
                self._due += self._share
                if self._due < 1:
                    continue
                self._due -= 1
            logged.append(request)
        if logged:
            self._add(logged, address, is_gone=False)

    def gone(self, requests: Iterable[Request], address: str) -> None:
        """See :class:`rproxy.request.Endings`."""
        self._add([*requests], address, is_gone=True)

    def fetch(self) -> bytes:
        """Return the lines that were made since the last time."""
        lines, self._lines = self._lines, []
        return b"".join(lines)

    def written_down(self, size: int) -> int:
        """So many bytes are written, or given up; returns how many lines were left out, if that can be told now."""
        self.size -= size
        left_out = self._left_out
        if not left_out or self.size > ROOM / 2:
            return 0
        self._left_out = 0
        self._append(_encoder.encode_lines([LeftOut(stamp(self._wall()), left_out)]))
        return left_out

    @property
    def left_out(self) -> int:
        """Lines that were left out, which nobody was told of."""
        return self._left_out

    def _add(self, requests: list[Request], address: str, *, is_gone: bool) -> None:
        if self.size >= ROOM:
            self._left_out += len(requests)
            return
        # The time is asked for here, as most packets of a sample need none.
        time, now = stamp(self._wall()), self._seconds()
        self._append(_encoder.encode_lines([self._line(each, time, now, address, is_gone) for each in requests]))

    def _append(self, raw: bytes) -> None:
        self._lines.append(raw)
        self.size += len(raw)
        if len(self._lines) == 1:
            self.wake()

    def _line(self, request: Request, time: str, now: float, address: str, is_gone: bool) -> Access:
        reply = request.reply
        if is_gone:
            outcome, delivered = "client-gone", _delivered(request)
        elif isinstance(reply, Refusal):
            outcome, delivered = reply.code, reply.delivered
        else:
            outcome, delivered = "acked", "yes"
        server = request.server
        seconds = waited = None
        if not request.deadline:
            # It was refused when it was read.
            seconds = 0.0
        elif server is not None:
            timeout = server.tally.policy.timeout
            seconds = round(now - request.deadline + timeout, 6)
            waited = round(max(0.0, request.sent - request.deadline), 6)
        elif self._has_usual_timeout(request.policy):
            seconds = round(now - request.deadline + self._timeout, 6)
        return Access(
            time,
            address,
            request.client_id,
            request.policy,
            None if server is None else server.server_id,
            None if server is None else format_address(*server.address),
            outcome,
            delivered,
            len(request.raw),
            0 if is_gone or reply is None else len(reply),
            seconds,
            waited,
            request.retried,
        )

    def _has_usual_timeout(self, policy: str) -> bool:
        # What was refused may have been so before it was held to its policy's own.
        tally = self._tallies.policies.get(policy)
        return tally is None or tally.timeout == self._timeout


def _delivered(request: Request) -> str:
    if request.reply and not isinstance(request.reply, Refusal):
        return "yes"
    return "no" if request.server is None and not request.retried else "unknown"
