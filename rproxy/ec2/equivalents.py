"""The aws commands that do what ``rproxy ec2 up`` would do."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from rproxy.ec2.stacks import CAPABILITIES, OWNER_TAG, TEMPLATE_TAG
from rproxy.ec2.templates import Template


def bucket_commands(bucket: str, stack: str, region: str) -> Iterator[list[str]]:
    """Yield those that make a stack's bucket."""
    where = ["--bucket", bucket, "--region", region]
    named = [] if region == "us-east-1" else ["--create-bucket-configuration", f"LocationConstraint={region}"]
    yield ["aws", "s3api", "create-bucket", *where, *named]
    tags = {"TagSet": [{"Key": OWNER_TAG, "Value": stack}]}
    yield ["aws", "s3api", "put-bucket-tagging", *where, "--tagging", json.dumps(tags)]
    closed = "BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true"
    yield ["aws", "s3api", "put-public-access-block", *where, "--public-access-block-configuration", closed]
    rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    encryption = ["--server-side-encryption-configuration", json.dumps(rules)]
    yield ["aws", "s3api", "put-bucket-encryption", *where, *encryption]
    yield ["aws", "s3api", "put-bucket-versioning", *where, "--versioning-configuration", "Status=Enabled"]


def upload_command(path: Path, address: str, region: str) -> list[str]:
    """Return the one that puts a file there."""
    return ["aws", "s3", "cp", str(path), address, "--region", region]


def deploy_command(
    name: str, template: Template, given: Mapping[str, str], region: str, bucket: str | None
) -> list[str]:
    """Return the one that makes or changes a stack; like ``up`` it keeps the parameters that aren't given.

    :param bucket: where a large template goes, None for one that isn't.
    """
    words = ["aws", "cloudformation", "deploy", "--region", region, "--stack-name", name]
    words += ["--template-file", template.path, "--capabilities", *CAPABILITIES]
    words += [] if bucket is None else ["--s3-bucket", bucket]
    words += ["--tags", f"{OWNER_TAG}={name}", f"{TEMPLATE_TAG}={template.name}"]
    overrides = [f"{key}={value}" for key, value in given.items()]
    return [*words, "--parameter-overrides", *overrides] if overrides else words


def as_line(words: list[str]) -> str:
    """Return a command as a line for a shell."""
    return shlex.join(words)
