"""What is counted by policy and by server, in a way that the way of a packet can afford.

Only what was registered is told apart, and of that no more than some thousands in a process's life: whoever asks for
policies that don't exist can't make the numbers many.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable

from attrs import define, field

#: The upper bounds of the classes of times, in seconds; what took longer is in one more class.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Policies and servers that are told apart at most. All further policies are counted as one, and all further servers of
#: a policy as one.
MOST_POLICIES = 1_000
MOST_SERVERS = 10_000
#: What these are called; no policy and no server has that name.
OTHERS = ""

#: Times that are sorted into their classes by the way, see :class:`Timings`; fewer wait until somebody asks.
MANY = 50

#: How long things took: how many were within each of :data:`BOUNDS` and above the bound before, how many above all of
#: them, and at last the sum of all times, in seconds.
Times = list[float]


def new_times() -> Times:
    """Times of nothing yet."""
    return [0] * (len(BOUNDS) + 1) + [0.0]


def observe(times: Times, *seconds: float) -> None:
    """Things took so long; less than nothing, if a reload has made a deadline another one, counts as nothing."""
    ordered = sorted(seconds)
    sorted_in = 0
    for class_, bound in enumerate(BOUNDS):
        within = bisect_right(ordered, bound, sorted_in)
        times[class_] += within - sorted_in
        sorted_in = within
        if within == len(ordered):
            break
    times[len(BOUNDS)] += len(ordered) - sorted_in
    # The sum of all times must never sink.
    times[-1] += sum(ordered) if not ordered or ordered[0] >= 0.0 else sum(max(0.0, each) for each in ordered)


def count_of(times: Times) -> int:
    """How many things took these times."""
    return int(sum(times[:-1]))


def add_times(parts: Iterable[Times]) -> Times:
    """All times together."""
    return [sum(column) for column in zip(*parts, strict=True)] or new_times()


def quantile(times: Times, share: float) -> float | None:
    """The time within which that share of all things was done, as well as the classes tell; None of nothing.

    What is above the last of :data:`BOUNDS` counts as that.

    :param share: from 0 to 1.
    """
    total = sum(times[:-1])
    if not total:
        return None
    wanted = total * share
    low = 0.0
    for count, high in zip(times, BOUNDS, strict=False):
        if count and count >= wanted:
            return low + (high - low) * wanted / count
        wanted -= count
        low = high
    return BOUNDS[-1]


@define(eq=False)
class Timings:
    """How long things took, noted one after the other, and sorted into their classes many at a time.

    The way of a packet does no more than append to a list. To find a time's class and count it there took three times
    as long, and sorting many at once adds but little for each.
    """

    #: What isn't in its class yet, in seconds; always the same list.
    noted: list[float] = field(factory=list)
    _sorted: Times = field(factory=new_times)

    def sort(self) -> Times:
        """All that was noted until now, in its classes; to be read only."""
        if self.noted:
            observe(self._sorted, *self.noted)
            self.noted.clear()
        return self._sorted


@define(eq=False)
class PolicyTally:
    """What became of one policy's packets, but for the ACKs, which its servers' tallies have.

    What was received is the sum of all that and of what is in flight, so nothing is counted where a packet comes in.
    """

    #: From a packet's being read to its deadline, in seconds. Times are measured by that: those of packets that were
    #: read before it changed are off by the change, and so may be those of :data:`OTHERS` with different timeouts.
    timeout: float
    #: The policy, or :data:`OTHERS`.
    name: str = OTHERS
    #: Error packets written to clients, by code.
    refused: Counter[str] = field(factory=Counter)
    client_gone: int = 0
    retried: int = 0


@define(eq=False)
class ServerTally:
    """What became of the packets that one server was given under one policy."""

    policy: PolicyTally
    #: Packets that it never answered.
    lost: int = 0
    #: Times that it went down, and when it did so last, in the clock's seconds, and why.
    downs: int = 0
    down_at: float | None = None
    down_why: str = ""
    registrations: int = 0
    #: Of each ACK that was written to a client: from the packet's being read to that.
    total_times: Timings = field(factory=Timings)
    #: Of one answer of each read: from the packet's being written to that. Late ones too.
    times: Timings = field(factory=Timings)


@define(eq=False)
class Tallies:
    """All of them, by policy, and by policy and server id."""

    policies: dict[str, PolicyTally] = field(factory=dict)
    servers: dict[tuple[str, str], ServerTally] = field(factory=dict)

    def policy(self, name: str, timeout: float) -> PolicyTally:
        """Where a policy that has servers is counted."""
        tally = self.policies.get(name)
        if tally is None:
            if len(self.policies) >= MOST_POLICIES:
                name = OTHERS
            tally = self.policies.setdefault(name, PolicyTally(timeout, name))
        tally.timeout = timeout
        return tally

    def server(self, policy: PolicyTally, server_id: str) -> ServerTally:
        """Where a server is counted."""
        key = policy.name, server_id
        # Servers of different policies may have the same id.
        if policy.name == OTHERS or (key not in self.servers and len(self.servers) >= MOST_SERVERS):
            key = policy.name, OTHERS
        tally = self.servers.get(key)
        if tally is None:
            tally = self.servers[key] = ServerTally(policy)
        return tally

    def sweep(self) -> None:
        """Sort what was noted into its classes; called several times a second, so that it never gets much."""
        for tally in self.servers.values():
            for timings in (tally.total_times, tally.times):
                if len(timings.noted) >= MANY:
                    timings.sort()

    def has_to_itself(self, tally: ServerTally, server_id: str) -> bool:
        """Whether it is this server that is counted there, and no other."""
        return self.servers.get((tally.policy.name, server_id)) is tally

    def unserved(self, policy: str) -> PolicyTally | None:
        """Where a packet is counted that no server is looked for: at its policy, if that ever had one; else nowhere."""
        return self.policies.get(policy)
