"""Nobody ever gets an answer to somebody else's packet: how a server may answer, and what if it answers otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import ISSLTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rproxy.connection import UpstreamConnection
from rproxy.figures.counters import Counters
from rproxy.limits import Limits
from rproxy.tls.files import TLSError
from tests import memory
from tests.memory import BIG, Client, Packet, ProxyCase, ServerConnection, ack, data, encode
from tests.memorytcp import MemoryConnection

LOST = ["server-lost/unknown"]


def server_error(delivered: str) -> Packet:
    """What server 100 says to client 1 if it can't process a packet."""
    return {"type": "3", "srcid": "100", "destid": "1", "error": "busy", "delivered": delivered, "payload": "Later"}


class ConnectionCase(ProxyCase):
    """A proxy with one modern server, 100."""

    def setUp(self) -> None:
        self.world = self.proxy()
        self.world.register("100", "111", 5000, pipeline=10)
        self.server = self.world.server(5000)

    def ask(self, *client_ids: str) -> list[Client]:
        """A client for each id that asks for what it is called."""
        clients = [self.world.client() for _ in client_ids]
        for client, client_id in zip(clients, client_ids, strict=True):
            client.ask(client_id, client_id=client_id)
        return clients

    def connection_with(self, *client_ids: str) -> tuple[ServerConnection, list[Client]]:
        """The connection to the server, with a packet of each of these clients in flight."""
        clients = self.ask(*client_ids)
        connection = self.server.connection
        self.assertEqual(connection.payloads, list(client_ids))
        return connection, clients

    def assert_goes_on(self) -> None:
        """After a moment the server, and each client that comes, are served as ever."""
        self.world.advance(1)
        (client,) = self.ask("later")
        self.assertEqual(self.server.connection.payloads, ["later"])
        self.server.answer()
        self.assertEqual(client.answers(), ["later by 100"])


