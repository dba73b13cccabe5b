"""What has to hold for any bytes; each target is one function of them that raises where it doesn't."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from attrs import define, field
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from rproxy import packets
from rproxy.framing import Framer, StreamError
from rproxy.packets import Data, PacketError
from tests.memory import Proxy

#: The longest object in the targets: it must be reachable by a fuzzer.
MAX_PACKET = 512
POLICIES = ("111", "222")


def framing(data: bytes) -> None:
    """However a stream is cut, the same objects come out, which are the stream; and no byte is walked twice."""
    cuts, stream = _split(data)
    whole, _ = _frames([stream])
    parts, framer = _frames(_cut(stream, cuts))
    assert parts == whole, (parts, whole)
    walked = framer.scanned
    assert walked <= len(stream), f"{walked} bytes walked of {len(stream)}"
    rest = stream
    for frame in whole:
        if isinstance(frame, bytes):
            rest = rest.lstrip(b" \t\r\n")
            assert rest.startswith(frame), "a frame is not what was sent"
            assert len(frame) <= MAX_PACKET, "a frame is too long"
            rest = rest[len(frame) :]


def decoding(data: bytes) -> None:
    """The quick reader and the careful one agree, and so does any other parser about what was routed on."""
    try:
        packet: packets.Packet | None = packets.decode(data)
    except (PacketError, StreamError):
        packet = None
    for peeked in (packets.peek_data(data), packets.peek_ack(data)):
        assert peeked is None or peeked == packet, (peeked, packet)
    if isinstance(packet, Data):
        first = json.loads(data, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
        last = json.loads(data)
        for fields in (first, last):
            assert str(fields.get("privPoliId", fields.get("privPolyId"))) == packet.policy, fields
            assert str(fields["srcid"]) == packet.srcid, fields


def together(data: bytes) -> None:
    """Packets that are read together are those that are read one by one."""
    # The framer doesn't ask about anything else, nor about more bytes than one packet may have.
    found = packets.peek_many_data(data) if data.startswith(b"{") and data.endswith(b"}") else None
    if found is not None:
        frames, _ = _frames([data], None, len(data))
        assert [raw for raw, _ in found] == frames, (found, frames)
        assert [packets.peek_data(raw) for raw, _ in found] == [packet for _, packet in found]


def talking(data: bytes) -> None:
    """A stranger's bytes cause no error in the proxy's log, and reach no server but those of their policy."""
    cuts, stream = _split(data)
    errors = Errors()
    globalLogPublisher.addObserver(errors)
    try:
        _talk(_cut(stream, cuts))
    finally:
        globalLogPublisher.removeObserver(errors)
    assert not errors.seen, errors.seen[0]["log_failure"].getTraceback()


def _talk(segments: Iterator[bytes]) -> None:
    world = Proxy()
    for port, policy in enumerate(POLICIES, 5000):
        world.register(policy, policy, port, pipeline=4)
        world.server(port)
    stranger = world.client("10.0.0.66")
    for segment in segments:
        if stranger.gone:
            break
        stranger.send(segment)
        for port in range(5000, 5000 + len(POLICIES)):
            world.server(port).answer()
    stranger.half_close()
    world.advance(6)
    for port, policy in enumerate(POLICIES, 5000):
        for packet in world.server(port).packets:
            assert str(packet.get("privPoliId", packet.get("privPolyId"))) == policy, packet
    world.check_counters()
    assert world.factory.in_flight == 0
    assert not world.factory.clients, "a connection stayed"


TARGETS: dict[str, Callable[[bytes], None]] = {each.__name__: each for each in (framing, decoding, together, talking)}


@implementer(ILogObserver)
@define
class Errors:
    """The failures that were logged."""

    seen: list[LogEvent] = field(factory=list)

    def __call__(self, event: LogEvent) -> None:
        if "log_failure" in event:
            self.seen.append(event)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """How to cut the stream, and the stream."""
    return data[:4], data[4:]


def _cut(stream: bytes, sizes: bytes) -> Iterator[bytes]:
    position = number = 0
    while position < len(stream):
        size = sizes[number % len(sizes)] or 1
        yield stream[position : position + size]
        position += size
        number += 1


def _frames(
    segments: Any, peek_many: Any = packets.peek_many_data, max_packet: int = MAX_PACKET
) -> tuple[list[bytes | str], Framer[Data]]:
    """What a connection sees that is fed so: frames, and last the code of the error where there was one."""
    framer = Framer(packets.peek_data, max_packet, *([peek_many] if peek_many else []))
    seen: list[bytes | str] = []
    for segment in segments:
        framer.feed(segment)
        while found := framer.take(3):
            seen += [raw for raw, _ in found]
        if framer.error is not None:
            seen.append(framer.error.code)
            break
    return seen, framer
