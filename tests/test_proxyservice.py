"""A proxy that is told to stop: what is new, what waits, what is in flight, and how the process ends."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred

from rproxy.proxyservice import CLOSE_TIMEOUT, ProxyService
from tests.memory import ProxyCase, data, encode
from tests.support import Talk, Twistd, data_packet

HOST = "127.0.0.1"
SECONDS = 20.0


class DrainTests(ProxyCase):
    """In memory, with the listeners and the sweeps left to the harness."""

    def setUp(self) -> None:
        self.world = self.proxy(drain_timeout=10)
        self.service = ProxyService(self.world.factory, (), Service(), (), 10, self.world.reactor)
        self.service.startService()
        self.world.register("100", "111", 5000, pipeline=2)
        self.server = self.world.server(5000)

    def stop(self) -> Deferred[None]:
        stopped = self.service.stopService()
        self.world.pump()
        return stopped

    def test_new_packets_are_refused(self) -> None:
        """What comes after is refused, what came before is answered, and then it is over."""
        client = self.world.client()
        client.ask("a")
        stopped = self.stop()
        client.ask("b")
        self.world.advance(1)
        self.assertNoResult(stopped)
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100", "shutting-down/no"])
        self.world.advance(1)
        self.successResultOf(stopped)
        self.assertTrue(client.ended)

    def test_waiting_packets_still_get_their_turn(self) -> None:
        """Those that waited before are no new ones."""
        client = self.world.client()
        client.ask("a", "b", "c")
        stopped = self.stop()
        self.server.answer()
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100", "b by 100", "c by 100"])
        self.world.advance(1)
        self.successResultOf(stopped)

    def test_drain_timeout(self) -> None:
        """What isn't answered by then is told so, each according to whether a server may have it."""
        client = self.world.client()
        client.ask("a", "b")
        self.world.register("200", "222", 6000, pipeline=1)
        self.world.server(6000).hang()
        client.ask("c", policy="222")
        stopped = self.stop()
        self.world.advance(9)
        self.assertNoResult(stopped)
        self.world.advance(1.5)
        self.assertEqual(client.answers(), ["shutting-down/unknown", "shutting-down/unknown", "shutting-down/no"])
        self.world.advance(CLOSE_TIMEOUT)
        self.successResultOf(stopped)
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_client_that_doesnt_read(self) -> None:
        """It isn't waited for for long."""
        client = self.world.client()
        client.reads = False
        client.ask("a")
        self.server.connection.answer(payload="x" * 200_000)
        stopped = self.stop()
        self.world.advance(1)
        self.assertNoResult(stopped)
        self.world.advance(CLOSE_TIMEOUT)
        self.successResultOf(stopped)
        self.world.pump()
        self.assertEqual(len(self.world.factory.clients), 0)

    def test_nothing_in_flight(self) -> None:
        """Idle clients are closed at once."""
        client = self.world.client()
        stopped = self.stop()
        self.world.advance(0.5)
        self.successResultOf(stopped)
        self.assertTrue(client.ended)

    def test_packets_on_their_way(self) -> None:
        """They are refused, and not cut off."""
        client = self.world.client()
        stopped = self.stop()
        client.ask("a")
        self.world.advance(0.25)
        self.assertNoResult(stopped)
        self.assertEqual(client.answers(), ["shutting-down/no"])
        self.world.advance(0.25)
        self.successResultOf(stopped)

    def test_client_that_goes_on_sending(self) -> None:
        """It doesn't keep the proxy."""
        client = self.world.client()
        client.ask("a")
        stopped = self.stop()
        client.ask("b")
        self.world.advance(1)
        self.server.answer()
        for payload in "cd":
            self.assertNoResult(stopped)
            client.ask(payload)
            self.world.advance(0.25)
        self.successResultOf(stopped)
        self.assertEqual(client.answers(), ["a by 100", *["shutting-down/no"] * 3])

    def test_what_comes_while_it_closes(self) -> None:
        """A transport may bring it (TLS does); it isn't taken, as it couldn't be answered."""
        self.world.client()
        (connection,) = self.world.factory.clients
        connection.close()
        connection.dataReceived(encode(data("a")))  # type: ignore[attr-defined]  # it is a protocol
        self.world.pump()
        self.assertEqual((self.world.factory.counters.received, self.server.payloads), (0, []))

    def test_answers_before_the_end(self) -> None:
        """What is refused at the end is written before the connection is closed, and not a turn later."""
        client = self.world.client()
        client.ask("a")
        (connection,) = self.world.factory.clients
        said: list[str] = []
        transport: Any = connection.transport  # type: ignore[attr-defined]  # it is a protocol
        self.patch(transport, "write", lambda raw: said.append("write"))
        self.patch(transport, "loseConnection", lambda: said.append("loseConnection"))
        self.world.factory.close()
        self.assertEqual(said, ["write", "loseConnection"])
        self.assertEqual(client.answers(), [])
        self.world.factory.abort()

    def test_stopped_twice(self) -> None:
        """The second time there is nothing left to do."""
        self.stop()
        self.world.advance(1)
        self.successResultOf(self.service.stopService())

    def test_started_again(self) -> None:
        """It takes packets again, of servers that register again."""
        self.stop()
        self.world.advance(1)
        self.service.startService()
        self.world.register("100", "111", 5000, pipeline=2)
        client = self.world.client()
        client.ask("a")
        self.server.answer()
        self.assertEqual(client.answers(), ["a by 100"])


