"""What a packet costs the proxy, in things that can be counted, so that it can't grow unnoticed.

Time says little on a machine that others use too, so nothing is timed here. What is counted is what the time is spent
on: function calls, decodes, writes, Deferreds, delayed calls, log events; and none of it may depend on how many
clients, servers and policies there are. The figures in time are those of ``bench/`` (docs/explanation/performance.rst).

Python itself tells what is called and executed (:func:`sys.setprofile`, :func:`sys.settrace`), so nothing of the
proxy's is replaced for counting; below it are transports that do nothing.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from functools import cache, partial
from json import decoder, encoder
from types import FrameType
from typing import Any, cast

from attrs import define
from msgspec.json import Decoder
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, Logger, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rproxy import packets
from rproxy.limits import Limits
from rproxy.proxy import ProxyFactory
from rproxy.registry.claims import Claims
from rproxy.registry.registration import Address
from rproxy.stores.ledger import Ledger
from rproxy.stores.memory import Memory, MemoryStore
from rproxy.stores.replica import Replica
from tests.support import data_packet

#: Packets in one segment of a client that pipelines.
DEPTH = 16
#: Clients, servers and policies, where there are many.
MANY = 1000

# At most so many Python functions, Twisted's included, are called for a packet and its answer: today's count and a
# little, for what other versions of Python and Twisted need more.
#
# When a test says that it is more: look first whether what is new can be done once for a connection, once for what a
# read brought, or only where somebody asked for it. Where it has to be, raise the number in the same change, say in its
# message what it buys, and measure what docs/explanation/performance.rst tells again. When it is far less, lower the
# number.
KEEP_ALIVE_CALLS = 26  # 25, of which 1 asks for the time, for the figures by policy and server
PIPELINED_CALLS = 4  # 3.8
ONE_SHOT_CALLS = 48  # 47
CLASSIC_CALLS = 85  # 83

_JSON = {decoder.__file__, encoder.__file__}
_HERE = sys._getframe().f_code.co_filename


# Peers encode what they send, and that isn't the proxy's work.


@cache
def question(policy: int) -> bytes:
    """A data packet of a deployed client's."""
    return data_packet("1", str(policy), "xyz1")


@cache
def answer(number: int) -> bytes:
    """The ACK of the server with that number."""
    return packets.ack(str(number), "1", "done")


class Wire:
    """A transport that only keeps what is written to it."""

    def __init__(self, port: int) -> None:
        self.writes: list[bytes] = []
        self.closing = False
        self._peer = IPv4Address("TCP", "10.0.0.9", port)

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """It never needs a pause."""

    def unregisterProducer(self) -> None:
        """See above."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There is no delay."""

    def loseConnection(self) -> None:
        self.closing = True

    def getPeer(self) -> IPv4Address:
        return self._peer


class End:
    """The far end of one of the proxy's connections."""

    def __init__(self, protocol: Any, port: int = 5000) -> None:
        self.protocol = protocol
        self.wire = Wire(port)
        protocol.makeConnection(self.wire)

    def send(self, data: bytes) -> None:
        """Send it, all in one segment."""
        self.protocol.dataReceived(data)
        self._lose_if_closing()

    def close(self) -> None:
        """Go."""
        self.protocol.readConnectionLost()
        self._lose_if_closing()

    def _lose_if_closing(self) -> None:
        if self.wire.closing:
            self.protocol.connectionLost(connectionDone)


@implementer(IStreamClientEndpoint)
class Server:
    """A server's address, where every connection is made at once."""

    def __init__(self) -> None:
        self.ends: list[End] = []

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        protocol: Any = protocolFactory.buildProtocol(IPv4Address("TCP", "10.0.0.9", 5000))
        self.ends.append(End(protocol))
        return succeed(protocol)

    @property
    def writes(self) -> int:
        """How often the proxy has written."""
        return sum(len(end.wire.writes) for end in self.ends)


class CountingClock(Clock):
    """Counts the delayed calls that were ever made."""

    made = 0

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:
        self.made += 1
        return super().callLater(delay, callable, *args, **kw)


