"""The key of an audit trail: what makes a client's id unreadable, and a line impossible to forge.

One secret, two keys made of it: whoever sends packets chooses client ids, and must not be able to have a line of a
trail computed for them by way of one.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from pathlib import Path

from rproxy.secretfile import read_secret

#: The fewest bytes that a key may have.
LEAST = 16

_BLOCK = 64
_HINT = "make one by: (umask 077; openssl rand -hex 32 > FILE)"


class KeyFileError(ValueError):
    """A key file that is none; the text says what is wrong with it, and how to make one."""


def _pad(key: bytes, byte: int) -> bytes:
    return bytes(each ^ byte for each in key.ljust(_BLOCK, b"\0"))


class Key:
    """What is computed with the key.

    :param secret: at least :data:`LEAST` bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._client = hmac.digest(secret, b"rproxy audit client", "sha256")
        chain = hmac.digest(secret, b"rproxy audit chain", "sha256")
        # HMAC as RFC 2104 spells it out. Copying what the key makes of both hashes takes half the time of the module's
        # own function, and is paid for each line.
        self._inner = sha256(_pad(chain, 0x36))
        self._outer = sha256(_pad(chain, 0x5C))
        #: Which key it is, without a word about the key: 16 hexadecimal digits.
        self.name = hmac.digest(secret, b"rproxy audit name", "sha256").hex()[:16]

    def __reduce__(self) -> tuple[type[Key], tuple[bytes]]:
        # For another process of the same proxy: what the secret became can't be handed on.
        return Key, (self._secret,)

    def client(self, client_id: str) -> str:
        """Return what stands for a client's id: HMAC-SHA-256, as 64 hexadecimal digits."""
        return hmac.digest(self._client, client_id.encode(), "sha256").hex()

    def link(self, previous: bytes, line: bytes) -> bytes:
        """Return the hash of a line: HMAC-SHA-256 over the previous line's hash and the line without its own."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(previous + line)
        outer.update(inner.digest())
        return outer.digest()


def read_key(path: Path, hint: str = _HINT) -> Key:
    """Return the key that a file holds; white space around it doesn't count.

    :param hint: what to do where there is none.
    :raises KeyFileError: it can't be read, others can read it, or it is too short.
    """
    try:
        secret = read_secret(path, "key", hint).strip()
    except ValueError as error:
        raise KeyFileError(str(error)) from None
    if len(secret) < LEAST:
        raise KeyFileError(f"the key {path} has {len(secret)} bytes, and needs {LEAST} at least; {hint}")
    return Key(secret)
