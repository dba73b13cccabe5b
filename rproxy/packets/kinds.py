"""The four packets, and what their fields may be (docs/reference/protocol.rst, Packets)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

#: What the proxy calls itself in the packets that it sends.
PROXY_ID = "rproxy"

#: The longest text of any field but the payload, in characters.
MAX_FIELD = 256

_Text = Annotated[str, Meta(max_length=MAX_FIELD)]
_Id = Annotated[str, Meta(min_length=1, max_length=MAX_FIELD)]
#: An integer that a server could not read into 64 bits is no more a size than it is an id.
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


def size_is_wrong(packet: Data | Ack | Error) -> bool:
    """Whether ``payloadsize`` is there and isn't the number of the payload's characters."""
    size = packet.payloadsize
    length = len(packet.payload)
    return size is not UNSET and size != length and str(size) != str(length)
