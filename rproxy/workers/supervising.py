"""Keeps the workers: starts them, replaces those that die, and stops them in order.

The start succeeds as a whole or not at all: until every worker has accepted once, one that ends before it did ends the
proxy, as what kept it from starting will be a mistake in the options or the files. From then on each is replaced, after
waits that grow, and the others go on. Where none is left, and :data:`ATTEMPTS` replacements of each in a row didn't
come to accept, the proxy ends: who connects to a proxy that isn't there is told so, and who runs it notices.

A worker that hangs (:mod:`rproxy.workers.watching`) is killed, and from there on it is like any other that ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from attrs import Factory, define
from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, gatherResults, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.backoff import Backoff
from rproxy.counting import Count
from rproxy.figures.counters import Counters
from rproxy.process.sweeping import SweepService
from rproxy.proxyservice import say_stopped
from rproxy.workers.channel import ChannelError, FullError
from rproxy.workers.processes import Process
from rproxy.workers.spawning import Told
from rproxy.workers.watching import ROUND, Watch

#: Before a worker is replaced, in seconds.
BACKOFF = Backoff(0.2, 10.0)
#: A worker that has accepted for so long isn't held against its replacement, in seconds.
STEADY = 30.0
#: So many replacements of each in a row may end before they accept.
ATTEMPTS = 5


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


#: Starts the worker of that number, or raises :exc:`OSError`.
Spawn = Callable[[int, Told], Worker]


@define(eq=False)
class _Place:
    """One of the workers and those that come after it; it is also whom the worker tells of itself."""

    supervisor: Supervisor
    number: int
    worker: Worker | None = None
    watch: Watch = Factory(Watch)
    is_ready: bool = False
    has_told: bool = False
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

    def ready(self) -> None:
        """See :class:`Told`."""
        self.supervisor.ready(self)

    def counted(self, counters: Mapping[str, Any]) -> None:
        """See :class:`Told`."""
        self.has_told = True
        self.supervisor.counters.add(counters)

    def ended(self, how: str) -> None:
        """See :class:`Told`."""
        self.supervisor.ended(self, how)


class Supervisor(Service):
    """All workers.

    :param size: how many.
    :param spawn: starts one.
    :param random: numbers from 0 to 1.
    :param patience: from being told to stop until workers are killed, in seconds.
    :param all_ready: called once, when all accept for the first time.
    :param give_up: called once, when there is no use in going on.
    """

    _logger = Logger()

    def __init__(
        self,
        size: int,
        spawn: Spawn,
        clock: IReactorTime,
        random: Callable[[], float],
        patience: float,
        all_ready: Callable[[], object],
        give_up: Callable[[], object],
    ) -> None:
        self.counters = Counters()
        self._spawn = spawn
        self._clock = clock
        self._random = random
        self._patience = patience
        self._all_ready = all_ready
        self._give_up = give_up
        self._places = [_Place(self, number) for number in range(1, size + 1)]
        self._alive = Count()
        self._rounds = SweepService(clock, ROUND, self._look)
        self._is_up = False
        self._gave_up = False

    def startService(self) -> None:
        super().startService()
        self._rounds.startService()
        for place in self._places:
            self._start(place)

    def stopService(self) -> Deferred[None]:
        """Have all drain and leave; fires when none is left, which is soon after ``patience`` at the latest."""
        if not self.running:
            return succeed(None)
        super().stopService()
        # Those that hang now are killed in the end.
        self._rounds.stopService()
        return Deferred.fromCoroutine(self._stop())

    def ask(self, name: str, **arguments: Any) -> Deferred[list[Any]]:
        """Ask all that there are, and fire with the answers of those that gave one, the first worker's first."""
        asked = [place.worker.ask(name, **arguments) for place in self._places if place.worker is not None]
        for each in asked:
            each.addErrback(self._unanswered, name)
        return gatherResults(asked).addCallback(lambda answers: [each for each in answers if each is not None])

    def ask_each(self, name: str, seconds: float, **arguments: Any) -> Deferred[dict[Process, Any]]:
        """Ask all that accept, and fire with the answers by process, without those that took too long.

        Whoever took too long isn't asked the same again before it has answered: what is asked every second would else
        be ever more, and keep it from what it has to hear.

        :param name: a question that changes nothing; what has to be done is told by :meth:`tell`.
        """
        asked: list[Deferred[tuple[Process, Any] | None]] = [
            place.worker.ask(name, **arguments)
            .addTimeout(seconds, self._clock)
            .addCallbacks(partial(_by_process, place.process), _without)
            for place in self._places
            if place.worker is not None and place.is_ready and not place.worker.owes(name)
        ]
        return gatherResults(asked).addCallback(lambda answers: dict(each for each in answers if each is not None))

    def tell(self, name: str, seconds: float, **arguments: Any) -> Deferred[list[Any]]:
        """Tell all that there are, and fire when those that accept have heard it, or took too long.

        One that is starting hears it before it accepts, and one that hangs when it goes on. One that can't be told,
        as it was told too much before, is replaced by one that knows.
        """
        told = [
            (
                place,
                place.worker.ask(name, **arguments).addTimeout(seconds, self._clock).addErrback(self._untold, place),
            )
            for place in self._places
            if place.worker is not None
        ]
        return gatherResults([each for place, each in told if place.is_ready])

    @property
    def processes(self) -> list[Process]:
        """The newest of each worker."""
        return [place.process for place in self._places]

    @property
    def is_serving(self) -> bool:
        """Whether all have accepted once, some accept now, and none was told to stop."""
        return self._is_up and bool(self.running) and any(place.is_ready for place in self._places)

    def kill(self) -> None:
        """End all at once; may be called in a signal handler."""
        for place in self._places:
            if place.worker is not None:
                place.worker.kill()

    # From the workers.

    def ready(self, place: _Place) -> None:
        """One accepts."""
        place.is_ready = True
        place.watch.ready()
        place.in_vain = 0
        place.since = self._clock.seconds()
        if self._is_up:
            self._logger.info("Worker {worker} is back", event="worker-back", worker=place.number)
        elif self.running and all(each.is_ready for each in self._places):
            self._is_up = True
            self._all_ready()

    def ended(self, place: _Place, how: str) -> None:
        """One is no more."""
        was_ready, place.is_ready, place.worker = place.is_ready, False, None
        if was_ready and self._clock.seconds() - place.since >= STEADY:
            place.ends = 0
        if was_ready and not place.has_told:
            how = f"{how}, and what it has counted is lost"
        if self.running and not self._gave_up:
            place.ends += 1
            place.in_vain += not was_ready
            self._replace(place, how)
        elif was_ready and not place.has_told:
            self._logger.warn("Worker {worker} {why}", event="worker-lost", worker=place.number, why=how)
        self._alive.change(-1)

    def _start(self, place: _Place) -> None:
        place.restart = None
        place.has_told = False
        place.generation += 1
        place.watch = Watch()
        self._alive.change(1)
        try:
            place.worker = self._spawn(place.number, place)
        except OSError as error:
            self.ended(place, f"can't be started: {error}")

    def _look(self) -> None:
        for place in self._places:
            why = place.worker and place.watch.look(place.worker.ask)
            if why:
                self._kill(place, why)

    def _untold(self, failure: Failure, place: _Place) -> None:
        _without(failure)
        if failure.check(FullError):
            self._kill(place, "hasn't answered what it was told before")

    def _kill(self, place: _Place, why: str) -> None:
        if place.worker is not None:
            self._logger.error(
                "Killing worker {worker}, which {why}", event="worker-hangs", worker=place.number, why=why
            )
            place.worker.kill()

    def _replace(self, place: _Place, how: str) -> None:
        if not self._is_up and place.in_vain:
            self._fail("Can't start", place, how)
        elif all(each.in_vain >= ATTEMPTS for each in self._places):
            self._fail("Giving up, as no worker can be started any more", place, how)
        else:
            wait = BACKOFF.seconds(place.ends, self._random())
            place.restart = self._clock.callLater(wait, self._start, place)
            self._logger.error(
                "Worker {worker} {why}; another one is started in {wait:.1f} seconds",
                event="worker-ended",
                worker=place.number,
                why=how,
                wait=wait,
            )

    def _fail(self, what: str, place: _Place, how: str) -> None:
        self._logger.error(
            "{what}: worker {worker} {why}", event="workers-given-up", what=what, worker=place.number, why=how
        )
        self._gave_up = True
        self._give_up()

    def _unanswered(self, failure: Failure, name: str) -> None:
        failure.trap(ChannelError)
        self._logger.warn(
            "A worker didn't answer {question}: {why}", event="worker-silent", question=name, why=failure.value
        )

    async def _stop(self) -> None:
        for place in self._places:
            if place.restart is not None:
                place.restart.cancel()
                place.restart = None
            if place.worker is not None:
                place.worker.stop()
        try:
            await self._alive.when_zero().addTimeout(self._patience, self._clock)
        except TimeoutError:
            self._logger.warn(
                "Killing the workers that didn't stop within {seconds:g} seconds: {workers}",
                event="workers-killed",
                seconds=self._patience,
                workers=", ".join(str(place.number) for place in self._places if place.worker is not None),
            )
            self.kill()
            await self._alive.when_zero()
        say_stopped(self.counters)


def _by_process(process: Process, answer: Any) -> tuple[Process, Any]:
    return process, answer


def _without(failure: Failure) -> None:
    failure.trap(ChannelError, TimeoutError)
