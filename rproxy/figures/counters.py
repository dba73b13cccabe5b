"""What the proxy counts, as plain integers that the way of a packet can afford.

``received`` is always the sum of ``acked``, everything in ``refused``, ``client_gone`` and what is in flight
(docs/protocol.rst, promise 2); each packet is counted once on either side, where it comes in and where it goes out.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import asdict, define, field

from rproxy.figures.tallies import Tallies


@define
class Counters:
    """One proxy process's counters since its start."""

    #: Packets that ask for an answer: data packets, and whatever was refused as no packet.
    received: int = 0
    #: ACKs written to their clients.
    acked: int = 0
    #: Error packets written to clients, by code.
    refused: Counter[str] = field(factory=Counter)
    #: Packets whose client was gone before its answer.
    client_gone: int = 0
    #: Packets whose ``payloadsize`` was wrong and that were let pass.
    wrong_size: int = 0
    #: Answers that came after their packet's deadline or client was gone, and went to nobody.
    swallowed: int = 0
    #: Packets given to another server because the first got not one byte of them.
    redispatched: int = 0
    #: Packets given to another server although the first may have had them, as their policy allows.
    retried: int = 0
    #: Packets that were about to be written to a server of another policy. It must stay zero: who counts here has found
    #: a mistake in the proxy, and the packet was not written.
    violations: int = 0
    #: Setup packets accepted, and refused by code.
    registered: int = 0
    setup_refused: Counter[str] = field(factory=Counter)
    #: Connections of clients and registering servers that were accepted.
    accepted: int = 0
    #: Bytes of packets that came, and of answers.
    bytes_received: int = 0
    bytes_sent: int = 0
    #: The same things, told apart.
    tallies: Tallies = field(factory=Tallies, eq=False)

    @property
    def in_flight(self) -> int:
        """Packets received and not yet answered, while none are being read."""
        return self.received - self.acked - self.refused.total() - self.client_gone

    def snapshot(self) -> dict[str, Any]:
        """What is counted now, in a form that JSON has."""
        return asdict(
            self,
            filter=lambda attribute, _: attribute.name != "tallies",
            value_serializer=lambda _, __, value: dict(value) if isinstance(value, Counter) else value,
        )

    def add(self, snapshot: Mapping[str, Any]) -> None:
        """Count what another process did as well, from its :meth:`snapshot`."""
        for name, value in snapshot.items():
            counted = getattr(self, name)
            if isinstance(counted, Counter):
                counted.update(value)
            else:
                setattr(self, name, counted + value)
