"""The lines of an audit trail, and the chain that they make (docs/reference/audit.rst, The lines).

A line is one JSON object. Its last field, ``hash``, is made of the hash of the line before and of all that stands in
front of it, as it was written: nothing is encoded anew to be verified.
"""

from __future__ import annotations

import re
from binascii import hexlify
from datetime import UTC, datetime
from functools import lru_cache

import msgspec
from msgspec import Struct

from rproxy.audit.keys import Key

#: The version of the form of the lines.
FORMAT = 1
#: The hash before the first line.
GENESIS = bytes(32)

_HASH = re.compile(rb'(.+),"hash":"([0-9a-f]{64})"\}', re.DOTALL)


class Line(Struct, tag_field="event"):
    """What every line has.

    ``seq`` counts from 1 through all files of a trail. ``time`` is when it was written down, by the proxy's clock in
    UTC; the order of lines is that of ``seq``, whatever becomes of that clock.
    """

    seq: int
    time: str


class Opened(Line, tag="open", kw_only=True):
    """A process begins to write to a file: the first line of each file."""

    #: The hash of the line before, in this file or in another one.
    previous: str
    #: Which key, see :attr:`rproxy.audit.keys.Key.name`.
    key: str
    format: int = FORMAT
    #: What a crash left between the line before and this one, and is no line: how many bytes, and their SHA-256.
    torn: int = 0
    torn_sha256: str = ""


class Started(Line, tag="start", kw_only=True):
    """A proxy begins to work; its registrations are counted from 1."""

    version: str
    pid: int


class Stopped(Line, tag="stop"):
    """It has answered its last packet, and nobody is registered any more."""


class Terms(Line, kw_only=True):
    """A registration, as :class:`rproxy.registry.registration.Registration` says."""

    registration: int
    policy: str
    server: str
    host: str
    port: int
    pipeline: int | None
    connections: int
    weight: int
    lease: float | None


class Registered(Terms, tag="registered", kw_only=True):
    """A server serves a policy from now on."""


class Draining(Terms, tag="draining", kw_only=True):
    """A server is registered and gets nothing new."""


class Standing(Terms, tag="standing", kw_only=True):
    """It is registered since an earlier file, told again so that a file can be checked without those before it."""

    #: Whether it gets nothing new.
    draining: bool = False


class Ended(Line, tag="ended", kw_only=True):
    """A registration ended."""

    registration: int
    policy: str
    server: str
    why: str


class Refused(Line, tag="refused", kw_only=True):
    """A setup packet was refused."""

    policy: str
    server: str
    host: str
    error: str


class LeftOut(Line, tag="refused-more", kw_only=True):
    """Setup packets were refused that have no line, as there had been enough of these for a while."""

    since: str
    refused: int


class Written(Struct):
    """A server that a packet was written to."""

    server: str
    registration: int
    #: The trail's last line when it was written: what was registered then is what stood up to that line.
    after: int


class Packet(Line, tag="packet"):
    """What became of a data packet."""

    policy: str
    #: See :meth:`rproxy.audit.keys.Key.client`.
    client: str
    address: str
    #: ``acked``, ``refused`` or ``client-gone``.
    outcome: str
    #: The code of the refusal, or ``""``.
    error: str
    #: ``yes``, ``no`` or ``unknown``.
    delivered: str
    #: In the order of writing; more than one only with ``--retry``.
    servers: list[Written]


class Gap(Line, tag="gap", kw_only=True):
    """What could not be recorded, as there was no more room for it while the file couldn't be written."""

    since: str
    packets: int
    #: Those of the packets that were written to a server.
    written: int
    registrations: int
    #: Refused setup packets: they change nothing that is registered.
    refused: int = 0


class Doubt(Line, tag="doubt", kw_only=True):
    """Lines before this one were written, but the disk failed to keep them when it was asked to.

    Where that happens, the system may drop what it couldn't bring to the disk, and calls the next attempt a success.
    """

    #: When that was noticed first.
    since: str
    #: How many bytes of lines.
    size: int
    #: What the system said.
    error: str


AnyLine = (
    Opened | Started | Stopped | Registered | Draining | Standing | Ended | Refused | LeftOut | Packet | Gap | Doubt
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AnyLine).decode


@lru_cache(4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def stamp(seconds: float) -> str:
    """Return a time as it stands in lines.

    :param seconds: since 1970.
    """
    # Many lines are made within a second, and the calendar costs as much as the rest of a line.
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


class Chain:
    """Where a trail stands, and its next line.

    :ivar seq: the number of its last line.
    :ivar head: the hash of that.
    """

    def __init__(self, key: Key) -> None:
        self._link = key.link
        self.seq = 0
        self.head = GENESIS

    def add(self, line: Line) -> bytes:
        """Number the line, and return it as it is to be written, with the line break."""
        self.seq = line.seq = self.seq + 1
        body = _encode(line)
        self.head = head = self._link(self.head, body)
        return b"".join((body[:-1], b',"hash":"', hexlify(head), b'"}\n'))


def split(raw: bytes) -> tuple[bytes, bytes] | None:
    """Return what a line's hash was made of, and the hash that it states; None if it has none.

    :param raw: without the line break.
    """
    match = _HASH.fullmatch(raw)
    return None if match is None else (match[1] + b"}", bytes.fromhex(match[2].decode()))


def decode(raw: bytes) -> AnyLine | None:
    """Return what a line says, None if it is none; whether it is genuine is another question."""
    try:
        line: AnyLine = _decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return line


def follows(key: Key, previous: bytes | None, raw: bytes) -> bytes | None:
    """Return the hash of a genuine line, None if it isn't one that follows ``previous``.

    :param previous: the hash of the line before; None if that isn't known, when only a line that states it can do.
    """
    parts = split(raw)
    if parts is None:
        return None
    if previous is None:
        line = decode(raw)
        if not isinstance(line, Opened) or not re.fullmatch("[0-9a-f]{64}", line.previous):
            return None
        previous = bytes.fromhex(line.previous)
    body, stated = parts
    return stated if key.link(previous, body) == stated else None
