"""How long to wait before something is tried again: ever longer, and no two who wait equally long.

Whoever lost the same proxy at the same moment would otherwise come back to it at the same moment, again and again. So
each wait is anything between nothing and a bound that doubles ("full jitter", in the words of "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015). That holds for the first wait too: most restarts are over by then.
"""

from __future__ import annotations

from attrs import frozen

#: Beyond so many doublings no bound grows any more; without an end, the number would become too large for a float.
_DOUBLINGS = 30


@frozen
class Backoff:
    """The bounds of the waits, in seconds: of the first one, and of any."""

    first: float
    most: float

    def bound(self, times: int) -> float:
        """Return the longest wait, in seconds.

        :param times: which wait it is, from 1.
        """
        return min(self.most, self.first * 2.0 ** min(times - 1, _DOUBLINGS))

    def seconds(self, times: int, jitter: float) -> float:
        """Return how long to wait, in seconds.

        :param times: which wait it is, from 1.
        :param jitter: a random number from 0 to 1.
        """
        return self.bound(times) * jitter
