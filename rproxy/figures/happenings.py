"""What happened lately: registrations, servers that went down and came back, refusals. For people who look on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from msgspec import Struct

#: How many are remembered.
MOST = 500


class Happening(Struct, frozen=True, kw_only=True):
    """One of them.

    :ivar number: counted from 1 since the process began.
    :ivar time: seconds since 1970.
    :ivar kind: ``registered``, ``found`` (told by another process), ``ended``, ``refused``, ``down``, ``up``,
        ``draining``, ``drained``, ``resumed`` or ``revoked`` (by an operator, the last three).
    :ivar policy: and ``server``: ``""`` where it is about none.
    """

    number: int
    time: float
    kind: str
    policy: str
    server: str
    text: str


#: Told of something: its kind, policy, server id and text, as in :class:`Happening`.
Happened = Callable[[str, str, str, str], object]


def nothing_happened(kind: str, policy: str, server: str, text: str) -> None:
    """Nobody looks on."""


class Lately:
    """Remembers what happened, and tells whoever listens."""

    def __init__(self) -> None:
        self._number = 0
        self._lately: deque[Happening] = deque(maxlen=MOST)
        #: Each alone in a list, which is empty once it listens no more.
        self._listeners: list[list[Callable[[Happening], object]]] = []

    def add(self, time: float, kind: str, policy: str, server: str, text: str) -> None:
        """Remember it, and tell of it; see :class:`Happening`."""
        self._number += 1
        happening = Happening(number=self._number, time=time, kind=kind, policy=policy, server=server, text=text)
        self._lately.append(happening)
        for entry in list(self._listeners):
            for listener in entry:
                listener(happening)

    @property
    def lately(self) -> list[Happening]:
        """Those that are remembered, in the order in which they were told."""
        return list(self._lately)

    def listen(self, listener: Callable[[Happening], object]) -> Callable[[], None]:
        """Call it with each from now on; call what is returned to end that, once or more often."""
        # One of its own, so that what ends one of two equal listeners doesn't end the other.
        entry = [listener]
        self._listeners.append(entry)

        def end() -> None:
            entry.clear()
            self._listeners[:] = filter(None, self._listeners)

        return end


class Happenings(Lately):
    """What happened in this process.

    :param wall: the seconds since 1970.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        super().__init__()
        self._wall = wall

    def note(self, kind: str, policy: str, server: str, text: str = "") -> None:
        """Something happened."""
        self.add(self._wall(), kind, policy, server, text)
