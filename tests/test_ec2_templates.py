"""The templates of ``etc/ec2/``: what comes of them in an AWS on this machine, asked for there."""

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.stacks import client, cloud
from tests.templates import STACK, TEMPLATES, Stack, lint, reaching, read

ONE, SCALE = "rproxy.yaml", "rproxy-scale.yaml"
WHEEL = {"ReleaseWheel": "s3://releases/rproxy/rproxy-2.0-py3-none-any.whl"}
SSH = {"SshFrom": "192.0.2.0/24", "KeyName": "key"}
SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:no-ip-AbCdEf"
NO_IP = {"NoIpHostname": "rproxy.ddns.net", "NoIpSecretArn": SECRET}
#: All that user data may have, in bytes.
USER_DATA = 16_384
#: All that a template may have that isn't in S3, in bytes.
TEMPLATE = 51_200
#: Where cloud-init finds what is to run at each boot.
PER_BOOT = Path("/var/lib/cloud/scripts/per-boot")
ANYWHERE = "0.0.0.0/0"
EC2 = "arn:aws:ec2:us-east-1:123456789012"

both = pytest.mark.parametrize("template", [ONE, SCALE])


@pytest.fixture(autouse=True)
def aws() -> Iterator[None]:
    with cloud():
        yield


def zone() -> str:
    """A hosted zone that is there already."""
    created = client("route53").create_hosted_zone(Name="example.org", CallerReference="1")
    return str(created["HostedZone"]["Id"]).rpartition("/")[2]


# The templates as they stand.


@both
def test_cfn_lint_finds_nothing(template: str) -> None:
    assert lint(template) == []


@both
def test_small_enough_to_be_sent(template: str) -> None:
    assert len((TEMPLATES / template).read_bytes()) <= TEMPLATE


def test_both_make_instances_alike() -> None:
    one, scale = (read(name)["Mappings"]["Text"]["Bootstrap"]["Script"] for name in (ONE, SCALE))

    assert one == scale


def test_the_script_is_one() -> None:
    """Bash can read it."""
    script = read(ONE)["Mappings"]["Text"]["Bootstrap"]["Script"]

    assert script.startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n"], input=script.encode(), check=True)


@both
def test_every_parameter_says_what_it_is(template: str) -> None:
    for name, parameter in read(template)["Parameters"].items():
        assert parameter.get("Description"), name
        assert "Default" in parameter, name
        if "AllowedPattern" in parameter:
            assert parameter.get("ConstraintDescription") or name == "KeyName", name


@both
def test_groups_are_there_when_their_instances_say_so(template: str) -> None:
    """moto knows nothing of creation and update policies."""
    resources = read(template)["Resources"]
    for name, count in (
        ("ProxyGroup", 1 if template == ONE else {"Ref": "Proxies"}),
        ("PoolGroup", {"Ref": "PoolServers"}),
    ):
        group = resources[name]
        rolling = group["UpdatePolicy"]["AutoScalingRollingUpdate"]
        launched = group["Properties"]["LaunchTemplate"]

        assert group["CreationPolicy"]["ResourceSignal"] == {"Count": count, "Timeout": "PT15M"}
        assert {"DefaultRoute", "RoutesOfA", "RoutesOfB"} <= set(group["DependsOn"])
        assert rolling["WaitOnResourceSignals"] is True
        assert rolling["MaxBatchSize"] == 1
        # So a change of what is launched replaces what runs.
        assert launched["Version"] == {"Fn::GetAtt": [launched["LaunchTemplateId"]["Ref"], "LatestVersionNumber"]}
    # What is gone first gives its number to what comes.
    pool = resources["PoolGroup"]
    assert pool["UpdatePolicy"]["AutoScalingRollingUpdate"]["MinInstancesInService"] == 0
    assert pool["Properties"]["InstanceMaintenancePolicy"] == {"MinHealthyPercentage": 0, "MaxHealthyPercentage": 100}
    # Numbers are taken from the lowest up.
    assert pool["Properties"]["TerminationPolicies"] == ["NewestInstance"]


