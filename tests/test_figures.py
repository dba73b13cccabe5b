"""Figures of several processes together."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rproxy.figures import MOST_CLIENTS, ClientFigures, Figures, PolicyFigures, ServerFigures
from rproxy.figures.counters import Counters
from rproxy.figures.merging import add_up, merge
from rproxy.figures.tallies import OTHERS, Times, add_times, new_times, observe
from tests.test_admin_metrics import figures, process, server

NUMBERS = st.integers(0, 1 << 40)


def times(*seconds: float) -> Times:
    """Times of things that took so long."""
    found = new_times()
    for each in seconds:
        observe(found, each)
    return found


def client(address: str, **figures: int) -> ClientFigures:
    """The figures of the clients at an address."""
    none = {"unanswered_bytes": 0, "held_back": 0, "refused": 0, "leases": 0}
    return ClientFigures(address=address, **{"connections": 1, **none, **figures})


def policy(name: str = "111", *servers: ServerFigures, **figures: Any) -> PolicyFigures:
    """A policy's figures."""
    return PolicyFigures(name=name, servers=[*servers], **figures)


class MergeTests(SynchronousTestCase):
    """Several processes are shown as one proxy."""

    def merged(self, *servers: ServerFigures) -> ServerFigures:
        """One server, of which each process has its own figures."""
        (found,) = merge([figures(policy("111", each)) for each in servers]).policies[0].servers
        return found

    def test_one(self) -> None:
        """Alone it stays as it is."""
        one = figures(policy("111", server(total_times=times(0.5)), total_times=times(0.5), acked=1))
        self.assertEqual(merge([one]), one)

    def test_counters(self) -> None:
        """They are summed up, by code where there are codes, as those of Counters are."""
        one, two = Counters(received=7, acked=3), Counters(received=1, client_gone=1)
        one.refused.update({"no-server": 2, "timeout": 1})
        two.refused.update({"timeout": 1})
        both = Counters()
        for each in one, two:
            both.add(each.snapshot())
        found = merge([figures(counters=one, in_flight=1), figures(counters=two, in_flight=2)])
        self.assertEqual((found.counters, found.in_flight), (both.snapshot(), 3))

    @given(st.lists(st.builds(Counters, received=NUMBERS, acked=NUMBERS, violations=NUMBERS), min_size=1, max_size=4))
    def test_counters_of_many(self, parts: list[Counters]) -> None:
        """However many there are."""
        both = Counters()
        for each in parts:
            both.add(each.snapshot())
        self.assertEqual(merge([figures(counters=each) for each in parts]).counters, both.snapshot())

    def test_policies(self) -> None:
        """By name, also where only one process has them."""
        here = policy(received=5, acked=3, refused={"timeout": 1}, client_gone=1, retried=1, total_times=times(0.1, 40))
        there = policy(received=7, refused={"timeout": 1, "failed": 2}, in_flight=4, waiting=3, total_times=times(0.1))
        found = merge([figures(here), figures(policy("222", received=1), there)])
        expected = policy(
            received=12, acked=3, refused={"timeout": 2, "failed": 2}, client_gone=1, retried=1, in_flight=4,
            waiting=3, total_times=times(0.1, 40, 0.1),
        )  # fmt: skip
        self.assertEqual(found.policies, [expected, policy("222", received=1)])

    def test_states(self) -> None:
        """How many processes have it so, and why they wouldn't give it a packet."""
        found = self.merged(
            server(share=1.0),
            server(share=0.2, states={"down": 1}, reasons={"it is down": 1}),
            server(share=0.6, states={"down": 1}, reasons={"it is down": 1}),
        )
        self.assertEqual((found.states, found.reasons), ({"up": 1, "down": 2}, {"it is down": 2}))
        self.assertAlmostEqual(found.share, 0.6)

    def test_server_numbers(self) -> None:
        """What can be summed up is."""
        names = ("connections", "in_flight", "registrations", "acked", "lost", "downs")
        one, two = (msgspec.structs.replace(server(), **dict.fromkeys(names, number)) for number in (1, 2))
        found = self.merged(one, two)
        self.assertEqual([getattr(found, name) for name in names], [3] * len(names))
        found = self.merged(server(times=times(1), total_times=times(2)), server(times=times(3), total_times=times(4)))
        self.assertEqual((found.times, found.total_times), (times(1, 3), times(2, 4)))

    def test_last_down(self) -> None:
        """The latest is told of, be it this very moment."""
        longer = server(down_ago=5.0, down_why="refused")
        for latest in server(down_ago=1.0, down_why="silent"), server(down_ago=0.0, down_why="lost"):
            for parts in (latest, longer, server()), (server(), longer, latest):
                found = self.merged(*parts)
                self.assertEqual((found.down_ago, found.down_why), (latest.down_ago, latest.down_why))
        self.assertIsNone(self.merged(server(), server()).down_ago)

    def test_lease(self) -> None:
        """That of the process which holds it, even if it is over."""
        self.assertEqual(self.merged(server(), server(lease_left=0.0)).lease_left, 0.0)
        self.assertIsNone(self.merged(server(), server()).lease_left)

    def test_same_id_elsewhere(self) -> None:
        """Policies that aren't told apart may each have a server of that id."""
        others = policy(OTHERS, server("333", acked=1), server("444", acked=2))
        found = merge([figures(others), figures(others)]).policies[0].servers
        self.assertEqual([(each.policy, each.acked) for each in found], [("333", 2), ("444", 4)])

    def test_state(self) -> None:
        """It is ready as long as one process is."""
        for states, expected in ((("draining", "ready"), "ready"), (("draining", "draining"), "draining")):
            self.assertEqual(merge([figures(state=state) for state in states]).state, expected)

    def test_processes(self) -> None:
        """They stay apart."""
        found = merge([figures(processes=[process(number)]) for number in (1, 2)])
        self.assertEqual([each.number for each in found.processes], [1, 2])

    def test_clients(self) -> None:
        """What several show of an address adds up, and the heaviest are shown."""
        names = ("connections", "unanswered_bytes", "held_back", "refused", "leases")
        one, two = (client("10.0.0.1", **dict.fromkeys(names, number)) for number in (1, 2))
        other = client("10.0.0.2", connections=2, unanswered_bytes=4)
        found = merge([figures(clients=[one], client_addresses=1), figures(clients=[other, two], client_addresses=2)])
        self.assertEqual(found.clients, [other, client("10.0.0.1", **dict.fromkeys(names, 3))])
        self.assertEqual(found.client_addresses, 2)
        less = client("10.0.0.3", unanswered_bytes=3)
        refused = client("10.0.0.4", unanswered_bytes=3, refused=1)
        many = client("10.0.0.5", unanswered_bytes=3, connections=2)
        shown = merge([figures(clients=[less, refused, many]), figures(clients=[other])]).clients
        self.assertEqual(shown, [other, many, refused, less])

    def test_clients_are_few(self) -> None:
        """However many processes there are; those that nobody shows are counted by each process that has them."""
        parts = [
            figures(clients=[client(f"10.0.{n}.{m}") for m in range(MOST_CLIENTS)], client_addresses=100)
            for n in (0, 1, 1)
        ]
        found = merge(parts)
        self.assertEqual(len(found.clients), MOST_CLIENTS)
        self.assertEqual({each.connections for each in found.clients}, {2})
        self.assertEqual(found.client_addresses, 300 - MOST_CLIENTS)

    def test_json(self) -> None:
        """It goes through JSON and back."""
        servers = policy("111", server(total_times=times(0.2, 50), lease_left=2.5))
        whole = figures(servers, policy(OTHERS), clients=[client("::/64")])
        self.assertEqual(msgspec.json.decode(msgspec.json.encode(whole), type=Figures), whole)
        self.assertEqual(json.loads(msgspec.json.encode(whole))["policies"][0]["servers"][0]["id"], "100")

    def test_parts_stay(self) -> None:
        """Summing up changes none of them."""
        parts = [figures(policy("111", server(), refused={"timeout": 1}, total_times=times(1))) for _ in range(2)]
        merge(parts)
        self.assertEqual(parts[0], parts[1])
        self.assertEqual(parts[0].policies[0].refused, {"timeout": 1})

    def test_nothing(self) -> None:
        """The sums of nothing."""
        self.assertEqual((add_up([]), add_times([])), ({}, new_times()))


class UpTests(SynchronousTestCase):
    def test_servers_that_take_packets(self) -> None:
        """One that is held does so, and one that is up in some process."""
        states = ({"up": 2}, {"held": 1, "down": 1}, {"down": 2}, {"draining": 2}, {"up": 1, "down": 1})
        servers = [server("111", str(number), states=each) for number, each in enumerate(states)]
        self.assertEqual(policy("111", *servers).servers_up, 3)
