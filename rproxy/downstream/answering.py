"""Ordered answers out: the queue of a connection's packets, from its head to the last answer.

Packets stand in it in the order in which they came; answers are written from its head, so they leave in that order
whenever they arrive (docs/reference/protocol.rst, promise 4).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Collection
from itertools import takewhile

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Server as Transport

from rproxy.addresses import ClientAddress
from rproxy.downstream.hub import Hub
from rproxy.hostports import format_address
from rproxy.lingering import shut_writing
from rproxy.request import Refusal, Request


class AnsweringProtocol(Protocol):
    """A connection that owes answers, and closes behind the last one.

    :param address: what it counts for.
    """

    _transport: Transport

    def __init__(self, factory: Hub, address: ClientAddress) -> None:
        self._factory = factory
        self._address = address
        self._limits = factory.limits
        self._counters = factory.counters
        self._endings = factory.endings
        #: What has no answer yet, or one that must wait for those before it.
        self._pending: deque[Request] = deque()
        self._pending_bytes = 0
        # Not beside those below: an object's own attributes are read faster than its class's, and each packet asks.
        #: Packets are left unread for want of room, and the transport isn't read from.
        self._held = False
        #: Packets are being read; answers wait until that is done.
        self._working = False
        #: No packet will come any more, because the peer shut its writing side or because it broke its stream.
        self._over = False
        self._distrusted = False

    # What follows differs for few connections, and costs the others nothing here.

    #: The peer shut its writing side.
    _shut = False
    #: The last answer is written.
    _finished = False
    _lingering: IDelayedCall | None = None
    #: See :meth:`_find_shown`.
    _shown = ""

    @abstractmethod
    def _work(self) -> None:
        """Read packets while there is room, write the answers that are there, until neither makes way for the other."""

    @property
    def in_flight(self) -> int:
        """Packets received and not yet answered."""
        return len(self._pending)

    @property
    def pending(self) -> Collection[Request]:
        """These."""
        return self._pending

    def deliver(self, now: float) -> None:
        """See :class:`rproxy.request.Asker`."""
        if not self._working:
            if self._pending and self._pending[0].reply is not None:
                self._write_answers(now)
            if self._held:
                self._work()

    def deliver_soon(self) -> None:
        """See :class:`rproxy.request.Asker`."""
        if not self._working:
            self._factory.deliver_soon(self)

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

    def _write_answers(self, now: float) -> None:
        """Write what is answered at the head of the queue, in one go; it is ``now`` by the clock."""
        pending = self._pending
        counters = self._counters
        replies: list[bytes] = []
        for endings in self._endings:
            endings.ended(takewhile(_is_answered, pending), self._find_shown())
        size = errors = 0
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

    def writeConnectionLost(self) -> None:
        """Our writing side is shut, after everything was sent: see :mod:`rproxy.lingering`."""
        self._lingering = self._factory.clock.callLater(self._limits.linger, self.abort)

    def _abandon_pending(self) -> None:
        """The connection is lost: whatever comes for it now goes to nobody."""
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        self._held = False
        self._address.bytes -= self._pending_bytes
        if not self._pending:
            return
        self._counters.client_gone += len(self._pending)
        for endings in self._endings:
            endings.gone(self._pending, self._find_shown())
        for request in self._pending:
            if request.tally is not None:
                request.tally.client_gone += 1
            request.abandon()
        self._pending.clear()

    def close(self) -> None:
        """Close the connection when what was written is sent."""
        # A transport may bring more while it closes, as TLS does, and could send no answer to it.
        self._over = self._distrusted = self._shut = True
        self._finish()

    def abort(self) -> None:
        """Drop the connection."""
        self._transport.abortConnection()


def _is_answered(request: Request) -> bool:
    return request.reply is not None
