"""A thread that does one thing after the other, and looks around whenever it had nothing to do for a while.

Twisted's thread pools can't wait for two things, so a timer in the reactor would have to wake the thread, and the
thread the reactor, each time that there is nothing new: that took four times as much of a processor.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

_T = TypeVar("_T")

_logger = Logger()


@define
class Worker:
    """One thread, from now until :meth:`stop`.

    :param reactor: where the results are told.
    :param look: called in the thread after each ``seconds`` without anything to do. A failure is logged the first time,
        and ends nothing.
    """

    _reactor: Any
    _look: Callable[[], object]
    _seconds: float
    _actions: SimpleQueue[Callable[[], object] | None] = field(factory=SimpleQueue, init=False)
    _thread: Thread = field(init=False)
    _has_failed: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        # Where the process fails before it has begun, nobody stops it, and the process is to end all the same.
        self._thread = Thread(target=self._run, name="rproxy store", daemon=True)
        self._thread.start()

    def do(self, action: Callable[[], _T]) -> Deferred[_T]:
        """Do something after all that is to be done already, unless the answer is cancelled by then."""
        done: Deferred[_T] = Deferred()

        def act() -> None:
            # Where something hangs for long, what nobody waits for any more would be done all at once afterwards.
            if done.called:
                return
            try:
                result = action()
            except BaseException:  # noqa: BLE001  # Whatever it is, who waits for it is told.
                self._reactor.callFromThread(done.errback, Failure())
            else:
                self._reactor.callFromThread(done.callback, result)

        self._actions.put(act)
        return done

    def stop(self) -> Deferred[None]:
        """End the thread after all that is to be done already; nothing is to be done any more.

        :returns: fires when it has ended.
        """
        stopped: Deferred[None] = Deferred()

        def stop() -> None:
            self._reactor.callFromThread(stopped.callback, None)

        self._actions.put(stop)
        self._actions.put(None)
        # By then it has nothing left to do that could take any time.
        return stopped.addCallback(lambda _: self._thread.join())

    def _run(self) -> None:
        while True:
            try:
                action = self._actions.get(timeout=self._seconds)
            except Empty:
                self._look_around()
                continue
            if action is None:
                return
            action()

    def _look_around(self) -> None:
        try:
            self._look()
        except Exception:  # noqa: BLE001  # Whatever it is, who asks next is to get an answer.
            if not self._has_failed:
                self._has_failed = True
                self._reactor.callFromThread(_logger.failure, "a look at what changed failed", Failure())
