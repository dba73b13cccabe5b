"""Up or down, and how much of its share, from outcomes alone; without sockets, clocks or randomness of its own.

A server goes down after so many failures in a row and comes back only after a probe succeeded
(docs/reference/protocol.rst): no packet is risked to find out. One that came back takes its full share again by and by.
"""

from collections.abc import Callable

from attrs import define

#: Seconds from going down to the first probe, and at most between two probes.
FIRST_PROBE = 0.5
LAST_PROBE = 30.0
#: A full share; one that grows has so many steps.
FULL_SHARE = 5


@define
class Health:
    """What the outcomes at one address say about it.

    :param random: numbers from 0 to 1, for the jitter: servers that went down together aren't probed together.
    """

    _random: Callable[[], float]
    #: Failures in a row that take the server down; and connections in a row on which answers didn't come in time.
    _max_fails: int = 1
    _max_timeouts: int = 3
    #: Seconds until a server that came back has its full share.
    _slow_start: float = 0.0
    _fails: int = 0
    _timeouts: int = 0
    #: Probes since the last answer: a server that takes connections and never answers is probed ever more seldom too.
    _probes: int = 0
    #: Whether it ever answered. A server that wasn't up yet hasn't come back when it is.
    _known: bool = False
    #: When it came back, in the clock's seconds; None once it has its full share.
    _back: float | None = None
    #: A server that was only heard of begins down: no packet is risked on it before a connection to it was made.
    up: bool = True

    def succeeded(self) -> None:
        """An answer came."""
        self._fails = self._timeouts = self._probes = 0
        self._known = True

    def failed(self) -> bool:
        """A connection was refused or broke; whether this is what took the server down."""
        self._fails += 1
        return self._go_down(self._fails >= self._max_fails)

    def timed_out(self) -> bool:
        """What is on a connection wasn't answered in time; whether this is what took the server down."""
        self._timeouts += 1
        return self._go_down(self._timeouts >= self._max_timeouts)

    def _go_down(self, enough: bool) -> bool:
        goes = self.up and enough
        if goes:
            self.up = False
        return goes

    def probe_delay(self) -> float:
        """Seconds until the next probe: doubling, with up to a quarter of jitter either way."""
        delay = min(FIRST_PROBE * 2.0**self._probes, LAST_PROBE)
        self._probes = min(self._probes + 1, 16)
        return delay * (0.75 + 0.5 * self._random())

    def expected(self) -> None:
        """The server said that it is there: probe it soon again."""
        self._probes = 0

    def probed(self, now: float) -> None:
        """A connection was made while it was down, which brings it back.

        :param now: the clock's seconds.
        """
        self.up = True
        self._fails = self._timeouts = 0
        self._back = now if self._known and self._slow_start else None

    def share(self, now: float) -> int:
        """How much of its share of the packets it should get, from 1 to :data:`FULL_SHARE`."""
        if self._back is None:
            return FULL_SHARE
        share = 1 + int((now - self._back) / self._slow_start * FULL_SHARE)
        if share < FULL_SHARE:
            return share
        self._back = None
        return FULL_SHARE
