"""What happened in several processes, as one list: what all of them tell is told once.

A registration is one process's to hear, and the others find it; an end or what an operator does is told by each. Such
news within :data:`WINDOW` of each other are one, if they are of different workers. What a worker finds out by itself,
such as that a server is down, is its own, and its text says whose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rproxy.figures.happenings import MOST, Happening, Lately
from rproxy.workers.processes import Process

#: Told by each worker, with what they are taken for.
_SHARED = {
    "registered": "registered",
    "found": "registered",
    "ended": "ended",
    "draining": "draining",
    "drained": "drained",
    "resumed": "resumed",
    "revoked": "revoked",
}
#: How far apart in time the news of one thing may be, in seconds.
WINDOW = 10.0

_Subject = tuple[str, str, str, str]


class Merged(Lately):
    """The list, and who is told of what is added to it."""

    def __init__(self) -> None:
        super().__init__()
        #: By worker, the newest process that told something, and the number of the last that it told.
        self._last: dict[int, tuple[Process, int]] = {}
        #: What was told lately by whom.
        self._told: dict[_Subject, tuple[float, set[int]]] = {}

    def last_of(self, process: Process) -> int:
        """The number of the last happening that the process told."""
        teller, number = self._last.get(process.number, (process, 0))
        return number if teller == process else 0

    def take(self, batches: Mapping[Process, Sequence[Happening]]) -> None:
        """Add what workers told; what one told before is passed over, and what comes after its successor's words."""
        fresh = [
            (happening.time, process, happening)
            for process, batch in batches.items()
            for happening in batch
            if happening.number > self.last_of(process) and not self._is_replaced(process)
        ]
        for _, process, happening in sorted(fresh, key=lambda each: each[:2]):
            self._last[process.number] = (process, max(self.last_of(process), happening.number))
            if not self._was_told(process.number, happening):
                text = _text(process.number, happening)
                self.add(happening.time, happening.kind, happening.policy, happening.server, text)

    @property
    def lately(self) -> list[Happening]:
        """Those that are remembered, the oldest first."""
        return sorted(super().lately, key=lambda happening: happening.time)

    def _is_replaced(self, process: Process) -> bool:
        return self._last.get(process.number, (process, 0))[0] > process

    def _was_told(self, worker: int, happening: Happening) -> bool:
        """Whether it is news of another worker's already; if not, it will be from now on."""
        kind = _SHARED.get(happening.kind)
        if kind is None:
            return False
        subject = (kind, happening.policy, happening.server, happening.text)
        time, workers = self._told.pop(subject, (0.0, set[int]()))
        known = bool(workers) and abs(happening.time - time) <= WINDOW and worker not in workers
        self._told[subject] = (time, workers | {worker}) if known else (happening.time, {worker})
        if len(self._told) > MOST:
            # The one that was told of longest ago, as each goes to the end when it is told of.
            del self._told[next(iter(self._told))]
        return known


def _text(worker: int, happening: Happening) -> str:
    """What is said of it."""
    if happening.kind in _SHARED:
        return happening.text
    return f"worker {worker}: {happening.text}" if happening.text else f"worker {worker}"
