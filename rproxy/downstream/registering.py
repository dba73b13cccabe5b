"""What servers register by: a connection that setup packets came over."""

from __future__ import annotations

from functools import partial

from twisted.internet.tcp import Server as Transport

from rproxy.addresses import ClientAddress
from rproxy.downstream.hub import Hub
from rproxy.packets import Setup
from rproxy.policies import Peer
from rproxy.registry.registration import Registration


class Registrant:
    """The owner of the leases that hang on one connection.

    :param peer: who registers.
    :param address: what the connection counts for.
    :param is_client: whether the connection counts as a client while it holds no lease.
    """

    def __init__(self, hub: Hub, transport: Transport, peer: Peer, address: ClientAddress, is_client: bool) -> None:
        self._hub = hub
        self._transport = transport
        self._peer = peer
        self._address = address
        self._is_client = is_client
        self.holds_lease = False

    def register(self, setup: Setup) -> None:
        """Take a setup packet."""
        answer = self._hub.admission.admit(setup, self._peer, self)
        self.lease_changed()
        if answer is not None:
            # Whoever reads that it is registered may send a packet by way of another proxy at once.
            self._hub.when_told(partial(self._transport.write, answer))

    def conflicted(self, registration: Registration) -> None:
        """What this connection holds a lease on was another host's before, as another process says."""
        policy, server_id = registration.key
        text = f"another host holds server {server_id} of policy {policy}"
        answer = self._hub.admission.refuse(policy, server_id, registration.peer, "conflict", text)
        self._transport.write(answer)
        self.lease_changed()

    def lease_changed(self) -> None:
        """A lease on this connection began or ran out: a server's connection is no client's, and may be silent."""
        holds = self._hub.registry.is_owner(self)
        if holds is not self.holds_lease:
            self.holds_lease = holds
            # A server whose machine vanished would be waited for without end, once its lease is another connection's.
            self._transport.setTcpKeepAlive(holds)
            change = -1 if holds else 1
            self._address.connections += change
            self._address.leases -= change
            if self._is_client:
                self._hub.count_client(change)

    def gone(self) -> None:
        """The connection is lost, and its leases with it."""
        self._hub.registry.release(self)
