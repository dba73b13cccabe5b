"""Data packets in files, one JSON object each: reading them to be sent, and ``rproxy packets``, which writes some."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from rproxy import packets
from rproxy.arguments import identifiers, whole
from rproxy.framing import StreamError
from rproxy.limits import Limits
from rproxy.packets import Data, PacketError


@frozen
class Outgoing:
    """A packet to send, as it goes, and what it says."""

    raw: bytes
    data: Data


def read_packet(name: str) -> tuple[bytes, Data]:
    """Return the data packet of a file, ``-`` for standard input: as it stands there, without white space around it,
    and what it says.

    :raises ValueError: there is no file, or no data packet in it; the text says what is wrong.
    """
    shown_name = "standard input" if name == "-" else name
    try:
        raw = (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).strip()
    except OSError as error:
        raise ValueError(f"{shown_name} can't be read: {error.strerror}") from None
    return raw, parse_packet(raw, shown_name)


def parse_packet(raw: bytes, name: str) -> Data:
    """Return what a data packet says.

    :param name: what to call it.
    :raises ValueError: it is none; the text says what is wrong.
    """
    if len(raw) > Limits().max_packet:
        raise ValueError(f"{name} is longer than a packet may be ({Limits().max_packet} bytes)")
    try:
        packet = packets.decode(raw)
    except (StreamError, PacketError) as error:
        raise ValueError(f"{name} is no data packet: {error}") from None
    if not isinstance(packet, Data):
        raise ValueError(f'{name} is no data packet: its type is "{packet.type}", not "0"')
    return packet


def make_packets(clients: int, policies: list[str], seed: int | None) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of a packet file for each client, from 0 on, each for a random one of the policies.

    The packets have the form that deployed clients send.
    """
    choose = random.Random(seed).choice
    for number in range(clients):
        packet = {"type": "0", "srcid": str(number), "privPoliId": choose(policies), "payload": f"xyz{number}"}
        yield f"{number}.json", json.dumps(packet, ensure_ascii=False) + "\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``rproxy packets`` takes."""
    parser.description = "Write sample data packets, 0.json and so on, one for each client."
    parser.add_argument(
        "--clients", type=whole(1, 1_000_000), default=15, metavar="N", help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--policies",
        type=identifiers,
        default="111,222",
        metavar="POLICY,...",
        help="what they may ask for, one of these each by chance (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same number makes the same choice each time")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to, made if need be")


def run(args: argparse.Namespace) -> int:
    """Write the files, all or, where one of them exists, none; return the exit code."""
    folder: Path = args.folder
    files = [(folder / name, text) for name, text in make_packets(args.clients, args.policies, args.seed)]
    existing = [str(path) for path, _ in files if path.exists()]
    if existing and not args.force:
        print(f"rproxy packets: {existing[0]} exists: give --force to overwrite it", file=sys.stderr)
        return 1
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files:
            path.write_text(text, "utf-8")
    except OSError as error:
        print(f"rproxy packets: {path} can't be written: {error.strerror}", file=sys.stderr)
        return 1
    return 0