@implementer(ILogObserver)
@define
class Costs:
    """What was counted."""

    #: Python functions that were called, but for those of this module.
    calls: int = 0
    #: Lines that were executed, once for each time round a loop; but for those of this module.
    lines: int = 0
    #: Decodes, be it of one packet or of several together.
    decodes: int = 0
    #: Functions of the slow JSON reader.
    slow: int = 0
    deferreds: int = 0
    delayed: int = 0
    events: int = 0

    def profile(self, frame: FrameType, event: str, called: Any) -> None:
        """Count one event, see :func:`sys.setprofile`."""
        code = frame.f_code
        if event == "c_call":
            self.decodes += isinstance(getattr(called, "__self__", None), Decoder)
        elif event == "call" and code.co_filename != _HERE:
            self.calls += 1
            self.slow += code.co_filename in _JSON
            self.deferreds += code is Deferred.__init__.__code__

    def trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        """Count one event, see :func:`sys.settrace`."""
        if frame.f_code.co_filename == _HERE:
            return None
        self.lines += event == "line"
        return self.trace

    def __call__(self, event: LogEvent) -> None:
        """Count a log event."""
        self.events += 1


class World:
    """A proxy with so many clients, servers and policies; the servers register with setup packets.

    :param policies: how many there are, each with a server of its own.
    :param fellows: how many servers more the first policy has.
    :param declared: what the servers declare.
    """

    def __init__(self, clients: int = 1, policies: int = 1, fellows: int = 0, **declared: Any) -> None:
        self.clock = CountingClock()
        self.servers: dict[Address, Server] = {}
        self.factory = ProxyFactory(Limits(), self.clock, self._at, lambda: 0.5, Claims("here", self.clock.seconds))
        self._share()
        self.clients = [self.client() for _ in range(clients)]
        for number in range(policies + fellows):
            registering = self.client()
            policy = str(number if number < policies else 0)
            registering.send(packets.setup(str(number), policy, 10_000 + number, **declared))
            registering.close()

    def _share(self) -> None:
        """Keep registrations in ``memory:``, which is on no packet's way."""
        router, clock = self.factory.router, cast(Any, self.clock)
        store = MemoryStore(Memory(Ledger("life", self.clock.seconds)))
        registry = self.factory.registry
        replica = Replica(
            store,
            registry,
            clock,
            router.answer_asked,
            router.upstreams.share_with,
            router.upstreams.in_touch,
            lambda: 0.5,
        )
        self.factory.share(replica)
        replica.startService()

    def _at(self, address: Address, by_tls: bool) -> Server:
        return self.servers.setdefault(address, Server())

    def server(self, number: int) -> Server:
        """The server with that number, which is its id."""
        return self.servers["10.0.0.9", 10_000 + number]

    def client(self) -> End:
        """A new connection to the proxy."""
        address = IPv4Address("TCP", "10.0.0.9", 40_000)
        return End(self.factory.buildProtocol(address), address.port)

    def ask(self, client: End, number: int = 0, count: int = 1, policy: int | None = None) -> None:
        """Let the client send that many packets at once for the server with that number, and that answer them all.

        :param policy: the server's, if it isn't the one with its number.
        """
        client.send(question(number if policy is None else policy) * count)
        self.server(number).ends[-1].send(answer(number) * count)

    def measure(self, act: Callable[[], object]) -> Costs:
        """Count what happens meanwhile."""
        costs = Costs()
        made = self.clock.made
        profile: Any = sys.getprofile()
        trace = sys.gettrace()
        globalLogPublisher.addObserver(costs)
        # What is left over from elsewhere may end in a call of its own.
        gc.disable()
        sys.settrace(costs.trace)
        sys.setprofile(costs.profile)
        try:
            act()
        finally:
            sys.setprofile(profile)
            sys.settrace(trace)
            gc.enable()
            globalLogPublisher.removeObserver(costs)
        costs.delayed = self.clock.made - made
        return costs


