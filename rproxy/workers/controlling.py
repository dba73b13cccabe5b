"""The control of several processes: all are asked, and what they answer is put together.

A worker that hangs is waited for for :data:`SECONDS`; its part is left out then, and ``missing`` of the figures says
so. What it was told to do it does when it goes on.

What is drained is the parent's to know. Each worker starts with that, and is told all of it whenever it changes; as a
channel keeps the order, each ends with what was said last. What operators do counts in the order in which they asked.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.control import ControlError, HeldElsewhereError, matching
from rproxy.control.reporting import Explanation
from rproxy.figures import Figures
from rproxy.figures.happenings import Happening
from rproxy.policies import Peer
from rproxy.registry.registration import Key
from rproxy.workers.merging import Merged
from rproxy.workers.processes import Process
from rproxy.workers.remembering import Memory
from rproxy.workers.supervising import Supervisor

#: For an answer.
SECONDS = 2.0
#: Questions at a time. Workers take some more, and those that must reach them come the same way: to stop, to reload,
#: and whether they are alive.
MOST = 16
#: Between two looks at what happened.
INTERVAL = 0.5

NOBODY = "no process of the proxy answers: its log says what they do"

T = TypeVar("T")


class _Shared(Generic[T]):
    """What several may ask for at a time, and is found out once for all of them.

    So however many look on, workers are asked one such question: they take so many only, and the rest is for what they
    have to be told.
    """

    def __init__(self, find: Callable[[], Coroutine[Deferred[Any], Any, T]]) -> None:
        self._find = find
        #: Who waits for what is being found out.
        self._readers: list[Deferred[T]] = []

    def get(self) -> Deferred[T]:
        reader: Deferred[T] = Deferred()
        self._readers.append(reader)
        if len(self._readers) == 1:
            Deferred.fromCoroutine(self._find()).addBoth(self._tell)
        return reader

    def _tell(self, result: T | Failure) -> None:
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.callback(result)


class WorkersControl:
    """See :class:`rproxy.control.Control`."""

    _logger = Logger()

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._workers = supervisor.workers
        self._merged = Merged()
        self._memory = Memory()
        self._drained: frozenset[Key] = frozenset()
        #: Whose turn it is to change that.
        self._turns = DeferredLock()
        self._shared_figures = _Shared(self._figures)
        self._shared_happenings = _Shared(self._happenings)
        #: How much is being asked.
        self._asking = 0

    @property
    def is_ready(self) -> bool:
        return self._supervisor.is_serving

    def figures(self) -> Deferred[Figures]:
        return self._shared_figures.get()

    async def _figures(self) -> Figures:
        with self._room():
            answers = await self._ask("figures")
        there = self._workers.processes
        self._memory.hear({process: msgspec.convert(answer, Figures) for process, answer in answers.items()}, there)
        answering = [process for process in there if process in answers]
        if not answering:
            raise ControlError(NOBODY)
        figures = self._memory.together(answering)
        figures.missing = [process.number for process in there if process not in answers]
        if not self._supervisor.running:
            figures.state = "draining"
        return figures

    def explain(self, policy: str, client: Peer) -> Deferred[Sequence[Explanation]]:
        return Deferred.fromCoroutine(self._explain(policy, client))

    async def _explain(self, policy: str, client: Peer) -> Sequence[Explanation]:
        with self._room():
            answers = await self._ask("explain", policy=policy, client=client.host)
        return [msgspec.convert(answer, Explanation) for answer in answers.values()]

    def drain(self, server_id: str, policy: str | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._drain(server_id, policy))

    async def _drain(self, server_id: str, policy: str | None) -> int:
        with self._room():
            # Its place in the order is that of the question, however long the answers take.
            turn = self._turns.acquire()
            try:
                keys = await self._find(server_id, policy)
                await turn
                told = self._set_drained(self._drained | keys)
            finally:
                turn.addCallback(lambda _: self._turns.release())
            await told
        return len(keys)

    def resume(self, server_id: str, policy: str | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._resume(server_id, policy))

    async def _resume(self, server_id: str, policy: str | None) -> int:
        with self._room():
            async with self._turns:
                keys = matching(self._drained, server_id, policy)
                told = self._set_drained(self._drained.difference(keys))
            await told
        return len(keys)

    def revoke(self, server_id: str, policy: str | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._revoke(server_id, policy))

    async def _revoke(self, server_id: str, policy: str | None) -> int:
        with self._room():
            keys = await self._find(server_id, policy)
            told = await self._workers.tell("end", SECONDS, keys=sorted(keys))
        if None in told:
            # Who hangs ends them when it goes on.
            return len(keys)
        # What one worker holds stands at the others until they hear of its end.
        workers = {holder for holder, _ in told}
        left = {(name, server) for _, leases in told for name, server, holder in leases if holder not in workers}
        if keys and left == keys:
            raise HeldElsewhereError
        return len(keys - left)

    def _set_drained(self, keys: Iterable[Key]) -> Deferred[list[Any]]:
        """Fires when the workers have heard it."""
        self._drained = frozenset(keys)
        return self._workers.tell("set_drained", SECONDS, keys=self.drained)

    async def _find(self, server_id: str, policy: str | None) -> set[Key]:
        answers = await self._ask("find", server_id=server_id, policy=policy)
        return {(name, server) for answer in answers.values() for name, server in answer}

    def happenings(self) -> Deferred[Sequence[Happening]]:
        return self._shared_happenings.get()

    async def _happenings(self) -> Sequence[Happening]:
        since = {str(process.number): self._merged.last_of(process) for process in self._workers.processes}
        answers = await self._workers.ask("happenings", SECONDS, since=since)
        self._merged.take({process: msgspec.convert(answer, list[Happening]) for process, answer in answers.items()})
        return self._merged.lately

    def listen(self, listener: Callable[[Happening], object]) -> Callable[[], None]:
        return self._merged.listen(listener)

    # From the parent.

    def look(self) -> None:
        """Collect what happened; called every now and then."""
        self.happenings().addErrback(
            lambda failure: self._logger.failure("Can't collect what happened", failure, event="happenings-mishandled")
        )

    @property
    def drained(self) -> list[Key]:
        """What a worker that is started now has to know."""
        return sorted(self._drained)

    @contextmanager
    def _room(self) -> Iterator[None]:
        if self._asking >= MOST:
            raise ControlError("too much is asked at once: try again in a moment")
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1

    async def _ask(self, name: str, **arguments: Any) -> dict[Process, Any]:
        answers = await self._workers.ask(name, SECONDS, **arguments)
        if not answers:
            raise ControlError(NOBODY)
        return answers
