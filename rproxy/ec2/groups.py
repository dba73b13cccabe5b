"""The instances of a stack: those that its Auto Scaling groups have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from rproxy.ec2.clouds import Cloud

#: The type of such a group.
GROUP = "AWS::AutoScaling::AutoScalingGroup"


@frozen
class Instance:
    """An instance.

    :ivar group: its group's name in the template.
    :ivar state: as in ``InService``.
    :ivar health: ``Healthy`` or ``Unhealthy``.
    :ivar address: where it is reached from outside, ``""`` if it isn't.
    :ivar private: where it is reached from within its network.
    """

    group: str
    id: str
    kind: str
    zone: str
    state: str
    health: str
    address: str
    private: str


def instances(cloud: Cloud, groups: Mapping[str, str]) -> list[Instance]:
    """Return the instances of groups.

    :param groups: their names in the template, by their names at AWS.
    """
    if not groups:
        return []
    pages = cloud.autoscaling.get_paginator("describe_auto_scaling_groups").paginate(AutoScalingGroupNames=[*groups])
    members = [
        (groups[group["AutoScalingGroupName"]], member)
        for page in pages
        for group in page["AutoScalingGroups"]
        for member in group["Instances"]
    ]
    addresses = _addresses(cloud, [member["InstanceId"] for _, member in members])
    return [
        Instance(
            group,
            member["InstanceId"],
            member.get("InstanceType", ""),
            member["AvailabilityZone"],
            member["LifecycleState"],
            member["HealthStatus"],
            *addresses.get(member["InstanceId"], ("", "")),
        )
        for group, member in members
    ]


def _addresses(cloud: Cloud, ids: list[str]) -> dict[str, tuple[str, str]]:
    """The public and the private address of each; one that is gone already has none."""
    if not ids:
        return {}
    only: list[Any] = [{"Name": "instance-id", "Values": ids}]
    pages = cloud.ec2.get_paginator("describe_instances").paginate(Filters=only)
    return {
        each["InstanceId"]: (each.get("PublicIpAddress", ""), each.get("PrivateIpAddress", ""))
        for page in pages
        for reservation in page["Reservations"]
        for each in reservation["Instances"]
    }
