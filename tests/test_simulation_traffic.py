"""Who sends which packet of a simulation, and when."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.client import Answer, ProxyError
from rproxy.hashing import sha1_hex
from rproxy.packets import Ack, Error
from rproxy.simulation.traffic import Traffic
from rproxy.simulation.verdict import Outcome
from tests.simulated import packet, right


@define(eq=False)
class FakeConnection:
    """A connection whose packets are answered by the test."""

    sent: list[tuple[bytes, Deferred[Answer]]] = field(factory=list)
    closed: bool = False

    def exchange(self, raw: bytes, client_id: str) -> Deferred[Answer]:
        answer: Deferred[Answer] = Deferred()
        self.sent.append((raw, answer))
        return answer

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)


class TrafficTests(SynchronousTestCase):
    """Packets on their way."""

    def setUp(self) -> None:
        self.connections: list[FakeConnection] = []
        self.clock = Clock()
        self.outcomes: dict[int, Outcome] = {}

    def send(self, packets: int, clients: int, concurrency: int) -> Deferred[None]:
        def connect() -> FakeConnection:
            self.connections.append(FakeConnection())
            return self.connections[-1]

        self.traffic = Traffic(
            [packet(number) for number in range(packets)],
            clients,
            connect,
            self.clock.seconds,
            self.outcomes.__setitem__,
        )
        return Deferred.fromCoroutine(self.traffic.send(concurrency))

    def answer(self, connection: int, number: int, payload: str) -> None:
        ack = Ack("2", "100", "1", payload)
        self.connections[connection].sent[number][1].callback(Answer(b"", ack))

    def test_one_after_the_other(self) -> None:
        """The next packet goes when the one before is answered, and a connection goes with its last packet."""
        sending = self.send(3, 2, 1)
        self.assertEqual(len(self.connections), 1)
        self.clock.advance(0.25)
        self.answer(0, 0, sha1_hex("xyz0"))
        self.answer(1, 0, "something else")
        self.assertEqual([connection.closed for connection in self.connections], [False, True])
        self.answer(0, 1, sha1_hex("xyz2"))

        self.successResultOf(sending)
        self.assertEqual(self.outcomes[0], right(0, seconds=0.25))
        self.assertEqual([self.outcomes[number].hash_right for number in range(3)], [True, False, True])
        self.assertTrue(self.connections[0].closed)

    def test_concurrency(self) -> None:
        """So many at a time, over all connections together, in the order of the packets."""
        self.send(5, 2, 3)
        self.assertEqual([[raw for raw, _ in each.sent] for each in self.connections], [[b"{0}", b"{2}"], [b"{1}"]])
        self.answer(1, 0, "")

        self.assertEqual([raw for raw, _ in self.connections[1].sent], [b"{1}", b"{3}"])

    def test_errors(self) -> None:
        """What the proxy refuses, and what it doesn't answer at all."""
        sending = self.send(2, 1, 1)
        error = Error("3", "rproxy", "0", "no-server", "no", "nobody serves it")
        self.connections[0].sent[0][1].callback(Answer(b"", error))
        self.connections[0].sent[1][1].errback(ProxyError("connection-lost", "unknown", "it broke"))

        self.successResultOf(sending)
        self.assertEqual(self.outcomes[0].error, "no-server: nobody serves it")
        self.assertEqual(self.outcomes[1].error, "connection-lost: it broke")

    def test_given_up(self) -> None:
        """What is in flight is waited for no longer; the connections can be closed."""
        sending = self.send(5, 5, 2)
        sending.cancel()
        self.failureResultOf(sending)
        self.successResultOf(Deferred.fromCoroutine(self.traffic.close()))

        self.assertEqual(self.outcomes, {})
        self.assertEqual([connection.closed for connection in self.connections], [True, True])