class WrongAnswerTests(ConnectionCase):
    """Where answers can't be told apart any more, the connection is closed and what was on it ends as server-lost."""

    def assert_breaks(self, *items: Packet | bytes) -> None:
        """Whoever has a packet on a connection where the server sends this gets server-lost, and nothing of it."""
        self.setUp()
        connection, clients = self.connection_with("1", "2")
        connection.send(*items)
        self.assertTrue(connection.gone, items)
        self.assertEqual([client.answers() for client in clients], [LOST, LOST], items)
        self.assert_goes_on()

    def test_beginning_of_an_answer_to_nothing(self) -> None:
        """Nor does it take a whole one: what has begun unasked would become the answer to the next packet."""
        connection, (client,) = self.connection_with("1")
        stray = {"type": "2", "srcid": "100", "destid": "1", "payload": "stray"}
        connection.send(stray | {"payload": "1 by 100"}, encode(stray)[:30])
        self.assertTrue(connection.gone)
        self.assertEqual(client.answers(), ["1 by 100"])
        self.assert_goes_on()

    def test_out_of_turn(self) -> None:
        """A server that answers out of turn: the second packet before the first."""
        connection, _ = self.connection_with("1", "2")
        second, first = ack(connection.packets[1], "100"), ack(connection.packets[0], "100")
        self.assert_breaks(second)
        self.assert_breaks(second, first)

    def test_wrong_destid(self) -> None:
        """An ACK to a client that didn't ask."""
        for destid in ("3", 3, "1 ", "01", "", "2"):
            self.assert_breaks(ack(data("1"), "100", destid=destid))

    def test_wrong_srcid(self) -> None:
        """An ACK of another server than the packet was given to."""
        for srcid in ("200", 200, "100 ", "0100", "", "rproxy"):
            self.assert_breaks(ack(data("1"), "100", srcid=srcid))

    def test_other_server_at_the_same_address(self) -> None:
        """The id must be that of the registration that the packet was routed by."""
        self.world.register("200", "222", 5000, pipeline=10)
        client, other = self.world.client(), self.world.client()
        client.ask("a")
        other.ask("b", policy="222")
        first, second = self.server.connection.packets
        self.server.connection.send(ack(first, "100"), ack(second, "100"))
        self.assertEqual((client.answers(), other.answers()), (["a by 100"], LOST))

    def test_garbage(self) -> None:
        """No JSON, no object, or nothing that a packet could be."""
        for garbage in (b"garbage", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[]", b"\x00", b"}", b"{}", b'{"type":"2"}'):
            self.assert_breaks(garbage)
        self.assert_breaks(b"{" * 40)
        self.assert_breaks(b'{"a":' * 40)

    def test_no_answer(self) -> None:
        """A well-formed packet of another kind."""
        self.assert_breaks(data("1"))
        self.assert_breaks({"type": "1", "id": "100", "privPolyId": "111", "listenport": "5000"})
        self.assert_breaks(ack(data("1"), "100", type="4"))
        self.assert_breaks(ack(data("1"), "100", payload=17))

    def test_key_twice(self) -> None:
        """An ACK on which two readers might not agree."""
        raw = encode(ack(data("1"), "100"))
        self.assert_breaks(raw[:-1] + b', "destid": "1"}')
        self.assert_breaks(raw[:-1] + b', "payload": "other"}')

    def test_too_long(self) -> None:
        """An answer longer than a packet may be, before its end."""
        self.assert_breaks(encode(ack(data("1"), "100", payload="x" * (1 << 20)))[:-1])

    def test_twice_in_one_segment(self) -> None:
        """A server that answers twice: the first answer is one, what follows is lost."""
        connection, (first, second) = self.connection_with("1", "2")
        answer = ack(connection.packets[0], "100")
        connection.send(answer, answer)
        self.assertEqual((first.answers(), second.answers()), (["1 by 100"], LOST))
        self.assertTrue(connection.gone)
        self.assert_goes_on()

    def test_twice_with_nothing_in_flight(self) -> None:
        """Something unasked: the connection is closed, so that it can't answer the next packet."""
        connection, (client,) = self.connection_with("1")
        answer = ack(connection.packets[0], "100")
        connection.send(answer)
        connection.send(answer)
        self.assertTrue(connection.gone)
        self.assertEqual(client.answers(), ["1 by 100"])
        self.assert_goes_on()

    def test_before_it_is_asked(self) -> None:
        """A server that speaks first: what it said answers nothing."""
        terms: list[dict[str, Any]] = [{"pipeline": 10}, {}]
        for modern in terms:
            with self.subTest(modern):
                world = self.proxy()
                world.register("100", "111", 5000, **modern)
                server = world.server(5000)
                server.hang()
                client = world.client()
                client.ask("a")
                with world.at_once():
                    server.attempts[0].accept().send(ack(data("early", client_id="2"), "100"))
                self.assertEqual(client.answers(), LOST)
                self.assertTrue(server.connection.gone)

    def test_half_an_answer(self) -> None:
        """A server that gives half an answer and closes."""
        for size in (1, 20, 60):
            self.setUp()
            connection, clients = self.connection_with("1", "2")
            connection.send(encode(ack(connection.packets[0], "100"))[:size])
            self.assertEqual(clients[0].answers(), [])
            connection.close()
            self.assertEqual([client.answers() for client in clients], [LOST, LOST])
            self.assert_goes_on()

    def test_closes(self) -> None:
        """A server that closes with packets in flight, in order or not."""
        for way in (ServerConnection.close, ServerConnection.reset):
            self.setUp()
            connection, clients = self.connection_with("1", "2")
            way(connection)
            self.assertEqual([client.answers() for client in clients], [LOST, LOST])
            self.assert_goes_on()

    def test_good_answers_before_a_bad_one(self) -> None:
        """What was answered before is answered."""
        connection, clients = self.connection_with("1", "2", "3")
        packets = connection.packets
        connection.send(ack(packets[0], "100"), ack(packets[1], "100"), b"garbage", ack(packets[2], "100"))
        self.assertEqual([client.answers() for client in clients], [["1 by 100"], ["2 by 100"], LOST])

    def test_answer_and_close_at_once(self) -> None:
        """A server that answers and closes in one go has answered."""
        connection, clients = self.connection_with("1", "2")
        with self.world.at_once():
            connection.answer()
            connection.close()
        self.assertEqual([client.answers() for client in clients], [["1 by 100"], ["2 by 100"]])

    def test_nothing_more_is_believed(self) -> None:
        """What a server sends after it broke its stream is discarded, however right it looks."""
        connection, clients = self.connection_with("1", "2")
        with self.world.at_once():
            connection.send(b"garbage")
            connection.answer()
        self.assertEqual([client.answers() for client in clients], [LOST, LOST])

    def test_classic_server(self) -> None:
        """With a classic server it is no different; only one packet is lost with a connection."""
        self.world.register("100", "111", 6000)
        server = self.world.server(6000)
        clients = self.ask("1", "2", "3")
        first, second, third = server.connections
        first.answer(destid="2")
        second.answer()
        third.send(b"garbage")
        self.assertEqual([client.answers() for client in clients], [LOST, ["2 by 100"], LOST])
        self.assertEqual(server.open, [])


