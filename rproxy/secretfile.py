"""Files that hold a secret: a key, a password or a token."""

from __future__ import annotations

import stat
from pathlib import Path


def read_secret(path: Path, what: str, hint: str = "") -> bytes:
    """Return what a file holds.

    Its group may read it, because that is how systemd's credentials look, and how an officer may share it.

    :param what: how the secret is called.
    :param hint: what to do where there is no such file.
    :raises ValueError: it is no regular file, it can't be read, or others can read it.
    """
    try:
        mode = path.stat().st_mode
        # Whoever writes to a pipe would be waited for.
        secret = path.read_bytes() if stat.S_ISREG(mode) else None
    except OSError as error:
        raise ValueError(f"the {what} {path} can't be read: {error.strerror}{hint and f'; {hint}'}") from None
    if secret is None:
        raise ValueError(f"the {what} {path} is no regular file: name the file that holds it")
    if mode & stat.S_IRWXO:
        raise ValueError(f"the {what} {path} is open to everybody: close it by: chmod o-rwx {path}")
    return secret
