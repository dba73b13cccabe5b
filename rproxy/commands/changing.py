"""``rproxy drain``, ``rproxy resume`` and ``rproxy revoke``: what is done to the servers of a running proxy."""

from __future__ import annotations

import argparse
import json

from attrs import frozen

from rproxy.arguments import identifier
from rproxy.commands import asking
from rproxy.commands.asking import Admin


@frozen
class Change:
    """One of these commands.

    :ivar what: its name.
    :ivar description: what it does.
    :ivar done: the same as a sentence that has been true of so many registrations of a server.
    """

    what: str
    description: str
    done: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare what it takes."""
        parser.description = f"{self.description} It needs the proxy's token: --token-file."
        parser.add_argument("server", type=identifier, metavar="ID", help="the server's id")
        asking.add_arguments(parser)
        parser.add_argument("--policy", type=identifier, metavar="POLICY", help="for this one only [default: all]")

    def run(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit code."""

        def change(admin: Admin) -> int:
            number = admin.change(self.what, args.server, args.policy)
            if args.json:
                print(json.dumps({"registrations": number}))
            else:
                print(f"{self.done} {number} registration{'' if number == 1 else 's'} of server {args.server}")
            return 0

        return asking.asking(args, change)


DRAIN = Change(
    "drain",
    "Give a server no new packets, however often it registers, until it is resumed or the proxy ends. What it has is"
    " answered: once rproxy servers shows nothing in flight, it can be stopped.",
    "Draining",
)
RESUME = Change("resume", "Give a server packets again that was drained.", "Resumed")
REVOKE = Change(
    "revoke",
    "End a server's registrations. It may register again, which a server does by itself soon: to keep it away, drain"
    " it, or don't allow it in the policies file.",
    "Revoked",
)
