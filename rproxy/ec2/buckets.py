"""The bucket that goes with a stack: for the wheel that its instances install, and for a large template.

Its name follows from the account, the region and the stack, so that it is found again without a list of all buckets.
Such a name could be anybody's: each call says whose bucket it means, and a tag says what it is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from rproxy.ec2.clouds import Cloud, error_code
from rproxy.ec2.errors import FailedError
from rproxy.ec2.stacks import OWNER_TAG

#: The one region that doesn't want to be named when a bucket is made in it.
_UNNAMED_REGION = "us-east-1"
#: How many objects are deleted by one call, at most.
_MANY = 1000


def bucket_name(account: str, region: str, stack: str) -> str:
    """Return the name of a stack's bucket: readable, and within the 63 characters that there may be."""
    digest = sha256(f"{account} {region} {stack}".encode()).hexdigest()
    return f"rproxy-{stack[:20].lower().rstrip('-')}-{digest[:16]}"


def wheel_key(path: Path) -> str:
    """Return where a wheel is put: under its hash, and under the name that pip takes it by."""
    return f"wheels/{_digest(path.read_bytes())}/{path.name}"


def template_key(body: str) -> str:
    """Return where a template is put."""
    return f"templates/{_digest(body.encode())}.yaml"


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:16]


class Bucket:
    """The bucket of a stack, whether it exists or not. What AWS refuses isn't caught here."""

    def __init__(self, cloud: Cloud, stack: str) -> None:
        self._client = cloud.s3
        self._region = cloud.region
        self._stack = stack
        self.name = bucket_name(cloud.account, cloud.region, stack)
        self._named: dict[str, Any] = {"Bucket": self.name, "ExpectedBucketOwner": cloud.account}

    def exists(self) -> bool:
        """Whether there is one, and ours.

        :raises FailedError: there is one, and it isn't.
        """
        missing = {"404", "NoSuchBucket"}
        try:
            self._client.head_bucket(**self._named)
        except self._client.exceptions.ClientError as error:
            if error_code(error) in missing:
                return False
            raise
        if self._tags().get(OWNER_TAG) != self._stack:
            raise FailedError(
                f"the bucket {self.name} wasn't made by rproxy ec2: it has no tag {OWNER_TAG}={self._stack}."
                f" If nobody needs it: aws s3 rb s3://{self.name}"
            )
        return True

    def _tags(self) -> dict[str, str]:
        try:
            tags = self._client.get_bucket_tagging(**self._named)["TagSet"]
        except self._client.exceptions.ClientError as error:
            if error_code(error) == "NoSuchTagSet":
                return {}
            raise
        return {tag["Key"]: tag["Value"] for tag in tags}

    def make(self) -> bool:
        """Make it if it isn't there, and return whether it wasn't; either way it is private afterwards.

        :raises FailedError: there is one that isn't ours.
        """
        absent = not self.exists()
        if absent:
            self._create()
        closed = dict.fromkeys(
            ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True
        )
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
        self._client.put_public_access_block(**self._named, PublicAccessBlockConfiguration=closed)
        self._client.put_bucket_encryption(**self._named, ServerSideEncryptionConfiguration={"Rules": [rule]})
        self._client.put_bucket_versioning(**self._named, VersioningConfiguration={"Status": "Enabled"})
        return absent

    def _create(self) -> None:
        refused = self._client.exceptions.ClientError
        where = (
            {}
            if self._region == _UNNAMED_REGION
            else {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        )
        tags = {"TagSet": [{"Key": OWNER_TAG, "Value": self._stack}]}
        with ExitStack() as undoing:
            # Without a tag nobody would know whose it is, and it would be in the way for ever.
            undoing.callback(self._discard)
            try:
                self._client.create_bucket(Bucket=self.name, **where)
            except refused:
                # If there is one, somebody else has just made it.
                undoing.pop_all()
                raise
            self._client.put_bucket_tagging(**self._named, Tagging=tags)
            undoing.pop_all()

    def _discard(self) -> None:
        """Delete what may have been made; why that can't be done is less than why it is done."""
        with suppress(self._client.exceptions.ClientError):
            self._client.delete_bucket(**self._named)

    def put(self, key: str, data: bytes) -> bool:
        """Put something there, and return whether it wasn't there already: what a key stands for never changes."""
        try:
            self._client.head_object(**self._named, Key=key)
        except self._client.exceptions.ClientError as error:
            if error_code(error) not in {"404", "NoSuchKey"}:
                raise
            self._client.put_object(**self._named, Key=key, Body=data)
            return True
        return False

    def url(self, key: str) -> str:
        """Return the address by which CloudFormation reads something of it."""
        suffix = "amazonaws.com.cn" if self._region.startswith("cn-") else "amazonaws.com"
        return f"https://{self.name}.s3.{self._region}.{suffix}/{key}"

    def remove(self) -> None:
        """Delete it, with every version of everything in it."""
        versions = list(self._versions())
        for first in range(0, len(versions), _MANY):
            batch = {"Objects": versions[first : first + _MANY], "Quiet": True}
            failed = self._client.delete_objects(**self._named, Delete=batch).get("Errors", [])
            if failed:
                raise FailedError(f"{failed[0].get('Key')} in the bucket {self.name} stays: {failed[0].get('Message')}")
        self._client.delete_bucket(**self._named)

    def _versions(self) -> Iterator[dict[str, str]]:
        for page in self._client.get_paginator("list_object_versions").paginate(**self._named):
            for each in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
                yield {"Key": each["Key"], "VersionId": each["VersionId"]}
