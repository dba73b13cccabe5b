"""The connections to one server: how many, when they are opened and closed, and what becomes of one that is down."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from twisted.internet.error import ConnectionRefusedError

from tests.memory import HOST, MemoryServerHost, Proxy, ProxyCase, setup


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


class ProbeTests(ProxyCase):
    """A server that is down is probed, ever more seldom, with no packet at risk."""

    def setUp(self) -> None:
        self.world = self.proxy()

    def down(self, **modern: Any) -> MemoryServerHost:
        """A server that has just been found down, by a packet that nobody waits for any more."""
        self.world.register("100", "111", 5000, **modern)
        client = self.world.client()
        client.ask("a")
        client.reset()
        return self.world.server_at((HOST, 5000))

    def test_backoff(self) -> None:
        """After 0.5, 1, 2, 4, 8, 16, 30 and 30 seconds, give or take the jitter, which is none here."""
        server = self.down()
        attempts = [1]
        for pause in (0.5, 1, 2, 4, 8, 16, 30, 30):
            self.world.advance(pause - 0.25)
            self.assertEqual(server.attempted, attempts[-1])
            self.world.advance(0.25)
            attempts.append(server.attempted)
        self.assertEqual(attempts, list(range(1, 10)))

    def test_probe_of_a_classic_server(self) -> None:
        """The probe of a classic server is closed at once, so that it doesn't hold up what comes next."""
        server = self.down()
        server.accept()
        self.world.advance(0.5)
        self.assertEqual((len(server.connections), server.open, server.payloads), (1, [], []))
        self.world.advance(60)
        self.assertEqual(server.attempted, 2, "a server that is up is not probed")

    def test_probe_of_a_modern_server(self) -> None:
        """The probe of a modern server becomes a connection."""
        server = self.down(pipeline=4)
        server.accept()
        self.world.advance(0.5)
        self.assertEqual((len(server.open), server.payloads), (1, []))
        self.world.client().ask("b")
        self.assertEqual((server.connection.payloads, server.attempted), (["b"], 2))

    def test_no_packet_is_risked(self) -> None:
        """While it is down no packet is given to it."""
        server = self.down()
        self.world.register("200", "111", 6000)
        up = self.world.server(6000)
        self.world.client().ask("b", "c", "d")
        self.assertEqual((server.attempted, len(up.packets)), (1, 3))

    def test_probe_that_hangs(self) -> None:
        """There is one probe at a time, however long it takes."""
        server = self.down()
        server.hang()
        self.world.advance(5.25)
        self.assertEqual((server.attempted, len(server.attempts)), (2, 1))
        self.world.register("100", "111", 5000)
        self.assertEqual(len(server.attempts), 1)

    def test_no_probe_of_who_left(self) -> None:
        """A server whose registration ended isn't probed any more."""
        lease = self.world.register("100", "111", 5000, lease=60)
        self.world.client().ask("a")
        self.world.advance(0.75)
        server = self.world.server_at((HOST, 5000))
        attempted = server.attempted
        lease.close()
        self.world.advance(60)
        self.assertEqual(server.attempted, attempted)

    def test_registration_is_news(self) -> None:
        """A server that registers anew is probed at once."""
        server = self.down()
        self.world.advance(100)
        server.accept()
        self.world.register("100", "111", 5000)
        client = self.world.client()
        client.ask("b")
        self.assertEqual(server.payloads, ["b"])

    def test_broken_connection(self) -> None:
        """A server that lost a packet is down until a probe succeeds."""
        self.world.register("100", "111", 5000)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("a")
        server.connection.close()
        client.ask("b")
        self.assertEqual(server.attempted, 1)
        self.world.advance(0.5)
        self.assertEqual(server.payloads, ["a", "b"])


