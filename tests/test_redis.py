"""Registrations in a Redis: the contract, its rules beside the ledger's, and all that can go wrong with a server."""

from __future__ import annotations

import socket
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater

from rproxy.counting import Count
from rproxy.registry.records import NOBODY, Record
from rproxy.stores import ENDS, LEASED_ENDS, MOST_ENDS, Message, News, Position, Store, StoreError, StoreRefusedError
from rproxy.stores.ledger import Ledger
from rproxy.stores.redis import RedisStore
from rproxy.stores.redis.link import Dialer
from rproxy.stores.redis.script import FORMAT, keys
from rproxy.stores.urls import RedisUrl
from rproxy.tls.files import Files
from rproxy.tls.keyring import Keyring
from tests.contract import LONG, StoreContract, record, registration, until
from tests.redisserver import ALLOWED, LOOPBACK
from tests.redisstores import RedisCase, fails, store_at, without_redis

STATE, RECORDS, CHANGES, LEASES, ENDS_DUE, ENDED, PROCESSES = keys("rproxy")


@without_redis
class RedisStoreTests(StoreContract, RedisCase):
    """The contract, and what else a store does while all is well."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.start()

    def make_store(self) -> Store:
        return store_at(self.server.port)

    async def test_very_much_at_once(self) -> None:
        """There are bounds in Lua that none of this may hit."""
        a = await self.process("a")
        many = [record(str(number), holder="a", lease=LONG) for number in range(10_000)]

        await a.tell(*many)
        unknown = {("111", str(number), "b"): LONG for number in range(10_000)}
        news = await a.tell(renewed=unknown | {each.key: LONG for each in many})

        self.assertEqual(list(news.missing), list(unknown))
        self.assertEqual(len(await a.everything()), len(many))

    async def test_any_text(self) -> None:
        """What has a meaning in Lua, in JSON, or between two values."""
        a = await self.process("a")
        for text in ('"', "\\", "\t1\t\n", "%d", "\x00", "ä\U0001f600", "}{", ""):
            terms = evolve(registration(text + "1"), policy=text)
            odd = Record(text, text + "1", text + "2", 1, terms)
            await a.tell(odd)
            self.assertEqual(list((await a.store.exchange(Message("a"))).records)[-1], odd)

            await a.tell(evolve(odd, registration=evolve(terms, lease=0.0), version=2))
            self.assertEqual(list((await a.tell()).records), [odd.ended(version=2)])

    async def test_its_own_changes_are_no_news(self) -> None:
        """Nobody is called for them by a Redis that has to tell everybody else."""
        a, b = await self.process("a"), await self.process("b")
        before = a.calls

        for version in range(1, 50):
            await a.tell(record(version=version))
        self.assertEqual(a.calls, before)
        await b.tell(record("2"))

        async def called() -> bool:
            return a.calls > before

        await until(called)

    async def test_prefixes(self) -> None:
        """Two stores in one Redis have nothing to do with each other; nor have two databases."""
        a = await self.process("a")
        others = [store_at(self.server.port, prefix="other"), store_at(self.server.port, db=3)]
        await a.tell(record())
        for other in others:
            self.addCleanup(other.close)
            await other.open(lambda: None)
            self.assertEqual((await other.exchange(Message("b"))).records, [])
        self.assertEqual(await a.everything(), {"100": record()})

    async def test_all_at_once_after_opening(self) -> None:
        """Something may have been missed, whatever the position says."""
        a = await self.process("a")
        await a.tell(record())
        await a.open()

        self.assertTrue((await a.tell()).complete)
        self.assertFalse((await a.tell()).complete)

    async def test_ends_are_forgotten(self) -> None:
        """As the ledger does; who wasn't told meanwhile is told everything."""
        a, b = await self.process("a"), await self.process("b")
        await b.tell()
        leased, other = record("1", holder="a", lease=LONG).ended(), record("2", holder=NOBODY).ended()
        await a.tell(leased, other)
        now = int(self.server.call("TIME").split()[0])
        for ended, seconds in ((leased, LEASED_ENDS), (other, ENDS)):
            key = self.server.call("ZRANGE", CHANGES, "0", "-1").split("\n")[0 if ended is leased else 1]
            due = float(self.server.call("ZSCORE", ENDS_DUE, key)) / 1e6
            self.assertTrue(-60 < due - seconds - now < 60, (due, seconds, now))
            if ended is leased:
                self.server.call("ZADD", ENDS_DUE, "1", key)

        late = await b.tell()
        self.assertEqual((late.complete, list(late.records)), (True, [other]))
        self.assertFalse((await b.tell()).complete)

    async def test_as_the_ledger_does(self) -> None:
        """Random messages, with leases that are over at once or never, and room for all ends or for few."""
        for seed in range(20):
            self.server.call("FLUSHALL")
            await self._compare(Random(seed), MOST_ENDS if seed % 2 else seed // 4)

    async def _compare(self, random: Random, most_ends: int) -> None:
        ledger = Ledger("life", Clock().seconds, most_ends)
        stores = {name: await self._store_with_room(most_ends) for name in "abc"}
        seen: dict[str, Position | None] = dict.fromkeys(stores)
        positions: list[tuple[Position | None, Position | None]] = [(None, None)]
        for _ in range(40):
            name = random.choice("abc")
            mine, its = random.choice(positions[-5:]) if seen[name] else (None, None)
            message = _random_message(random, name)
            expected = ledger.exchange(evolve(message, since=mine))
            news = await stores[name].exchange(evolve(message, since=its))
            self.assertEqual(_comparable(news), _comparable(expected))
            seen[name] = news.position
            positions.append((expected.position, news.position))

    async def _store_with_room(self, most_ends: int) -> Store:
        store = RedisStore(RedisUrl(((LOOPBACK, self.server.port),)), reactor, Keyring(), most_ends)
        self.addCleanup(store.close)
        await store.open(lambda: None)
        return store

    async def test_foreign_data(self) -> None:
        """They stay as they are, and the store isn't used."""
        spoilers: list[tuple[list[str], str]] = [
            (["HSET", STATE, "format", "2"], f"has data of format 2, and this release has {FORMAT}"),
            (["HSET", RECORDS, "what", "ever"], "holds something else"),
            (["HSET", RECORDS, '"policy":"111","id":"100","holder":""', '1\tstands\t1\t{"policy":1}'], "no record"),
            (["DEL", STATE], "some of its data are missing"),
            (["DEL", CHANGES], "some of its data are missing"),
            (["ZADD", ENDED, "1", "x"], "some of its data are missing"),
            (["SET", RECORDS, "x"], "in use for something else"),
            (["SET", PROCESSES, "x"], "in use for something else"),
        ]
        for spoiler, text in spoilers:
            self.server.call("FLUSHALL")
            a = await self.process("a")
            # With something to do for whoever comes next.
            await a.tell(record(), record("2", holder="a", lease=0.0))
            self.server.call(*spoiler)
            before = self._all_data()

            self.assertIn(text, await fails(store_at(self.server.port).open(lambda: None), StoreRefusedError))
            self.assertEqual(self._all_data(), before)
            if "HSET" not in spoiler or "format" in spoiler:
                await fails(a.store.exchange(Message("a")), StoreError)

    def _all_data(self) -> list[str]:
        return sorted(self.server.call("DUMP", key) for key in self.server.call("KEYS", "*").split())

    def test_what_it_is_called(self) -> None:
        """Without what nobody should see."""
        names = {
            "redis://10.0.0.1:6379/2": RedisUrl((("10.0.0.1", 6379),), db=2, username="u", password="hidden"),
            "rediss://[::1]:6379/0?prefix=p": RedisUrl((("::1", 6379),), prefix="p", tls=Files("system")),
            "redis+sentinel://a:1,b:2/main/0": RedisUrl((("a", 1), ("b", 2)), "main"),
        }
        for name, url in names.items():
            self.assertEqual(str(RedisStore(url, reactor, Keyring())), name)


def _random_message(random: Random, name: str) -> Message:
    def server() -> str:
        return str(random.randrange(6))

    def one() -> Record:
        lease = random.choice((None, 0.0, LONG))
        told = record(server(), holder=random.choice((name, NOBODY)), version=random.randrange(1, 9), lease=lease)
        return told if random.random() < 0.7 else told.ended()

    return Message(
        name,
        None,
        [one() for _ in range(random.choice((0, 0, 1, 4)))],
        {("111", server(), name): random.choice((-1.0, 0.0, LONG)) for _ in range(random.choice((0, 1, 4)))},
        random.random() < 0.1,
    )


def _comparable(news: News) -> tuple[Any, ...]:
    over = news.wait is not None and news.wait <= 0
    known = news.wait if news.wait is None else over
    return news.position.sequence, list(news.records), news.complete, list(news.missing), news.processes, known


@without_redis
class FailureTests(RedisCase):
    """A server that goes, hangs, comes back, or isn't one."""

    async def test_gone_and_back_empty(self) -> None:
        """A new life begins, so that everybody hears that nothing is there."""
        server = self.start()
        a = await self.process_at("a", server.port)
        before = (await a.tell(record())).position

        server.kill()
        self.assertIn("lost", await fails(a.store.exchange(Message("a"))))
        self.assertIn("connected", await fails(a.store.open(lambda: None)))
        self.assertIn("isn't open", await fails(a.store.exchange(Message("a"))))
        server.start()
        await a.open()

        news = await a.tell()
        self.assertNotEqual(news.position.life, before.life)
        self.assertEqual((news.complete, list(news.records)), (True, []))

    async def test_emptied_meanwhile(self) -> None:
        """Nobody noticed, as no connection was lost."""
        server = self.start()
        a = await self.process_at("a", server.port)
        before = (await a.tell(record())).position
        server.call("FLUSHALL")

        news = await a.tell()

        self.assertNotEqual(news.position.life, before.life)
        self.assertEqual((news.complete, list(news.records)), (True, []))

    async def test_gone_and_back_with_its_data(self) -> None:
        """The life goes on; and the script, which is gone, is given again."""
        server = self.start("appendonly yes", "appendfsync always")
        a = await self.process_at("a", server.port)
        before = (await a.tell(record(), record("2", holder="a", lease=LONG))).position

        server.kill()
        await fails(a.store.exchange(Message("a")))
        server.start()
        await self.opened(a)

        self.assertEqual((await a.tell()).position, before)
        self.assertEqual(set(await a.everything()), {"100", "2a"})

    async def test_without_its_scripts(self) -> None:
        server = self.start()
        a = await self.process_at("a", server.port)
        await a.tell(record())
        server.call("SCRIPT", "FLUSH")

        self.assertFalse((await a.tell()).complete)

    async def test_paused(self) -> None:
        """It still accepts connections. Who waits isn't kept waiting, and all goes on afterwards."""
        server = self.start()
        a = await self.process_at("a", server.port)
        await a.tell(record())
        server.pause()
        self.addCleanup(server.resume)

        exchange, another = a.store.exchange(Message("a")), a.store.exchange(Message("a"))
        self.assertIn("doesn't answer", await fails(exchange))
        self.assertIn("doesn't answer", await fails(another))
        self.assertIn("doesn't answer", await fails(a.store.open(lambda: None)))
        server.resume()
        await self.opened(a)

        self.assertEqual(set(await a.everything()), {"100"})

    async def test_an_exchange_that_is_given_up(self) -> None:
        """What became of it isn't known, so the store has to be opened again."""
        server = self.start()
        a = await self.process_at("a", server.port)
        server.pause()
        self.addCleanup(server.resume)
        exchange = a.store.exchange(Message("a", None, [record()]))
        exchange.cancel()

        for failing in exchange, a.store.exchange(Message("a")):
            self.assertEqual(await fails(failing), "given up")
        server.resume()
        await self.opened(a)
        await a.tell()

    async def test_only_the_notes_are_lost(self) -> None:
        """Then the store has to be opened again: what was published meanwhile is missed."""
        server = self.start()
        a = await self.process_at("a", server.port)
        await a.tell()
        server.call("CLIENT", "KILL", "TYPE", "pubsub")

        async def fails() -> bool:
            try:
                await a.tell()
            except StoreError:
                return True
            return False

        await until(fails)
        before = a.calls
        await a.open()
        self.assertGreater(a.calls, before)
        self.assertEqual(server.call("PUBSUB", "NUMSUB", "{rproxy}:changed").split()[-1], "1")

    async def test_passwords(self) -> None:
        """What is wrong is said, and what was tried isn't."""
        server = self.start("requirepass right", "user u on >hidden ~* &* +@all", "user poor on >poor ~* +auth")
        for settings, text in (
            ({"password": "wrong"}, "doesn't take the password"),
            ({"username": "u", "password": "wrong"}, "doesn't take the password"),
            ({"username": "poor", "password": "poor"}, "may not do"),
            ({}, "wants a password"),
        ):
            why = await fails(self.store(server.port, **settings).open(lambda: None))
            self.assertIn(text, why)
            self.assertNotIn("wrong", why)
        for settings in ({"password": "right"}, {"username": "u", "password": "hidden"}):
            self.assertEqual((await (await self.process_at("a", server.port, **settings)).tell()).processes, 1)
        self.assertIn("none set", await fails(self.store(self.start().port, password="right").open(lambda: None)))

    async def test_what_its_user_has_to_be_allowed(self) -> None:
        """No more than docs/howto/scaling.rst says, as test_docs finds."""
        server = self.start(f"user p on >hidden {ALLOWED}")
        a = await self.process_at("a", server.port, username="p", password="hidden")
        leased = record("1", holder="a", lease=0.0)

        await a.tell(leased, record("2").ended())
        self.assertEqual(list((await a.tell(renewed={leased.key: 1.0})).records), [leased.ended()])
        await fails(self.store(server.port, username="p", password="hidden", prefix="q").open(lambda: None))

    async def test_a_replica(self) -> None:
        """It takes no changes, which is noticed when it is opened."""
        master = self.start()
        replica = self.start(f"replicaof {LOOPBACK} {master.port}")

        self.assertIn("is a replica", await fails(self.store(replica.port).open(lambda: None)))

    async def test_full(self) -> None:
        server = self.start()
        a = await self.process_at("a", server.port)
        server.call("CONFIG", "SET", "maxmemory", "1")

        self.assertIn("memory is full", await fails(a.store.exchange(Message("a", None, [record()]))))
        server.call("CONFIG", "SET", "maxmemory", "0")
        await a.open()
        self.assertEqual(await a.everything(), {})

    async def test_no_redis(self) -> None:
        """Somebody who speaks another protocol."""
        for said in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff\x00\r\n"):
            port = await self.listen(said)
            self.assertIn("is no Redis", await fails(self.store(port).open(lambda: None), StoreRefusedError))

    async def test_nobody_answers(self) -> None:
        """Not even by refusing, as behind a cable that was pulled; whoever waits can also give up."""
        with socket.socket() as full:
            full.bind((LOOPBACK, 0))
            full.listen(0)
            port = full.getsockname()[1]
            # The kernel takes one more than that, and then lets nobody know.
            with socket.create_connection((LOOPBACK, port)):
                dialer = Dialer(reactor, Keyring(), None, Count())
                with self.assertRaisesRegex(StoreError, "doesn't answer"):
                    await dialer.dial(LOOPBACK, port, 0.05)
                store = self.store(port)
                opening = store.open(lambda: None)
                await deferLater(reactor, 0.05)
                await store.close()
                await fails(opening)

    async def test_odd_answers(self) -> None:
        """Of somebody who speaks the protocol, and isn't a Redis."""
        for said in (b":1\r\n", b"+OK\r\n" * 9, b"$x\r\n", b"$0\r\n\r\n" * 9):
            port = await self.listen(said)
            deferred = self.store(port).open(lambda: None)
            with self.assertRaises((StoreError, StoreRefusedError)):
                await deferred

    async def test_closed_while_it_opens(self) -> None:
        """Nothing of it stays, wherever it was."""
        server = self.start()
        server.pause()
        for seconds in (0.0, 0.05):
            store = self.store(server.port)
            opening = store.open(lambda: None)
            await deferLater(reactor, seconds)
            await store.close()
            await fails(opening)