@both
def test_instances_reach_out_only_as_far_as_they_must(template: str) -> None:
    """moto lets groups out to everywhere, so this is what the template says."""
    expected = {
        ONE: {
            "ProxySecurity": {(443, ANYWHERE), (80, ANYWHERE), (5000, "network")},
            "PoolSecurity": {(443, ANYWHERE), (80, ANYWHERE), ("ProxyPort", "network")},
        },
        SCALE: {
            "BalancerSecurity": {("ProxyPort", "network")},
            "RegisteringSecurity": {(8001, "network")},
            "ProxySecurity": {(443, ANYWHERE), (80, ANYWHERE), (5000, "network"), (6379, "network")},
            "PoolSecurity": {(443, ANYWHERE), (80, ANYWHERE), (8001, "network")},
            "RegistrySecurity": {(None, "127.0.0.1/32")},
        },
    }[template]

    def end(rule: Mapping[str, Any]) -> tuple[object, str]:
        port, to = rule.get("FromPort"), rule["CidrIp"]
        assert port == rule.get("ToPort")
        return port["Ref"] if isinstance(port, dict) else port, to if isinstance(to, str) else "network"

    resources = read(template)["Resources"].items()
    groups = {name: each["Properties"] for name, each in resources if each["Type"] == "AWS::EC2::SecurityGroup"}
    assert {name: {end(rule) for rule in each["SecurityGroupEgress"]} for name, each in groups.items()} == expected
    for each in groups.values():
        for rule in each["SecurityGroupEgress"]:
            assert rule["CidrIp"] in (ANYWHERE, "127.0.0.1/32", {"Fn::GetAtt": ["Network", "CidrBlock"]})


# What makes no sense together.


def value(of: Any, parameters: Mapping[str, str]) -> Any:
    """What a rule's function gives: those that the templates use."""
    if not isinstance(of, dict):
        return of
    ((name, argument),) = of.items()
    functions: dict[str, Callable[[list[Any]], bool]] = {
        "Fn::Equals": lambda values: str(values[0]) == str(values[1]),
        "Fn::Not": lambda values: not values[0],
        "Fn::And": all,
        "Fn::Or": any,
    }
    if name == "Ref":
        return parameters[argument]
    return functions[name]([value(each, parameters) for each in argument])


def complaints(template: str, given: Mapping[str, str]) -> list[str]:
    """What CloudFormation says of parameters before it makes anything; moto leaves that out."""
    text = read(template)
    parameters = {name: each["Default"] for name, each in text["Parameters"].items()}
    parameters.update(given)
    rules = [rule for rule in text["Rules"].values() if value(rule.get("RuleCondition", True), parameters)]
    return [
        each["AssertDescription"]
        for rule in rules
        for each in rule["Assertions"]
        if not value(each["Assert"], parameters)
    ]


@both
def test_sensible_parameters_are_taken(template: str) -> None:
    assert complaints(template, {"IndexUrl": "https://index.example/simple/"}) == []
    assert complaints(template, {**WHEEL, **SSH, "HostedZoneId": "Z1", "RecordName": "a.example.org"}) == []


