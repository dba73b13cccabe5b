"""What is allowed: which servers may serve a policy, who may ask for it, and within which limits.

Without a policies file every policy exists as soon as somebody serves it, and all that is asked of a server is that it
registers from one of the networks that ``--register-from`` names. With a file, a policy that isn't in it doesn't exist
(docs/reference/policies.rst). What is here are values and the answers that they give; nothing reads, waits or
remembers.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from ipaddress import ip_network

from attrs import field, frozen

from rproxy.networks import Network, is_within

#: Where setup packets may come from unless told otherwise: loopback and private networks (RFC 1918, RFC 4193), and
#: the addresses of a single link (RFC 4291).
PRIVATE: tuple[Network, ...] = tuple(
    ip_network(network)
    for network in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)


@frozen
class Peer:
    """Whoever is at the other end of a connection."""

    #: An IP address as text, ``""`` for a peer that has none.
    host: str
    #: The names that its verified certificate bears, none without one.
    names: frozenset[str] = frozenset()

    def is_in(self, networks: tuple[Network, ...]) -> bool:
        """Whether it is in one of these networks; an IPv4 address is one in whatever form it comes."""
        return is_within(self.host, networks)


@frozen
class ServerRule:
    """Who may serve a policy. What is None isn't asked for; all else must hold."""

    ids: frozenset[str] | None = None
    networks: tuple[Network, ...] | None = None
    #: One of them must be in the certificate that the server showed when it registered.
    names: frozenset[str] | None = None
    #: The SHA-256 of each token that will do.
    tokens: tuple[bytes, ...] | None = None

    def refusal(self, server_id: str, peer: Peer, token: bytes | None) -> str | None:
        """Why such a server may not serve the policy, None if it may.

        :param token: what :func:`digest` made of the token that it gave.
        """
        if self.ids is not None and server_id not in self.ids:
            return f"server id {server_id} is not one of those that may serve it"
        if self.networks is not None and not peer.is_in(self.networks):
            return f"{peer.host or 'the address'} is not in a network that may serve it"
        if self.names is not None and not self.names & peer.names:
            return "no name of the server's certificate is one of those that may serve it"
        if self.tokens is not None and not _is_among(token or b"", self.tokens):
            return "the token is missing or not one of those that may serve it"
        return None


def _is_among(token: bytes, tokens: tuple[bytes, ...]) -> bool:
    # All are compared, each in the same time, so that the time tells nothing about them.
    return sum(hmac.compare_digest(token, each) for each in tokens) > 0


@frozen
class ClientRule:
    """Who may ask for a policy. What is None isn't asked for; all else must hold."""

    networks: tuple[Network, ...] | None = None
    #: Whether a certificate is asked for, whatever its names.
    certificate: bool = False
    names: frozenset[str] | None = None

    @property
    def asks_nothing(self) -> bool:
        """Whether everybody may."""
        return self.networks is None and self.names is None and not self.certificate

    def refusal(self, peer: Peer) -> str | None:
        """Why this client may not ask for the policy, None if it may."""
        if self.networks is not None and not peer.is_in(self.networks):
            return f"{peer.host or 'the address'} is not in a network that may ask for it"
        if self.certificate and not peer.names:
            return "whoever asks for it must show a certificate with a name"
        if self.names is not None and not self.names & peer.names:
            return "no name of the client's certificate is one of those that may ask for it"
        return None


@frozen
class Policy:
    """One policy, as the file describes it. A limit that is None is the proxy's own."""

    description: str = ""
    servers: ServerRule = ServerRule()
    clients: ClientRule = ClientRule()
    #: Seconds from a packet to its answer, and of its wait for a server.
    timeout: float | None = None
    queue_timeout: float | None = None
    #: Packets that wait for a server, and packets that have no answer yet.
    queue_packets: int | None = None
    in_flight: int | None = None
    #: Packets a second.
    rate: float | None = None
    #: Whether a packet may be given to another server after one may have had it.
    retry: bool = False
    #: Whether its servers are connected to by TLS; None as all others are.
    upstream_tls: bool | None = None


@frozen
class Policies:
    """All that is allowed.

    :param register_from: the networks that setup packets are taken from at all.
    :param by_name: the policies that exist; None if every policy does.
    :param anonymous: what holds for each policy where none is described.
    """

    register_from: tuple[Network, ...] = PRIVATE
    #: Whether servers are connected to by TLS where their policy says nothing of it.
    upstream_tls: bool = False
    by_name: Mapping[str, Policy] | None = field(default=None)
    anonymous: Mapping[str, Policy] = field(factory=dict)

    def get(self, name: str) -> Policy | None:
        """The policy of that name; None if there is none."""
        if self.by_name is not None:
            return self.by_name.get(name)
        return self.anonymous.get(name, _ANYTHING)

    def uses_tls(self, name: str) -> bool:
        """Whether the servers of this policy are connected to by TLS."""
        policy = self.get(name)
        own = None if policy is None else policy.upstream_tls
        return self.upstream_tls if own is None else own

    def refuses_server(self, name: str, server_id: str, peer: Peer, token: bytes | None = None) -> str | None:
        """Why such a server may not serve this policy, None if it may; see :meth:`ServerRule.refusal`."""
        if not peer.is_in(self.register_from):
            return f"setup packets are not taken from {peer.host or 'a peer without an address'}"
        policy = self.get(name)
        if policy is None:
            return f"there is no policy {name}"
        return policy.servers.refusal(server_id, peer, token)

    def refuses_client(self, name: str, peer: Peer) -> str | None:
        """Why this client may not ask for this policy, None if it may.

        Anybody may ask for a policy that doesn't exist: there is nobody to get the packet.
        """
        policy = self.get(name)
        return None if policy is None else policy.clients.refusal(peer)

    @property
    def ask_something_of_clients(self) -> bool:
        """Whether there is a policy that not everybody may ask for."""
        return any(not policy.clients.asks_nothing for policy in (self.by_name or {}).values())


_ANYTHING = Policy()
#: What is allowed where nothing was said.
EVERYTHING = Policies()


def digest(token: str | None) -> bytes | None:
    """What is kept of a token: enough to compare it, and nothing that could be used elsewhere."""
    return None if token is None else hashlib.sha256(token.encode()).digest()
