"""One connection of the client library: which answer belongs to which packet, and when it takes no more packets."""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from rproxy import packets
from rproxy.client.exchanging import Answer, ClientProtocol, ProxyError, Request
from tests.transports import connect, lose

GOODBYE = packets.error("rproxy", "1", "shutting-down", "no", "the proxy is stopping")


def ack(payload: str) -> bytes:
    return packets.ack("100", "1", payload)


@define(eq=False)
class Owner:
    """Has the connection, and writes down what it is told, in that order."""

    told: list[str] = field(factory=list)
    whys: list[str] = field(factory=list)

    def opened(self, connection: ClientProtocol) -> None:
        self.told.append("opened")

    def answered(self, connection: ClientProtocol, request: Request, answer: Answer) -> None:
        self.told.append(answer.packet.payload)
        request.end(answer)

    def unusable(self, connection: ClientProtocol, why: str) -> None:
        self.told.append("unusable")
        self.whys.append(why)

    def closed(self, connection: ClientProtocol) -> None:
        self.told.append("closed")


class ConnectionCase(SynchronousTestCase):
    """A connection, of which the test is the other side."""

    def setUp(self) -> None:
        self.owner = Owner()
        self.connection = ClientProtocol(self.owner, 1000)
        self.transport = connect(self.connection)

    def send(self, *payloads: str) -> list[Request]:
        requests = []
        for payload in payloads:
            request = Request(packets.data("1", "111", payload), "1", 60.0, Deferred())
            self.connection.send(request)
            requests.append(request)
        return requests

    def answer(self, *raw: bytes) -> None:
        self.connection.dataReceived(b"".join(raw))

    def assert_unknown(self, request: Request) -> None:
        error = self.failureResultOf(request.answer, ProxyError).value
        assert isinstance(error, ProxyError)
        self.assertEqual((error.code, error.delivered), ("connection-lost", "unknown"))


class MatchTests(ConnectionCase):
    """Answers belong to packets by their order."""

    def test_order(self) -> None:
        """However the bytes are cut."""
        requests = self.send(*"abc")
        for byte in ack("A") + ack("B") + ack("C"):
            self.connection.dataReceived(bytes([byte]))

        answers = [self.successResultOf(request.answer).packet.payload for request in requests]
        self.assertEqual(answers, ["A", "B", "C"])
        self.assertTrue(self.connection.usable)

    def test_place_is_kept(self) -> None:
        """Also by a packet whose answer nobody waits for any more."""
        first, second = self.send("a", "b")
        first.is_over = True
        self.answer(ack("A"), ack("B"))

        self.assertNoResult(first.answer)
        self.assertEqual(self.successResultOf(second.answer).packet.payload, "B")

    def test_before_a_fault(self) -> None:
        """What came before it counts, and whoever is told of it finds the connection unusable already."""
        first, second = self.send("a", "b")
        self.answer(ack("A"), b"x")

        self.assertEqual(self.owner.told, ["opened", "unusable", "A"])
        self.assertEqual(self.successResultOf(first.answer).packet.payload, "A")
        self.assert_unknown(second)
        self.assertTrue(self.transport.disconnected)

    def test_after_a_fault(self) -> None:
        """Nothing is looked at any more."""
        self.send("a")[0].answer.addErrback(lambda _: None)
        self.answer(b"x")
        self.answer(ack("A"))

        self.assertEqual(self.owner.told, ["opened", "unusable"])

    def test_lost(self) -> None:
        """What is unanswered has failed when the owner hears of the end."""
        (request,) = self.send("a")
        lose(self.connection, ConnectionLost)

        self.assertEqual(self.owner.told, ["opened", "unusable", "closed"])
        self.assert_unknown(request)


