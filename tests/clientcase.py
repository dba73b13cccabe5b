"""Test cases of the client library, of which the test is the proxy, or several."""

from __future__ import annotations

from typing import Literal

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets
from rproxy.client import Answer, Client, ProxyError
from rproxy.client.failover import FailoverEndpoint
from rproxy.packets import Ack, Data
from tests.endpoints import Peer
from tests.transports import lose

TIMEOUT = 60.0


def data(payload: str) -> Data:
    return Data("0", "1", "111", payload, str(len(payload)))


def ack(payload: str, client_id: str = "1") -> bytes:
    return packets.ack("100", client_id, payload)


def refusal(code: str, delivered: Literal["no", "unknown"] = "no") -> bytes:
    return packets.error("rproxy", "1", code, delivered, "because")


class Proxy(Peer):
    """Remembers the connections that it accepted and that aren't lost yet."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[IProtocol] = []

    def accept(self) -> None:
        super().accept()
        self.open.append(self.protocol)

    def lose(self, protocol: IProtocol | None = None, reason: type[Exception] = ConnectionLost) -> None:
        """Lose a connection, the last one unless told otherwise."""
        protocol = protocol or self.protocol
        self.open.remove(protocol)
        lose(protocol, reason)


class ClientCase(SynchronousTestCase):
    """Client 1, of a proxy that is the test, without jitter: it always waits as long as it may."""

    resend = False
    jitter = 1.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.proxy = Proxy()
        self.client = self.make_client()

    def make_client(self, *, reconnect: bool = True) -> Client:
        return Client(
            self.proxy,
            "1",
            self.clock,
            max_in_flight=4,
            max_packet=1000,
            reconnect=reconnect,
            resend=self.resend,
            jitter=lambda: self.jitter,
        )

    def tearDown(self) -> None:
        """Everything has its end: no connection, no timer, no attempt to connect."""
        closing = self.client.close()
        for protocol in self.proxy.open:
            lose(protocol)
        self.successResultOf(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.proxy.attempts, [])

    def reconnects_after(self, since: float) -> float:
        """Let time pass until there is another attempt to connect; return how long after ``since`` that was."""
        self.assertEqual(self.proxy.attempts, [])
        while not self.proxy.attempts:
            self.clock.advance(min(call.getTime() for call in self.clock.getDelayedCalls()) - self.clock.seconds())
        return round(self.clock.seconds() - since, 3)

    def reconnect(self) -> None:
        """Let the next attempt succeed."""
        self.reconnects_after(0.0)
        self.proxy.accept()

    def send(self, *payloads: str) -> list[Deferred[Ack]]:
        return [self.client.send("111", payload) for payload in payloads]

    def connected(self, *payloads: str) -> list[Deferred[Ack]]:
        """Send, and accept the connection."""
        sent = self.send(*payloads)
        self.proxy.accept()
        self.assertEqual(self.proxy.received(), [data(payload) for payload in payloads])
        return sent

    def assert_failed(self, sent: Deferred[Ack] | Deferred[Answer], code: str, delivered: str) -> ProxyError:
        error = self.failureResultOf(sent, ProxyError).value
        assert isinstance(error, ProxyError)
        self.assertEqual((error.code, error.delivered), (code, delivered))
        return error

    def assert_answered(self, sent: Deferred[Ack], payload: str) -> None:
        self.assertEqual(self.successResultOf(sent).payload, payload)


class SeveralCase(SynchronousTestCase):
    """Client 1, of the proxies a and b in that order, without jitter."""

    resend = False
    reconnect = True
    jitter = 1.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.a, self.b = Proxy(), Proxy()
        self.left: list[str] = []
        self.endpoint = FailoverEndpoint(
            {"a": self.a, "b": self.b},
            self.clock,
            shuffle=lambda line: None,
            left=lambda name, *_: self.left.append(name),
        )
        self.client = self.make_client()

    def make_client(self) -> Client:
        return Client(
            self.endpoint,
            "1",
            self.clock,
            reconnect=self.reconnect,
            resend=self.resend,
            jitter=lambda: self.jitter,
        )

    def tearDown(self) -> None:
        closing = self.client.close()
        for proxy in self.a, self.b:
            for protocol in proxy.open:
                lose(protocol)
            self.assertEqual(proxy.attempts, [])
        self.successResultOf(closing)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def send(self, payload: str) -> Deferred[Ack]:
        return self.client.send("111", payload)

    def assert_failed(self, sent: Deferred[Ack], code: str, delivered: str) -> str:
        error = self.failureResultOf(sent, ProxyError).value
        assert isinstance(error, ProxyError)
        self.assertEqual((error.code, error.delivered), (code, delivered))
        return error.text

    def assert_served(self, proxy: Proxy, sent: Deferred[Ack], payload: str) -> None:
        """The proxy has the packet and nothing else, and answers it."""
        self.assertEqual(proxy.received(), [data(payload)])
        proxy.answer(ack(payload.upper()))
        self.assertEqual(self.successResultOf(sent).payload, payload.upper())

    def served_by_a(self) -> None:
        sent = self.send("first")
        self.a.accept()
        self.assert_served(self.a, sent, "first")
