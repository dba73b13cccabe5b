"""Packets of callers that are no connections: each has a Deferred for its answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from rproxy import packets
from rproxy.figures.counters import Counters
from rproxy.request import Endings, Refusal, Request


class ForwardError(Exception):
    """A packet was refused; the codes are those of docs/reference/protocol.rst.

    :ivar code: why.
    :ivar delivered: ``no`` or ``unknown``.
    """

    def __init__(self, code: str, delivered: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.delivered = delivered


class Callers:
    """Those whose packets have no answer yet.

    :ivar endings: who records what becomes of packets.
    """

    def __init__(self, clock: IReactorTime, counters: Counters, endings: Sequence[Endings]) -> None:
        self.clock = clock
        self.counters = counters
        self.endings = endings
        self._waiting: set[_Caller] = set()

    def make_request(self, raw: bytes, timeout: float) -> tuple[Request, Deferred[bytes]]:
        """The request for one data packet, and what fires with its answer; for the errors see ``Router.forward``."""
        data = packets.decode(raw)
        if not isinstance(data, packets.Data):
            raise packets.PacketError("only data packets are forwarded")
        self.counters.received += 1
        caller = _Caller(self, raw, data, self.clock.seconds() + timeout)
        self._waiting.add(caller)
        return caller.request, caller.answer

    def leave(self, caller: _Caller) -> None:
        """It has its answer, or waits no more."""
        self._waiting.discard(caller)

    def pending(self) -> Iterator[Request]:
        """Their packets."""
        return (caller.request for caller in self._waiting)


class _Caller:
    """An asker that is a Deferred."""

    def __init__(self, callers: Callers, raw: bytes, data: packets.Data, deadline: float) -> None:
        self._callers = callers
        self.answer: Deferred[bytes] = Deferred(lambda _: self._cancel())
        self.request = Request(raw, data.policy, data.srcid, deadline, self)

    def _cancel(self) -> None:
        self._callers.leave(self)
        self._callers.counters.client_gone += 1
        if self.request.tally is not None:
            self.request.tally.client_gone += 1
        for endings in self._callers.endings:
            endings.gone((self.request,), "")
        self.request.abandon()

    def deliver(self, now: float) -> None:
        """See :class:`rproxy.request.Asker`."""
        reply = self.request.reply
        if self.answer.called or reply is None:
            return
        self._callers.leave(self)
        for endings in self._callers.endings:
            endings.ended((self.request,), "")
        if isinstance(reply, Refusal):
            self._fail(reply)
            return
        self._callers.counters.acked += 1
        server = self.request.server
        assert server is not None
        server.noted.append(now - self.request.deadline + server.tally.policy.timeout)
        self.answer.callback(reply)

    def _fail(self, reply: Refusal) -> None:
        self._callers.counters.refused[reply.code] += 1
        if self.request.tally is not None:
            self.request.tally.refused[reply.code] += 1
        error = packets.decode(reply)
        assert isinstance(error, packets.Error)
        self.answer.errback(ForwardError(error.error, error.delivered, error.payload))

    def deliver_soon(self) -> None:
        """See :class:`rproxy.request.Asker`."""
        clock = self._callers.clock
        clock.callLater(0, lambda: self.deliver(clock.seconds()))
