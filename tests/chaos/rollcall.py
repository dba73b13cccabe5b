"""After the faults: whether every server is known to a worker, found out by asking until each has answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from tests.chaos.clients import HOST, Wire
from tests.chaos.history import Connection
from tests.chaos.oracle import SLACK
from tests.chaos.plan import POLICIES, TIMEOUT, Draft, Plan
from tests.chaos.processes import LOOK

#: Seconds until a connection has been accepted.
PATIENCE = 10.0


class RollCall:
    """One connection, over which packets of all policies go.

    :param worker: the number of the worker that is asked.
    :param open_record: makes the record of a connection, for a client of that id.
    :ivar present: policy and server id of those that have answered.
    """

    def __init__(self, plan: Plan, worker: int, open_record: Callable[[str], Connection]) -> None:
        self.present: set[tuple[str, str]] = set()
        self._plan = plan
        self._client_id = f"roll{worker}"
        self._open_record = open_record
        self._number = 0

    async def connect(self, port: int, ports: Callable[[], frozenset[int]]) -> None:
        """Connect, and wait until one process has the connection.

        :param ports: of those that are connected to it.
        """
        _, self._wire = await asyncio.get_running_loop().create_connection(
            lambda: Wire(self._open_record(self._client_id)), HOST, port
        )
        deadline = time.monotonic() + PATIENCE
        while self._wire.record.port not in ports() and time.monotonic() < deadline:
            await asyncio.sleep(LOOK)

    async def call(self, seconds: float) -> None:
        """Ask until every server has answered, or for so long; then close."""
        deadline = time.monotonic() + seconds
        while (missing := self._missing) and time.monotonic() < deadline:
            policies = {policy for policy, _ in missing}
            self._wire.send([draft for policy in sorted(policies) for draft in self._drafts(policy)])
            if not await self._wire.answered(TIMEOUT + SLACK):
                break
            self._take()
        await self._wire.finish(TIMEOUT + SLACK)

    async def ask_anything(self, port: int) -> None:
        """Return when the proxy has answered a packet, in whatever way."""
        await self.connect(port, lambda: frozenset({self._wire.record.port}))
        self._wire.send([Draft(self._client_id, POLICIES[0], self._payload())])
        await self._wire.finish(TIMEOUT + SLACK)

    @property
    def _missing(self) -> set[tuple[str, str]]:
        return {(policy, each.server_id) for each in self._plan.servers for policy in each.policies} - self.present

    def _drafts(self, policy: str) -> Iterator[Draft]:
        for server in self._plan.servers:
            if policy in server.policies:
                yield Draft(self._client_id, policy, self._payload())

    def _payload(self) -> str:
        self._number += 1
        # Of another connection of that id, another payload.
        return f"{self._plan.seed}/{self._client_id}/{self._wire.record.port}-{self._number}"

    def _take(self) -> None:
        record = self._wire.record
        for packet, answer in zip(record.packets, record.answers, strict=True):
            if answer.is_ack:
                self.present.add((packet.draft.policy, str(answer.fields["srcid"])))
