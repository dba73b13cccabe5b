"""What is printed of a stack: lines for people, values for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import asdict

from rproxy.commands.showing import columns
from rproxy.ec2.events import Event, stamp
from rproxy.ec2.groups import Instance
from rproxy.ec2.stacks import Stack

_INSTANCE_COLUMNS = ("GROUP", "INSTANCE", "STATE", "HEALTH", "TYPE", "ZONE", "ADDRESS", "PRIVATE")
#: The outputs of the templates that say where the proxy is, the better one first.
_PLACES = ("ProxyName", "ProxyAddress")
#: How many failures are told of.
_FAILURES = 5


def outputs(stack: Stack) -> list[str]:
    """Return the lines of what a stack gives out."""
    width = max(map(len, stack.outputs), default=0)
    return [f"  {key:<{width}}  {value}" for key, value in stack.outputs.items()]


def next_steps(stack: Stack) -> list[str]:
    """Return what to do with a stack that is there."""
    place = next((stack.outputs[key] for key in _PLACES if stack.outputs.get(key)), None)
    lines = []
    if place is not None:
        where = f"{place}:{stack.outputs.get('ProxyPort', '8000')}"
        policy = stack.parameters.get("Policies", "111").split(",")[0]
        lines += [f"Send a packet:   rproxy send --revproc {where} --id 1 --pp {policy} --payload hello"]
    return [
        *lines,
        f"See how it is:   rproxy ec2 status {stack.name}",
        f"Delete it all:   rproxy ec2 down {stack.name}",
    ]


def failure_lines(failed: Sequence[Event]) -> list[str]:
    """Return the lines of what failed, the first cause first."""
    lines = []
    for number, event in enumerate(failed[:_FAILURES]):
        begin = "The first to fail was" if number == 0 else "Then failed"
        lines.append(f"{begin} {event.resource} ({event.kind}), {stamp(event.time)}: {event.reason or event.state}")
    return lines


def status_lines(stack: Stack, found: Sequence[Instance], failed: Sequence[Event]) -> list[str]:
    """Return the lines of ``rproxy ec2 status``."""
    lines = [f"{stack.name} is {stack.state}" + (f": {stack.reason}" if stack.reason else "")]
    lines += outputs(stack)
    if found:
        lines += ["", *columns(_INSTANCE_COLUMNS, map(_row, found))]
    return lines + (["", *failure_lines(failed)] if failed else [])


def _row(instance: Instance) -> tuple[str, ...]:
    return (
        instance.group,
        instance.id,
        instance.state,
        instance.health,
        instance.kind,
        instance.zone,
        instance.address or "-",
        instance.private or "-",
    )


def stack_value(stack: Stack | None, failed: Iterable[Event]) -> dict[str, Any]:
    """Return a stack as a value for programs; the state of one that is gone is ``GONE``."""
    if stack is None:
        return {"state": "GONE", "failures": [event_value(event) for event in failed]}
    return {
        "name": stack.name,
        "id": stack.id,
        "state": stack.state,
        "reason": stack.reason,
        "outputs": dict(stack.outputs),
        "failures": [event_value(event) for event in failed],
    }


def status_value(stack: Stack, found: Iterable[Instance], failed: Iterable[Event]) -> dict[str, Any]:
    """Return what ``rproxy ec2 status --json`` prints."""
    return {**stack_value(stack, failed), "instances": [asdict(instance) for instance in found]}


def event_value(event: Event) -> dict[str, Any]:
    """Return an event as a value for programs."""
    return {**asdict(event), "time": event.time.isoformat()}


def inventory(resources: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return the lines of what a stack has: each resource, its type, and its name at AWS."""
    return [f"  {name} ({kind.removeprefix('AWS::')}) {physical}".rstrip() for name, kind, physical in resources]


def deletion_question(name: str, bucket: str | None) -> str:
    """Return what is asked before all of that goes."""
    return f"Delete {name}{'' if bucket is None else f' and the bucket {bucket}'}? [y/N] "
