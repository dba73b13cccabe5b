"""Draws a simulation's result with matplotlib, which is imported only here and only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from math import isqrt
from pathlib import Path
from typing import Any

from rproxy.simulation.verdict import Result

#: Inches; further servers make it wider, up to a page that still can be looked at.
_HEIGHT = 4.5
_PANEL_WIDTH = 5.5
_SERVER_WIDTH = 0.45
_MOST_WIDTH = 30.0
_LEAST_BINS, _MOST_BINS = 10, 60


def check(path: Path) -> None:
    """Make sure that it can be drawn, before there is anything to draw.

    :raises ValueError: there is no matplotlib, no such folder, or no format of that name; the text says which.
    """
    try:
        backend = import_module("matplotlib.backend_bases")
    except ImportError:
        raise ValueError("--plot needs matplotlib, which is not installed: pip install matplotlib") from None
    formats = backend.FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().removeprefix(".") not in formats:
        raise ValueError(
            f"--plot {path}: the ending says the format, and has to be one of {', '.join(sorted(formats))}"
        )
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"--plot {path}: a file can't be written there")


def draw(result: Result, path: Path) -> None:
    """Write the picture of a result: each server's share of its policy, and how long the answers took.

    :raises OSError: it can't be written.
    """
    servers_width = min(_MOST_WIDTH, max(_PANEL_WIDTH, _SERVER_WIDTH * len(result.servers)))
    # A Figure of its own needs neither a display nor pyplot's global state.
    figure = import_module("matplotlib.figure").Figure(
        figsize=(servers_width + _PANEL_WIDTH, _HEIGHT), dpi=120, layout="constrained"
    )
    shares, latencies = figure.subplots(1, 2, width_ratios=(servers_width, _PANEL_WIDTH))
    _draw_shares(result, shares)
    _draw_latencies(result, latencies)
    figure.savefig(path)


def _draw_shares(result: Result, axes: Any) -> None:
    """A group of bars for each policy, each in a colour of its own."""
    policies = dict.fromkeys(server.policy for server in result.servers)
    names: list[str] = []
    for policy in policies:
        shares = [share for share in result.shares if share.server.policy == policy]
        places = range(len(names), len(names) + len(shares))
        bars = axes.bar(places, [100 * share.of_policy for share in shares], label=_literal(f"policy {policy}"))
        axes.bar_label(bars, [str(share.count) for share in shares], padding=2)
        names += [share.server.server_id for share in shares]
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 10 else 0)
    axes.set_ylim(0, 115)
    axes.set_yticks(range(0, 101, 20))
    axes.set_title("Packets answered by each server")
    axes.set_xlabel("server id")
    axes.set_ylabel("share of its policy's packets (%), number on top")
    axes.legend(loc="upper center", ncols=4)


def _draw_latencies(result: Result, axes: Any) -> None:
    axes.set_title("Time from packet to answer")
    axes.set_xlabel("time (ms)")
    axes.set_ylabel("packets")
    latency = result.latency
    if latency is None:
        axes.text(0.5, 0.5, "no packet was answered", ha="center", va="center", transform=axes.transAxes)
        return
    # A rule that looks at the values makes thousands of bins where one answer took much longer than the others.
    bins = max(_LEAST_BINS, min(_MOST_BINS, isqrt(len(result.seconds))))
    axes.hist([1000 * seconds for seconds in result.seconds], bins=bins, color="0.7", edgecolor="white")
    for value, name, colour in ((latency.median, "median", "C2"), (latency.p95, "95th percentile", "C3")):
        axes.axvline(1000 * value, color=colour, linestyle="--", label=f"{name}: {1000 * value:.2f} ms")
    axes.set_xlim(left=0)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def _literal(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")
