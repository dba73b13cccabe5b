"""The quick way to read packets: those of the form that practically all have.

Every id is a string there, and there is no field that the protocol doesn't name. One takes one msgspec decode and one
count of quotes; several that came together take no more of either. What isn't of that form, or is wrong, is left to
:mod:`rproxy.packets.reading`, which has to agree on all that is read here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import attrgetter
from typing import TypeVar

import msgspec
from msgspec import UnsetType

from rproxy.packets.kinds import Ack, Data

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_decode_data = msgspec.json.Decoder(Data).decode
_decode_ack = msgspec.json.Decoder(Ack).decode
_decode_many_data = msgspec.json.Decoder(Data).decode_lines
_decode_many_acks = msgspec.json.Decoder(Ack).decode_lines
#: How many quotes a packet has, by the type of its ``payloadsize``: two for each key and value of its four text fields,
#: and those of that one.
_QUOTES: dict[type, int] = {UnsetType: 16, int: 18, str: 20}
_size_of = attrgetter("payloadsize")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_Peeked = TypeVar("_Peeked", Data, Ack)


def peek_data(raw: bytes) -> Data | None:
    """The data packet that ``raw`` is, or None where ``reading`` has to look: anything unusual, cut off or wrong."""
    try:
        packet = _decode_data(raw)
    except _UNREADABLE:
        return None
    if (
        (raw.count(b'"') == _QUOTES[type(packet.payloadsize)] or _has_only(raw, packet.payloadsize))
        and packet.srcid.isprintable()
        and packet.policy.isprintable()
    ):
        return packet
    return None


def peek_ack(raw: bytes) -> Ack | None:
    """The ACK that ``raw`` is, or None as in :func:`peek_data`."""
    try:
        packet = _decode_ack(raw)
    except _UNREADABLE:
        return None
    if (
        (raw.count(b'"') == _QUOTES[type(packet.payloadsize)] or _has_only(raw, packet.payloadsize))
        and packet.srcid.isprintable()
        and packet.destid.isprintable()
    ):
        return packet
    return None


def peek_many_data(chunk: bytes) -> list[tuple[bytes, Data]] | None:
    """The data packets that ``chunk`` is, with white space between or none, if :func:`peek_data` would take each."""
    return _peek_many(chunk, _decode_many_data)


def peek_many_acks(chunk: bytes) -> list[tuple[bytes, Ack]] | None:
    """The ACKs that ``chunk`` is, as in :func:`peek_many_data`."""
    return _peek_many(chunk, _decode_many_acks)


def _peek_many(chunk: bytes, decode_lines: Callable[[bytes], list[_Peeked]]) -> list[tuple[bytes, _Peeked]] | None:
    """Decode packets together, which takes a third off the price of one.

    Each packet ends with a ``}``. So where there are just as many of them as packets, the packets end there and nowhere
    else. Each has its own number of quotes at least (:func:`_has_only`), so if their sum is right each is. And plain
    ASCII without escapes and DEL is printable, because JSON has no other control characters in its strings.
    """
    if not chunk.isascii() or b"\\" in chunk or b"\x7f" in chunk:
        return None
    try:
        # It needs no lines: it reads one object after the other.
        found = decode_lines(chunk)
    except _UNREADABLE:
        return None
    *pieces, rest = chunk.split(b"}")
    count = len(found)
    if rest or not count or len(pieces) != count:
        return None
    quotes = chunk.count(b'"')
    if quotes != 16 * count:
        # Packets of one sender are alike: where they aren't, each is read by itself.
        wanted = {_QUOTES[kind] for kind in set(map(type, map(_size_of, found)))}
        if wanted != {quotes / count}:
            return None
    return list(zip([piece.lstrip() + b"}" for piece in pieces], found, strict=True))


def _has_only(raw: bytes, payloadsize: str | int | UnsetType) -> bool:
    """Whether a decoded packet has no key but its four text fields and ``payloadsize``, and none of them twice.

    Each string of a JSON text has two quotes, so eight strings (nine or ten with a ``payloadsize``) have at least
    sixteen, and just sixteen quotes leave no room for a further key. Who asks has found that there are more: a payload
    with escaped quotes has, and then the strings themselves are counted.
    """
    return b'\\"' in raw and 2 * sum(1 for _ in _STRING.finditer(raw)) == _QUOTES[type(payloadsize)]
