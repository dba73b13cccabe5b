"""Tests for ``rproxy.stores.worker``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.trial.unittest import TestCase

from rproxy.stores.worker import Worker
from tests.contract import SHORT


class WorkerTests(TestCase):
    """The thread."""

    def worker(self, look: Callable[[], object] = lambda: None) -> Worker:
        worker = Worker(reactor, look, SHORT)
        self.addCleanup(worker.stop)
        return worker

    async def test_it_does_things_in_order(self) -> None:
        done: list[int] = []
        worker = self.worker()

        def do(number: int) -> int:
            done.append(number)
            return threading.get_ident()

        threads = await gatherResults([worker.do(partial(do, number)) for number in range(9)])

        self.assertEqual(done, list(range(9)))
        self.assertEqual(len(set(threads)), 1)
        self.assertNotIn(threading.get_ident(), threads)

    async def test_it_looks_around(self) -> None:
        """More than once, if nothing is to be done."""
        looked: Deferred[None] = Deferred()
        times: list[None] = []

        def look() -> None:
            times.append(None)
            if len(times) == 2:
                reactor.callFromThread(looked.callback, None)  # type: ignore[attr-defined]  # the module's stand-in

        self.worker(look)
        await looked

    async def test_a_look_that_fails(self) -> None:
        """Is logged once, and the thread goes on."""
        looked: Deferred[None] = Deferred()
        times: list[None] = []

        def look() -> None:
            times.append(None)
            if len(times) == 3:
                reactor.callFromThread(looked.callback, None)  # type: ignore[attr-defined]  # the module's stand-in
            raise ZeroDivisionError

        worker = self.worker(look)
        await looked

        self.assertEqual(await worker.do(lambda: 5), 5)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_what_fails(self) -> None:
        worker = self.worker()
        with self.assertRaises(ZeroDivisionError):
            await worker.do(lambda: 1 / 0)
        self.assertEqual(await worker.do(lambda: 5), 5)

    async def test_what_is_given_up(self) -> None:
        """It isn't done once what hung goes on."""
        done: list[int] = []
        goes_on = threading.Event()
        self.addCleanup(goes_on.set)
        worker = self.worker()
        hanging = worker.do(goes_on.wait)
        given_up = [worker.do(partial(done.append, number)) for number in range(3)]
        last = worker.do(partial(done.append, 3))
        for each in given_up:
            each.cancel()
            await self.assertFailure(each, CancelledError)
        goes_on.set()
        await hanging
        await last

        self.assertEqual(done, [3])
