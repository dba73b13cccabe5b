"""What a policy's own limits let in: so many packets a second, and so many without an answer."""

from __future__ import annotations

from collections.abc import Callable

from rproxy.policies import Policy
from rproxy.rates import Bucket
from rproxy.request import Allowance, Request


class Quotas:
    """What counts against the limits of policies that have them.

    It is kept by name and not in the routes, as those go while servers still answer.

    :param seconds: the clock.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._buckets: dict[str, Bucket] = {}
        self._allowances: dict[str, Allowance] = {}

    def refusal(self, name: str, policy: Policy) -> str | None:
        """Why the limits of the policy of that name don't let one more packet in now; None if they do."""
        if policy.rate is not None and self._bucket(name, policy.rate).refill(self._seconds()) < 1:
            return f"too many packets a second of policy {name}"
        if policy.in_flight is not None and self._allowance(name).used >= policy.in_flight:
            return f"too many packets of policy {name} have no answer yet"
        return None

    def count(self, request: Request, policy: Policy) -> None:
        """Let the request, which is of that policy, in."""
        if policy.rate is not None:
            self._bucket(request.policy, policy.rate).tokens -= 1
        if policy.in_flight is not None:
            request.allowance = self._allowance(request.policy)
            request.allowance.used += 1

    def renew(self) -> None:
        """The policies have changed: only what is unanswered still counts."""
        self._buckets.clear()
        self._allowances = {name: allowance for name, allowance in self._allowances.items() if allowance.used}

    @property
    def unanswered(self) -> dict[str, int]:
        """How many packets have no answer yet, for each policy that has a limit of that."""
        return {name: allowance.used for name, allowance in self._allowances.items()}

    def _bucket(self, name: str, rate: float) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(rate, self._seconds())
        return bucket

    def _allowance(self, name: str) -> Allowance:
        return self._allowances.setdefault(name, Allowance())