@pytest.mark.parametrize(
    ("template", "given", "words"),
    [
        (ONE, {"HostedZoneId": "Z1"}, "HostedZoneId and RecordName"),
        (SCALE, {"RecordName": "a.example.org"}, "HostedZoneId and RecordName"),
        (ONE, {"NoIpHostname": "a.ddns.net"}, "NoIpHostname and NoIpSecretArn"),
        (ONE, {"NoIpSecretArn": SECRET}, "NoIpHostname and NoIpSecretArn"),
        (ONE, {**NO_IP, "HostedZoneId": "Z1", "RecordName": "a.example.org"}, "Route 53 or at No-IP"),
        (ONE, {**NO_IP, "LogsToCloudWatch": "yes"}, "an image of Debian"),
        (ONE, {"SshFrom": "192.0.2.0/24"}, "SshFrom and KeyName"),
        (SCALE, {"KeyName": "key"}, "SshFrom and KeyName"),
        (SCALE, {"ProxyPort": "8001"}, "any but 8001"),
        # What PyPI has by that name would be installed.
        (ONE, {"ReleaseWheel": ""}, "another project"),
        (SCALE, {"ReleaseWheel": "", "ReleaseRequirement": "rproxy==2.0"}, "another project"),
    ],
)
def test_nonsense_is_refused(template: str, given: dict[str, str], words: str) -> None:
    (why,) = complaints(template, {**WHEEL, **given})

    assert words in why


# What they bring up.


@both
def test_created_updated_and_deleted(template: str) -> None:
    stack = Stack(template, {})
    assert len(stack.group("PoolGroup")["Instances"]) == 2

    stack.update({"PoolServers": "3", "PoolInstanceType": "t3.small"})
    assert len(stack.group("PoolGroup")["Instances"]) == 3
    latest = client("ec2").describe_launch_template_versions(
        LaunchTemplateId=stack.group("PoolGroup")["LaunchTemplate"]["LaunchTemplateId"], Versions=["$Latest"]
    )["LaunchTemplateVersions"][0]
    assert latest["LaunchTemplateData"]["InstanceType"] == "t3.small"
    assert latest["VersionNumber"] == 2

    stack.delete()
    ec2 = client("ec2")
    # The account's own network is left. That moto leaves the address as well says nothing of the template.
    assert [each["IsDefault"] for each in ec2.describe_vpcs()["Vpcs"]] == [True]
    assert ec2.describe_launch_templates()["LaunchTemplates"] == []
    assert client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"] == []
    assert client("iam").list_roles()["Roles"] == []
    assert client("iam").list_instance_profiles()["InstanceProfiles"] == []
    assert client("elbv2").describe_load_balancers()["LoadBalancers"] == []
    assert client("elbv2").describe_target_groups()["TargetGroups"] == []
    assert client("secretsmanager").list_secrets()["SecretList"] == []


@both
def test_a_network_of_two_zones_that_leads_out(template: str) -> None:
    stack = Stack(template, {})
    ec2 = client("ec2")
    subnets = ec2.describe_subnets(SubnetIds=stack.group("ProxyGroup")["VPCZoneIdentifier"].split(","))["Subnets"]
    (network,) = {each["VpcId"] for each in subnets}

    assert len({each["AvailabilityZone"] for each in subnets}) == 2
    # moto leaves these out.
    said = {name: each["Properties"] for name, each in read(template)["Resources"].items()}
    assert all(said[name]["MapPublicIpOnLaunch"] is True for name in ("SubnetA", "SubnetB"))
    for letter in "AB":
        expected = {"SubnetId": {"Ref": f"Subnet{letter}"}, "RouteTableId": {"Ref": "Routes"}}
        assert said[f"RoutesOf{letter}"] == expected
    assert said["Network"]["EnableDnsSupport"] is said["Network"]["EnableDnsHostnames"] is True
    assert stack.group("PoolGroup")["VPCZoneIdentifier"] == stack.group("ProxyGroup")["VPCZoneIdentifier"]
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [network]}])["RouteTables"]
    (led,) = (table for table in tables if len(table["Routes"]) == 2)
    (out,) = (each for each in led["Routes"] if each["DestinationCidrBlock"] == ANYWHERE)
    (gateway,) = ec2.describe_internet_gateways()["InternetGateways"]
    assert out["GatewayId"] == gateway["InternetGatewayId"]
    assert [each["VpcId"] for each in gateway["Attachments"]] == [network]


