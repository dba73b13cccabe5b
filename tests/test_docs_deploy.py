"""What docs/howto/deploy.rst says of EC2, costs and containers: its commands run where they can, its sums are right.

Those of EC2 run in the order in which they stand there, by the real aws command, against a moto_server that lets the
user of the page do only what the page's policy has. Those of one machine are run by tests/test_booted.py.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import which
from typing import Any

import boto3
import pytest
import yaml

from rproxy.ec2.templates import load
from tests import stacks, wheels
from tests.awscloud import CREDENTIALS, Aws, server
from tests.documentation import code_blocks, section, table
from tests.support import ROOT

DEPLOY = ROOT / "docs" / "howto" / "deploy.rst"
#: The one that knows what ``scale`` takes; the page has the same.
REGION = stacks.REGION
#: Debian's, which .ci/run installs: pip's of version 1 asks for other versions of what boto3 needs.
AWS = which("aws", path="/usr/local/bin:/usr/bin")
needs_aws = pytest.mark.skipif(AWS is None, reason="the aws command isn't here: install awscli")
#: Characters of a policy without white space, as AWS counts them.
MOST_OF_A_POLICY = 6144
#: An image that moto doesn't know.
DEBIAN = "/aws/service/debian/release/12/latest/amd64"

#: Has moto look at what the user may do only after so many more calls.
ALLOW = f"""\
allow() {{
    {sys.executable} -c 'if True:
        import sys, urllib.request as web
        to, data = sys.argv[1:]
        web.urlopen(web.Request(to, data.encode(), {{"Content-Type": "text/plain"}}))' \\
        "$AWS_ENDPOINT_URL/moto-api/reset-auth" "$1"
}}
"""
#: Stand in for commands of the page. Older versions of aws don't know the variable that names another AWS. The plugin
#: for sessions isn't there, nobody types a key, no packet gets to an instance, and tests don't install.
COMMANDS = {
    "aws": """\
{allow}case "$1 $2" in
    "configure "|"ssm start-session") exit;;
    # moto takes everybody's signature for wrong there.
    "route53 "*) allow 1000000000; {aws} --endpoint-url "$AWS_ENDPOINT_URL" "$@" || exit; allow 0; exit;;
esac
exec {aws} --endpoint-url "$AWS_ENDPOINT_URL" "$@"
""",
    "rproxy": """\
[ "$1" != send ] || exec {python} -c 'if True:
    import sys
    from rproxy.cli import make_parser
    make_parser().parse_args(sys.argv[1:])' "$@"
{allow}case "$*" in
    # moto makes and deletes what it is taught of several proxies by keys of its own, which it would refuse.
    *" wide"*) allow 1000000000; {python} -m rproxy.cli "$@" || exit; allow 0; exit;;
esac
exec {python} -m rproxy.cli "$@"
""",
    # A wheel as far as it is looked at.
    "pip": """\
