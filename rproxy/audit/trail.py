"""What becomes of packets and registrations, told as lines of an audit trail (docs/howto/audit.rst).

A line is made where and when something happens, so that the order of the lines is the order of the events, and a line
says what was registered when a packet was written. Nothing is written here: :mod:`rproxy.audit.backlog` has the lines
until then.
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
from rproxy.audit.backlog import Backlog
from rproxy.audit.keys import Key
from rproxy.audit.lines import (
    GENESIS,
    Chain,
    Doubt,
    Draining,
    Ended,
    LeftOut,
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

#: Lines of refused setup packets in a period: strangers choose how many there are. One line tells of the others.
REFUSED_LINES = 10
#: In seconds.
REFUSED_PERIOD = 60.0
#: Clients whose hashed ids are remembered.
_CLIENTS = 4096

T = TypeVar("T", bound=Terms)


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
        #: The lines that aren't written yet.
        self.backlog = Backlog(self._chain, self._now)
        self._client = lru_cache(_CLIENTS)(key.client)
        self._seconds = seconds
        self._complete = complete
        self._standing: dict[int, Registration] = {}
        #: When the period began in which setup packets were refused, and how many were.
        self._refusing_since = -inf
        self._refused = 0
        self._left_out: _LeftOut | None = None
        self._doubt: _Doubt | None = None
        #: Called with the seconds after which :meth:`sweep` has something to tell.
        self.alarm: Callable[[float], object] = lambda seconds: None

    # What happens to the trail.

    def start(self, end: End | None) -> None:
        """Begin, behind what there is already."""
        rest = end.rest if end is not None else b""
        self._chain.seq, self._chain.head = (end.seq, end.head) if end is not None else (0, GENESIS)
        if end is not None and end.here and end.unfinished:
            # Not a byte of it is touched; a line of its own says that it belongs there.
            self.backlog.end_line()
        self._open(len(rest), sha256(rest).hexdigest() if rest else "")
        self.backlog.add(Started(0, self._now(), version=__version__, pid=os.getpid()))
        self.backlog.wake()

    def reopen(self) -> None:
        """Go on in another file, which tells by itself who is registered."""
        self.backlog.begin_file()
        self._open()
        now = self._now()
        for registration in self._standing.values():
            line = _terms(Standing, registration, now)
            line.draining = registration.draining
            self.backlog.add(line)

    def stop(self) -> None:
        """End: whoever is still registered isn't from now on."""
        self.sweep()
        self.settle()
        self._standing.clear()
        self.backlog.add(Stopped(0, self._now()))

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
            self.backlog.add(Doubt(0, self._now(), since=doubt.since, size=doubt.size, error=doubt.error))

    def _open(self, torn: int = 0, torn_sha256: str = "") -> None:
        line = Opened(
            0,
            self._now(),
            previous=self._chain.head.hex(),
            key=self._key.name,
            torn=torn,
            torn_sha256=torn_sha256,
        )
        self.backlog.add(line)

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
        if self.backlog.is_full and not (self._complete and request.written):
            self.backlog.miss_packet(now, written=bool(request.written))
            return
        servers = [Written(server.server_id, server.number, after) for server, after in request.written]
        client = self._client(request.client_id)
        self.backlog.add(Packet(0, now, request.policy, client, address, outcome, error, delivered, servers))

    # What happens to registrations.

    def registered(self, registration: Registration) -> None:
        """A server is registered, or drains."""
        self._standing[registration.number] = registration
        self.backlog.add_registration(
            _terms(Draining if registration.draining else Registered, registration, self._now())
        )

    def unregistered(self, registration: Registration, why: str) -> None:
        """A registration ended."""
        if self._standing.pop(registration.number, None) is not None:
            policy, server = registration.key
            number = registration.number
            self.backlog.add_registration(
                Ended(0, self._now(), registration=number, policy=policy, server=server, why=why)
            )

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
            self.backlog.add_refused(Refused(0, now, policy=policy, server=server_id, host=host, error=error), 1)

    def sweep(self) -> None:
        """Tell how many refused setup packets were left out, and begin a new period."""
        left_out, self._left_out = self._left_out, None
        self._refusing_since = -inf
        if left_out is not None:
            line = LeftOut(0, self._now(), since=left_out.since, refused=left_out.refused)
            self.backlog.add_refused(line, left_out.refused)

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
