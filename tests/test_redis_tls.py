"""A store in a Redis by TLS."""

from __future__ import annotations

from rproxy.stores import StoreError, StoreRefusedError
from rproxy.tls.files import Files
from tests.authority import Authority
from tests.contract import record, until
from tests.redisserver import LOOPBACK
from tests.redisstores import RedisCase, fails, without_redis


@without_redis
class TLSTests(RedisCase):
    """``rediss://``."""

    def setUp(self) -> None:
        super().setUp()
        # Twisted gives pyOpenSSL objects of a kind that newer versions would rather not have.
        self.addCleanup(self.flushWarnings)
        self.authority = Authority(self.folder)
        self.files = self.authority.issue(LOOPBACK)

    async def test_it_works(self) -> None:
        server = self.start("appendonly no", tls=self.files)
        a = await self.process_at("a", server.port, tls=Files(self.files.ca))
        b = await self.process_at("b", server.port, tls=self.authority.issue("b"))
        many = [record(str(number)) for number in range(1000)]
        before = b.calls
        await a.tell(*many)

        async def called() -> bool:
            return b.calls > before

        await until(called)
        self.assertEqual(list((await b.tell()).records), many)

    async def test_only_who_is_trusted(self) -> None:
        """Neither another authority's certificate nor one for another name."""
        server = self.start(tls=self.files)
        other = Authority(self.folder)
        why = await fails(self.store(server.port, tls=Files(other.file)).open(lambda: None))
        self.assertIn("can't be connected to", why)
        elsewhere = self.start(tls=self.authority.issue("elsewhere.example"))
        why = await fails(self.store(elsewhere.port, tls=Files(self.files.ca)).open(lambda: None))
        self.assertIn("elsewhere.example", why)

    async def test_only_with_a_certificate(self) -> None:
        server = self.start(tls=self.files)
        server.call("CONFIG", "SET", "tls-auth-clients", "yes")
        await fails(self.store(server.port, tls=Files(self.files.ca)).open(lambda: None))
        await self.process_at("a", server.port, tls=self.files)

    async def test_no_tls_there(self) -> None:
        """And none wanted where there is."""
        await fails(self.store(self.start().port, tls=Files(self.files.ca)).open(lambda: None))
        store = self.store(self.start(tls=self.files).port)
        with self.assertRaises((StoreError, StoreRefusedError)):
            await store.open(lambda: None)

    async def test_no_files(self) -> None:
        server = self.start(tls=self.files)
        store = self.store(server.port, tls=Files("/nowhere/ca.pem"))
        self.assertIn("/nowhere/ca.pem", await fails(store.open(lambda: None), StoreRefusedError))
