"""Whether a worker hangs: it has to accept in time, and from then on to answer what it is asked now and then.

Time is counted in rounds, and not read from the clock: after a pause of the whole machine, or when somebody sets the
time, a worker has had one round and not many. One question at a time waits for its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from rproxy.workers.channel import ChannelError

#: Between two looks at each worker, in seconds.
ROUND = 5.0
#: How long a worker may take until it accepts, and to answer, in seconds; up to one round more is given.
START = 60.0
ANSWER = 30.0


def _rounds(seconds: float) -> int:
    # One more, as the first is under way.
    return int(seconds / ROUND) + 1


@define(eq=False)
class Watch:
    """What is known of one worker's process, from its start to its end."""

    _left: int = _rounds(START)
    _is_ready: bool = False
    _is_asked: bool = False

    def ready(self) -> None:
        """It accepts."""
        self._is_ready = True
        self._left = _rounds(ANSWER)

    def look(self, ask: Callable[[str], Deferred[Any]]) -> str | None:
        """Ask it, once a round; say what it failed to do when its time is over, and that once.

        :param ask: see :meth:`rproxy.workers.supervising.Worker.ask`.
        """
        self._left -= 1
        if not self._left:
            if self._is_ready:
                return f"hasn't answered for {ANSWER:g} seconds"
            return f"took over {START:g} seconds to start"
        if self._is_ready and not self._is_asked:
            self._is_asked = True
            ask("ping").addCallbacks(self._answered, self._unanswered)
        return None

    def _answered(self, _: object) -> None:
        self._is_asked = False
        self._left = _rounds(ANSWER)

    def _unanswered(self, failure: Failure) -> None:
        # It may be ending: then it has the rest of its time for that.
        failure.trap(ChannelError)
        self._is_asked = False
