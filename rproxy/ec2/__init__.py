"""``rproxy ec2``: the CloudFormation templates of ``etc/ec2``, brought up, looked at and taken down.

Whatever is done can be done with the aws command as well (docs/howto/deploy.rst), and ``up --dry-run`` prints how.

``templates``, ``parameters``, ``events``, ``showing`` and ``equivalents`` only decide and know nothing of AWS.
``clouds`` is the way there: it alone imports boto3, and says in a sentence what goes wrong. ``stacks``, ``buckets`` and
``groups`` ask and tell AWS about one kind of thing each, and give plain values back. ``watching`` follows a stack until
it has settled. ``raising`` and ``removing`` are two of the commands; ``running`` has the third, and calls them.
``terminal`` prints what they say, and ``errors`` are what ends them.

Only the options are here: whatever else the commands need is imported when they run.
"""

from __future__ import annotations

import argparse
import re
from argparse import ArgumentTypeError
from pathlib import Path

from rproxy.ec2.parameters import CHOICES
from rproxy.ec2.templates import NAMES

EPILOG = (
    "Needs pip install boto3 PyYAML. Credentials and the region are found as the aws command finds them. Exit codes:"
    " 0 done; 1 failed; 2 the arguments can't be understood; 130 interrupted, and the stack goes on."
)
#: What CloudFormation takes for a name.
_NAME = re.compile(r"[A-Za-z][-A-Za-z0-9]{0,127}")
#: What a wheel of ours has; PyPI has another project by the name of rproxy.
_PLUGIN = "twisted/plugins/rproxy_plugins.py"


def stack_name(text: str) -> str:
    """Take the name of a stack.

    :raises ArgumentTypeError: it can't be one.
    """
    if not _NAME.fullmatch(text):
        raise ArgumentTypeError(f"{text!r} isn't a letter and up to 127 letters, digits and hyphens")
    return text


def assignment(text: str) -> tuple[str, str]:
    """Take a parameter and its value.

    :raises ArgumentTypeError: these are none.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ArgumentTypeError(f"{text!r} isn't of the form NAME=VALUE")
    return name, value


def wheel(text: str) -> Path:
    """Take the file of a wheel of rproxy. Instances would find out only when much of the stack is made.

    :raises ArgumentTypeError: it is none.
    """
    path = Path(text)
    if not (path.name.startswith("rproxy-") and path.suffix == ".whl"):
        raise ArgumentTypeError(f"{text!r} isn't named as a wheel of rproxy is: rproxy-….whl")
    if not path.is_file():
        raise ArgumentTypeError(f"there is no file {text!r}")
    from zipfile import BadZipFile, ZipFile

    try:
        with ZipFile(path) as archive:
            is_ours = _PLUGIN in archive.namelist()
    except (OSError, BadZipFile) as error:
        raise ArgumentTypeError(f"{text!r} can't be read as a wheel: {error}") from None
    if not is_ours:
        raise ArgumentTypeError(
            f"{text!r} is of another project: it has no {_PLUGIN}. To make one: pip wheel --no-deps ."
        )
    return path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``rproxy ec2`` takes."""
    parser.description = "Run the proxy and its pool servers on EC2, by a stack of CloudFormation."
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    up = actions.add_parser("up", help="make a stack, or change it")
    up.description = (
        "Make a stack, or change it: what isn't said stays as it is. What happens is printed until the stack has"
        " settled; then come its outputs."
    )
    _shared(up)
    _add_up(up)
    status = actions.add_parser("status", help="show a stack, and its instances")
    status.description = "Show a stack: its state, its outputs, its instances, and what failed last."
    _shared(status)
    down = actions.add_parser("down", help="delete a stack, and the bucket that up made")
    down.description = (
        "Delete a stack, and the bucket that up made for it, after saying what goes. Nothing is left; what up didn't"
        " make isn't touched. It may be called again, also when there is nothing left."
    )
    _shared(down)
    down.add_argument("--yes", action="store_true", help="don't ask")
    down.add_argument("--no-wait", action="store_true", help="don't wait until the stack is gone")


def _shared(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("name", type=stack_name, metavar="NAME", help="the stack's name")
    parser.add_argument("--region", metavar="REGION", help="the region [default: that of the aws command]")
    parser.add_argument("--json", action="store_true", help="print one object; what happens goes to standard error")


def _add_up(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--template",
        choices=NAMES,
        help=f"one proxy, or several behind a load balancer [default: what the stack has, or {NAMES[0]}]",
    )
    parser.add_argument(
        "--wheel",
        type=wheel,
        metavar="FILE",
        help="the rproxy to install: it is put into a private bucket, which is made for this stack and goes with it",
    )
    for choice in CHOICES:
        if choice.take is None:
            parser.add_argument(choice.option, action="store_true", help=choice.help)
        else:
            parser.add_argument(choice.option, type=choice.take, metavar=choice.metavar, help=choice.help)
    parser.add_argument(
        "--parameter",
        type=assignment,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any parameter of the template (repeatable)",
    )
    parser.add_argument("--no-wait", action="store_true", help="don't wait until the stack has settled")
    parser.add_argument(
        "--dry-run", action="store_true", help="change nothing; print the aws commands that do the same"
    )


def run(args: argparse.Namespace) -> int:
    """Do what is asked for, and return the exit code."""
    from rproxy.ec2.running import run_action

    return run_action(args)
