"""Keeps the workers: starts them, replaces those that die, and stops them in order.

The start succeeds as a whole or not at all: until every worker has accepted once, one that ends before it did ends the
proxy, as what kept it from starting will be a mistake in the options or the files. From then on each is replaced, after
waits that grow, and the others go on. Where none is left, and :data:`ATTEMPTS` replacements of each in a row didn't
come to accept, the proxy ends: who connects to a proxy that isn't there is told so, and who runs it notices.

A worker that hangs (:mod:`rproxy.workers.watching`) is killed, and from there on it is like any other that ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy.backoff import Backoff
from rproxy.counting import Count
from rproxy.figures.counters import Counters
from rproxy.process.sweeping import SweepService
from rproxy.proxyservice import say_stopped
from rproxy.workers.asking import Workers
from rproxy.workers.places import Place, Worker
from rproxy.workers.spawning import Told
from rproxy.workers.watching import ROUND

#: Before a worker is replaced, in seconds.
BACKOFF = Backoff(0.2, 10.0)
#: So many replacements of each in a row may end before they accept.
ATTEMPTS = 5

#: Starts the worker of that number, or raises :exc:`OSError`.
Spawn = Callable[[int, Told], Worker]


@frozen
class _Told:
    """Whom the worker at a place tells of itself; see :class:`Told`."""

    _supervisor: Supervisor
    _place: Place

    def ready(self) -> None:
        self._supervisor.ready(self._place)

    def counted(self, counters: Mapping[str, Any]) -> None:
        self._place.has_told = True
        self._supervisor.counters.add(counters)

    def ended(self, how: str) -> None:
        self._supervisor.ended(self._place, how)


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
        self._places = [Place(number) for number in range(1, size + 1)]
        #: All that there are, to be asked and told.
        self.workers = Workers(self._places, clock)
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

    def ready(self, place: Place) -> None:
        """One accepts."""
        place.ready(self._clock.seconds())
        if self._is_up:
            self._logger.info("Worker {worker} is back", event="worker-back", worker=place.number)
        elif self.running and all(each.is_ready for each in self._places):
            self._is_up = True
            self._all_ready()

    def ended(self, place: Place, how: str) -> None:
        """One is no more."""
        is_lost = place.is_ready and not place.has_told
        if is_lost:
            how = f"{how}, and what it has counted is lost"
        place.end(self._clock.seconds())
        if self.running and not self._gave_up:
            self._replace(place, how)
        elif is_lost:
            self._logger.warn("Worker {worker} {why}", event="worker-lost", worker=place.number, why=how)
        self._alive.change(-1)

    def _start(self, place: Place) -> None:
        place.begin()
        self._alive.change(1)
        try:
            place.worker = self._spawn(place.number, _Told(self, place))
        except OSError as error:
            self.ended(place, f"can't be started: {error}")

    def _look(self) -> None:
        for place in self._places:
            why = place.worker and place.watch.look(place.worker.ask)
            if why:
                place.kill(why)

    def _replace(self, place: Place, how: str) -> None:
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

    def _fail(self, what: str, place: Place, how: str) -> None:
        self._logger.error(
            "{what}: worker {worker} {why}", event="workers-given-up", what=what, worker=place.number, why=how
        )
        self._gave_up = True
        self._give_up()

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
