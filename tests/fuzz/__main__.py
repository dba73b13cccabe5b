"""``python -m tests.fuzz TARGET [--seconds N]``: let atheris look for bytes that break a target.

It leaves the bytes that broke it in a file named ``crash-…``, and says how to run them again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]  # it has no types

with atheris.instrument_imports(include=["rproxy.framing", "rproxy.packets", "rproxy.proxy", "rproxy.connection"]):
    from tests.fuzz.targets import TARGETS

from tests.support import ROOT

#: What the fuzzer begins with, beside the samples: a packet of each kind, and what they may be mixed with.
SEEDS = (
    b'{"type": "0", "srcid": "1", "privPoliId": "111", "payload": "xyz1"}',
    b'{"type": 0, "srcid": 1, "privPolyId": 222, "payload": "\\"\\u00e9", "payloadsize": "2", "x": [{}, [1e5]]}',
    b'{"type": "1", "id": "9", "privPolyId": "111", "listenport": "5009", "pipeline": 2, "lease": 3, "weight": 2}',
    b'{"type": "2", "srcid": "100", "destid": "1", "payload": "x", "payloadsize": "1"}',
    b'{"type":"0","srcid":"1","privPoliId":"111","payload":"a"}{"type":"0","srcid":"1","privPoliId":"222","payload":"b"}',
)


def main() -> None:
    """Run until the time is over, or something breaks: then the exit code isn't 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Look for bytes that break a target.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60, help="for how long (default: 60)")
    parser.add_argument("--bytes", type=Path, metavar="FILE", help="run the target on these bytes only")
    options = parser.parse_args()
    target = TARGETS[options.target]
    if options.bytes is not None:
        target(options.bytes.read_bytes())
        return
    with tempfile.TemporaryDirectory(prefix="rproxy-fuzz-") as folder:
        samples = [path.read_bytes() for path in sorted((ROOT / "pktfiles").glob("*.json"))]
        for number, seed in enumerate((*SEEDS, *samples)):
            Path(folder, str(number)).write_bytes(
                (b"" if options.target in {"decoding", "together"} else b"\1\7\xff\3") + seed
            )
        atheris.Setup([sys.argv[0], f"-max_total_time={options.seconds}", "-max_len=2000", folder], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
