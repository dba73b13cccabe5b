"""An endpoint in memory, for tests of what connects."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy import packets
from tests.transports import Transport, connect, packets_in


@implementer(IStreamClientEndpoint)
class Peer:
    """Where something connects to: the test accepts or refuses, and speaks for the other side."""

    protocol: IProtocol
    transport: Transport

    def __init__(self) -> None:
        #: The attempts that are neither accepted nor refused.
        self.attempts: list[tuple[IProtocolFactory, Deferred[IProtocol]]] = []
        self.cancelled = 0

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        attempt: Deferred[IProtocol] = Deferred(self._cancel)
        self.attempts.append((factory, attempt))
        return attempt

    def _cancel(self, attempt: Deferred[IProtocol]) -> None:
        self.cancelled += 1
        self.attempts = [each for each in self.attempts if each[1] is not attempt]

    def accept(self) -> None:
        """Accept the one connection that is being made."""
        factory, attempt = self._attempt()
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]
        assert protocol is not None
        self.protocol = protocol
        self.transport = connect(protocol)
        attempt.callback(protocol)

    def refuse(self) -> None:
        """Refuse it."""
        self._attempt()[1].errback(Failure(ConnectionRefusedError()))

    def _attempt(self) -> tuple[IProtocolFactory, Deferred[IProtocol]]:
        (attempt,) = self.attempts
        self.attempts.clear()
        return attempt

    def answer(self, *raw: bytes) -> None:
        """Send something."""
        self.protocol.dataReceived(b"".join(raw))

    def received(self) -> list[packets.Packet]:
        """Return what came since the last time."""
        return packets_in(self.transport.taken())
