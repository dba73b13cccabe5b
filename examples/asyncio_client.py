"""A client of rproxy with asyncio, and nothing but Python's standard library: copy this one file.

One connection carries any number of packets at a time; answers come in the order of the packets::

    async with Client("127.0.0.1", 8000, "1") as client:
        ack = await client.send("111", "xyz1")
        assert is_correct("xyz1", ack)

Nothing is sent twice, and a connection that is lost isn't made again: whoever uses it decides that, by what
:attr:`ProxyError.delivered` says. rproxy's own library (``rproxy.client``, for Twisted) does both.
"""

from __future__ import annotations

import argparse
import asyncio
import codecs
import hashlib
import json
import math
import sys
from collections import deque
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, TextIO

#: How long an answer may take, in seconds: the proxy gives up on a packet after 30, unless it is told otherwise.
DEFAULT_TIMEOUT = 60.0
#: The longest answer, in characters; the proxy takes none of more bytes, unless it is told otherwise.
MAX_ANSWER = 1 << 20

#: What JSON calls white space.
_SPACE = " \t\r\n"

#: The exit codes.
ALL_CORRECT, SOMETHING_WRONG, INTERRUPTED = 0, 1, 130


@dataclass(frozen=True)
class Ack:
    """What a server answered."""

    server: str
    payload: str


class ProxyError(Exception):
    """There is no ACK: the proxy, or the server, said so, or it is the client's own ``connection-lost`` or ``timeout``.

    :ivar code: one of docs/protocol.rst, Error codes.
    :ivar delivered: ``"no"`` if no server got the packet, so that it may be sent again; else ``"unknown"``.
    :ivar text: a sentence for people.
    """

    def __init__(self, code: str, delivered: str, text: str) -> None:
        super().__init__(f"{code} (delivered: {delivered}), {text}")
        self.code = code
        self.delivered = delivered
        self.text = text


def is_correct(payload: str, ack: Ack) -> bool:
    """Whether it is the SHA-1 of the payload, which servers answer unless they have a handler of their own."""
    return ack.payload == hashlib.sha1(payload.encode(), usedforsecurity=False).hexdigest()


def encode(client_id: str, policy: str, payload: str) -> bytes:
    """Return a data packet.

    :raises UnicodeEncodeError: something has half of a surrogate pair, which is no text.
    """
    packet = {
        "type": "0",
        "srcid": client_id,
        "privPoliId": policy,
        "payload": payload,
        "payloadsize": str(len(payload)),
    }
    return json.dumps(packet, ensure_ascii=False).encode()


class Decoder:
    """Bytes in, whole JSON objects out, however TCP cut them: there is neither a length nor a separator."""

    def __init__(self) -> None:
        # Half a character may be at the end of what was read. What is no UTF-8 becomes half of a surrogate pair, so
        # that the objects before it come out.
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._json = json.JSONDecoder()
        self._text = ""

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects that these bytes complete.

        An object with a mistake inside looks like one that isn't whole yet, until it is too long.

        :raises ValueError: an object is no UTF-8 or longer than :data:`MAX_ANSWER`, or something else is there.
        """
        self._text = (self._text + self._utf8.decode(data)).lstrip(_SPACE)
        # Each object ends with a brace. Without a new one a long answer isn't tried again.
        while self._text.startswith("{") and b"}" in data:
            try:
                packet, end = self._json.raw_decode(self._text)
            except json.JSONDecodeError:
                break
            except RecursionError:
                raise ValueError("an answer is nested too deep") from None
            self._text[:end].encode()  # raises where there was no UTF-8
            self._text = self._text[end:].lstrip(_SPACE)
            yield packet
        if self._text[:1] not in {"", "{"}:
            raise ValueError("an answer is no JSON object")
        if len(self._text) > MAX_ANSWER:
            raise ValueError("an answer is too long")


def understand(packet: dict[str, Any], client_id: str) -> Ack | ProxyError:
    """Return what an answer says.

    :raises ValueError: it is none, or somebody else's.
    """
    match packet:
        case {"type": "2" | 2, "srcid": str() | int() as server, "destid": destid, "payload": str(payload)}:
            if str(destid) == client_id:
                return Ack(str(server), payload)
        case {"type": "3" | 3, "error": str(code), "delivered": str(delivered), "payload": str(text)}:
            return ProxyError(code, delivered, text)
    raise ValueError("an answer is none, or is for somebody else")


class Client:
    """A connection to a proxy; use it by ``async with``, which makes it and closes it.

    :param client_id: the ``srcid`` of its packets.
    :param timeout: how long connecting may take, and how long an answer, in seconds.
    """

    def __init__(self, host: str, port: int, client_id: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        self._address = (host, port)
        self._client_id = client_id
        self._timeout = timeout
        #: The packets without an answer, in their order. One that nobody waits for any more keeps its place.
        self._unanswered: deque[asyncio.Future[Ack | ProxyError]] = deque()
        #: Why nothing can be sent, if so.
        self._lost = "it isn't connected"

    async def __aenter__(self) -> Self:
        """Connect.

        :raises ProxyError: it can't.
        """
        try:
            async with asyncio.timeout(self._timeout):
                reader, self._writer = await asyncio.open_connection(*self._address)
        except TimeoutError:
            raise ProxyError("connection-lost", "no", "the proxy can't be reached in time") from None
        except OSError as error:
            raise ProxyError("connection-lost", "no", f"the proxy can't be reached: {error}") from None
        self._lost = ""
        self._reading = asyncio.create_task(self._read(reader))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connection. Whoever still waits for an answer gets ``connection-lost``."""
        self._lose("the client closed the connection")
        self._reading.cancel()
        await asyncio.wait([self._reading])
        with suppress(OSError):
            await self._writer.wait_closed()

    async def send(self, policy: str, payload: str) -> Ack:
        """Send a packet and return its answer; many may be under way at a time.

        :raises ProxyError: there is no ACK.
        :raises UnicodeEncodeError: the policy or the payload is no text.
        """
        packet = encode(self._client_id, policy, payload)
        if self._lost:
            raise ProxyError("connection-lost", "no", self._lost)
        answer: asyncio.Future[Ack | ProxyError] = asyncio.get_running_loop().create_future()
        self._unanswered.append(answer)
        self._writer.write(packet)
        try:
            async with asyncio.timeout(self._timeout):
                with suppress(ConnectionError):  # who reads sees it as well, and tells all that wait
                    await self._writer.drain()
                outcome = await answer
        except TimeoutError:
            raise ProxyError("timeout", "unknown", f"no answer within {self._timeout:g} seconds") from None
        if isinstance(outcome, ProxyError):
            raise outcome
        return outcome

    async def _read(self, reader: asyncio.StreamReader) -> None:
        why = "the proxy closed the connection"
        decoder = Decoder()
        try:
            while data := await reader.read(1 << 16):
                for packet in decoder.feed(data):
                    self._answered(understand(packet, self._client_id))
        except (OSError, ValueError) as error:
            why = str(error)
        self._lose(why)

    def _answered(self, outcome: Ack | ProxyError) -> None:
        """Give an answer to the oldest packet."""
        if not self._unanswered:
            # As when the proxy has too many connections, and says so before anything is sent.
            raise ValueError(f"unasked: {outcome}")
        answer = self._unanswered.popleft()
        if not answer.done():
            answer.set_result(outcome)

    def _lose(self, why: str) -> None:
        self._lost = self._lost or why
        while self._unanswered:
            self._answered(ProxyError("connection-lost", "unknown", why))
        self._writer.close()


