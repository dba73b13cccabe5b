"""The connections to one server: how many, when they are opened and closed, and why one takes no packet."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.logger import capturedLogs

from rproxy.policies import Policies, Policy
from rproxy.request import Request
from rproxy.routing import upstream_of
from tests.memory import HOST, MemoryServerHost, ProxyCase
from tests.support import ROOT


class ClassicServerTests(ProxyCase):
    """A server that declared nothing more than the four classic fields goes on working, unchanged."""

    def setUp(self) -> None:
        self.world = self.proxy()
        self.world.register("100", "111", 5000)
        self.server = self.world.server(5000)
        self.client = self.world.client()

    def test_one_packet_a_connection(self) -> None:
        """One packet per connection, though the client sends many over one of its own."""
        self.client.ask("a", "b", "c")
        self.assertEqual([connection.payloads for connection in self.server.connections], [["a"], ["b"], ["c"]])

    def test_closed_after_the_answer(self) -> None:
        """Each is closed after the answer: until then the server doesn't read the next one."""
        self.client.ask("a", "b")
        first, second = self.server.connections
        first.answer()
        self.assertTrue(first.ended)
        self.assertFalse(second.gone)
        second.answer()
        self.assertTrue(second.ended)
        self.assertEqual(self.client.answers(), ["a by 100", "b by 100"])

    def test_closed_after_an_answer_for_nobody(self) -> None:
        """Also if there is nobody left to have the answer."""
        self.client.ask("a")
        self.client.reset()
        self.assertFalse(self.server.connection.gone)
        self.server.connection.answer()
        self.assertTrue(self.server.connection.ended)

    def test_no_connection_without_a_packet(self) -> None:
        """None is opened before there is a packet for it, nor kept when there is none any more."""
        self.world.advance(10)
        self.assertEqual(self.server.attempted, 0)
        self.client.ask("a")
        self.server.answer()
        self.assertEqual(self.server.open, [])

    def test_connection_whose_packet_is_gone(self) -> None:
        """A connection that was made for a packet whose client is gone is closed, with nothing written."""
        self.server.hang()
        self.client.ask("a")
        self.client.reset()
        self.server.accept()
        self.assertEqual((len(self.server.connections), self.server.open, self.server.payloads), (1, [], []))

    def test_few_connections_at_a_time(self) -> None:
        """Eight connections at a time at most, under its backlog; the next packets wait."""
        self.client.ask(*map(str, range(20)))
        self.assertEqual(len(self.server.open), 8)
        self.server.connections[3].answer()
        self.assertEqual((len(self.server.open), self.server.attempted), (8, 9))
        self.assertEqual(self.server.connection.payloads, ["8"])
        for _ in range(3):
            self.assertLessEqual(len(self.server.open), 8)
            self.server.answer()
        self.assertEqual(self.client.answers(), [f"{number} by 100" for number in range(20)])

    def test_few_attempts_at_a_time(self) -> None:
        """Connections that are being made count."""
        self.server.hang()
        self.client.ask(*map(str, range(20)))
        self.assertEqual(len(self.server.attempts), 8)
        self.server.accept()
        self.assertEqual(len(self.server.open), 8)

    def test_fewer_connections(self) -> None:
        """A classic server may ask for fewer, not for more."""
        for wanted, had in ((2, 2), (64, 8)):
            self.world.register("100", "111", 6000, connections=wanted)
            server = self.world.server(6000)
            client = self.world.client()
            client.ask(*map(str, range(20)))
            self.assertEqual(len(server.open), had)
            for _ in range(10):
                server.answer()

    def test_two_policies_share_the_connections(self) -> None:
        """It has one backlog, however many policies it serves."""
        self.world.register("100", "222", 5000)
        self.client.ask(*map(str, range(6)))
        other = self.world.client()
        other.ask(*map(str, range(6)), policy="222")
        self.assertEqual(len(self.server.open), 8)
        self.server.answer()
        self.server.answer()
        self.assertEqual(len(self.client.answers()) + len(other.answers()), 12)

    def test_registers_before_it_listens(self) -> None:
        """A packet that arrives before the server binds its port finds it closed, and is there when it is open."""
        world = self.proxy()
        world.register("200", "111", 6000)
        client = world.client()
        client.ask("a")
        self.assertEqual(world.server_at((HOST, 6000)).attempted, 1)
        world.advance(0.25)
        server = world.server(6000)
        world.advance(1)
        self.assertEqual(server.payloads, ["a"])
        server.answer()
        self.assertEqual(client.answers(), ["a by 200"])

    def test_is_not_forgotten(self) -> None:
        """A refused connection is no reason to forget it: an hour later it gets packets again."""
        self.server.refuse()
        self.client.ask("a")
        self.world.advance(3600)
        self.assertEqual(self.client.answers(), ["no-server/no"])
        self.server.accept()
        self.world.advance(60)
        client = self.world.client()
        client.ask("b")
        self.server.answer()
        self.assertEqual(client.answers(), ["b by 100"])

    def test_registers_again_before_it_listens(self) -> None:
        """A server that was down for long, registers anew and only then binds its port is not kept waiting for long."""
        self.server.refuse()
        self.client.ask("a")
        self.world.advance(600)
        self.world.register("100", "111", 5000)
        self.world.client().ask("b")
        self.world.advance(0.25)
        self.server.accept()
        self.world.advance(4.5)
        self.assertEqual(self.server.payloads, ["b"])

    def test_stands_until_replaced(self) -> None:
        """Its registration stands although the setup connection is closed, for days."""
        self.world.reactor.advance(3 * 86400)
        self.world.advance(1)
        client = self.world.client()
        client.ask("a")
        self.assertEqual(self.server.payloads, ["a"])