class RightAnswerTests(ConnectionCase):
    """The answers that are some."""

    def test_in_turn(self) -> None:
        """Answers match packets by order, however they are cut."""
        connection, clients = self.connection_with("1", "2", "3")
        stream = b"\n".join(encode(ack(packet, "100")) for packet in connection.packets)
        for byte in stream:
            connection.send(bytes([byte]))
        self.assertEqual([client.answers() for client in clients], [["1 by 100"], ["2 by 100"], ["3 by 100"]])

    def test_same_client_id(self) -> None:
        """Clients that use the same id get each their own answer."""
        clients = [self.world.client() for _ in range(3)]
        for number, client in enumerate(clients):
            client.ask(str(number))
        self.server.answer()
        self.assertEqual([client.answers() for client in clients], [["0 by 100"], ["1 by 100"], ["2 by 100"]])

    def test_error_of_a_server(self) -> None:
        """An error packet that leaves open whether the packet was delivered is an answer, passed on as it came."""
        connection, (first, second) = self.connection_with("1", "2")
        error = {
            "type": "3",
            "srcid": "100",
            "destid": "1",
            "error": "busy",
            "delivered": "unknown",
            "payload": "Later",
        }
        connection.send(error)
        self.assertEqual(first.take_bytes(), encode(error))
        connection.send(ack(connection.packets[1], "100"))
        self.assertEqual(second.answers(), ["2 by 100"])
        self.assertEqual(self.world.factory.counters.acked, 1, "an error is no ACK")

    def test_error_of_a_server_that_knows_too_much(self) -> None:
        """One that says "not delivered" is not: whoever got a packet can't say that it didn't."""
        connection, clients = self.connection_with("1", "2")
        error = server_error("no")
        connection.send(error)
        self.assertEqual([client.answers() for client in clients], [LOST, LOST])

    def test_error_to_another(self) -> None:
        """Its ids have to be right as well."""
        for wrong in ({"destid": "2"}, {"destid": ""}, {"srcid": "200"}, {"srcid": ""}):
            self.setUp()
            connection, clients = self.connection_with("1", "2")
            connection.send({**server_error("unknown"), **wrong})
            self.assertEqual([client.answers() for client in clients], [LOST, LOST])

    def test_answers_of_those_who_left(self) -> None:
        """Answers to clients that are gone are swallowed, and their ids have to be right as well."""
        connection, clients = self.connection_with("1", "2", "3")
        clients[0].reset()
        clients[1].reset()
        connection.answer(2)
        self.assertEqual(clients[2].answers(), [])
        connection.answer()
        self.assertEqual(clients[2].answers(), ["3 by 100"])
        self.assertEqual(self.world.factory.counters.swallowed, 2)
        connection, clients = self.server.connection, self.ask("4", "5")
        clients[0].reset()
        connection.send(ack(connection.packets[-1], "100"))
        self.assertEqual(clients[1].answers(), LOST)


