"""The lines of an audit trail that aren't written yet: bounded, and what there is no room for is counted.

What is counted has a line of its own once there is room again: who reads the trail knows what it doesn't tell.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from rproxy.audit.lines import Chain, Gap, Line

#: Lines that are not written yet, in bytes: beyond that, nothing is kept that may be given up.
ROOM = 16 << 20
#: The part of it that is kept for what happens to registrations: an event of these without a line leaves open for every
#: later packet whether it reached a rightful server, so nothing that others can cause may take their room.
KEPT = 4 << 20
#: The part that is for everything.
SHARED = ROOM - KEPT


@define
class _Missed:
    """What no line was made of, since when."""

    since: str
    packets: int = 0
    written: int = 0
    registrations: int = 0
    refused: int = 0


class Backlog:
    """The lines, in their order, and in which files they belong.

    :param chain: what they are added to.
    :param now: the time, as it stands in lines.
    """

    def __init__(self, chain: Chain, now: Callable[[], str]) -> None:
        self._chain = chain
        self._now = now
        self._parts: list[list[bytes]] = [[]]
        self._missed: _Missed | None = None
        #: Bytes of the lines about registrations that stand in what is kept for them.
        self._kept = 0
        #: Bytes of the lines that were made and, as far as is known here, aren't written.
        self.size = 0
        #: Called when there is a line to be fetched, and was none.
        self.wake: Callable[[], object] = lambda: None

    @property
    def is_full(self) -> bool:
        """Whether there is room for nothing but registrations."""
        return self.size >= SHARED

    @property
    def missed(self) -> int:
        """How much happened that no line was made of, and none tells of yet."""
        missed = self._missed
        return missed.packets + missed.registrations + missed.refused if missed is not None else 0

    def add(self, line: Line) -> None:
        """Add a line, whether there is room or not."""
        raw = self._chain.add(line)
        lines = self._parts[-1]
        lines.append(raw)
        self.size += len(raw)
        if len(lines) == 1:
            self.wake()

    def add_registration(self, line: Line) -> None:
        """Add a line about a registration, which may have the room that is kept for these."""
        if not self.is_full:
            self.add(line)
        elif self._kept < KEPT:
            before = self.size
            self.add(line)
            self._kept += self.size - before
        else:
            self._since(line.time).registrations += 1

    def add_refused(self, line: Line, refused: int) -> None:
        """Add a line about so many refused setup packets."""
        if not self.is_full:
            self.add(line)
        else:
            self._since(line.time).refused += refused

    def miss_packet(self, now: str, *, written: bool) -> None:
        """There is no room for the line of a packet.

        :param written: whether it was written to a server.
        """
        missed = self._since(now)
        missed.packets += 1
        missed.written += written

    def end_line(self) -> None:
        """Let what comes next stand on a line of its own, behind one that a crash cut off."""
        self._parts[-1].append(b"\n")
        self.size += 1

    def begin_file(self) -> None:
        """What comes next goes to another file."""
        self._parts.append([])

    def fetch(self) -> list[bytes]:
        """Return the lines that were made since the last time; each but the first part goes to another file."""
        parts, self._parts = self._parts, [[]]
        return [b"".join(lines) for lines in parts]

    def written_down(self, size: int) -> None:
        """So many bytes are written."""
        self.size -= size
        if self.is_full:
            return
        self._kept = 0
        missed, self._missed = self._missed, None
        if missed is not None:
            self.add(
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

    def _since(self, now: str) -> _Missed:
        if self._missed is None:
            self._missed = _Missed(now)
        return self._missed
