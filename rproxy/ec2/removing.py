"""``rproxy ec2 down``: deletes a stack, and then the bucket that ``up`` made for it."""

from __future__ import annotations

from collections.abc import Callable

from rproxy.ec2 import showing
from rproxy.ec2.buckets import Bucket
from rproxy.ec2.clouds import Cloud
from rproxy.ec2.errors import FailedError
from rproxy.ec2.events import failures
from rproxy.ec2.stacks import OWNER_TAG, Stack, Stacks
from rproxy.ec2.terminal import Terminal
from rproxy.ec2.watching import Watch


class Removing:
    """Deletes one stack, and what goes with it.

    :param sleep: called with the seconds between two looks.
    """

    def __init__(self, cloud: Cloud, terminal: Terminal, name: str, sleep: Callable[[float], None]) -> None:
        self._terminal = terminal
        self._name = name
        self._region = cloud.region
        self._sleep = sleep
        self._stacks = Stacks(cloud.cloudformation)
        self._stack = self._stacks.find(name)
        if self._stack is not None and not self._stack.is_ours:
            raise FailedError(f"the stack {name} isn't of rproxy ec2: it has no tag {OWNER_TAG}={name}")
        bucket = Bucket(cloud, name)
        self._bucket = bucket if bucket.exists() else None

    def remove(self, confirm: Callable[[str], bool], *, wait: bool) -> int:
        """Say what goes, ask, delete it, and return the exit code.

        :param confirm: called with the question; whether the answer is yes.
        :param wait: until the stack is gone; what happens is told meanwhile.
        """
        if self._stack is None and self._bucket is None:
            self._terminal.end([f"There is nothing of {self._name} in {self._region}"], self._value(state="GONE"))
            return 0
        self._announce()
        bucket_name = None if self._bucket is None else self._bucket.name
        if not confirm(showing.deletion_question(self._name, bucket_name)):
            raise FailedError("nothing was deleted")
        if self._stack is not None and not self._delete(self._stack, wait=wait):
            return 1
        # Without waiting as well: a stack whose deletion began can only be deleted, even if that fails at first, and
        # needs the bucket for nothing.
        if self._bucket is not None:
            self._bucket.remove()
            self._terminal.say(f"Deleted the bucket {self._bucket.name}")
        goes = self._stack is not None and not wait
        end = f"{self._name} is being deleted" if goes else f"Nothing is left of {self._name}"
        self._terminal.end([end], self._value(state="DELETE_IN_PROGRESS" if goes else "GONE"))
        return 0

    def _announce(self) -> None:
        if self._stack is not None:
            self._terminal.say(f"The stack {self._name} in {self._region} goes, with all that it has:")
            self._terminal.say(*showing.inventory(self._stacks.resources(self._stack.id)))
        if self._bucket is not None:
            self._terminal.say(f"The bucket {self._bucket.name} goes, with all that is in it")

    def _delete(self, stack: Stack, *, wait: bool) -> bool:
        """Delete the stack, and return whether that went well so far."""
        watch = Watch(self._stacks, stack.id, self._terminal, self._sleep)
        try:
            self._stacks.delete(stack.id)
            if not wait:
                return True
            left, events = watch.follow(stack.id)
        except BaseException:
            if self._bucket is not None:
                self._terminal.say(f"The bucket {self._bucket.name} stays. To delete it: rproxy ec2 down {stack.name}")
            raise
        if left is None or left.state == "DELETE_COMPLETE":
            return True
        causes = failures(events)
        lines = ["", f"{stack.name} is {left.state}", *showing.failure_lines(causes)]
        lines.append(f"When that is put right: rproxy ec2 down {stack.name}")
        self._terminal.end(lines, showing.stack_value(left, causes))
        return False

    def _value(self, *, state: str) -> dict[str, str]:
        return {"name": self._name, "state": state}
