"""The header that a proxy in front of this one puts before a connection's bytes: whom the connection comes from.

Versions 1 (a line of text) and 2 (binary) of HAProxy's PROXY protocol, as a receiver reads them
(https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt, section 2). One function, from all bytes that came so far
to the header; what it does for each call is bounded, so a header may come in any number of pieces.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from attrs import frozen

_LINE = b"PROXY "
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
#: The longest line of version 1, its end included, in bytes.
_LONGEST_LINE = 107
#: What version 2 has before the addresses, in bytes: the signature, version and command, family, length.
_FIXED = 16
_LOCAL, _PROXY = 0x20, 0x21
#: The families, and how many bytes the addresses of each take up.
_LENGTHS = {0x0: 0, 0x1: 12, 0x2: 36, 0x3: 216}
#: The transports that a family may have: unspecified, stream, datagrams.
_TRANSPORTS = frozenset({0x0, 0x1, 0x2})
_STREAM = 0x1
#: Without zeros in front, which some take for octal.
_NUMBER = re.compile(r"0|[1-9][0-9]{0,4}")
#: Bytes of a Unix socket's path.
_PATH = 108


class HeaderError(Exception):
    """The bytes are no header, and the connection must be dropped: nothing that comes behind them can be trusted."""


@frozen
class TCPSource:
    """The peer is at an address; one of IPv4 that is written as IPv6 (``::ffff:10.0.0.1``) is given as IPv4."""

    host: str
    port: int


@frozen
class UnixSource:
    """The peer is a process on the other proxy's machine; the path is empty if its socket has none."""

    path: bytes


@frozen
class Header:
    """A whole header.

    :ivar source: whom the connection comes from; None where it is the other proxy's own (its health checks), or of a
        kind that says nothing, so that the real peer counts.
    :ivar size: how many bytes the header has. What came behind them is the peer's.
    """

    source: TCPSource | UnixSource | None
    size: int


def read_header(came: bytes | bytearray) -> Header | None:
    """Read the header that ``came``, all bytes that the connection received so far, begins with.

    :returns: None as long as it isn't whole. It has at most 65,551 bytes.
    :raises HeaderError: no header begins like that, which shows at the first wrong byte of a signature.
    """
    if came.startswith(_SIGNATURE):
        return _read_binary(came)
    if came.startswith(_LINE):
        return _read_line(came)
    if not (_SIGNATURE.startswith(came[:12]) or _LINE.startswith(came[:6])):
        raise HeaderError("the connection doesn't begin with a header of the PROXY protocol")
    return None


def _read_line(came: bytes | bytearray) -> Header | None:
    end = came.find(b"\r\n", 0, _LONGEST_LINE)
    if end < 0:
        if len(came) >= _LONGEST_LINE:
            raise HeaderError(f"a header of version 1 ends within {_LONGEST_LINE} bytes")
        return None
    # What is no ASCII is no address either.
    kind, *rest = came[len(_LINE) : end].decode("ascii", "replace").split(" ")
    if kind == "UNKNOWN":
        return Header(None, end + 2)
    if kind not in {"TCP4", "TCP6"} or len(rest) != 4:
        raise HeaderError("a header of version 1 has TCP4 or TCP6, two addresses and two ports, or UNKNOWN")
    source, destination, source_port, destination_port = rest
    host = _host(kind, source)
    _host(kind, destination)
    _port(destination_port)
    return Header(TCPSource(host, _port(source_port)), end + 2)


def _host(kind: str, text: str) -> str:
    try:
        if kind == "TCP4":
            return str(IPv4Address(text))
        if "%" in text:
            raise AddressValueError("a link means something on its own machine only")
        return _unmapped(IPv6Address(text))
    except AddressValueError as error:
        raise HeaderError(f"a header of version 1 has a wrong address: {error}") from None


def _unmapped(address: IPv6Address) -> str:
    return str(address.ipv4_mapped or address)


def _port(text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > 65535:
        raise HeaderError(f"a header of version 1 has a wrong port: {text!r}")
    return int(text)


def _read_binary(came: bytes | bytearray) -> Header | None:
    if len(came) < _FIXED:
        return None
    command, family, transport = came[12], came[13] >> 4, came[13] & 0xF
    length = int.from_bytes(came[14:_FIXED], "big")
    if command not in {_LOCAL, _PROXY}:
        raise HeaderError(f"a header of version 2 has an unknown version or command: 0x{command:02x}")
    if command == _PROXY:
        if family not in _LENGTHS or transport not in _TRANSPORTS:
            raise HeaderError(f"a header of version 2 has an unknown family: 0x{came[13]:02x}")
        if transport == _STREAM and length < _LENGTHS[family]:
            raise HeaderError(f"a header of version 2 has too few bytes for its addresses: {length}")
    if len(came) < _FIXED + length:
        return None
    # What stands behind the addresses (TLVs) is for others. Datagrams can't be what this stream carries, and a receiver
    # takes what it doesn't support for unspecified.
    known = command == _PROXY and transport == _STREAM
    return Header(_source(family, bytes(came[_FIXED : _FIXED + _LENGTHS[family]])) if known else None, _FIXED + length)


def _source(family: int, addresses: bytes) -> TCPSource | UnixSource | None:
    if family == 0x1:
        return TCPSource(str(IPv4Address(addresses[:4])), int.from_bytes(addresses[8:10], "big"))
    if family == 0x2:
        return TCPSource(_unmapped(IPv6Address(addresses[:16])), int.from_bytes(addresses[32:34], "big"))
    # A path ends at the first NUL, unless it begins with one and so has a name that is in no file system.
    path = addresses[:_PATH]
    return UnixSource(path[:1] + path[1:].partition(b"\0")[0] if path[0] else path.rstrip(b"\0")) if path else None
