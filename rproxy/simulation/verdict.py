"""What came of each packet, and whether that is right."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from attrs import field, frozen

from rproxy.simulation.plan import Packet, Server


@frozen
class Outcome:
    """What came of one packet.

    :ivar server_id: who answered it; None if it got no ACK.
    :ivar hash_right: whether the answer is the payload's SHA-1; None if it got no ACK.
    :ivar seconds: from the packet to its answer; making the connection is part of it where there was none.
    :ivar error: why it got no ACK, else ``""``.
    """

    packet: Packet
    server_id: str | None = None
    hash_right: bool | None = None
    seconds: float | None = None
    error: str = ""


@frozen
class Share:
    """How many of its policy's packets a server answered.

    :ivar of_policy: the share of all answered packets of its policy, from 0 to 1.
    """

    server: Server
    count: int
    of_policy: float


@frozen
class Latency:
    """The time from a packet to its ACK, over all packets that got one; in seconds."""

    least: float
    median: float
    p95: float
    most: float


@frozen(slots=False)
class Result:
    """What came of a simulation.

    :ivar outcomes: one for each packet, in the order in which they were sent.
    :ivar judge_turns: whether the servers of a policy have to have taken turns: packets that are sent at the same time
        may be answered by any.
    :ivar aborted: why it ended before its time, else ``""``.
    """

    servers: tuple[Server, ...]
    outcomes: tuple[Outcome, ...]
    source: str = ""
    judge_turns: bool = True
    aborted: str = field(default="", kw_only=True)

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """For each outcome what is wrong with it, ``""`` if nothing is."""
        policies: dict[str | None, str] = {server.server_id: server.policy for server in self.servers}
        return tuple(_problem(outcome, policies.get(outcome.server_id)) for outcome in self.outcomes)

    @cached_property
    def wrong(self) -> int:
        """How many packets went wrong."""
        return sum(1 for problem in self.problems if problem)

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """What each server answered of its policy's packets."""
        counts = Counter((outcome.server_id, outcome.packet.policy) for outcome in self.outcomes)
        answered = [counts[server.server_id, server.policy] for server in self.servers]
        totals: Counter[str] = Counter()
        for server, count in zip(self.servers, answered, strict=True):
            totals[server.policy] += count
        return tuple(
            Share(server, count, count / totals[server.policy] if count else 0.0)
            for server, count in zip(self.servers, answered, strict=True)
        )

    @cached_property
    def uneven(self) -> tuple[str, ...]:
        """The policies whose servers' counts differ by more than 1."""
        counts: dict[str, list[int]] = {}
        for share in self.shares:
            counts.setdefault(share.server.policy, []).append(share.count)
        return tuple(policy for policy, of_policy in counts.items() if max(of_policy) - min(of_policy) > 1)

    @cached_property
    def latency(self) -> Latency | None:
        """None if no packet got an ACK."""
        return _latency(self.seconds)

    @cached_property
    def seconds(self) -> tuple[float, ...]:
        """The time to the ACK of each packet that got one, in seconds."""
        return tuple(
            outcome.seconds
            for outcome in self.outcomes
            if outcome.seconds is not None and outcome.server_id is not None
        )

    @property
    def ok(self) -> bool:
        """Whether everything was right."""
        return not (self.wrong or self.aborted or (self.judge_turns and self.uneven))

    @property
    def verdict(self) -> str:
        """What is right or wrong, in a sentence or two."""
        total = len(self.outcomes)
        sentences = [f"It was stopped: {self.aborted}."] if self.aborted else []
        if self.wrong:
            sentences.append(f"{self.wrong} of {_packets(total)} went wrong.")
        elif not self.aborted:
            answered = "was answered rightly, by" if total == 1 else "were answered rightly, each by"
            everything = "The one packet" if total == 1 else f"All {_packets(total)}"
            sentences.append(f"{everything} {answered} a server of its policy.")
        if self.uneven:
            which = " and ".join(self.uneven)
            sentences.append(f"The servers of policy {which} did not take turns.")
        return " ".join(sentences)


def _problem(outcome: Outcome, policy: str | None) -> str:
    """What is wrong with an outcome, given the policy of the server that answered."""
    if outcome.error:
        return outcome.error
    if policy is None:
        return f"answered by {outcome.server_id}, which is no server of ours"
    if policy != outcome.packet.policy:
        return f"answered by server {outcome.server_id}, which serves policy {policy}"
    if not outcome.hash_right:
        return "the answer is not the payload's SHA-1"
    return ""


def _latency(seconds: Sequence[float]) -> Latency | None:
    if not seconds:
        return None
    p95 = statistics.quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    return Latency(min(seconds), statistics.median(seconds), p95, max(seconds))


def _packets(count: int) -> str:
    return f"{count} packet" if count == 1 else f"{count} packets"