@pytest.fixture
def slow() -> Iterator[socket.socket]:
    """Where a server listens that answers when the test does."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(SECONDS)
        yield listener


def in_flight(proxy: Twistd, slow: socket.socket, talk: Talk) -> socket.socket:
    """The server's side of a connection with one packet of the talk's on it."""
    setup: dict[str, Any] = {"type": "1", "id": "9", "privPolyId": "111", "listenport": str(slow.getsockname()[1])}
    with closing(Talk(proxy.port)) as server:
        server.send(str(setup | {"pipeline": 4}).replace("'", '"').encode())
        proxy.wait_for_log("Received setup message from server id 9")
    talk.send(data_packet("1", "111", "xyz1"))
    connection, _ = slow.accept()
    connection.settimeout(SECONDS)
    assert b"xyz1" in connection.recv(2048)
    return connection


def test_sigterm(slow: socket.socket) -> None:
    """The process accepts no more, has the last packet answered, and ends with exit code 0."""
    with Twistd("rproxy", "--port", "0") as proxy, closing(Talk(proxy.port)) as talk:
        with closing(in_flight(proxy, slow, talk)) as server:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait_for_log(r"Port \d+ Closed")
            with pytest.raises(ConnectionRefusedError):
                Talk(proxy.port)
            talk.send(data_packet("1", "111", "xyz2"))
            server.sendall(b'{"type":"2","srcid":"9","destid":"1","payload":"done"}')
            assert talk.answer()["payload"] == "done"
            refused = talk.answer()
            assert (refused["error"], refused["delivered"]) == ("shutting-down", "no")
            talk.assert_end()
        assert proxy.wait() == 0
        assert "Stopped after 2 packets: 1 acked, 1 refused, 0 whose client was gone" in proxy.log
        assert "Traceback" not in proxy.log


def test_second_sigterm(slow: socket.socket) -> None:
    """It ends at once, whatever is in flight."""
    with (
        Twistd("rproxy", "--port", "0") as proxy,
        closing(Talk(proxy.port)) as talk,
        closing(in_flight(proxy, slow, talk)),
    ):
        proxy.send_signal(signal.SIGTERM)
        proxy.wait_for_log("Received SIGTERM: stopping")
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait() == -signal.SIGTERM


def test_drain_timeout(slow: socket.socket) -> None:
    """A server that doesn't answer is waited for no longer than that."""
    with Twistd("rproxy", "--port", "0", "--drain-timeout", "0.5") as proxy, closing(Talk(proxy.port)) as talk:
        with closing(in_flight(proxy, slow, talk)):
            proxy.send_signal(signal.SIGTERM)
            refused = talk.answer()
            assert (refused["error"], refused["delivered"]) == ("shutting-down", "unknown")
            assert proxy.wait() == 0
        assert "Gave up answering the last packets" in proxy.log


def test_sigterm_at_once() -> None:
    """A proxy that says that it runs can be stopped in order, however soon."""
    for _ in range(5):
        with Twistd("rproxy", "--port", "0") as proxy:
            assert proxy.stop() == 0