class LateAnswerTests(ConnectionCase):
    """A server that never answers, or late."""

    def test_never(self) -> None:
        """The client hears of it at the deadline; the connection stays for the late answer."""
        connection, (client,) = self.connection_with("1")
        self.world.advance(30.25)
        self.assertEqual(client.answers(), ["timeout/unknown"])
        self.assertFalse(connection.gone)

    def test_late_answer_is_swallowed(self) -> None:
        """The answer that comes after a deadline is swallowed, never given to the next packet."""
        for client_id in ("1", "2"):
            self.setUp()
            connection, (client,) = self.connection_with("1")
            self.world.advance(30.25)
            (other,) = self.ask(client_id)
            connection.answer(1)
            self.assertEqual(client.answers(), ["timeout/unknown"])
            self.assertEqual(other.answers(), [])
            connection.answer(1)
            self.assertEqual(other.answers(), [f"{client_id} by 100"])
            self.assertEqual(self.world.factory.counters.swallowed, 1)

    def test_nothing_new_meanwhile(self) -> None:
        """Nothing new is sent on that connection until the server answers again."""
        connection, _ = self.connection_with("1")
        self.world.advance(30.25)
        self.ask("2")
        self.assertEqual(connection.payloads, ["1"])
        connection.answer()
        self.assertEqual(connection.payloads, ["1", "2"])

    def test_others_take_over_meanwhile(self) -> None:
        """Other servers get it instead."""
        self.connection_with("1")
        self.world.advance(30.25)
        self.world.register("200", "111", 6000, pipeline=10)
        other = self.world.server(6000)
        self.ask("2", "3", "4")
        self.assertEqual((self.server.payloads, other.payloads), (["1"], ["2", "3", "4"]))

    def test_not_late_beside_late(self) -> None:
        """A packet that isn't late on a connection that is keeps its own deadline and its own answer."""
        connection, (first,) = self.connection_with("1")
        self.world.advance(20)
        (second,) = self.ask("2")
        self.world.advance(10.25)
        self.assertEqual((first.answers(), second.answers()), (["timeout/unknown"], []))
        connection.answer()
        self.assertEqual((first.answers(), second.answers()), ([], ["2 by 100"]))

    def test_given_up(self) -> None:
        """After a second deadline the connection is given up; what else was on it ends as server-lost."""
        connection, (first,) = self.connection_with("1")
        self.world.advance(29)
        (second,) = self.ask("2")
        self.world.advance(30.75)
        self.assertFalse(connection.gone)
        self.assertEqual((first.answers(), second.answers()), (["timeout/unknown"], ["timeout/unknown"]))
        self.world.advance(0.5)
        self.assertTrue(connection.gone)
        self.assert_goes_on()

    def test_one_of_several_late_answers(self) -> None:
        """Nothing new is sent before the others have come too."""
        connection, late = self.connection_with("1", "2")
        self.world.advance(30)
        self.assertEqual([client.answers() for client in late], [["timeout/unknown"]] * 2)
        (waiting,) = self.ask("3")
        connection.answer(1)
        self.assertEqual(connection.payloads, ["1", "2"])
        connection.answer(1)
        self.assertEqual(connection.payloads, ["1", "2", "3"])
        connection.answer(1)
        self.assertEqual(waiting.answers(), ["3 by 100"])

    def test_one_of_several_late_answers_to_clients_that_are_gone(self) -> None:
        """That nobody waits for an answer doesn't make it come sooner; and it is one timeout, not one for each."""
        connection, late = self.connection_with("1", "2", "3")
        for client in late:
            client.reset()
        self.world.advance(30)
        self.ask("4")
        connection.answer(1)
        self.world.advance(1)
        connection.answer(1)
        self.world.advance(1)
        self.assertEqual(connection.payloads, ["1", "2", "3"])
        connection.answer(1)
        self.assertEqual(connection.payloads, ["1", "2", "3", "4"])

    def test_given_up_with_others_on_it(self) -> None:
        """So it is if the server only leaves out one: what was sent before the deadline is lost with it."""
        connection, _ = self.connection_with("1")
        self.world.advance(29.75)
        (second,) = self.ask("2")
        self.world.advance(29.75)
        self.assertEqual((connection.gone, second.answers()), (False, []))
        self.world.advance(0.5)
        self.assertEqual((connection.gone, len(second.answers())), (True, 1))

    def test_late_classic_server(self) -> None:
        """A classic server's connection is closed once the late answer is there."""
        self.world.register("100", "111", 6000)
        server = self.world.server(6000)
        (client,) = self.ask("1")
        self.world.advance(30.25)
        self.assertEqual(client.answers(), ["timeout/unknown"])
        self.assertFalse(server.connection.gone)
        server.connection.answer()
        self.assertEqual(client.answers(), [])
        self.assertTrue(server.connection.ended)


