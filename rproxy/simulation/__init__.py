"""``rproxy simulate``: a proxy, pool servers and clients on this machine, and whether they did what they promise.

Each step is a room of its own, and the next one knows only its outcome: ``plan`` says what is to be started and sent,
``processes`` starts it (through ``child``) and stops it again, ``traffic`` sends, ``verdict`` judges, ``report`` and
``plot`` show. ``running`` puts them together. All but ``processes`` and ``child`` do without a process, for their
tests' sake.

Only the options are here: whatever else the command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rproxy.arguments import identifiers, seconds, whole

#: How long everything may take, in seconds, unless told otherwise.
DEFAULT_TIMEOUT = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``rproxy simulate``."""
    parser.description = (
        "Start a proxy and pool servers as processes of their own, on free ports of this machine, send packets through"
        " them, and check each answer: its hash, that it comes from a server of the packet's policy, and that the"
        " servers of a policy take turns. All is stopped and removed at the end. The exit code is 0 if every packet was"
        " answered rightly, 1 if not, 2 if there was nothing to start."
    )
    parser.add_argument(
        "--servers",
        type=whole(1, 1000),
        default=4,
        metavar="N",
        help="pool servers, with the ids 100, 200, ... (default: 4)",
    )
    parser.add_argument(
        "--policies",
        type=identifiers,
        default="111,222",
        metavar="POLICY,...",
        help="policies, dealt out to the servers in turn (default: 111,222)",
    )
    parser.add_argument(
        "--packets",
        type=Path,
        metavar="DIR",
        help="send the packets in this folder's *.json, in the order of their numbers (default: pktfiles, if it is"
        " there and all its policies are served, else generated ones, as rproxy packets writes them)",
    )
    parser.add_argument(
        "--count",
        type=whole(1, 1_000_000),
        metavar="N",
        help="packets to send; files are sent repeatedly if there are fewer (default: each file once, or 15)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="generate other packets (default: %(default)s)"
    )
    parser.add_argument(
        "--clients",
        type=whole(1, 1_000_000),
        metavar="N",
        help="client connections, dealt the packets in turn; each is made for its first packet and closed after its"
        " last (default: one for each packet)",
    )
    parser.add_argument(
        "--concurrency",
        type=whole(1, 1_000_000),
        default=1,
        metavar="N",
        help="packets in flight at a time, over all connections together; with more than 1 the servers' turns are"
        " reported and not judged (default: 1, one after the other)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="give up after so long (default: %(default)g)",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the servers' shares and the latencies; the ending says the format, as in shares.png"
        " (needs pip install matplotlib)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Simulate, report, and return the exit code."""
    from rproxy.simulation.running import run as run_simulation

    return run_simulation(args)