class PipelineTests(ProxyCase):
    """A modern server keeps connections open and takes several packets in flight on each."""

    def setUp(self) -> None:
        self.world = self.proxy()

    def serve(self, **modern: Any) -> MemoryServerHost:
        self.world.register("100", "111", 5000, **modern)
        return self.world.server(5000)

    def test_several_on_one_connection(self) -> None:
        """Up to ``pipeline`` packets are in flight on a connection, of whichever clients; the next ones wait."""
        server = self.serve(pipeline=3)
        clients = [self.world.client() for _ in range(5)]
        for number, client in enumerate(clients):
            client.ask(str(number), client_id=str(number))
        self.assertEqual((server.payloads, server.attempted), (["0", "1", "2"], 1))
        server.connection.answer(1)
        self.assertEqual(server.payloads, ["0", "1", "2", "3"])
        server.answer()
        server.answer()
        self.assertEqual([client.answers() for client in clients], [[f"{number} by 100"] for number in range(5)])
        self.assertEqual((server.attempted, len(server.open)), (1, 1))

    def test_one_connection_unless_more_are_wanted(self) -> None:
        """``connections`` is 1 with ``pipeline``."""
        server = self.serve(pipeline=1)
        self.world.client().ask("a", "b", "c")
        self.assertEqual((server.payloads, server.attempted), (["a"], 1))

    def test_several_connections(self) -> None:
        """With more, packets are spread over as many connections as it wants, and no more."""
        server = self.serve(pipeline=2, connections=3)
        client = self.world.client()
        client.ask(*map(str, range(10)))
        self.assertEqual([len(connection.packets) for connection in server.connections], [2, 2, 2])
        for _ in range(4):
            server.answer()
        self.assertEqual(client.answers(), [f"{number} by 100" for number in range(10)])
        self.assertEqual((server.attempted, len(server.open)), (3, 3))

    def test_one_more_proxy_shares_the_server(self) -> None:
        """Then connections beyond this one's part are closed, as soon as what is in flight on them is answered."""
        server = self.serve(pipeline=2, connections=3)
        client = self.world.client()
        client.ask(*map(str, range(6)))
        self.world.factory.router.upstreams.share_with(2)
        self.assertEqual(len(server.open), 3)
        server.answer()
        self.assertEqual(len(server.open), 1)
        client.ask("a", "b", "c")
        self.assertEqual((server.attempted, len(server.open)), (3, 1))
        server.answer()
        server.answer()
        self.assertEqual(client.answers(), [f"{payload} by 100" for payload in [*range(6), *"abc"]])
        self.world.factory.router.upstreams.share_with(1)
        client.ask(*map(str, range(6)))
        self.assertEqual((server.attempted, len(server.open)), (5, 3))
        server.answer()

    def test_several_attempts(self) -> None:
        """Connections that are being made count."""
        server = self.serve(pipeline=2, connections=3)
        server.hang()
        self.world.client().ask(*map(str, range(10)))
        self.assertEqual(len(server.attempts), 3)
        server.accept()
        self.assertEqual([len(connection.packets) for connection in server.connections], [2, 2, 2])

    def test_one_of_several_attempts_fails(self) -> None:
        """What can't be written because one of the attempts fails waits, and arrives in the end, each packet once."""
        server = self.serve(pipeline=2, connections=3)
        server.hang()
        client = self.world.client()
        payloads = list(map(str, range(6)))
        client.ask(*payloads)
        server.attempts[1].refuse(ConnectionRefusedError())
        server.accept()
        for _ in range(8):
            self.world.advance(0.5)
            server.answer()
        self.assertEqual(client.answers(), [f"{payload} by 100" for payload in payloads])
        self.assertEqual(sorted(server.payloads), payloads)

    def test_opened_when_packets_come(self) -> None:
        """No connection is opened before the first packet, and it is kept after the last."""
        server = self.serve(pipeline=3)
        self.world.advance(10)
        self.assertEqual(server.attempted, 0)
        self.world.client().ask("a")
        server.answer()
        self.world.advance(600)
        self.assertEqual(len(server.open), 1)

    def test_closed_by_the_server(self) -> None:
        """A connection that the server closes with nothing in flight is no failure; the next packet opens another."""
        server = self.serve(pipeline=3)
        client = self.world.client()
        client.ask("a")
        server.answer()
        server.connection.close()
        client.ask("b")
        self.assertEqual(server.connection.payloads, ["b"])
        server.answer()
        self.assertEqual(client.answers(), ["a by 100", "b by 100"])

    def test_long_packets(self) -> None:
        """A modern server takes packets of any size."""
        server = self.serve(pipeline=3)
        self.world.client().ask("x" * 500_000)
        self.assertEqual(len(server.payloads[0]), 500_000)

    def test_one_connection_of_several_breaks(self) -> None:
        """Only what was on it is lost."""
        server = self.serve(pipeline=1, connections=2)
        clients = [self.world.client(), self.world.client()]
        for client in clients:
            client.ask("a")
        server.connections[0].reset()
        server.connections[1].answer()
        self.assertEqual([client.answers() for client in clients], [["server-lost/unknown"], ["a by 100"]])

    def test_other_terms(self) -> None:
        """A server that registers anew with other terms gets new connections; what is in flight is finished first."""
        server = self.serve(pipeline=3)
        client = self.world.client()
        client.ask("a", "b")
        self.serve(pipeline=1)
        old = server.connection
        old.answer(1)
        self.assertFalse(old.gone)
        old.answer()
        self.assertTrue(old.ended)
        client.ask("c", "d")
        self.assertEqual(server.connection.payloads, ["c"])
        server.answer()
        server.answer()
        self.assertEqual(client.answers(), [f"{payload} by 100" for payload in "abcd"])

    def test_other_terms_while_connecting(self) -> None:
        """That holds for packets whose connection was being made, too: none is left behind."""
        for modern in ({"pipeline": 1}, {"pipeline": 2, "connections": 2}, {}):
            with self.subTest(modern):
                self.world = self.proxy()
                server = self.serve(pipeline=4)
                server.hang()
                client = self.world.client()
                client.ask("a", "b", "c", "d")
                self.serve(**modern)
                for _ in range(4):
                    self.world.advance(0.25)
                    server.answer()
                self.assertEqual(client.answers(), [f"{payload} by 100" for payload in "abcd"])

    def test_same_terms_on_another_setup_connection(self) -> None:
        """A server whose setup connection broke and came back goes on with the connection that it has."""
        holder = self.world.register("100", "111", 5000, pipeline=3, lease=10)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("slow")
        holder.close()
        self.world.register("100", "111", 5000, pipeline=3, lease=10)
        client.ask("next")
        self.assertEqual(server.connection.payloads, ["slow", "next"])
        self.assertEqual(len(server.connections), 1)
        server.answer()
        self.assertEqual(client.answers(), ["slow by 100", "next by 100"])

    def test_many_policies_at_one_address(self) -> None:
        """What happens at an address doesn't look at its policies one by one where nobody waits for them."""
        server = self.serve(pipeline=100)
        for number in range(500):
            self.world.register("100", f"p{number}", 5000, pipeline=100)
        calls = 0

        def count(frame: FrameType, event: str, argument: object) -> None:
            nonlocal calls
            calls += event == "call" and frame.f_code.co_filename.startswith(f"{ROOT}/rproxy/")

        client = self.world.client()
        sys.setprofile(count)
        try:
            client.ask("a")
            server.answer()
        finally:
            sys.setprofile(None)
        self.assertEqual(client.answers(), ["a by 100"])
        self.assertLess(calls, 100)

    def test_same_terms(self) -> None:
        """Registering anew with the same terms disturbs nothing."""
        server = self.serve(pipeline=3)
        client = self.world.client()
        client.ask("a")
        self.serve(pipeline=3)
        client.ask("b")
        server.answer()
        self.assertEqual(client.answers(), ["a by 100", "b by 100"])
        self.assertEqual((server.attempted, len(server.open)), (1, 1))


