"""The admin listener in memory: requests as bytes, answers as HTTP has them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock, Cooperator
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from rproxy.admin.files import File
from rproxy.admin.guarding import Guard
from rproxy.admin.routes import Routes
from rproxy.admin.scraping import Scrapes, make_cooperator
from rproxy.admin.site import AdminResource, AdminSite
from rproxy.admin.streaming import Streams
from rproxy.control import Control, LocalControl
from rproxy.control.reporting import Reporter
from rproxy.figures.happenings import Happenings
from rproxy.process.lag import Lag
from rproxy.stores.ledger import Ledger
from rproxy.stores.memory import Memory, MemoryStore
from tests.memory import Proxy

TOKEN = "0123456789abcdef"
LOCAL = IPv4Address("TCP", "127.0.0.1", 50_000)
ELSEWHERE = IPv4Address("TCP", "10.0.0.9", 50_000)
UNIX = UNIXAddress(b"/run/rproxy/admin.sock")
FILES = {
    "index.html": File("text/html; charset=utf-8", b"<!doctype html>", '"1"'),
    "js/page.js": File("text/javascript; charset=utf-8", b"run()", '"2"'),
}


@frozen
class Reply:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """What the body says."""
        return json.loads(self.body)


def read_reply(raw: bytes) -> Reply:
    """Take an answer apart."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return Reply(int(status.split()[1]), {name.lower(): value for name, value in headers.items()}, body)


class Transport(StringTransport):
    """A connection from somewhere; with what a TCP one has beside."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def loseWriteConnection(self) -> None:
        self.disconnecting = True


@define(eq=False)
class Admin:
    """An admin listener for some control."""

    control: Control
    token: str | None = TOKEN
    hosts: frozenset[str] = frozenset()
    clock: Clock = field(factory=Clock)
    cooperator: Cooperator | None = None
    streams: Streams = field(init=False)
    site: AdminSite = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.streams = Streams(self.control, self.clock, "run1", self.clock.seconds)
        routes = Routes(self.control, FILES, Scrapes(self.control, self.cooperator or make_cooperator(self.clock)))
        self.site = AdminSite(AdminResource(Guard(self.token, self.hosts), routes, self.streams), self.clock)

    def connect(self, peer: IAddress = LOCAL) -> tuple[Any, Transport]:
        """A connection, both as the listener has it and as the network does."""
        transport = Transport(peerAddress=peer)
        channel = self.site.buildProtocol(peer)
        assert channel is not None
        channel.makeConnection(transport)
        return channel, transport

    def open(
        self, method: str, path: str, body: bytes = b"", peer: IAddress = LOCAL, **headers: str | None
    ) -> tuple[Any, Transport]:
        """Ask something; a header that is None is left out, ``_`` in its name stands for ``-``."""
        sent: Mapping[str, str | None] = {"Host": "127.0.0.1:9000", "Content_Length": str(len(body)), **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in sent.items() if value is not None]
        channel, transport = self.connect(peer)
        channel.dataReceived(
            "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("utf-8", "surrogateescape") + body
        )
        return channel, transport

    def ask(self, method: str, path: str, body: bytes = b"", peer: IAddress = LOCAL, **headers: str | None) -> Reply:
        """Ask something, and return the answer."""
        channel, transport = self.open(method, path, body, peer, **headers)
        # The metrics are made in turns.
        self.clock.advance(0)
        raw = transport.value()
        hang_up(channel)
        return read_reply(raw)

    def get(self, path: str, peer: IAddress = LOCAL, **headers: str | None) -> Reply:
        """Read."""
        return self.ask("GET", path, b"", peer, **headers)

    def post(self, path: str, value: Any = None, peer: IAddress = LOCAL, **headers: str | None) -> Reply:
        """Change something, as one who may."""
        sent = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json", **headers}
        return self.ask("POST", path, json.dumps({} if value is None else value).encode(), peer, **sent)


def control_of(proxy: Proxy) -> LocalControl:
    """The control of a proxy in memory."""
    clock: Any = proxy.reactor
    factory = proxy.factory
    replica = proxy.replica or proxy.make_replica(MemoryStore(Memory(Ledger("life", clock.seconds))))
    happenings = Happenings(clock.seconds)
    factory.watch(happenings.note)
    return LocalControl(factory, Reporter(factory, replica, Lag(clock), 0, "memory"), happenings)


def hang_up(channel: Any) -> None:
    """End a connection from its far end."""
    channel.connectionLost(Failure(ConnectionDone()))
