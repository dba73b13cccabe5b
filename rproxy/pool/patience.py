"""How long a registrar waits before it connects to its proxy again, by what it has seen of that.

Old proxies neither answer a setup packet nor keep its connection. A proxy that closes it without a word, or says
nothing for :data:`rproxy.pool.leasing.ANSWER_TIMEOUT`, and again so, :data:`WAITS` times in a row, is taken for one,
and gets the setup packet again every :data:`OLD_PROXY_INTERVAL`, over a fresh connection each time, because it may have
restarted and forgotten. A proxy that has answered before is taken for an old one only after :data:`SILENCES` such
connections in a row: something in between may have accepted them, while the proxy restarts.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from rproxy.backoff import Backoff

#: How often an old proxy is told again, in seconds.
OLD_PROXY_INTERVAL = 60.0
#: How many silent connections in a row make an old proxy of one that has answered before: with the waits below, those
#: of about half a minute. What accepts in its place while it restarts may well close them all at once.
SILENCES = 30
#: How many in a row of another proxy, if it keeps them all: one that is starting may take some seconds to accept.
WAITS = 3
#: The waits for a proxy that is gone, in seconds. It is likely to be back soon, and until it is found it may know no
#: server for our policy, and refuse its clients' packets. So none is anywhere near the 5 seconds that a proxy lets a
#: packet wait for a server. And a thousand servers that lost the same proxy come back spread over half a second at the
#: very first, and knock about a thousand times a second if it stays away.
RETRY = Backoff(0.5, 2.0)
#: The waits after a refusal, which is likely to be repeated until somebody changes something, in seconds.
RETRY_REFUSED = Backoff(1.0, 30.0)


@define(eq=False)
class Patience:
    """What a registrar has seen of its proxy.

    :param jitter: gives random numbers from 0 to 1, so that the servers of a proxy that restarts don't come all at
        once: a wait for a proxy that is gone is anything up to its bound, any other wait half of its bound or more.
    """

    _jitter: Callable[[], float]
    #: Whether it ever answered.
    has_answered: bool = field(default=False, init=False)
    #: Whether it is taken for an old one.
    is_old: bool = field(default=False, init=False)
    #: How many connections in a row it said nothing on; and how many it kept so, as long as it never answered.
    _silences: int = field(default=0, init=False)
    _waits: int = field(default=0, init=False)
    #: How often in a row the connection failed, or was lost before the first renewal, and how often it was refused.
    _failures: int = field(default=0, init=False)
    _refusals: int = field(default=0, init=False)
    #: How long to wait the next time, in seconds; 0 as after any failure.
    _pause: float = field(default=0.0, init=False)

    def registered(self) -> None:
        """It acknowledged the first setup packet of a connection."""
        self.has_answered = True
        self.is_old = False
        self._silences = self._refusals = 0

    def renewed(self) -> None:
        """It acknowledged a later one."""
        self._failures = 0

    def refused(self) -> None:
        """It answered with an error that is likely to be repeated."""
        self._refusals += 1
        self._pause = RETRY_REFUSED.bound(self._refusals)

    def unanswered(self) -> None:
        """It kept a connection on which it said nothing."""
        self._waits += 1

    def silent(self) -> None:
        """A connection ended on which it said nothing, be it :meth:`unanswered` or not."""
        self._silences += 1
        if self.has_answered and self._silences < SILENCES:
            return
        if not self.has_answered and self._silences == self._waits < WAITS:
            # It may only be busy, or still be starting.
            return
        self.is_old = True
        self._pause = OLD_PROXY_INTERVAL

    def seconds(self) -> float:
        """Return how long to wait before connecting again, in seconds."""
        seconds, self._pause = self._pause, 0.0
        if seconds:
            return seconds * (1 + self._jitter()) / 2
        self._failures += 1
        return RETRY.seconds(self._failures, self._jitter())