class ThresholdTests(ProxyCase):
    """``--max-fails`` and ``--max-timeouts``: how often it must go wrong in a row."""

    def test_refused_several_times(self) -> None:
        """A packet that finds the port closed is offered again as long as the server counts as up."""
        world = self.proxy(max_fails=3)
        world.register("100", "111", 5000)
        world.client().ask("a")
        server = world.server_at((HOST, 5000))
        self.assertEqual(server.attempted, 3)
        world.client().ask("b")
        self.assertEqual(server.attempted, 3, "it is down")

    def test_many_packets_on_a_lost_connection_are_one_failure(self) -> None:
        world = self.proxy(max_fails=2)
        world.register("100", "111", 5000, pipeline=20)
        server = world.server(5000)
        client = world.client()
        client.ask(*map(str, range(20)))
        server.connection.close()
        self.assertEqual(client.answers(), ["server-lost/unknown"] * 20)
        client.ask("b")
        self.assertEqual(server.payloads[20:], ["b"])
        server.connection.close()
        client.ask("c")
        self.assertEqual(server.payloads[20:], ["b"])

    def test_an_answer_in_between(self) -> None:
        world = self.proxy(max_fails=2)
        world.register("100", "111", 5000, pipeline=20)
        server = world.server(5000)
        client = world.client()
        for _ in range(4):
            client.ask("a", "b")
            server.connection.answer(1)
            server.connection.close()
        self.assertEqual(client.answers(), ["a by 100", "server-lost/unknown"] * 4)

    def test_answers_that_do_not_come(self) -> None:
        """A server that takes packets and answers none is down after three connections of that kind."""
        world = self.proxy(timeout=1)
        world.register("100", "111", 5000)
        server = world.server(5000)
        client = world.client()
        client.ask("a", "b")
        world.advance(1.25)
        self.assertEqual(client.answers(), ["timeout/unknown"] * 2)
        client.ask("c")
        self.assertEqual(server.payloads, ["a", "b", "c"])
        world.advance(1.0)
        client.ask("d")
        self.assertEqual(server.payloads, ["a", "b", "c"], "it is down")

    def test_a_late_answer_ends_the_row(self) -> None:
        world = self.proxy(timeout=1, max_timeouts=2)
        world.register("100", "111", 5000, pipeline=10)
        server = world.server(5000)
        client = world.client()
        for _ in range(4):
            client.ask("a", "b")
            world.advance(1.25)
            server.connection.answer()
        self.assertEqual(client.answers(), ["timeout/unknown"] * 8)
        self.assertEqual((len(server.packets), len(server.connections)), (8, 1))

    def test_its_connections_are_not_more_than_it_wants(self) -> None:
        """The probe of a server that owes answers is closed at once where it has its connections already."""
        world = self.proxy(timeout=2, max_timeouts=1)
        world.register("100", "111", 5000, pipeline=10)
        server = world.server(5000)
        world.client().ask("a")
        world.advance(3)
        self.assertEqual((len(server.connections), len(server.open)), (2, 1))


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
            calls += event == "call" and "/rproxy/" in frame.f_code.co_filename

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


