"""The control of several processes: all are asked, and what they answer is put together.

A worker that hangs is waited for for :data:`SECONDS`; its part is left out then, and ``missing`` of the figures says
so. What it was told to do it does when it goes on. What is drained is the parent's to know, because a worker that
replaces another knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rproxy.controlling import ControlError
from rproxy.figures import Figures
from rproxy.happenings import Happening
from rproxy.policies import Peer
from rproxy.registration import Key
from rproxy.reporting import Explanation
from rproxy.workers.merging import Merged
from rproxy.workers.remembering import Memory
from rproxy.workers.supervising import Supervisor

#: For an answer.
SECONDS = 2.0
#: Questions at a time. Workers take some more, and those that must reach them come the same way: to stop, to reload,
#: and whether they are alive.
MOST = 16
#: Between two looks at what happened.
INTERVAL = 0.5


class WorkersControl:
    """See :class:`rproxy.controlling.Control`."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._merged = Merged()
        self._memory = Memory()
        self._drained: set[Key] = set()
        #: Who waits for the figures that are being gathered, and how much else is being asked.
        self._readers: list[Deferred[Figures]] = []
        self._asking = 0
        self._looking = False

    @property
    def is_ready(self) -> bool:
        return self._supervisor.is_serving

    def figures(self) -> Deferred[Figures]:
        reader: Deferred[Figures] = Deferred()
        self._readers.append(reader)
        if len(self._readers) == 1:
            Deferred.fromCoroutine(self._figures()).addBoth(self._tell)
        return reader

    def _tell(self, result: Figures | Failure) -> None:
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.callback(result)

    async def _figures(self) -> Figures:
        answers = await self._ask("figures")
        figures = self._memory.add_to({number: msgspec.convert(answer, Figures) for number, answer in answers.items()})
        figures.missing = [number for number in self._supervisor.numbers if number not in answers]
        if not self._supervisor.running:
            figures.state = "draining"
        return figures

    def explain(self, policy: str, client: Peer) -> Deferred[Sequence[Explanation]]:
        return Deferred.fromCoroutine(self._explain(policy, client))

    async def _explain(self, policy: str, client: Peer) -> Sequence[Explanation]:
        answers = await self._ask("explain", policy=policy, client=client.host)
        return [msgspec.convert(answer, Explanation) for answer in answers.values()]

    def drain(self, server_id: str, policy: str | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._drain(server_id, policy))

    async def _drain(self, server_id: str, policy: str | None) -> int:
        keys = await self._change("drain", server_id, policy)
        self._drained |= keys
        # One of them may not have heard of the registration yet.
        await self.tell_drained()
        return len(keys)

    def resume(self, server_id: str, policy: str | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._resume(server_id, policy))

    async def _resume(self, server_id: str, policy: str | None) -> int:
        keys = await self._change("resume", server_id, policy)
        self._drained -= keys
        return len(keys)

    def revoke(self, server_id: str, policy: str | None) -> Deferred[int]:
        return Deferred.fromCoroutine(self._change("revoke", server_id, policy)).addCallback(len)

    async def _change(self, what: str, server_id: str, policy: str | None) -> set[Key]:
        answers = await self._ask("change", what=what, server_id=server_id, policy=policy)
        return {(name, server) for answer in answers.values() for name, server in answer}

    def happenings(self) -> Deferred[Sequence[Happening]]:
        return Deferred.fromCoroutine(self._happenings())

    async def _happenings(self) -> Sequence[Happening]:
        await self._collect()
        return self._merged.lately

    def listen(self, listener: Callable[[Happening], object]) -> Callable[[], None]:
        return self._merged.listen(listener)

    # From the parent.

    def look(self) -> None:
        """Collect what happened; called every now and then."""
        if not self._looking:
            self._looking = True
            Deferred.fromCoroutine(self._collect()).addBoth(self._looked)

    def replaced(self, number: int) -> None:
        """The worker of that number accepts, and was just started."""
        self._merged.replaced(number)
        self._memory.replaced(number)
        if self._drained:
            self.tell_drained()

    def tell_drained(self) -> Deferred[dict[int, Any]]:
        """Have all workers know what is drained."""
        return self._supervisor.ask_each("keep_drained", SECONDS, keys=sorted(self._drained))

    def _looked(self, result: object) -> object:
        self._looking = False
        return result

    async def _collect(self) -> None:
        since = {str(number): self._merged.last_of(number) for number in self._supervisor.numbers}
        answers = await self._supervisor.ask_each("happenings", SECONDS, since=since)
        self._merged.take({number: msgspec.convert(answer, list[Happening]) for number, answer in answers.items()})

    async def _ask(self, name: str, **arguments: Any) -> dict[int, Any]:
        if self._asking >= MOST:
            raise ControlError("too much is asked at once: try again in a moment")
        self._asking += 1
        try:
            answers = await self._supervisor.ask_each(name, SECONDS, **arguments)
        finally:
            self._asking -= 1
        if not answers:
            raise ControlError("no process of the proxy answers: its log says what they do")
        return answers
