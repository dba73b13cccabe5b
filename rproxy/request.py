"""A data packet on its way through the proxy, from the byte that completed it to the answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from msgspec import Struct

from rproxy import packets
from rproxy.figures.tallies import PolicyTally, ServerTally


class Asker(Protocol):
    """Whoever waits for answers: a client's connection, or a caller's Deferred."""

    def deliver(self, now: float) -> None:
        """Some request of this asker has its ``reply``: pass on what can be passed on in order.

        :param now: the clock's seconds.
        """

    def deliver_soon(self) -> None:
        """The same, but not from here: what is being done isn't finished, and an answer may bring the next packet."""


class Server(Protocol):
    """What a request knows of the server it was given to."""

    @property
    def policy(self) -> str:
        """The policy that the server is registered for."""

    @property
    def server_id(self) -> str:
        """The id that its answers must bear."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""

    @property
    def number(self) -> int:
        """Which registration it is, see :class:`rproxy.registry.registration.Registration`."""

    @property
    def live(self) -> bool:
        """Whether packets may still be written to it."""

    @property
    def target(self) -> object:
        """Whose connections lead to it."""

    @property
    def tally(self) -> ServerTally:
        """Where its packets are counted."""

    @property
    def noted(self) -> list[float]:
        """Where it is noted how long its ACKs took, of that."""


class Allowance:
    """How many packets of one policy have no answer yet."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Refusal(bytes):
    """A reply that is an error packet."""

    code: str
    #: What it says of that: ``no`` or ``unknown``.
    delivered: str

    def __new__(cls, packet: bytes, code: str, delivered: str) -> Refusal:
        self = super().__new__(cls, packet)
        self.code = code
        self.delivered = delivered
        return self


class Request(Struct, eq=False):
    """The one object that a packet costs the proxy.

    ``reply`` is set exactly once; who sets it gives the ``allowance`` back and calls ``deliver`` or ``deliver_soon`` of
    the asker.

    A Struct and not attrs: one is made for each packet, and msgspec makes it in a third of the time
    (docs/explanation/performance.rst).
    """

    #: The packet as it came, which is how it is forwarded.
    raw: bytes
    policy: str
    client_id: str
    #: When it is too late for an answer, in the clock's seconds.
    deadline: float
    asker: Asker
    #: The answer.
    reply: bytes | Refusal | None = None
    #: The server it was given to.
    server: Server | None = None
    #: Where it is counted, while no server was found for it; None where it isn't told apart.
    unserved: PolicyTally | None = None
    #: Where it counts as unanswered, if its policy has a limit of that.
    allowance: Allowance | None = None
    #: A server before that one may have had it: nobody can say any more that no server did.
    retried: bool = False
    #: The servers that it was written to, each with the audit trail's last line at that time; empty without a trail.
    written: tuple[tuple[Server, int], ...] = ()
    #: While it waits in line: when the wait ends, in the clock's seconds.
    waits_until: float = 0.0
    #: The deadline that it would have if it had been read when it was written, if that was later.
    sent: float = 0.0

    @property
    def tally(self) -> PolicyTally | None:
        """Where it counts as in flight, and then what becomes of it; None if its policy isn't told apart.

        Made out when it is asked for: most packets are given to a server at once, and are counted as that server's.
        """
        return self.unserved if self.server is None else self.server.tally.policy

    def refuse(self, code: str, delivered: Literal["no", "unknown"], text: str) -> None:
        """Answer with an error packet (codes: docs/reference/protocol.rst), unless an answer is there."""
        if self.reply is None:
            if self.retried:
                delivered = "unknown"
            packet = packets.error(packets.PROXY_ID, self.client_id, code, delivered, text)
            self.reply = Refusal(packet, code, delivered)
            if self.allowance is not None:
                self.allowance.used -= 1
            self.asker.deliver_soon()

    def count_from(self, now: float) -> None:
        """It is written now, by the clock's seconds, if it was given to a server, and wasn't read just now."""
        if self.server is not None:
            self.sent = now + self.server.tally.policy.timeout

    def abandon(self) -> None:
        """The asker is gone: whatever comes for this request now goes to nobody."""
        if self.reply is None:
            self.reply = b""
            if self.allowance is not None:
                self.allowance.used -= 1


class Endings(Protocol):
    """Whoever records what became of packets."""

    def ended(self, requests: Iterable[Request], address: str) -> None:
        """These have an answer, and it is given to the client, there."""

    def gone(self, requests: Iterable[Request], address: str) -> None:
        """The client is gone before it could be given their answers, whether or not these are there."""
