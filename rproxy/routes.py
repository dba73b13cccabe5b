"""What there is of one policy: the servers in its rotation, who waits for them, and the limits of its packets."""

from __future__ import annotations

from typing import Any

from attrs import define, evolve, field

from rproxy.figures.tallies import PolicyTally
from rproxy.limits import CLASSIC_READ, Limits
from rproxy.policies import Policy
from rproxy.request import Request
from rproxy.rotation import Rotation
from rproxy.waiting import WaitingLine


@define(eq=False)
class Route:
    """One policy: its servers, and who waits for them."""

    line: WaitingLine
    #: The proxy's limits, or those of the policy where it has its own.
    limits: Limits
    policy: Policy
    tally: PolicyTally
    rotation: Rotation = field(factory=Rotation)
    #: When the last registration ended, in the clock's seconds.
    deserted: float | None = None

    def keep_to(self, policy: Policy, limits: Limits) -> None:
        """The policy is another one now."""
        self.policy = policy
        self.limits = self.line.limits = limits
        self.tally.timeout = limits.timeout

    def is_over(self, now: float) -> bool:
        """Whether it has had no server for as long as a packet may wait for one."""
        return self.deserted is not None and now - self.deserted >= self.limits.queue_timeout

    def refuse_long(self, request: Request) -> bool:
        """A packet that servers of the old kind can't take doesn't wait in their line: it would stop the others."""
        if len(request.raw) <= CLASSIC_READ or self.rotation.all_take(len(request.raw)):
            return False
        text = f"policy {request.policy} has servers of the old kind, which take at most {CLASSIC_READ} bytes"
        request.refuse("too-large", "no", text)
        return True

    def expire(self, now: float) -> None:
        """Refuse those that have waited long enough."""
        for request in self.line.expired(now) if self.line.packets else ():
            if request.deadline <= now:
                request.refuse("timeout", "no", "no server could take it before its deadline")
            else:
                text = f"no server of policy {request.policy} could take it within {self.limits.queue_timeout:g} s"
                request.refuse("no-server", "no", text)

    def refuse_all(self, code: str, text: str) -> None:
        """Refuse all that wait."""
        while (request := self.line.pop()) is not None:
            request.refuse(code, "no", text)


def limits_of(policy: Policy, limits: Limits) -> Limits:
    """The limits that a policy's packets are held to; those of the proxy, the same object, where it has none."""
    names = ("timeout", "queue_timeout", "queue_packets")
    changes: Any = {name: limit for name in names if (limit := getattr(policy, name)) is not None}
    is_special = changes or policy.in_flight is not None or policy.rate is not None
    return evolve(limits, **changes) if is_special else limits
