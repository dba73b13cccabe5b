"""A whole proxy in memory: its clients, its servers and its time, for tests that read like transcripts.

The proxy runs on Twisted's own TCP transports; only what is below them, the sockets, and what is around them, the
reactor (:mod:`tests.memorytcp`) and the far ends, is made for tests. So a test sees what a peer would see: segments, a
shut writing side, resets that overtake what was sent before, a peer that reads nothing. Whatever a test does is carried
through to its end before the call returns, unless it does several things :meth:`Proxy.at_once`; no time passes but by
:meth:`Proxy.advance`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from attrs import define, field
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rproxy.downstream import ClientProtocol, ServerProtocol
from rproxy.limits import Limits
from rproxy.policies import EVERYTHING, Policies
from rproxy.process.sweeping import SWEEP
from rproxy.proxy import Entrance, ProxyFactory
from rproxy.registry.claims import Claims
from rproxy.registry.registration import Address, Registration
from rproxy.rotation import Member
from rproxy.stores import Store
from rproxy.stores.replica import Replica
from tests.memorytcp import MemoryConnection, MemoryPort, MemoryReactor, MemoryServer, MemorySocket

Packet = dict[str, Any]

#: Where servers live unless a test says otherwise, and where clients come from.
HOST = "10.0.0.5"
CLIENT_HOST = "10.0.0.9"
#: More than a kernel takes for a peer that doesn't read and a transport then buffers without a pause.
BIG = "x" * 200_000
#: A proxy that is busy for longer without being told anything new runs in a circle.
_MAX_TURNS = 10_000


def encode(packet: Packet | bytes) -> bytes:
    """A packet as deployed peers write it; bytes are taken for one already."""
    return packet if isinstance(packet, bytes) else json.dumps(packet).encode()


def data(payload: str, policy: str = "111", client_id: str = "1", **further: Any) -> Packet:
    """A data packet as deployed clients send it."""
    return {"type": "0", "srcid": client_id, "privPoliId": policy, "payload": payload, **further}


def setup(server_id: str, policy: str, port: int, **modern: Any) -> Packet:
    """A setup packet."""
    return {"type": "1", "id": server_id, "privPolyId": policy, "listenport": str(port), **modern}


def ack(packet: Packet, server_id: str, **further: Any) -> Packet:
    """A server's answer; it tells of what and by whom it is: ``xyz1 by 100``."""
    payload = f"{packet['payload']} by {server_id}"
    size = str(len(payload))
    return {
        "type": "2", "srcid": server_id, "destid": packet["srcid"], "payloadsize": size, "payload": payload, **further
    }  # fmt: skip


def summary(packet: Packet) -> str:
    """What a packet says, for comparing: its payload, or of an error the code and whether it was delivered."""
    return f"{packet['error']}/{packet['delivered']}" if str(packet["type"]) == "3" else str(packet["payload"])


class Peer:
    """The far end of a connection of the proxy's."""

    def __init__(self, proxy: Proxy, here: Address, there: Address) -> None:
        self._proxy = proxy
        self._socket = MemorySocket(self, there, here)
        self._texts = json.JSONDecoder()
        #: Whether it takes what the proxy sends; if not, the proxy's kernel does until it is full.
        self.reads = True
        self.received = bytearray()
        #: The proxy has shut its side in order: after what was received comes the end.
        self.ended = False
        #: The proxy has reset the connection: what was not read until then is lost.
        self.was_reset = False
        #: It closed its own side.
        self.closed = False

    @property
    def gone(self) -> bool:
        """Whether the proxy sends no more."""
        return self.ended or self.was_reset

    @property
    def is_read_from(self) -> bool:
        """Whether the proxy took in all that was sent."""
        return not self._socket.segments

    def send(self, *items: Packet | bytes) -> None:
        """Send packets or other bytes as one segment."""
        assert not self.closed, "nothing can be sent after the end"
        if self._socket.closed:
            self.be_reset()
        else:
            self._socket.segments.append(b"".join(map(encode, items)))
            self._proxy.pump()

    def half_close(self) -> None:
        """Send the end, and go on reading."""
        self._socket.ended = True
        self._proxy.pump()

    def close(self) -> None:
        """Close in order."""
        self.closed = True
        self.half_close()

    def reset(self) -> None:
        """Go without a goodbye."""
        self.closed = True
        self._socket.segments.clear()
        self._socket.was_reset = True
        self._proxy.pump()

    def read_again(self) -> None:
        """Take again what the proxy sends."""
        self.reads = True
        self.received += self._socket.sent
        self._socket.sent.clear()
        self._proxy.pump()

    def be_reset(self) -> None:
        """What happens to the peer of a socket that is reset, or closed before it read everything."""
        self.was_reset = True
        self.received.clear()
        self._socket.sent.clear()

    def take_bytes(self) -> bytes:
        """What was received since the last time."""
        received = bytes(self.received)
        self.received.clear()
        return received

    def take(self) -> list[Packet]:
        """The packets that were received whole since the last time."""
        text = self.received.decode()
        packets = []
        end = 0
        while end < len(text):
            try:
                packet, end = self._texts.raw_decode(text, end)
            except ValueError:
                break
            packets.append(packet)
        self.received = bytearray(text[end:].encode())
        return packets