# The command.


def say(line: str, file: TextIO = sys.stdout) -> None:
    """Print a line as JSON would write it in ASCII: whatever comes from elsewhere does nothing to a terminal."""
    print(json.dumps(line)[1:-1], file=file, flush=True)


def failed(payload: str, error: ProxyError) -> int:
    """Tell that there is no ACK; return the exit code."""
    say(f"{payload}: {error}", sys.stderr)
    return SOMETHING_WRONG


async def report(payload: str, sending: Awaitable[Ack]) -> int:
    """Tell what comes of a packet; return the exit code."""
    try:
        ack = await sending
    except ProxyError as error:
        return failed(payload, error)
    correct = is_correct(payload, ack)
    say(f"{payload}: {ack.payload} from server {ack.server}, SHA-1 {'correct' if correct else 'incorrect'}")
    return ALL_CORRECT if correct else SOMETHING_WRONG


async def exchange(args: argparse.Namespace) -> int:
    """Send all payloads at once; return the exit code."""
    try:
        host, port = args.revproc
        async with Client(host, port, args.id, args.timeout) as client:
            # Tasks begin in the order in which they are made, so the packets go in that of the arguments.
            sendings = [asyncio.create_task(client.send(args.pp, payload)) for payload in args.payload]
            return max([await report(payload, task) for payload, task in zip(args.payload, sendings, strict=True)])
    except ProxyError as error:
        return max(failed(payload, error) for payload in args.payload)


def address(argument: str) -> tuple[str, int]:
    """Return the host and the port of ``[HOST:]PORT``; an IPv6 address stands in brackets."""
    host, _, port = argument.rpartition(":")
    if not 0 < int(port) < 1 << 16:
        raise ValueError
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def seconds(argument: str) -> float:
    """Return a time."""
    if not 0 < float(argument) < math.inf:
        raise ValueError
    return float(argument)


def utf8(argument: str) -> str:
    """Return an argument that is UTF-8."""
    argument.encode()
    return argument


def main() -> int:
    """Run the command; return the exit code. Wrong usage is 2, as always with argparse."""
    parser = argparse.ArgumentParser(description="Send payloads through a reverse proxy, all at once.")
    parser.add_argument("--revproc", type=address, default="8000", metavar="[HOST:]PORT", help="the reverse proxy")
    parser.add_argument("--id", type=utf8, default="1", help="the client's id")
    parser.add_argument("--pp", type=utf8, required=True, metavar="POLICY", help="the privacy policy to ask for")
    parser.add_argument("--timeout", type=seconds, default=DEFAULT_TIMEOUT, metavar="SECONDS")
    parser.add_argument("payload", type=utf8, nargs="+")
    try:
        return asyncio.run(exchange(parser.parse_args()))
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
