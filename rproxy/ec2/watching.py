"""Following a stack until it has settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rproxy.ec2.events import Event, line
from rproxy.ec2.stacks import Stack
from rproxy.ec2.terminal import Terminal

#: Seconds between two looks.
SECONDS = 3.0


class Watched(Protocol):
    """What a stack is asked by; :class:`rproxy.ec2.stacks.Stacks` is one."""

    def find(self, name: str) -> Stack | None:
        """Return a stack."""

    def events(self, stack_id: str, known: set[str]) -> list[Event]:
        """Return what is new about it."""


class Watch:
    """One stack that is told of from now on.

    :param stack_id: None for one that doesn't exist yet; then all is told that happens to it.
    :param sleep: called with the seconds between two looks.
    """

    def __init__(
        self, stacks: Watched, stack_id: str | None, terminal: Terminal, sleep: Callable[[float], None]
    ) -> None:
        self._stacks = stacks
        self._terminal = terminal
        self._sleep = sleep
        self._known = set() if stack_id is None else {event.id for event in stacks.events(stack_id, set())}

    def follow(self, stack_id: str) -> tuple[Stack | None, list[Event]]:
        """Tell each event; return the stack once it has settled, None if it is gone, and the events.

        However it ends before that, it is said that the stack goes on.
        """
        try:
            return self._follow(stack_id)
        except BaseException:
            name = stack_id.split("/")[1] if "/" in stack_id else stack_id
            self._terminal.say(f"The stack goes on without this command. To see how: rproxy ec2 status {name}")
            raise

    def _follow(self, stack_id: str) -> tuple[Stack | None, list[Event]]:
        told: list[Event] = []
        while True:
            # The state first: what happened before it settled is among the events that are read next.
            stack = self._stacks.find(stack_id)
            for event in self._stacks.events(stack_id, self._known):
                self._known.add(event.id)
                told.append(event)
                self._terminal.say(line(event))
            if stack is None or stack.has_settled:
                return stack, told
            self._sleep(SECONDS)
