"""What the clients at one address take up together, and what they may: connections, bytes, packets a second.

An address is one of IPv4 or a /64 of IPv6, as that is what one customer of a network has at least (RFC 6177): whoever
counted single addresses there would count nothing. An address whose clients want more than they may has them wait, in
turns, until :meth:`Addresses.sweep` finds room. One that has no connection, and has had its pause, is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import nlargest
from ipaddress import IPv6Network
from socket import AF_INET6, inet_ntoa, inet_pton
from typing import Protocol

from rproxy.limits import Limits
from rproxy.rates import Bucket

#: How an address of IPv4 begins that is written as one of IPv6 (RFC 4291, section 2.5.5.2).
_MAPPED = bytes(10) + b"\xff\xff"
_PREFIX = 8


def prefix_of(host: str) -> str | bytes:
    """Whom an address of IPv6 counts for: its /64, or the address of IPv4 that is written like that."""
    # A link's name may stand behind a percent sign.
    packed = inet_pton(AF_INET6, host.partition("%")[0])
    return inet_ntoa(packed[12:]) if packed.startswith(_MAPPED) else packed[:_PREFIX]


def _text_of(group: str | bytes) -> str:
    return group if isinstance(group, str) else str(IPv6Network((group.ljust(16, b"\0"), 8 * _PREFIX)))


class Waiter(Protocol):
    """A connection that isn't read from for its address's sake."""

    def deliver(self, now: float) -> None:
        """There may be room: read on. It is ``now`` by the clock, in seconds."""


class ClientAddress:
    """One address.

    :ivar connections: how many it has, but for those that hold a lease or were refused.
    :ivar leases: how many of its connections hold one.
    :ivar refused: how many that were refused and aren't closed yet.
    :ivar bytes: of the packets that aren't answered.
    :ivar bucket: its packets.
    :ivar waiting: those that have more for the proxy than the address may send.
    """

    __slots__ = ("_addresses", "bucket", "bytes", "connections", "leases", "refused", "waiting")

    def __init__(self, addresses: Addresses, now: float) -> None:
        self._addresses = addresses
        self.connections = 0
        self.leases = 0
        self.refused = 0
        self.bytes = 0
        self.bucket = Bucket(addresses.limits.rate_limit, now)
        self.waiting: dict[Waiter, None] = {}

    @property
    def is_full(self) -> bool:
        """Whether as many bytes are unanswered as may be."""
        most = self._addresses.limits.max_bytes_per_address
        return bool(most) and self.bytes >= most

    def room(self, now: float) -> int:
        """How many packets more may be taken, whoever sent them."""
        limits = self._addresses.limits
        if self.is_full:
            return 0
        if not limits.rate_limit:
            return limits.client_packets
        return int(self.bucket.refill(now))

    def ask(self, waiter: Waiter, now: float) -> int:
        """How many packets more may be taken from this one, who is in line if it is none."""
        # Who comes now stands behind those who are here.
        room = 0 if self.waiting else self.room(now)
        if room < 1:
            self.waiting[waiter] = None
            self._addresses.crowded[self] = None
        return room

    def wake(self, now: float) -> None:
        """Let those that wait read on while there is room: the first of them, who goes to the end if it wants more."""
        before, self.waiting = self.waiting, {}
        while before and not self.waiting and self.room(now) >= 1:
            waiter = next(iter(before))
            del before[waiter]
            waiter.deliver(now)
        self.waiting = before | self.waiting

    @property
    def has_clients(self) -> bool:
        """Whether there are connections of clients, be they refused ones; registered servers are none."""
        return self.connections > 0 or self.refused > 0

    def is_idle(self, now: float) -> bool:
        """Whether it has nothing here, and would begin anew with no more than it may send already."""
        return not (self.connections or self.leases or self.refused) and self.bucket.refill(now) >= self.bucket.burst


class Addresses:
    """The addresses that have connections, or had them a moment ago.

    :param seconds: the clock.
    """

    def __init__(self, limits: Limits, seconds: Callable[[], float]) -> None:
        self.limits = limits
        #: Those that have somebody waiting.
        self.crowded: dict[ClientAddress, None] = {}
        self._seconds = seconds
        self._known: dict[str | bytes, ClientAddress] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, host: str | None) -> ClientAddress:
        """What a connection from there counts for; None is no host's, and counts for itself."""
        if host is None:
            return ClientAddress(self, self._seconds())
        group = prefix_of(host) if ":" in host else host
        known = self._known.get(group)
        if known is None:
            known = self._known[group] = ClientAddress(self, self._seconds())
        return known

    def heaviest(self, most: int) -> tuple[int, list[tuple[str, ClientAddress]]]:
        """How many addresses have clients, and so many of them at most, as text: the heaviest.

        They are those with the most unanswered bytes, then with the most connections, then with the most refused ones.
        """
        # No list of all of them: the garbage collector would look through it.
        found = (item for item in self._known.items() if item[1].has_clients)
        chosen = nlargest(most, found, key=lambda item: (item[1].bytes, item[1].connections, item[1].refused))
        number = sum(address.has_clients for address in self._known.values())
        return number, [(_text_of(group), address) for group, address in chosen]

    def sweep(self) -> None:
        """Let those that wait read on, where there is room again."""
        if self.crowded:
            crowded, self.crowded = self.crowded, {}
            now = self._seconds()
            for address in crowded:
                address.wake(now)
                if address.waiting:
                    self.crowded[address] = None

    def forget(self) -> None:
        """Forget the addresses that nothing is left of."""
        now = self._seconds()
        for group in [group for group, address in self._known.items() if address.is_idle(now)]:
            del self._known[group]
