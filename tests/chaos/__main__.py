"""``python -m tests.chaos``: run seeds, and print a line for each."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos import agreement, oracle, plan, report, running


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    try:
        return range(int(first), int(last or first) + 1)
    except ValueError:
        raise argparse.ArgumentTypeError(f"N..M, such as 1..100, and not {text}") from None


def main() -> int:
    """Return 0 if every promise was kept, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="A proxy under faults, seed by seed.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=_seeds, dest="seeds", metavar="N", help="the seed to run")
    which.add_argument("--seeds", type=_seeds, metavar="N..M", help="run all of these")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long clients send (default: 60)")
    parser.add_argument("--servers", type=int, default=20, help="how many servers (default: 20)")
    parser.add_argument("--clients", type=int, default=40, help="how many clients (default: 40)")
    parser.add_argument("--workers", type=int, default=1, help="how many processes the proxy has (default: 1)")
    options = parser.parse_args()
    failed = 0
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="rproxy-chaos-") as folder:
            made = plan.make(seed, options.seconds, options.servers, options.clients, options.workers)
            history = running.run(made, Path(folder))
        violations = [*oracle.judge(history), *agreement.judge(history)]
        failed += bool(violations)
        print(report.failure(history, violations) if violations else report.summary(history, violations), flush=True)
    if len(options.seeds) > 1:
        print(f"{len(options.seeds) - failed} of {len(options.seeds)} seeds kept every promise")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