class RetireTests(ConnectionCase):
    """A connection that takes no more packets."""

    def test_idle(self) -> None:
        """It is closed at once."""
        self.connection.retire("late")

        self.assertEqual(self.owner.told, ["opened", "unusable"])
        self.assertTrue(self.transport.disconnecting)
        self.assertFalse(self.transport.disconnected)

    def test_in_flight(self) -> None:
        """Otherwise when the last answer came."""
        self.send("a", "b")
        self.connection.retire("late")
        self.answer(ack("A"))
        self.assertFalse(self.transport.disconnecting)

        self.answer(ack("B"))

        self.assertEqual(self.owner.told, ["opened", "unusable", "A", "B"])
        self.assertTrue(self.transport.disconnecting)

    def test_nobody_waits(self) -> None:
        """Or when nobody waits for one; then nothing may keep it."""
        first, second = self.send("a", "b")
        self.connection.retire("late")
        first.is_over = True
        self.connection.close_if_done()
        self.assertFalse(self.transport.disconnected)

        second.is_over = True
        self.connection.close_if_done()

        self.assertTrue(self.transport.disconnected)

    def test_usable(self) -> None:
        """One that isn't retired stays, with whatever answers are still to be swallowed."""
        (request,) = self.send("a")
        request.is_over = True
        self.connection.close_if_done()

        self.assertFalse(self.transport.disconnected)

    def test_goodbye(self) -> None:
        """A proxy that is stopping: nobody who is told of an answer can send into its end."""
        self.send("a", "b", "c")
        self.answer(ack("A"), GOODBYE)
        self.assertEqual(self.owner.told, ["opened", "unusable", "A", "the proxy is stopping"])
        self.assertFalse(self.transport.disconnecting)

        self.answer(GOODBYE)

        self.assertTrue(self.transport.disconnecting)

    def test_twice(self) -> None:
        """The owner is told once."""
        self.send("a")[0].answer.addErrback(lambda _: None)
        self.connection.retire("late")
        self.connection.retire("late")
        self.connection.close()
        lose(self.connection)

        self.assertEqual(self.owner.told, ["opened", "unusable", "closed"])


class WhyTests(ConnectionCase):
    """Whether it was the proxy's fault that a connection takes no more packets."""

    def assert_why(self, why: str) -> None:
        self.assertEqual(len(self.owner.whys), 1)
        self.assertIn(why, self.owner.whys[0])

    def test_lost(self) -> None:
        """With packets on it."""
        self.send("a")[0].answer.addErrback(lambda _: None)
        lose(self.connection, ConnectionLost)

        self.assert_why("lost in a non-clean fashion")

    def test_idle(self) -> None:
        """Not with none: proxies close idle connections."""
        lose(self.connection, ConnectionLost)

        self.assertEqual(self.owner.whys, [""])

    def test_closed(self) -> None:
        """Nor where it is closed from here."""
        self.connection.close()

        self.assertEqual(self.owner.whys, [""])

    def test_goodbye(self) -> None:
        self.send("a")
        self.answer(GOODBYE)

        self.assert_why("it is stopping")

    def test_unasked(self) -> None:
        self.answer(ack("A"))

        self.assert_why("something that wasn't asked for")

    def test_retired(self) -> None:
        self.connection.retire("late")

        self.assert_why("late")


class RequestTests(SynchronousTestCase):
    """What the one who waits is told, once."""

    def test_ends_once(self) -> None:
        """Nothing comes after the end, whatever it was."""
        ends: dict[str, Request] = {}
        for end in "answer", "failure":
            request = ends[end] = Request(b"{}", "1", 60.0, Deferred())
            if end == "answer":
                request.end(Answer(b"", packets.Ack("2", "100", "1", "x")))
            else:
                request.fail("timeout", "")
            request.end(Answer(b"", packets.Ack("2", "100", "1", "y")))
            request.fail("connection-lost", "")

        self.assertEqual(self.successResultOf(ends["answer"].answer).packet.payload, "x")
        error = self.failureResultOf(ends["failure"].answer, ProxyError).value
        self.assertEqual(str(error), "timeout, delivered: no: ")