class SlowServerTests(ConnectionCase):
    """A server that doesn't read what it is sent."""

    def test_gets_nothing_more(self) -> None:
        """It gets nothing more; what comes waits, or goes to another."""
        connection, (client,) = self.connection_with("1")
        connection.reads = False
        client.ask(BIG, client_id="1")
        (waiting,) = self.ask("2")
        self.world.advance(5.25)
        self.assertEqual(waiting.answers(), ["no-server/no"])
        self.world.register("200", "111", 6000, pipeline=10)
        other = self.world.server(6000)
        self.ask("3", "4")
        self.assertEqual(other.payloads, ["3", "4"])
        connection.read_again()
        self.assertEqual(connection.payloads, ["1", BIG])

    def test_reads_again(self) -> None:
        """When it reads again, it gets what has waited."""
        connection, (client,) = self.connection_with("1")
        connection.reads = False
        client.ask(BIG, client_id="1")
        (waiting,) = self.ask("2")
        connection.read_again()
        self.assertEqual(connection.payloads, ["1", BIG, "2"])
        connection.answer()
        self.assertEqual(waiting.answers(), ["2 by 100"])

    def test_answers_meanwhile(self) -> None:
        """That it answers doesn't mean that it reads."""
        connection, (client,) = self.connection_with("1")
        connection.reads = False
        client.ask(BIG, client_id="1")
        self.ask("2")
        connection.answer(1)
        self.assertEqual(client.answers(), ["1 by 100"])
        connection.read_again()
        self.assertEqual(connection.payloads, ["1", BIG, "2"])


@implementer(ISSLTransport)
class TLSConnection(MemoryConnection):
    """A transport that calls itself one of TLS."""

    def getPeerCertificate(self) -> None:
        """It has none to show."""


