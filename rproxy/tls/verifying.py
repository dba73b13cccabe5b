"""The connecting side of TLS: a connection is one when the other side has shown a certificate for its name.

A protocol gets its connection when the handshake is over and the name was checked: until then there is no connection,
and if it fails there was none (docs/protocol.rst, promise 6).

With TLS 1.3 the handshake is over before the other side has looked at this side's certificate. If that is refused, the
connection is lost a moment later, with the other side's alert as the reason.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, cast

from OpenSSL.SSL import Connection
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost, NoProtocol
from twisted.internet.interfaces import (
    IAddress,
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from rproxy.tls.certificates import Certificates
from rproxy.tls.files import TLSError
from rproxy.tls.handshaking import TLSFactory, TLSTransport
from rproxy.tls.peers import peer_names


@implementer(IOpenSSLClientConnectionCreator)
class _ToName:
    """Tells the other side which name it is asked for, but no address (RFC 6066, section 3)."""

    def __init__(self, certificates: Certificates, name: str) -> None:
        self._certificates = certificates
        self._name = name.encode()

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> Connection:
        connection = self._certificates.clientConnectionForTLS(protocol)
        connection.set_tlsext_host_name(self._name)
        return connection


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


@implementer(IStreamClientEndpoint)
class TLSClientEndpoint:
    """Connects when the other side has shown a certificate for a name, signed by an authority that is trusted.

    :param endpoint: where to connect to.
    :param name: a host name or an IP address: one of the certificate's subject alternative names.
    :param timeout: for the connection and the handshake together, in seconds.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        certificates: Certificates,
        name: str,
        clock: IReactorTime,
        timeout: float,
    ) -> None:
        self._endpoint = endpoint
        self._certificates = certificates
        self._name = name
        self._clock = clock
        self._timeout = timeout

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See :meth:`twisted.internet.interfaces.IStreamClientEndpoint.connect`.

        :raises TLSError: (by the Deferred) the handshake failed.
        """
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        until = self._clock.seconds() + self._timeout
        creator: Certificates | _ToName = self._certificates
        name = self._name
        if not _is_address(name):
            name = name.encode("idna").decode()
            creator = _ToName(self._certificates, name)
        tls = TLSFactory(creator, _HandshakeFactory(factory, name), self._clock, until)
        transport: Any = await self._endpoint.connect(tls)
        handshake: _Handshake = transport.wrappedProtocol
        return await handshake.over()


class _HandshakeFactory(Factory):
    noisy = False

    def __init__(self, factory: IProtocolFactory, name: str) -> None:
        self._factory = factory
        self._name = name

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> _Handshake:
        return _Handshake(self._factory, self._name)


@implementer(IHandshakeListener)
class _Handshake(Protocol):
    """Has a connection until its handshake is over, and leaves it to a protocol of the factory."""

    def __init__(self, factory: IProtocolFactory, name: str) -> None:
        self._factory = factory
        self._name = name
        self._result: IProtocol | Failure | None = None
        self._awaited: Deferred[IProtocol] | None = None

    def over(self) -> Deferred[IProtocol]:
        """Fire with the protocol that has the connection now, or fail with why there is none. Cancelled, it aborts."""
        self._awaited = Deferred(lambda _: cast(TLSTransport, self.transport).abortConnection())
        if self._result is not None:
            self._awaited.callback(self._result)
        return self._awaited

    def handshakeCompleted(self) -> None:
        transport = cast(TLSTransport, self.transport)
        # Not by Twisted's way to verify names: it takes a certificate without any (twisted.internet._sslverify logs
        # what service_identity raises then, and goes on).
        verify = verify_ip_address if _is_address(self._name) else verify_hostname
        try:
            verify(transport.getHandle(), self._name)
        except (VerificationError, CertificateError):
            names = ", ".join(peer_names(transport)) or "no name at all"
            transport.failVerification(Failure(TLSError(f"its certificate is for {names}, not for {self._name}")))
            return
        protocol = self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.failVerification(Failure(NoProtocol()))
            return
        transport.wrappedProtocol = protocol
        protocol.makeConnection(transport)
        self._end(protocol)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ConnectionDone, ConnectionLost):
            reason = Failure(TLSError("the other side closed the connection instead of a handshake"))
        self._end(reason)

    def _end(self, result: IProtocol | Failure) -> None:
        self._result = result
        if self._awaited is not None and not self._awaited.called:
            self._awaited.callback(result)
