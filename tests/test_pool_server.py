"""The pool server: every packet answered, in order, within bounds."""

from __future__ import annotations

import json

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.test.iosim import connectedServerAndClient
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets
from rproxy.hashing import sha1_hex
from rproxy.packets import Ack, Error
from rproxy.pool.handling import Handler, Handling
from rproxy.pool.server import PoolServerFactory, PoolServerProtocol
from tests.transports import Transport, connect, logged_lines, lose, packets_in

LINGER = 2.0


def data(payload: str, client_id: str = "1", policy: str = "111") -> bytes:
    return packets.data(client_id, policy, payload)


def acks(*payloads: str, client_id: str = "1") -> list[packets.Packet]:
    """The ACKs of server 100 with these payloads."""
    return [Ack("2", "100", client_id, payload, str(len(payload))) for payload in payloads]


class Slow:
    """A handler that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: dict[str, Deferred[str]] = {}

    def __call__(self, payload: str) -> Deferred[str]:
        self.asked[payload] = Deferred()
        return self.asked[payload]

    def answer(self, payload: str) -> None:
        self.asked.pop(payload).callback(payload.upper())


class PoolServerCase(SynchronousTestCase):
    """One connection of a server with id 100 that serves policies 111 and 222."""

    def setUp(self) -> None:
        self.clock = Clock()

    def serve(
        self, handler: Handler = sha1_hex, pipeline: int = 128, max_packet: int = 1000, log: bool = False
    ) -> None:
        handling = Handling(
            server_id="100",
            policies=frozenset({"111", "222"}),
            handler=handler,
            max_packet=max_packet,
            log_packets=log,
        )
        self.factory = PoolServerFactory(handling, self.clock, pipeline, LINGER)
        self.protocol, self.transport = self.connect()

    def connect(self) -> tuple[PoolServerProtocol, Transport]:
        protocol = self.factory.buildProtocol(None)
        return protocol, connect(protocol)

    def receive(self, *raw: bytes) -> None:
        self.protocol.dataReceived(b"".join(raw))

    def answers(self) -> list[packets.Packet]:
        return packets_in(self.transport.taken())

    def error(self) -> Error:
        """The one answer, which is an error."""
        (answer,) = self.answers()
        assert isinstance(answer, Error)
        self.assertEqual(answer.srcid, "100")
        self.assertEqual(answer.delivered, "unknown")
        return answer


class AnswerTests(PoolServerCase):
    """What comes back."""

    def test_sha1(self) -> None:
        """The default handler answers with the SHA-1 of the payload."""
        self.serve()

        self.receive(data("xyz1"))

        self.assertEqual(self.answers(), acks("b0400cf1f3919fdba057dbd2acc52f148fbb43ac"))

    def test_classic_form(self) -> None:
        """Numbers as ids and no payloadsize are as good; the ACK has ids as text."""
        self.serve(str.upper)

        self.receive(b'{"type": 0, "srcid": 7, "privPolyId": 222, "payload": "abc"}')

        self.assertEqual(self.answers(), acks("ABC", client_id="7"))

    def test_one_write(self) -> None:
        """The answers to what came together leave together."""
        self.serve(str.upper)

        self.receive(*map(data, "abc"))

        self.assertEqual(len(self.transport.writes), 1)
        self.assertEqual(self.answers(), acks("A", "B", "C"))

    def test_cut_anywhere(self) -> None:
        """A packet that comes byte by byte is one packet."""
        self.serve(str.upper)

        for byte in data("abc"):
            self.receive(bytes([byte]))

        self.assertEqual(self.answers(), acks("ABC"))

    def test_deferred(self) -> None:
        """A handler may answer later."""
        slow = Slow()
        self.serve(slow)

        self.receive(data("a"))
        self.assertEqual(self.answers(), [])
        slow.answer("a")

        self.assertEqual(self.answers(), acks("A"))

    def test_coroutine(self) -> None:
        """A handler may be a coroutine function."""
        slow = Slow()

        async def handler(payload: str) -> str:
            return await slow(payload) + "!"

        self.serve(handler)
        self.receive(data("a"), data("b"))
        slow.answer("b")
        slow.answer("a")

        self.assertEqual(self.answers(), acks("A!", "B!"))

    def test_order(self) -> None:
        """Answers leave in the order of the packets, whoever is ready first."""
        slow = Slow()
        self.serve(lambda payload: slow(payload) if payload.islower() else payload)

        self.receive(*map(data, ["x", "a", "Y", "b"]))
        slow.answer("b")
        self.assertEqual(self.answers(), [])
        slow.answer("x")
        self.assertEqual(self.answers(), acks("X"))
        slow.answer("a")

        self.assertEqual(len(self.transport.writes), 1)
        self.assertEqual(self.answers(), acks("A", "Y", "B"))

    def test_no_delay(self) -> None:
        """Small answers aren't held back, and a vanished peer is noticed."""
        self.serve()

        self.assertTrue(self.transport.no_delay)
        self.assertTrue(self.transport.keep_alive)


