"""The way to AWS: boto3's clients, and what goes wrong there as a sentence.

This is the only module that imports boto3, and it does so when a command runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from rproxy.ec2.errors import FailedError

#: Seconds to connect within, and how often a call is tried that fails by no fault of ours.
_CONNECT_SECONDS = 10
_ATTEMPTS = 4

#: How AWS says that something isn't allowed, and that credentials are no good.
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"})
_BAD_CREDENTIALS = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch", "AuthFailure"}
)
_CREDENTIALS_HINT = "run aws configure, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


@frozen
class Cloud:
    """An account in a region.

    :ivar region: as in ``eu-central-1``.
    :ivar account: its number.
    """

    region: str
    account: str
    cloudformation: Any
    s3: Any
    autoscaling: Any
    ec2: Any


def connect(region: str | None) -> Cloud:
    """Return the account that the credentials are of.

    :param region: None for the one that is configured.
    :raises FailedError: boto3, the credentials or the region aren't there, or are no good.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise FailedError("it needs boto3: pip install boto3 PyYAML") from None
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        user_agent_extra="rproxy-ec2",
    )
    with refusals():
        # The aws command knows the shorter name too, and prefers it; boto3 doesn't know it.
        session = boto3.Session(region_name=region or os.environ.get("AWS_REGION") or None)
        if session.region_name is None:
            raise FailedError("no region: give --region, or set AWS_REGION, or run aws configure")
        services = ("cloudformation", "s3", "autoscaling", "ec2")
        clients = {
            name: session.client(name, region_name=session.region_name, config=config) for name in (*services, "sts")
        }
        account = clients.pop("sts").get_caller_identity()["Account"]
        return Cloud(session.region_name, account, **clients)


def error_code(error: Exception) -> str:
    """Return how AWS calls what is wrong, ``""`` if it wasn't AWS who said so."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def error_text(error: Exception) -> str:
    """Return what AWS says is wrong."""
    return str(getattr(error, "response", {}).get("Error", {}).get("Message", "") or error)


@contextmanager
def refusals() -> Iterator[None]:
    """Have what boto3 raises raised as a sentence.

    :raises FailedError: something went wrong within.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        InvalidRegionError,
        NoCredentialsError,
        NoRegionError,
        PartialCredentialsError,
    )
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise FailedError(f"no credentials: {_CREDENTIALS_HINT} ({error})") from None
    except (NoRegionError, InvalidRegionError) as error:
        raise FailedError(f"no region: give --region ({error})") from None
    except ClientError as error:
        raise FailedError(_sentence(error)) from None
    except BotoCoreError as error:
        raise FailedError(f"AWS can't be asked: {error}") from None
    except ResponseParserError:
        # It has the whole page of whoever that was in its text.
        raise FailedError("AWS can't be asked: what answers in its place is something else") from None


def _sentence(error: Any) -> str:
    code, text = error_code(error), error_text(error)
    if code in _DENIED:
        return f"not allowed to do {error.operation_name}: {text}"
    if code in _BAD_CREDENTIALS:
        return f"AWS refuses the credentials: {_CREDENTIALS_HINT} ({text})"
    return f"AWS refuses {error.operation_name}: {text}"
