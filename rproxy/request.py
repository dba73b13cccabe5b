"""A data packet on its way through the proxy, from the byte that completed it to the answer."""

from __future__ import annotations

from typing import Literal, Protocol

from rproxy import packets


class Asker(Protocol):
    """Whoever waits for answers: a client's connection, or a caller's Deferred."""

    def deliver(self) -> None:
        """Some request of this asker has its ``reply``: pass on what can be passed on in order."""


class Server(Protocol):
    """What a request knows of the server it was given to."""

    @property
    def policy(self) -> str:
        """The policy that the server is registered for."""

    @property
    def server_id(self) -> str:
        """The id that its answers must bear."""

    @property
    def live(self) -> bool:
        """Whether packets may still be written to it."""


class Request:
    """The one object that a packet costs the proxy. ``reply`` is set exactly once; who sets it calls ``deliver``.

    Slots and no attrs: one is made for each packet, and this is the cheapest form (docs/performance.rst).
    """

    __slots__ = ("asker", "client_id", "deadline", "error", "policy", "raw", "reply", "server", "waits_until")

    def __init__(self, raw: bytes, policy: str, client_id: str, deadline: float, asker: Asker) -> None:
        #: The packet as it came, which is how it is forwarded.
        self.raw = raw
        self.policy = policy
        self.client_id = client_id
        #: When it is too late for an answer, in the clock's seconds.
        self.deadline = deadline
        self.asker = asker
        #: The server it was given to.
        self.server: Server | None = None
        #: The answer; the asker's packet was refused if ``error`` has a code.
        self.reply: bytes | None = None
        self.error: str | None = None
        #: While it waits in line: when the wait ends, in the clock's seconds.
        self.waits_until = 0.0

    def refuse(self, code: str, delivered: Literal["no", "unknown"], text: str) -> None:
        """Answer with an error packet (codes: docs/protocol.rst), unless an answer is there."""
        if self.reply is None:
            self.error = code
            self.reply = packets.error(packets.PROXY_ID, self.client_id, code, delivered, text)
            self.asker.deliver()

    def abandon(self) -> None:
        """The asker is gone: whatever comes for this request now goes to nobody."""
        if self.reply is None:
            self.reply = b""