class LeaseTests(ProxyCase):
    """With a lease, a registration stands as long as it is renewed and its connection open."""

    def setUp(self) -> None:
        self.world: Proxy = self.proxy()
        self.lease = self.world.register("100", "111", 5000, pipeline=3, lease=10)
        self.server = self.world.server(5000)
        self.client = self.world.client()

    def renew(self, **modern: Any) -> None:
        self.lease.send(setup("100", "111", 5000, **{"pipeline": 3, "lease": 10, **modern}))

    def assert_over(self) -> None:
        """Packets for the policy find nobody."""
        self.client.ask("late")
        self.world.advance(6)
        self.assertEqual(self.client.answers(), ["no-server/no"])
        self.assertNotIn("late", self.server.payloads)

    def test_renewed(self) -> None:
        """Setup that is sent again within the time renews it, and disturbs nothing."""
        for number in range(5):
            self.world.advance(9.75)
            self.renew()
            self.client.ask(str(number))
            self.server.answer()
        self.assertEqual(self.client.answers(), [f"{number} by 100" for number in range(5)])
        self.assertEqual(self.server.attempted, 1)

    def test_ends_by_time(self) -> None:
        """It ends when it isn't renewed in time."""
        self.world.advance(10.25)
        self.assert_over()

    def test_ends_by_close(self) -> None:
        """It ends when its connection closes, in order or not."""
        self.lease.close()
        self.assert_over()
        self.setUp()
        self.lease.reset()
        self.assert_over()

    def test_in_flight_is_finished(self) -> None:
        """What is in flight when it ends is finished, and then the connection to the server closed."""
        self.client.ask("a", "b")
        self.lease.close()
        self.server.connection.answer(1)
        self.assertFalse(self.server.connection.gone)
        self.server.answer()
        self.assertEqual(self.client.answers(), ["a by 100", "b by 100"])
        self.assertTrue(self.server.connection.ended)

    def test_idle_connections_are_closed(self) -> None:
        """Connections with nothing in flight are closed at once."""
        self.client.ask("a")
        self.server.answer()
        self.lease.close()
        self.assertEqual(self.server.open, [])

    def test_attempts_are_given_up(self) -> None:
        """So are attempts to connect."""
        self.server.hang()
        self.client.ask("a")
        self.lease.close()
        self.assertEqual(self.server.attempts, [])
        self.world.advance(6)
        self.assertEqual(self.client.answers(), ["no-server/no"])

    def test_registers_again(self) -> None:
        """A server that comes back in time serves what has waited since."""
        self.lease.reset()
        self.client.ask("a")
        self.world.advance(3)
        self.lease = self.world.register("100", "111", 5000, pipeline=3, lease=10)
        self.assertEqual(self.server.payloads, ["a"])

    def test_registers_again_while_its_packets_are_in_flight(self) -> None:
        """Also if it hasn't answered what it had before."""
        self.client.ask("a")
        self.lease.reset()
        self.lease = self.world.register("100", "111", 5000, pipeline=3, lease=10)
        self.client.ask("b")
        self.world.advance(0.25)
        self.server.answer()
        self.world.advance(0.25)
        self.server.answer()
        self.assertEqual(self.client.answers(), ["a by 100", "b by 100"])

    def test_lease_is_given_up(self) -> None:
        """A setup without a lease makes the registration one that stands."""
        self.lease.send(setup("100", "111", 5000, pipeline=3))
        self.lease.close()
        self.world.advance(60)
        self.client.ask("a")
        self.assertEqual(self.server.payloads, ["a"])

    def test_drain(self) -> None:
        """``drain``: it gets nothing new, what is in flight is finished, then its connections are closed."""
        self.client.ask("a", "b")
        self.renew(drain=True)
        self.assertEqual(self.lease.answers(), ["registered", "draining"])
        self.world.register("200", "111", 6000)
        other = self.world.server(6000)
        self.client.ask("c")
        self.assertEqual((self.server.payloads, other.payloads), (["a", "b"], ["c"]))
        other.answer()
        self.server.answer()
        self.assertEqual(self.client.answers(), ["a by 100", "b by 100", "c by 200"])
        self.assertEqual(self.server.open, [])
        self.world.advance(9)
        self.renew(drain=True)
        self.assertEqual(self.lease.answers(), ["draining"])

    def test_drain_while_connecting(self) -> None:
        """What it didn't get yet goes to others."""
        self.server.hang()
        self.client.ask("a", "b")
        self.world.register("200", "111", 6000)
        other = self.world.server(6000)
        self.renew(drain=True)
        self.assertEqual(sorted(other.payloads), ["a", "b"])
        self.server.accept()
        self.assertEqual(self.server.payloads, [])

    def test_no_longer_draining(self) -> None:
        """A server that drained may come back into the rotation, and then serves what has waited."""
        self.renew(drain=True)
        self.client.ask("a")
        self.assertEqual(self.server.payloads, [])
        self.renew()
        self.assertEqual(self.server.payloads, ["a"])
