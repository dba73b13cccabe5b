"""``rproxy ec2 status``: shows a stack."""

from __future__ import annotations

from rproxy.ec2 import showing
from rproxy.ec2.clouds import Cloud
from rproxy.ec2.errors import FailedError
from rproxy.ec2.events import failures, last_operation
from rproxy.ec2.groups import GROUP, instances
from rproxy.ec2.stacks import Stacks
from rproxy.ec2.terminal import Terminal


def look(cloud: Cloud, terminal: Terminal, name: str) -> int:
    """Show a stack, and return the exit code: 1 if what was last asked of it failed.

    :raises FailedError: there is none.
    """
    stacks = Stacks(cloud.cloudformation)
    stack = stacks.find(name)
    if stack is None:
        raise FailedError(f"there is no stack {name} in {cloud.region}")
    groups = {physical: logical for logical, kind, physical in stacks.resources(stack.id) if kind == GROUP and physical}
    found = instances(cloud, groups)
    failed = failures(last_operation(stacks.events(stack.id)))
    terminal.end(showing.status_lines(stack, found, failed), showing.status_value(stack, found, failed))
    return 1 if stack.has_failed else 0
