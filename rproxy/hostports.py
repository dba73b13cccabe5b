"""``HOST:PORT``, the form that options and log lines have for the address of a TCP socket: read and written."""

from __future__ import annotations

from ipaddress import ip_address


def parse_address(text: str, default_host: str = "127.0.0.1") -> tuple[str, int]:
    """Return the host and port of ``[HOST:]PORT``; an IPv6 address stands in brackets, as in ``[::1]:8000``.

    :raises ValueError: it is no such address; the text says what is wrong.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        host = default_host
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} can be read in two ways: put an IPv6 address in brackets, as in [::1]:8000")
    if not host or host != host.strip() or not (port.isascii() and port.isdigit() and len(port) <= 5):
        raise ValueError(f"{text!r} is no address: give HOST:PORT or PORT, such as 127.0.0.1:8000 or 8000")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} has no valid port: give one from 1 to 65535")
    return host, int(port)


def add_address(addresses: list[tuple[str, int]], text: str) -> None:
    """Add another address to those that an option had before.

    :param text: the address, in the form that :func:`parse_address` reads.
    :raises ValueError: it is none, or it is there already; the text says so.
    """
    address = parse_address(text)
    if _normal(address) in map(_normal, addresses):
        raise ValueError(f"{text} is given twice")
    addresses.append(address)


def _normal(address: tuple[str, int]) -> tuple[str, int]:
    """Return an address in the one form that all ways to write it have in common."""
    host, port = address
    try:
        return str(ip_address(host)), port
    except ValueError:
        return host.lower().removesuffix("."), port


def format_address(host: str, port: int) -> str:
    """Return the address in the form that :func:`parse_address` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