class FailureTests(PoolServerCase):
    """A packet that fails takes no other with it."""

    def check_failed(self, *errors: type[Exception]) -> None:
        """The packet from client 7 has failed, the log says why, the answer doesn't, and the connection lives on."""
        error = self.error()
        self.assertEqual((error.destid, error.error), ("7", "failed"))
        self.assertNotIn("secret", error.payload)
        self.assertEqual(len(self.flushLoggedErrors(*errors)), 1)
        self.assertFalse(self.transport.disconnecting)
        self.receive(data("good"))
        self.assertEqual(self.answers(), acks("GOOD"))

    def test_raises(self) -> None:
        """An error packet in its turn."""

        def handler(payload: str) -> str:
            if payload == "secret":
                raise RuntimeError(payload)
            return payload.upper()

        self.serve(handler)
        self.receive(data("secret", "7"))

        self.check_failed(RuntimeError)

    def test_fails_later(self) -> None:
        """The same where a coroutine fails, and the packets around it are answered."""
        slow = Slow()

        async def handler(payload: str) -> str:
            if payload == "secret":
                await slow(payload)
                raise RuntimeError(payload)
            return payload.upper()

        self.serve(handler)
        self.receive(data("before"), data("secret", "7"))
        self.assertEqual(self.answers(), acks("BEFORE"))
        slow.answer("secret")

        self.check_failed(RuntimeError)

    def test_no_text(self) -> None:
        """A result that is no text."""
        wrong: Handler = lambda payload: None if payload == "secret" else payload.upper()  # type: ignore[assignment, return-value]  # noqa: E731
        self.serve(wrong)

        self.receive(data("secret", "7"))

        self.check_failed(TypeError)

    def test_deferred_no_text(self) -> None:
        """The same, later."""
        slow = Slow()
        self.serve(lambda payload: slow(payload) if payload == "secret" else payload.upper())

        self.receive(data("secret", "7"))
        slow.asked["secret"].callback(b"secret")  # type: ignore[arg-type]

        self.check_failed(TypeError)

    def test_surrogate(self) -> None:
        """A result that can't be encoded."""
        self.serve(lambda payload: "\ud800" if payload == "secret" else payload.upper())

        self.receive(data("secret", "7"))

        self.check_failed(UnicodeEncodeError)

    def test_too_long(self) -> None:
        """An answer longer than the proxy reads would cost it the whole connection."""
        self.serve(lambda payload: "x" * 1000 if payload == "secret" else payload.upper())

        self.receive(data("secret", "7"))

        self.check_failed(ValueError)

    def test_forbidden(self) -> None:
        """A policy that isn't served is refused, whatever the proxy thinks; no handler sees the payload."""
        slow = Slow()
        self.serve(slow)

        self.receive(data("a", "7", "333"))

        error = self.error()
        self.assertEqual((error.destid, error.error), ("7", "forbidden"))
        self.assertEqual(slow.asked, {})

    def test_bad_packet(self) -> None:
        """What is no packet is refused in its turn, and the connection goes on."""
        slow = Slow()
        self.serve(slow)

        self.receive(data("a"), b'{"type": "0", "srcid": "7"}', data("b"))
        slow.answer("a")
        slow.answer("b")

        first, error, last = self.answers()
        self.assertEqual([first, last], acks("A", "B"))
        assert isinstance(error, Error)
        self.assertEqual((error.srcid, error.destid, error.error), ("100", "7", "bad-packet"))

    def test_other_packets(self) -> None:
        """Only data packets are for a pool server."""
        for raw in (
            packets.ack("1", "100", "x"),
            packets.setup("100", "111", 5000),
            packets.error("", "", "x", "no", ""),
        ):
            self.serve()
            self.receive(raw)
            self.assertEqual(self.error().error, "bad-packet")
            self.assertFalse(self.transport.disconnecting)


