"""Walks through a JSON object to its end, strings and brackets only, however it is cut."""

from __future__ import annotations

import re

from rproxy.limits import MAX_DEPTH

_QUOTE = ord('"')
_CLOSING = {ord("{"): ord("}"), ord("["): ord("]")}
_OUTSIDE_STRING = re.compile(rb'[^"{}\[\]]*+')
_INSIDE_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


class StreamError(Exception):
    """The stream can't be trusted any more: answer :attr:`code`, close it (docs/reference/protocol.rst, The stream).

    :ivar code: ``bad-packet`` or ``too-large``.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Scanner:
    """Remembers where it was: no byte is walked twice.

    :ivar partial: what it has walked of an object that hasn't ended yet, for who puts the pieces together.
    :ivar scanned: how many bytes it has walked so far.
    """

    __slots__ = ("_brackets", "_escaped", "_in_string", "partial", "scanned")

    def __init__(self) -> None:
        self.partial = bytearray()
        #: The brackets that are to be closed, innermost last, and whether it stands in a string, behind a backslash.
        self._brackets = bytearray()
        self._in_string = False
        self._escaped = False
        self.scanned = 0

    def find_end(self, data: bytes, start: int, stop: int) -> int:
        """Where the object ends that ``start`` is in, 0 if it doesn't until ``stop``; the state there is kept.

        :raises StreamError: it is nested too deep, or its brackets don't match.
        """
        position = start + 1 if self._escaped else start
        brackets = self._brackets
        in_string = self._in_string
        escaped = False
        end = 0
        while True:
            position = _end_in_string(data, position, stop) if in_string else end_of(_OUTSIDE_STRING, data, position)
            if position >= stop:
                break
            byte = data[position]
            position += 1
            if byte == _QUOTE:
                in_string = not in_string
            elif byte in _CLOSING:
                brackets.append(_CLOSING[byte])
                if len(brackets) > MAX_DEPTH:
                    raise StreamError("bad-packet", f"a packet may nest at most {MAX_DEPTH} deep")
            elif byte == brackets[-1]:
                brackets.pop()
                if not brackets:
                    end = position
                    break
            elif not in_string:
                raise StreamError("bad-packet", "a bracket is closed by one of another kind")
            else:  # a backslash inside a string, and the byte that it escapes isn't there yet
                escaped = True
        self._escaped = escaped
        self._in_string = in_string
        self.scanned += (end or stop) - start
        return end


def _end_in_string(data: bytes, position: int, length: int) -> int:
    """Where the string that ``position`` is in ends, or the bytes do; at a backslash if that is the very last byte.

    Searching for a byte is ten times as fast as matching a pattern, and long strings are what long packets consist of.
    """
    quote = data.find(b'"', position, length)
    end = length if quote < 0 else quote
    return end if data.find(b"\\", position, end) < 0 else end_of(_INSIDE_STRING, data, position)


def end_of(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    """Where the run of ``pattern`` (one that also matches nothing) that begins at ``position`` ends."""
    match = pattern.match(data, position)
    assert match is not None
    return match.end()
