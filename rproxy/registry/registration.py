"""A registration: what one setup packet said, and where it came from."""

from __future__ import annotations

from attrs import field, frozen

from rproxy.limits import CLASSIC_CONNECTIONS
from rproxy.packets import Setup
from rproxy.policies import Peer, digest

Key = tuple[str, str]
Address = tuple[str, int]


@frozen
class Registration:
    """What one setup packet said, and where it came from."""

    policy: str
    server_id: str
    host: str
    port: int
    #: Packets in flight on each connection; None for a classic server, which gets one packet a connection.
    pipeline: int | None = None
    connections: int = CLASSIC_CONNECTIONS
    weight: int = 1
    draining: bool = False
    #: Seconds; None for a registration that stands until it is replaced or revoked.
    lease: float | None = None
    #: The names in the certificate that the server showed.
    names: frozenset[str] = frozenset()
    #: What :func:`rproxy.policies.digest` made of its token. Not for logs: a bad token can be guessed by it.
    token: bytes | None = field(default=None, repr=False)
    #: Which registration this is, counted from 1 since the proxy's start; 0 until it stands.
    number: int = 0

    @property
    def key(self) -> Key:
        """What a second setup packet replaces."""
        return self.policy, self.server_id

    @property
    def address(self) -> Address:
        """Where the server listens."""
        return self.host, self.port

    @property
    def peer(self) -> Peer:
        """Who sent the setup packet."""
        return Peer(self.host, self.names)


def read(setup: Setup, peer: Peer) -> Registration:
    """What a setup packet says, with what stands for what it leaves out.

    :param peer: who sent it; the server listens at its host.
    """
    connections = setup.connections or (1 if setup.pipeline else CLASSIC_CONNECTIONS)
    return Registration(
        policy=setup.policy,
        server_id=setup.id,
        host=peer.host,
        port=setup.listenport,
        pipeline=setup.pipeline,
        connections=connections if setup.pipeline else min(connections, CLASSIC_CONNECTIONS),
        weight=setup.weight,
        draining=setup.drain,
        lease=setup.lease,
        names=peer.names,
        token=digest(setup.token),
    )
