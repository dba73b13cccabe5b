"""Up or down, from outcomes alone; without sockets, clocks or randomness of its own.

A server goes down after so many failures in a row and comes back only after a probe succeeded (docs/protocol.rst):
no packet is risked to find out.
"""

from collections.abc import Callable

from attrs import define

#: Seconds from going down to the first probe, and at most between two probes.
FIRST_PROBE = 0.5
LAST_PROBE = 30.0


@define
class Health:
    """What the outcomes at one address say about it.

    :param random: numbers from 0 to 1, for the jitter: servers that went down together aren't probed together.
    """

    _random: Callable[[], float]
    #: Failures in a row that take the server down.
    _max_fails: int = 1
    _fails: int = 0
    _probes: int = 0
    up: bool = True

    def succeeded(self) -> None:
        """An answer came."""
        self._fails = 0

    def failed(self) -> bool:
        """A connection was refused or broke; whether this is what took the server down."""
        self._fails += 1
        if self.up and self._fails >= self._max_fails:
            self.up = False
            self._probes = 0
            return True
        return False

    def probe_delay(self) -> float:
        """Seconds until the next probe: doubling, with up to a quarter of jitter either way."""
        delay = min(FIRST_PROBE * 2.0**self._probes, LAST_PROBE)
        self._probes = min(self._probes + 1, 16)
        return delay * (0.75 + 0.5 * self._random())

    def expected(self) -> None:
        """The server said that it is there: probe it soon again."""
        self._probes = 0

    def probed(self) -> None:
        """A probe succeeded: the server is back."""
        self.up = True
        self._fails = 0
