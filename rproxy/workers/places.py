"""The place of one worker: the process that is there now, and how those before it ended."""

from __future__ import annotations

from typing import Any, Protocol

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from rproxy.workers.processes import Process
from rproxy.workers.watching import Watch

#: A worker that has accepted for so long isn't held against its replacement, in seconds.
STEADY = 30.0

_logger = Logger()


class Worker(Protocol):
    """What is asked of a worker; see :class:`rproxy.workers.spawning.WorkerProcess`."""

    def ask(self, name: str, **arguments: Any) -> Deferred[Any]:
        """Ask it something."""

    def owes(self, name: str) -> bool:
        """Whether it hasn't answered that yet, and nobody waits any longer."""

    def stop(self) -> None:
        """Have it drain and leave."""

    def kill(self) -> None:
        """End it at once."""


@define(eq=False)
class Place:
    """One of the workers, and those that come after it.

    :ivar has_told: it has said what it counted, as it is leaving.
    :ivar since: when it accepted, by the clock.
    """

    number: int
    worker: Worker | None = None
    watch: Watch = Factory(Watch)
    is_ready: bool = False
    has_told: bool = False
    is_killed: bool = False
    #: How many were started.
    generation: int = 0
    since: float = 0.0
    #: Ends in a row: of those that weren't steady, and of those that didn't even accept.
    ends: int = 0
    in_vain: int = 0
    restart: IDelayedCall | None = None

    @property
    def process(self) -> Process:
        """The newest."""
        return Process(self.number, self.generation)

    def begin(self) -> None:
        """Another one is about to be started."""
        self.restart = None
        self.has_told = self.is_killed = False
        self.generation += 1
        self.watch = Watch()

    def ready(self, now: float) -> None:
        """It accepts."""
        self.is_ready = True
        self.watch.ready()
        self.in_vain = 0
        self.since = now

    def end(self, now: float) -> None:
        """It is no more."""
        if not self.is_ready:
            self.in_vain += 1
        elif now - self.since >= STEADY:
            self.ends = 0
        self.ends += 1
        self.is_ready, self.worker = False, None

    def kill(self, why: str) -> None:
        """End it at once, if it is there still; ``why`` is the rest of a sentence that begins with "which"."""
        if self.worker is not None and not self.is_killed:
            self.is_killed = True
            _logger.error("Killing worker {worker}, which {why}", event="worker-hangs", worker=self.number, why=why)
            self.worker.kill()
