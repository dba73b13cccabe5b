"""``memory:``: registrations of one process, gone with it; and in tests, of several that share a memory."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, succeed

from rproxy.stores import Message, News
from rproxy.stores.ledger import Ledger


@define
class Memory:
    """What the stores of one memory share."""

    ledger: Ledger
    stores: list[MemoryStore] = field(factory=list)


@define(eq=False)
class MemoryStore:
    """See :class:`rproxy.stores.Store`. Nothing of it ever fails."""

    _memory: Memory
    _changed: Callable[[], object] = field(default=lambda: None, init=False)

    def open(self, changed: Callable[[], object]) -> Deferred[None]:
        """See :class:`rproxy.stores.Store`."""
        self._changed = changed
        if self not in self._memory.stores:
            self._memory.stores.append(self)
        return succeed(None)

    def exchange(self, message: Message) -> Deferred[News]:
        """See :class:`rproxy.stores.Store`."""
        before = self._memory.ledger.sequence
        news = self._memory.ledger.exchange(message)
        if news.position.sequence != before:
            for store in self._memory.stores:
                if store is not self:
                    store._changed()
        return succeed(news)

    def close(self) -> Deferred[None]:
        """See :class:`rproxy.stores.Store`."""
        if self in self._memory.stores:
            self._memory.stores.remove(self)
        return succeed(None)

    def __str__(self) -> str:
        return "memory"
