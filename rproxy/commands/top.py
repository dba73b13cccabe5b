"""``rproxy top``: the servers of a running proxy in a table that stays up to date."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import msgspec

from rproxy.arguments import seconds, whole
from rproxy.commands import asking, showing
from rproxy.commands.asking import Admin
from rproxy.figures import Figures, ServerFigures

_COLUMNS = ("POLICY", "SERVER", "STATE", "ACKS/S", "IN FLIGHT", "LOST", "P50", "P99", "WHY NOT")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.description = (
        "Show the servers of a running proxy in a table that stays up to date, until Ctrl-C. P50 and P99 are as in"
        " rproxy servers. Where the output is no terminal, a further table comes each time."
    )
    asking.add_arguments(parser)
    parser.add_argument(
        "--interval", type=seconds, default=1.0, metavar="SECONDS", help="between two looks [default: 1]"
    )
    parser.add_argument("--looks", type=whole(1, 1_000_000), metavar="N", help="end after so many [default: never]")


def run(args: argparse.Namespace) -> int:
    """Show it, and return the exit code."""
    show = _show_json if args.json else _show_table
    return asking.asking(args, lambda admin: show(admin, args, time.sleep))


def _looks(
    admin: Admin, args: argparse.Namespace, sleep: Callable[[float], object]
) -> Iterator[tuple[Figures | None, Figures]]:
    """The figures of each look, with those of the look before."""
    before = None
    for number in count(1):
        figures = admin.figures()
        yield before, figures
        if number == args.looks:
            return
        before = figures
        sleep(args.interval)


def _show_json(admin: Admin, args: argparse.Namespace, sleep: Callable[[float], object]) -> int:
    try:
        for _, figures in _looks(admin, args, sleep):
            print(msgspec.json.encode(figures).decode(), flush=True)
    except KeyboardInterrupt:
        """It is how this ends."""
    return 0


def _show_table(admin: Admin, args: argparse.Namespace, sleep: Callable[[float], object]) -> int:
    from rich.console import Console
    from rich.live import Live

    console = Console(file=sys.stdout)
    try:
        if not console.is_terminal:
            # Where nothing can be overwritten they come one after the other.
            for before, figures in _looks(admin, args, sleep):
                with console.capture() as table:
                    console.print(make_table(before, figures))
                print(table.get(), flush=True)
            return 0
        with Live(console=console, screen=args.looks is None, auto_refresh=False) as live:
            for before, figures in _looks(admin, args, sleep):
                live.update(make_table(before, figures), refresh=True)
    except KeyboardInterrupt:
        """It is how this ends."""
    return 0


def make_table(before: Figures | None, figures: Figures) -> Any:
    """Return the table.

    :param before: of the look before; without them there are no rates.
    """
    from rich.table import Table
    from rich.text import Text

    lines = [f"rproxy {figures.version} is {figures.state}", showing.summary(figures), *showing.missing(figures)]
    table = Table(title=Text("\n".join(map(showing.plain, lines))), box=None, title_justify="left", expand=True)
    for name in _COLUMNS:
        table.add_column(name, overflow="fold", ratio=2 if name == "WHY NOT" else None)
    for row in _rows(before, figures):
        # As text, because rich would take brackets in a name for its own.
        table.add_row(*(Text(showing.plain(cell)) for cell in row))
    return table


def _rows(before: Figures | None, figures: Figures) -> list[tuple[str, ...]]:
    acked = {} if before is None else {key: server.acked for key, server in _servers(before).items()}
    passed = 0.0 if before is None else _uptime(figures) - _uptime(before)
    return [
        (
            server.policy,
            server.id,
            showing.states(server),
            f"{max(0, server.acked - acked[key]) / passed:.0f}" if passed > 0 and key in acked else "-",
            str(server.in_flight),
            str(server.lost),
            showing.milliseconds(server.total_times, 0.5),
            showing.milliseconds(server.total_times, 0.99),
            "; ".join(server.reasons),
        )
        for key, server in _servers(figures).items()
    ]


def _servers(figures: Figures) -> dict[tuple[str, str], ServerFigures]:
    return {(server.policy, server.id): server for policy in figures.policies for server in policy.servers}


def _uptime(figures: Figures) -> float:
    return max((process.uptime for process in figures.processes), default=0.0)
