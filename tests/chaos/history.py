"""Everything that was seen in a run, in one value that a test can also make up.

Times are seconds of the monotonic clock, which all processes of a machine share; 0 stands for what didn't happen.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Any

from attrs import define, field, frozen

from tests.chaos.journal import Receipt, sha1_hex
from tests.chaos.plan import Draft, Event, Plan
from tests.chaos.views import Figures, Views


@define
class Packet:
    """A data packet that a client sent, or was about to when its connection ended."""

    draft: Draft
    sent_at: float
    #: What it is known by, in journals and in ACKs.
    digest: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.digest = sha1_hex(self.draft.payload)


@frozen
class Answer:
    """A packet that came back to a client: its fields, as they were."""

    at: float
    fields: dict[str, Any]

    @property
    def is_ack(self) -> bool:
        """Whether it is an ACK."""
        return self.fields.get("type") == "2"


class End(StrEnum):
    """How a client's connection ended."""

    #: It didn't.
    OPEN = "open"
    #: The client closed it, having all its answers or no hope for them.
    DONE = "done"
    #: The client went with packets unanswered, as planned.
    LEFT = "left"
    #: The client shut its writing side, as planned, and the proxy closed after that.
    SHUT = "shut"
    #: The proxy closed it, or it broke.
    CUT = "cut"


@define
class Connection:
    """A connection of a client to the proxy: packets and answers, each in their order.

    :ivar proxy: which life of the proxy it was made to, as an index of :attr:`History.proxies`.
    :ivar began: when it was made.
    :ivar port: the client's own.
    :ivar leftover: what came at the end and was no whole answer.
    """

    client_id: str
    proxy: int
    began: float = 0.0
    port: int = 0
    packets: list[Packet] = field(factory=list)
    answers: list[Answer] = field(factory=list)
    end: End = End.OPEN
    ended_at: float = 0.0
    leftover: str = ""

    @property
    def unanswered(self) -> list[Packet]:
        """The packets that have no answer, or none yet."""
        return self.packets[len(self.answers) :]


@define
class ProxyLife:
    """A process of the proxy, from its start to its end.

    :ivar told_at: when it got the signal that ended it.
    :ivar gently: whether that was SIGTERM.
    :ivar orphans: how many of its workers outlived it.
    """

    told_at: float = 0.0
    gently: bool = False
    ended_at: float = 0.0
    exit_code: int | None = None
    orphans: int = 0
    log: str = ""


@define
class Incident:
    """What became of a planned fault.

    :ivar began: when the process got the signal, the server its order, or the client had gone.
    :ivar ended: when the process was running again; for an order, when it was given.
    :ivar evidence: what shows that it happened: the state of the process, or the number of packets left unanswered. An
        order's is in the journal.
    :ivar proxy: which life of the proxy a worker was one of, as an index of :attr:`History.proxies`.
    :ivar ports: of those that were connected to the worker when it stood still.
    """

    event: Event
    began: float = 0.0
    ended: float = 0.0
    evidence: str = ""
    proxy: int = 0
    ports: frozenset[int] = frozenset()

    def struck(self, connection: Connection) -> bool:
        """Whether a client's connection was one of those that the worker had."""
        # A connection may be there for a while before the client notices.
        meanwhile = connection.began <= self.ended and (connection.ended_at or self.began) >= self.began
        return self.proxy == connection.proxy and connection.port in self.ports and meanwhile


@frozen
class Reading:
    """What the API showed while packets went.

    :ivar proxy: which life of the proxy it was that did, as an index of :attr:`History.proxies`.
    """

    at: float
    proxy: int
    figures: Figures


@define
class History:
    """A run.

    :ivar began: when the traffic began.
    :ivar ports: where each server listens, by its id.
    :ivar receipts: what is in all journals.
    :ivar logs: what the servers' processes wrote, by name.
    :ivar exit_codes: of the servers that were told to end by SIGTERM, by name.
    :ivar roll: who answered in the end, as policy and server id, through each worker, by its number from 1.
    :ivar trails: what is wrong with each audit trail, by its name; empty where nothing is.
    :ivar open_at_start: what the proxy had open before anybody came; see :mod:`tests.chaos.openfiles`.
    :ivar open_at_end: what its last life had open when all was quiet.
    :ivar readings: what its lives showed meanwhile, in the order of time.
    :ivar views: what its last life showed in the end, when all was quiet.
    """

    plan: Plan
    began: float = 0.0
    ports: dict[str, int] = field(factory=dict)
    connections: list[Connection] = field(factory=list)
    receipts: list[Receipt] = field(factory=list)
    proxies: list[ProxyLife] = field(factory=list)
    incidents: list[Incident] = field(factory=list)
    logs: dict[str, str] = field(factory=dict)
    exit_codes: dict[str, int] = field(factory=dict)
    roll: dict[int, set[tuple[str, str]]] = field(factory=dict)
    trails: dict[str, str] = field(factory=dict)
    open_at_start: Counter[str] = field(factory=Counter)
    open_at_end: Counter[str] = field(factory=Counter)
    readings: list[Reading] = field(factory=list)
    views: Views | None = None
