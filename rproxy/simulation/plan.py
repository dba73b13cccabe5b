"""What is to be started and sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path

from attrs import frozen

from rproxy.commands.packetfiles import make_packets, parse_packet, read_packet
from rproxy.packets import Data

#: Where packets are looked for unless told otherwise, and how many are generated if there are none.
SAMPLES = Path("pktfiles")
GENERATED = 15


@frozen
class Server:
    """A pool server to start."""

    server_id: str
    policy: str


@frozen
class Packet:
    """A data packet to send, byte for byte as ``raw``.

    :ivar name: what the report calls it.
    """

    name: str
    raw: bytes
    client_id: str
    policy: str
    payload: str


@frozen
class Plan:
    """One simulation.

    :ivar source: where the packets are from, as in "15 packets from pktfiles".
    :ivar clients: connections, each with every ``clients``-th packet.
    :ivar concurrency: packets in flight at a time, over all connections.
    :ivar timeout: for all of it, in seconds.
    """

    servers: tuple[Server, ...]
    packets: tuple[Packet, ...]
    source: str
    clients: int
    concurrency: int
    timeout: float


def make_plan(
    *,
    servers: int,
    policies: Sequence[str],
    folder: Path | None,
    count: int | None,
    seed: int,
    clients: int | None,
    concurrency: int,
    timeout: float,
) -> Plan:
    """Return the plan that the options ask for.

    :param folder: where the packets are; None for :data:`SAMPLES`, if they fit.
    :raises ValueError: there are too few servers for the policies, or the folder holds no packets; the text says it.
    """
    if servers < len(policies):
        raise ValueError(
            f"{in_words(servers, 'server')} can't serve {len(policies)} policies: name fewer, or start more servers"
        )
    to_send, origin = _choose_packets(folder, policies, count, seed)
    return Plan(
        servers=spread(servers, policies),
        packets=to_send,
        source=f"{in_words(len(to_send), 'packet')} {origin}",
        clients=min(clients or len(to_send), len(to_send)),
        concurrency=concurrency,
        timeout=timeout,
    )


def in_words(count: int, what: str) -> str:
    """Return "1 packet", "2 packets"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def spread(count: int, policies: Iterable[str]) -> tuple[Server, ...]:
    """Return so many servers with the ids 100, 200, and so on, with the policies dealt out in turn."""
    return tuple(
        Server(str(100 * number), policy) for number, policy in enumerate(islice(cycle(policies), count), start=1)
    )


def read_packets(folder: Path) -> tuple[Packet, ...]:
    """Return the data packets in a folder's ``*.json``, in the order of the numbers in their names.

    :raises ValueError: it has none, or a file that can't be read or is no data packet; the text says which.
    """
    paths = sorted(folder.glob("*.json"), key=lambda path: _natural(path.name))
    if not paths:
        raise ValueError(f"{folder} has no packets: there is no *.json in it")
    return tuple(_packet(path.name, *read_packet(str(path))) for path in paths)


def generate_packets(count: int, policies: Sequence[str], seed: int) -> tuple[Packet, ...]:
    """Return so many data packets, as ``rproxy packets`` writes them, the same ones for the same seed."""
    texts = make_packets(count, list(policies), seed)
    return tuple(_packet(name, raw := text.strip().encode(), parse_packet(raw, name)) for name, text in texts)


def _choose_packets(
    folder: Path | None, policies: Sequence[str], count: int | None, seed: int
) -> tuple[tuple[Packet, ...], str]:
    """The packets, and where they are from."""
    files = read_packets(folder) if folder is not None else _samples(policies)
    if not files:
        return generate_packets(count or GENERATED, policies, seed), f"generated from seed {seed}"
    return tuple(islice(cycle(files), count or len(files))), f"from {folder or SAMPLES}"


def _samples(policies: Sequence[str]) -> tuple[Packet, ...]:
    """The sample packets, if they are there and could be answered rightly."""
    if not SAMPLES.is_dir():
        return ()
    samples = read_packets(SAMPLES)
    return samples if {packet.policy for packet in samples} <= set(policies) else ()


def _packet(name: str, raw: bytes, data: Data) -> Packet:
    return Packet(name, raw, data.srcid, data.policy, data.payload)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts 2.json before 10.json."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"([0-9]+)", name)]
