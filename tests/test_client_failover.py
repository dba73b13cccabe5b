"""Several proxies behind one endpoint: which one is connected to, and when the next one is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet._resolver import HostResolution
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rproxy.client.failover import HEAD_START, REST, FailoverEndpoint, NoProxyError
from tests.endpoints import Peer
from tests.transports import connect, lose

REFUSED = "Connection was refused by other side."
SLOWER = "it was slower to connect than the next one"


class FailoverCase(SynchronousTestCase):
    """Proxies a, b and c, in that order."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.proxies = {name: Peer() for name in "abc"}
        self.left: list[tuple[str, str, str]] = []
        self.endpoint = self.make(self.proxies)

    def make(self, proxies: Mapping[str, IStreamClientEndpoint]) -> FailoverEndpoint:
        return FailoverEndpoint(
            proxies, self.clock, shuffle=lambda line: None, left=lambda *told: self.left.append(told)
        )

    def tearDown(self) -> None:
        """Nothing is left over."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.attempted(), "")

    def connect(self) -> Deferred[IProtocol]:
        return self.endpoint.connect(Factory.forProtocol(Protocol))

    def attempted(self) -> str:
        """Which proxies are being connected to."""
        return "".join(name for name, peer in self.proxies.items() if peer.attempts)

    def connected(self, name: str) -> IProtocol:
        """Connect, at the first attempt, to that one."""
        connecting = self.connect()
        self.assertEqual(self.attempted(), name)
        self.proxies[name].accept()
        return self.successResultOf(connecting)


class OrderTests(FailoverCase):
    """Who is the next."""

    def test_stays(self) -> None:
        """With one that works, also when a connection to it was lost without its fault."""
        for _ in range(3):
            lose(self.connected("a"))
        self.assertEqual(self.left, [])

    def test_leave(self) -> None:
        """One that failed is the last in the line: it is come back to when all the others failed after it."""
        for name, following in ("a", "b"), ("b", "c"), ("c", "a"), ("a", "b"):
            self.endpoint.leave(self.connected(name), "it is stopping")
            self.assertEqual(self.left.pop(), (name, following, "it is stopping"))

    def test_leave_once(self) -> None:
        """A connection's proxy fails once by it, and what isn't a connection of ours has none."""
        connection = self.connected("a")
        for _ in range(2):
            self.endpoint.leave(connection, "lost")
        self.endpoint.leave(Protocol(), "lost")

        self.assertEqual(self.left, [("a", "b", "lost")])

    def test_shared(self) -> None:
        """All clients of a proxy that fails go to the same next one, and none further because of the others."""
        connections = [self.connected("a") for _ in range(3)]
        for connection in connections:
            self.endpoint.leave(connection, "lost")

        self.connected("b")

    def test_rested(self) -> None:
        """There is a reason to wait when all failed lately."""
        self.assertTrue(self.endpoint.is_rested)
        for name, rested in ("a", True), ("b", True), ("c", False):
            self.endpoint.leave(self.connected(name), "lost")
            self.assertEqual(self.endpoint.is_rested, rested)
        self.clock.advance(REST)
        self.assertTrue(self.endpoint.is_rested)

    def test_other(self) -> None:
        """A connection is left for something better only."""
        for name in "abc":
            connection = self.connected(name)
            self.assertEqual(self.endpoint.has_other_than(connection), name != "c")
            self.endpoint.leave(connection, "lost")
        connection = self.connected("a")
        self.assertFalse(self.endpoint.has_other_than(connection))
        self.clock.advance(REST)
        self.assertTrue(self.endpoint.has_other_than(connection))

    def test_only_one(self) -> None:
        """It is the next one after itself, and never another than itself."""
        self.endpoint = self.make({"a": self.proxies["a"]})
        connection = self.connected("a")
        self.assertFalse(self.endpoint.has_other_than(connection))
        self.endpoint.leave(connection, "lost")

        self.assertEqual(self.left, [("a", "a", "lost")])
        self.assertFalse(self.endpoint.is_rested)
        self.connected("a")

    def test_lot(self) -> None:
        """Each client has an order of its own: the clients of one that fails don't all come to the same next one."""
        firsts, seconds = set(), set()
        for _ in range(200):
            endpoint = FailoverEndpoint(self.proxies, self.clock)
            connecting = endpoint.connect(Factory.forProtocol(Protocol))
            first = self.attempted()
            firsts.add(first)
            self.proxies[first].refuse()
            if first == "a":
                seconds.add(self.attempted())
            connecting.addErrback(lambda _: None)
            connecting.cancel()

        self.assertEqual((firsts, seconds), (set("abc"), set("bc")))

    def test_none(self) -> None:
        """There has to be one."""
        self.assertRaises(ValueError, FailoverEndpoint, {}, self.clock)


