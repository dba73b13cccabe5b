"""Reading the files of a trail, as they are and as logrotate leaves them: compressed, and under whatever names."""

from __future__ import annotations

import gzip
import os
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from attrs import frozen

from rproxy.audit.keys import Key
from rproxy.audit.lines import AnyLine, decode, follows, split

#: No line is longer: ids and policies have 256 characters at most.
LONGEST = 1 << 16

_GZIP = b"\x1f\x8b"


class ReadError(Exception):
    """A file can't be read; the text says which, and why."""


def open_file(path: Path) -> BinaryIO:
    """Open a file, compressed or not."""
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP
    return cast(BinaryIO, gzip.open(path)) if compressed else path.open("rb")


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their line breaks, which the last may lack; none in pieces unless it is no line.

    :raises ReadError: it can't be read (to its end).
    """
    try:
        with open_file(path) as file:
            while raw := file.readline(LONGEST):
                yield raw
    except (OSError, EOFError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ReadError(f"{path} can't be read: {why}") from None


def first_line(path: Path) -> AnyLine | None:
    """Return what a file's first line says, None if there is none.

    :raises ReadError: it can't be read.
    """
    for raw in raw_lines(path):
        return decode(raw.rstrip(b"\n"))
    return None


def in_order(paths: list[Path]) -> list[Path]:
    """Return the files in the order of their lines; empty ones, which have no place in it, are left out.

    :raises ReadError: one can't be read, or doesn't begin as a file of a trail does.
    """
    numbered = []
    for path in paths:
        line = first_line(path)
        if line is not None:
            numbered.append((line.seq, path))
        elif next(raw_lines(path), b""):
            raise ReadError(f"{path} is no audit trail: its first line is none of one")
    return [path for _, path in sorted(numbered)]


@frozen
class End:
    """Where a file of a trail ends."""

    seq: int
    head: bytes
    #: What stands behind the last genuine line: the beginning of one that a crash cut off.
    rest: bytes = b""
    #: Whether its last line break is missing.
    unfinished: bool = False
    #: Whether it is the file that is written to, and not the one that was before it was renamed.
    here: bool = True


def find_end(path: Path, key: Key) -> End | None:
    """Return where a file ends, None if it is empty.

    :raises ReadError: it can't be read, or no line near its end was written with this key.
    """
    raws = _last_lines(path)
    if not raws:
        return None
    for index in range(len(raws) - 1, -1, -1):
        raw = raws[index].removesuffix(b"\n")
        before = split(raws[index - 1].removesuffix(b"\n")) if index else None
        head = follows(key, None, raw) or (follows(key, before[1], raw) if before else None)
        line = decode(raw) if head is not None else None
        if head is not None and line is not None:
            return End(line.seq, head, b"".join(raws[index + 1 :]), not raws[-1].endswith(b"\n"))
    raise ReadError(f"{path} doesn't end as an audit trail with this key does: move it away, or give its key")


def _last_lines(path: Path) -> list[bytes]:
    """The last lines of a file, with their line breaks; the first of them may be cut off."""
    try:
        with path.open("rb") as file:
            if file.read(2) != _GZIP:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 2 * LONGEST))
                return file.readlines()
    except OSError as error:
        raise ReadError(f"{path} can't be read: {error.strerror}") from None
    return list(deque(raw_lines(path), maxlen=16))
