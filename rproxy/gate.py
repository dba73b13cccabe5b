"""Whether packets are taken at all: not by a proxy that stops, or that can't record what becomes of them."""

from __future__ import annotations

from collections.abc import Callable

from rproxy.figures.counters import Counters
from rproxy.request import Request

_STOPPING = "the proxy is stopping"
_UNRECORDED = "the proxy can't write its audit trail"


class Gate:
    """What every packet of a client goes through.

    :param take: where the packets go that are taken.
    :ivar submit: where they all go now.
    """

    def __init__(self, take: Callable[[Request], None], counters: Counters) -> None:
        self._take = take
        self._counters = counters
        self.submit = take

    def open(self) -> None:
        """Take packets."""
        self.submit = self._take

    def set_recording(self, works: bool) -> None:
        """Take packets only while it can be recorded what becomes of them."""
        if not self.is_shut:
            self.submit = self._take if works else self._refuse_unrecorded

    def shut(self) -> None:
        """Refuse every new packet, for good."""
        self.submit = self._refuse_stopping

    @property
    def is_shut(self) -> bool:
        """Whether no new packet is taken any more, for good."""
        return self.submit == self._refuse_stopping

    @property
    def refusal(self) -> str | None:
        """Why every packet is refused now, whatever it asks for; None if they are taken."""
        if self.is_shut:
            return _STOPPING
        return _UNRECORDED if self.submit == self._refuse_unrecorded else None

    def _refuse_stopping(self, request: Request) -> None:
        request.unserved = self._counters.tallies.unserved(request.policy)
        request.refuse("shutting-down", "no", _STOPPING)

    def _refuse_unrecorded(self, request: Request) -> None:
        request.unserved = self._counters.tallies.unserved(request.policy)
        request.refuse("overloaded", "no", _UNRECORDED)
