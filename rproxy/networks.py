"""Networks and the addresses in them. An address of IPv4 is one in whatever form it comes."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

#: Addresses of IPv4 as they are written in IPv6 (RFC 4291, section 2.5.5.2).
_MAPPED = IPv6Network("::ffff:0:0/96")


def parse_network(text: str) -> Network:
    """Read a network; one of IPv4 that is written as one of IPv6 is taken for what it is.

    :raises ValueError: it is none; the text says why.
    """
    network = ip_network(text)
    if isinstance(network, IPv4Network):
        return network
    if network.network_address.scope_id is not None:
        # Addresses are compared without their zones, so this would let in more than it says.
        raise ValueError(f"{text} has a zone, which networks are looked at without")
    if network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - _MAPPED.prefixlen))
    return network


def is_within(host: str, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of the networks; what is no address is in none."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if not isinstance(address, IPv4Address):
        address = address.ipv4_mapped or address
    return any(address in network for network in networks)
