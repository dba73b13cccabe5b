"""What every store of registrations has to do, as test cases that are the same for all of them.

A test module of a store has a subclass of :class:`StoreContract` and of trial's ``TestCase``. Time is real here, as the
stores' clocks are: nothing waits for longer than it takes, and nothing says how long that is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from rproxy.registry.records import NOBODY, Record
from rproxy.registry.registration import Registration
from rproxy.stores import Message, News, Position, Store

#: Seconds: too short to be still there, and too long to be over, by the end of a test.
SHORT = 0.05
LONG = 600.0


def registration(server_id: str = "100", *, lease: float | None = None, port: int = 5000) -> Registration:
    """One with all its fields set to something."""
    return Registration(
        policy="111",
        server_id=server_id,
        host="10.0.0.7",
        port=port,
        pipeline=16,
        connections=2,
        weight=3,
        lease=lease,
        names=frozenset({"pool.example", "b.example"}),
        token=b"\x00\xff" * 16,
    )


def record(
    server_id: str = "100", *, holder: str = NOBODY, version: int = 1, lease: float | None = None, port: int = 5000
) -> Record:
    """A record of a server that serves policy 111."""
    return Record("111", server_id, holder, version, registration(server_id, lease=lease, port=port))


class Process:
    """One process that uses the store."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.store = store
        self.calls = 0
        self.position: Position | None = None

    async def open(self) -> Process:
        await self.store.open(self._changed)
        return self

    def _changed(self) -> None:
        self.calls += 1

    async def tell(self, *records: Record, **renewed: Any) -> News:
        """Tell these, and be told what is new."""
        news = await self.store.exchange(Message(self.name, self.position, records, **renewed))
        self.position = news.position
        return news

    async def everything(self) -> dict[str, Record]:
        """All that there is, by server id and holder; without ends."""
        news = await self.store.exchange(Message(self.name))
        assert news.complete
        return {f"{each.server_id}{each.holder}": each for each in news.records if each.registration is not None}


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something that comes about; the test's timeout ends it if it doesn't."""
    while not await true():
        await deferLater(reactor, 0.01)


class StoreContract:
    """The test cases."""

    timeout = 30.0

    # From trial's TestCase.
    assertEqual: Callable[..., None]
    assertTrue: Callable[..., None]
    assertFalse: Callable[..., None]
    assertIsNone: Callable[..., None]
    assertNotEqual: Callable[..., None]
    addCleanup: Callable[..., None]

    def make_store(self) -> Store:
        """One more process's access to this test's store, which begins empty."""
        raise NotImplementedError

    async def process(self, name: str) -> Process:
        """One more process, which has opened the store."""
        process = Process(name, self.make_store())
        self.addCleanup(process.store.close)
        return await process.open()

    def run_async(self, test: Awaitable[None]) -> Deferred[None]:
        return Deferred.fromCoroutine(test)  # type: ignore[arg-type]  # every awaitable here is a coroutine

    async def test_a_record_comes_back_as_it_was(self) -> None:
        """At another process, with each of its fields."""
        a, b = await self.process("a"), await self.process("b")
        told = record(holder="a", version=(1 << 52) + 1, lease=LONG)

        await a.tell(told)

        self.assertEqual(await b.everything(), {"100a": told})

    async def test_what_is_new(self) -> None:
        """A process is told what changed since it asked, and nothing twice."""
        a, b = await self.process("a"), await self.process("b")
        first = await b.tell()
        self.assertTrue(first.complete)
        self.assertEqual(list(first.records), [])

        await a.tell(record("1"), record("2"))
        second = await b.tell()
        await a.tell(record("1").ended(version=2))
        third = await b.tell()
        fourth = await b.tell()

        self.assertFalse(second.complete or third.complete or fourth.complete)
        self.assertEqual(list(second.records), [record("1"), record("2")])
        self.assertEqual(list(third.records), [record("1").ended(version=2)])
        self.assertEqual(list(fourth.records), [])

    async def test_the_others_are_called(self) -> None:
        """Who doesn't ask is called when there is something new."""
        a, b = await self.process("a"), await self.process("b")
        before = b.calls

        await a.tell(record())

        async def called() -> bool:
            return b.calls > before

        await until(called)

    async def test_only_what_is_newer_is_kept(self) -> None:
        a = await self.process("a")
        newer = record(version=5, port=5001)

        await a.tell(newer)
        await a.tell(record(version=4, port=5002))

        self.assertEqual(await a.everything(), {"100": newer})

    async def test_an_end_is_final(self) -> None:
        """The record that was ended doesn't come back; a newer one does."""
        a = await self.process("a")
        await a.tell(record(version=5))
        await a.tell(record(version=5).ended())

        await a.tell(record(version=5))
        self.assertEqual(await a.everything(), {})

        await a.tell(record(version=6))
        self.assertEqual(await a.everything(), {"100": record(version=6)})

    async def test_time_of_being_down(self) -> None:
        """It changes a record without making it newer."""
        a, b = await self.process("a"), await self.process("b")
        await a.tell(record())
        await b.tell()

        await a.tell(evolve(record(), down=7.5))

        self.assertEqual(list((await b.tell()).records), [evolve(record(), down=7.5)])

    async def test_holders_have_records_of_their_own(self) -> None:
        a, b = await self.process("a"), await self.process("b")
        await a.tell(record(holder="a", lease=LONG))
        await b.tell(record(holder="b", lease=LONG), record())

        await b.tell(record(holder="b", version=2).ended(version=2))

        self.assertEqual(set(await a.everything()), {"100", "100a"})

    async def test_a_lease_runs_out(self) -> None:
        """Whoever asks ends it, and all are told; what is renewed and what has no lease stays."""
        a, b = await self.process("a"), await self.process("b")
        await a.tell(record("1", holder="a", lease=SHORT), record("2", holder="a", lease=SHORT * 4), record("3"))
        news = await a.tell(renewed={("111", "2", "a"): LONG})
        self.assertEqual(list(news.missing), [])

        async def over() -> bool:
            return "1a" not in await b.everything()

        await until(over)

        self.assertEqual(set(await b.everything()), {"2a", "3"})
        self.assertEqual(list((await a.tell()).records)[-1], record("1", holder="a", lease=SHORT).ended())

    async def test_nobody_is_called_for_a_renewal(self) -> None:
        """It changes nothing that others need to know."""
        a, b = await self.process("a"), await self.process("b")
        await a.tell(record("1", holder="a", lease=LONG))
        await b.tell()

        await a.tell(renewed={("111", "1", "a"): LONG})

        self.assertEqual(list((await b.tell()).records), [])

    async def test_how_long_to_wait(self) -> None:
        """For the next lease that runs out."""
        a = await self.process("a")
        self.assertIsNone((await a.tell(record())).wait)

        await a.tell(record("1", holder="a", lease=LONG))
        wait = (await a.tell(record("2", holder="a", lease=LONG / 2))).wait

        assert wait is not None
        self.assertTrue(LONG / 4 < wait <= LONG / 2, wait)

    async def test_renewing_what_is_over(self) -> None:
        """The holder is told, and may put it again."""
        a = await self.process("a")
        await a.tell(record("1", holder="a", lease=LONG))
        await a.tell(record("1", holder="a", lease=LONG).ended())
        keys = {("111", "1", "a"): LONG, ("111", "2", "a"): LONG}

        news = await a.tell(renewed=keys)

        self.assertEqual(set(news.missing), set(keys))
        await a.tell(record("1", holder="a", version=2, lease=LONG))
        self.assertEqual(set(await a.everything()), {"1a"})

    async def test_who_shares_it(self) -> None:
        """As long as they say something, and until they leave."""
        a, b = await self.process("a"), await self.process("b")
        self.assertEqual((await a.tell()).processes, 1)
        self.assertEqual((await b.tell()).processes, 2)

        await a.tell(leaves=True)

        self.assertEqual((await b.tell()).processes, 1)

    async def test_a_position_of_another_life(self) -> None:
        """Who comes with what another store said is told everything."""
        a = await self.process("a")
        await a.tell(record())
        assert a.position is not None

        for foreign in (evolve(a.position, life="another"), evolve(a.position, sequence=a.position.sequence + 1)):
            a.position = foreign
            news = await a.tell()
            self.assertTrue(news.complete)
            self.assertEqual(list(news.records), [record()])

    async def test_much_at_once(self) -> None:
        """A process that comes back has all of its servers to tell of."""
        a, b = await self.process("a"), await self.process("b")
        many = [record(str(number), holder="a", lease=LONG) for number in range(2000)]

        await a.tell(*many)
        await a.tell(renewed={each.key: LONG for each in many})

        self.assertEqual(list((await b.tell()).records), many)

    async def test_it_has_a_name(self) -> None:
        self.assertNotEqual(str(self.make_store()), "")
