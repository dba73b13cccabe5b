"""The side of the proxy that clients and registering servers see: packets in, ordered answers out.

A connection's packets stand in one queue in the order in which they came; answers are written from its head, so they
leave in that order whenever they arrive (docs/protocol.rst, promise 4). A connection that has too much unanswered, or
doesn't read its answers, isn't read from until that changes (promise 8).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from itertools import takewhile
from typing import Protocol as Interface
from typing import cast

from msgspec import UNSET
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Server as Transport
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy import packets
from rproxy.addresses import ClientAddress
from rproxy.admission import Admission
from rproxy.figures.counters import Counters
from rproxy.framing import Framer, StreamError
from rproxy.hostports import format_address
from rproxy.limits import Limits
from rproxy.lingering import shut_writing
from rproxy.logs.packets import ProxyLog
from rproxy.logs.quiet import QuietLog
from rproxy.packets import Data, PacketError, Setup
from rproxy.policies import Peer, Policies
from rproxy.registry import Registry
from rproxy.registry.registration import Registration
from rproxy.request import Asker, Endings, Refusal, Request
from rproxy.tls.peers import peer_names

#: Policies that a connection remembers it may ask for; what is beyond that is looked up for each packet.
ALLOWED = 100


class Connection(Hashable, Interface):
    """What the factory asks of a connection that it counts."""

    @property
    def may_be_client(self) -> bool:
        """Whether it counts as a client."""

    @property
    def in_flight(self) -> int:
        """Packets received and not yet answered."""

    @property
    def pending(self) -> Collection[Request]:
        """These."""

    def close_if_idle(self, now: float) -> None:
        """Close it if its peer has taken too long over something."""

    def close(self) -> None:
        """Close it when what was written is sent."""

    def abort(self) -> None:
        """Drop it."""


class Hub(Interface):
    """What a connection knows of the proxy that it belongs to."""

    limits: Limits
    clock: IReactorTime
    seconds: Callable[[], float]
    counters: Counters
    registry: Registry
    admission: Admission
    policies: Policies
    #: Whether there is a policy that not everybody may ask for.
    asks_clients: bool
    log: ProxyLog | None
    #: Who records what becomes of packets.
    endings: Sequence[Endings]
    #: Says why a connection was refused.
    log_refusal: QuietLog
    #: Where packets go.
    submit: Callable[[Request], None]
    #: Calls something when other processes can know what has happened here until now.
    when_told: Callable[[Callable[[], object]], None]

    def opened(self, client: Connection) -> None:
        """A connection was made."""

    def closed(self, client: Connection, *, is_client: bool) -> None:
        """A connection was lost."""

    def count_client(self, by: int) -> None:
        """So many clients more."""

    def deliver_soon(self, client: Asker) -> None:
        """Have the connection's answers delivered in a turn of their own."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class ProxyProtocol(Protocol):
    """One connection of a client, of a registering server, or of both.

    :param address: what it counts for.
    """

    def __init__(self, factory: Hub, address: ClientAddress) -> None:
        self._factory = factory
        self._address = address
        self._limits = factory.limits
        self._counters = factory.counters
        self._endings = factory.endings
        self._framer = Framer(packets.peek_data, factory.limits.max_packet, packets.peek_many_data)
        #: What has no answer yet, or one that must wait for those before it.
        self._pending: deque[Request] = deque()
        self._pending_bytes = 0
        #: Since when no packet came, in the clock's seconds, as far as :meth:`close_if_idle` has looked.
        self._silent_since = factory.seconds()

    # What follows differs for few connections, and costs the others nothing here.

    #: A whole packet came since :meth:`close_if_idle` looked.
    _heard = True
    #: Since when a packet is unfinished, likewise.
    _unfinished_since: float | None = None
    #: The peer doesn't read its answers.
    _blocked = False
    #: Packets are left unread for want of room, and the transport isn't read from.
    _held = False
    #: Packets are being read; answers wait until that is done.
    _working = False
    #: No packet will come any more, because the peer shut its writing side or because it broke its stream.
    _over = False
    _shut = False
    _distrusted = False
    #: The last answer is written.
    _finished = False
    _lingering: IDelayedCall | None = None
    _holds_lease = False
    #: See :meth:`_find_shown`.
    _shown = ""
    #: See :meth:`_peer`.
    _known: Peer | None = None
    #: There were too many of its address.
    _turned_away = False
    #: What it has found to be allowed to ask for; None where there is nothing that not everybody may.
    _allowed: set[str] | None = None
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
        else:
            self._work()

    def writeConnectionLost(self) -> None:
        """Our writing side is shut, after everything was sent: see :mod:`rproxy.lingering`."""
        self._lingering = self._factory.clock.callLater(self._limits.linger, self.abort)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        if self._pending:
            self._counters.client_gone += len(self._pending)
            for endings in self._endings:
                endings.gone(self._pending, self._find_shown())
        for request in self._pending:
            if request.tally is not None:
                request.tally.client_gone += 1
            request.abandon()
        self._pending.clear()
        self._held = False
        address = self._address
        address.bytes -= self._pending_bytes
        address.waiting.pop(self, None)
        if self._turned_away:
            address.refused -= 1
        elif self._holds_lease:
            address.leases -= 1
        else:
            address.connections -= 1
        self._factory.closed(self, is_client=self.may_be_client and not self._holds_lease)

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

    @property
    def in_flight(self) -> int:
        """Packets received and not yet answered."""
        return len(self._pending)

    @property
    def pending(self) -> Collection[Request]:
        """These."""
        return self._pending

    def deliver(self) -> None:
        """See :class:`rproxy.request.Asker`."""
        if not self._working:
            if self._pending and self._pending[0].reply is not None:
                self._write_answers()
            if self._held:
                self._work()

    def deliver_soon(self) -> None:
        """See :class:`rproxy.request.Asker`."""
        if not self._working:
            self._factory.deliver_soon(self)

    def _work(self) -> None:
        """Read packets while there is room, write the answers that are there, until neither makes way for the other."""
        pending = self._pending
        self._working = True
        while True:
            left = self._read_packets()
            if not pending or pending[0].reply is None:
                break
            self._write_answers()
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
        submit = self._factory.submit if self.takes_data else _refuse_data
        allowed = self._allowed
        log = self._factory.log
        deadline = self._factory.seconds() + self._limits.timeout
        size = 0
        before = len(pending)
        try:
            for raw, usual in frames:
                data = usual or self._look_closer(raw)
                if data is None or (data.payloadsize is not UNSET and self._refuse_wrong_size(raw, data)):
                    continue
                if log is not None:
                    log.received(data)
                if allowed is not None and data.policy not in allowed and self._refuse_forbidden(raw, data):
                    continue
                request = Request(raw, data.policy, data.srcid, deadline, self)
                pending.append(request)
                size += len(raw)
                submit(request)
        finally:
            # Nothing leaves the queue meanwhile, so this is what came.
            counters = self._counters
            counters.received += len(pending) - before
            counters.bytes_received += size
            self._pending_bytes += size
            self._address.bytes += size
            if self._limits.rate_limit:
                self._address.bucket.tokens -= len(frames)

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

    def _refuse(self, raw: bytes, client_id: str, code: str, text: str, policy: str = "") -> None:
        """Answer something that was taken and goes to no server, in its place among the answers.

        :param policy: the one it asked for; ``""`` if it was no data packet.
        """
        request = Request(raw, policy, client_id, 0.0, self)
        if policy:
            request.unserved = self._counters.tallies.unserved(policy)
        self._pending.append(request)
        self._pending_bytes += len(raw)
        self._address.bytes += len(raw)
        request.refuse(code, "no", text)

    def _refuse_stream(self, code: str, text: str) -> None:
        """Answer what can't be taken, and will be the last."""
        self._counters.received += 1
        self._refuse(b"", "", code, text)

    def _write_answers(self) -> None:
        """Write what is answered at the head of the queue, in one go."""
        pending = self._pending
        counters = self._counters
        replies: list[bytes] = []
        for endings in self._endings:
            endings.ended(takewhile(_is_answered, pending), self._find_shown())
        size = errors = 0
        now = self._factory.seconds()
        since = seconds = 0.0
        for request in pending:
            reply = request.reply
            if reply is None:
                break
            size += len(request.raw)
            replies.append(reply)
            # Faster than isinstance(), which looks further where it isn't one.
            if type(reply) is Refusal:
                counters.refused[reply.code] += 1
                if request.tally is not None:
                    request.tally.refused[reply.code] += 1
                errors += 1
                continue
            server = request.server
            assert server is not None
            if request.deadline != since:
                # Those that were read together have the same.
                since = request.deadline
                seconds = now - since + server.tally.policy.timeout
            server.noted.append(seconds)
        if len(replies) == len(pending):
            pending.clear()
        else:
            for _ in replies:
                pending.popleft()
        answers = b"".join(replies)
        self._pending_bytes -= size
        self._address.bytes -= size
        counters.acked += len(replies) - errors
        counters.bytes_sent += len(answers)
        self._transport.write(answers)
        if self._over and not (self._working or self._held or pending):
            self._finish()

    def _finish(self) -> None:
        """The last answer is written: close, and where the peer may still be sending, linger."""
        if self._finished:
            return
        self._finished = True
        self._transport.unregisterProducer()
        if self._shut:
            self._transport.loseConnection()
        else:
            shut_writing(self._transport)

    def _find_shown(self) -> str:
        """Where the client is, for the records; not before something came, as it may have come through others."""
        if not self._shown:
            peer = self._transport.getPeer()
            host = getattr(peer, "host", None)
            self._shown = "unix" if host is None else format_address(host.removeprefix("::ffff:"), peer.port)
        return self._shown

    # Registration.

    def _register(self, setup: Setup) -> None:
        admission = self._factory.admission
        answer: bytes | None
        if self.takes_setup:
            answer = admission.admit(setup, self._peer, self)
            self.lease_changed()
        else:
            text = "servers register elsewhere: setup packets aren't taken here"
            answer = admission.refuse(setup.policy, setup.id, self._peer, "forbidden", text)
        if answer is not None:
            # Whoever reads that it is registered may send a packet by way of another proxy at once.
            self._factory.when_told(partial(self._transport.write, answer))

    def conflicted(self, registration: Registration) -> None:
        """What this connection holds a lease on was another host's before, as another process says."""
        policy, server_id = registration.key
        text = f"another host holds server {server_id} of policy {policy}"
        answer = self._factory.admission.refuse(policy, server_id, registration.peer, "conflict", text)
        self._transport.write(answer)
        self.lease_changed()

    def lease_changed(self) -> None:
        """A lease on this connection began or ran out: a server's connection is no client's, and may be silent."""
        holds = self._factory.registry.is_owner(self)
        if holds is not self._holds_lease:
            self._holds_lease = holds
            # A server whose machine vanished would be waited for without end, once its lease is another connection's.
            self._transport.setTcpKeepAlive(holds)
            change = -1 if holds else 1
            self._address.connections += change
            self._address.leases -= change
            if self.may_be_client:
                self._factory.count_client(change)

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
        if self._heard or self._pending or self._holds_lease or unfinished or self in self._address.waiting:
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

    def close(self) -> None:
        """Close the connection when what was written is sent."""
        # A transport may bring more while it closes, as TLS does, and could send no answer to it.
        self._over = self._distrusted = self._shut = True
        self._finish()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abortConnection()


class ClientProtocol(ProxyProtocol):
    """One connection of a client, where servers register elsewhere."""

    takes_setup = False


class ServerProtocol(ProxyProtocol):
    """One connection of a registering server, where clients come in elsewhere."""

    takes_data = False
    may_be_client = False


def _refuse_data(request: Request) -> None:
    request.refuse("forbidden", "no", "servers register here: data packets aren't taken")


def _is_answered(request: Request) -> bool:
    return request.reply is not None
