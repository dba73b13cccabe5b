"""``rproxy servers``: the servers that are registered at a running proxy, and how each is."""

from __future__ import annotations

import argparse
import sys

import msgspec

from rproxy.arguments import identifier
from rproxy.commands import asking, showing
from rproxy.commands.asking import Admin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.description = (
        "List the servers that are registered at a running proxy. STATE is up, down, draining or held; SHARE is how"
        " much of its turns a server gets; P50 and P99 are the times in which half and 99 % of its packets were"
        " answered, from their coming to the proxy on; WHY NOT says why it would be given no packet now."
    )
    asking.add_arguments(parser)
    parser.add_argument("--policy", type=identifier, metavar="POLICY", help="only those of this policy")


def run(args: argparse.Namespace) -> int:
    """List them, and return the exit code."""

    def show(admin: Admin) -> int:
        figures = admin.figures()
        servers = [
            server for policy in figures.policies if args.policy in {None, policy.name} for server in policy.servers
        ]
        if args.json:
            print(msgspec.json.encode(servers).decode())
        elif servers:
            print("\n".join(showing.columns(showing.SERVER_COLUMNS, map(showing.server_row, servers))))
        else:
            print("No server is registered" + ("" if args.policy is None else f" for policy {args.policy}"))
        for line in [] if args.json else showing.missing(figures):
            print(line, file=sys.stderr)
        return 0 if servers else 1

    return asking.asking(args, show)
