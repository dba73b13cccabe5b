"""What a proxy shows of itself: one value, from which dashboard, API, metrics and commands all take theirs.

It is made when somebody asks, from what the way of a packet counts anyway. Several processes' figures add up to those
of the proxy that they are together (:mod:`rproxy.figures.merging`).
"""

from __future__ import annotations

from msgspec import Struct, field

from rproxy.figures.tallies import Times, new_times

#: How many addresses of clients are shown.
MOST_CLIENTS = 20


class ServerFigures(Struct, kw_only=True):
    """One server under one policy. Times are seconds."""

    policy: str
    id: str
    host: str
    port: int
    #: In how many processes it is in which state: ``up``, ``down``, ``draining``, or ``held``, which is kept to the
    #: connections that it has, as nobody can say whether its registration stands.
    states: dict[str, int]
    #: Why a packet wouldn't be given to it now, by how many processes say so; empty where all would.
    reasons: dict[str, int] = field(default_factory=dict)
    weight: int
    #: Of its turns, how much it gets now, from 0 to 1; the mean over the processes.
    share: float
    #: Packets in flight at a time on a connection; None for a server of the old kind.
    pipeline: int | None
    #: Connections that are open, and packets on them without an answer.
    connections: int
    in_flight: int
    #: How long its lease lasts if it isn't renewed; None without one, and where another proxy holds it.
    lease_left: float | None = None
    registrations: int = 0
    acked: int = 0
    lost: int = 0
    downs: int = 0
    #: How long ago it went down last, and why; None if it never did.
    down_ago: float | None = None
    down_why: str = ""
    #: See :class:`rproxy.figures.tallies.ServerTally`.
    total_times: Times = field(default_factory=new_times)
    times: Times = field(default_factory=new_times)


class PolicyFigures(Struct, kw_only=True):
    """One policy that has servers, or had some; or all those together that are too many to be told apart.

    ``received`` is the sum of ``acked``, everything in ``refused``, ``client_gone`` and ``in_flight``.
    """

    #: :data:`rproxy.figures.tallies.OTHERS` of all that are too many.
    name: str
    description: str = ""
    received: int = 0
    acked: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    client_gone: int = 0
    retried: int = 0
    in_flight: int = 0
    #: Packets in line for a server.
    waiting: int = 0
    #: Of each ACK, from the packet's being read to the ACK's being written.
    total_times: Times = field(default_factory=new_times)
    servers: list[ServerFigures] = field(default_factory=list)

    @property
    def servers_up(self) -> int:
        """How many take packets; one that is held does, as long as its connections are there."""
        return sum("up" in server.states or "held" in server.states for server in self.servers)


class StoreFigures(Struct, kw_only=True):
    """Where registrations are kept."""

    name: str
    #: Why it can't be used, and for how long that has been so, in seconds; None while it can.
    away: str | None = None
    away_for: float | None = None
    #: How many processes share it.
    processes: int = 1


class ProcessFigures(Struct, kw_only=True):
    """One process."""

    #: Of the worker, from 1; 0 where there are no workers.
    number: int
    pid: int
    #: Seconds since it began.
    uptime: float
    #: Connections of clients and registering servers.
    connections: int
    open_files: int
    max_open_files: int
    #: By how much a timer was late, in seconds: the last, and the latest of a minute.
    lag: float = 0.0
    max_lag: float = 0.0
    store: StoreFigures


class ClientFigures(Struct, kw_only=True):
    """What the clients at one address take up; see :class:`rproxy.addresses.ClientAddress`."""

    #: One of IPv4, or a /64 of IPv6 as a network.
    address: str
    #: Connections that are open, but for those that were refused and those that registrations hang on.
    connections: int
    #: Bytes of packets without an answer.
    unanswered_bytes: int
    #: How many of the connections aren't read from, because the address sends more than it may.
    held_back: int
    #: Connections that were refused and aren't closed yet.
    refused: int
    #: Connections that registrations hang on.
    leases: int


class Figures(Struct, kw_only=True):
    """A proxy."""

    version: str
    #: ``ready``; ``draining`` once it is told to stop; ``refusing`` while it can't write the trail that it has to.
    state: str
    #: Of :class:`rproxy.figures.counters.Counters`, by their names.
    counters: dict[str, int | dict[str, int]]
    in_flight: int
    policies: list[PolicyFigures]
    processes: list[ProcessFigures]
    #: How many addresses clients have connections from. One that several processes have is counted once if each shows
    #: it in ``clients``, else up to once for each of them.
    client_addresses: int = 0
    #: The heaviest, :data:`MOST_CLIENTS` at most: those with the most unanswered bytes, then those with the most
    #: connections. Of several processes these are the heaviest of what each shows, added up.
    clients: list[ClientFigures] = field(default_factory=list)
    #: The numbers of workers that didn't answer in time, or are being replaced: their part is left out.
    missing: list[int] = field(default_factory=list)
