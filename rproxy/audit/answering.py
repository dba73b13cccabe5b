"""Which servers got packets: of a client, or of a policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field

from rproxy.audit.lines import AnyLine, Packet, Terms


@define
class Receiver:
    """A server that got packets of a policy.

    :ivar address: host and port, ``""`` if the line that tells them wasn't given.
    """

    server: str
    address: str
    policy: str
    first: str
    last: str = ""
    packets: int = 0
    registrations: set[int] = field(factory=set)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            "server": self.server,
            "address": self.address,
            "policy": self.policy,
            "packets": self.packets,
            "first": self.first,
            "last": self.last,
            "registrations": sorted(self.registrations),
        }


class Receivers:
    """Collects them.

    :param wanted: which packets count.
    """

    def __init__(self, wanted: Callable[[Packet], bool]) -> None:
        self._wanted = wanted
        self._found: dict[tuple[str, str, str], Receiver] = {}

    def take(self, line: AnyLine, terms_of: Callable[[int], Terms | None]) -> None:
        """Take the next line.

        :param terms_of: what is known of a registration.
        """
        if not isinstance(line, Packet) or not self._wanted(line):
            return
        for written in line.servers:
            terms = terms_of(written.registration)
            address = "" if terms is None else f"{terms.host}:{terms.port}"
            key = written.server, address, line.policy
            receiver = self._found.get(key)
            if receiver is None:
                receiver = self._found[key] = Receiver(*key, line.time)
            receiver.last = line.time
            receiver.packets += 1
            receiver.registrations.add(written.registration)

    @property
    def found(self) -> list[Receiver]:
        """Those that got something, in order."""
        return [self._found[key] for key in sorted(self._found)]
