"""Stacks of CloudFormation: asked for, made, changed and deleted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attrs import frozen

from rproxy.ec2.clouds import error_code, error_text
from rproxy.ec2.events import Event

#: The tag that says which stack something was made for. What has none isn't ours.
OWNER_TAG = "rproxy:ec2"
#: The tag that says which template a stack is of.
TEMPLATE_TAG = "rproxy:template"
#: The templates make a role for the instances, whose name they leave to CloudFormation.
CAPABILITIES = ("CAPABILITY_IAM",)
#: What a stack is in when nothing was made of it, or not all was unmade: there is only one way on.
_DEAD = frozenset({"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED", "REVIEW_IN_PROGRESS"})


@frozen
class Stack:
    """A stack.

    :ivar state: as in ``CREATE_COMPLETE``.
    :ivar reason: why it is in that state, ``""`` if nothing is said.
    :ivar parameters: as CloudFormation shows them.
    """

    id: str
    name: str
    state: str
    reason: str
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]

    @property
    def is_ours(self) -> bool:
        """Whether ``rproxy ec2 up`` made it, or who did as much by hand."""
        return self.tags.get(OWNER_TAG) == self.name

    @property
    def has_settled(self) -> bool:
        """Whether nothing more happens by itself."""
        return not self.state.endswith("_IN_PROGRESS") or self.state == "REVIEW_IN_PROGRESS"

    @property
    def is_dead(self) -> bool:
        """Whether it can't be changed any more, only deleted."""
        return self.state in _DEAD

    @property
    def has_failed(self) -> bool:
        """Whether what was last asked of it wasn't done."""
        return self.state.endswith("_FAILED") or "ROLLBACK" in self.state


@frozen
class Change:
    """What a stack shall be.

    :ivar location: the template: ``TemplateBody`` or ``TemplateURL``, and its value.
    :ivar parameters: in CloudFormation's form.
    """

    name: str
    template: str
    location: tuple[str, str]
    parameters: Sequence[Mapping[str, object]]

    def as_arguments(self) -> dict[str, Any]:
        """Return it as CloudFormation's calls take it."""
        tags = {OWNER_TAG: self.name, TEMPLATE_TAG: self.template}
        return {
            "StackName": self.name,
            self.location[0]: self.location[1],
            "Parameters": self.parameters,
            "Capabilities": CAPABILITIES,
            "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
        }


class Stacks:
    """The stacks of an account in a region.

    :param client: boto3's, for CloudFormation. What it raises isn't caught here unless it is told of.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def find(self, name: str) -> Stack | None:
        """Return a stack, None if there is none; one that was deleted is found by its id alone."""
        try:
            (found,) = self._client.describe_stacks(StackName=name)["Stacks"]
        except self._client.exceptions.ClientError as error:
            if error_code(error) == "ValidationError" and "does not exist" in error_text(error):
                return None
            raise
        return Stack(
            found["StackId"],
            found["StackName"],
            found["StackStatus"],
            found.get("StackStatusReason", ""),
            {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])},
            {each["ParameterKey"]: each["ParameterValue"] for each in found.get("Parameters", [])},
            {each["OutputKey"]: each["OutputValue"] for each in found.get("Outputs", [])},
        )

    def create(self, change: Change) -> str:
        """Begin to make a stack, and return its id."""
        return str(self._client.create_stack(**change.as_arguments())["StackId"])

    def update(self, change: Change) -> bool:
        """Begin to change a stack, and return whether there is something to change."""
        try:
            self._client.update_stack(**change.as_arguments())
        except self._client.exceptions.ClientError as error:
            if error_code(error) == "ValidationError" and "No updates are to be performed" in error_text(error):
                return False
            raise
        return True

    def delete(self, stack_id: str) -> None:
        """Begin to delete a stack."""
        self._client.delete_stack(StackName=stack_id)

    def events(self, stack_id: str, known: Collection[str] = ()) -> list[Event]:
        """Return what happened to a stack and isn't known yet by its id, the oldest first."""
        found: list[Event] = []
        for page in self._client.get_paginator("describe_stack_events").paginate(StackName=stack_id):
            for each in page["StackEvents"]:
                if each["EventId"] in known:
                    return found[::-1]
                found.append(
                    Event(
                        each["EventId"],
                        each["Timestamp"],
                        each["LogicalResourceId"],
                        each["ResourceType"],
                        each["ResourceStatus"],
                        each.get("ResourceStatusReason", ""),
                    )
                )
        return found[::-1]

    def resources(self, stack_id: str) -> list[tuple[str, str, str]]:
        """Return the resources of a stack that are there: their names in the template, types and names at AWS."""
        pages = self._client.get_paginator("list_stack_resources").paginate(StackName=stack_id)
        return [
            (each["LogicalResourceId"], each["ResourceType"], each.get("PhysicalResourceId", ""))
            for page in pages
            for each in page["StackResourceSummaries"]
            if each["ResourceStatus"] != "DELETE_COMPLETE"
        ]
