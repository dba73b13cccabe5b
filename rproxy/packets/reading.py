"""The four packets: what their fields are, read from and written to JSON (docs/reference/protocol.rst, Packets).

Reading has two speeds. :func:`peek_data` and :func:`peek_ack` know only the form that practically every packet has
(every id a string, no field that the protocol doesn't name) and read it with one msgspec decode and one count of
quotes. :func:`decode` takes all the time it needs for everything else: numbers as ids, the other spelling of the
policy, further fields, and above all for saying what is wrong.

Both agree on what a packet is, and both refuse a key that stands twice, because parsers differ on which one counts.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from operator import attrgetter
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from rproxy.framing import StreamError

#: What the proxy calls itself in the packets that it sends.
PROXY_ID = "rproxy"

#: The longest text of any field but the payload, in characters.
MAX_FIELD = 256

_Text = Annotated[str, Meta(max_length=MAX_FIELD)]
_Id = Annotated[str, Meta(min_length=1, max_length=MAX_FIELD)]
#: An integer that a server could not read into 64 bits is no more a size than it is an id, see :func:`_integer`.
_Size = _Text | Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | UnsetType


class PacketError(Exception):
    """A well-formed object that is no packet: answer ``bad-packet``, the connection goes on.

    :ivar destid: the id of whoever sent it, as far as it could be read, else ``""``.
    """

    def __init__(self, text: str, destid: str = "") -> None:
        super().__init__(text)
        self.destid = destid


# gc=False below: a packet holds only texts and numbers, and not tracking it halves what the collector has to walk.


class Data(Struct, frozen=True, gc=False):
    """A client's packet. Ids are texts here, also where the wire had numbers."""

    type: Literal["0"]
    srcid: _Id
    policy: _Id = field(name="privPoliId")
    payload: str
    payloadsize: _Size = UNSET


class Setup(Struct, frozen=True, gc=False, kw_only=True):
    """A server's registration; one that leaves all of the rest out is a classic server's.

    See docs/reference/protocol.rst, What a modern server adds.
    """

    type: Literal["1"]
    id: _Id
    policy: _Id = field(name="privPolyId")
    listenport: Annotated[int, Meta(ge=1, le=65535)]
    pipeline: Annotated[int, Meta(ge=1, le=1024)] | None = None
    connections: Annotated[int, Meta(ge=1, le=64)] | None = None
    #: Seconds.
    lease: Annotated[float, Meta(gt=0, le=86400)] | None = None
    weight: Annotated[int, Meta(ge=1, le=100)] = 1
    drain: bool = False
    token: _Text | None = None


class Ack(Struct, frozen=True, gc=False):
    """A server's answer to a data packet, or the proxy's to a setup packet with a lease."""

    type: Literal["2"]
    srcid: _Id
    destid: _Id
    payload: str
    payloadsize: _Size = UNSET


class Error(Struct, frozen=True, gc=False):
    """Not done, and why: ``error`` is a code of docs/reference/protocol.rst, ``payload`` a sentence for people."""

    type: Literal["3"]
    srcid: _Text
    destid: _Text
    error: _Id
    delivered: Literal["no", "unknown"]
    payload: str
    payloadsize: _Size = UNSET


Packet = Data | Setup | Ack | Error

_TYPES: dict[str, type[Data] | type[Setup] | type[Ack] | type[Error]] = {"0": Data, "1": Setup, "2": Ack, "3": Error}
_NAMES = {"0": "data packet", "1": "setup packet", "2": "ACK", "3": "error packet"}
#: Fields whose text may also come as an integer, and those whose integer may also come as a text.
_ID_FIELDS = ("type", "srcid", "destid", "id", "privPoliId", "privPolyId", "token")
_NUMBER_FIELDS = ("listenport", "pipeline", "connections", "weight", "lease")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
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
    """The data packet that ``raw`` is, or None where :func:`decode` has to look: anything unusual, cut off or wrong."""
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


def decode(raw: bytes) -> Packet:
    """Read one object, as framed by :class:`rproxy.framing.Framer`, with every rule of the protocol applied.

    :raises StreamError: ``raw`` isn't JSON.
    :raises PacketError: it is, and no packet.
    """
    fields = _parse(raw)
    sender = _sender(fields)
    try:
        _normalise(fields)
        wanted = _TYPES.get(fields.get("type", ""))
        if wanted is None:
            raise PacketError('type must be "0" (data), "1" (setup), "2" (ACK) or "3" (error)')
        if wanted is Error and fields.get("delivered") not in ("no", "unknown"):
            # msgspec would quote all of it.
            raise PacketError('delivered must be "no" or "unknown"')
        packet = msgspec.convert(fields, wanted)
        for name in ("srcid", "destid", "id", "policy"):
            if not getattr(packet, name, "").isprintable():
                raise PacketError(f"{name} has characters that can't be printed")
    except PacketError as error:
        raise PacketError(str(error), sender) from None
    except msgspec.ValidationError as error:
        raise PacketError(f"no {_NAMES[fields['type']]}: {error}", sender) from None
    return packet


