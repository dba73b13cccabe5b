"""``rproxy ec2`` as it is called, against a moto_server: all three commands, and all ways in which they end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock
from zipfile import ZipFile

import pytest
from attrs import frozen

from rproxy.cli import main
from rproxy.ec2.buckets import Bucket, bucket_name
from rproxy.ec2.clouds import Cloud, connect
from rproxy.ec2.removing import Removing
from rproxy.ec2.terminal import Terminal
from tests import stacks, wheels
from tests.awscloud import CREDENTIALS, REGION, Aws, server
from tests.support import Process, environment

ACCOUNT = "123456789012"
#: What a line of an event looks like.
EVENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ [A-Z_]+ +\S+ \(\S+\)")


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    with server() as process:
        yield process


@pytest.fixture
def aws(process: Process, tmp_path: Path) -> Aws:
    """An empty one."""
    aws = Aws.of(process, tmp_path)
    aws.post("/moto-api/reset")
    return aws


@pytest.fixture(scope="module")
def environ(process: Process, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process's way there."""
    with mock.patch.dict(os.environ, Aws.of(process, tmp_path_factory.mktemp("home")).usual(), clear=True):
        yield


@pytest.fixture(scope="module")
def connected(environ: None) -> Cloud:
    """Made once, as boto3 reads long files for it."""
    return connect(REGION)


@pytest.fixture
def cloud(aws: Aws, connected: Cloud) -> Cloud:
    """The way there for what the test does itself; nothing is there yet."""
    return connected


@pytest.fixture
def wheel(tmp_path: Path) -> str:
    return str(wheels.pretend(tmp_path / "rproxy-9.9-py3-none-any.whl"))


@frozen
class Left:
    """What there is at AWS."""

    stacks: list[str]
    buckets: list[str]
    networks: int


def left(cloud: Cloud) -> Left:
    """Look, at all that the templates make of what can be counted."""
    stacks = [stack["StackName"] for stack in cloud.cloudformation.describe_stacks()["Stacks"]]
    buckets = [bucket["Name"] for bucket in cloud.s3.list_buckets()["Buckets"]]
    networks = cloud.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["false"]}])["Vpcs"]
    return Left(stacks, buckets, len(networks))


NOTHING = Left([], [], 0)


def tags(stack: str) -> list[dict[str, str]]:
    return [{"Key": "rproxy:ec2", "Value": stack}]


def test_life(aws: Aws, cloud: Cloud, wheel: str) -> None:
    """Up, looked at, changed, and down; and then nothing is left."""
    bucket = bucket_name(ACCOUNT, REGION, "life")
    up = aws.run("up", "life", "--wheel", wheel, "--servers", "3", "--policies", "a,b,c")
    assert (up.returncode, up.stderr) == (0, "")
    # Whatever comes of the stack, and also if there is none.
    assert f"Made the bucket {bucket}, which goes by: rproxy ec2 down life\n" in up.stdout
    assert [line for line in up.stdout.splitlines() if EVENT.match(line)][-1].split()[2] == "CREATE_COMPLETE"
    outputs = aws.json("status", "life")["outputs"]
    for key in ("ProxyName", "ProxyAddress", "ProxyPort", "ProxyGroup", "PoolGroup"):
        assert re.search(f"^  {key} +{re.escape(outputs[key])}$", up.stdout, re.MULTILINE)
    assert f"rproxy send --revproc {outputs['ProxyName']}:8000 --id 1 --pp a --payload hello" in up.stdout

    status = aws.run("status", "life")
    assert (status.returncode, status.stderr) == (0, "")
    rows = [line.split() for line in status.stdout.splitlines() if " i-" in line]
    assert [row[0] for row in rows] == ["ProxyGroup", "PoolGroup", "PoolGroup", "PoolGroup"]
    assert {tuple(row[2:5]) for row in rows} == {("InService", "Healthy", "t3.micro")}
    assert all(re.fullmatch(r"[\d.]+", row[6]) and row[7].startswith("10.80.") for row in rows)

    same = aws.run("up", "life")
    assert same.returncode == 0
    assert "Nothing to change: life is CREATE_COMPLETE" in same.stdout

    changed = aws.run("up", "life", "--policies", "a,b", "--json")
    assert changed.returncode == 0
    assert "UPDATE_COMPLETE" in changed.stderr
    assert json.loads(changed.stdout)["state"] == "UPDATE_COMPLETE"
    parameters = stack_parameters(cloud, "life")
    assert parameters["Policies"] == "a,b"
    # What wasn't spoken of is as it was.
    assert parameters["PoolServers"] == "3"
    assert parameters["ReleaseWheel"].startswith(f"s3://{bucket}/wheels/")

    down = aws.run("down", "life", "--yes")
    assert (down.returncode, down.stderr) == (0, "")
    assert "  PoolGroup (AutoScaling::AutoScalingGroup) " in down.stdout
    assert f"Deleted the bucket {bucket}\nNothing is left of life\n" in down.stdout
    assert left(cloud) == NOTHING
    again = aws.run("down", "life", "--yes")
    assert (again.returncode, again.stdout) == (0, f"There is nothing of life in {REGION}\n")