class RefusalTests(ProxyCase):
    """Why a server would take no packet now, in words."""

    def setUp(self) -> None:
        self.world = self.proxy()

    def refusal(self) -> str | None:
        """What is said of the one server."""
        [member] = self.world.members()
        return upstream_of(member).refusal(member)

    def test_down(self) -> None:
        self.world.register("100", "111", 5000, pipeline=2)
        self.assertIsNone(self.refusal())
        self.world.client().ask("a")
        self.assertEqual("it is down: Connection was refused by other side.", self.refusal())
        self.world.server(5000)
        self.world.advance(0.5)
        self.assertIsNone(self.refusal())

    def test_one_that_does_not_answer(self) -> None:
        world = self.world = self.proxy(timeout=1, max_timeouts=1)
        world.register("100", "111", 5000, pipeline=2)
        world.server(5000)
        world.client().ask("a")
        world.server_at((HOST, 5000)).hang()
        world.advance(1)
        self.assertEqual("it is down: it does not answer in time", self.refusal())

    def test_never_reached(self) -> None:
        """One that is only known from others isn't taken for up."""
        lease = self.world.register("100", "111", 5000, lease=60)
        found = self.world.registration()
        lease.close()
        self.world.advance(6)
        self.world.factory.router.registered(found, up=False)
        self.assertEqual("it is down: no connection to it was made yet", self.refusal())
        self.world.factory.router.ended(found)

    def test_while_a_connection_is_made(self) -> None:
        """It takes as many as will have room on the connections that are being made."""
        terms: list[tuple[dict[str, Any], int]] = [
            ({"pipeline": 2}, 2),
            ({"pipeline": 2, "connections": 3}, 6),
            ({}, 8),
        ]
        for wanted, room in terms:
            self.world.register("100", "111", 6000 + room, **wanted)
            self.world.server_at((HOST, 6000 + room)).hang()
            client = self.world.client()
            for number in range(room):
                self.assertIsNone(self.refusal(), number)
                client.ask(str(number))
            self.assertEqual("its connections are still being made", self.refusal())
            client.reset()
            self.world.advance(0.25)
            self.world.server(6000 + room)

    def test_full(self) -> None:
        for connections in (1, 2):
            self.world.register("100", "111", 6000 + connections, pipeline=2, connections=connections)
            server = self.world.server(6000 + connections)
            client = self.world.client()
            for _ in range(2 * connections):
                self.assertIsNone(self.refusal())
                client.ask("a")
            self.assertEqual("it has 2 packets in flight on a connection, as many as it takes", self.refusal())
            server.connections[-1].answer(1)
            self.assertIsNone(self.refusal())
            server.answer()

    def test_nothing_new(self) -> None:
        """An operator had it drained, it drains itself, or it is about to leave."""
        router = self.world.factory.router
        self.world.register("100", "111", 5000)
        found = self.world.registration()
        router.drain(found.key, found)
        self.assertEqual("an operator had it drained", self.refusal())
        router.resume(found.key, found)
        self.assertIsNone(self.refusal())
        router.bar([found])
        self.assertEqual("its registration is about to end", self.refusal())
        self.world.register("100", "111", 5000, drain=True)
        self.assertEqual("it drains", self.refusal())


