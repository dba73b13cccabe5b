"""Tests for ``rproxy.stores.sqlite``, and the modules that it is made of."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from rproxy.stores import Store
from rproxy.stores.sqlite import SqliteStore
from tests.contract import StoreContract


class SqliteStoreTests(StoreContract, TestCase):
    """The contract."""

    def setUp(self) -> None:
        self.path = Path(self.enterContext(TemporaryDirectory())) / "registry"

    def make_store(self) -> Store:
        return SqliteStore(self.path, reactor)