class Client(Peer):
    """A client's or a registering server's end of its connection."""

    def __init__(self, proxy: Proxy, host: str, address: IAddress | None, port: MemoryPort) -> None:
        super().__init__(proxy, (host, proxy.next_number()), port.address)
        self._address = address

    def come_in(self, port: MemoryPort, reactor: MemoryReactor) -> None:
        """Be accepted by the port."""
        host, number = self._socket.getpeername()
        address = self._address or IPv4Address("TCP", host, number)
        protocol = cast(Any, port.factory.buildProtocol(address))
        if protocol is None:
            self._socket.close()
            return
        transport = MemoryServer(
            cast(socket.socket, self._socket), protocol, (host, number), cast(Any, port), number, cast(Any, reactor)
        )
        transport.address = address
        protocol.makeConnection(transport)

    def ask(self, *payloads: str, policy: str = "111", client_id: str = "1") -> None:
        """Send a data packet for each payload, all in one segment."""
        self.send(*(data(payload, policy, client_id) for payload in payloads))

    def answers(self) -> list[str]:
        """A summary of each packet received since the last time."""
        return [summary(packet) for packet in self.take()]


class ServerConnection(Peer):
    """A server's end of a connection that the proxy made to it."""

    def __init__(self, server: MemoryServerHost, number: int) -> None:
        super().__init__(server.proxy, server.address, ("10.0.0.1", number))
        self._server = server
        self._packets: list[Packet] = []
        self._answered = 0

    def connected(self, factory: IProtocolFactory, reactor: MemoryReactor) -> IProtocol:
        """Be what the proxy's new connection leads to."""
        address = IPv4Address("TCP", *self._server.address)
        protocol = factory.buildProtocol(address)
        assert protocol is not None
        transport = MemoryConnection(cast(socket.socket, self._socket), protocol, cast(Any, reactor))
        transport.connected = 1
        transport.startReading()
        protocol.makeConnection(transport)
        return protocol

    @property
    def packets(self) -> list[Packet]:
        """All that it received so far."""
        self._packets += self.take()
        return self._packets

    @property
    def payloads(self) -> list[str]:
        """The payloads of all that it received so far."""
        return [packet["payload"] for packet in self.packets]

    @property
    def unanswered(self) -> list[Packet]:
        """What it hasn't answered yet."""
        return self.packets[self._answered :]

    def answer(self, count: int | None = None, **changes: Any) -> None:
        """Answer the oldest packets, or all, in one segment.

        :param changes: fields that get another value in the answers, or None to be left out.
        """
        packets = self.unanswered[:count]
        self._answered += len(packets)
        answers = [ack(packet, self._server.id_for(packet)) | changes for packet in packets]
        self.send(*({k: v for k, v in answer.items() if v is not None} for answer in answers))


@define(eq=False)
class Attempt:
    """An attempt of the proxy's to connect to a server."""

    server: MemoryServerHost
    factory: IProtocolFactory
    deferred: Deferred[IProtocol]

    def accept(self) -> ServerConnection:
        """Let it succeed."""
        self.server.attempts.remove(self)
        proxy = self.server.proxy
        connection = ServerConnection(self.server, proxy.next_number())
        self.server.connections.append(connection)
        self.deferred.callback(connection.connected(self.factory, proxy.reactor))
        proxy.pump()
        return connection

    def refuse(self, error: Exception | None = None) -> None:
        """Let it fail."""
        self.server.attempts.remove(self)
        self.deferred.errback(Failure(error or ConnectionRefusedError()))
        self.server.proxy.pump()


