"""What moto's CloudFormation doesn't know of the templates, or knows wrongly: here it is taught.

What a template says of these resources is handed to moto's API, which checks how it is spelt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import boto3
from attrs import Factory, frozen
from moto import mock_aws
from moto.cloudformation import parsing
from moto.core.common_models import CloudFormationModel
from moto.ec2.models import ec2_backends, elastic_ip_addresses
from moto.ec2.models.route_tables import RouteTable

#: moto takes its zones for everybody's.
REGION = "us-east-1"
#: The one Elastic IP.
ADDRESS = "198.51.100.7"

Properties = dict[str, Any]


@cache
def client(service: str) -> Any:
    """A client of boto3, whose keys are good for nothing but a :func:`cloud`."""
    return boto3.client(service, region_name=REGION, aws_access_key_id="none", aws_secret_access_key="none")


@frozen
class Made:
    """A resource.

    :ivar name: what ``Ref`` gives.
    :ivar attributes: what ``GetAtt`` gives.
    """

    name: str
    attributes: Mapping[str, str] = Factory(dict)


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
