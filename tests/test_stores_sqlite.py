"""Tests for ``rproxy.stores.sqlite``: the contract, and what becomes of a store whose file fails."""

from __future__ import annotations

import os
import resource
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from rproxy.stores import Message, Store, StoreError, StoreRefusedError, sqlite
from rproxy.stores.sqlite import SqliteStore, boot_id
from tests.contract import LONG, SHORT, Process, StoreContract, record, until

ROOT = Path(__file__).parent.parent


class SqliteStoreTests(StoreContract, TestCase):
    """The contract, and what becomes of a store whose file fails."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.path = self.folder / "registry"
        self.boot = "boot"

    def make_store(self) -> Store:
        return SqliteStore(self.path, reactor, boot=self.boot)

    def open_files(self) -> list[Path]:
        """Those that this process has open in the folder, and the folder itself."""
        links = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return sorted(link for link in links if link.is_relative_to(self.folder))

    async def fails(self, awaited: Deferred[Any], text: str = "") -> None:
        with self.assertRaisesRegex(StoreError, text):
            await awaited

    async def test_it_outlives_who_uses_it(self) -> None:
        a = await self.process("a")
        await a.tell(record("1"), record("2", holder="a", lease=LONG))
        await a.store.close()

        b = await self.process("b")

        self.assertEqual(set(await b.everything()), {"1", "2a"})

    async def test_another_start_of_the_machine(self) -> None:
        """Ends all leases, and nothing else."""
        a = await self.process("a")
        await a.tell(record("1"), record("2", holder="a", lease=LONG))
        await a.store.close()
        self.boot = "another boot"

        b = await self.process("b")
        news = await b.tell()

        self.assertEqual(list(news.records), [record("1"), record("2", holder="a", lease=LONG).ended()])
        self.assertEqual(news.processes, 1)

    async def test_which_start_that_is(self) -> None:
        """Whoever sees it and whoever is told by systemd say the same."""
        seen = boot_id({})
        self.assertEqual(seen, Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        self.assertEqual(boot_id({"RPROXY_BOOT_ID": seen.replace("-", "")}), seen)

    async def test_two_machines_at_once(self) -> None:
        """Their clocks have nothing to do with each other, so who was there first is told, and opens it again."""
        a = await self.process("a")
        self.boot = "another boot"
        await self.process("b")

        await self.fails(a.store.exchange(Message("a")), "another machine")

    async def test_before_it_is_open_and_after(self) -> None:
        store = self.make_store()
        await self.fails(store.exchange(Message("a")), "it isn't open")
        await store.close()
        process = await self.process("a")
        await process.store.close()
        await process.store.close()
        await self.fails(process.store.exchange(Message("a")), "it isn't open")
        await process.open()
        await process.tell()

    async def test_closing_waits_for_what_runs(self) -> None:
        a = await self.process("a")
        told = [a.store.exchange(Message("a", records=[record(str(number))])) for number in range(20)]

        await a.store.close()

        self.assertEqual(len([self.successResultOf(each) for each in told]), 20)

    async def test_closing_a_file_that_hangs(self) -> None:
        """The reactor goes on, and who closes it needn't wait for longer than the bound; the thread ends later."""
        self.patch(sqlite, "CLOSING", SHORT)
        before = threading.active_count()
        a = await self.process("a")
        assert isinstance(a.store, SqliteStore)
        assert a.store._worker is not None
        goes_on = threading.Event()
        self.addCleanup(goes_on.set)
        hanging = a.store._worker.do(goes_on.wait)

        await a.store.close()

        self.assertNoResult(hanging)
        goes_on.set()
        self.assertTrue(await hanging)

        async def has_ended() -> bool:
            return threading.active_count() <= before

        await until(has_ended)

    async def test_nothing_is_left(self) -> None:
        """Neither threads nor open files, also where it couldn't be opened."""
        before = threading.active_count(), self.open_files()
        for path in self.path, self.folder / "nowhere" / "registry", self.folder:
            store = SqliteStore(path, reactor, boot="boot")
            for _ in range(3):
                await store.open(lambda: None).addErrback(lambda _: None)
            await store.close()

        self.assertEqual((threading.active_count(), self.open_files()), before)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["registry", "registry-lock"])

    async def test_deleted(self) -> None:
        """Who uses it is told, and begins a new one; the others come to it too."""
        a, b = await self.process("a"), await self.process("b")
        await a.tell(record())
        self.path.unlink()

        await self.fails(a.store.exchange(Message("a")), "deleted or replaced")
        await a.open()
        news = await a.tell(record("2"))
        self.assertTrue(news.complete)
        await self.fails(b.store.exchange(Message("b")), "deleted or replaced")
        await b.open()

        self.assertEqual(await b.everything(), {"2": record("2")})
        await a.tell(record("3"))
        self.assertEqual(list((await b.tell()).records), [record("2"), record("3")])

    async def test_deleted_while_another_process_uses_it(self) -> None:
        """That process neither disturbs the new one, nor takes it away when it lets go of the old one."""
        script = (
            "import sys; from pathlib import Path; from rproxy.stores import Message\n"
            "from rproxy.stores.databases import open_database; from tests.contract import record\n"
            "database = open_database(Path(sys.argv[1]), 'boot', 0.0)\n"
            "for number in range(50):\n"
            "    database.tables.exchange(Message('b', records=[record(str(number))]), 0.0)\n"
            "print('told', flush=True); sys.stdin.read(); database.connection.close()\n"
        )
        with Popen([sys.executable, "-c", script, self.path], stdin=PIPE, stdout=PIPE, cwd=ROOT) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            self.path.unlink()
            a = await self.process("a")
            await a.tell(record("1"), record("2"))
            child.stdin.close()
            self.assertEqual(child.wait(), 0)
        await a.tell(record("3"))

        b = await self.process("b")
        self.assertEqual(set(await b.everything()), {"1", "2", "3"})
        await a.store.close()
        await b.store.close()
        self.assertEqual(set(await (await self.process("c")).everything()), {"1", "2", "3"})

    async def test_emptied(self) -> None:
        """The same as deleted."""
        a, b = await self.process("a"), await self.process("b")
        await a.tell(record())
        os.truncate(self.path, 0)

        for process in a, b:
            await self.fails(process.store.exchange(Message("a")), "deleted or replaced")
            await process.open()
        await a.tell(record("2"))

        self.assertEqual(await b.everything(), {"2": record("2")})

    async def test_locked(self) -> None:
        """For longer than it waits; and when it isn't any more, it goes on."""
        a = await self.process("a")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await self.fails(a.store.exchange(Message("a", records=[record()])), "locked")

        await a.open()
        await a.tell(record())

    async def test_no_room(self) -> None:
        """For another byte of the file: nothing of the message is kept, and later ones are."""
        a = await self.process("a")
        await a.tell(record("1"))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        try:
            many = [record(str(number)) for number in range(2000)]
            await self.fails(a.store.exchange(Message("a", records=many)))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        await a.open()

        self.assertEqual(await a.everything(), {"1": record("1")})
        await a.tell(record("2"))
        self.assertEqual(set(await a.everything()), {"1", "2"})

    async def test_what_is_no_record(self) -> None:
        """Whoever put it there meanwhile; later it is refused."""
        a = await self.process("a")
        await a.tell(record())
        with closing(sqlite3.connect(self.path)) as other, other:
            other.execute("UPDATE records SET record = '{}'")

        await self.fails(a.store.exchange(Message("a")), "no record of a registration")
        with self.assertRaisesRegex(StoreRefusedError, "is damaged .no record of a registration"):
            await a.open()

    async def test_without_a_state(self) -> None:
        """Whoever took it away meanwhile: the next exchange tells, and the thread goes on."""
        a = await self.process("a")
        with closing(sqlite3.connect(self.path)) as other, other:
            other.execute("DELETE FROM state")
        assert isinstance(a.store, SqliteStore)
        assert a.store._worker is not None
        # It tells of nothing, and is called by the thread only.
        self.assertIsNone(await a.store._worker.do(a.store._look))

        await self.fails(a.store.exchange(Message("a")), "its state is missing")
        with self.assertRaisesRegex(StoreRefusedError, "is damaged .its state is missing"):
            await a.open()

    async def test_several_processes_at_once(self) -> None:
        """All begin at the same moment, where there is nothing; each of their records is there in the end."""
        script = (
            "import sys; from pathlib import Path; from rproxy.stores import Message\n"
            "from rproxy.stores.databases import open_database; from tests.contract import record\n"
            "sys.stdin.read(1); database = open_database(Path(sys.argv[1]), 'boot', 0.0)\n"
            "for number in range(30):\n"
            "    told = Message(sys.argv[2], records=[record(f'{sys.argv[2]}.{number}')])\n"
            "    database.tables.exchange(told, 0.0)\n"
            "database.connection.close()\n"
        )
        children = [
            Popen([sys.executable, "-c", script, self.path, str(number)], stdin=PIPE, cwd=ROOT) for number in range(4)
        ]
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"x")
            child.stdin.close()
        self.assertEqual([child.wait() for child in children], [0] * 4)

        a = await self.process("a")

        self.assertEqual(len(await a.everything()), 4 * 30)
        assert a.position is None
        self.assertEqual((await a.tell()).position.sequence, 4 * 30)

    async def test_opening_at_once(self) -> None:
        """In one process, for want of more."""
        processes = [Process(str(number), self.make_store()) for number in range(8)]
        for process in processes:
            self.addCleanup(process.store.close)

        await gatherResults([Deferred.fromCoroutine(process.open()) for process in processes])
        await processes[0].tell(record())

        self.assertEqual([set(await process.everything()) for process in processes], [{"100"}] * 8)
