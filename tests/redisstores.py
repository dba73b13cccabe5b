"""Stores in a Redis for tests: servers and stores that end with each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import skipIf

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from rproxy.stores import StoreError
from rproxy.stores.redis import RedisStore
from rproxy.stores.urls import RedisUrl
from rproxy.tls.keyring import Keyring
from tests.contract import Process, until
from tests.redisserver import LOOPBACK, MISSING, RedisServer

without_redis = skipIf(bool(MISSING), MISSING)


def store_at(port: int, **settings: Any) -> RedisStore:
    return RedisStore(RedisUrl(((LOOPBACK, port),), **settings), reactor, Keyring())


async def fails(deferred: Deferred[Any], kind: type[Exception] = StoreError) -> str:
    """Return why it failed."""
    with pytest.raises(kind) as caught:
        await deferred
    return str(caught.value)


def _nothing() -> None:
    """Nobody is told."""


class RedisCase(TestCase):
    """Has a folder for servers, which end with the test, and stores, which are closed with it."""

    timeout = 60.0

    def setUp(self) -> None:
        # Before the servers end in whose files they are.
        self.folder = Path(self.enterContext(TemporaryDirectory(prefix="rproxy-redis")))

    def start(self, *settings: str, **more: Any) -> RedisServer:
        server = RedisServer(self.folder, *settings, **more)
        self.addCleanup(server.kill)
        return server.start()

    def store(self, port: int, **settings: Any) -> RedisStore:
        store = store_at(port, **settings)
        self.addCleanup(store.close)
        return store

    async def process_at(self, name: str, port: int, **settings: Any) -> Process:
        return await Process(name, self.store(port, **settings)).open()

    async def listen(
        self, said: bytes, heard: Callable[[], object] = _nothing, connected: Callable[[], object] = _nothing
    ) -> int:
        """Return the port of somebody who says this whenever something is said."""

        class Says(Protocol):
            def connectionMade(self) -> None:
                connected()

            def dataReceived(self, _: bytes) -> None:
                assert self.transport is not None
                self.transport.write(said)
                heard()

        factory: Any = Factory.forProtocol(Says)
        listening: Any = await TCP4ServerEndpoint(reactor, 0, interface=LOOPBACK).listen(factory)
        self.addCleanup(listening.stopListening)
        port: int = listening.getHost().port
        return port

    async def opened(self, process: Process) -> None:
        """Open it again, as soon as it can be."""

        async def opens() -> bool:
            try:
                await process.open()
            except StoreError:
                return False
            return True

        await until(opens)
