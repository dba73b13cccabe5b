"""Shows a simulation's result, to people and to programs, and its progress to people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from rproxy.simulation.plan import in_words
from rproxy.simulation.verdict import Latency, Outcome, Result, Share

#: With more packets than that, only those that went wrong are listed, and no more of them than that.
LISTED = 100

_NOTHING = "-"

Told = Callable[[int], object]


@contextmanager
def progress(console: Console, total: int) -> Iterator[Told]:
    """Show how far it is while the context lasts, and nothing afterwards; nothing at all if it is no terminal.

    :returns: to be called with the number of packets that are through, first with 0 when sending begins.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Starting a proxy and its servers", total=total)
        yield lambda done: bar.update(task, description="Sending packets", completed=done)


def show(result: Result, console: Console) -> None:
    """Print the tables and the verdict."""
    _say(console, f"{result.source}, {in_words(len(result.servers), 'server')}")
    if result.outcomes:
        _show_outcomes(result, console)
    _say(console, result.verdict, "bold green" if result.ok else "bold red")


def as_json(result: Result) -> dict[str, Any]:
    """Return the result as JSON's types: times in milliseconds, shares from 0 to 1."""
    return {
        "ok": result.ok,
        "verdict": result.verdict,
        "source": result.source,
        "planned": result.planned,
        "right": len(result.outcomes) - result.wrong,
        "wrong": result.wrong,
        "given_up": result.unfinished,
        "differences": result.differences,
        "latency_ms": None if result.latency is None else _latency_as_json(result.latency),
        "servers": [_share_as_json(share) for share in result.shares],
        "packets": [
            _outcome_as_json(outcome, problem)
            for outcome, problem in zip(result.outcomes, result.problems, strict=True)
        ],
    }


def plain(text: str) -> str:
    """Return the text with everything replaced that could speak to a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _say(console: Console, text: str, style: str = "") -> None:
    """Print a line; where it is too long, the terminal breaks it."""
    console.print(Text(plain(text), style), soft_wrap=True)


def _show_outcomes(result: Result, console: Console) -> None:
    rows = list(zip(result.outcomes, result.problems, strict=True))
    if len(rows) > LISTED:
        rows = [row for row in rows if row[1]][:LISTED]
    if rows:
        console.print(_packet_table(rows))
    if len(rows) < len(result.outcomes):
        _say(console, f"{in_words(len(result.outcomes) - len(rows), 'packet')} more, not listed here")
    console.print(_server_table(result))
    if result.latency is not None:
        _say(console, _latency_line(result.latency))
    if not result.judge_turns:
        _say(
            console,
            "Packets were in flight at the same time, so whether servers took turns is not judged; the counts of a"
            f" policy's servers differ by at most {max(result.differences.values())}.",
        )


def _packet_table(rows: Sequence[tuple[Outcome, str]]) -> Table:
    """A row for each outcome, and for what is wrong with it."""
    any_wrong = any(problem for _, problem in rows)
    table = Table()
    for title in ("Packet", "Policy", "Server", "Hash"):
        table.add_column(title, overflow="fold")
    table.add_column("Time (ms)", justify="right")
    if any_wrong:
        table.add_column("Problem", overflow="fold")
    for outcome, problem in rows:
        cells = (*_cells(outcome), problem) if any_wrong else _cells(outcome)
        table.add_row(*(Text(plain(cell)) for cell in cells), style="red" if problem else "")
    return table


def _cells(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.packet.name,
        outcome.packet.policy,
        outcome.server_id or _NOTHING,
        {None: _NOTHING, True: "right", False: "wrong"}[outcome.hash_right],
        _NOTHING if outcome.seconds is None else f"{outcome.seconds * 1000:.2f}",
    )


def _server_table(result: Result) -> Table:
    table = Table()
    for title in ("Server", "Policy"):
        table.add_column(title, overflow="fold")
    for title in ("Packets", "Share of policy"):
        table.add_column(title, justify="right")
    for share in result.shares:
        cells = (share.server.server_id, share.server.policy, str(share.count), f"{share.of_policy:.1%}")
        table.add_row(*(Text(plain(cell)) for cell in cells))
    return table


def _latency_line(latency: Latency) -> str:
    return (
        f"From packet to answer: median {_milliseconds(latency.median):.2f} ms,"
        f" 95% within {_milliseconds(latency.p95):.2f} ms, at most {_milliseconds(latency.most):.2f} ms."
    )


def _latency_as_json(latency: Latency) -> dict[str, float]:
    return {
        "min": _milliseconds(latency.least),
        "median": _milliseconds(latency.median),
        "p95": _milliseconds(latency.p95),
        "max": _milliseconds(latency.most),
    }


def _share_as_json(share: Share) -> dict[str, Any]:
    return {
        "id": share.server.server_id,
        "policy": share.server.policy,
        "answered": share.count,
        "share_of_policy": share.of_policy,
    }


def _outcome_as_json(outcome: Outcome, problem: str) -> dict[str, Any]:
    return {
        "name": outcome.packet.name,
        "client": outcome.packet.client_id,
        "policy": outcome.packet.policy,
        "server": outcome.server_id,
        "hash_right": outcome.hash_right,
        "ms": None if outcome.seconds is None else _milliseconds(outcome.seconds),
        "problem": problem or None,
    }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
