"""The connection that a registration lives by: setup packets out, an acknowledgement of each in.

The setup packet is sent when the connection is made, and again every third of the lease (docs/reference/protocol.rst,
Modern servers), so that two renewals may be late before the registration ends. When nothing is acknowledged for as long
as the lease, the connection is given up.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol as Interface
from typing import cast

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Client
from twisted.python.failure import Failure

from rproxy import packets
from rproxy.framing import Framer, StreamError
from rproxy.packets import Ack, Error, PacketError
from rproxy.tls.files import TLSError

#: How long a registration outlives its last renewal, in seconds, unless told otherwise.
DEFAULT_LEASE = 15.0
#: How long a proxy may take to answer the first setup packet of a connection, in seconds.
ANSWER_TIMEOUT = 5.0
#: How long a proxy may take to acknowledge a drain, in seconds.
DRAIN_TIMEOUT = 5.0
#: The longest answer to a setup packet, in bytes.
MAX_ANSWER = 1 << 16


@frozen(kw_only=True)
class Offer:
    """What a server declares to a proxy: see the tables in docs/reference/protocol.rst. ``lease`` is in seconds."""

    server_id: str
    policy: str
    port: int
    pipeline: int
    connections: int = 1
    lease: float = DEFAULT_LEASE
    weight: int = 1
    token: str | None = None

    def packet(self, *, drain: bool = False) -> bytes:
        """Return the setup packet."""
        return packets.setup(
            self.server_id,
            self.policy,
            self.port,
            pipeline=self.pipeline,
            connections=self.connections,
            lease=self.lease,
            weight=self.weight,
            drain=drain,
            token=self.token,
        )


class Owner(Interface):
    """Who wants the registration."""

    def connected(self, connection: SetupProtocol) -> None:
        """A connection was made."""

    def registered(self) -> None:
        """Its first setup packet was acknowledged."""

    def renewed(self) -> None:
        """A later one was."""

    def refused(self, code: str, text: str) -> None:
        """The proxy answered with an error, or with nothing that makes sense; the connection is being closed."""

    def broken(self, reason: Failure) -> None:
        """The connection broke before the first setup packet was answered."""

    def unanswered(self) -> None:
        """The proxy said nothing to the first setup packet, and kept the connection, which is being closed."""

    def lapsed(self) -> None:
        """No renewal was acknowledged within the lease; the connection is being closed."""

    def lost(self, *, silent: bool) -> None:
        """The connection is gone; ``silent`` if the proxy closed it, or kept it, without a word."""


class SetupProtocol(Protocol):
    """One connection to a proxy."""

    def __init__(self, offer: Offer, owner: Owner, clock: IReactorTime) -> None:
        self._offer = offer
        self._owner = owner
        self._clock = clock
        self._framer = Framer(packets.peek_ack, MAX_ANSWER)
        #: For each setup packet without an answer, who waits for it.
        self._unanswered: deque[Deferred[bool] | None] = deque()
        #: Whether the proxy has acknowledged anything on this connection.
        self.registered = False
        self._draining = False
        self._closing = False
        self._silent = False
        self._renewal: IDelayedCall | None = None
        self._overdue: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._transport = cast(Client, self.transport)
        # Between renewals too, a proxy whose machine vanished should be missed.
        self._transport.setTcpKeepAlive(True)
        self._owner.connected(self)
        self._send()
        self._expect(ANSWER_TIMEOUT)

    def drain(self) -> Deferred[bool]:
        """Ask for no more packets; fires, within :data:`DRAIN_TIMEOUT`, with whether that was acknowledged."""
        self._draining = True
        acknowledged: Deferred[bool] = Deferred()
        self._send(acknowledged)
        return acknowledged.addTimeout(DRAIN_TIMEOUT, self._clock, onTimeoutCancel=lambda *_: False)

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        self._framer.feed(data)
        try:
            while (frame := self._framer.next()) is not None:
                self._take(frame[1] or packets.decode(frame[0]))
        except (StreamError, PacketError) as error:
            self._refuse("bad-packet", str(error))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timers()
        if not (self.registered or self._closing):
            self._end_unregistered(reason)
        self._owner.lost(silent=self._silent)
        for waiting in self._unanswered:
            _tell(waiting, False)
        self._unanswered.clear()

    def _end_unregistered(self, reason: Failure) -> None:
        if reason.check(ConnectionDone):
            self._silent = True
        elif isinstance(reason.value, TLSError):
            # It doesn't take this server's certificate: with TLS 1.3 that comes only when the connection is made.
            self._owner.refused("forbidden", str(reason.value))
        else:
            self._owner.broken(reason)

    def _send(self, waiting: Deferred[bool] | None = None) -> None:
        self._unanswered.append(waiting)
        self._transport.write(self._offer.packet(drain=self._draining))

    def _take(self, packet: packets.Packet) -> None:
        """Take an answer to the oldest setup packet that has none.

        :raises PacketError: it is no such answer.
        """
        if self._closing:
            return
        if isinstance(packet, Error):
            self._refuse(packet.error, packet.payload)
            return
        if not isinstance(packet, Ack) or packet.destid != self._offer.server_id or not self._unanswered:
            raise PacketError("the proxy's answer acknowledges no setup packet of ours")
        self._stop_overdue()
        waiting = self._unanswered.popleft()
        if self._unanswered:
            self._expect(self._offer.lease)
        if self.registered:
            self._owner.renewed()
        else:
            self.registered = True
            self._owner.registered()
            self._renew_later()
        _tell(waiting, True)

    def _renew_later(self) -> None:
        self._renewal = self._clock.callLater(self._offer.lease / 3, self._renew)

    def _renew(self) -> None:
        self._send()
        if self._overdue is None:
            self._expect(self._offer.lease)
        self._renew_later()

    def _expect(self, seconds: float) -> None:
        """Give the connection up unless something is acknowledged within so many seconds."""
        self._overdue = self._clock.callLater(seconds, self._give_up)

    def _give_up(self) -> None:
        self._overdue = None
        if self.registered:
            self._owner.lapsed()
        else:
            self._silent = True
            self._owner.unanswered()
        self._close()

    def _refuse(self, code: str, text: str) -> None:
        self._owner.refused(code, text)
        self._close()

    def _close(self) -> None:
        self._closing = True
        self._stop_timers()
        # In an orderly way: a reset could take the setup packet back from an old proxy that hasn't read it yet.
        self._transport.loseConnection()

    def _stop_timers(self) -> None:
        self._stop_overdue()
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _stop_overdue(self) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None


def _tell(waiting: Deferred[bool] | None, acknowledged: bool) -> None:
    """Tell who waits, unless nobody does (any more)."""
    if waiting is not None and not waiting.called:
        waiting.callback(acknowledged)
