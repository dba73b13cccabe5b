"""Which packets that were written to a server, and lost with it, are given to a second one."""

from __future__ import annotations

from collections.abc import Iterable

from rproxy.figures.counters import Counters
from rproxy.policies import Policies
from rproxy.request import Request

#: Packets that may be being retried at a time: this share of what is in flight, and so many however few those are.
RETRY_SHARE = 0.2
RETRIES = 3


class Retries:
    """Those that are being retried.

    Each is retried once, and they are never more than a share of what is in flight, so that servers that fail because
    they have too much to do don't get still more.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        #: Some may be answered by now.
        self._retrying: list[Request] = []

    def choose(self, requests: Iterable[Request], policies: Policies) -> tuple[list[Request], list[Request]]:
        """Those of the requests to retry, which count as that from now on; and the others."""
        again: list[Request] = []
        others: list[Request] = []
        budget: int | None = None
        for request in requests:
            policy = policies.get(request.policy)
            allowed = policy is not None and policy.retry and request.reply is None and not request.retried
            if allowed and budget is None:
                budget = self._find_budget()
            (again if allowed and budget is not None and len(again) < budget else others).append(request)
        for request in again:
            request.retried = True
            if request.tally is not None:
                request.tally.retried += 1
        self._retrying += again
        self._counters.retried += len(again)
        return again, others

    def sweep(self) -> None:
        """Let go of those that are answered, and of what is in them."""
        self._retrying = [request for request in self._retrying if request.reply is None]

    def _find_budget(self) -> int:
        self.sweep()
        return int(max(RETRIES, RETRY_SHARE * self._counters.in_flight)) - len(self._retrying)
