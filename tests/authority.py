"""Certificates for tests: an authority of one's own, and what it signs, each in a file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from rproxy.tls.files import Files

_numbers = count(1)


class Authority:
    """Signs certificates that are valid from yesterday to tomorrow, unless told otherwise.

    :param folder: where the files are put.
    :ivar file: the one with its own certificate.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = generate_private_key(SECP256R1())
        self._name = _name(f"authority {next(_numbers)}")
        builder = _builder(self._name, self._name, self._key, 0)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        certificate = builder.sign(self._key, hashes.SHA256())
        self.file = str(folder / f"{next(_numbers)}.ca.pem")
        Path(self.file).write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(
        self, *names: str, age_days: float = 0, self_signed: bool = False, passphrase: bytes | None = None
    ) -> Files:
        """Return new files: a certificate for these names, and its key, beside this authority's own.

        :param age_days: how many days ago its three days were in their middle.
        """
        key = generate_private_key(SECP256R1())
        subject = _name("leaf")
        builder = _builder(subject, subject if self_signed else self._name, key, age_days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([*map(_general_name, names)]), critical=False)
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        number = next(_numbers)
        cert, key_file = self._folder / f"{number}.cert.pem", self._folder / f"{number}.key.pem"
        cert.write_bytes(certificate.public_bytes(Encoding.PEM))
        encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
        key_file.touch(0o600)
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        return Files(self.file, str(cert), str(key_file))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, age_days: float
) -> x509.CertificateBuilder:
    middle = datetime.now(UTC) - timedelta(days=age_days)
    day = timedelta(days=1)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), middle - day, middle + day
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(text: str) -> x509.GeneralName:
    if urlsplit(text).scheme and "//" in text:
        return x509.UniformResourceIdentifier(text)
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
