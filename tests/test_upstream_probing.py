"""A server that is down: what takes it down, how it is probed, and who is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.logger import LogEvent, capturedLogs, formatEvent

from tests.memory import HOST, MemoryServerHost, ProxyCase


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

    def test_down_again(self) -> None:
        """One that came back and is down again is probed as before, as often as that happens."""
        server = self.down(pipeline=4)
        for attempted in (2, 4, 6):
            server.accept()
            self.world.advance(0.5)
            self.assertEqual((attempted, 1), (server.attempted, len(server.open)))
            client = self.world.client()
            client.ask("b")
            server.answer()
            server.refuse()
            server.connection.close()
            self.assertEqual(["b by 100"], client.answers())
            client.ask("c")
            client.reset()
            self.assertEqual(attempted + 1, server.attempted)

    def test_up_before_it_was_probed(self) -> None:
        """By a connection that was being made when it went down: then it needs no probe, until it is down again."""
        self.world.register("100", "111", 5000, pipeline=4, connections=2)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("a")
        server.hang()
        client.ask("b", "c")
        server.connection.reset()
        self.assertEqual((["server-lost/unknown"] * 3, 2), (client.answers(), server.attempted))
        server.attempts[0].accept()
        self.world.advance(5)
        self.assertEqual((2, 1), (server.attempted, len(server.open)))
        server.refuse()
        client.ask("d")
        server.connection.reset()
        self.world.advance(1)
        self.assertEqual((["server-lost/unknown"], 3), (client.answers(), server.attempted))

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


class TellingTests(ProxyCase):
    """That a server is down, why, and that it is up again, is logged, once each."""

    def setUp(self) -> None:
        self.world = self.proxy(timeout=1, max_timeouts=1)

    def told(self, events: Sequence[LogEvent]) -> list[tuple[str, str, str, int, str | None]]:
        names = ("server-down", "server-up")
        return [
            (event["log_level"].name, event["event"], event["host"], event["port"], formatEvent(event))
            for event in events
            if event.get("event") in names or "Server at" in (formatEvent(event) or "None")
        ]

    def test_down_and_up(self) -> None:
        self.world.register("100", "111", 5000, pipeline=2)
        with capturedLogs() as events:
            self.world.client().ask("a")
            self.world.server(5000)
            self.world.advance(0.5)
        why = "Connection was refused by other side."
        down = f"Server at {HOST} port 5000 is down: {why}"
        up = f"Server at {HOST} port 5000 is up again"
        self.assertEqual(
            [("warn", "server-down", HOST, 5000, down), ("info", "server-up", HOST, 5000, up)], self.told(events)
        )
        self.assertEqual([why], [event["why"] for event in events if event.get("event") == "server-down"])

    def test_whoever_watches_is_told(self) -> None:
        """Each time that it goes down, and that it is back."""
        happened: list[tuple[str, ...]] = []
        self.world.factory.router.happened = lambda *what: happened.append(what)
        self.world.register("100", "111", 5000, pipeline=2)
        self.world.client().ask("a")
        server = self.world.server(5000)
        self.world.advance(0.5)
        server.connection.reset()
        whys = (("down", "Connection was refused by other side."), ("up", ""), ("down", "the connection broke"))
        told = [what for what in happened if what[0] in {"down", "up"}]
        self.assertEqual([(what, "111", "100", why) for what, why in whys], told)
        [member] = self.world.members()
        self.assertEqual(2, member.tally.downs)

    def test_broken(self) -> None:
        self.world.register("100", "111", 5000, pipeline=2)
        server = self.world.server(5000)
        self.world.client().ask("a")
        with capturedLogs() as events:
            server.connection.reset()
        down = f"Server at {HOST} port 5000 is down: the connection broke"
        self.assertEqual([("warn", "server-down", HOST, 5000, down)], self.told(events))

    def test_no_answers(self) -> None:
        self.world.register("100", "111", 5000, pipeline=2)
        self.world.server(5000)
        self.world.client().ask("a")
        self.world.server_at((HOST, 5000)).refuse()
        happened: list[tuple[str, ...]] = []
        self.world.factory.router.happened = lambda *what: happened.append(what)
        with capturedLogs() as events:
            self.world.advance(1)
        down = f"Server at {HOST} port 5000 is down: it does not answer in time"
        self.assertEqual([("warn", "server-down", HOST, 5000, down)], self.told(events))
        self.assertEqual([("down", "111", "100", "it does not answer in time")], happened)
        [member] = self.world.members()
        self.assertEqual((1, "it does not answer in time"), (member.tally.downs, member.tally.down_why))
        self.assertEqual(self.world.reactor.seconds(), member.tally.down_at)


class AskedTests(ProxyCase):
    """Whether a server is there is found out also when somebody asks."""

    def setUp(self) -> None:
        self.world = self.proxy()

    def probe(self) -> None:
        self.world.factory.router.upstreams.probe(self.world.registration())
        self.world.pump()

    def test_up(self) -> None:
        """By a connection, if there is none."""
        self.world.register("100", "111", 5000, pipeline=2)
        server = self.world.server(5000)
        self.probe()
        self.assertEqual((1, 1), (server.attempted, len(server.open)))
        self.probe()
        self.assertEqual(1, server.attempted)
        self.assertFalse(self.world.factory.router.upstreams.is_down(self.world.registration()))

    def test_down(self) -> None:
        self.world.register("100", "111", 5000)
        self.probe()
        self.assertTrue(self.world.factory.router.upstreams.is_down(self.world.registration()))
        server = self.world.server_at((HOST, 5000))
        self.assertEqual(1, server.attempted)
        self.world.advance(0.5)
        self.assertEqual(2, server.attempted)
        server.accept()
        self.probe()
        self.assertFalse(self.world.factory.router.upstreams.is_down(self.world.registration()))
        self.assertEqual((3, []), (server.attempted, server.open))
        self.world.advance(60)
        self.assertEqual(3, server.attempted)

    def test_drained(self) -> None:
        """Not one that wants nothing any more."""
        self.world.register("100", "111", 5000, drain=True)
        self.probe()
        self.assertEqual(0, self.world.server_at((HOST, 5000)).attempted)

    def test_while_a_connection_is_made(self) -> None:
        self.world.register("100", "111", 5000)
        server = self.world.server_at((HOST, 5000))
        server.hang()
        self.probe()
        self.probe()
        self.assertEqual(1, server.attempted)
