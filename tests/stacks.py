"""The templates of ``etc/ec2/``, brought up in an AWS on this machine: moto's.

moto's CloudFormation doesn't know all that the templates have. What a template says of those resources is handed to
moto's API instead, by :func:`_teach`, so that it can be asked for as everything else; the API checks how it is spelt.
What moto leaves out there as well, tests look for in the template itself: what leads out of a security group, which
subnets give public addresses and have routes, the parameters of ElastiCache, and creation and update policies.
"""

from __future__ import annotations

import ast
import base64
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast
from unittest import mock

import boto3
from attrs import Factory, frozen
from cfnlint.decode import cfn_yaml
from moto import mock_aws
from moto.cloudformation import parsing
from moto.core.common_models import CloudFormationModel
from moto.ec2.models import ec2_backends, elastic_ip_addresses
from moto.ec2.models.route_tables import RouteTable

from tests.support import ROOT

TEMPLATES = ROOT / "etc" / "ec2"
#: moto takes its zones for everybody's.
REGION = "us-east-1"
STACK = "packets"
#: The one Elastic IP.
ADDRESS = "198.51.100.7"

Properties = dict[str, Any]


@frozen
class Made:
    """A resource.

    :ivar name: what ``Ref`` gives.
    :ivar attributes: what ``GetAtt`` gives.
    """

    name: str
    attributes: Mapping[str, str] = Factory(dict)


@cache
def client(service: str) -> Any:
    """A client of boto3, whose keys are good for nothing but a :func:`cloud`."""
    return boto3.client(service, region_name=REGION, aws_access_key_id="none", aws_secret_access_key="none")


def _teach(kind: str, create: Callable[[str, Properties], Made], delete: Callable[[str], object]) -> None:
    """Have moto's CloudFormation make a kind of resource by functions. It finds them by itself."""

    class Resource(CloudFormationModel):
        def __init__(self, made: Made) -> None:
            self.made = made

        @property
        def physical_resource_id(self) -> str:
            return self.made.name

        @staticmethod
        def cloudformation_name_type() -> str:
            return ""

        @staticmethod
        def cloudformation_type() -> str:
            return kind

        @classmethod
        def has_cfn_attr(cls, attr: str) -> bool:
            return True

        def get_cfn_attribute(self, attribute_name: str) -> str:
            return self.made.attributes[attribute_name]

        @classmethod
        def create_from_cloudformation_json(
            cls, resource_name: str, cloudformation_json: Properties, *_: object, **__: object
        ) -> Resource:
            return cls(create(resource_name.lower(), cloudformation_json["Properties"]))

        def delete(self, *_: object) -> None:
            delete(self.made.name)

    _taught.append(Resource)


#: A class that nobody holds is no subclass any more.
_taught: list[type] = []
_moto_clean = parsing.clean_json


def _balancer(name: str, properties: Properties) -> Made:
    balancing = client("elbv2")
    attributes = properties.pop("LoadBalancerAttributes")
    made = balancing.create_load_balancer(Name=name[-32:].strip("-"), **properties)["LoadBalancers"][0]
    arn = made["LoadBalancerArn"]
    # moto has no other of a network load balancer.
    assert attributes == [{"Key": "load_balancing.cross_zone.enabled", "Value": "true"}]
    balancing.modify_load_balancer_attributes(LoadBalancerArn=arn, Attributes=attributes)
    return Made(arn, {"DNSName": made["DNSName"], "CanonicalHostedZoneID": made["CanonicalHostedZoneId"]})


def _target_group(name: str, properties: Properties) -> Made:
    balancing = client("elbv2")
    attributes = properties.pop("TargetGroupAttributes")
    made = balancing.create_target_group(Name=name[-32:].strip("-"), **_numbers(properties))["TargetGroups"][0]
    arn = made["TargetGroupArn"]
    balancing.modify_target_group_attributes(TargetGroupArn=arn, Attributes=attributes)
    return Made(arn)