[ "$1" = wheel ] || exit 0
mkdir -p dist
{python} -m zipfile --create dist/rproxy-9.9-py3-none-any.whl {root}/twisted
""",
}


def commands(title: str) -> str:
    """What the shell is told in a section and those below it."""
    return "".join(code_blocks(section(DEPLOY, title), "sh"))


def policy() -> dict[str, Any]:
    (block,) = code_blocks(section(DEPLOY, "An account, and who may do it"), "json")
    read: dict[str, Any] = json.loads(block)
    return read


class Shell:
    """A shell in a folder with what the project's has of what is named, and with :data:`COMMANDS`."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "etc").symlink_to(ROOT / "etc")
        for name, text in COMMANDS.items():
            path = folder / "bin" / name
            path.write_text("#!/bin/sh\n" + text.format(aws=AWS, python=sys.executable, allow=ALLOW, root=ROOT))
            path.chmod(0o755)
        self.env = {**env, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "AWS_REGION": REGION, "AWS_PAGER": ""}

    def run(self, text: str, **more: str) -> str:
        """Run commands, each of which has to succeed, and return what they print."""
        ended = subprocess.run(
            ["bash", "-euxo", "pipefail", "-c", text],
            cwd=self.folder,
            env={**self.env, **more},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
        return ended.stdout


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with server() as process:
        aws = Aws.of(process, tmp_path)
        for name, value in aws.environment(**CREDENTIALS, AWS_REGION=REGION).items():
            monkeypatch.setenv(name, value)
        yield aws


@pytest.fixture
def shell(aws: Aws, tmp_path: Path) -> Shell:
    return Shell(tmp_path, aws.environment(**CREDENTIALS))


def as_moto_knows_them(document: dict[str, Any]) -> dict[str, Any]:
    """A policy for moto, which knows actions, but neither resources nor conditions, and those of S3 by wrong names."""
    allowed = [{"Effect": each["Effect"], "Action": each["Action"], "Resource": "*"} for each in document["Statement"]]
    allowed.append({"Effect": "Allow", "Action": "s3:*", "Resource": "*"})
    return {"Version": document["Version"], "Statement": allowed}


@needs_aws
@pytest.mark.timeout(600)
def test_ec2(aws: Aws, shell: Shell) -> None:
    """All commands, in their order, as a user who may do what the page gives them; and then nothing is left."""
    boto3.client("route53", region_name=REGION).create_hosted_zone(Name="example.org", CallerReference="1")
    first = "An account, and who may do it"
    (shell.folder / "rproxy-ec2.json").write_text(json.dumps(as_moto_knows_them(policy())))
    printed = shell.run(commands(first))
    key = json.loads(printed[printed.rindex('{\n    "AccessKey"') :])["AccessKey"]
    user = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
    rest = commands("EC2").removeprefix(commands(first)).replace(DEBIAN, image_of_moto())
    aws.post("/moto-api/reset-auth", b"0")
    try:
        printed = shell.run(rest, **user)
    finally:
        aws.post("/moto-api/reset-auth", b"1000000000")
    for said in (
        "demo is CREATE_COMPLETE",
        "demo is UPDATE_COMPLETE",
        "home is CREATE_COMPLETE",
        "wide is CREATE_COMPLETE",
        "# This would change the stack demo",
        "Nothing is left of wide",
        "Nothing is left of demo",
        "the bucket is gone",
    ):
        assert said in printed, said
    assert re.search(r"^  ProxyName +proxy\.example\.org$", printed, re.MULTILINE)
    assert left() == {"stacks": [], "buckets": [], "secrets": [], "groups": [], "networks": []}


def image_of_moto() -> str:
    """The name of an image that moto has: it can't be given others."""
    return str(load("one").defaults["ImageId"])


def left() -> dict[str, list[str]]:
    """What there is at AWS that costs anything."""
    return {
        "stacks": [each["StackName"] for each in client("cloudformation").describe_stacks()["Stacks"]],
        "buckets": [each["Name"] for each in client("s3").list_buckets()["Buckets"]],
        "secrets": [each["Name"] for each in client("secretsmanager").list_secrets()["SecretList"]],
        "groups": [
            each["AutoScalingGroupName"]
            for each in client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        ],
        "networks": [each["VpcId"] for each in client("ec2").describe_vpcs()["Vpcs"] if not each["IsDefault"]],
    }


def client(service: str) -> Any:
    return boto3.client(service, region_name=REGION)


@needs_aws
@pytest.mark.timeout(200)
def test_dry_run_does_the_same(aws: Aws, shell: Shell) -> None:
    """What ``--dry-run`` prints makes the stack and the bucket that ``up`` would; it finds both there."""
    wheel = wheels.pretend(shell.folder / "rproxy-9.9-py3-none-any.whl")
    up = f"rproxy ec2 up dry --wheel {wheel} --policies a,b --servers 3"
    shell.run(shell.run(f"{up} --dry-run"))
    printed = shell.run(up)
    assert "Already there: s3://rproxy-dry-" in printed
    assert "Made the bucket" not in printed
    parameters = client("cloudformation").describe_stacks(StackName="dry")["Stacks"][0]["Parameters"]
    assert {"ParameterKey": "Policies", "ParameterValue": "a,b"} in parameters
    assert "Nothing is left of dry" in shell.run("rproxy ec2 down dry --yes")
    assert left()["buckets"] == []


#: What S3 asks for, by the methods of boto3 and the commands of aws s3api.
S3 = {
    "head_bucket": {"ListBucket"},
    "get_bucket_tagging": {"GetBucketTagging"},
    "create_bucket": {"CreateBucket"},
    "put_bucket_tagging": {"PutBucketTagging"},
    "put_public_access_block": {"PutBucketPublicAccessBlock"},
    "put_bucket_encryption": {"PutEncryptionConfiguration"},
    "put_bucket_versioning": {"PutBucketVersioning"},
    "head_object": {"GetObject"},
    "put_object": {"PutObject"},
    "delete_objects": {"DeleteObject", "DeleteObjectVersion"},
    "delete_bucket": {"DeleteBucket"},
    "list_object_versions": {"ListBucketVersions"},
    "list_objects_v2": {"ListBucket"},
}


def test_policy_has_what_s3_asks_for() -> None:
    """Its names there aren't those of the calls, and moto has others; what else is called, :func:`test_ec2` tries."""
    source = (ROOT / "rproxy" / "ec2" / "buckets.py").read_text("utf-8")
    called = set(re.findall(r"_client\.(?:get_paginator\(\")?([a-z]\w+)", source)) - {"exceptions", "get_paginator"}
    called |= {name.replace("-", "_") for name in re.findall(r"aws s3api ([a-z0-9-]+)", commands("EC2"))}
    (statement,) = (each for each in policy()["Statement"] if each["Sid"] == "BucketOfTheRelease")
    assert len(called) > 10
    needed = set().union(*(S3[name] for name in called))
    assert {f"s3:{name}" for name in needed} == {*statement["Action"]}


def test_policy() -> None:
    """It has the form of one, isn't longer than one may be, and doesn't give away everything."""
    document = policy()
    assert set(document) == {"Version", "Statement"}
    assert document["Version"] == "2012-10-17"
    assert len(json.dumps(document, separators=(",", ":"))) <= MOST_OF_A_POLICY
    names = [each["Sid"] for each in document["Statement"]]
    assert len(names) == len({*names})
    for each in document["Statement"]:
        assert {*each} - {"Condition"} == {"Sid", "Effect", "Action", "Resource"}
        assert each["Effect"] == "Allow"
        assert each["Sid"].isalnum()
        actions = [each["Action"]] if isinstance(each["Action"], str) else each["Action"]
        assert actions == sorted({*actions})
        for action in actions:
            assert re.fullmatch(r"[a-z0-9]+:([A-Z][A-Za-z0-9]+\*?|\*)", action), action
        resources = [each["Resource"]] if isinstance(each["Resource"], str) else each["Resource"]
        # Roles, buckets and secrets of others aren't touched.
        if any(action.startswith(("iam:", "s3:", "ssm:")) for action in actions):
            assert all(re.fullmatch(r"arn:aws:\w+:\S*[:/]\S+", resource) for resource in resources)


def test_sums() -> None:
    """The costs of a month are those of the parts, and the parts those of the templates."""
    text = section(DEPLOY, "Costs")
    rows = [[float(cell) for cell in row[1:]] for row in table(text)]
    instances, disks, addresses, balancers, nodes, secrets = (row[2:] for row in rows)
    assert instances == disks == [3, 4]
    for kind, counts in {
        "AWS::ElasticLoadBalancingV2::LoadBalancer": balancers,
        "AWS::SecretsManager::Secret": secrets,
    }.items():
        assert counts == [load(name).body.count(f"    Type: {kind}\n") for name in ("one", "scale")]
    assert nodes == [0, 2]
    # A balancer that faces the internet has one in each of two zones.
    assert addresses == [3, 4 + 2]
    one, scale = ([sum(row[place] * row[2 + of] for row in rows) for place in (0, 1)] for of in (0, 1))
    said = re.search(
        r"``one`` as it comes is about (\d+) dollars .* and (\d+) .*``scale`` (\d+) and (\d+)\.", " ".join(text.split())
    )
    assert said is not None
    assert [*map(int, said.groups())] == [*map(round, (*one, *scale))]


def test_compose_commands() -> None:
    """They name services that there are."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]
    named = re.findall(r"(?:logs|exec|--no-deps) ([a-z0-9-]+)", commands("Containers"))
    assert {*named} == {*services}
