"""The side of the proxy that clients and registering servers see: packets in, ordered answers out.

A connection that has too much unanswered, or doesn't read its answers, isn't read from until that changes
(docs/reference/protocol.rst, promise 8).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from msgspec import UNSET
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.internet.tcp import Server as Transport
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy import packets
from rproxy.addresses import ClientAddress
from rproxy.downstream.answering import AnsweringProtocol
from rproxy.downstream.hub import Hub
from rproxy.downstream.registering import Registrant
from rproxy.framing import Framer, StreamError
from rproxy.packets import Data, PacketError, Setup
from rproxy.policies import Peer
from rproxy.request import Request
from rproxy.tls.peers import peer_names

#: Policies that a connection remembers it may ask for; what is beyond that is looked up for each packet.
ALLOWED = 100


@implementer(IHalfCloseableProtocol, IPushProducer)
class ProxyProtocol(AnsweringProtocol):
    """One connection of a client, of a registering server, or of both.

    :param address: what it counts for.
    """

    def __init__(self, factory: Hub, address: ClientAddress) -> None:
        super().__init__(factory, address)
        self._framer = Framer(packets.peek_data, factory.limits.max_packet, packets.peek_many_data)
        #: The peer doesn't read its answers.
        self._blocked = False
        #: What it has found to be allowed to ask for; None where there is nothing that not everybody may.
        self._allowed: set[str] | None = None

    # What follows differs for few connections, and costs the others nothing here.

    #: A whole packet came since :meth:`close_if_idle` looked; and since when none did, in the clock's seconds.
    _heard = True
    _silent_since = 0.0
    #: Since when a packet is unfinished, likewise.
    _unfinished_since: float | None = None
    #: Who servers register as, once one did.
    _registrant: Registrant | None = None
    #: See :meth:`_peer`.
    _known: Peer | None = None
    #: There were too many of its address.
    _turned_away = False
    #: What kind of packets it takes, and whether it counts as a client: a listener may be for servers only.
    takes_data = True
    takes_setup = True
    may_be_client = True

    # From the transport.

    def connectionMade(self) -> None:
        self._transport = cast(Transport, self.transport)
        self._transport.registerProducer(self, True)
        self._factory.opened(self)
        if self._factory.asks_clients:
            self.policies_changed()
        self._address.connections += 1
        most = self._limits.max_clients_per_address if self.may_be_client else self._limits.registrations_per_host
        if most and self._address.connections > most:
            self._turn_away(most)

    def _turn_away(self, most: int) -> None:
        """Refuse the connection. As many as may be here are told so at a time; further ones are dropped."""
        self._over = self._distrusted = self._turned_away = True
        self._address.connections -= 1
        self._address.refused += 1
        self._factory.log_refusal(
            "Refused a connection from {host}: {why}",
            event="connection-refused",
            host=self._find_peer().host,
            why=f"there are {most} from there",
        )
        if self._address.refused > most:
            self.abort()
        else:
            self._refuse_stream("overloaded", f"there may be {most} connections from one address")
            self._work()

    def dataReceived(self, data: bytes) -> None:
        if self._distrusted:
            return
        self._framer.feed(data)
        self._work()

    def readConnectionLost(self) -> None:
        """The peer will send nothing more, and still reads its answers (promise 9)."""
        self._over = self._shut = True
        if self._framer.in_packet and not self._distrusted:
            self._refuse_stream("bad-packet", "the stream ended inside a packet")
        if self._finished:
            self._transport.loseConnection()
        elif self._pending or self._held or self._blocked or self._framer.unread:
            self._work()
        else:
            # As most clients do that have the answer to their one packet.
            self._finish()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._abandon_pending()
        address = self._address
        address.waiting.pop(self, None)
        registrant = self._registrant
        holds_lease = registrant is not None and registrant.holds_lease
        if self._turned_away:
            address.refused -= 1
        elif holds_lease:
            address.leases -= 1
        else:
            address.connections -= 1
        if registrant is not None:
            registrant.gone()
        self._factory.closed(self, is_client=self.may_be_client and not holds_lease)

    def pauseProducing(self) -> None:
        """The peer reads slower than is sent: read no more from it."""
        self._blocked = True

    def resumeProducing(self) -> None:
        """What was written is sent."""
        self._blocked = False
        if self._held:
            self._work()

    def stopProducing(self) -> None:
        """The connection is lost: see :meth:`connectionLost`."""

    # The way of a packet.

    def _work(self) -> None:
        pending = self._pending
        self._working = True
        while True:
            left = self._read_packets()
            if not pending or pending[0].reply is None:
                break
            self._write_answers(self._factory.seconds())
            if not left:
                break
        self._working = False
        if self._over and not (self._held or pending):
            self._finish()

    def _read_packets(self) -> bool:
        """Take packets in, and answer whether some had to be left for want of room."""
        if self._distrusted:
            return False
        pending, limits, framer, address = self._pending, self._limits, self._framer, self._address
        while not self._blocked and (room := limits.client_packets - len(pending)) > 0:
            if self._pending_bytes >= limits.client_bytes:
                break
            crowded = address.waiting or limits.rate_limit or (limits.max_bytes_per_address and address.is_full)
            if crowded and framer.unread:
                room = min(room, address.ask(self, self._factory.seconds()))
                if room < 1:
                    break
            try:
                frames = framer.take(room)
                self._take(frames)
                if framer.error is not None and len(frames) < room:
                    raise framer.error
            except StreamError as error:
                self._over = self._distrusted = True
                self._refuse_stream(error.code, str(error))
            if self._distrusted or len(frames) < room:
                if self._held:
                    self._hold(False)
                return False
        self._hold(True)
        return True

    def _hold(self, hold: bool) -> None:
        if hold is not self._held:
            self._held = hold
            if hold:
                self._transport.pauseProducing()
            elif not self._shut:
                self._transport.resumeProducing()

    def _take(self, frames: list[tuple[bytes, Data | None]]) -> None:
        if not frames:
            return
        self._heard = True
        pending = self._pending
        submit = self._factory.gate.submit if self.takes_data else _refuse_data
        allowed = self._allowed
        log = self._factory.log
        deadline = self._factory.seconds() + self._limits.timeout
        size = 0
        before = len(pending)
        taken: list[Request] = []
        try:
            for raw, usual in frames:
                data = usual
                if data is None:
                    # It may be a setup packet, which is none for the packets before it.
                    submit(taken)
                    taken = []
                    data = self._look_closer(raw)
                    if data is None:
                        continue
                if data.payloadsize is not UNSET and self._refuse_wrong_size(raw, data):
                    continue
                if log is not None:
                    log.received(data)
                if allowed is not None and data.policy not in allowed and self._refuse_forbidden(raw, data):
                    continue
                request = Request(raw, data.policy, data.srcid, deadline, self)
                pending.append(request)
                taken.append(request)
                size += len(raw)
        finally:
            # Nothing leaves the queue meanwhile, so this is what came.
            counters = self._counters
            counters.received += len(pending) - before
            counters.bytes_received += size
            self._pending_bytes += size
            self._address.bytes += size
            if self._limits.rate_limit:
                self._address.bucket.tokens -= len(frames)
        submit(taken)

    def _look_closer(self, raw: bytes) -> Data | None:
        """A data packet of a form that few have; None if it is another packet or none, which is dealt with here.

        :raises StreamError: it isn't JSON.
        """
        try:
            packet = packets.decode(raw)
        except PacketError as error:
            self._refuse(raw, error.destid, "bad-packet", str(error))
            return None
        if isinstance(packet, Data):
            return packet
        if isinstance(packet, Setup):
            self._register(packet)
        else:
            self._refuse(raw, packet.srcid, "bad-packet", "only data and setup packets are for the proxy")
        return None

    def _refuse_forbidden(self, raw: bytes, data: Data) -> bool:
        text = self._factory.policies.refuses_client(data.policy, self._peer)
        if text is None:
            assert self._allowed is not None
            if len(self._allowed) < ALLOWED:
                self._allowed.add(data.policy)
            return False
        self._refuse(raw, data.srcid, "forbidden", f"policy {data.policy}: {text}", data.policy)
        return True

    def policies_changed(self) -> None:
        """What was found out about who may ask for what is to be found out anew."""
        self._allowed = set() if self._factory.asks_clients else None

    @property
    def _peer(self) -> Peer:
        """Who it is; not before something came, as a certificate may come first."""
        if self._known is None:
            self._known = self._find_peer()
        return self._known

    def _find_peer(self) -> Peer:
        host = getattr(self._transport.getPeer(), "host", "")
        return Peer(host.removeprefix("::ffff:"), frozenset(peer_names(self._transport)))

    def _refuse_wrong_size(self, raw: bytes, data: Data) -> bool:
        if not packets.size_is_wrong(data):
            return False
        if self._limits.strict:
            text = "payloadsize is not the number of the payload's characters"
            self._refuse(raw, data.srcid, "bad-packet", text, data.policy)
            return True
        self._counters.wrong_size += 1
        return False

    def _register(self, setup: Setup) -> None:
        if not self.takes_setup:
            text = "servers register elsewhere: setup packets aren't taken here"
            admission = self._factory.admission
            self._transport.write(admission.refuse(setup.policy, setup.id, self._peer, "forbidden", text))
            return
        if self._registrant is None:
            self._registrant = Registrant(
                self._factory, self._transport, self._peer, self._address, is_client=self.may_be_client
            )
        self._registrant.register(setup)

    def close_if_idle(self, now: float) -> None:
        """Close a connection that brought no packet for ``idle_timeout``, unless an answer or a lease keeps it.

        A packet that was begun has ``packet_timeout`` instead, whatever else keeps the connection. Only packets count:
        one byte now and then, be it of a packet or between two, doesn't. What was closed before and is still there has
        a peer that doesn't read its last answer: it is dropped.
        """
        unfinished = self._framer.in_packet and not (self._over or self._finished)
        if not unfinished or self._held:
            self._unfinished_since = None
        elif self._heard or self._unfinished_since is None:
            self._unfinished_since = now
        elif now - self._unfinished_since >= self._limits.packet_timeout:
            self._give_up()
        holds_lease = self._registrant is not None and self._registrant.holds_lease
        if self._heard or self._pending or holds_lease or unfinished or self in self._address.waiting:
            self._heard = False
            self._silent_since = now
        elif now - self._silent_since < self._limits.idle_timeout:
            return
        elif self._finished:
            self.abort()
        else:
            self.close()

    def _give_up(self) -> None:
        """Wait no longer for the end of the packet that is being sent."""
        self._over = self._distrusted = True
        self._refuse_stream("bad-packet", f"the packet was not finished within {self._limits.packet_timeout:g} seconds")
        self._work()


class ClientProtocol(ProxyProtocol):
    """One connection of a client, where servers register elsewhere."""

    takes_setup = False


class ServerProtocol(ProxyProtocol):
    """One connection of a registering server, where clients come in elsewhere."""

    takes_data = False
    may_be_client = False


def _refuse_data(requests: Iterable[Request]) -> None:
    for request in requests:
        request.refuse("forbidden", "no", "servers register here: data packets aren't taken")
