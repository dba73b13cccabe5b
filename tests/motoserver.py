"""moto_server on a free port, with what it lacks for ``rproxy ec2``: run it by ``python -m tests.motoserver``.

What moto's CloudFormation doesn't know of the templates, it is taught by :mod:`tests.stacks`, in the one region of that
module: the template of several proxies can be tried there alone.

moto makes and deletes everything at once and never fails. So what shall not go well is asked for by the first word of a
stack's name, as in ``failing-1``: see :data:`FATES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from moto.cloudformation.models import CloudFormationBackend, Event, Stack
from moto.server import main

from tests.stacks import cloud


def _tell(stack: Any, resource: str, kind: str, state: str, reason: str) -> None:
    stack.events.append(Event(stack.stack_id, stack.name, resource, f"{resource}-1", kind, state, reason, None))


def _fail_to_create(stack: Any) -> None:
    _tell(stack, "Network", "AWS::EC2::VPC", "CREATE_FAILED", "The maximum number of VPCs has been reached.")
    _tell(stack, "Address", "AWS::EC2::EIP", "CREATE_FAILED", "Resource creation cancelled")
    stack._add_stack_event("ROLLBACK_IN_PROGRESS", "The following resource(s) failed to create: [Network, Address].")
    stack._add_stack_event("ROLLBACK_COMPLETE")
    stack.status = "ROLLBACK_COMPLETE"


def _never_finish(stack: Any) -> None:
    stack.status = "CREATE_IN_PROGRESS"


def _fail_to_change(stack: Any) -> None:
    _tell(stack, "PoolGroup", "AWS::AutoScaling::AutoScalingGroup", "UPDATE_FAILED", "Received 0 SUCCESS signal(s)")
    stack._add_stack_event("UPDATE_ROLLBACK_COMPLETE")
    stack.status = "UPDATE_ROLLBACK_COMPLETE"


def _fail_to_change_back(stack: Any) -> None:
    stack._add_stack_event("UPDATE_ROLLBACK_FAILED")
    stack.status = "UPDATE_ROLLBACK_FAILED"


def _fail_to_delete(stack: Any) -> None:
    _tell(stack, "Network", "AWS::EC2::VPC", "DELETE_FAILED", "The vpc has dependencies and cannot be deleted.")
    stack._add_stack_event("DELETE_FAILED")
    stack.status = "DELETE_FAILED"


#: What becomes of stacks by the first word of their names: at which of moto's methods, and how.
FATES: dict[str, tuple[str, Callable[[Any], None]]] = {
    "failing": ("create_resources", _fail_to_create),
    "slow": ("create_resources", _never_finish),
    "unchangeable": ("update", _fail_to_change),
    "stuck": ("update", _fail_to_change_back),
    "undeletable": ("delete", _fail_to_delete),
}


def _with_fates(method: str) -> None:
    usual = getattr(Stack, method)

    def fated(self: Any, *args: Any, **kwargs: Any) -> Any:
        where, fate = FATES.get(self.name.partition("-")[0], ("", None))
        return fate(self) if where == method and fate is not None else usual(self, *args, **kwargs)

    setattr(Stack, method, fated)


def _keep_what_stays() -> None:
    """Have a stack that can't be deleted stay where it is, which moto has no way for."""
    usual = CloudFormationBackend.delete_stack

    def delete_stack(self: Any, name_or_stack_id: str) -> None:
        stack = self.get_stack(name_or_stack_id)
        usual(self, name_or_stack_id)
        if stack.status == "DELETE_FAILED":
            self.deleted_stacks.pop(stack.stack_id, None)
            self.stacks[stack.stack_id] = stack

    setattr(CloudFormationBackend, "delete_stack", delete_stack)  # noqa: B010 # mypy refuses the assignment


def _know_defaults() -> None:
    """Have a change keep a parameter that a stack has by default, which moto forgets if a change set made the stack."""
    usual = CloudFormationBackend._resolve_update_parameters

    def resolve(self: Any, instance: Any, incoming_params: list[dict[str, str]]) -> Any:
        known = [
            each for each in incoming_params if "ParameterValue" in each or each["ParameterKey"] in instance.parameters
        ]
        return usual(self, instance, known)

    setattr(CloudFormationBackend, "_resolve_update_parameters", resolve)  # noqa: B010 # as above


if __name__ == "__main__":
    for _method in {method for method, _ in FATES.values()}:
        _with_fates(_method)
    _keep_what_stays()
    _know_defaults()
    with cloud():
        main(["-H", "127.0.0.1", "-p", "0"])
