"""What a stack tells of itself: its events, and which of them is the cause of a failure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from attrs import frozen

#: How the reasons begin of resources that only failed because another one did.
_CONSEQUENCES = (
    "Resource creation cancelled",
    "Resource update cancelled",
    "Resource deletion cancelled",
    "The following resource(s) failed",
)
#: The type of the stack itself, and its states when something was asked of it.
_STACK = "AWS::CloudFormation::Stack"
_BEGINNINGS = frozenset({"CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"})


@frozen
class Event:
    """Something that happened to a resource.

    :ivar resource: its name in the template; the stack's own name for the stack.
    :ivar kind: its type, as in ``AWS::EC2::SecurityGroup``.
    :ivar state: as in ``CREATE_COMPLETE``.
    :ivar reason: why, ``""`` if nothing is said.
    """

    id: str
    time: datetime
    resource: str
    kind: str
    state: str
    reason: str


def line(event: Event) -> str:
    """Return an event as a line, with its time in UTC."""
    words = [f"{event.state:<28}", event.resource, f"({event.kind.removeprefix('AWS::')})"]
    return " ".join([stamp(event.time), *words]) + (f": {event.reason}" if event.reason else "")


def stamp(time: datetime) -> str:
    """Return a time in UTC, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def last_operation(events: Sequence[Event]) -> Sequence[Event]:
    """Return what happened since somebody last asked something of the stack.

    :param events: all of them, the oldest first.
    """
    for place in range(len(events) - 1, -1, -1):
        if events[place].kind == _STACK and events[place].state in _BEGINNINGS:
            return events[place:]
    return events


def failures(events: Iterable[Event]) -> list[Event]:
    """Return what failed, the first cause first; what failed because of something else comes last, or not at all.

    :param events: in any order.
    """
    failed = sorted((each for each in events if each.state.endswith("_FAILED")), key=lambda each: each.time)
    causes = [each for each in failed if not each.reason.startswith(_CONSEQUENCES)]
    return causes or failed