class MishandledTests(ProxyCase):
    """An error in what is done with a new connection is logged."""

    def test_logged(self) -> None:
        world = self.proxy()
        world.register("100", "111", 5000, pipeline=2)
        world.client().ask("a")

        def fail(what: str, *about: str) -> None:
            if what == "up":
                raise ZeroDivisionError("never mind")

        world.factory.router.happened = fail
        world.server(5000)
        with capturedLogs() as events:
            world.advance(0.5)
        [event] = [event for event in events if event["log_level"].name == "critical"]
        self.assertEqual(
            ("server-mishandled", "A connection to a server was mishandled"), (event["event"], event["log_format"])
        )
        self.assertIs(ZeroDivisionError, event["log_failure"].type)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))


class TimesTests(ProxyCase):
    """How long a server took is counted from when it was given the packet, beside how long all of it took."""

    def setUp(self) -> None:
        self.world = self.proxy()
        self.client = self.world.client()

    def assert_times(self, its_own: list[float], whole: list[float]) -> None:
        [member] = self.world.members()
        self.assertEqual((its_own, whole), (member.tally.times.noted, member.tally.total_times.noted))

    def test_waited_for_a_connection(self) -> None:
        self.world.register("100", "111", 5000, pipeline=2)
        server = self.world.server_at((HOST, 5000))
        server.hang()
        self.client.ask("a")
        self.world.reactor.advance(2)
        server.accept()
        self.world.reactor.advance(0.5)
        server.answer()
        self.assert_times([0.5], [2.5])

    def test_waited_in_line(self) -> None:
        self.world.register("100", "111", 5000, pipeline=1)
        server = self.world.server(5000)
        self.client.ask("a", "b")
        self.world.reactor.advance(1)
        server.answer()
        self.world.reactor.advance(0.25)
        server.answer()
        self.assert_times([1.0, 0.25], [1.0, 1.25])

    def test_retried(self) -> None:
        """The first server's time isn't the second one's."""
        self.world = self.proxy(Policies(by_name={"111": Policy(retry=True)}))
        for server_id, port in ("100", 5000), ("200", 6000):
            self.world.register(server_id, "111", port, pipeline=2)
        first, second = self.world.server(5000), self.world.server(6000)
        client = self.world.client()
        for server in first, second:
            client.ask("a")
            server.answer()
        client.ask("b")
        self.world.reactor.advance(2)
        first.connection.reset()
        self.world.reactor.advance(0.5)
        second.answer()
        _, member = self.world.members()
        self.assertEqual(([0.0, 0.5], [0.0, 2.5]), (member.tally.times.noted, member.tally.total_times.noted))

    def test_store_was_asked(self) -> None:
        """Nor is the store's."""
        router = self.world.factory.router
        asked: list[Request] = []

        def asks(request: Request) -> bool:
            asked.append(request)
            return True

        router.ask = asks
        self.client.ask("a")
        self.world.reactor.advance(0.5)
        self.world.register("100", "111", 5000, pipeline=2)
        server = self.world.server(5000)
        self.world.client().ask("b")
        server.answer()
        router.answer_asked(asked)
        self.world.pump()
        self.world.reactor.advance(0.25)
        server.answer()
        self.assert_times([0.0, 0.25], [0.0, 0.75])


