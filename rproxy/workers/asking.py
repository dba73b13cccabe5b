"""All workers at once: asked what they know, and told what they have to keep to.

What is asked changes nothing, and whoever takes too long is left out. What is told has to be heard: whoever is starting
or hangs hears it when it goes on, and whoever can't be told is replaced by one that knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rproxy.workers.channel import ChannelError, FullError
from rproxy.workers.places import Place
from rproxy.workers.processes import Process


class Workers:
    """All of them, as they are now."""

    _logger = Logger()

    def __init__(self, places: Sequence[Place], clock: IReactorTime) -> None:
        self._places = places
        self._clock = clock

    @property
    def processes(self) -> list[Process]:
        """The newest of each."""
        return [place.process for place in self._places]

    def ask(self, name: str, seconds: float, **arguments: Any) -> Deferred[dict[Process, Any]]:
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
        """Tell all that there are, and fire when they have heard it, or took too long.

        One that is starting hears it before it accepts, and is waited for, too: who tells one thing after the other
        could else tell more than a worker takes, before it has begun to listen. One that can't be told, as it was told
        too much before, is killed.
        """
        return gatherResults(
            [
                place.worker.ask(name, **arguments)
                .addTimeout(seconds, self._clock)
                .addErrback(self._untold, name, place)
                for place in self._places
                if place.worker is not None
            ]
        )

    def _untold(self, failure: Failure, name: str, place: Place) -> None:
        _without(failure)
        if failure.check(FullError):
            place.kill("hasn't answered what it was told before")
        elif not place.is_killed:
            self._logger.warn(
                "A worker didn't answer {question}: {why}", event="worker-silent", question=name, why=failure.value
            )


def _by_process(process: Process, answer: Any) -> tuple[Process, Any]:
    return process, answer


def _without(failure: Failure) -> None:
    failure.trap(ChannelError, TimeoutError)
