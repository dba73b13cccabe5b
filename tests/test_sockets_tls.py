"""TLS over grouped connections."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol, serverFromString

from tests.socketcase import MUCH, SocketCase
from tests.socketends import LOOPBACK, Recorder


class TLSTests(SocketCase):
    """With TLS on top."""

    def pem(self) -> str:
        """A key and a certificate, in a file."""
        x509 = import_module("cryptography.x509")
        hashes = import_module("cryptography.hazmat.primitives.hashes")
        codes = import_module("cryptography.hazmat.primitives.serialization")
        ec = import_module("cryptography.hazmat.primitives.asymmetric.ec")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "rproxy")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        private = key.private_bytes(codes.Encoding.PEM, codes.PrivateFormat.PKCS8, codes.NoEncryption())
        path = Path(self.mktemp())
        path.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(codes.Encoding.PEM))
        return str(path)

    async def test_endpoints(self) -> None:
        """A TLS port is the reactor's; over a connection of the group's TLS is spoken as over any other."""
        from twisted.internet.endpoints import wrapClientTLS

        options = import_module("twisted.internet.ssl").CertificateOptions
        pem = self.pem()
        description = f"ssl:0:interface={LOOPBACK}:privateKey={pem}:certKey={pem}"
        port: Any = await serverFromString(self.group, description).listen(self.factory)
        self.ports.append(port)
        client = Recorder()
        endpoint = TCP4ClientEndpoint(self.group, LOOPBACK, port.getHost().port)
        await connectProtocol(wrapClientTLS(options(), endpoint), client)
        await self.until(lambda: self.accepted)
        (server,) = self.accepted
        server.on_data = server.transport.write
        client.transport.write(MUCH)
        await self.until(lambda: len(client.received) == len(MUCH))
        self.assertEqual(client.received, MUCH)
        client.transport.loseConnection()
        await self.until(lambda: client.lost and server.lost)
        # Twisted itself uses of pyOpenSSL what newer ones would rather not have used.
        self.flushWarnings()

    async def test_not_in_between(self) -> None:
        """What would be written in the clear after all isn't written."""
        protocol, _ = await self.connection()
        with self.assertRaises(NotImplementedError):
            protocol.transport.startTLS(import_module("twisted.internet.ssl").CertificateOptions())
