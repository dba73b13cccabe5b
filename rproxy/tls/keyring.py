"""TLS for who only has the names of files: a process's certificates, and endpoints that use them.

What TLS needs is installed by the extra ``tls``, and imported only where TLS is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint

from rproxy.tls.files import CertificatesError, Files

if TYPE_CHECKING:
    from rproxy.tls.certificates import Certificates
    from rproxy.tls.handshaking import TLSFactory

__all__ = ["SWEEP_LOGS", "Files", "Keyring", "tls_endpoint"]

#: Seconds between two calls of :meth:`Keyring.sweep`: how late it may be told how many lines were left out of the log.
SWEEP_LOGS = 5.0


class Keyring:
    """All certificates of a process. Each file set is read when it is first asked for."""

    def __init__(self) -> None:
        self._certificates: dict[Files, Certificates] = {}
        self._listening: list[TLSFactory] = []

    def __bool__(self) -> bool:
        """Whether there is anything to read again."""
        return bool(self._certificates)

    def load(self, files: Files | None) -> Certificates | None:
        """Read the files, unless they were, or there are none.

        :raises CertificatesError: they can't be used, or TLS isn't installed.
        """
        if files is None:
            return None
        if files not in self._certificates:
            try:
                from rproxy.tls.certificates import Certificates
            except ImportError as error:
                # Not this package with its extra: to who has pip look in another place, PyPI's rproxy is a stranger's.
                raise CertificatesError(f"TLS isn't installed ({error}): pip install 'twisted[tls]'") from None
            self._certificates[files] = Certificates(files)
        return self._certificates[files]

    def server(self, files: Files | None, factory: IProtocolFactory, clock: IReactorTime) -> IProtocolFactory:
        """Return what to listen with, so that clients speak TLS to the factory's protocols.

        :param files: None for no TLS.
        :raises CertificatesError: the files can't be used, or TLS isn't installed.
        """
        certificates = self.load(files)
        if certificates is None:
            return factory
        from rproxy.tls.handshaking import TLSFactory

        listening = TLSFactory(certificates, factory, clock)
        self._listening.append(listening)
        return listening

    def client(
        self, files: Files | None, endpoint: IStreamClientEndpoint, name: str, clock: IReactorTime, timeout: float
    ) -> IStreamClientEndpoint:
        """Return what to connect to, so that TLS is spoken with who has a certificate for a name.

        :param files: None for no TLS.
        :param name: a host name or an IP address.
        :param timeout: for the connection and the handshake together, in seconds.
        :raises CertificatesError: the files can't be used, or TLS isn't installed.
        """
        certificates = self.load(files)
        if certificates is None:
            return endpoint
        from rproxy.tls.verifying import TLSClientEndpoint

        return TLSClientEndpoint(endpoint, certificates, name, clock, timeout)

    def reload(self) -> None:
        """Read all files again, for the connections that are made from now on; see :class:`Certificates`."""
        for certificates in self._certificates.values():
            certificates.reload()

    def sweep(self) -> None:
        """Tell how many failed handshakes were left out of the log, where it is time to."""
        for listening in self._listening:
            listening.log_failure.sweep()


def tls_endpoint(
    reactor: IReactorTime,
    host: str,
    port: int,
    ca: str,
    cert: str | None = None,
    key: str | None = None,
    timeout: float = 30.0,
) -> IStreamClientEndpoint:
    """Return an endpoint for :class:`rproxy.client.Client`: a proxy that clients speak TLS to.

    :param host: a name or an IP address; the proxy's certificate has to be for it.
    :param ca: a file with the authorities that may have signed it, or ``system`` for those that the system trusts.
    :param cert: a file with the certificate to show, where the proxy asks for one.
    :param key: the file with its key.
    :param timeout: for a connection and its handshake together, in seconds.
    :raises CertificatesError: the files can't be used, or TLS isn't installed.
    """
    endpoint = HostnameEndpoint(reactor, host, port, timeout=timeout)
    return Keyring().client(Files(ca, cert, key), endpoint, host, reactor, timeout)
