"""What becomes of packets and registrations, told as lines of an audit trail (docs/audit.rst).

A line is made where and when something happens, so that the order of the lines is the order of the events, and a line
says what was registered when a packet was written. Nothing is written here: lines are kept until they are fetched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from hashlib import sha256
from math import inf
from typing import TypeVar

from attrs import define

from rproxy import __version__
from rproxy.audit.keys import Key
from rproxy.audit.lines import (
    Chain,
    Doubt,
    Draining,
    Ended,
    Gap,
    LeftOut,
    Line,
    Opened,
    Packet,
    Refused,
    Registered,
    Standing,
    Started,
    Stopped,
    Terms,
    Written,
    stamp,
)
from rproxy.audit.reading import End
from rproxy.registry.registration import Registration
from rproxy.request import Refusal, Request

#: Lines that are not written yet, in bytes: beyond that, nothing is kept that may be given up.
ROOM = 16 << 20
#: The part of it that is kept for what happens to registrations: an event of these without a line leaves open for every
#: later packet whether it reached a rightful server, so nothing that others can cause may take their room.
KEPT = 4 << 20
#: The part that is for everything.
SHARED = ROOM - KEPT
#: Lines of refused setup packets in a period: strangers choose how many there are. One line tells of the others.
REFUSED_LINES = 10
#: In seconds.
REFUSED_PERIOD = 60.0
#: Clients whose hashed ids are remembered.
_CLIENTS = 4096

T = TypeVar("T", bound=Terms)


@define
class _Missed:
    """What no line was made of, since when."""

    since: str
    packets: int = 0
    written: int = 0
    registrations: int = 0
    refused: int = 0


@define
class _LeftOut:
    """Refused setup packets that were left out, since when."""

    since: str
    refused: int = 0


@define
class _Doubt:
    """What the disk failed to keep, since when and why."""

    since: str
    size: int = 0
    error: str = ""


class Trail:
    """A proxy's audit trail, as far as it isn't written yet.

    :param seconds: the time since 1970.
    :param complete: make a line of each packet that was written to a server even if there is no room: those that take
        packets in have been told to stop it (:mod:`rproxy.audit.recording`), so there are no more than were in flight.
    """

    def __init__(self, key: Key, seconds: Callable[[], float], *, complete: bool) -> None:
        self._key = key
        self._chain = Chain(key)
        self._client = lru_cache(_CLIENTS)(key.client)
        self._seconds = seconds
        self._complete = complete
        self._standing: dict[int, Registration] = {}
        self._parts: list[list[bytes]] = [[]]
        self._missed: _Missed | None = None
        #: Bytes of the lines about registrations that stand in what is kept for them.
        self._kept = 0
        #: When the period began in which setup packets were refused, and how many were.
        self._refusing_since = -inf
        self._refused = 0
        self._left_out: _LeftOut | None = None
        self._doubt: _Doubt | None = None
        #: Bytes of the lines that were made and, as far as is known here, aren't written.
        self.size = 0
        #: Called when there is a line to be fetched, and was none.
        self.wake: Callable[[], object] = lambda: None
        #: Called with the seconds after which :meth:`sweep` has something to tell.
        self.alarm: Callable[[float], object] = lambda seconds: None

    # What happens to the trail.

    def start(self, end: End | None) -> None:
        """Begin, behind what there is already."""
        rest = end.rest if end is not None else b""
        self._chain = Chain(self._key, end.seq, end.head) if end is not None else Chain(self._key)
        if end is not None and end.here and end.unfinished:
            # Not a byte of it is touched; a line of its own says that it belongs there.
            self._parts[-1].append(b"\n")
            self.size += 1
        self._open(len(rest), sha256(rest).hexdigest() if rest else "")
        self._add(Started(0, self._now(), version=__version__, pid=os.getpid()))
        self.wake()

    def reopen(self) -> None:
        """Go on in another file, which tells by itself who is registered."""
        self._parts.append([])
        self._open()
        now = self._now()
        for registration in self._standing.values():
            line = _terms(Standing, registration, now)
            line.draining = registration.draining
            self._add(line)

    def stop(self) -> None:
        """End: whoever is still registered isn't from now on."""
        self.sweep()
        self.settle()
        self._standing.clear()
        self._add(Stopped(0, self._now()))

    def fetch(self) -> list[bytes]:
        """Return the lines that were made since the last time; each but the first part goes to another file."""
        parts, self._parts = self._parts, [[]]
        return [b"".join(lines) for lines in parts]

    def written_down(self, size: int) -> None:
        """So many bytes are written."""
        self.size -= size
        if self.size >= SHARED:
            return
        self._kept = 0
        missed, self._missed = self._missed, None
        if missed is not None:
            self._add(
                Gap(
                    0,
                    self._now(),
                    since=missed.since,
                    packets=missed.packets,
                    written=missed.written,
                    registrations=missed.registrations,
                    refused=missed.refused,
                )
            )

    @property
    def missed(self) -> int:
        """How much happened that no line was made of, and none tells of yet."""
        missed = self._missed
        return missed.packets + missed.registrations + missed.refused if missed is not None else 0

    def doubt(self, size: int, error: str) -> bool:
        """So many bytes are written, and the disk failed to keep them; told when it works again, or at the end.

        :returns: whether that is news, and not the trouble that there was.
        """
        news = self._doubt is None
        if self._doubt is None:
            self._doubt = _Doubt(self._now())
        self._doubt.size += size
        self._doubt.error = error
        return news

    def settle(self) -> None:
        """The disk works: make the line about what it failed to keep before."""
        doubt, self._doubt = self._doubt, None
        if doubt is not None:
            self._add(Doubt(0, self._now(), since=doubt.since, size=doubt.size, error=doubt.error))

    def _open(self, torn: int = 0, torn_sha256: str = "") -> None:
        line = Opened(
            0,
            self._now(),
            previous=self._chain.head.hex(),
            key=self._key.name,
            torn=torn,
            torn_sha256=torn_sha256,
        )
        self._add(line)

    # What happens to packets.

    def written(self, request: Request) -> None:
        """The packet is written to a connection of its server."""
        server = request.server
        assert server is not None
        request.written += ((server, self._chain.seq),)

    def ended(self, requests: Iterable[Request], address: str) -> None:
        """See :class:`rproxy.request.Endings`."""
        now = self._now()
        for request in requests:
            reply = request.reply
            if isinstance(reply, Refusal):
                self._packet(request, now, address, "refused", reply.code, reply.delivered)
            else:
                self._packet(request, now, address, "acked", "", "yes")

    def gone(self, requests: Iterable[Request], address: str) -> None:
        """See :class:`rproxy.request.Endings`."""
        now = self._now()
        for request in requests:
            reply = request.reply
            delivered = "unknown" if request.written else "no"
            if reply and not isinstance(reply, Refusal):
                delivered = "yes"
            self._packet(request, now, address, "client-gone", "", delivered)

    def _packet(self, request: Request, now: str, address: str, outcome: str, error: str, delivered: str) -> None:
        if not request.policy:
            # It was no packet.
            return
        if self.size >= SHARED and not (self._complete and request.written):
            missed = self._miss(now)
            missed.packets += 1
            missed.written += bool(request.written)
            return
        servers = [Written(server.server_id, server.number, after) for server, after in request.written]
        client = self._client(request.client_id)
        self._add(Packet(0, now, request.policy, client, address, outcome, error, delivered, servers))

    # What happens to registrations.

    def registered(self, registration: Registration) -> None:
        """A server is registered, or drains."""
        self._standing[registration.number] = registration
        self._note(_terms(Draining if registration.draining else Registered, registration, self._now()))

    def unregistered(self, registration: Registration, why: str) -> None:
        """A registration ended."""
        if self._standing.pop(registration.number, None) is not None:
            policy, server = registration.key
            number = registration.number
            self._note(Ended(0, self._now(), registration=number, policy=policy, server=server, why=why))

    def setup_refused(self, policy: str, server_id: str, host: str, error: str) -> None:
        """A setup packet was refused, or what another process made of one.

        The first of a period have lines, so that nobody fills a disk by asking.
        """
        seconds = self._seconds()
        # Also over when the machine's clock was set back.
        if not 0 <= seconds - self._refusing_since < REFUSED_PERIOD:
            self.sweep()
            self._refusing_since, self._refused = seconds, 0
        self._refused += 1
        now = stamp(seconds)
        if self._refused > REFUSED_LINES:
            if self._left_out is None:
                self._left_out = _LeftOut(now)
                self.alarm(self._refusing_since + REFUSED_PERIOD - seconds)
            self._left_out.refused += 1
        else:
            self._add_refused(Refused(0, now, policy=policy, server=server_id, host=host, error=error), 1)

    def sweep(self) -> None:
        """Tell how many refused setup packets were left out, and begin a new period."""
        left_out, self._left_out = self._left_out, None
        self._refusing_since = -inf
        if left_out is not None:
            line = LeftOut(0, self._now(), since=left_out.since, refused=left_out.refused)
            self._add_refused(line, left_out.refused)

    def _add_refused(self, line: Line, refused: int) -> None:
        if self.size < SHARED:
            self._add(line)
        else:
            self._miss(line.time).refused += refused

    def _note(self, line: Line) -> None:
        if self.size < SHARED:
            self._add(line)
        elif self._kept < KEPT:
            before = self.size
            self._add(line)
            self._kept += self.size - before
        else:
            self._miss(line.time).registrations += 1

    def _miss(self, now: str) -> _Missed:
        if self._missed is None:
            self._missed = _Missed(now)
        return self._missed

    def _add(self, line: Line) -> None:
        raw = self._chain.add(line)
        lines = self._parts[-1]
        lines.append(raw)
        self.size += len(raw)
        if len(lines) == 1:
            self.wake()

    def _now(self) -> str:
        return stamp(self._seconds())


def _terms(kind: type[T], registration: Registration, now: str) -> T:
    return kind(
        0,
        now,
        registration=registration.number,
        policy=registration.policy,
        server=registration.server_id,
        host=registration.host,
        port=registration.port,
        pipeline=registration.pipeline,
        connections=registration.connections,
        weight=registration.weight,
        lease=registration.lease,
    )
