"""So many a second, with some at once after a pause: a token bucket."""

from __future__ import annotations


class Bucket:
    """Tokens that come back at a rate, up to those of one second and at least one.

    :param rate: tokens a second; 0 for none at all.
    :param now: the clock's seconds.
    :ivar tokens: how many there were at the last look; below zero where more were taken than there were.
    """

    __slots__ = ("_looked", "_rate", "burst", "tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self.burst = max(rate, 1.0)
        self.tokens = self.burst
        self._looked = now

    def refill(self, now: float) -> float:
        """Look, and return how many there are."""
        self.tokens = min(self.burst, self.tokens + (now - self._looked) * self._rate)
        self._looked = now
        return self.tokens