@implementer(IStreamClientEndpoint)
class MemoryServerHost:
    """One address, and whatever listens there, or doesn't."""

    def __init__(self, proxy: Proxy, address: Address) -> None:
        self.proxy = proxy
        self.address = address
        self.connections: list[ServerConnection] = []
        #: Attempts of the proxy's that neither succeeded nor failed yet.
        self.attempts: list[Attempt] = []
        #: How many there were so far.
        self.attempted = 0
        self._mode = "refuse"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        deferred: Deferred[IProtocol] = Deferred(lambda _: self.attempts.remove(attempt))
        attempt = Attempt(self, protocolFactory, deferred)
        self.attempts.append(attempt)
        self.attempted += 1
        self.proxy.reactor.callLater(self.proxy.limits.connect_timeout, self._time_out, attempt)
        return deferred

    def _time_out(self, attempt: Attempt) -> None:
        if attempt in self.attempts:
            attempt.refuse(TimeoutError())

    def accept(self) -> None:
        """Let attempts to connect succeed from now on."""
        self._set_mode("accept")

    def refuse(self) -> None:
        """Let attempts to connect fail from now on."""
        self._set_mode("refuse")

    def hang(self) -> None:
        """Let attempts to connect neither succeed nor fail."""
        self._set_mode("hang")

    def _set_mode(self, mode: str) -> None:
        self._mode = mode
        self.proxy.pump()

    def settle(self) -> bool:
        """Decide the attempts to connect, and answer whether there were any."""
        attempts = self.attempts if self._mode != "hang" else []
        for attempt in list(attempts):
            if attempt in self.attempts:
                if self._mode == "accept":
                    attempt.accept()
                else:
                    attempt.refuse()
                return True
        return False

    def id_for(self, packet: Packet) -> str:
        """The id that this server registered for the packet's policy."""
        policy = packet.get("privPoliId", packet.get("privPolyId"))
        return self.proxy.ids[str(policy), *self.address]

    @property
    def open(self) -> list[ServerConnection]:
        """The connections that neither side has closed."""
        return [connection for connection in self.connections if not (connection.gone or connection.closed)]

    @property
    def connection(self) -> ServerConnection:
        """The latest connection."""
        return self.connections[-1]

    @property
    def packets(self) -> list[Packet]:
        """All that was received so far, connection by connection."""
        return [packet for connection in self.connections for packet in connection.packets]

    @property
    def payloads(self) -> list[str]:
        """The payloads of all that was received so far, connection by connection."""
        return [packet["payload"] for packet in self.packets]

    def answer(self) -> None:
        """Answer everything that isn't answered yet, on each open connection."""
        for connection in self.open:
            if connection.unanswered:
                connection.answer()


