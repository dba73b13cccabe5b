"""What the proxy counts, as plain integers that the way of a packet can afford.

``received`` is always the sum of ``acked``, everything in ``refused``, ``client_gone`` and what is in flight
(docs/protocol.rst, promise 2); each packet is counted once on either side, where it comes in and where it goes out.

What is told apart by policy and by server is counted for all packets of one kind that came or left together, not for
each of them. Only what was registered is told apart: whoever asks for policies that don't exist can't make the numbers
many.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

from attrs import define, field

#: The upper bounds of the classes of times, in seconds; what took longer is in one more class.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Policies and servers that are told apart at most, in a process's whole life. All further ones are counted as one.
MOST_POLICIES = 1_000
MOST_SERVERS = 10_000
#: What these are called, and what was refused before any server was looked for.
OTHERS = ""


#: How long things took: how many were within each of :data:`BOUNDS` and above the bound before, how many above all of
#: them, and at last the sum of all times, in seconds. A plain list, because two are written to for each packet.
Times = list[float]


def new_times() -> Times:
    """Times of nothing yet."""
    return [0] * (len(BOUNDS) + 1) + [0.0]


def class_of(seconds: float) -> int:
    """Where in :data:`Times` it is counted what took so long."""
    return bisect_left(BOUNDS, seconds)


def count_of(times: Times) -> int:
    """How many things took these times."""
    return int(sum(times[:-1]))


@define(eq=False)
class PolicyTally:
    """What became of one policy's packets."""

    #: From a packet's being read to its deadline, in seconds.
    timeout: float
    received: int = 0
    refused: Counter[str] = field(factory=Counter)
    client_gone: int = 0
    retried: int = 0
    #: From a packet's being read to its ACK's being written.
    times: Times = field(factory=new_times)

    @property
    def acked(self) -> int:
        """ACKs written to clients."""
        return count_of(self.times)

    @property
    def in_flight(self) -> int:
        """As :attr:`Counters.in_flight`."""
        return self.received - self.acked - self.refused.total() - self.client_gone


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
    #: From a packet's being written, or read where that was the same, to its answer's being read; late ones too.
    times: Times = field(factory=new_times)

    @property
    def answered(self) -> int:
        """Its answers, the late ones too."""
        return count_of(self.times)


@define
class Counters:
    """One proxy process's counters since its start."""

    #: Packets that ask for an answer: data packets, and whatever was refused as no packet.
    received: int = 0
    #: ACKs written to their clients.
    acked: int = 0
    #: Error packets written to clients, by code.
    refused: Counter[str] = field(factory=Counter)
    #: Packets whose client was gone before its answer.
    client_gone: int = 0
    #: Packets whose ``payloadsize`` was wrong and that were let pass.
    wrong_size: int = 0
    #: Answers that came after their packet's deadline or client was gone, and went to nobody.
    swallowed: int = 0
    #: Packets given to another server because the first got not one byte of them.
    redispatched: int = 0
    #: Packets given to another server although the first may have had them, as their policy allows.
    retried: int = 0
    #: Packets that were about to be written to a server of another policy. It must stay zero: who counts here has found
    #: a mistake in the proxy, and the packet was not written.
    violations: int = 0
    #: Setup packets accepted, and refused by code.
    registered: int = 0
    setup_refused: Counter[str] = field(factory=Counter)
    #: Connections of clients and registering servers that were accepted.
    accepted: int = 0
    #: Bytes of packets, and of answers.
    bytes_received: int = 0
    bytes_sent: int = 0
    #: By policy, and by policy and server id.
    policies: dict[str, PolicyTally] = field(factory=dict)
    servers: dict[tuple[str, str], ServerTally] = field(factory=dict)

    @property
    def in_flight(self) -> int:
        """Packets received and not yet answered, while none are being read."""
        return self.received - self.acked - self.refused.total() - self.client_gone

    def policy(self, name: str, timeout: float) -> PolicyTally:
        """Where a policy that has servers is counted."""
        tally = self.policies.get(name)
        if tally is None:
            if len(self.policies) >= MOST_POLICIES:
                name = OTHERS
            tally = self.policies.setdefault(name, PolicyTally(timeout))
        tally.timeout = timeout
        return tally

    def server(self, policy: PolicyTally, name: str, server_id: str) -> ServerTally:
        """Where a server is counted."""
        key = name, server_id
        if key not in self.servers and len(self.servers) >= MOST_SERVERS:
            key = name, OTHERS
        tally = self.servers.get(key)
        if tally is None:
            tally = self.servers[key] = ServerTally(policy)
        return tally

    def unserved(self, policy: str) -> None:
        """A packet came that no server was looked for; it counts for its policy if that ever had one."""
        tally = self.policies.get(policy)
        if tally is not None:
            tally.received += 1

    def refuse(self, policy: str, code: str) -> None:
        """An error packet was written to a client."""
        self.refused[code] += 1
        tally = self.policies.get(policy)
        if tally is not None:
            tally.refused[code] += 1

    def gone(self, policies: Iterable[str]) -> None:
        """The client of packets of these policies, one for each packet, is gone."""
        for policy, packets in Counter(policies).items():
            self.client_gone += packets
            tally = self.policies.get(policy)
            if tally is not None:
                tally.client_gone += packets