def test_scale(aws: Aws, cloud: Cloud) -> None:
    """Several proxies; a change keeps the template that the stack has."""
    there = ("--region", stacks.REGION)
    up = aws.run("up", "wide", "--template", "scale", "--proxies", "3", *there)
    assert (up.returncode, up.stderr) == (0, "")
    assert aws.run("up", "wide", "--servers", "4", *there).returncode == 0
    status = aws.json("status", "wide", *there)
    assert [each["group"] for each in status["instances"]] == ["ProxyGroup"] * 3 + ["PoolGroup"] * 4
    assert status["outputs"]["ProxyAddress"].endswith("amazonaws.com")
    assert aws.run("down", "wide", "--yes", *there).returncode == 0
    assert left(connect(stacks.REGION)) == NOTHING


def stack_parameters(cloud: Cloud, name: str) -> dict[str, str]:
    (stack,) = cloud.cloudformation.describe_stacks(StackName=name)["Stacks"]
    return {each["ParameterKey"]: each["ParameterValue"] for each in stack["Parameters"]}


def test_bucket(aws: Aws, cloud: Cloud, wheel: str) -> None:
    """It is private, encrypted and versioned; another wheel gets another key, the same one isn't sent twice."""
    name = bucket_name(ACCOUNT, REGION, "one")
    assert "Uploaded s3://" in aws.run("up", "one", "--wheel", wheel).stdout
    assert cloud.s3.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"
    (rule,) = cloud.s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert {*cloud.s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"].values()} == {True}
    assert cloud.s3.get_bucket_location(Bucket=name)["LocationConstraint"] == REGION
    first = stack_parameters(cloud, "one")["ReleaseWheel"]

    again = aws.run("up", "one", "--wheel", wheel)
    assert f"Already there: {first}" in again.stdout
    assert "Nothing to change" in again.stdout
    wheels.pretend(Path(wheel), "another one")
    assert f"Made the bucket {name}" not in aws.run("up", "one", "--wheel", wheel).stdout
    second = stack_parameters(cloud, "one")["ReleaseWheel"]
    assert second != first
    # Also what was deleted by hand, whose older versions stay, doesn't keep the bucket there.
    cloud.s3.delete_object(Bucket=name, Key=second.removeprefix(f"s3://{name}/"))
    assert aws.run("down", "one", "--yes").returncode == 0
    assert left(cloud) == NOTHING


@contextmanager
def during(client: Any, event: str, do: Callable[[], object]) -> Iterator[None]:
    """Have something happen at one moment of each call, such as ``after-call.s3.CreateBucket``."""

    def handle(**_: object) -> None:
        do()

    client.meta.events.register(event, handle)
    try:
        yield
    finally:
        client.meta.events.unregister(event, handle)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("event", ["after-call.s3.CreateBucket", "before-call.s3.PutBucketTagging"])
def test_bucket_without_a_tag(event: str, cloud: Cloud) -> None:
    """One that can't be marked as ours, or isn't since somebody is in a hurry, goes again."""
    with during(cloud.s3, event, interrupt), pytest.raises(KeyboardInterrupt):
        Bucket(cloud, "hasty").make()
    assert left(cloud) == NOTHING


def test_bucket_that_is_made_meanwhile(cloud: Cloud) -> None:
    """It isn't known whose it is, so it stays."""
    import boto3

    bucket, where = Bucket(cloud, "twice"), {"LocationConstraint": REGION}
    other = boto3.client("s3", region_name=REGION)

    def make() -> None:
        other.create_bucket(Bucket=bucket.name, CreateBucketConfiguration=where)

    with during(cloud.s3, "before-call.s3.CreateBucket", make), pytest.raises(other.exceptions.ClientError):
        bucket.make()
    assert left(cloud).buckets == [bucket.name]


def test_large_template(aws: Aws, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes by way of the bucket, which is made for it."""
    monkeypatch.setattr("rproxy.ec2.templates.MAX_INLINE", 1000)
    assert "CREATE_COMPLETE" in aws.run("up", "large").stdout
    bucket = bucket_name(ACCOUNT, REGION, "large")
    assert left(cloud) == Left(["large"], [bucket], 1)
    (object,) = cloud.s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert object["Key"].startswith("templates/")
    assert aws.run("down", "large", "--yes").returncode == 0
    assert left(cloud) == NOTHING


def test_creation_fails(aws: Aws, cloud: Cloud, wheel: str) -> None:
    """It is said what was first to fail, and what is left goes."""
    up = aws.run("up", "failing-1", "--wheel", wheel)
    assert up.returncode == 1
    end = up.stdout[up.stdout.index("\nfailing-1 is ") :].splitlines()
    assert end[1] == "failing-1 is ROLLBACK_COMPLETE"
    assert end[2].startswith("The first to fail was Network (AWS::EC2::VPC)")
    assert end[2].endswith("The maximum number of VPCs has been reached.")
    assert end[3:] == ["What is left of it goes by: rproxy ec2 down failing-1"]
    status = aws.run("status", "failing-1")
    assert status.returncode == 1
    assert end[2] in status.stdout
    again = aws.run("up", "failing-1")
    assert again.returncode == 1
    assert "can only be deleted: rproxy ec2 down failing-1" in again.stderr
    (first, *_) = aws.json("status", "failing-1")["failures"]
    assert first["resource"] == "Network"
    assert aws.run("down", "failing-1", "--yes").returncode == 0
    assert left(cloud) == NOTHING


def test_change_fails(aws: Aws) -> None:
    """The stack is as it was."""
    assert aws.run("up", "unchangeable-1").returncode == 0
    up = aws.run("up", "unchangeable-1", "--servers", "4")
    assert up.returncode == 1
    assert "The first to fail was PoolGroup (AWS::AutoScaling::AutoScalingGroup)" in up.stdout
    assert up.stdout.endswith("\nIt is as it was before.\n")
    assert aws.run("up", "stuck-1").returncode == 0
    up = aws.run("up", "stuck-1", "--servers", "4")
    assert up.returncode == 1
    assert up.stdout.endswith("aws cloudformation continue-update-rollback --stack-name stuck-1\n")


def test_deletion_fails(aws: Aws, cloud: Cloud, wheel: str) -> None:
    """Then the bucket stays as well, and it is said what is in the way."""
    assert aws.run("up", "undeletable-1", "--wheel", wheel).returncode == 0
    down = aws.run("down", "undeletable-1", "--yes")
    assert down.returncode == 1
    assert "The first to fail was Network (AWS::EC2::VPC)" in down.stdout
    assert down.stdout.endswith("When that is put right: rproxy ec2 down undeletable-1\n")
    assert left(cloud).buckets == [bucket_name(ACCOUNT, REGION, "undeletable-1")]


def test_foreign(aws: Aws, cloud: Cloud, wheel: str) -> None:
    """Neither a stack nor a bucket that isn't ours is touched."""
    body = json.dumps({"Resources": {"Network": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.0.0.0/16"}}}})
    for name, of in (("theirs", []), ("other", tags("somebody"))):
        cloud.cloudformation.create_stack(StackName=name, TemplateBody=body, Tags=of)
        for command in (["up", name], ["down", name, "--yes"]):
            ended = aws.run(*command)
            assert (ended.returncode, ended.stdout) == (1, "")
            assert (
                ended.stderr == f"rproxy ec2: the stack {name} isn't of rproxy ec2: it has no tag rproxy:ec2={name}\n"
            )
    bucket = bucket_name(ACCOUNT, REGION, "mine")
    cloud.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    for command in (["up", "mine", "--wheel", wheel], ["down", "mine", "--yes"]):
        ended = aws.run(*command)
        assert ended.returncode == 1
        assert f"the bucket {bucket} wasn't made by rproxy ec2" in ended.stderr
        assert ended.stderr.endswith(f"aws s3 rb s3://{bucket}\n")
    assert left(cloud) == Left(["theirs", "other"], [bucket], 2)


def test_interrupted(aws: Aws) -> None:
    """Ctrl-C ends the command; the stack goes on, and it is said how to see it."""
    argv = [sys.executable, "-m", "rproxy.cli", "ec2", "up", "slow-1"]
    with Process(argv, ready="CREATE_IN_PROGRESS", env=aws.usual()) as up:
        up.send_signal(signal.SIGINT)
        assert up.wait() == 130
        assert "The stack goes on without this command. To see how: rproxy ec2 status slow-1\n" in up.log
        assert "Traceback" not in up.log
    status = aws.run("status", "slow-1")
    assert (status.returncode, status.stdout.splitlines()[0]) == (0, "slow-1 is CREATE_IN_PROGRESS")
    again = aws.run("up", "slow-1")
    assert again.returncode == 1
    assert "the stack slow-1 is CREATE_IN_PROGRESS: see rproxy ec2 status slow-1" in again.stderr
    assert aws.run("down", "slow-1", "--yes").returncode == 0


def test_interrupted_removal(aws: Aws, cloud: Cloud, wheel: str) -> None:
    """At any moment from when the stack begins to go: the bucket stays, which is said, and goes by the same command."""
    assert aws.run("up", "left", "--wheel", wheel).returncode == 0
    bucket = bucket_name(ACCOUNT, REGION, "left")
    removing = Removing(cloud, Terminal(said := StringIO(), StringIO(), as_json=False), "left", lambda _: None)
    event = "after-call.cloudformation.DeleteStack"
    with during(cloud.cloudformation, event, interrupt), pytest.raises(KeyboardInterrupt):
        removing.remove(lambda _: True, wait=True)
    assert said.getvalue().endswith(f"\nThe bucket {bucket} stays. To delete it: rproxy ec2 down left\n")
    assert left(cloud).buckets == [bucket]
    assert aws.run("down", "left", "--yes").returncode == 0
    assert left(cloud) == NOTHING


def test_nobody_reads(aws: Aws) -> None:
    """As with ``| head``: it ends without a word."""
    argv = [sys.executable, "-m", "rproxy.cli", "ec2", "up", "unread"]
    with subprocess.Popen(argv, env=aws.usual(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as up:
        assert up.stdout is not None
        assert up.stderr is not None
        up.stdout.close()
        said = up.stderr.read()
    assert (up.returncode, said) == (128 + signal.SIGPIPE, b"")


def test_without_waiting(aws: Aws, cloud: Cloud, wheel: str) -> None:
    """It only begins."""
    up = aws.run("up", "slow-1", "--no-wait", "--wheel", wheel)
    assert up.returncode == 0
    assert up.stdout.endswith("It goes on by itself. To see how: rproxy ec2 status slow-1\n")
    down = aws.run("down", "slow-1", "--no-wait", "--yes")
    assert down.returncode == 0
    assert down.stdout.endswith("slow-1 is being deleted\n")
    assert left(cloud) == NOTHING


def test_asks(aws: Aws, cloud: Cloud) -> None:
    """Nothing goes without a yes."""
    assert aws.run("up", "kept").returncode == 0
    no = aws.run("down", "kept", stdin="no\n")
    assert (no.returncode, no.stderr) == (1, "Delete kept? [y/N] rproxy ec2: nothing was deleted\n")
    nobody = aws.run("down", "kept")
    assert nobody.returncode == 2
    assert nobody.stderr.endswith("rproxy ec2: nobody answers: give --yes\n")
    assert left(cloud).stacks == ["kept"]
    assert aws.run("down", "kept", stdin="y\n").returncode == 0
    assert left(cloud) == NOTHING


def test_dry_run(aws: Aws, cloud: Cloud, wheel: str) -> None:
    """It changes nothing, and prints commands that a shell understands."""
    dry = aws.run("up", "dry", "--dry-run", "--wheel", wheel, "--policies", "a b,c")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert left(cloud) == NOTHING
    first, *commands = dry.stdout.splitlines()
    assert first.startswith("# This would make the stack dry")
    assert {shlex.split(command)[0] for command in commands} == {"aws"}
    deploy = shlex.split(commands[-1])
    assert deploy[:3] == ["aws", "cloudformation", "deploy"]
    assert Path(deploy[deploy.index("--template-file") + 1]).is_file()
    assert "Policies=a b,c" in deploy
    value: Any = aws.json("up", "dry", "--dry-run", "--wheel", wheel, "--policies", "a b,c")
    assert value == {"does": "make", "commands": [shlex.split(command) for command in commands]}


USAGE: tuple[tuple[list[str], str], ...] = (
    (["up", "9"], "isn't a letter"),
    (["up", "x", "--parameter", "Policies"], "isn't of the form NAME=VALUE"),
    (["up", "x", "--parameter", "Polices=1"], "the template has no parameter Polices: did you mean Policies?"),
    (["up", "x", "--parameter", "Zzz=1"], "the template has no parameter Zzz: it has "),
    (["up", "x", "--proxies", "3"], "the template has no parameter Proxies: it has "),
    (["up", "x", "--policies", "1", "--parameter", "Policies=1"], "Policies is given twice"),
    (["up", "x", "--ssh-from", "10.0.0.1/8"], "has host bits set"),
    (["up", "x", "--servers", "0"], "not a whole number"),
    (["up", "x", "--wheel", "rproxy-none.whl"], "there is no file 'rproxy-none.whl'"),
    (["up", "x", "--wheel", "/etc/passwd"], "isn't named as a wheel of rproxy is"),
    (["up"], "required: NAME"),
    ([], "required: ACTION"),
)


@pytest.mark.parametrize(
    ("arguments", "said"), USAGE, ids=lambda each: " ".join(each) if isinstance(each, list) else ""
)
def test_usage(arguments: list[str], said: str, cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    """What can't be understood is said by code 2, and nothing is done."""
    try:
        code = main(["ec2", *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert said in printed.err
    assert left(cloud) == NOTHING


def test_wrong_wheel(aws: Aws, cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What would fail on instances is seen at once."""
    path = tmp_path / "rproxy-1.0-py3-none-any.whl"
    path.write_text("no archive")
    with pytest.raises(SystemExit, match="2"):
        main(["ec2", "up", "x", "--wheel", str(path)])
    assert "can't be read as a wheel" in capsys.readouterr().err
    with ZipFile(path, "w") as archive:
        archive.writestr("rproxy/__init__.py", "# somebody else's")
    with pytest.raises(SystemExit, match="2"):
        main(["ec2", "up", "x", "--wheel", str(path)])
    assert "To make one: pip wheel --no-deps ." in capsys.readouterr().err
    assert left(cloud) == NOTHING


def test_not_there(aws: Aws) -> None:
    """A stack that nobody made."""
    status = aws.run("status", "none")
    assert (status.returncode, status.stderr) == (1, f"rproxy ec2: there is no stack none in {REGION}\n")
    assert aws.json("status", "none") == {"error": f"there is no stack none in {REGION}"}


def test_no_way_there(aws: Aws, process: Process) -> None:
    """Without credentials, region or network it is said what is missing."""
    somewhere = {"AWS_REGION": REGION}
    for env, said in (
        (aws.environment(**somewhere), "no credentials: run aws configure"),
        (aws.environment(**somewhere, AWS_ACCESS_KEY_ID="x"), "no credentials: run aws configure"),
        (aws.environment(**somewhere, AWS_PROFILE="nobody"), "AWS can't be asked: The config profile (nobody)"),
        (aws.environment(**CREDENTIALS), "no region: give --region"),
        ({**aws.usual(), "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "AWS can't be asked: Could not connect"),
    ):
        ended = aws.run("status", "x", env=env)
        assert (ended.returncode, ended.stdout) == (1, ""), said
        assert ended.stderr.startswith(f"rproxy ec2: {said}"), ended.stderr


def test_somebody_else(aws: Aws) -> None:
    """What answers in the place of AWS isn't it, as at a hotel."""
    argv = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    with Process(argv, ready=r"Serving HTTP on \S+ port (\d+)") as pages:
        found = re.search(r"port (\d+)", pages.log)
        assert found is not None
        ended = aws.run("status", "x", env={**aws.usual(), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{found[1]}"})
    assert ended.returncode == 1
    assert ended.stderr == "rproxy ec2: AWS can't be asked: what answers in its place is something else\n"


def test_not_allowed(aws: Aws, cloud: Cloud) -> None:
    """Who may do nothing, or is nobody, is told so."""
    import boto3

    iam = boto3.client("iam", region_name=REGION)
    iam.create_user(UserName="guest")
    key = iam.create_access_key(UserName="guest")["AccessKey"]
    aws.post("/moto-api/reset-auth", b"0")
    try:
        guest = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        ended = aws.run("status", "x", env={**aws.usual(), **guest})
        assert ended.returncode == 1
        assert ended.stderr.startswith("rproxy ec2: not allowed to do "), ended.stderr
        nobody = aws.run("status", "x")
        assert nobody.returncode == 1
        assert nobody.stderr.startswith("rproxy ec2: AWS refuses the credentials: "), nobody.stderr
    finally:
        aws.post("/moto-api/reset-auth", b"1000000000")


def test_without_boto3(aws: Aws) -> None:
    """It is said how to get it."""
    with mock.patch.dict(sys.modules, {"boto3": None}):
        ended = aws.run("status", "x")
    assert (ended.returncode, ended.stderr) == (1, "rproxy ec2: it needs boto3: pip install boto3 PyYAML\n")


def test_imports_nothing_before_it_runs() -> None:
    """All other commands, and the help, do without boto3 and PyYAML."""
    program = "import sys, rproxy.cli as cli; cli.make_parser(); sys.exit(bool({'boto3', 'yaml'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", program], env=environment(), check=True)
