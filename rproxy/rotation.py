"""Whose turn it is within a policy: weighted round-robin by registration (docs/reference/protocol.rst, promise 5).

The turns of one round lie on a wheel: a server of weight w stands on it w times, evenly spread, so with equal weights
the wheel is the order of registration; a server that came back from being down stands there less often for a while. A
turn costs the same for one server and for a thousand, as long as the next ones have room; a change of the members costs
a new wheel, made when the next turn is taken.
"""

from __future__ import annotations

from bisect import bisect_right
from math import gcd
from typing import Protocol

from attrs import define, field

from rproxy.figures.tallies import ServerTally
from rproxy.registry.registration import Address, Registration
from rproxy.request import Request

#: A round has no more turns than this, and one for each member: beyond, weights are rounded. A wheel is made anew after
#: each change, at half a microsecond a turn.
MOST_TURNS = 20_000


class Target(Protocol):
    """Where a member's packets go."""

    @property
    def share(self) -> int:
        """How much of its turns it should get now, from 1 to :data:`rproxy.health.FULL_SHARE`."""

    @property
    def takes_at_most(self) -> int:
        """The longest packet that it takes while it is up, in bytes."""

    def take(self, request: Request, member: Member, /) -> bool:
        """Take charge of the request, or answer False: down, or full."""


@define(eq=False)
class Member:
    """A registered server in the rotation of one policy."""

    registration: Registration
    target: Target
    tally: ServerTally
    #: Whether it is only known from another process, which holds its lease.
    found: bool = field(default=False, kw_only=True)
    #: Its place in the order of registration; a successor takes it over.
    order: int = field(default=0, init=False)
    policy: str = field(init=False)
    server_id: str = field(init=False)
    number: int = field(init=False)
    #: Whether packets may be written to it: not once it drains, is replaced, or its registration ended.
    live: bool = field(init=False)
    #: Whether an operator had it drained.
    drained: bool = field(default=False, init=False)
    noted: list[float] = field(init=False)

    def __attrs_post_init__(self) -> None:
        # Copied from the registration because the way of a packet reads them for each packet and each answer.
        self.policy = self.registration.policy
        self.server_id = self.registration.server_id
        self.number = self.registration.number
        self.live = not self.registration.draining
        self.noted = self.tally.total_times.noted

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self.registration.address


class Rotation:
    """The servers of one policy."""

    __slots__ = ("_cursor", "_last", "_marks", "_members", "_order", "_wheel")

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}
        self._order = 0
        #: The wheel, and where on the round each of its turns lies; both are made anew when None.
        self._wheel: list[Member] | None = []
        self._marks: list[tuple[float, int]] = []
        self._cursor = 0
        #: The turn taken last, as long as that wasn't on this wheel; None once it is the one before the cursor.
        self._last: tuple[float, int] | None = (0.0, 0)

    def __len__(self) -> int:
        return len(self._members)

    def all_take(self, length: int) -> bool:
        """Whether all that take packets now, or will when they have room, take one of so many bytes."""
        return all(member.target.takes_at_most >= length for member in self._members.values() if member.live)

    @property
    def members(self) -> list[Member]:
        """All of them, in no order."""
        return list(self._members.values())

    def put(self, member: Member) -> Member | None:
        """Add a member, or put it in the place of its predecessor of the same id, which is returned."""
        replaced = self._members.get(member.server_id)
        if replaced is not None:
            member.order = replaced.order
        else:
            self._order += 1
            member.order = self._order
        self._members[member.server_id] = member
        self._wheel = None
        return replaced

    def bar(self, server_id: str) -> Member:
        """Offer nothing more to a member, and return it."""
        self._wheel = None
        return self._members[server_id]

    def remove(self, server_id: str) -> Member | None:
        """Take a member out."""
        self._wheel = None
        return self._members.pop(server_id, None)

    def reweigh(self) -> None:
        """The share of some member's target has changed."""
        self._wheel = None

    def offer(self, request: Request) -> Member | None:
        """Give the request to the next member that takes it; None if none does, and then nobody's turn is lost."""
        wheel = self._wheel
        if wheel is None:
            wheel = self._make_wheel()
        cursor = self._cursor
        for _ in wheel:
            member = wheel[cursor]
            cursor += 1
            if cursor == len(wheel):
                cursor = 0
            if member.target.take(request, member):
                self._cursor = cursor
                self._last = None
                return member
        return None

    def _make_wheel(self) -> list[Member]:
        """Make the wheel anew, and go on after the turn that was taken last, whoever came or went."""
        last = self._last = self._last or self._marks[self._cursor - 1]
        classes = self._weigh()
        turns: dict[tuple[float, int], Member] = {}
        for weight, members in classes.items():
            for turn in range(weight):
                for place, member in enumerate(members):
                    # Members of one weight share its turns evenly among all others' turns. Where there is but one
                    # weight, what counts is the order alone, so that the next turn is the next member's whoever left.
                    share = (place + 0.5) / len(members) if len(classes) > 1 else 0.5
                    turns[(turn + share) / weight, member.order] = member
        self._marks = sorted(turns)
        self._wheel = wheel = [turns[mark] for mark in self._marks]
        self._cursor = bisect_right(self._marks, last) % len(wheel) if wheel else 0
        return wheel

    def _weigh(self) -> dict[int, list[Member]]:
        """The members that get packets by the turns that they have in a round, in the order of registration."""
        hefts = {
            member: member.registration.weight * member.target.share
            for member in sorted(self._members.values(), key=lambda member: member.order)
            if member.live
        }
        common = gcd(*hefts.values())
        turns = sum(hefts.values()) // common if hefts else 0
        classes: dict[int, list[Member]] = {}
        for member, heft in hefts.items():
            # Exact, unless whoever registers thousands of servers of odd weights would stop everybody by it.
            weight = heft // common if turns <= MOST_TURNS else max(1, round(heft * MOST_TURNS / (turns * common)))
            classes.setdefault(weight, []).append(member)
        return classes