class FirstAnswerTests(ConnectionCase):
    """A server by TLS gets one packet until its first answer: it may still refuse the proxy's certificate."""

    def setUp(self) -> None:
        self.patch(memory, "MemoryConnection", TLSConnection)
        super().setUp()

    def assert_all(self, *client_ids: str) -> None:
        """The server has these packets, and takes as many in all as it said."""
        self.assertEqual(self.server.connection.payloads, list(client_ids))
        self.ask(*map(str, range(100, 120)))
        self.assertEqual(len(self.server.connection.unanswered), 10)

    def test_one(self) -> None:
        """What else comes waits for that answer; then it is as without TLS."""
        clients = self.ask("1", "2", "3")
        self.assertEqual(self.server.payloads, ["1"])
        self.server.answer()
        self.assertEqual(clients[0].answers(), ["1 by 100"])
        self.assert_all("1", "2", "3")

    def test_those_that_waited_for_the_connection(self) -> None:
        """They get the same."""
        self.server.hang()
        self.ask("1", "2", "3")
        self.server.accept()
        self.assertEqual(self.server.payloads, ["1"])
        self.server.answer()
        self.assert_all("1", "2", "3")

    def test_refused(self) -> None:
        """One packet is lost with the connection, and one more with each that is made to find out whether it is up."""
        clients = self.ask(*map(str, range(10)))
        self.server.connection.reset()
        self.assertEqual([client.answers() for client in clients], [LOST] + [[]] * 9)
        self.world.advance(1)
        self.assertEqual(self.server.connection.payloads, ["1"])
        self.server.refuse()
        self.server.connection.reset()
        self.world.advance(5)
        self.assertEqual([client.answers() for client in clients[1:]], [LOST] + [["no-server/no"]] * 8)

    def test_wrong_answer(self) -> None:
        """Is none."""
        client, other = self.ask("1", "2")
        connection = self.server.connection
        self.assertEqual(connection.payloads, ["1"])
        connection.send(b"garbage")
        self.assertEqual((client.answers(), other.answers()), (LOST, []))
        self.world.advance(1)
        self.ask("3")
        self.assertEqual(self.server.connection.payloads, ["2"])
        self.server.answer()
        self.assertEqual(self.server.connection.payloads, ["2", "3"])

    def test_each_connection(self) -> None:
        """Of several, each has to give one."""
        self.world.register("100", "111", 6000, pipeline=10, connections=2)
        server = self.world.server(6000)
        self.ask(*"123456")
        first, second = server.connections
        self.assertEqual((first.payloads, second.payloads), (["1"], ["2"]))
        first.answer()
        self.assertEqual((first.payloads, second.payloads), (["1", "3", "4", "5", "6"], ["2"]))

    def test_late(self) -> None:
        """A late answer is one, and nothing new is sent before it."""
        (client, *_) = self.ask("1", "2")
        self.world.advance(30.25)
        self.assertEqual(client.answers(), ["timeout/unknown"])
        self.ask("3", "4")
        self.assertEqual(self.server.connection.payloads, ["1"])
        self.server.connection.answer()
        self.assertEqual(self.server.connection.payloads, ["1", "3", "4"])

    def test_slow(self) -> None:
        """That a server reads again is no answer, nor is its answer a sign that it reads."""
        self.server.hang()
        client = self.world.client()
        client.ask(BIG)
        with self.world.at_once():
            connection = self.server.attempts[0].accept()
            connection.reads = False
        self.ask("2", "3")
        connection.read_again()
        self.assertEqual(connection.payloads, [BIG])
        connection.answer()
        self.assertEqual(connection.payloads, [BIG, "2", "3"])

    def test_leaves_and_comes_back(self) -> None:
        """A server that is back before its first answer gets no more than one that stayed."""
        lease = self.world.register("200", "222", 6000, pipeline=10, lease=60)
        server = self.world.server(6000)
        client = self.world.client()
        client.ask("1", policy="222")
        lease.close()
        self.assertFalse(server.connection.gone)
        self.world.register("200", "222", 6000, pipeline=10)
        client.ask("2", "3", policy="222")
        self.assertEqual(server.payloads, ["1"])
        server.answer()
        self.assertEqual((len(server.connections), server.payloads), (1, ["1", "2", "3"]))

    def test_leaves(self) -> None:
        """A server that left gets nothing more when it gives its first answer; it is let go of."""
        lease = self.world.register("200", "222", 6000, pipeline=10, lease=60)
        server = self.world.server(6000)
        client = self.world.client()
        client.ask("1", "2", policy="222")
        lease.close()
        server.connection.answer()
        self.assertEqual((client.answers(), server.payloads), (["1 by 200"], ["1"]))
        self.assertTrue(server.connection.ended)

    def test_classic(self) -> None:
        """A server of the old kind never gets more than one on a connection."""
        self.world.register("100", "111", 6000)
        server = self.world.server(6000)
        clients = self.ask("1", "2")
        server.answer()
        self.assertEqual([client.answers() for client in clients], [["1 by 100"], ["2 by 100"]])
        self.assertEqual([connection.payloads for connection in server.connections], [["1"], ["2"]])


class LostTLSTests(SynchronousTestCase):
    """A server that doesn't take the proxy's certificate, which it may say after the connection was made."""

    def test_why(self) -> None:
        """It has failed, and is told why, also with nothing on the connection; an end without TLS says nothing then."""
        for reason, why in (TLSError("unknown ca"), "unknown ca"), (ConnectionLost(), ""):
            whys: list[str] = []
            pool: Any = SimpleNamespace(lost=lambda connection, why, whys=whys: whys.append(why), seconds=lambda: 0.0)
            UpstreamConnection(pool, 1, Limits(), Counters(), None).connectionLost(Failure(reason))
            self.assertEqual(whys, [why])
