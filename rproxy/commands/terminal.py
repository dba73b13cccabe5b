"""What ``rproxy send`` prints: for people, and for programs."""

from __future__ import annotations

from typing import TextIO

import msgspec

from rproxy.client import Answer, ProxyError
from rproxy.commands.packetfiles import Outgoing
from rproxy.hostports import format_address, parse_address
from rproxy.logs.packets import shown
from rproxy.packets import Ack


class Terminal:
    """What people see, in the words that they know (docs/reference/protocol.rst, What the terminals show).

    :param proxy: the address of the proxy that is used first.
    :param tls: whether TLS is spoken.
    """

    def __init__(self, out: TextIO, err: TextIO, proxy: tuple[str, int], *, tls: bool) -> None:
        self._out = out
        self._err = err
        #: The proxy that is used next, and whom the packet was given to, as far as it was.
        self._next = self._given = proxy
        self._tls = tls
        #: What was told of proxies since the last answer: one that stays away is tried again and again.
        self._told: set[tuple[str, str]] = set()

    def sending(self, packet: Outgoing) -> None:
        """A packet goes out."""
        data = packet.data
        self._say(
            f"Sending message {shown(data.payload)} to privacy policy {data.policy}"
            f" through reverse proxy running on port {self._next[1]}"
        )
        self._given = self._next

    def connected(self, proxy: str) -> None:
        """The packet is given to this proxy."""
        self._given = parse_address(proxy)

    def left(self, proxy: str, following: str, why: str) -> None:
        """A proxy failed, and another one is the next."""
        self._next = parse_address(following)
        if proxy != following and (proxy, why) not in self._told:
            self._told.add((proxy, why))
            print(f"rproxy send: {proxy} failed, {following} is the next: {shown(why)}", file=self._err)

    def received(self, answer: Answer, *, correct: bool) -> None:
        """Something came back."""
        self._told.clear()
        self._say(f"Receiving a response from the server payload: {shown(answer.packet.payload)}")
        self._say(f"Hash of payload is {'correct' if correct else 'incorrect'}")
        if not isinstance(answer.packet, Ack):
            self.failed(ProxyError(answer.packet.error, answer.packet.delivered, answer.packet.payload))

    def failed(self, error: ProxyError) -> None:
        """There is no ACK."""
        # Who expects TLS takes a packet for a handshake that is none, and closes without a word.
        is_lost = error.code == "connection-lost" and error.delivered == "unknown"
        hint = " (if it speaks TLS, give --tls-ca)" if is_lost and not self._tls else ""
        print(
            f"rproxy send: {format_address(*self._given)}: {shown(error.code)} (delivered: {error.delivered}),"
            f" {shown(error.text)}{hint}",
            file=self._err,
        )

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class JsonTerminal(Terminal):
    """What programs read: the packets as they go and come, one on each line."""

    def sending(self, packet: Outgoing) -> None:
        self._say(_one_line(packet.raw))

    def received(self, answer: Answer, *, correct: bool) -> None:
        self._told.clear()
        self._say(_one_line(answer.raw))


def _one_line(raw: bytes) -> str:
    """Return a packet's text, with the white space taken out where it goes over several lines."""
    if b"\n" in raw or b"\r" in raw:
        raw = msgspec.json.format(raw, indent=-1)
    return raw.decode("utf-8")
