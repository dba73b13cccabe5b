"""Whether packets are taken at all: not by a proxy that stops, or that can't record what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rproxy.figures.counters import Counters
from rproxy.request import Request

_STOPPING = "the proxy is stopping"
_UNRECORDED = "the proxy can't write its audit trail"


class Gate:
    """What every packet of a client goes through.

    :param take: where the packets go that are taken.
    :ivar submit: where they all go now.
    """

    def __init__(self, take: Callable[[Iterable[Request]], None], counters: Counters) -> None:
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
        """Refuse every new packet until it is opened again."""
        self.submit = self._refuse_stopping

    @property
    def is_shut(self) -> bool:
        """Whether every new packet is refused because the proxy stops."""
        return self.submit == self._refuse_stopping

    @property
    def refusal(self) -> str | None:
        """Why every packet is refused now, whatever it asks for; None if they are taken."""
        if self.is_shut:
            return _STOPPING
        return _UNRECORDED if self.submit == self._refuse_unrecorded else None

    def _refuse_stopping(self, requests: Iterable[Request]) -> None:
        self._refuse(requests, "shutting-down", _STOPPING)

    def _refuse_unrecorded(self, requests: Iterable[Request]) -> None:
        self._refuse(requests, "overloaded", _UNRECORDED)

    def _refuse(self, requests: Iterable[Request], code: str, text: str) -> None:
        for request in requests:
            request.unserved = self._counters.tallies.unserved(request.policy)
            request.refuse(code, "no", text)
