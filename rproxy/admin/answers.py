"""What the admin listener takes and answers, beside figures and happenings: the types that JSON is made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from rproxy.packets import MAX_FIELD
from rproxy.reporting import Explanation


class ServerVerdict(Struct):
    """What would become of a packet at one server; ``refusal`` is null if it would take the packet."""

    server_id: str
    host: str
    port: int
    refusal: str | None


class ProcessVerdict(Struct):
    """What one process would do; ``refusal`` says what holds whatever the servers, null if it is for them to take."""

    refusal: str | None
    servers: list[ServerVerdict]


class Explained(Struct):
    """What would become of a packet of a policy now, by each process that answered."""

    policy: str
    processes: list[ProcessVerdict]


class Change(Struct, forbid_unknown_fields=True):
    """What a change is about: one policy, or all that the server serves."""

    policy: Annotated[str, Meta(min_length=1, max_length=MAX_FIELD)] | None = None


class Changed(Struct):
    """Of how many registrations it was true."""

    registrations: int


class Failed(Struct):
    """Why nothing came of it, and what to do."""

    error: str


def explained(policy: str, explanations: Sequence[Explanation]) -> Explained:
    """The answer that is made of them."""
    return Explained(
        policy,
        [
            ProcessVerdict(
                each.refusal,
                [ServerVerdict(one.server_id, one.host, one.port, one.refusal) for one in each.servers],
            )
            for each in explanations
        ],
    )