class ForGoodTests(ProxyCase):
    """A connection on terms that don't hold any more only finishes what it has, whatever is registered after that."""

    def setUp(self) -> None:
        self.world = self.proxy()
        self.register("100", pipeline=2)
        self.server = self.world.server(5000)
        self.client = self.world.client()
        self.client.ask("a")

    def register(self, server_id: str, **modern: Any) -> None:
        self.world.register(server_id, "111", 5000, **modern)

    def assert_over(self) -> None:
        """Nothing more comes over the first connection."""
        self.client.ask("b")
        self.assertEqual(["a"], self.server.connections[0].payloads)
        self.server.connections[0].answer(srcid="100")
        self.assertTrue(self.server.connections[0].ended)
        self.assertEqual(["b"], self.server.connection.payloads)

    def test_another_server(self) -> None:
        for _ in range(2):
            self.register("200", pipeline=2)
        self.assert_over()

    def test_other_terms(self) -> None:
        for _ in range(2):
            self.register("100", pipeline=3)
        self.assert_over()

    def test_held(self) -> None:
        held = self.world.registration()
        self.assertEqual([held], self.world.factory.router.upstreams.hold([held]))
        for _ in range(2):
            self.register("100", pipeline=2)
        self.assert_over()

    def test_more_than_its_part(self) -> None:
        self.register("300", pipeline=1, connections=2)
        self.server.connection.answer(srcid="100")
        self.client.ask("b", "c")
        router = self.world.factory.router
        router.upstreams.share_with(2)
        self.register("300", pipeline=1, connections=2)
        first, second = self.server.open
        second.answer()
        self.client.ask("d", "e")
        self.assertEqual((True, ["b"], ["c"]), (second.ended, first.payloads, second.payloads))
        first.answer()
        first.answer()
        first.answer()
        self.assertEqual(["b", "d", "e"], first.payloads)


class StopTests(ProxyCase):
    """A router that has stopped gives nothing to anybody."""

    def test_nothing_is_begun(self) -> None:
        world = self.proxy()
        world.register("100", "111", 5000)
        world.register("100", "222", 5001, pipeline=2)
        hanging, open_one = world.server_at((HOST, 5000)), world.server(5001)
        hanging.hang()
        world.client().ask("a")
        world.client().ask("b", policy="222")
        world.factory.close()
        world.pump()
        self.assertEqual(([], []), (hanging.attempts, open_one.open))
        world.advance(10)
        self.assertEqual((1, 1), (hanging.attempted, open_one.attempted))
