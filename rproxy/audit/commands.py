"""What ``rproxy audit`` does: reads a trail once, from its first file to its last, and checks it on the way."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rproxy.audit.answering import Receiver, Receivers
from rproxy.audit.keys import Key, KeyFileError, read_key
from rproxy.audit.proving import PolicyCheck
from rproxy.audit.reading import ReadError, in_order
from rproxy.audit.verifying import ChainCheck, Finding, counted, walk

#: So many findings are kept and shown; the others are counted.
_SHOWN = 100
#: A new key would be of no use here.
_HINT = "give the key that the proxy was given by --audit-key"


class Reading:
    """What was read.

    :raises ReadError: a file can't be read, or is no trail.
    """

    def __init__(self, key: Key, paths: Sequence[Path], receivers: Receivers | None = None, expect: str = "") -> None:
        self.findings: list[Finding] = []
        #: Faults, also those that aren't shown.
        self.faults = 0
        self.chain = ChainCheck(key, self._report)
        self.policies = PolicyCheck(self._report)
        #: The first and the last line of each file.
        self.files: dict[Path, tuple[int, int]] = {}
        self.lines = 0
        #: Whether the hash that was expected is missing.
        self.missing = bool(expect)
        breaks = 0
        for place, line in walk(in_order(list(paths)), self.chain):
            if breaks != self.chain.breaks:
                breaks = self.chain.breaks
                self.policies.broken()
            self.policies.take(place, line)
            if receivers is not None:
                receivers.take(line, self.policies.terms)
            self.lines += 1
            self.files[place.path] = (self.files.get(place.path, (line.seq, 0))[0], line.seq)
            if self.missing and self.head == expect:
                self.missing = False
        self.faults += self.missing

    @property
    def head(self) -> str:
        """The hash of the last line, ``""`` if there is none."""
        return self.chain.head.hex() if self.chain.head is not None else ""

    def _report(self, finding: Finding) -> None:
        self.faults += finding.wrong
        if len(self.findings) < _SHOWN:
            self.findings.append(finding)

    def told(self) -> list[str]:
        """What readers have to know, in sentences."""
        told = [f"{shown(str(each.place.path))}:{each.place.number}: {shown(each.text)}" for each in self.findings]
        if self.missing:
            told.append("no line has the hash that was expected: lines are missing, or were written anew")
        if self.policies.untold:
            told.append(
                f"{counted(self.policies.untold, 'time')} a packet was written to a server of which nothing is known,"
                " as the lines that tell are missing or in files that were not given"
            )
        return told

    def as_json(self) -> dict[str, Any]:
        """What is known of the trail as a whole, as JSON's types."""
        return {
            "ok": not self.faults,
            "lines": self.lines,
            "files": [{"file": str(path), "first": ends[0], "last": ends[1]} for path, ends in self.files.items()],
            "seq": self.chain.seq,
            "head": self.head,
            "packets": self.policies.packets,
            "written": self.policies.written,
            "proved": self.policies.proved,
            "untold": self.policies.untold,
            "faults": self.faults,
            "findings": [
                {"file": str(each.place.path), "line": each.place.number, "text": each.text, "wrong": each.wrong}
                for each in self.findings
            ],
            "expected_found": not self.missing,
        }


def shown(text: str) -> str:
    """Return a text that may be a stranger's as JSON-escaped ASCII, so that it can't speak to a terminal."""
    return json.dumps(text)[1:-1]


def verify(args: argparse.Namespace) -> int:
    """``rproxy audit verify``: print what was found, and return the exit code."""
    reading = _read(args, None, args.expect or "")
    if reading is None:
        return 1
    if args.json:
        _print_json(reading.as_json())
        return int(reading.faults > 0)
    for path, (first, last) in reading.files.items():
        print(f"{shown(str(path))}: lines {first} to {last}")
    for sentence in reading.told():
        print(sentence)
    policies = reading.policies
    packets = f"{counted(policies.packets, 'packet')}, {policies.written} of them written to a server"
    print(f"{counted(reading.lines, 'line')}, {packets}")
    if reading.head:
        print(f"The last line is {reading.chain.seq}, with the hash {reading.head}")
    if reading.faults:
        print(f"NOT GOOD: {counted(reading.faults, 'fault')}")
    elif policies.untold:
        print("Good as far as it can be told: nothing was changed, and no packet is known to have gone astray")
    else:
        print("Good: nothing was changed, and every packet reached only servers registered for its policy at the time")
    return int(reading.faults > 0)


def who(args: argparse.Namespace) -> int:
    """``rproxy audit who``: print which servers got something of a client, and return the exit code."""
    client = args.audit_key.client(args.client)
    return _answer(args, Receivers(lambda packet: packet.client == client), f"of client {shown(args.client)}")


def servers(args: argparse.Namespace) -> int:
    """``rproxy audit servers``: print which servers got something of a policy, and return the exit code."""
    policy = args.policy
    return _answer(args, Receivers(lambda packet: packet.policy == policy), f"of policy {shown(policy)}")


def _answer(args: argparse.Namespace, receivers: Receivers, what: str) -> int:
    reading = _read(args, receivers, "")
    if reading is None:
        return 1
    found = receivers.found
    if args.json:
        _print_json({**reading.as_json(), "servers": [each.as_json() for each in found]})
        return int(reading.faults > 0)
    for row in _table(found):
        print(row)
    if not found:
        print(f"No server received a packet {what}")
    for sentence in reading.told():
        print(f"rproxy audit: {sentence}", file=sys.stderr)
    if reading.faults:
        print("rproxy audit: NOT GOOD: the answer may be wrong, see rproxy audit verify", file=sys.stderr)
    return int(reading.faults > 0)


def _table(found: Sequence[Receiver]) -> list[str]:
    head = ("SERVER", "ADDRESS", "POLICY", "PACKETS", "FIRST", "LAST", "REGISTRATIONS")
    rows = [
        (
            shown(each.server),
            shown(each.address) or "?",
            shown(each.policy),
            str(each.packets),
            shown(each.first),
            shown(each.last),
            ",".join(map(str, sorted(each.registrations))),
        )
        for each in found
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows]]
    return lines if rows else []


def _read(args: argparse.Namespace, receivers: Receivers | None, expect: str) -> Reading | None:
    try:
        return Reading(args.audit_key, args.files, receivers, expect)
    except ReadError as error:
        print(f"rproxy audit: {shown(str(error))}", file=sys.stderr)
        return None


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value))


def key_file(text: str) -> Key:
    """Take the file of a key.

    :raises argparse.ArgumentTypeError: it is none.
    """
    try:
        return read_key(Path(text), _HINT)
    except KeyFileError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
