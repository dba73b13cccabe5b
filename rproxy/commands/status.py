"""``rproxy status``: how a running proxy is."""

from __future__ import annotations

import argparse

import msgspec

from rproxy.commands import asking, showing
from rproxy.commands.asking import Admin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.description = "Show how a running proxy is: its packets, policies and processes."
    asking.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Show it, and return the exit code."""

    def show(admin: Admin) -> int:
        figures = admin.figures()
        print(msgspec.json.encode(figures).decode() if args.json else "\n".join(showing.status(figures)))
        return 0

    return asking.asking(args, show)
