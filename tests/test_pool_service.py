"""The life of a pool server, from its port to its last answer."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets
from rproxy.listening import ListenError, ListenerService
from rproxy.packets import Setup
from rproxy.pool.handling import Handling
from rproxy.pool.leasing import DRAIN_TIMEOUT, Offer
from rproxy.pool.registrar import Registrar
from rproxy.pool.server import PoolServerFactory, PoolServerProtocol
from rproxy.pool.service import CLOSE_TIMEOUT, ON_THEIR_WAY, Address, PoolService
from tests.endpoints import Peer
from tests.transports import Transport, connect, logged_lines, lose, packets_in

ACK = packets.ack("rproxy", "100", "")
DRAIN_TIMEOUT_OPTION = 30.0
PROXIES = [("127.0.0.1", 8000), ("10.0.0.1", 8001)]


class PoolServiceCase(SynchronousTestCase):
    """Server 100, of policies 111 and 222, at two proxies; its handler answers when the test says so."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.proxies: dict[tuple[Address, str], Peer] = {}
        self.asked: list[Deferred[str]] = []
        handling = Handling(server_id="100", policies=frozenset({"111", "222"}), handler=self.ask)
        self.factory = PoolServerFactory(handling, self.reactor)
        self.service = self.make("tcp:5000")

    def make(self, endpoint: str, drain_timeout: float = DRAIN_TIMEOUT_OPTION) -> PoolService:
        self.listener = ListenerService(endpoint, self.factory, self.reactor)
        policies = ["111", "222"]
        return PoolService(self.listener, self.factory, policies, PROXIES, self.register, drain_timeout, self.reactor)

    def register(self, proxy: Address, port: int) -> list[Registrar]:
        registrars = []
        for policy in "111", "222":
            peer = self.proxies[proxy, policy] = Peer()
            offer = Offer(server_id="100", policy=policy, port=port, pipeline=1, lease=1000)
            registrars.append(Registrar(peer, str(proxy), offer, self.reactor, lambda: 1.0))
        return registrars

    def ask(self, payload: str) -> Deferred[str]:
        self.asked.append(Deferred())
        return self.asked[-1]

    def start(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()

    def connect(self) -> tuple[PoolServerProtocol, Transport]:
        """A data connection with one packet in flight."""
        connection = self.factory.buildProtocol(None)
        transport = connect(connection)
        connection.dataReceived(packets.data("1", "111", "a"))
        return connection, transport

    def register_everywhere(self) -> None:
        for peer in self.proxies.values():
            peer.accept()
            peer.answer(ACK)
            peer.received()

    def acknowledge_drain(self) -> None:
        for peer in self.proxies.values():
            (drain,) = peer.received()
            assert isinstance(drain, Setup)
            self.assertTrue(drain.drain)
            peer.answer(ACK)

    def lose_setup_connections(self) -> None:
        for peer in self.proxies.values():
            self.assertTrue(peer.transport.disconnecting)
            lose(peer.protocol)


class StartTests(PoolServiceCase):
    """Listen, then register."""

    def test_order(self) -> None:
        """The port is open before any proxy can know it."""
        self.service.privilegedStartService()
        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.assertEqual(self.proxies, {})

        self.service.startService()

        self.assertEqual(list(self.proxies), [(proxy, policy) for proxy in PROXIES for policy in ("111", "222")])
        for peer in self.proxies.values():
            self.assertEqual(len(peer.attempts), 1)

    def test_how_it_is(self) -> None:
        """Which of its registrations stand, and what it works on."""
        self.start()
        self.assertEqual((self.service.registered, len(self.service.registrars)), (0, 4))
        self.register_everywhere()
        self.connect()
        self.assertEqual((self.service.registered, self.service.in_flight), (4, 1))
        peer = self.proxies[PROXIES[0], "111"]
        lose(peer.protocol)
        self.assertEqual(self.service.registered, 3)

    def test_port(self) -> None:
        """The one that is listened on is registered."""
        self.start()
        peer = self.proxies[PROXIES[0], "222"]
        peer.accept()

        (setup,) = peer.received()
        assert isinstance(setup, Setup)
        self.assertEqual((setup.id, setup.policy, setup.listenport), ("100", "222", 5000))

    def test_words(self) -> None:
        """The lines that people and scripts know, word for word."""
        with logged_lines() as lines:
            self.start()

        self.assertEqual(
            lines,
            [
                "Server running with id 100",
                "Server serving privacy policy 111",
                "Server serving privacy policy 222",
                "Listening on port 5000",
                "Registering with 2 reverse proxies: 127.0.0.1:8000, 10.0.0.1:8001",
                "Connecting to the reverse proxy on port 8000",
                "Connecting to the reverse proxy on port 8001",
            ],
        )

    def test_no_tcp(self) -> None:
        """A port has to be registered."""
        self.service = self.make("unix:/nowhere")

        error = self.assertRaises(ListenError, self.service.privilegedStartService)
        self.assertEqual(str(error), "A pool server listens on TCP: unix:/nowhere has no TCP port")


class StopTests(PoolServiceCase):
    """Nothing that was sent in time is lost."""

    def setUp(self) -> None:
        super().setUp()
        self.start()

    def tearDown(self) -> None:
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_drains(self) -> None:
        """Ask for no more, answer what is there, wait until the proxies have closed, and only then leave."""
        self.register_everywhere()
        connection, transport = self.connect()

        stopped = self.service.stopService()
        self.acknowledge_drain()
        self.asked[0].callback("A")
        self.assertEqual(len(packets_in(transport.taken())), 1)
        self.assertNoResult(stopped)
        self.assertFalse(next(iter(self.proxies.values())).transport.disconnecting)
        # What was on its way is answered too.
        connection.dataReceived(packets.data("1", "111", "b"))
        self.asked[1].callback("B")
        self.assertEqual(len(packets_in(transport.taken())), 1)
        lose(connection)
        self.assertNoResult(stopped)
        self.assertTrue(self.listener.running)
        self.lose_setup_connections()

        self.successResultOf(stopped)
        self.assertFalse(self.listener.running)

    def test_proxies_restarted(self) -> None:
        """Proxies that it hasn't found again yet are told all the same: what they send meanwhile is answered."""
        self.register_everywhere()
        for peer in self.proxies.values():
            lose(peer.protocol)
        connection, transport = self.connect()

        stopped = self.service.stopService()
        for peer in self.proxies.values():
            peer.accept()
            _, drain = peer.received()
            assert isinstance(drain, Setup)
            self.assertTrue(drain.drain)
            peer.answer(ACK)
        self.asked[0].callback("A")
        self.assertFalse(transport.disconnecting)
        connection.dataReceived(packets.data("1", "111", "b"))
        self.asked[1].callback("B")
        self.assertEqual(len(packets_in(transport.taken())), 2)
        for peer in self.proxies.values():
            peer.answer(ACK)
        self.assertNoResult(stopped)
        lose(connection)
        self.lose_setup_connections()

        self.successResultOf(stopped)

    def test_unregistered(self) -> None:
        """Where no proxy is told to send no more, what is in flight is waited for, and the connections are closed."""
        for peer in self.proxies.values():
            peer.refuse()
        connection, transport = self.connect()

        stopped = self.service.stopService()
        self.assertNoResult(stopped)
        self.assertFalse(transport.disconnecting)
        self.asked[0].callback("A")

        self.assertEqual(len(packets_in(transport.taken())), 1)
        self.assertTrue(transport.disconnecting)
        self.assertNoResult(stopped)
        lose(connection)
        self.successResultOf(stopped)

    def test_one_proxy_hangs(self) -> None:
        """All are asked at the same time; those that answer are waited for, and not the connections of the other."""
        self.register_everywhere()
        connection, transport = self.connect()
        hanging, hanging_transport = self.connect()
        self.asked[1].callback("B")

        stopped = self.service.stopService()
        for (proxy, _), peer in self.proxies.items():
            (drain,) = peer.received()
            assert isinstance(drain, Setup)
            self.assertTrue(drain.drain)
            if proxy == PROXIES[0]:
                peer.answer(ACK)
        self.reactor.advance(DRAIN_TIMEOUT)
        self.reactor.advance(ON_THEIR_WAY)
        # What the one that drained has in flight is waited for.
        self.assertFalse(transport.disconnecting)
        self.asked[0].callback("A")
        self.assertEqual(len(packets_in(transport.taken())), 1)
        self.lose_setup_connections()

        self.assertTrue(hanging_transport.disconnecting)
        lose(connection)
        lose(hanging)
        self.successResultOf(stopped)
        self.assertLess(self.reactor.seconds(), DRAIN_TIMEOUT_OPTION)

    def test_one_proxy_is_away(self) -> None:
        """What is on its way from the one that is there still comes."""
        for (proxy, _), peer in self.proxies.items():
            if proxy == PROXIES[0]:
                peer.accept()
                peer.answer(ACK)
                peer.received()
            else:
                peer.refuse()
        connection, transport = self.connect()
        self.asked[0].callback("A")

        stopped = self.service.stopService()
        for (proxy, _), peer in self.proxies.items():
            if proxy == PROXIES[0]:
                peer.answer(ACK)
        self.reactor.advance(ON_THEIR_WAY / 2)
        connection.dataReceived(packets.data("1", "111", "b"))
        self.asked[1].callback("B")
        self.assertEqual(len(packets_in(transport.taken())), 2)
        self.assertNoResult(stopped)
        lose(connection)
        for (proxy, _), peer in self.proxies.items():
            if proxy == PROXIES[0]:
                lose(peer.protocol)

        self.successResultOf(stopped)

    def test_unacknowledged(self) -> None:
        """The same where none acknowledges it in time."""
        self.register_everywhere()
        connection, transport = self.connect()
        self.asked[0].callback("A")

        stopped = self.service.stopService()
        self.assertFalse(transport.disconnecting)
        self.reactor.advance(DRAIN_TIMEOUT)
        self.lose_setup_connections()

        self.assertTrue(transport.disconnecting)
        lose(connection)
        self.successResultOf(stopped)

    def test_timeout(self) -> None:
        """What isn't answered in time is given up, and said to be."""
        self.register_everywhere()
        connection, transport = self.connect()

        stopped = self.service.stopService()
        self.acknowledge_drain()
        with logged_lines() as lines:
            self.reactor.advance(DRAIN_TIMEOUT_OPTION)
        self.assertEqual(lines, ["Stopping with 1 packets in flight, 30 seconds after being told to"])
        self.lose_setup_connections()
        self.assertTrue(transport.disconnecting)
        lose(connection)

        self.successResultOf(stopped)

    def test_short_timeout(self) -> None:
        """It may be over before the proxies have answered; then nothing more is waited for."""
        self.service.stopService()
        self.service = self.make("tcp:5000", drain_timeout=1.0)
        self.start()
        self.register_everywhere()
        connection, transport = self.connect()
        stopped = self.service.stopService()
        first, *_ = self.proxies.values()
        first.answer(ACK)
        self.reactor.advance(DRAIN_TIMEOUT)
        self.reactor.advance(0)

        self.lose_setup_connections()
        self.assertTrue(transport.disconnecting)
        lose(connection)
        self.successResultOf(stopped)

    def test_acknowledged_late(self) -> None:
        """The time for acknowledging a drain is part of it."""
        self.register_everywhere()
        connection, _ = self.connect()
        stopped = self.service.stopService()
        first, *_ = self.proxies.values()
        first.answer(ACK)
        self.reactor.advance(DRAIN_TIMEOUT)

        self.reactor.advance(DRAIN_TIMEOUT_OPTION - DRAIN_TIMEOUT)

        self.lose_setup_connections()
        lose(connection)
        self.successResultOf(stopped)

    def test_peer_doesn_t_read(self) -> None:
        """A connection whose last answers aren't taken is dropped in the end."""
        for peer in self.proxies.values():
            peer.refuse()
        connection, transport = self.connect()
        self.asked[0].callback("A")

        stopped = self.service.stopService()
        self.assertFalse(transport.disconnected)
        self.reactor.advance(CLOSE_TIMEOUT)
        self.assertTrue(transport.disconnected)
        self.assertNoResult(stopped)
        lose(connection)

        self.successResultOf(stopped)
