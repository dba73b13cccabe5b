"""The thorough way to read packets: numbers as ids, the other spelling of the policy, further fields, and above all
what is wrong.

Like :mod:`rproxy.packets.peeking` it refuses a key that stands twice, because parsers differ on which one counts.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

import msgspec

from rproxy.framing import StreamError
from rproxy.packets.kinds import MAX_FIELD, Ack, Data, Error, Packet, PacketError, Setup

_TYPES: dict[str, type[Data] | type[Setup] | type[Ack] | type[Error]] = {"0": Data, "1": Setup, "2": Ack, "3": Error}
_NAMES = {"0": "data packet", "1": "setup packet", "2": "ACK", "3": "error packet"}
#: Fields whose text may also come as an integer, and those whose integer may also come as a text.
_ID_FIELDS = ("type", "srcid", "destid", "id", "privPoliId", "privPolyId", "token")
_NUMBER_FIELDS = ("listenport", "pipeline", "connections", "weight", "lease")
_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


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
    if digits == "-0":
        return -0.0
    value = int(digits) if len(digits) <= 20 else _float(digits)
    return value if -(1 << 63) <= value < 1 << 64 else float(value)


def _float(digits: str) -> float:
    """A number that every server can read: one packet must not break the connection that others share."""
    value = float(digits)
    if math.isinf(value):
        raise PacketError("a number is out of range")
    # Without its sign, which only -0 keeps.
    return value or 0.0


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
    size = fields.get("payloadsize")
    if type(size) is float and str(size) == "-0.0":
        # Nobody echoes it, so it is what it is for the quick reader.
        fields["payloadsize"] = 0
    if {name.casefold() for name in fields} >= {"privpoliid", "privpolyid"}:
        raise PacketError("privPoliId and privPolyId at once: which policy counts?")
    other, own = ("privPoliId", "privPolyId") if kind == "1" else ("privPolyId", "privPoliId")
    if other in fields:
        fields[own] = fields.pop(other)