@define(eq=False)
class Proxy:
    """The proxy and its world."""

    limits: Limits = field(factory=Limits)
    policies: Policies = EVERYTHING
    #: Whether servers register at a port of their own.
    apart: bool = False
    #: Where it shares its registrations, and as whom.
    store: Store | None = None
    name: str = "here"
    #: Proxies that share a store share their time.
    reactor: MemoryReactor = field(factory=MemoryReactor)
    factory: ProxyFactory = field(init=False)
    replica: Replica | None = field(default=None, init=False)
    port: MemoryPort = field(init=False)
    setup_port: MemoryPort = field(init=False)
    #: Every client and registering server that ever was.
    _clients: list[Client] = field(factory=list, init=False)
    #: Who registered from where: policy, host and port to id.
    ids: dict[tuple[str, str, int], str] = field(factory=dict, init=False)
    #: Whether the proxy wanted TLS there, last.
    by_tls: dict[Address, bool] = field(factory=dict, init=False)
    _servers: dict[Address, MemoryServerHost] = field(factory=dict, init=False)
    _number: int = field(default=40_000, init=False)
    _busy: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.factory = self.make_factory()
        self.port = self.setup_port = MemoryPort(self.factory, 8000)
        if self.apart:
            self.port = MemoryPort(Entrance(self.factory, ClientProtocol), 8000)
            self.setup_port = MemoryPort(Entrance(self.factory, ServerProtocol), 8001)
            self.factory.doors.registering(self.setup_port)
        self.factory.doors.listening(self.port)
        if self.store is not None:
            self.replica = self.make_replica(self.store)
            self.factory.share(self.replica)
            self.replica.startService()

    def make_replica(self, store: Store) -> Replica:
        """What shares its registrations by that store, once it is started."""
        router = self.factory.router
        return Replica(
            store,
            self.factory.registry,
            cast(Any, self.reactor),
            router.answer_asked,
            router.upstreams.share_with,
            router.upstreams.in_touch,
            lambda: 0.5,
        )

    def make_factory(self) -> ProxyFactory:
        """The proxy itself."""
        claims = Claims(self.name, self.reactor.seconds)
        return ProxyFactory(
            self.limits, cast(Any, self.reactor), self.connect, lambda: 0.5, claims, None, self.policies
        )

    def next_number(self) -> int:
        """An ephemeral port."""
        self._number += 1
        return self._number

    def client(
        self, host: str = CLIENT_HOST, address: IAddress | None = None, port: MemoryPort | None = None
    ) -> Client:
        """A new client connection.

        :param address: what the transport says of its peer, if that isn't an address with the host.
        :param port: where it comes in, if not where clients do.
        """
        port = port or self.port
        client = Client(self, host, address, port)
        self._clients.append(client)
        port.backlog.append(client)
        self.pump()
        return client

    def register(self, server_id: str, policy: str, port: int, host: str = HOST, **modern: Any) -> Client:
        """Register a server as it would itself, and return the connection; a classic server has closed it."""
        connection = self.client(host, port=self.setup_port)
        self.ids[policy, host, port] = server_id
        connection.send(setup(server_id, policy, port, **modern))
        if "lease" not in modern:
            connection.close()
        return connection

    def members(self, policy: str = "111") -> list[Member]:
        """The servers of a policy, as its rotation has them."""
        return self.factory.router.routes[policy].rotation.members

    def registration(self, policy: str = "111") -> Registration:
        """The one registration for a policy."""
        [member] = self.members(policy)
        return member.registration

    def server(self, port: int, host: str = HOST) -> MemoryServerHost:
        """Let a server listen at a port, where every connection was refused until now."""
        server = self.server_at((host, port))
        server.accept()
        return server

    def connect(self, address: Address, by_tls: bool) -> MemoryServerHost:
        """How the proxy reaches servers."""
        self.by_tls[address] = by_tls
        return self.server_at(address)

    def server_at(self, address: Address) -> MemoryServerHost:
        """What is at an address, as it is."""
        if address not in self._servers:
            self._servers[address] = MemoryServerHost(self, address)
        return self._servers[address]

    def pump(self) -> None:
        """Take turns until nothing happens any more."""
        with self.at_once():
            pass

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let several things happen before the proxy can look."""
        if self._busy:
            yield
            return
        self._busy = True
        try:
            yield
            for _ in range(_MAX_TURNS):
                if not self._turn():
                    return
            raise AssertionError("the proxy runs in a circle")
        finally:
            self._busy = False

    def _turn(self) -> bool:
        happened = self.reactor.turn()
        for port in (self.port, self.setup_port):
            while port.reading and port.backlog:
                port.backlog.popleft().come_in(port, self.reactor)
                happened = True
        for server in list(self._servers.values()):
            happened |= server.settle()
        return happened

    def advance(self, seconds: float) -> None:
        """Let time pass in steps, with the sweeps that the proxy's service makes."""
        for _ in range(round(seconds / SWEEP)):
            self.reactor.advance(SWEEP)
            self.sweep()

    def sweep(self) -> None:
        """Do what is due."""
        self.pump()
        self.factory.sweep()
        self.factory.sweep_idle()
        self.pump()

    def check_counters(self) -> None:
        """Every packet that was received went out on one of four ways, or is still there; none went astray.

        :raises AssertionError: it isn't so.
        """
        counters = self.factory.counters
        gone = counters.acked + sum(counters.refused.values()) + counters.client_gone
        in_flight = self.factory.in_flight
        if counters.received != gone + in_flight:
            raise AssertionError(f"{counters} and {in_flight} in flight don't add up")
        if counters.violations:
            raise AssertionError(f"{counters.violations} packets were about to be written to a wrong server")
        unanswered = self.factory.router.quotas.unanswered
        if sum(unanswered.values()) > in_flight or min(unanswered.values(), default=0) < 0:
            raise AssertionError(f"{in_flight} in flight, of which are counted: {unanswered}")

    def check_end(self) -> None:
        """The counters, and that nothing is counted as unanswered once all clients are gone.

        :raises AssertionError: it isn't so.
        """
        self.check_counters()
        if not self.factory.router.quotas.unanswered:
            return
        for client in self._clients:
            if not client.closed:
                client.reset()
        self.check_counters()
        if any(self.factory.router.quotas.unanswered.values()):
            raise AssertionError(f"nobody is left, and still are counted: {self.factory.router.quotas.unanswered}")


class ProxyCase(SynchronousTestCase):
    """A test with proxies whose counters must add up at its end."""

    def proxy(
        self, policies: Policies = EVERYTHING, *, apart: bool = False, name: str = "here", **limits: Any
    ) -> Proxy:
        proxy = Proxy(Limits(**limits), policies, apart, name=name)
        self.addCleanup(proxy.check_end)
        return proxy
