"""Results as drawings: SVG, by matplotlib, which is only looked for when something is to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench.stage import HAPROXY_HTTP, HAPROXY_TCP, NATS, RPROXY
from bench.tables import Row, count, ratio, size

#: A colour for each, the same in every drawing; they can be told apart without red and green.
COLOURS = {RPROXY: "#1f5fa8", HAPROXY_TCP: "#e08a00", HAPROXY_HTTP: "#b5541c", NATS: "#7a7a7a"}
INK, GRID = "#333333", "#dddddd"

_STYLE = {
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "figure.facecolor": "white",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "rproxy",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}

_CURVES = {
    "clients": ("client connections, of which 50 at most send", count),
    "policies": ("policies, over four servers", count),
    "servers": ("servers, over two policies", count),
    "payloads": ("bytes of payload", size),
}


def draw(folder: Path, results: Mapping[str, Sequence[Row]]) -> list[Path]:
    """Draw what there is, and return the files.

    :raises ImportError: there is no matplotlib.
    """
    matplotlib = import_module("matplotlib")
    matplotlib.use("svg")
    pyplot = import_module("matplotlib.pyplot")
    drawn = []
    with matplotlib.rc_context(_STYLE):
        for name, rows in results.items():
            if name == "shapes":
                figure = draw_ratios(pyplot, rows)
            elif name in _CURVES and rows:
                figure = draw_curve(pyplot, name, rows)
            else:
                continue
            if figure is not None:
                drawn.append(folder / ("ratios.svg" if name == "shapes" else f"growth-{name}.svg"))
                figure.savefig(drawn[-1], metadata={"Date": None})
                pyplot.close(figure)
    return drawn


def draw_ratios(pyplot: Any, rows: Sequence[Row]) -> Any:
    """A bar for each shape and each peer that does the same work there; None if there is none."""
    bars = [row for row in rows if row["ratio"] is not None and row["routes_each"] == "yes"]
    if not bars:
        return None
    figure, axes = pyplot.subplots(figsize=(7.5, 1.2 + 0.36 * len(bars)), layout="constrained")
    places, place, shape = [], 0.0, bars[0]["shape"]
    for row in bars:
        place += 0.5 if row["shape"] != shape else 0
        shape = row["shape"]
        places.append(place)
        axes.barh(place, row["ratio"], height=0.8, color=COLOURS[row["who"]])
        where: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
        # In front of the line at 1, and not crossed by it.
        box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        axes.annotate(ratio(row["ratio"]), (row["ratio"], place), bbox=box, **where)
        place += 1
    axes.set_yticks(places, [f"{row['shape']}, {row['who']}" for row in bars])
    axes.invert_yaxis()
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xlim(0, max(1.15, *(row["ratio"] * 1.12 for row in bars)))
    axes.set_title("Processor time for each message: rproxy's divided by the peer's", loc="left")
    axes.set_xlabel("below 1, rproxy needs less than the peer")
    _clean(axes, "x")
    return figure


def draw_curve(pyplot: Any, name: str, rows: Sequence[Row]) -> Any:
    """A line for each proxy: microseconds for each message."""
    figure, axes = pyplot.subplots(figsize=(5.2, 3.2), layout="constrained")
    label, show = _CURVES[name]
    whose = list(dict.fromkeys(row["who"] for row in rows))
    for who in whose:
        points = [(row["point"], row["micros"]) for row in rows if row["who"] == who]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=5, linewidth=2, color=COLOURS[who], label=who)
    axes.set_xscale("log")
    if name == "payloads":
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, max(row["micros"] for row in rows) * 1.15)
    ticks = sorted({row["point"] for row in rows})
    axes.set_xticks(ticks, [show(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)
    axes.set_title("µs of the proxy's processor time for each message", loc="left")
    axes.legend(frameon=False, loc="best")
    _clean(axes, "y")
    return figure


def _clean(axes: Any, grid: str) -> None:
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, which="both")
    for side in ("top", "right", "left" if grid == "x" else "bottom"):
        axes.spines[side].set_visible(False)
