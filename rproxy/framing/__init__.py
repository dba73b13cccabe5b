"""Cuts a byte stream into JSON objects; knows nothing of what they mean.

First a guess: a packet seldom has a ``}`` before its last byte, so the bytes up to the next one are handed to ``peek``,
a decoder that answers with the packet or with None. No JSON object is a proper prefix
of another, so a guess that decodes is a whole packet, and it was framed for the price of decoding it. Where the guess
fails, a scanner walks the bytes, strings and brackets only, and remembers where it was: no byte is scanned twice,
however the stream was cut, and what ``peek`` is asked in vain is at most twice the bytes of the packet.

Where many packets came at once, ``peek_many`` may know a way to decode them together. It is asked in vain at most twice
for what one feed brought, however few frames are taken at a time: somebody who has room for one packet after the other
would else have all of them decoded for each.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Generic, TypeVar

from rproxy.framing.scanning import Scanner, StreamError, end_of

__all__ = ["Framer", "Peek", "PeekMany", "StreamError"]

Packet = TypeVar("Packet")
Peek = Callable[[bytes], Packet | None]
PeekMany = Callable[[bytes], list[tuple[bytes, Packet]] | None]

_OPEN_BRACE = ord("{")
_SPACES = b" \t\n\r"
_SPACE = re.compile(rb"[ \t\n\r]*+")


class Framer(Generic[Packet]):
    """An incremental reader of one connection: :meth:`feed` it bytes, and :meth:`take` the frames.

    :param peek: decodes the usual packet, or answers None for whatever it isn't sure of, cut-off bytes included. It
        must not raise.
    :param max_packet: the longest object, in bytes; no more than that and one feed are ever held.
    :param peek_many: does the same for bytes that may be several packets and nothing else, all of them or none.
    """

    __slots__ = (
        "_buffer",
        "_guess",
        "_max_packet",
        "_peek",
        "_peek_many",
        "_ready",
        "_scanner",
        "_start",
        "_tries",
        "error",
        "in_packet",
    )

    def __init__(self, peek: Peek[Packet], max_packet: int, peek_many: PeekMany[Packet] = lambda chunk: None) -> None:
        self._peek = peek
        self._peek_many = peek_many
        self._max_packet = max_packet
        #: What was fed and not yet taken: ``_buffer`` from ``_start`` on.
        self._buffer = b""
        self._start = 0
        #: Made when it is needed, which on most connections it never is.
        self._scanner: Scanner | None = None
        #: Whether the stream would end in the middle of a packet if it ended here.
        self.in_packet = False
        #: How often ``peek_many`` may still answer None before more is fed.
        self._tries = 0
        #: How long the object would be that ``peek`` has refused.
        self._guess = 0
        #: Frames that were read together with those that were taken.
        self._ready: list[tuple[bytes, Packet | None]] = []
        #: Why :meth:`take` will give no more frames.
        self.error: StreamError | None = None

    def feed(self, data: bytes) -> None:
        """Take in what the connection received."""
        self._buffer = self._buffer[self._start :] + data if self._buffer else data
        self._start = 0
        # Once as it came; and once behind its first frame, which may be what only began in it.
        self._tries = 2

    @property
    def scanned(self) -> int:
        """How many bytes the scanner has walked so far."""
        return 0 if self._scanner is None else self._scanner.scanned

    @property
    def unread(self) -> bool:
        """Whether something was fed that :meth:`take` hasn't looked at yet."""
        return bool(self._buffer or self._ready)

    def take(self, most: int) -> list[tuple[bytes, Packet | None]]:
        """The next whole objects, and what ``peek`` made of each.

        If they are fewer than ``most``, there are no more until more is fed, or :attr:`error` says why there will be
        none.
        """
        frames = self._ready or self._read_fed(self._buffer)
        if frames:
            if len(frames) > most:
                self._ready = frames[most:]
                return frames[:most]
            self._ready = []
            if not self._buffer:
                return frames
        while len(frames) < most and self._buffer and self.error is None:
            try:
                frame = self.next()
            except StreamError as error:
                self.error = error
                break
            if frame is None:
                break
            frames.append(frame)
            if len(frames) == 1 and self._tries:
                # What was cut in the middle of a packet may be whole packets from here on.
                self._buffer, self._start = self._buffer[self._start :], 0
                frames += self._read_fed(self._buffer)
        if len(frames) > most:
            frames, self._ready = frames[:most], frames[most:]
        if self._start == len(self._buffer):
            self._buffer, self._start = b"", 0
        return frames

    def _read_fed(self, fed: bytes) -> list[tuple[bytes, Packet | None]]:
        """The frames of the two feeds that are most frequent: just one packet, and just several; else none."""
        length = len(fed)
        if not self._tries or self._start or self.in_packet or not 0 < length <= self._max_packet:
            return []
        # Not startswith(), which takes four times as long for one byte.
        if fed[0] != _OPEN_BRACE:
            return []
        end = fed.find(b"}") + 1
        if end == length:
            packet = self._peek(fed)
            if packet is None:
                return []
            self._buffer = b""
            return [(fed, packet)]
        end = fed.rfind(b"}") + 1
        frames = self._peek_many(fed[:end]) if end and self.error is None else None
        if frames is None:
            self._tries -= 1
            return []
        # Not isspace(), which also knows white space that JSON doesn't.
        if end == length or not fed[end:].strip(_SPACES):
            self._buffer = b""
        else:
            self._start = end
        # A list of packets that are there is one of packets that may be there; mypy can't know that nobody adds to it.
        return frames  # type: ignore[return-value]

    def next(self) -> tuple[bytes, Packet | None] | None:
        """The next whole object and what ``peek`` made of it, or None until more is fed.

        :raises StreamError: no object begins here, it is too long, or it is nested too deep.
        """
        buffer = self._buffer
        start = self._start
        if start == len(buffer):
            return None
        if self.in_packet:
            return self._scan(start)
        if buffer[start] != _OPEN_BRACE:
            start = self._start = end_of(_SPACE, buffer, start)
            if start == len(buffer):
                return None
            if buffer[start] != _OPEN_BRACE:
                raise StreamError("bad-packet", "a packet is a JSON object and begins with {")
        end = buffer.find(b"}", start) + 1
        if end:
            raw = buffer[start:end]
            if len(raw) <= self._max_packet:
                packet = self._peek(raw)
                if packet is not None:
                    self._start = end
                    return raw, packet
        self._guess = end - start
        return self._scan(start)

    def _scan(self, start: int) -> tuple[bytes, Packet | None] | None:
        """Walk on from ``start`` to the end of the object, or of what was fed."""
        scanner = self._scanner
        if scanner is None:
            scanner = self._scanner = Scanner()
        partial = scanner.partial
        # One byte too many is enough: what stands behind it doesn't change the answer, however the stream is cut.
        stop = min(len(self._buffer), start + self._max_packet + 1 - len(partial))
        end = scanner.find_end(self._buffer, start, stop)
        self._start = end or len(self._buffer)
        piece = self._buffer[start : self._start]
        if len(partial) + len(piece) > self._max_packet:
            raise StreamError("too-large", f"a packet may have at most {self._max_packet} bytes")
        self.in_packet = not end
        if not end:
            partial += piece
            return None
        if partial:
            piece = bytes(partial + piece)
            partial.clear()
        # Where the guess was right and peek still answered None, asking it again would be a second wasted decode.
        return piece, None if len(piece) == self._guess else self._peek(piece)
