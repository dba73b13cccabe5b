"""From what ``--registry`` says to the store."""

from __future__ import annotations

import secrets
from importlib.util import find_spec
from typing import Any

from rproxy.stores import Store, StoreRefusedError
from rproxy.stores.databases import check_file
from rproxy.stores.ledger import Ledger
from rproxy.stores.memory import Memory, MemoryStore
from rproxy.stores.sqlite import SqliteStore
from rproxy.stores.urls import MemoryUrl, RedisUrl, SqliteUrl
from rproxy.tls.keyring import Keyring


def check_registry(url: MemoryUrl | SqliteUrl | RedisUrl) -> None:
    """Find out what can be found out before a process runs: a mistake that no time heals is better known at once.

    :raises StoreRefusedError: it is a file that is no store, or of a newer release; or its folder doesn't exist; or
        what it needs isn't installed.
    """
    if isinstance(url, SqliteUrl):
        check_file(url.path)
    elif isinstance(url, RedisUrl) and find_spec("txredisapi") is None:
        raise StoreRefusedError("a registry in Redis needs txredisapi: pip install txredisapi")


def open_registry(url: MemoryUrl | SqliteUrl | RedisUrl, reactor: Any, keyring: Keyring) -> Store:
    """Return the store, which is to be opened yet; see :func:`check_registry` first.

    :param keyring: for the certificates of Redis.
    """
    if isinstance(url, MemoryUrl):
        return MemoryStore(Memory(Ledger(secrets.token_hex(8), reactor.seconds)))
    if isinstance(url, SqliteUrl):
        return SqliteStore(url.path, reactor)
    # Only here, as it needs what isn't installed everywhere, and installs a reactor.
    from rproxy.stores.redis import RedisStore

    return RedisStore(url, reactor, keyring)