class StreamErrorTests(PoolServerCase):
    """A stream that can't be trusted any more is told so, and closed so that it hears it."""

    def test_lingers(self) -> None:
        """The error is written, our side shut, and what still comes discarded, for a while."""
        self.serve()

        self.receive(data("a"), b"GET / HTTP/1.1\r\n")
        self.receive(data("b"))

        answers = self.answers()
        self.assertEqual(answers[:1], acks(sha1_hex("a")))
        self.assertEqual([getattr(answer, "error", None) for answer in answers[1:]], ["bad-packet"])
        self.assertTrue(self.transport.writing_closed)
        self.clock.advance(LINGER - 0.1)
        self.assertFalse(self.transport.disconnected)
        self.clock.advance(0.2)
        self.assertTrue(self.transport.disconnected)
        lose(self.protocol, ConnectionAborted)

    def test_after_the_answers(self) -> None:
        """The error comes in its turn, and nothing is closed before."""
        slow = Slow()
        self.serve(slow)

        self.receive(data("a"), b"[]", data("b"))
        self.assertEqual(self.answers(), [])
        self.assertFalse(self.transport.writing_closed)
        slow.answer("a")

        first, error = self.answers()
        self.assertEqual([first], acks("A"))
        self.assertIsInstance(error, Error)
        self.assertTrue(self.transport.writing_closed)

    def test_too_large(self) -> None:
        """A packet over the limit."""
        self.serve(max_packet=100)

        self.receive(data("x" * 100))

        self.assertEqual(self.error().error, "too-large")
        self.assertTrue(self.transport.writing_closed)

    def test_peer_closes(self) -> None:
        """The lingering ends when the peer has closed too."""
        self.serve()
        self.receive(b"[]")

        self.protocol.readConnectionLost()

        self.assertTrue(self.transport.disconnecting)
        self.protocol.writeConnectionLost()
        lose(self.protocol)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_held_back(self) -> None:
        """A peer that was no longer read from is read from again, to be discarded."""
        slow = Slow()
        self.serve(slow, pipeline=2)

        self.receive(data("a"), b"[]", data("b"))
        self.assertTrue(self.transport.paused)
        slow.answer("a")

        self.assertFalse(self.transport.paused)
        self.assertTrue(self.transport.writing_closed)