def test_who_may_reach_which_port() -> None:
    stack = Stack(ONE, {"ProxyPort": "8100"})

    assert reaching(stack.security_group("ProxySecurity")) == {("tcp", 8100, ANYWHERE)}
    assert reaching(stack.security_group("PoolSecurity")) == {("tcp", 5000, stack.security("ProxySecurity"))}


def test_who_may_reach_which_port_at_scale() -> None:
    stack = Stack(SCALE, {"ProxyPort": "8100"})
    proxies = stack.security("ProxySecurity")

    assert reaching(stack.security_group("BalancerSecurity")) == {("tcp", 8100, ANYWHERE)}
    assert reaching(stack.security_group("RegisteringSecurity")) == {("tcp", 8001, stack.security("PoolSecurity"))}
    assert reaching(stack.security_group("ProxySecurity")) == {
        ("tcp", 8100, stack.security("BalancerSecurity")),
        ("tcp", 8001, stack.security("RegisteringSecurity")),
    }
    assert reaching(stack.security_group("PoolSecurity")) == {("tcp", 5000, proxies)}
    assert reaching(stack.security_group("RegistrySecurity")) == {("tcp", 6379, proxies)}


@both
def test_ssh_from_one_network_if_asked_for(template: str) -> None:
    stack = Stack(template, SSH)

    for name, output in (("ProxySecurity", "ProxyGroup"), ("PoolSecurity", "PoolGroup")):
        assert ("tcp", 22, "192.0.2.0/24") in reaching(stack.security_group(name))
        assert stack.launched(output)["KeyName"] == "key"