class AttemptTests(FailoverCase):
    """Connecting."""

    def test_refused(self) -> None:
        """The next one is tried at once, and kept to."""
        connecting = self.connect()
        self.proxies["a"].refuse()
        self.assertEqual((self.attempted(), self.clock.seconds()), ("b", 0))
        self.proxies["b"].accept()

        self.assertIs(self.successResultOf(connecting), self.proxies["b"].protocol)
        self.assertEqual(self.left, [("a", "b", REFUSED)])
        self.connected("b")

    def test_all_refused(self) -> None:
        """Each is tried once, and the failure has what each of them said."""
        connecting = self.connect()
        for name in "abc":
            self.assertEqual(self.attempted(), name)
            self.proxies[name].refuse()

        failure = self.failureResultOf(connecting, NoProxyError)
        self.assertEqual(failure.getErrorMessage(), f"a: {REFUSED}; b: {REFUSED}; c: {REFUSED}")
        self.assertFalse(self.endpoint.is_rested)
        self.connected("a")

    def test_only_one_refused(self) -> None:
        """What it said comes as it is."""
        self.endpoint = self.make({"a": self.proxies["a"]})
        connecting = self.connect()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.proxies["a"].refuse()

        self.failureResultOf(connecting, ConnectionRefusedError)

    def test_refused_at_once(self) -> None:
        """Endpoints may fail before they return."""

        @implementer(IStreamClientEndpoint)
        class Nowhere:
            def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
                return fail(Failure(ConnectionRefusedError()))

        self.endpoint = FailoverEndpoint({"x": Nowhere(), "y": Nowhere()}, self.clock)

        self.failureResultOf(self.connect(), NoProxyError)

    def test_raises(self) -> None:
        """One that raises has failed like any other, also when its turn comes by the clock."""

        @implementer(IStreamClientEndpoint)
        class Faulty:
            def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
                raise ValueError("a fault")

        slow = Peer()
        self.endpoint = self.make({"x": Faulty(), "a": slow, "y": Faulty()})
        connecting = self.connect()
        self.clock.advance(HEAD_START)
        self.assertEqual(self.left, [("x", "a", "a fault"), ("y", "a", "a fault")])
        slow.accept()

        self.assertIs(self.successResultOf(connecting), slow.protocol)

    def test_black_hole(self) -> None:
        """One that says nothing costs a head start, and is the last one from then on."""
        connecting = self.connect()
        self.clock.advance(HEAD_START - 0.01)
        self.assertEqual(self.attempted(), "a")
        self.clock.advance(0.01)
        self.assertEqual(self.attempted(), "ab")
        self.proxies["b"].accept()

        self.assertIs(self.successResultOf(connecting), self.proxies["b"].protocol)
        self.assertEqual((self.attempted(), self.proxies["a"].cancelled), ("", 1))
        self.assertEqual(self.left, [("a", "b", SLOWER)])
        for name in "bca":
            self.endpoint.leave(self.connected(name), "lost")

    def test_slow(self) -> None:
        """One that is slow is still waited for, and those that had less time have not failed."""
        connecting = self.connect()
        self.clock.advance(HEAD_START)
        self.clock.advance(HEAD_START)
        self.assertEqual(self.attempted(), "abc")
        self.proxies["a"].accept()

        self.assertIs(self.successResultOf(connecting), self.proxies["a"].protocol)
        self.assertEqual((self.attempted(), self.left), ("", []))

    def test_all_black_holes_but_one(self) -> None:
        """However many: the last one is tried after so many head starts."""
        connecting = self.connect()
        self.clock.advance(HEAD_START)
        self.proxies["b"].refuse()
        self.assertEqual(self.attempted(), "ac")
        self.proxies["c"].accept()

        self.assertIs(self.successResultOf(connecting), self.proxies["c"].protocol)
        self.assertEqual([name for name, *_ in self.left], ["b", "a"])

    def test_fails_last(self) -> None:
        """The end is when the last of them has failed, whichever that is."""
        connecting = self.connect()
        self.clock.advance(HEAD_START)
        self.proxies["b"].refuse()
        self.proxies["c"].refuse()
        self.assertNoResult(connecting)
        self.proxies["a"].refuse()

        self.failureResultOf(connecting, NoProxyError)

    def test_cancel(self) -> None:
        """Every attempt ends, and none begins; nobody failed."""
        connecting = self.connect()
        self.clock.advance(HEAD_START)
        connecting.cancel()

        self.failureResultOf(connecting, CancelledError)
        self.assertEqual([self.proxies[name].cancelled for name in "abc"], [1, 1, 0])
        self.assertEqual(self.left, [])
        self.connected("a")


@implementer(IHostnameResolver)
class Resolver:
    """Knows the addresses of one name."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolution = HostResolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for host in self.hosts:
            resolutionReceiver.addressResolved(IPv4Address("TCP", host, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution


class NameTests(SynchronousTestCase):
    """A name with several addresses is one proxy, which is connected to at any of them."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.reactor.nameResolver = Resolver("10.0.0.1", "10.0.0.2", "10.0.0.3")
        name = HostnameEndpoint(self.reactor, "proxies", 8000)
        self.told: list[str] = []
        self.endpoint = FailoverEndpoint(
            {"proxies:8000": name}, self.reactor, left=lambda name, *_: self.told.append(name)
        )

    def tried(self) -> list[str]:
        """The addresses that are or were connected to."""
        return [client[0] for client in self.reactor.tcpClients]

    def test_refused_and_black_hole(self) -> None:
        """The next address is tried when one fails or says nothing; nobody is told before all have failed."""
        connecting = self.endpoint.connect(Factory.forProtocol(Protocol))
        self.reactor.tcpClients[0][2].clientConnectionFailed(
            self.reactor.connectors[0], Failure(ConnectionRefusedError())
        )
        while len(self.tried()) < 3:
            self.reactor.advance(0.1)
        self.assertEqual(self.tried(), ["10.0.0.1", "10.0.0.2", "10.0.0.3"])
        self.assertLess(self.reactor.seconds(), HEAD_START)
        protocol = self.reactor.tcpClients[2][2].buildProtocol(IPv4Address("TCP", "10.0.0.3", 8000))
        assert protocol is not None
        connect(protocol)

        self.successResultOf(connecting)
        self.assertEqual(self.told, [])
