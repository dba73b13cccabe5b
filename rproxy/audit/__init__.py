"""The audit trail: what became of packets and registrations, in lines that none changes unseen (docs/howto/audit.rst).

``keys`` has the key, ``lines`` what stands in a line and how lines are chained, ``appending`` the file that a proxy
writes to, ``reading`` all files of a trail. ``verifying`` follows the chain, ``proving`` holds packets against
registrations, ``answering`` collects who got what, and ``commands`` are those of ``rproxy audit``. The proxy's side is
in :mod:`rproxy.audit.trail`, :mod:`rproxy.audit.backlog` and :mod:`rproxy.audit.recording`.

Only the options are here: whatever else the command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
import re
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Any

from rproxy.arguments import identifier


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``rproxy audit`` takes."""
    parser.description = (
        "Check the audit trail that twistd rproxy --audit wrote, and ask it who received what. Give all its files, in"
        " any order, as they are or compressed by gzip. Exit codes: 0 the trail is good; 1 it isn't, or can't be read;"
        " 2 the arguments can't be understood."
    )
    commands = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    checking = _add(commands, "verify", "check that nothing was changed, and that no packet left its policy")
    checking.add_argument(
        "--expect",
        type=_hash,
        metavar="HASH",
        help="fail unless a line has this hash, such as an earlier run printed for the last line: it shows that no"
        " lines were taken away at the end",
    )
    asking = _add(commands, "who", "list the servers that received something from a client")
    asking.add_argument("--client", type=identifier, required=True, metavar="ID", help="the client's id")
    listing = _add(commands, "servers", "list the servers that received packets of a policy")
    listing.add_argument("--policy", type=identifier, required=True, metavar="POLICY", help="the policy")


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text.capitalize()}.")
    parser.add_argument(
        "--audit-key", type=_key, required=True, metavar="FILE", help="the key that the proxy was given"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a file of the trail")
    return parser


def _key(text: str) -> Any:
    from rproxy.audit.commands import key_file

    return key_file(text)


def _hash(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ArgumentTypeError(f"{text!r} doesn't have the 64 hexadecimal digits of a line's hash")
    return text


def run(args: argparse.Namespace) -> int:
    """Answer, and return the exit code."""
    from rproxy.audit import commands

    code: int = {"verify": commands.verify, "who": commands.who, "servers": commands.servers}[args.question](args)
    return code
