"""A store in a Redis that sentinels know."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from rproxy.stores import StoreError
from rproxy.stores.redis import RedisStore
from rproxy.stores.redis.script import keys
from rproxy.stores.urls import RedisUrl
from rproxy.tls.keyring import Keyring
from tests.contract import Process, record, until
from tests.redisserver import LOOPBACK
from tests.redisstores import RedisCase, fails, without_redis


class GivenUpTests(RedisCase):
    """Sentinels that say nothing, and a store that is closed meanwhile."""

    async def test_the_others_are_not_asked_any_more(self) -> None:
        """Wherever it was with the first: connecting, at the password, or asking."""
        for password, waits in ((None, False), ("hidden", True), (None, True)):
            others: list[None] = []
            asked: Deferred[None] = Deferred()
            first = await self.listen(b"", partial(asked.callback, None))
            other = await self.listen(b"", connected=partial(others.append, None))
            hosts = ((LOOPBACK, first), (LOOPBACK, other))
            store = RedisStore(RedisUrl(hosts, "main", password=password), reactor, Keyring())
            opening = store.open(lambda: None)
            if waits:
                await asked
            await store.close()

            self.assertEqual(await fails(opening), "given up")
            self.assertEqual(others, [])


@without_redis
class SentinelTests(RedisCase):
    """``redis+sentinel://``."""

    def setUp(self) -> None:
        super().setUp()
        # Else the old master takes changes that get lost, until a sentinel tells it, after some seconds.
        self.master = self.start("repl-diskless-sync-delay 0", "min-replicas-to-write 1")
        self.replica = self.start(f"replicaof {LOOPBACK} {self.master.port}", "repl-diskless-sync-delay 0")

    async def start_sentinel(self) -> None:
        """Return when it could fail over. It asks who is there every ten seconds, so it begins after that."""

        async def linked() -> bool:
            return "master_link_status:up" in self.replica.call("INFO", "replication")

        async def knows() -> bool:
            return "master-link-status\nok" in self.sentinel.call("SENTINEL", "replicas", "main")

        await until(linked)
        self.sentinel = self.start(
            f"sentinel monitor main {LOOPBACK} {self.master.port} 1",
            "sentinel down-after-milliseconds main 500",
            "sentinel failover-timeout main 3000",
            sentinel=True,
        )
        await until(knows)

    def store_of(self, service: str = "main") -> RedisStore:
        # One that isn't there, first.
        hosts = ((LOOPBACK, 1), (LOOPBACK, self.sentinel.port))
        store = RedisStore(RedisUrl(hosts, service), reactor, Keyring())
        self.addCleanup(store.close)
        return store

    async def failed_over(self, process: Process) -> None:
        """The process has the other one now."""

        async def there() -> bool:
            try:
                await process.tell()
            except StoreError:
                await self.opened(process)
            return self.replica.call("PUBSUB", "NUMSUB", "{rproxy}:changed").split()[-1] == "1"

        await until(there)

    async def test_no_master(self) -> None:
        """Neither known, nor there."""
        await self.start_sentinel()
        self.assertIn("knows no other", await fails(self.store_of("other").open(lambda: None)))

    async def test_no_master_yet(self) -> None:
        """A sentinel may say what was so before, or will be."""
        port = str(self.replica.port)
        said = f"*2\r\n$9\r\n{LOOPBACK}\r\n${len(port)}\r\n{port}\r\n"
        store = self.store(await self.listen(said.encode()), service="main")
        self.assertIn("isn't the master", await fails(store.open(lambda: None)))

    async def test_a_password(self) -> None:
        """The same for all."""
        master = self.start("requirepass hidden")
        monitor = f"sentinel monitor main {LOOPBACK} {master.port} 1"
        sentinel = self.start("requirepass hidden", monitor, sentinel=True)
        await self.process_at("a", sentinel.port, service="main", password="hidden")
        why = await fails(self.store(sentinel.port, service="main", password="wrong").open(lambda: None))
        self.assertIn("wants a password", why)
        self.assertNotIn("wrong", why)

    async def test_told_to_fail_over(self) -> None:
        await self._fail_over(lambda: self.sentinel.call("SENTINEL", "FAILOVER", "main"))

    async def test_the_master_dies(self) -> None:
        await self._fail_over(self.master.kill)

    async def _fail_over(self, how: Callable[[], object]) -> None:
        await self.start_sentinel()
        a = await Process("a", self.store_of()).open()
        await a.tell(record())

        async def replicated() -> bool:
            return self.replica.call("HLEN", keys("rproxy")[1]) == "1"

        await until(replicated)
        how()

        await self.failed_over(a)

        self.assertEqual(set(await a.everything()), {"100"})
        await a.tell(record("2"))
        self.assertEqual(set(await a.everything()), {"100", "2"})
