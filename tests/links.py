"""A store for tests, which several processes share over links that fail in every way a network does.

It is the ledger of ``memory:`` behind one link for each process. Nothing takes longer than a test wants it to.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from rproxy.stores import Message, News, StoreError
from rproxy.stores.ledger import Ledger

#: Seconds after which a link that hangs is given up.
HANGS = 3.0


@define
class SharedStore:
    """What the links lead to."""

    clock: Clock
    links: list[Link] = field(factory=list)
    ledger: Ledger = field(init=False)
    _lives: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.lose_everything()

    def lose_everything(self) -> None:
        """Begin a new life."""
        self._lives += 1
        self.ledger = Ledger(f"life {self._lives}", self.clock.seconds)

    def link(self) -> Link:
        """One more process's."""
        link = Link(self)
        self.links.append(link)
        return link

    def cut(self) -> None:
        """All links are down."""
        for link in list(self.links):
            link.cut()

    def heal(self) -> None:
        """All are up."""
        for link in list(self.links):
            link.heal()


@define(eq=False)
class Link:
    """One process's access: see :class:`rproxy.stores.Store`."""

    _shared: SharedStore
    #: What it does: ``up``, ``down``, ``hang``; ``before`` and ``after`` fail once an exchange was asked for, with
    #: nothing or everything of it done; ``broken`` raises what no store may.
    mode: str = "up"
    #: The messages that came through.
    messages: list[Message] = field(factory=list)
    exchanges: int = 0
    _open: bool = False
    _changed: Callable[[], object] = field(default=lambda: None)
    _hanging: list[tuple[Message, Deferred[News]]] = field(factory=list)

    def cut(self) -> None:
        """Be down, and fail what hangs."""
        self._set("down")

    def heal(self) -> None:
        """Be up again."""
        self._set("up")

    def _set(self, mode: str) -> None:
        self.mode = mode
        hanging, self._hanging = self._hanging, []
        for message, answer in hanging:
            if mode == "up":
                answer.callback(self._apply(message))
            else:
                answer.errback(StoreError("the link is down"))

    def fail_once(self, mode: str) -> None:
        """Fail the next exchange, ``before`` or ``after`` it was done; what is tried then is up."""
        self.mode = mode

    def open(self, changed: Callable[[], object]) -> Deferred[None]:
        """See :class:`rproxy.stores.Store`."""
        if self.mode == "down":
            return fail(StoreError("the link is down"))
        self._changed = changed
        self._open = True
        return succeed(None)

    def exchange(self, message: Message) -> Deferred[News]:
        """See :class:`rproxy.stores.Store`."""
        assert self._open or self.mode == "down", "it isn't open"
        self.exchanges += 1
        mode = self.mode
        if mode == "broken":
            raise ZeroDivisionError("a store that raises what it may not")
        if mode == "hang":
            answer: Deferred[News] = Deferred()
            self._hanging.append((message, answer))
            self._shared.clock.callLater(HANGS, self._give_up, answer)
            return answer
        if mode in {"before", "after"}:
            self.mode = "up"
        news = self._apply(message) if mode in {"up", "after"} else None
        if mode != "up" or news is None:
            self._open = False
            return fail(StoreError(f"the link is {mode}"))
        return succeed(news)

    def _give_up(self, answer: Deferred[News]) -> None:
        for each in self._hanging:
            if each[1] is answer:
                self._hanging.remove(each)
                self._open = False
                answer.errback(StoreError("no answer in time"))
                return

    def _apply(self, message: Message) -> News:
        self.messages.append(message)
        before = self._shared.ledger.sequence
        news = self._shared.ledger.exchange(message)
        if news.position.sequence != before:
            for link in self._shared.links:
                if link is not self and link._open and link.mode == "up":
                    link._changed()
        return news

    def close(self) -> Deferred[None]:
        """See :class:`rproxy.stores.Store`."""
        self._open = False
        if self in self._shared.links:
            self._shared.links.remove(self)
        return succeed(None)

    def __str__(self) -> str:
        return "a store of tests"
