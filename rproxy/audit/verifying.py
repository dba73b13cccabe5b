"""Whether the lines of a trail are all there, genuine and in order, and where not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from attrs import define, frozen

from rproxy.audit.keys import Key
from rproxy.audit.lines import AnyLine, Opened, decode, follows, split
from rproxy.audit.reading import LONGEST, raw_lines


@frozen
class Place:
    """A line of a file, counted from 1."""

    path: Path
    number: int


@frozen
class Finding:
    """Something that a reader of the trail has to know.

    :ivar wrong: whether it is a fault, and not just something that happened.
    """

    place: Place
    text: str
    wrong: bool = True


def counted(number: int, what: str) -> str:
    """Return "1 packet", "2 packets"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


@define
class _Doubt:
    """What was read and follows nothing: what a crash left if the next genuine line says so, else a fault."""

    place: Place
    text: str
    raw: bytes
    #: The hash that the last of it states.
    stated: bytes | None


class ChainCheck:
    """Follows the chain from line to line, and finds it again where it is broken.

    :param report: told of each fault.
    """

    def __init__(self, key: Key, report: Callable[[Finding], object]) -> None:
        self._key = key
        self._report = report
        #: The hash and the number of the last line that was genuine; at first none.
        self.head: bytes | None = None
        self.seq = 0
        #: Faults so far.
        self.breaks = 0
        self._doubt: _Doubt | None = None

    def take(self, place: Place, raw: bytes) -> AnyLine | None:
        """Return what the next line says, None if it isn't known to be genuine.

        :param raw: with its line break, if it has one.
        """
        text = raw.removesuffix(b"\n")
        head = follows(self._key, self.head, text)
        line = decode(text) if head is not None else None
        if line is not None:
            self._settle(line, place)
        else:
            head, line = self._find_again(text)
            if line is None:
                self._keep(place, raw)
                return None
            self._settle_wrong(line, place)
        self.head, self.seq = head, line.seq
        return line

    def finish(self) -> None:
        """There are no more lines."""
        if self._doubt is not None:
            self._fault(self._doubt.place, self._doubt.text)
            self._doubt = None

    def _find_again(self, text: bytes) -> tuple[bytes | None, AnyLine | None]:
        """A line that is genuine, though what it follows isn't what was there before."""
        head = follows(self._key, None, text)
        if head is None and self._doubt is not None and self._doubt.stated is not None:
            head = follows(self._key, self._doubt.stated, text)
        return head, decode(text) if head is not None else None

    def _keep(self, place: Place, raw: bytes) -> None:
        parts = split(raw.removesuffix(b"\n"))
        stated = parts[1] if parts is not None else None
        if self._doubt is None:
            self._doubt = _Doubt(place, self._describe(raw), raw, stated)
            return
        self._doubt.stated = stated
        if len(self._doubt.raw) <= 2 * LONGEST:
            self._doubt.raw += raw

    def _describe(self, raw: bytes) -> str:
        line = decode(raw.removesuffix(b"\n"))
        if line is None:
            return "a line was changed" if raw.endswith(b"\n") else "the last line is unfinished"
        if isinstance(line, Opened) and line.key != self._key.name:
            return "this was written with another key"
        return self._misplaced(line)

    def _misplaced(self, line: AnyLine) -> str:
        expected = self.seq + 1
        if self.head is None:
            return "the first line is not one that a file begins with"
        if line.seq > expected:
            return f"lines are missing: after line {self.seq} comes line {line.seq}"
        if line.seq < expected:
            return f"line {line.seq} comes after line {self.seq}: out of order, twice, or of another trail"
        return f"line {line.seq} was changed, or the one before it"

    def _settle(self, line: AnyLine, place: Place) -> None:
        """A genuine line has come: it says whether what stands before it is what a crash left."""
        torn = (line.torn, line.torn_sha256) if isinstance(line, Opened) else (0, "")
        raw = self._doubt.raw if self._doubt is not None else b""
        found = sha256(raw[: torn[0]]).hexdigest() if torn[0] else ""
        if self.head is None and self._doubt is None:
            # It is in a file that wasn't given.
            return
        if torn[1] != found or raw[torn[0] :] not in {b"", b"\n"}:
            doubt = self._doubt
            self._fault(doubt.place if doubt else place, doubt.text if doubt else "what a crash left here is gone")
        self._doubt = None

    def _settle_wrong(self, line: AnyLine, place: Place) -> None:
        doubt, self._doubt = self._doubt, None
        if doubt is not None:
            self._fault(doubt.place, doubt.text)
        else:
            self._fault(place, self._misplaced(line))

    def _fault(self, place: Place, text: str) -> None:
        self.breaks += 1
        self._report(Finding(place, text))


def walk(paths: Sequence[Path], check: ChainCheck) -> Iterator[tuple[Place, AnyLine]]:
    """Yield the genuine lines of files that are in their order; ``check`` reports what else there is.

    :raises rproxy.audit.reading.ReadError: a file can't be read.
    """
    for path in paths:
        for number, raw in enumerate(raw_lines(path), 1):
            place = Place(path, number)
            line = check.take(place, raw)
            if line is not None:
                yield place, line
    check.finish()
