"""What a store keeps: who holds which registration, in the form in which processes tell each other.

One server may be registered at several processes, so each process that holds a lease on it has a record of its own, and
a registration without a lease has one that is nobody's. Which of them counts is for each process to say, by the same
rules (:mod:`rproxy.registry`).

Records of one key replace each other by their version, a number that grows whoever makes it: the wall clock's
microseconds, or one more than the highest version seen, whichever is more. So no two processes' clocks need to agree,
and a lease never hangs on them.
"""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve, field, frozen

from rproxy.registry.registration import Registration

#: Policy, server id, and who holds it.
RecordKey = tuple[str, str, str]

#: The holder of a registration without a lease.
NOBODY = ""


@frozen
class Record:
    """One holder's word on one server of one policy.

    :ivar registration: None where the holder says that there is none (any more).
    :ivar down: for how long the server has been down, in seconds, where there is no lease; see ``--forget-after``.
    """

    policy: str
    server_id: str
    holder: str
    version: int
    registration: Registration | None
    down: float = field(default=0.0)

    @property
    def key(self) -> RecordKey:
        """What a later record replaces."""
        return self.policy, self.server_id, self.holder

    @property
    def lease(self) -> float | None:
        """For how long it stands without a renewal, in seconds; None where it needs none."""
        return None if self.registration is None else self.registration.lease

    def replaces(self, other: Record | None) -> bool:
        """Whether it counts in the place of another record of its key.

        An end is never undone by the record that it ended; a record may replace itself, with another time of being
        down.
        """
        if other is None or self.version > other.version:
            return True
        return self.version == other.version and other.registration is not None

    def ended(self, version: int | None = None) -> Record:
        """The record that says that there is none any more.

        :param version: None for the end of just this one, as when its lease runs out.
        """
        return evolve(self, registration=None, down=0.0, version=self.version if version is None else version)


class RecordError(ValueError):
    """Bytes that are no record; the text says why."""


def encode(record: Record) -> str:
    """The record as text, for stores that keep text."""
    registration = record.registration
    terms = None
    if registration is not None:
        terms = {
            "host": registration.host,
            "port": registration.port,
            "pipeline": registration.pipeline,
            "connections": registration.connections,
            "weight": registration.weight,
            "draining": registration.draining,
            "lease": registration.lease,
            "names": sorted(registration.names),
            "token": None if registration.token is None else registration.token.hex(),
        }
    return json.dumps(
        {
            "policy": record.policy,
            "id": record.server_id,
            "holder": record.holder,
            "version": record.version,
            "down": record.down,
            "terms": terms,
        },
        separators=(",", ":"),
    )


def decode(text: str | bytes) -> Record:
    """Read what :func:`encode` wrote.

    :raises RecordError: it is something else.
    """
    try:
        fields = json.loads(text)
        terms = fields["terms"]
        return Record(
            policy=_text(fields["policy"]),
            server_id=_text(fields["id"]),
            holder=_text(fields["holder"]),
            version=int(fields["version"]),
            registration=None if terms is None else _registration(fields["policy"], fields["id"], terms),
            down=float(fields["down"]),
        )
    except (ValueError, TypeError, LookupError) as error:
        raise RecordError(f"no record of a registration ({type(error).__name__}: {error})") from None


def _registration(policy: str, server_id: str, terms: dict[str, Any]) -> Registration:
    pipeline, lease, token = terms["pipeline"], terms["lease"], terms["token"]
    return Registration(
        policy=policy,
        server_id=server_id,
        host=_text(terms["host"]),
        port=int(terms["port"]),
        pipeline=None if pipeline is None else int(pipeline),
        connections=int(terms["connections"]),
        weight=int(terms["weight"]),
        draining=bool(terms["draining"]),
        lease=None if lease is None else float(lease),
        names=frozenset(map(_text, terms["names"])),
        token=None if token is None else bytes.fromhex(token),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
