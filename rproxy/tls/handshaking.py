"""TLS over any transport: handshakes that end in time, and closing that does.

A listening side's protocol has its connection at once, so that it counts and can be closed; what it reads comes after
the handshake. What a connecting side adds is in :mod:`rproxy.tls.verifying`.
"""

from __future__ import annotations

from typing import Any, cast

from OpenSSL.SSL import Connection, Error
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from rproxy.logs.quiet import QuietLog
from rproxy.tls.certificates import Certificates, reason_of
from rproxy.tls.files import TLSError

#: How long a client's handshake may take, in seconds. It holds one of ``max_clients`` places meanwhile.
HANDSHAKE_TIMEOUT = 10.0
#: How long the other side may take to say that it closes too, in seconds. It is less than what a service that stops
#: gives its connections, because a client that looks at its connection only when it sends says nothing.
CLOSE_TIMEOUT = 1.0

#: Why OpenSSL doesn't trust a certificate: the commonest of its codes (X509_STORE_CTX_get_error(3)), for people.
_DISTRUST = {
    9: "isn't valid yet",
    10: "has expired",
    18: "is signed by itself, not by an authority that is trusted",
    19: "comes from an authority that isn't trusted",
    20: "comes from an authority that isn't trusted",
    21: "comes from an authority that isn't trusted",
    26: "isn't meant for this side of a connection",
}


class TLSTransport(BufferingTLSTransport):
    """One connection's TLS: the transport of a protocol, and the protocol of the transport below."""

    factory: TLSFactory
    _timer: IDelayedCall | None = None
    #: What is wrong with the other side's certificate.
    _distrust = ""

    def makeConnection(self, transport: Any) -> None:
        # First, because a protocol may close its connection as soon as it has it, and that has a timer of its own.
        self._timer = self.factory.clock.callLater(self.factory.time_left(), self._end_handshake)
        super().makeConnection(transport)
        connection = self.getHandle()
        if connection is not None:
            connection.set_verify(connection.get_verify_mode(), self._verified)

    def _verified(self, connection: Connection, certificate: Any, code: int, depth: int, ok: int) -> bool:
        """Keep what OpenSSL has found, and leave it at that."""
        if not ok:
            self._distrust = f"its certificate {_DISTRUST.get(code, f'is refused by OpenSSL with code {code}')}"
        return bool(ok)

    def _end_handshake(self) -> None:
        self._timer = None
        connection = self.getHandle()
        # There is none any more once the connection is lost.
        if connection is not None and connection.get_peer_finished() is None:
            self.failVerification(Failure(TLSError("the handshake took too long")))

    def getPeerCertificate(self) -> Any:
        """Return the other side's certificate; None where there is none, or no connection any more."""
        return super().getPeerCertificate() if self.connected else None

    def loseConnection(self) -> None:
        """Say that this side closes, wait for the other to say so too, but not for long, and close.

        What it sends meanwhile is still read: see :mod:`rproxy.lingering`.
        """
        if self.disconnecting or not self.connected:
            return
        super().loseConnection()
        self._cancel_timer()
        self._timer = self.factory.clock.callLater(CLOSE_TIMEOUT, self._close)

    def _close(self) -> None:
        self._timer = None
        # As without TLS: once what was written is sent.
        cast(ITransport, self.transport).loseConnection()

    def abortConnection(self) -> None:
        # Twisted's has nothing left to abort afterwards.
        if self.connected:
            super().abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._cancel_timer()
        self.wrappedProtocol = _LastWords(self, self.wrappedProtocol)
        super().connectionLost(reason)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def explained(self, reason: Failure) -> Failure:
        """Return why the connection was lost, in words where it was OpenSSL."""
        if reason.check(Error):
            text = reason_of(cast(Error, reason.value))
            _, is_alert, alert = text.partition(" alert ")
            return Failure(TLSError(self._distrust or (f"the other side refuses: {alert}" if is_alert else text)))
        return reason


class _LastWords(Protocol):
    """Stands before a protocol when its connection ends, so that it is told why in words."""

    def __init__(self, tls: TLSTransport, protocol: IProtocol) -> None:
        self._tls = tls
        self._protocol = protocol

    def dataReceived(self, data: bytes) -> None:
        self._protocol.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        reason = self._tls.explained(reason)
        self._tls.factory.lost(self._tls, reason)
        self._protocol.connectionLost(reason)


class TLSFactory(TLSMemoryBIOFactory):
    """Puts TLS on top of what a factory's protocols are connected to.

    :param certificates: asked for each connection.
    :param until: when a connecting side's handshake has to be over, in the clock's seconds; None on a listening side,
        where each has :data:`HANDSHAKE_TIMEOUT`.
    """

    protocol = TLSTransport
    _logger = Logger()

    def __init__(
        self,
        certificates: Certificates | IOpenSSLClientConnectionCreator,
        factory: IProtocolFactory,
        clock: IReactorTime,
        until: float | None = None,
    ) -> None:
        super().__init__(certificates, until is not None, factory, clock)
        self.clock = clock
        self._until = until
        #: Tells, on a listening side, of handshakes that failed: anybody who gets that far can have one fail.
        self.log_failure = QuietLog(clock.seconds, self._logger.info, "failed TLS handshakes")

    def buildProtocol(  # type: ignore[override]  # Twisted's own wraps None too, and fails when that is connected
        self, addr: IAddress | None
    ) -> TLSMemoryBIOProtocol | None:
        protocol = self.wrappedFactory.buildProtocol(addr)
        return None if protocol is None else self.protocol(self, protocol)

    def time_left(self) -> float:
        """How long the handshake of a connection made now may take, in seconds."""
        return HANDSHAKE_TIMEOUT if self._until is None else max(0.0, self._until - self.clock.seconds())

    def lost(self, connection: TLSTransport, reason: Failure) -> None:
        """A connection is lost. On a listening side this is where it is told of that TLS failed."""
        if self._until is None and reason.check(TLSError):
            host = getattr(connection.getPeer(), "host", "a client")
            self.log_failure("TLS with {host} failed: {why}", event="tls-failed", host=host, why=str(reason.value))