class BoundTests(PoolServerCase):
    """What is held is bounded."""

    def test_pipeline(self) -> None:
        """With so many packets unanswered no more are taken, and the peer isn't read from, until some are answered."""
        slow = Slow()
        self.serve(slow, pipeline=2)

        self.receive(*map(data, "abcd"))
        self.assertEqual(list(slow.asked), ["a", "b"])
        self.assertTrue(self.transport.paused)

        slow.answer("b")
        self.assertEqual(list(slow.asked), ["a"])
        slow.answer("a")
        self.assertEqual(self.answers(), acks("A", "B"))
        self.assertEqual(list(slow.asked), ["c", "d"])
        self.assertTrue(self.transport.paused)

        slow.answer("c")
        self.assertFalse(self.transport.paused)
        slow.answer("d")
        self.assertEqual(self.answers(), acks("C", "D"))

    def test_synchronous_handler_isn_t_held(self) -> None:
        """What is answered at once doesn't count."""
        self.serve(str.upper, pipeline=1)

        self.receive(*map(data, "abcd"))

        self.assertEqual(self.answers(), acks(*"ABCD"))
        self.assertFalse(self.transport.paused)

    def test_fired_deferreds(self) -> None:
        """Nor do Deferreds that have their result already, however many come at once."""

        async def handler(payload: str) -> str:
            return payload.upper()

        self.serve(handler, pipeline=1)
        self.receive(*map(data, "abcd"))

        self.assertEqual(len(self.transport.writes), 1)
        self.assertEqual(self.answers(), acks(*"ABCD"))
        self.assertFalse(self.transport.paused)

    def test_peer_doesn_t_read(self) -> None:
        """A peer that doesn't take its answers isn't read from, and what it sent waits."""
        slow = Slow()
        self.serve(lambda payload: slow(payload) if payload.islower() else payload)
        self.assertIs(self.transport.producer, self.protocol)
        self.assertTrue(self.transport.streaming)

        self.protocol.pauseProducing()
        self.assertTrue(self.transport.paused)
        self.receive(data("A"))
        self.assertEqual(self.answers(), [])
        self.protocol.resumeProducing()

        self.assertEqual(self.answers(), acks("A"))
        self.assertFalse(self.transport.paused)

    def test_long_answers(self) -> None:
        """When many bytes are to be written, the transport gets the chance to say that it is full."""
        self.serve(lambda payload: payload * 900, max_packet=1 << 20)

        class FullTransport(Transport):
            def write(self, data: bytes) -> None:
                super().write(data)
                assert self.producer is not None
                self.producer.pauseProducing()

        self.protocol = self.factory.buildProtocol(None)
        self.transport = FullTransport()
        self.protocol.makeConnection(self.transport)
        self.receive(*(data("x") for _ in range(100)))

        self.assertLess(len(self.answers()), 80)
        self.assertTrue(self.transport.paused)

    def test_lost_in_flight(self) -> None:
        """What is in flight on a lost connection is cancelled, quietly, and counted out."""
        slow = Slow()
        self.serve(slow)
        self.receive(data("a"), data("b"))
        self.assertEqual(self.factory.in_flight.number, 2)

        with logged_lines() as lines:
            lose(self.protocol)

        self.assertEqual(self.factory.in_flight.number, 0)
        for deferred in slow.asked.values():
            deferred.addErrback(lambda failure: failure.trap(CancelledError))
        self.assertEqual(
            [line for line in lines if "Gave up" in line], ["Gave up handling a message from client 1"] * 2
        )

    def test_fails_while_cancelled(self) -> None:
        """A handler that fails at being cancelled is told of in the log, and nowhere else."""

        async def handler(payload: str) -> str:
            try:
                return await Slow()(payload)
            finally:
                raise RuntimeError(payload)

        self.serve(handler)
        self.receive(data("a"))

        lose(self.protocol)

        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.transport.taken(), b"")


