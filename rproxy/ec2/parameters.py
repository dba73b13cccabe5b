"""What a stack's parameters become: from options, from ``--parameter``, from what the stack has, from the template.

A change keeps what isn't spoken of: CloudFormation would otherwise go back to the template's defaults.
"""

from __future__ import annotations

import argparse
from argparse import ArgumentTypeError
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from ipaddress import ip_network

from attrs import frozen

from rproxy.arguments import identifiers, whole
from rproxy.ec2.errors import UsageError


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def _policies(text: str) -> str:
    return ",".join(identifiers(text))


def _count(text: str) -> str:
    return str(whole(1, 1000)(text))


def _port(text: str) -> str:
    return str(whole(1, 65_535)(text))


@frozen
class Choice:
    """An option that stands for a parameter.

    :ivar take: makes a value of its argument; None for an option that has none and means ``yes``.
    """

    option: str
    parameter: str
    take: Callable[[str], str] | None
    metavar: str
    help: str


CHOICES = (
    Choice("--proxies", "Proxies", _count, "N", "how many proxies, behind a load balancer"),
    Choice("--servers", "PoolServers", _count, "N", "how many pool servers"),
    Choice("--policies", "Policies", _policies, "POLICY,...", "the policies that they serve"),
    Choice("--port", "ProxyPort", _port, "PORT", "where the proxy listens"),
    Choice("--instance-type", "ProxyInstanceType", str, "TYPE", "what the proxy runs on, as in t3.small"),
    Choice("--pool-instance-type", "PoolInstanceType", str, "TYPE", "what pool servers run on"),
    Choice("--image", "ImageId", str, "IMAGE", "what instances start from: what the template's ImageId takes"),
    Choice("--ssh-from", "SshFrom", _network, "CIDR", "the network that ssh is open to; Session Manager needs none"),
    Choice("--key-name", "KeyName", str, "KEY", "the key pair for ssh"),
    Choice("--requirement", "ReleaseRequirement", str, "TEXT", "the rproxy of --index-url, as in rproxy==1.0"),
    Choice("--index-url", "IndexUrl", str, "URL", "where pip finds packages [default: PyPI, which has no rproxy]"),
    Choice("--record", "RecordName", str, "NAME", "the proxy's name in Route 53, with --zone"),
    Choice("--zone", "HostedZoneId", str, "ID", "the hosted zone of that name"),
    Choice("--noip-host", "NoIpHostname", str, "NAME", "the proxy's name at No-IP, with --noip-secret"),
    Choice("--noip-secret", "NoIpSecretArn", str, "ARN", "the secret that has the user and the password for it"),
    Choice("--cloudwatch", "LogsToCloudWatch", None, "", "keep the logs in CloudWatch too"),
)
#: What ``--wheel`` stands for, and what counts only without it.
WHEEL, REQUIREMENT = "ReleaseWheel", "ReleaseRequirement"


def chosen(args: argparse.Namespace) -> dict[str, str]:
    """Return the parameters that the arguments give, ``--wheel`` apart.

    Who names a release for an index is through with the wheel that the stack had, which would go before.

    :raises UsageError: one is given twice, or two releases are.
    """
    given: dict[str, str] = {}

    def add(name: str, value: str) -> None:
        if name in given:
            raise UsageError(f"{name} is given twice")
        given[name] = value

    for choice in CHOICES:
        value = getattr(args, choice.option.removeprefix("--").replace("-", "_"))
        if choice.take is None:
            value = "yes" if value else None
        if value is not None:
            add(choice.parameter, value)
    for name, value in args.parameter:
        add(name, value)
    if args.wheel is not None and WHEEL in given:
        raise UsageError(f"{WHEEL} is given twice, by --wheel and --parameter")
    if REQUIREMENT in given:
        if args.wheel is not None or given.get(WHEEL):
            raise UsageError(f"the release is a wheel or a requirement: give {WHEEL} or {REQUIREMENT}")
        given[WHEEL] = ""
    return given


def check_known(given: Collection[str], defaults: Mapping[str, str | None]) -> None:
    """See that a template has those parameters.

    :raises UsageError: it hasn't.
    """
    for name in given:
        if name not in defaults:
            near = get_close_matches(name, defaults, 1, 0.8)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(defaults)}"
            raise UsageError(f"the template has no parameter {name}: {hint}")


def for_creation(given: Mapping[str, str], defaults: Mapping[str, str | None]) -> list[dict[str, object]]:
    """Return the parameters of a new stack, in CloudFormation's form: all of them, so that each has a value to keep.

    :raises UsageError: the template has no such parameter, or one is missing.
    """
    check_known(given, defaults)
    values = {name: given.get(name, default) for name, default in defaults.items()}
    if missing := [name for name, value in values.items() if value is None]:
        raise UsageError(f"the template needs {', '.join(missing)}: see --parameter")
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]


def for_change(
    given: Mapping[str, str], defaults: Mapping[str, str | None], previous: Collection[str]
) -> list[dict[str, object]]:
    """Return the parameters of a changed stack, in CloudFormation's form.

    :param previous: the names of those that the stack has.
    :raises UsageError: the template has no such parameter, or one is missing.
    """
    check_known(given, defaults)
    kept = {name for name in previous if name in defaults and name not in given}
    new = for_creation(given, {name: default for name, default in defaults.items() if name not in kept})
    return [*new, *({"ParameterKey": name, "UsePreviousValue": True} for name in defaults if name in kept)]
