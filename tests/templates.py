"""The templates of ``etc/ec2/``, brought up in an AWS on this machine: moto's.

What moto's CloudFormation doesn't know is in :mod:`tests.stacks`. What moto leaves out there as well, tests look for in
the template itself: what leads out of a security group, which subnets give public addresses and have routes, the
parameters of ElastiCache, and creation and update policies.
"""

from __future__ import annotations

import ast
import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from cfnlint.decode import cfn_yaml

from tests.stacks import client
from tests.support import ROOT

TEMPLATES = ROOT / "etc" / "ec2"
STACK = "packets"


def read(name: str) -> dict[str, Any]:
    """A template, as plain values: ``!Ref`` is ``{"Ref": …}``."""
    return cast(dict[str, Any], _plain(cfn_yaml.load(str(TEMPLATES / name))))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value


class Stack:
    """A template that has been brought up.

    :param parameters: what differs from their defaults.
    """

    def __init__(self, template: str, parameters: Mapping[str, str]) -> None:
        self._clouds = client("cloudformation")
        body = (TEMPLATES / template).read_text("utf-8")
        self._clouds.create_stack(StackName=STACK, TemplateBody=body, **self._given(parameters))
        assert self.status == "CREATE_COMPLETE"

    def update(self, parameters: Mapping[str, str]) -> None:
        """Change it; a parameter that isn't given is its default."""
        self._clouds.update_stack(StackName=STACK, UsePreviousTemplate=True, **self._given(parameters))
        assert self.status == "UPDATE_COMPLETE"

    def delete(self) -> None:
        """Take it down."""
        self._clouds.delete_stack(StackName=STACK)

    @property
    def status(self) -> str:
        return str(self._described()["StackStatus"])

    @property
    def outputs(self) -> dict[str, str]:
        return {each["OutputKey"]: each["OutputValue"] for each in self._described().get("Outputs", [])}

    @property
    def ident(self) -> str:
        """Its ARN."""
        return str(self._described()["StackId"])

    def _described(self) -> dict[str, Any]:
        return cast(dict[str, Any], self._clouds.describe_stacks(StackName=STACK)["Stacks"][0])

    @staticmethod
    def _given(parameters: Mapping[str, str]) -> dict[str, Any]:
        given = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
        return {"Parameters": given, "Capabilities": ["CAPABILITY_IAM"]}

    def group(self, output: str) -> dict[str, Any]:
        """An Auto Scaling group.

        :param output: which: ProxyGroup or PoolGroup.
        """
        found = client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[self.outputs[output]])
        return cast(dict[str, Any], found["AutoScalingGroups"][0])

    def launched(self, output: str) -> dict[str, Any]:
        """What the instances of a group are launched with."""
        template = self.group(output)["LaunchTemplate"]
        versions = client("ec2").describe_launch_template_versions(
            LaunchTemplateId=template["LaunchTemplateId"], Versions=[template["Version"]]
        )
        return cast(dict[str, Any], versions["LaunchTemplateVersions"][0]["LaunchTemplateData"])

    def user_data(self, output: str) -> str:
        """What cloud-init is given on them."""
        return base64.b64decode(self.launched(output)["UserData"]).decode()

    def security(self, name: str) -> str:
        """The id of a security group, by what it is called in the template."""
        return str(self.security_group(name)["GroupId"])

    def security_group(self, name: str) -> dict[str, Any]:
        """The same, with who may reach it."""
        groups = client("ec2").describe_security_groups()["SecurityGroups"]
        (found,) = (group for group in groups if group["GroupName"].startswith(f"{STACK}-{name}-"))
        return cast(dict[str, Any], found)

    def role(self, output: str) -> dict[str, dict[str, Any]]:
        """What the instances of a group may do: the statements, by their names."""
        iam = client("iam")
        profile = self.launched(output)["IamInstanceProfile"]["Arn"].rpartition("/")[2]
        (role,) = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
        assert iam.list_attached_role_policies(RoleName=role["RoleName"])["AttachedPolicies"] == []
        (name,) = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
        # moto keeps what a template has as Python's text.
        document = ast.literal_eval(iam.get_role_policy(RoleName=role["RoleName"], PolicyName=name)["PolicyDocument"])
        return {each["Sid"]: each for each in document["Statement"]}


def reaching(group: Mapping[str, Any]) -> set[tuple[str, int, str]]:
    """Who may reach what is in a security group: the protocol, the port, and the network or the group."""
    found = set()
    for rule in group["IpPermissions"]:
        assert rule["FromPort"] == rule["ToPort"]
        sources = [each["CidrIp"] for each in rule["IpRanges"]]
        sources += [each["GroupId"] for each in rule["UserIdGroupPairs"]]
        assert not rule["Ipv6Ranges"]
        assert not rule["PrefixListIds"]
        found |= {(rule["IpProtocol"], rule["FromPort"], source) for source in sources}
    return found


def lint(name: str) -> list[str]:
    """What cfn-lint finds in a template, in sentences."""
    from cfnlint import api

    path: Path = TEMPLATES / name
    return [f"{match.linenumber}: {match.rule.id} {match.message}" for match in api.lint_file(path)]
