"""Tests for ``rproxy.audit.keys``."""

from __future__ import annotations

from pathlib import Path

from rproxy.audit.keys import KeyFileError, read_key
from tests.auditing import KEY, SECRET, AuditCase


class KeyTests(AuditCase):
    def write(self, content: bytes, mode: int) -> Path:
        self.path.write_bytes(content)
        self.path.chmod(mode)
        return self.path

    def test_read(self) -> None:
        """Its owner may read it, and its group."""
        for mode in 0o400, 0o600, 0o640:
            self.assertEqual(read_key(self.write(SECRET + b"\n", mode)).name, KEY.name)
            self.path.unlink()

    def test_what_is_none(self) -> None:
        for content, mode, said in (
            (SECRET, 0o604, "is open to everybody: close it by: chmod o-rwx"),
            (SECRET, 0o602, "is open to everybody"),
            (SECRET[1:], 0o600, "has 15 bytes, and needs 16 at least; make one by: (umask 077; openssl rand"),
            (b"", 0o600, "has 0 bytes"),
        ):
            error = self.assertRaises(KeyFileError, read_key, self.write(content, mode))
            self.assertIn(said, str(error))
            self.path.unlink()
        self.assertIn("No such file", str(self.assertRaises(KeyFileError, read_key, self.path)))

    def test_hashes(self) -> None:
        """They are HMACs of keys that differ."""
        import hmac

        for name, found in (
            (b"client", KEY.client("1")),
            (b"chain", KEY.link(b"", b"1").hex()),
        ):
            key = hmac.digest(SECRET, b"rproxy audit " + name, "sha256")
            self.assertEqual(found, hmac.digest(key, b"1", "sha256").hex())