@both
def test_what_instances_are(template: str) -> None:
    stack = Stack(template, {"ProxyInstanceType": "t3.small"})

    for output, kind, name in (("ProxyGroup", "t3.small", "ProxySecurity"), ("PoolGroup", "t3.micro", "PoolSecurity")):
        launched = stack.launched(output)
        (disk,) = launched["BlockDeviceMappings"]
        assert launched["InstanceType"] == kind
        # By its name; Amazon's public parameter says which that is.
        assert launched["ImageId"].startswith("ami-")
        assert "KeyName" not in launched
        assert launched["SecurityGroupIds"] == [stack.security(name)]
        assert launched["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert disk["Ebs"]["Encrypted"] is True
        tags = {each["Key"]: each["Value"] for each in stack.group(output)["Tags"] if each["PropagateAtLaunch"]}
        assert tags["rproxy:stack"] == STACK
        assert tags["rproxy:role"] == ("proxy" if output == "ProxyGroup" else "pool")


def test_one_proxy_is_replaced_when_it_is_gone() -> None:
    stack = Stack(ONE, {})
    group = stack.group("ProxyGroup")
    (instance,) = group["Instances"]

    client("ec2").terminate_instances(InstanceIds=[instance["InstanceId"]])

    (other,) = stack.group("ProxyGroup")["Instances"]
    assert (group["MinSize"], group["MaxSize"]) == (1, 1)
    assert other["InstanceId"] != instance["InstanceId"]


# What they may do.


def allowed(statement: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The actions and the resources of a statement."""
    assert statement["Effect"] == "Allow"
    actions, resources = (
        {each} if isinstance(each, str) else set(each) for each in (statement["Action"], statement["Resource"])
    )
    return actions, resources


#: Actions that know no resources.
EVERYWHERE = {
    "ssm:UpdateInstanceInformation",
    "ssmmessages:CreateControlChannel",
    "ssmmessages:CreateDataChannel",
    "ssmmessages:OpenControlChannel",
    "ssmmessages:OpenDataChannel",
    "ec2:DescribeInstances",
}


@both
def test_roles_name_what_they_are_for(template: str) -> None:
    stack = Stack(template, {**WHEEL, "LogsToCloudWatch": "yes", **(NO_IP if template == ONE else {})})
    roles = [stack.role(output) for output in ("ProxyGroup", "PoolGroup")]

    for statement in (each for role in roles for each in role.values()):
        actions, resources = allowed(statement)
        assert not any("*" in action for action in actions)
        if "*" in resources:
            assert actions <= EVERYWHERE
        elif any("*" in resource for resource in resources):
            # Instances that aren't there yet have no names. So they are told by what their groups tag them with.
            assert statement["Condition"]["StringEquals"]["aws:ResourceTag/rproxy:stack"] == STACK
    for role in roles:
        assert allowed(role["TellTheStack"]) == ({"cloudformation:SignalResource"}, {stack.ident})
        assert allowed(role["Release"]) == (
            {"s3:GetObject"},
            {"arn:aws:s3:::releases/rproxy/rproxy-2.0-py3-none-any.whl"},
        )
        actions, resources = allowed(role["Logs"])
        assert actions == {"logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"}
        assert all(f":log-group:/rproxy/{STACK}" in each for each in resources)


def test_what_the_proxy_may() -> None:
    stack = Stack(ONE, {})
    role = stack.role("ProxyGroup")
    (address,) = client("ec2").describe_addresses()["Addresses"]

    assert set(role) == {"SessionManager", "TellTheStack", "TakeTheAddress", "TakeItAsAProxyOfThisStack"}
    assert allowed(role["TakeTheAddress"]) == (
        {"ec2:AssociateAddress"},
        {f"{EC2}:elastic-ip/{address['AllocationId']}"},
    )
    assert role["TakeItAsAProxyOfThisStack"]["Condition"]["StringEquals"]["aws:ResourceTag/rproxy:role"] == "proxy"
    # An interface is told by its tags too.
    (tags,) = stack.launched("ProxyGroup")["TagSpecifications"]
    assert tags["ResourceType"] == "network-interface"
    assert {"Key": "rproxy:role", "Value": "proxy"} in tags["Tags"]


def test_what_pool_servers_may() -> None:
    role = Stack(ONE, {}).role("PoolGroup")

    assert set(role) == {"SessionManager", "TellTheStack", "SeeWhichNumbersAreTaken", "TakeANumber"}
    assert allowed(role["TakeANumber"]) == ({"ec2:CreateTags"}, {f"{EC2}:instance/*"})
    assert role["TakeANumber"]["Condition"]["StringEquals"]["aws:ResourceTag/rproxy:role"] == "pool"
    assert role["TakeANumber"]["Condition"]["ForAllValues:StringEquals"] == {"aws:TagKeys": ["rproxy:number"]}


def test_only_the_proxy_reads_the_account_at_no_ip() -> None:
    stack = Stack(ONE, NO_IP)

    assert allowed(stack.role("ProxyGroup")["AccountAtNoIp"]) == ({"secretsmanager:GetSecretValue"}, {SECRET})
    assert "AccountAtNoIp" not in stack.role("PoolGroup")
    assert stack.outputs["ProxyName"] == "rproxy.ddns.net"


def test_only_proxies_read_the_password_of_the_registry() -> None:
    stack = Stack(SCALE, {})
    (secret,) = client("secretsmanager").list_secrets()["SecretList"]

    assert allowed(stack.role("ProxyGroup")["PasswordOfTheRegistry"])[1] == {secret["ARN"]}
    assert "PasswordOfTheRegistry" not in stack.role("PoolGroup")


# Names, logs, and what instances are told.


def test_a_name_for_the_address() -> None:
    where = zone()
    stack = Stack(ONE, {"HostedZoneId": where, "RecordName": "rproxy.example.org"})
    (address,) = client("ec2").describe_addresses()["Addresses"]

    records = client("route53").list_resource_record_sets(HostedZoneId=where)["ResourceRecordSets"]
    (record,) = (each for each in records if each["Type"] == "A")
    assert record["Name"].rstrip(".") == "rproxy.example.org"
    assert record["ResourceRecords"] == [{"Value": address["PublicIp"]}]
    assert stack.outputs["ProxyName"] == "rproxy.example.org"
    assert stack.outputs["ProxyAddress"] == address["PublicIp"]


def test_a_name_for_the_balancer() -> None:
    where = zone()
    stack = Stack(SCALE, {"HostedZoneId": where, "RecordName": "rproxy.example.org"})

    records = client("route53").list_resource_record_sets(HostedZoneId=where)["ResourceRecordSets"]
    (record,) = (each for each in records if each["Type"] == "A")
    assert record["AliasTarget"]["DNSName"].rstrip(".") == stack.outputs["ProxyAddress"]


@both
def test_logs_if_asked_for(template: str) -> None:
    stack = Stack(template, {"LogsToCloudWatch": "yes"})

    (group,) = client("logs").describe_log_groups()["logGroups"]
    assert group["logGroupName"] == stack.outputs["LogGroup"] == f"/rproxy/{STACK}"
    assert group["retentionInDays"] == 30
    assert f"LOG_GROUP='/rproxy/{STACK}'" in stack.user_data("ProxyGroup")


@both
def test_no_logs_otherwise(template: str) -> None:
    stack = Stack(template, {})

    assert client("logs").describe_log_groups()["logGroups"] == []
    assert "LogGroup" not in stack.outputs
    assert "LOG_GROUP=''" in stack.user_data("PoolGroup")


@both
def test_user_data_is_for_cloud_init(template: str) -> None:
    stack = Stack(template, {**WHEEL, "Policies": "111,222,333"})

    for output in ("ProxyGroup", "PoolGroup"):
        text = stack.user_data(output)
        config = yaml.safe_load(text)
        script, instance = config["write_files"]
        assert text.startswith("#cloud-config\n")
        assert len(text) <= USER_DATA
        assert script["encoding"] == "b64"
        # At each boot, as the first one may be cut short.
        assert (Path(script["path"]).parent, script["permissions"]) == (PER_BOOT, "0755")
        assert "${" not in instance["content"].replace("${CREDENTIALS_DIRECTORY}", "")
        assert f"WHEEL='{WHEEL['ReleaseWheel']}'" in instance["content"]
        assert f"GROUP={output}" in instance["content"]
    assert "POLICIES='111,222,333'" in stack.user_data("PoolGroup")


@both
def test_user_data_fits_whatever_parameters_are(template: str) -> None:
    """EC2 takes no more, and says so only when the stack is half made: so what is in there has a length at most."""
    text = read(template)
    longest = {name: "x" * each["MaxLength"] for name, each in text["Parameters"].items() if "MaxLength" in each}
    words = {name for name, each in text["Parameters"].items() if each["Type"] == "String"}
    for resource in ("ProxyTemplate", "PoolTemplate"):
        user_data = str(text["Resources"][resource]["Properties"]["LaunchTemplateData"]["UserData"])
        assert words & {*re.findall(r"\$\{(\w+)\}", user_data)} <= longest.keys()

    stack = Stack(template, {**longest, "LogsToCloudWatch": "yes"})
    # The stack's name is in the names of other things too.
    spare = 4 * (128 - len(STACK))
    for output in ("ProxyGroup", "PoolGroup"):
        assert len(stack.user_data(output)) + spare <= USER_DATA


def test_pool_servers_find_the_proxy_by_the_name_of_its_address() -> None:
    """Within the network, that is its private address."""
    stack = Stack(ONE, {"ProxyPort": "8100"})
    dashed = stack.outputs["ProxyAddress"].replace(".", "-")

    assert f"PROXY='ec2-{dashed}.compute-1.amazonaws.com:8100'" in stack.user_data("PoolGroup")


# At scale.


def test_balancers() -> None:
    stack = Stack(SCALE, {})
    balancing = client("elbv2")
    balancers = {each["Scheme"]: each for each in balancing.describe_load_balancers()["LoadBalancers"]}
    subnets = set(stack.group("ProxyGroup")["VPCZoneIdentifier"].split(","))
    targets = set()
    for scheme, name, port, header in (
        ("internet-facing", "BalancerSecurity", 8000, True),
        ("internal", "RegisteringSecurity", 8001, False),
    ):
        balancer = balancers.pop(scheme)
        arn = balancer["LoadBalancerArn"]
        (listener,) = balancing.describe_listeners(LoadBalancerArn=arn)["Listeners"]
        (action,) = listener["DefaultActions"]
        (target,) = balancing.describe_target_groups(TargetGroupArns=[action["TargetGroupArn"]])["TargetGroups"]
        found = balancing.describe_target_group_attributes(TargetGroupArn=target["TargetGroupArn"])["Attributes"]
        attributes = {each["Key"]: each["Value"] for each in found}
        assert balancer["Type"] == "network"
        assert balancer["SecurityGroups"] == [stack.security(name)]
        assert {each["SubnetId"] for each in balancer["AvailabilityZones"]} == subnets
        assert (listener["Protocol"], listener["Port"]) == (target["Protocol"], target["Port"]) == ("TCP", port)
        assert target["HealthCheckProtocol"] == "TCP"
        assert attributes["proxy_protocol_v2.enabled"] == str(header).lower()
        # Who adds the header mustn't hide behind the client's address.
        assert attributes["preserve_client_ip.enabled"] == str(not header).lower()
        targets.add(target["TargetGroupArn"])
    assert not balancers
    assert set(stack.group("ProxyGroup")["TargetGroupARNs"]) == targets


def test_proxies_by_their_load() -> None:
    stack = Stack(SCALE, {"Proxies": "3", "MaxProxies": "9"})
    group = stack.group("ProxyGroup")
    (policy,) = client("autoscaling").describe_policies()["ScalingPolicies"]

    assert (group["MinSize"], group["MaxSize"], len(group["Instances"])) == (3, 9, 3)
    assert group["HealthCheckType"] == "ELB"
    assert policy["AutoScalingGroupName"] == group["AutoScalingGroupName"]
    assert policy["TargetTrackingConfiguration"]["TargetValue"] == 50


def test_the_registry() -> None:
    Stack(SCALE, {})
    (registry,) = client("elasticache").describe_replication_groups()["ReplicationGroups"]
    said = read(SCALE)["Resources"]

    assert registry["TransitEncryptionEnabled"] is True
    assert registry["AtRestEncryptionEnabled"] is True
    assert registry["AuthTokenEnabled"] is True
    assert registry["MultiAZ"] == "enabled"
    assert registry["AutomaticFailover"] == "enabled"
    # moto has nothing of these.
    assert said["Registry"]["Properties"]["NumCacheClusters"] == 2
    assert said["Registry"]["Properties"]["Engine"] == "valkey"
    assert said["Registry"]["Properties"]["SecurityGroupIds"] == [{"Fn::GetAtt": ["RegistrySecurity", "GroupId"]}]
    assert said["RegistrySettings"]["Properties"]["Properties"] == {"maxmemory-policy": "noeviction"}


def test_proxies_at_scale_are_told_of_the_balancers_and_the_registry() -> None:
    stack = Stack(SCALE, {"ProxyPort": "8100"})
    (proxy,) = (each for each in yaml.safe_load(stack.user_data("ProxyGroup"))["write_files"] if "encoding" not in each)
    (inside,) = (
        each for each in client("elbv2").describe_load_balancers()["LoadBalancers"] if each["Scheme"] == "internal"
    )

    assert "PORTS=('0.0.0.0:8100' 0.0.0.0:8001)" in proxy["content"]
    assert "--listen haproxy:systemd:domain=INET:index=0 --proxy-from 10.81.0.0/16 " in proxy["content"]
    assert " --register-listen systemd:domain=INET:index=1 " in proxy["content"]
    assert " --registry rediss://master." in proxy["content"]
    assert f"PROXY='{inside['DNSName']}:8001'" in stack.user_data("PoolGroup")
