"""What a pool server does with a payload unless it is told otherwise, and what a client checks the answer against."""

import hashlib


def sha1_hex(payload: str) -> str:
    """Return the SHA-1 of the payload's UTF-8 bytes, as 40 lower-case hexadecimal digits.

    It is what deployed peers agree on, to see that a payload came through whole; it protects nothing.

    :raises UnicodeEncodeError: the payload has half of a surrogate pair, which is no text.
    """
    return hashlib.sha1(payload.encode("utf-8"), usedforsecurity=False).hexdigest()