class WayTests(SynchronousTestCase):
    """The usual ways of a packet."""

    def assert_lean(self, costs: Costs, count: int, most: float) -> None:
        """Beside so many calls for each of ``count`` packets there is nothing that nobody asked for."""
        self.assertLessEqual(costs.calls / count, most)
        self.assertEqual((costs.slow, costs.deferreds, costs.delayed, costs.events), (0, 0, 0, 0))

    def test_keep_alive(self) -> None:
        """A connection that is kept, and one packet in each segment: two decodes, and a write to either side."""
        world = World(pipeline=DEPTH)
        (client,), server = world.clients, world.server(0)
        world.ask(client)
        world.ask(client)
        costs = world.measure(lambda: world.ask(client))
        self.assert_lean(costs, 1, KEEP_ALIVE_CALLS)
        self.assertEqual((costs.decodes, len(client.wire.writes), server.writes), (2, 3, 3))

    def test_pipelined(self) -> None:
        """Many packets in a segment: two decodes and one write to the client for all of them together."""
        world = World(pipeline=DEPTH)
        (client,), server = world.clients, world.server(0)
        world.ask(client, count=DEPTH)
        world.ask(client, count=DEPTH)
        costs = world.measure(lambda: world.ask(client, count=DEPTH))
        self.assert_lean(costs, DEPTH, PIPELINED_CALLS)
        self.assertEqual((costs.decodes, len(client.wire.writes)), (2, 3))
        # The transport makes one send of them.
        self.assertEqual(server.writes, 3 * DEPTH)

    def test_one_shot(self) -> None:
        """A client's connection for each packet, to a server that keeps its own."""
        world = World(pipeline=DEPTH)
        clients: list[End] = []

        def act() -> None:
            clients.append(client := world.client())
            world.ask(client)
            client.close()

        act()
        act()
        costs = world.measure(act)
        self.assert_lean(costs, 1, ONE_SHOT_CALLS)
        self.assertEqual(costs.decodes, 2)
        self.assertEqual([len(client.wire.writes) for client in clients], [1, 1, 1])
        self.assertEqual(world.server(0).writes, 3)

    def test_classic(self) -> None:
        """A connection for each packet on either side; that to the server is awaited, which takes a Deferred."""
        world = World()
        clients: list[End] = []

        def act() -> None:
            clients.append(client := world.client())
            world.ask(client)
            client.close()

        act()
        act()
        costs = world.measure(act)
        self.assertLessEqual(costs.calls, CLASSIC_CALLS)
        self.assertEqual((costs.decodes, costs.slow, costs.delayed, costs.events), (2, 0, 0, 0))
        # The endpoint's.
        self.assertLessEqual(costs.deferreds, 1)
        self.assertEqual([len(client.wire.writes) for client in clients], [1, 1, 1])
        self.assertEqual([len(end.wire.writes) for end in world.server(0).ends], [1, 1, 1])

    def test_counting(self) -> None:
        """What is counted here would be noticed if it were there."""
        world = World()
        # A type that is no text.
        costs = world.measure(lambda: world.client().send(b'{"type": 0, "srcid": "1", "payload": "xyz1"}'))
        for found in (costs.calls, costs.decodes, costs.slow):
            self.assertGreater(found, 0)

        def act() -> None:
            world.clock.callLater(1, Deferred)
            Deferred[None]()
            Logger().info("noticed")

        costs = world.measure(act)
        self.assertEqual((costs.deferreds, costs.delayed, costs.events), (1, 1, 1))


class GrowthTests(SynchronousTestCase):
    """A packet costs the same, however many clients, servers and policies there are."""

    def costs(self, **sizes: int) -> list[Costs]:
        """Of a packet for the first policy and of one for the last, on a kept connection and on several at once."""
        world = World(pipeline=DEPTH, **sizes)
        last = sizes.get("policies", 1) - 1
        client = world.clients[-1]
        for server in (0, last):
            world.ask(client, server)
            world.ask(client, server)
        return [
            world.measure(partial(world.ask, client, server, count)) for server in (0, last) for count in (1, DEPTH)
        ]

    def test_clients(self) -> None:
        self.assertEqual(self.costs(clients=MANY), self.costs())

    def test_policies(self) -> None:
        """And as many servers."""
        self.assertEqual(self.costs(policies=MANY), self.costs())

    def test_all(self) -> None:
        self.assertEqual(self.costs(clients=MANY, policies=MANY), self.costs())

    def test_servers_of_a_policy(self) -> None:
        """Each gets one packet in turn, and each costs the same."""
        costs: list[Costs] = []
        for servers in (1, MANY):
            world = World(fellows=servers - 1, pipeline=DEPTH)
            asks = [partial(world.ask, world.clients[0], number, policy=0) for number in range(servers)]
            for ask in asks:
                ask()
            costs += map(world.measure, asks)
        for each in costs:
            # One line more where the round begins anew.
            self.assertLessEqual(abs(each.lines - costs[0].lines), 2)
            each.lines = costs[0].lines
            self.assertEqual(each, costs[0])

    def test_one_shot(self) -> None:
        """Coming and going costs the same too."""
        costs = []
        for size in (1, MANY):
            world = World(clients=size, policies=size, pipeline=DEPTH)

            def act(world: World = world, last: int = size - 1) -> None:
                client = world.client()
                world.ask(client, last)
                client.close()

            act()
            costs.append(world.measure(act))
        self.assertEqual(costs[0], costs[1])
