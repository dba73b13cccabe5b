"""What a connection and the proxy that it belongs to know of each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from rproxy.admission import Admission
from rproxy.figures.counters import Counters
from rproxy.gate import Gate
from rproxy.limits import Limits
from rproxy.logs.packets import ProxyLog
from rproxy.logs.quiet import QuietLog
from rproxy.policies import Policies
from rproxy.registry import Registry
from rproxy.request import Asker, Endings, Request


class Connection(Hashable, Protocol):
    """What the factory asks of a connection that it counts."""

    @property
    def may_be_client(self) -> bool:
        """Whether it counts as a client."""

    @property
    def in_flight(self) -> int:
        """Packets received and not yet answered."""

    @property
    def pending(self) -> Collection[Request]:
        """These."""

    def close_if_idle(self, now: float) -> None:
        """Close it if its peer has taken too long over something."""

    def close(self) -> None:
        """Close it when what was written is sent."""

    def abort(self) -> None:
        """Drop it."""


class Hub(Protocol):
    """What a connection knows of the proxy that it belongs to."""

    limits: Limits
    clock: IReactorTime
    seconds: Callable[[], float]
    counters: Counters
    registry: Registry
    admission: Admission
    policies: Policies
    #: Whether there is a policy that not everybody may ask for.
    asks_clients: bool
    log: ProxyLog | None
    #: Who records what becomes of packets.
    endings: Sequence[Endings]
    #: Says why a connection was refused.
    log_refusal: QuietLog
    #: Where packets go.
    gate: Gate
    #: So many clients more, see :class:`rproxy.proxy.doors.Doors`.
    count_client: Callable[[int], None]
    #: Calls something when other processes can know what has happened here until now.
    when_told: Callable[[Callable[[], object]], None]

    def opened(self, client: Connection) -> None:
        """A connection was made."""

    def closed(self, client: Connection, *, is_client: bool) -> None:
        """A connection was lost."""

    def deliver_soon(self, client: Asker) -> None:
        """Have the connection's answers delivered in a turn of their own."""