def _listener(_: str, properties: Properties) -> Made:
    made = client("elbv2").create_listener(**_numbers(properties))
    return Made(made["Listeners"][0]["ListenerArn"])


def _secret(name: str, properties: Properties) -> Made:
    vault = client("secretsmanager")
    password = vault.get_random_password(**properties.pop("GenerateSecretString"))["RandomPassword"]
    return Made(vault.create_secret(Name=name, SecretString=password, **properties)["ARN"])


def _subnet_group(name: str, properties: Properties) -> Made:
    client("elasticache").create_cache_subnet_group(
        CacheSubnetGroupName=name,
        CacheSubnetGroupDescription=properties["Description"],
        SubnetIds=properties["SubnetIds"],
    )
    return Made(name)


def _registry(name: str, properties: Properties) -> Made:
    # Only CloudFormation looks the password up.
    reference = properties.pop("AuthToken").removeprefix("{{resolve:secretsmanager:").removesuffix("}}")
    password = client("secretsmanager").get_secret_value(SecretId=reference)["SecretString"]
    name = name[-40:].strip("-")
    client("elasticache").create_replication_group(ReplicationGroupId=name, AuthToken=password, **_numbers(properties))
    # In Fn::Sub moto takes two parts of "Registry.PrimaryEndPoint.Address".
    return Made(name, {"PrimaryEndPoint": f"master.{name}.use1.cache.amazonaws.com"})


def _scaling(name: str, properties: Properties) -> Made:
    client("autoscaling").put_scaling_policy(PolicyName=name, **properties)
    return Made(name)


def _numbers(properties: Properties) -> Properties:
    """A parameter is text; CloudFormation makes a number of it where one belongs."""
    return {name: int(value) if name == "Port" else value for name, value in properties.items()}


def _nothing(_: str) -> None:
    """moto has nothing to delete, or deletes it with something else."""


_teach(
    "AWS::ElasticLoadBalancingV2::LoadBalancer",
    _balancer,
    lambda arn: client("elbv2").delete_load_balancer(LoadBalancerArn=arn),
)
_teach(
    "AWS::ElasticLoadBalancingV2::TargetGroup",
    _target_group,
    lambda arn: client("elbv2").delete_target_group(TargetGroupArn=arn),
)
_teach("AWS::ElasticLoadBalancingV2::Listener", _listener, _nothing)
_teach(
    "AWS::SecretsManager::Secret",
    _secret,
    lambda arn: client("secretsmanager").delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True),
)
_teach("AWS::ElastiCache::SubnetGroup", _subnet_group, _nothing)
_teach("AWS::ElastiCache::ParameterGroup", lambda name, properties: Made(name), _nothing)
_teach(
    "AWS::ElastiCache::ReplicationGroup",
    _registry,
    lambda name: client("elasticache").delete_replication_group(ReplicationGroupId=name),
)
_teach("AWS::AutoScaling::ScalingPolicy", _scaling, _nothing)


def _delete_routes(table: Any, account: str, region: str) -> None:
    """moto leaves the tables of a template, and the networks that they are in."""
    backend = ec2_backends[account][region]
    for association in list(table.associations):
        backend.disassociate_route_table(association)
    backend.delete_route_table(table.id)


def _clean(value: Any, resources: Any) -> Any:
    """What a template says, with its functions' values; moto makes a null of AWS::NoValue in a list."""
    cleaned = _moto_clean(value, resources)
    return [each for each in cleaned if each is not None] if isinstance(cleaned, list) else cleaned


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


@contextmanager
def cloud() -> Iterator[None]:
    """An AWS of the test's own, without anything in it."""
    with (
        # Nothing here needs the hundreds of images that moto would make each time.
        mock.patch.dict("os.environ", {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false"}),
        mock.patch.object(RouteTable, "delete", _delete_routes, create=True),
        mock.patch.object(parsing, "clean_json", _clean),
        # moto's are of 127.0.0.0/8, which no name can mean.
        mock.patch.object(elastic_ip_addresses, "random_ip", lambda: ADDRESS),
        mock_aws(),
    ):
        yield


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