def size_is_wrong(packet: Data | Ack | Error) -> bool:
    """Whether ``payloadsize`` is there and isn't the number of the payload's characters."""
    size = packet.payloadsize
    length = len(packet.payload)
    return size is not UNSET and size != length and str(size) != str(length)


def _parse(raw: bytes) -> dict[str, Any]:
    refused = ""
    try:
        text = raw.decode("utf-8")
        try:
            fields = _parser.decode(text)
        except PacketError as error:
            # What stands behind the fault must be JSON too, or the stream can't be trusted; and it may say whose it is.
            refused = str(error)
            fields = _lenient_parser.decode(text)
    except (ValueError, RecursionError) as error:
        raise StreamError("bad-packet", f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise StreamError("bad-packet", "a packet is a JSON object")
    if refused:
        raise PacketError(refused, _sender(fields))
    if _SURROGATE.search(raw):
        try:
            json.dumps(fields, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise PacketError("half of a surrogate pair is no text", _sender(fields)) from None
    return fields


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ by more than capitals: some parsers take ``PrivPoliId`` for ``privPoliId``."""
    if len({key.casefold() for key, _ in pairs}) != len(pairs):
        raise PacketError("a key stands twice")
    return dict(pairs)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object less the keys that stand twice: whichever of them counts, it isn't read."""
    times = Counter(key.casefold() for key, _ in pairs)
    return {key: value for key, value in pairs if times[key.casefold()] == 1}


def _integer(digits: str) -> int | float:
    """An integer; or a float, which is nowhere an id, for one that fits in no 64 bits, and for -0: peers echo 0."""
    value = int(digits) if len(digits) <= 20 and digits != "-0" else _float(digits)
    return value if -(1 << 63) <= value < 1 << 64 else float(value)


def _float(digits: str) -> float:
    """A number that every server can read: one packet must not break the connection that others share."""
    value = float(digits)
    if math.isinf(value):
        raise PacketError("a number is out of range")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_parser = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant
)
_lenient_parser = json.JSONDecoder(
    object_pairs_hook=_once,
    parse_int=lambda digits: _integer(digits) if len(digits) <= 20 else math.inf,
    parse_constant=_refuse_constant,
)


def _sender(fields: dict[str, Any]) -> str:
    """Whom an error about these fields is for."""
    sender = fields.get("id" if str(fields.get("type")) == "1" else "srcid", "")
    if isinstance(sender, int) and not isinstance(sender, bool):
        sender = str(sender)
    return sender if isinstance(sender, str) and len(sender) <= MAX_FIELD and sender.isprintable() else ""


def _normalise(fields: dict[str, Any]) -> None:
    """Bring the forms that the protocol allows to the one that the packet classes know."""
    for name in _ID_FIELDS:
        if type(fields.get(name)) is int:
            fields[name] = str(fields[name])
    kind = fields.get("type")
    if not isinstance(kind, str):
        fields["type"] = ""
    for name in _NUMBER_FIELDS if kind == "1" else ():
        value = fields.get(name)
        if isinstance(value, str) and _NUMBER.fullmatch(value):
            fields[name] = float(value) if "." in value else int(value)
    if {name.casefold() for name in fields} >= {"privpoliid", "privpolyid"}:
        raise PacketError("privPoliId and privPolyId at once: which policy counts?")
    other, own = ("privPoliId", "privPolyId") if kind == "1" else ("privPolyId", "privPoliId")
    if other in fields:
        fields[own] = fields.pop(other)


_encoder = msgspec.json.Encoder()


def data(client_id: str, policy: str, payload: str) -> bytes:
    """The data packet by which client ``client_id`` asks for ``payload`` to be processed under ``policy``."""
    return _encoder.encode(Data("0", client_id, policy, payload, str(len(payload))))


def ack(source_id: str, destination_id: str, payload: str) -> bytes:
    """The ACK of ``source_id`` to ``destination_id``."""
    return _encoder.encode(Ack("2", source_id, destination_id, payload, str(len(payload))))


def setup(
    server_id: str,
    policy: str,
    port: int,
    *,
    pipeline: int | None = None,
    connections: int | None = None,
    lease: float | None = None,
    weight: int | None = None,
    drain: bool = False,
    token: str | None = None,
) -> bytes:
    """The setup packet by which server ``server_id`` offers to serve ``policy`` at ``port``.

    The four fields that every peer knows are strings, as deployed proxies expect them; the others are left out unless
    given. ``lease`` is in seconds.
    """
    if lease is not None and float(lease).is_integer():
        lease = int(lease)
    classic = {"type": "1", "id": server_id, "privPolyId": policy, "listenport": str(port)}
    modern = {"pipeline": pipeline, "connections": connections, "lease": lease, "weight": weight, "token": token}
    packet = classic | {name: value for name, value in modern.items() if value is not None}
    return _encoder.encode(packet | {"drain": True} if drain else packet)


def error(source_id: str, destination_id: str, code: str, delivered: Literal["no", "unknown"], text: str) -> bytes:
    """The error packet of ``source_id`` that tells ``destination_id`` what was not done, and why."""
    return _encoder.encode(Error("3", source_id, destination_id, code, delivered, text, str(len(text))))
