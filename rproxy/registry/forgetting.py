"""Ends registrations without a lease whose servers have been down for too long (``--forget-after``).

Only time counts in which a proxy saw the server down: all of them may have been stopped for days. So that it isn't
begun anew with each restart, what was seen is kept with the registration. A process that sees the server up says so.
A server that nobody has a packet for is looked for all the same, now and then: it isn't known to be down otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from rproxy.registry import Registry
from rproxy.registry.records import Record, RecordKey
from rproxy.registry.registration import Registration

#: How often a server is looked at until it is forgotten.
LOOKS = 24


@frozen
class _Down:
    """Since when this process sees a server down, for how long it had been by then, and what was told last."""

    version: int
    since: float
    before: float
    told: float


@define
class Forgetter:
    """Looks after the registrations without a lease.

    :param is_down: whether the server of a registration is down, as far as is known.
    :param probe: find out whether it is.
    :param forget_after: in seconds.
    """

    _registry: Registry
    _seconds: Callable[[], float]
    _is_down: Callable[[Registration], bool]
    _probe: Callable[[Registration], object]
    _forget_after: float
    _down: dict[RecordKey, _Down] = field(factory=dict, init=False)
    _probed: set[RecordKey] = field(factory=set, init=False)

    def sweep(self) -> None:
        """Look at all of them, unless the others can't say what they see: it may be this process that is cut off."""
        if not self._registry.in_touch:
            self._down.clear()
            return
        records = self._registry.without_lease
        keys = {record.key for record in records}
        self._down = {key: down for key, down in self._down.items() if key in keys}
        self._probed &= keys
        for record in records:
            assert record.registration is not None
            if self._is_down(record.registration):
                self._probed.discard(record.key)
                self._count(record)
            else:
                self._down.pop(record.key, None)
                self._contradict(record, record.registration)

    def _contradict(self, record: Record, registration: Registration) -> None:
        """Find out whether it is up, as it is taken for; if it was, and another process sees it down, say so."""
        if record.down and record.key in self._probed:
            self._registry.set_down(record, 0.0)
        self._probed.add(record.key)
        self._probe(registration)

    def _count(self, record: Record) -> None:
        now = self._seconds()
        down = self._down.get(record.key)
        # Less than was told: somebody has seen it up since.
        if down is None or down.version != record.version or record.down < down.told:
            down = _Down(record.version, now, record.down, record.down)
        seconds = down.before + now - down.since
        if seconds >= self._forget_after:
            self._registry.forget(record, f"its server was down for {self._forget_after:g} seconds")
        elif seconds > record.down:
            self._registry.set_down(record, seconds)
            self._down[record.key] = _Down(down.version, down.since, down.before, seconds)
        else:
            self._down[record.key] = down
