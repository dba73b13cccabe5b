"""``rproxy clients``: the addresses whose clients take up most of a running proxy."""

from __future__ import annotations

import argparse
import sys

import msgspec

from rproxy.commands import asking, showing
from rproxy.commands.asking import Admin
from rproxy.figures import MOST_CLIENTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.description = (
        f"List the client addresses, {MOST_CLIENTS} at most, that take up most of a running proxy: those with the most"
        " UNANSWERED bytes first, then those with the most CONNECTIONS. An address is one of IPv4 or a /64 of IPv6."
        " HELD BACK is how many of its connections wait because it sends more than it may (--rate-limit,"
        " --max-bytes-per-address); REFUSED is how many were refused and aren't closed yet; LEASES is how many hold"
        " registrations of servers."
    )
    asking.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """List them, and return the exit code."""

    def show(admin: Admin) -> int:
        figures = admin.figures()
        clients = figures.clients
        if args.json:
            print(msgspec.json.encode(clients).decode())
        elif clients:
            print("\n".join(showing.columns(showing.CLIENT_COLUMNS, map(showing.client_row, clients))))
            print(f"{len(clients)} of {figures.client_addresses} addresses")
        else:
            print("No client is connected")
        for line in [] if args.json else showing.missing(figures):
            print(line, file=sys.stderr)
        return 0 if clients else 1

    return asking.asking(args, show)
