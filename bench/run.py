#!/usr/bin/env python3
"""Measure rproxy beside its peers on this machine: see README.rst in this folder."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

if not __package__:
    # Run as a script: what is imported stands in the project's top folder, not in this one.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.building import SOURCES, Missing, build
from bench.machine import describe, in_words
from bench.parts import CHOICES, PARTS, SHAPES, Part
from bench.plan import FULL, QUICK
from bench.plots import draw
from bench.processes import Failure
from bench.redis import can_use_redis, find_redis
from bench.shapes import check_limits
from bench.stage import Bench, find, raise_file_limit
from bench.tables import Row, render

#: Where results go unless told otherwise; not under version control.
RESULTS = SOURCES / "results"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bench/run.py",
        description="Measure what a message costs rproxy, beside HAProxy and NATS where they are installed, how that"
        " grows, and what rproxy does when clients or servers ask too much. Every answer is checked; a wrong one ends"
        " the run with exit code 1.",
        epilog="Exit codes: 0 all well; 1 a wrong answer, or a limit was passed; 2 something is missing.",
    )
    parser.add_argument("--quick", action="store_true", help="about two minutes instead of twenty, and rougher")
    parser.add_argument(
        "--only",
        action="append",
        choices=CHOICES,
        metavar="NAME",
        help=f"measure this alone (repeatable): {', '.join(CHOICES)}",
    )
    parser.add_argument("--rounds", type=_positive_int, metavar="N", help="rounds of each shape [5; quick: 1]")
    parser.add_argument(
        "--seconds", type=_positive, metavar="S", help="seconds of each of those rounds [3; quick: 0.7]"
    )
    parser.add_argument(
        "--python", default=sys.executable, metavar="PATH", help="the Python that runs rproxy [the one that runs this]"
    )
    parser.add_argument(
        "--installed", action="store_true", help="measure the rproxy that is installed there, not this clone's"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=("haproxy", "nats", "redis"),
        metavar="PEER",
        help="leave this peer out though it is installed (repeatable): haproxy, nats, redis",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        type=_limit,
        metavar="SHAPE=RATIO",
        help="fail if the shape costs rproxy more than so many times what HAProxy needs: in TCP mode for one-shot, in"
        " HTTP mode for the others (repeatable)",
    )
    parser.add_argument(
        "--memory-bound",
        type=_positive,
        default=512,
        metavar="MIB",
        help="fail if rproxy ever takes more memory in the parts on backpressure [512]",
    )
    parser.add_argument(
        "--output", type=Path, default=RESULTS, metavar="DIR", help="where results and plots go [bench/results]"
    )
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e6:
        raise ValueError
    return number


def _positive_int(text: str) -> int:
    return int(_positive(str(int(text))))


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in CHOICES or CHOICES[name][0].table is not SHAPES or name == SHAPES.name:
        raise ValueError
    return name, _positive(value)


def make_bench(args: argparse.Namespace, programs: Path) -> Bench:
    """What was asked for, with the peers that there are."""
    plan = QUICK if args.quick else FULL
    bench = Bench(
        programs,
        replace(plan, rounds=args.rounds or plan.rounds, seconds=args.seconds or plan.seconds),
        args.python,
        args.installed,
        memory_bound=int(args.memory_bound * 2**20),
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    bench.haproxy, bench.nats = (
        _find_peer(bench, *names, args.without) for names in (("haproxy", "haproxy"), ("nats", "nats-server"))
    )
    bench.redis = _find_store(bench, args.without)
    return bench


def _find_store(bench: Bench, without: Sequence[str]) -> str | None:
    """A Redis, if this rproxy can use one."""
    found = None if "redis" in without else find_redis()
    if "redis" in without:
        bench.note("redis-server is left out, as was asked for")
    elif found is None:
        bench.note("redis-server is left out, as it isn't installed (bench/README.rst says how)")
    elif not can_use_redis(bench):
        bench.note(f"redis-server is left out, as {bench.python} has no txredisapi: pip install txredisapi")
        found = None
    return found


def _find_peer(bench: Bench, name: str, command: str, without: Sequence[str]) -> str | None:
    if name in without:
        bench.note(f"{command} is left out, as was asked for")
        return None
    found = find(command)
    if found is None:
        bench.note(f"{command} is left out, as it isn't installed (bench/README.rst says how)")
    return found


def measure(bench: Bench, parts: Sequence[Part]) -> dict[str, list[Row]]:
    """Measure the parts one after the other, print each table when it is complete, and return the rows of all."""
    results: dict[str, list[Row]] = {}
    for number, part in enumerate(parts):
        rows = results.setdefault(part.table.name, [])
        rows += part.measure(bench)
        if part.table not in [later.table for later in parts[number + 1 :]]:
            print(f"\n{part.table.title}\n\n{render(part.table.columns, rows)}\n", flush=True)
    return results


def write(folder: Path, about: dict[str, Any], results: dict[str, list[Row]], bench: Bench) -> None:
    """Write what was found, for programs, and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    latest = folder / "latest.json"
    everything = {**about, "results": results, "notes": bench.notes, "problems": bench.problems}
    latest.write_text(json.dumps(everything, indent=1) + "\n")
    try:
        drawn = draw(folder, results)
    except ImportError:
        bench.say("No plots, as matplotlib isn't installed for this Python: pip install matplotlib")
        drawn = []
    print(f"Written: {', '.join(map(str, [latest, *drawn]))}")


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments ask for, and return the exit code.

    :param argv: without them, those of the process.
    """
    args = make_parser().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    raise_file_limit()
    wanted = [part for name in args.only or [] for part in CHOICES[name]]
    parts = [part for part in PARTS if part in wanted or not wanted]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rproxy-bench-") as programs:
        try:
            bench = make_bench(args, Path(programs))
            build(bench.programs)
            about = describe(bench)
            print(in_words(about), flush=True)
            if about["machine"]["load_before"] > 0.5:
                bench.note(f"The machine was busy before (load average {about['machine']['load_before']:.1f})")
            results = measure(bench, parts)
        except Missing as missing:
            print(missing, file=sys.stderr)
            return 2
        except Failure as failure:
            print(f"\nFAILED: {failure}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nInterrupted; everything is ended.", file=sys.stderr)
            return 128 + signal.SIGINT
    bench.problems += check_limits(results.get(SHAPES.name, []), dict(args.limit))
    about["seconds"] = round(time.monotonic() - started)
    about["arguments"] = sys.argv[1:] if argv is None else list(argv)
    write(args.output, about, results, bench)
    for note in bench.notes:
        print(f"Note: {note}")
    for problem in bench.problems:
        print(f"FAILED: {problem}", file=sys.stderr)
    print(f"{about['seconds']} s; every answer was right.")
    return 1 if bench.problems else 0


if __name__ == "__main__":
    sys.exit(main())
