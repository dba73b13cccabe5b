"""The ``rproxy`` command.

Each subcommand is a module that offers two functions: ``add_arguments(parser)`` declares what it takes, and
``run(args)`` does it and returns the exit code.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import Protocol

from rproxy import __version__, audit, ec2, simulation
from rproxy.commands import (
    changing,
    clients,
    completing,
    explaining,
    installing,
    packetfiles,
    sending,
    servers,
    status,
    top,
)
from rproxy.policies import checking


class Command(Protocol):
    """What a subcommand's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare what it takes."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit code."""


#: The subcommands in the order of the help: their names, what they do, and their modules.
COMMANDS: tuple[tuple[str, str, Command], ...] = (
    ("send", "send packets through a reverse proxy, and check the answers", sending),
    ("packets", "write sample packets to files", packetfiles),
    ("policies", "say what a policies file allows, and what it changes", checking),
    ("simulate", "run a proxy, pool servers and clients on this machine, and check every answer", simulation),
    ("audit", "check an audit trail, and ask it who received what", audit),
    ("status", "show how a running proxy is", status),
    ("servers", "list the servers of a running proxy, and how each is", servers),
    ("clients", "list the client addresses that take up most of a running proxy", clients),
    ("explain", "say what would become of a packet at a running proxy, and why", explaining),
    ("drain", "give a server nothing new", changing.DRAIN),
    ("resume", "undo a drain", changing.RESUME),
    ("revoke", "end a server's registrations", changing.REVOKE),
    ("top", "watch the servers of a running proxy", top),
    ("install-units", "have systemd run this installation", installing),
    ("ec2", "run the proxy and its pool servers on EC2", ec2),
    ("completion", "print what makes a shell complete these commands", completing),
)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="rproxy",
        description="Tools beside the reverse proxy (twistd rproxy) and the pool server (twistd rpoolserver).",
    )
    parser.add_argument("--version", action="version", version=f"rproxy {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text, command in COMMANDS:
        subparser = subparsers.add_parser(name, help=text)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run, parser=parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand, and return the exit code: as shells have it, where it is interrupted or nobody reads on.

    :param argv: the arguments; without them, those of the process.
    :raises SystemExit: by :mod:`argparse`, with code 2 where the arguments can't be understood, with 0 after the help.
    """
    args = make_parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads has enough, as head has: no traceback, nor a complaint of Python's when it flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


if __name__ == "__main__":
    sys.exit(main())
