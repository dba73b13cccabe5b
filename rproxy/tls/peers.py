"""Who the other side of a connection is, as far as its certificate tells."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import ISSLTransport


def peer_names(transport: Any) -> tuple[str, ...]:
    """Return the subject alternative names of the other side's certificate, in its order within each kind.

    They are DNS names, IP addresses and URIs, each as text; ``()`` without TLS, and without a certificate. A listening
    side asks for certificates only where it was given authorities to verify them by, so names are verified ones.
    Before anything was read from the connection the handshake may not be over, and there are none yet.
    """
    certificate: Any = transport.getPeerCertificate() if ISSLTransport.providedBy(transport) else None
    if certificate is None:
        return ()
    # Where TLS is spoken it is installed.
    from cryptography import x509

    try:
        extension = certificate.to_cryptography().extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (x509.ExtensionNotFound, ValueError):
        # A certificate without names, or with what can't be read as names, has none.
        return ()
    names = extension.value
    return (
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
    )