class HalfCloseTests(PoolServerCase):
    """A peer that has shut its writing side still gets its answers, as a classic client may ask a server directly."""

    def test_provided(self) -> None:
        self.serve()

        self.assertTrue(IHalfCloseableProtocol.providedBy(self.protocol))

    def test_idle(self) -> None:
        """With nothing to answer, the connection is closed."""
        self.serve()
        self.receive(data("a"))

        self.protocol.readConnectionLost()

        self.assertEqual(len(self.answers()), 1)
        self.assertTrue(self.transport.disconnecting)

    def test_in_flight(self) -> None:
        """It is closed after the last answer, and never read from again."""
        slow = Slow()
        self.serve(slow, pipeline=1)
        self.receive(data("a"), data("b"))
        self.assertTrue(self.transport.paused)

        self.protocol.readConnectionLost()
        slow.answer("a")
        self.assertFalse(self.transport.disconnecting)
        slow.answer("b")

        self.assertEqual(self.answers(), acks("A", "B"))
        self.assertTrue(self.transport.disconnecting)
        self.assertTrue(self.transport.paused)

    def test_slow_reader(self) -> None:
        """What is left unread by a peer that doesn't read is answered before the end."""
        self.serve(str.upper)
        self.protocol.pauseProducing()
        self.receive(data("a"))

        self.protocol.readConnectionLost()
        self.assertFalse(self.transport.disconnecting)
        self.protocol.resumeProducing()

        self.assertEqual(self.answers(), acks("A"))
        self.assertTrue(self.transport.disconnecting)

    def test_distrusted(self) -> None:
        """A peer that can send nothing more needs no lingering."""
        slow = Slow()
        self.serve(slow)
        self.receive(data("a"), b"[]")

        self.protocol.readConnectionLost()
        slow.answer("a")

        self.assertEqual(len(self.answers()), 2)
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class WaitTests(PoolServerCase):
    """A stop can wait for what is in flight, and for the connections."""

    def test_idle(self) -> None:
        """Over all connections."""
        slow = Slow()
        self.serve(slow)
        other, _ = self.connect()
        self.successResultOf(self.factory.when_idle())
        self.receive(data("a"))
        other.dataReceived(data("b"))

        idle = self.factory.when_idle()
        slow.answer("a")
        self.assertNoResult(idle)
        slow.answer("b")

        self.successResultOf(idle)

    def test_closed(self) -> None:
        """All of them."""
        self.serve()
        other, _ = self.connect()

        closed = self.factory.when_closed()
        lose(self.protocol)
        self.assertNoResult(closed)
        lose(other)

        self.successResultOf(closed)
        self.successResultOf(self.factory.when_closed())
        self.assertEqual(self.factory.connections, set())

    def test_cancelled(self) -> None:
        """Who waits no longer isn't told."""
        self.serve()
        closed = self.factory.when_closed()

        closed.cancel()

        self.failureResultOf(closed, CancelledError)
        lose(self.protocol)

    def test_close(self) -> None:
        """Closing sends what is written and gives up the rest, and what comes meanwhile isn't gathered."""
        slow = Slow()
        self.serve(slow)
        self.receive(data("a"))

        self.protocol.close()
        self.protocol.close()
        self.receive(data("b"))
        slow.answer("a")

        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.answers(), [])
        self.assertEqual(list(slow.asked), [])

    def test_abort(self) -> None:
        """At once."""
        self.serve()
        self.protocol.close()

        self.protocol.abort()

        self.assertTrue(self.transport.disconnected)


class LogTests(PoolServerCase):
    """The lines that people and scripts know."""

    def test_words(self) -> None:
        """Word for word, with --log-packets."""
        self.serve(log=True)

        with logged_lines() as lines:
            self.receive(data("xyz1"))

        self.assertEqual(
            lines,
            [
                "Received a message from client 1 payload xyz1",
                "Sending a message to the client 1 payload b0400cf1f3919fdba057dbd2acc52f148fbb43ac",
            ],
        )

    def test_escaped(self) -> None:
        """A payload can't forge a line, nor fill the log."""
        self.serve(lambda payload: payload, log=True)

        with logged_lines() as lines:
            self.receive(data("{client}\n\x1b[2J" + "é" * 100))

        shown = json.dumps("{client}\n\x1b[2J" + "é" * 100)[1:-1][:200]
        self.assertEqual(lines[0], f"Received a message from client 1 payload {shown}")
        self.assertEqual(lines[1], f"Sending a message to the client 1 payload {shown}")

    def test_silent(self) -> None:
        """Without it no payload is shown."""
        self.serve()

        with logged_lines() as lines:
            self.receive(data("xyz1"))

        self.assertEqual(lines, [])


class StreamTests(PoolServerCase):
    """With a peer that sends and reads."""

    def test_many(self) -> None:
        """A thousand packets, in reads that cut them anywhere, come back in order."""
        self.serve(str.upper, pipeline=4)
        received: list[bytes] = []

        class Peer(Protocol):
            def dataReceived(self, data: bytes) -> None:
                received.append(data)

        _, _, pump = connectedServerAndClient(lambda: self.factory.buildProtocol(None), Peer)
        stream = b"".join(data(f"a{number}") for number in range(1000))
        for start in range(0, len(stream), 1021):
            pump.clientIO.write(stream[start : start + 1021])
            pump.flush()

        self.assertEqual(packets_in(b"".join(received)), acks(*(f"A{number}" for number in range(1000))))
