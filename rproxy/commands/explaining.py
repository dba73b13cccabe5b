"""``rproxy explain``: what would become of a packet now, and why."""

from __future__ import annotations

import argparse
import json
from argparse import ArgumentTypeError
from ipaddress import ip_address

from rproxy.admin.answers import Explained, ProcessVerdict
from rproxy.arguments import identifier
from rproxy.commands import asking
from rproxy.commands.asking import Admin
from rproxy.commands.showing import plain


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no IP address") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.description = (
        "Say what would become of a packet now, by each process of a running proxy: whether it would be refused, and"
        " which servers would take it. Nothing is sent. The exit code is 1 if, by one of them, no server would."
    )
    parser.add_argument("policy", type=identifier, metavar="POLICY", help="the policy that the packet asks for")
    parser.add_argument("--client", type=_address, metavar="ADDRESS", help="where it comes from [default: here]")
    asking.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Say it, and return the exit code: 0 if each process has a server that would take the packet."""

    def show(admin: Admin) -> int:
        answer = admin.explain(args.policy, args.client)
        explained = admin.convert(answer, Explained)
        print(json.dumps(answer) if args.json else "\n".join(_lines(explained)))
        return 0 if all(map(_takes, explained.processes)) else 1

    return asking.asking(args, show)


def _takes(process: ProcessVerdict) -> bool:
    return process.refusal is None and any(server.refusal is None for server in process.servers)


def _lines(explained: Explained) -> list[str]:
    """The lines for all processes; those that say the same are told of together."""
    told: dict[tuple[str, ...], int] = {}
    for process in explained.processes:
        lines = tuple(_process_lines(explained.policy, process))
        told[lines] = told.get(lines, 0) + 1
    if len(told) == 1:
        return list(next(iter(told)))
    number = len(explained.processes)
    return [line for lines, count in told.items() for line in (f"By {count} of {number} processes:", *lines)]


def _process_lines(policy: str, process: ProcessVerdict) -> list[str]:
    if process.refusal is not None:
        begin = f"A packet of policy {policy} wouldn't go to a server now: {process.refusal}"
    elif _takes(process):
        begin = f"A packet of policy {policy} would go to a server now"
    else:
        begin = f"A packet of policy {policy} would wait: no server takes it now"
    servers = [
        f"  {server.server_id} at {server.host}:{server.port}: {server.refusal or 'takes it when its turn comes'}"
        for server in process.servers
    ]
    return [plain(line) for line in (begin, *servers)]
