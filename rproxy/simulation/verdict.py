"""What came of each packet, and whether that is right."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from attrs import frozen

from rproxy.simulation.plan import Packet, Server, in_words


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
    """How many packets a server answered.

    :ivar of_policy: its share of what all servers of its policy answered, from 0 to 1.
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


@frozen(kw_only=True, slots=False)
class Result:
    """What came of a simulation.

    :ivar planned: how many packets were to be sent.
    :ivar outcomes: one for each packet that is through, in the order in which they were to be sent.
    :ivar judge_turns: whether the servers of a policy have to have taken turns: packets that are sent at the same time
        may be answered by any.
    :ivar aborted: why it ended before its time, else ``""``.
    """

    servers: tuple[Server, ...]
    planned: int
    outcomes: tuple[Outcome, ...]
    source: str = ""
    judge_turns: bool = True
    aborted: str = ""

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """For each outcome what is wrong with it, ``""`` if nothing is."""
        policies: dict[str | None, str] = {server.server_id: server.policy for server in self.servers}
        return tuple(_problem(outcome, policies.get(outcome.server_id)) for outcome in self.outcomes)

    @cached_property
    def wrong(self) -> int:
        """How many packets went wrong."""
        return sum(1 for problem in self.problems if problem)

    @property
    def unfinished(self) -> int:
        """How many packets were not sent, or not waited for any more."""
        return self.planned - len(self.outcomes)

    @cached_property
    def shares(self) -> tuple[Share, ...]:
        """What each server answered."""
        counts = Counter(outcome.server_id for outcome in self.outcomes)
        of_policy: Counter[str] = Counter()
        for server in self.servers:
            of_policy[server.policy] += counts[server.server_id]
        return tuple(
            Share(server, count, count / of_policy[server.policy] if count else 0.0)
            for server in self.servers
            for count in (counts[server.server_id],)
        )

    @cached_property
    def differences(self) -> dict[str, int]:
        """For each policy, how many packets more the busiest of its servers answered than the idlest."""
        counts: dict[str, list[int]] = {}
        for share in self.shares:
            counts.setdefault(share.server.policy, []).append(share.count)
        return {policy: max(of_policy) - min(of_policy) for policy, of_policy in counts.items()}

    @property
    def uneven(self) -> tuple[str, ...]:
        """The policies whose servers did not take turns, where they should have."""
        return tuple(policy for policy, difference in self.differences.items() if self.judge_turns and difference > 1)

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
        return not (self.wrong or self.unfinished or self.aborted or self.uneven)

    @property
    def verdict(self) -> str:
        """What is right or wrong, in one or several sentences."""
        if self.ok:
            return _all_right(self.planned)
        planned = in_words(self.planned, "packet")
        sentences = [
            f"It was stopped: {self.aborted}." if self.aborted else "",
            f"{self.wrong} of {planned} went wrong." if self.wrong else "",
            f"{self.unfinished} of {planned} were given up." if self.unfinished else "",
            f"The servers of policy {' and '.join(self.uneven)} did not take turns." if self.uneven else "",
        ]
        return " ".join(sentence for sentence in sentences if sentence)


def _all_right(count: int) -> str:
    if count == 1:
        return "The one packet was answered rightly, by a server of its policy."
    return f"All {count} packets were answered rightly, each by a server of its policy."


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
