"""Certificates, keys and authorities: read from files, checked, and read again while connections go on.

What TLS itself does is left to OpenSSL, with the ciphers that Twisted takes for safe and no version before 1.2. A
connection keeps what it was made with; :class:`Certificates` is asked for each new one, so that what was read again
holds from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from stat import S_IRWXO
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import Certificate as X509Certificate
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL.crypto import X509
from OpenSSL.SSL import Connection, Error
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.internet.ssl import Certificate, CertificateOptions, TLSVersion, platformTrust, trustRootFromCertificates
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from rproxy.tls.files import SYSTEM, CertificatesError, Files


@implementer(IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator)
class Certificates:
    """What the files had when they were last read well, for each new connection of either side.

    :raises CertificatesError: they can't be used.
    """

    _logger = Logger()

    def __init__(self, files: Files) -> None:
        self._files = files
        self._options = self._read()

    def reload(self) -> None:
        """Read the files again; what can't be used is logged, and changes nothing."""
        try:
            self._options = self._read()
        except CertificatesError as error:
            self._logger.warn("Going on with what was read before: {why}", event="certificates-kept", why=error)
        else:
            names = ", ".join(filter(None, (self._files.ca, self._files.cert, self._files.key)))
            self._logger.info("New connections use what is now in {names}", event="certificates-reloaded", names=names)

    def serverConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> Connection:
        return self._options.serverConnectionForTLS(protocol)

    def clientConnectionForTLS(self, protocol: TLSMemoryBIOProtocol) -> Connection:
        return self._options.clientConnectionForTLS(protocol)

    def _read(self) -> CertificateOptions:
        files = self._files
        keywords: dict[str, Any] = {}
        if files.cert is not None and files.key is not None:
            certificate, *chain = self._read_certificates(files.cert)
            key = self._read_key(files.key)
            if key.public_key() != certificate.public_key():
                raise CertificatesError(f"{files.key} isn't the key of the certificate in {files.cert}")
            keywords.update(certificate=certificate, privateKey=key, extraCertChain=chain)
        if files.ca == SYSTEM:
            keywords.update(trustRoot=platformTrust())
        elif files.ca is not None:
            authorities = [Certificate(X509.from_cryptography(each)) for each in self._read_certificates(files.ca)]
            keywords.update(trustRoot=trustRootFromCertificates(authorities))
        try:
            options = CertificateOptions(raiseMinimumTo=TLSVersion.TLSv1_2, **keywords)
            # Made with the first connection else, which is too late for what OpenSSL has against it: a short key.
            options.getContext()
        except Error as error:
            raise CertificatesError(f"{files.cert} can't be used: {reason_of(error)}") from None
        return options

    def _read_certificates(self, name: str) -> Sequence[X509Certificate]:
        """Return what is in a file, one certificate at least."""
        content = _read_file(name)
        try:
            certificates = load_pem_x509_certificates(content)
        except ValueError:
            raise CertificatesError(f"{name} holds no certificate in PEM form") from None
        now = datetime.now(UTC)
        for certificate in certificates:
            if certificate.not_valid_after_utc < now:
                self._logger.warn(
                    "A certificate in {file} has expired: it was valid until {until}",
                    event="certificate-expired",
                    file=name,
                    until=certificate.not_valid_after_utc,
                )
            elif certificate.not_valid_before_utc > now:
                self._logger.warn(
                    "A certificate in {file} isn't valid yet: it is from {since}",
                    event="certificate-not-yet-valid",
                    file=name,
                    since=certificate.not_valid_before_utc,
                )
        return certificates

    def _read_key(self, name: str) -> Any:
        """Return the private key that is in a file."""
        content = _read_file(name)
        try:
            key = load_pem_private_key(content, None)
        except TypeError:
            raise CertificatesError(f"{name} has a passphrase: give a key without one") from None
        except (ValueError, UnsupportedAlgorithm):
            raise CertificatesError(f"{name} holds no private key in PEM form") from None
        # Those in its group may be there just for reading it.
        if Path(name).stat().st_mode & S_IRWXO:
            self._logger.warn(
                "Everybody on this machine may use the key in {file}: take that away by chmod o=",
                event="key-exposed",
                file=name,
            )
        return key


def _read_file(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise CertificatesError(f"{name} can't be read: {error.strerror}") from None


#: What OpenSSL says where something begins a handshake that is none.
_NO_TLS = "wrong version number"


def reason_of(error: Error) -> str:
    """Return the last reason that OpenSSL gave, in words that say it."""
    reasons = error.args[0] if error.args else ()
    # Each is a library, a function and a reason; a SysCallError has a number and a text instead.
    text = str(reasons[-1][-1]) if isinstance(reasons, list | tuple) and reasons else str(error)
    return "the other side speaks no TLS" if text == _NO_TLS else text
