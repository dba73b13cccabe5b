"""Whose turn it is: round-robin in the order of registration, whoever comes, goes, is full or weighs more."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.figures.tallies import PolicyTally, ServerTally
from rproxy.health import FULL_SHARE
from rproxy.registry.registration import Registration
from rproxy.request import Request
from rproxy.rotation import MOST_TURNS, Member, Rotation


class Client:
    """Whoever asks."""

    def deliver_soon(self) -> None:
        raise NotImplementedError

    def deliver(self, now: float) -> None:
        raise AssertionError("the rotation answers nobody")


class Server:
    """Where packets go; it takes them while it isn't full, and it can't be asked for what it may not have."""

    def __init__(self) -> None:
        self.full = False
        self.asked = 0
        self.takes_at_most = 1 << 20
        self.share = FULL_SHARE

    def take(self, request: Request, member: Member) -> bool:
        assert member.live and member.target is self and member.policy == request.policy
        self.asked += 1
        return not self.full


def request() -> Request:
    return Request(b"{}", "111", "1", 30.0, Client())


class RotationCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.rotation = Rotation()
        self.servers: dict[str, Server] = {}

    def put(self, *server_ids: str, weight: int = 1, draining: bool = False, pipeline: int | None = None) -> None:
        """Register these servers, one after the other."""
        for server_id in server_ids:
            server = self.servers.setdefault(server_id, Server())
            registration = Registration(
                "111", server_id, "10.0.0.1", 5000, pipeline=pipeline, weight=weight, draining=draining
            )
            self.rotation.put(Member(registration, server, ServerTally(PolicyTally(30.0))))

    def turn(self) -> str:
        """Who takes the next packet; ``-`` if nobody does."""
        member = self.rotation.offer(request())
        return "-" if member is None else member.server_id

    def turns(self, number: int) -> str:
        """Who takes the next packets."""
        return " ".join(self.turn() for _turn in range(number))


class OrderTests(RotationCase):
    """Round-robin in the order of registration."""

    def test_nobody(self) -> None:
        self.assertEqual("- -", self.turns(2))

    def test_two_servers_take_turns(self) -> None:
        self.put("1", "2")
        self.assertEqual("1 2 1 2 1", self.turns(5))

    def test_the_order_is_that_of_registration(self) -> None:
        self.put("b", "c", "a", "10", "9")
        self.assertEqual("b c a 10 9 b c a 10 9 b", self.turns(11))

    def test_who_registers_again_keeps_its_place(self) -> None:
        self.put("1", "2", "3")
        self.assertEqual("1", self.turns(1))
        self.put("2")
        self.assertEqual("2 3 1 2", self.turns(4))
        self.put("2")
        self.assertEqual("3 1 2", self.turns(3))

    def test_the_packets_go_to_the_newest_registration(self) -> None:
        self.put("1")
        old = self.rotation.offer(request())
        self.put("1")
        new = self.rotation.offer(request())
        self.assertIsNot(old, new)

    def test_who_is_new_comes_last_and_the_round_goes_on(self) -> None:
        self.put("1", "2")
        self.assertEqual("1", self.turns(1))
        self.put("3")
        self.assertEqual("2 3 1 2 3", self.turns(5))

    def test_who_is_new_at_the_end_of_a_round_is_next(self) -> None:
        self.put("1", "2")
        self.assertEqual("1 2", self.turns(2))
        self.put("3")
        self.assertEqual("3 1 2 3", self.turns(4))

    def test_who_leaves_before_its_turn(self) -> None:
        self.put("1", "2", "3", "4")
        self.assertEqual("1", self.turns(1))
        self.rotation.remove("2")
        self.assertEqual("3 4 1 3", self.turns(4))

    def test_who_leaves_just_after_its_turn(self) -> None:
        self.put("1", "2", "3", "4")
        self.assertEqual("1 2", self.turns(2))
        self.rotation.remove("2")
        self.assertEqual("3 4 1 3", self.turns(4))

    def test_who_leaves_long_after_its_turn(self) -> None:
        self.put("1", "2", "3", "4")
        self.assertEqual("1 2 3", self.turns(3))
        self.rotation.remove("1")
        self.assertEqual("4 2 3 4", self.turns(4))

    def test_the_last_of_the_round_leaves_after_its_turn(self) -> None:
        self.put("1", "2", "3")
        self.assertEqual("1 2 3", self.turns(3))
        self.rotation.remove("3")
        self.assertEqual("1 2 1", self.turns(3))

    def test_who_comes_back_is_new(self) -> None:
        self.put("1", "2", "3")
        self.rotation.remove("1")
        self.put("1")
        self.assertEqual("2 3 1 2", self.turns(4))

    def test_the_one_of_that_id_is_handed_back(self) -> None:
        first = Member(Registration("111", "1", "10.0.0.1", 5000), Server(), ServerTally(PolicyTally(30.0)))
        second = Member(Registration("111", "1", "10.0.0.1", 5001), Server(), ServerTally(PolicyTally(30.0)))
        self.assertIsNone(self.rotation.put(first))
        self.assertEqual(1, len(self.rotation))
        self.assertIs(first, self.rotation.put(second))
        self.assertEqual(1, len(self.rotation))
        self.assertIs(second, self.rotation.remove("1"))
        self.assertEqual(0, len(self.rotation))
        self.assertIsNone(self.rotation.remove("1"))


class PassedOverTests(RotationCase):
    """Full or down, and draining."""

    def test_who_is_full_is_passed_over_and_back_in_its_place_afterwards(self) -> None:
        self.put("1", "2", "3")
        self.servers["2"].full = True
        self.assertEqual("1 3 1 3 1", self.turns(5))
        self.servers["2"].full = False
        self.assertEqual("2 3 1 2", self.turns(4))

    def test_who_is_full_and_first(self) -> None:
        self.put("1", "2", "3")
        self.servers["1"].full = True
        self.assertEqual("2 3 2", self.turns(3))

    def test_who_is_about_to_leave(self) -> None:
        """It isn't even asked, also where it was its turn."""
        self.put("1", "2", "3")
        self.assertEqual("1", self.turns(1))
        self.rotation.bar("2").live = False
        self.assertEqual("3 1 3", self.turns(3))
        self.assertEqual(0, self.servers["2"].asked)

    def test_nobody_loses_a_turn_when_all_are_full(self) -> None:
        self.put("1", "2", "3")
        self.assertEqual("1", self.turns(1))
        for server in self.servers.values():
            server.full = True
        self.assertEqual("- - - - -", self.turns(5))
        for server in self.servers.values():
            server.full = False
        self.assertEqual("2 3 1", self.turns(3))

    def test_nor_when_somebody_comes_meanwhile(self) -> None:
        self.put("1")
        self.servers["1"].full = True
        self.assertEqual("-", self.turns(1))
        self.servers["1"].full = False
        self.put("2")
        self.assertEqual("1 2 1", self.turns(3))

    def test_nor_when_somebody_goes_meanwhile(self) -> None:
        self.put("1", "2")
        self.assertEqual("1", self.turns(1))
        self.rotation.remove("1")
        self.servers["2"].full = True
        self.assertEqual("-", self.turns(1))
        self.servers["2"].full = False
        self.put("3")
        self.assertEqual("2 3 2", self.turns(3))

    def test_who_drains_gets_nothing(self) -> None:
        self.put("1", "2", "3")
        self.put("2", draining=True)
        asked = self.servers["2"].asked
        self.assertEqual("1 3 1 3", self.turns(4))
        self.assertEqual(asked, self.servers["2"].asked)
        self.assertEqual(3, len(self.rotation))

    def test_who_drains_no_more_is_back_in_its_place(self) -> None:
        self.put("1", "2", "3")
        self.put("2", draining=True)
        self.assertEqual("1", self.turns(1))
        self.put("2")
        self.assertEqual("2 3 1", self.turns(3))

    def test_all_drain(self) -> None:
        self.put("1", "2")
        self.assertEqual("1", self.turns(1))
        self.put("1", "2", draining=True)
        self.assertEqual("- -", self.turns(2))
        self.put("1", "2")
        self.assertEqual("2 1 2", self.turns(3))


class CostTests(RotationCase):
    """A turn costs the same for one server and for a thousand."""

    def test_only_one_is_asked_if_it_takes(self) -> None:
        self.put(*map(str, range(1000)))
        self.turns(2500)
        self.assertEqual(2500, sum(server.asked for server in self.servers.values()))

    def test_each_is_asked_once_if_none_takes(self) -> None:
        self.put(*map(str, range(1000)))
        for server in self.servers.values():
            server.full = True
        self.assertEqual("-", self.turn())
        self.assertEqual({1}, {server.asked for server in self.servers.values()})


class WeightTests(RotationCase):
    """A server of weight w has w turns a round."""

    def test_two_to_one(self) -> None:
        self.put("1", weight=2)
        self.put("2", weight=1)
        self.assertEqual("1 2 1 1 2 1 1 2 1", self.turns(9))

    def test_equal_weights_are_plain_turns(self) -> None:
        self.put("1", "2", "3", weight=7)
        self.assertEqual("1 2 3 1 2 3 1 2", self.turns(8))

    def test_the_turns_of_a_heavy_server_are_spread(self) -> None:
        self.put("1", weight=4)
        self.put("2", weight=4)
        self.put("3", weight=2)
        self.assertEqual("1 2 3 1 2 1 2 3 1 2", self.turns(10))

    def test_another_weight_counts_at_once(self) -> None:
        self.put("1", "2")
        self.assertEqual("1 2", self.turns(2))
        self.put("2", weight=3)
        self.assertEqual(["1"] + ["2"] * 3, sorted(self.turns(4).split()))

    @given(st.lists(st.integers(1, 100), min_size=1, max_size=6))
    def test_each_round_has_the_exact_shares(self, weights: list[int]) -> None:
        self.setUp()
        for server_id, weight in enumerate(weights):
            self.put(str(server_id), weight=weight)
        for _round in range(2):
            served = self.turns(sum(weights)).split()
            self.assertEqual(weights, [served.count(str(server_id)) for server_id in range(len(weights))])

    @given(st.lists(st.integers(1, 20), min_size=2, max_size=5))
    def test_between_two_turns_of_one_server_each_other_has_its_share(self, weights: list[int]) -> None:
        self.setUp()
        for server_id, weight in enumerate(weights):
            self.put(str(server_id), weight=weight)
        served = self.turns(3 * sum(weights)).split()
        for one, weight in enumerate(weights):
            places = [place for place, server_id in enumerate(served) if server_id == str(one)]
            for start, end in pairwise(places):
                for other, other_weight in enumerate(weights):
                    between = served[start + 1 : end].count(str(other))
                    if other != one:
                        self.assertIn(between, {other_weight // weight, math.ceil(other_weight / weight)})


class RoundTests(RotationCase):
    """However many register, and with whatever weights, a round is of a length that can be made anew at any time."""

    def counts(self, number: int) -> list[int]:
        """How many of the next packets each server takes."""
        taken = Counter(self.turn() for _ in range(number))
        return [taken[server_id] for server_id in self.servers]

    def test_exact_up_to_the_bound(self) -> None:
        for weight, server_ids in (99, range(100)), (101, range(100, 200)):
            self.put(*map(str, server_ids), weight=weight)
        self.assertEqual(self.counts(MOST_TURNS), [99] * 100 + [101] * 100)

    def test_rounded_beyond(self) -> None:
        for number in range(400):
            self.put(str(number), weight=(50, 99)[number % 2])
        counts = self.counts(400 // 2 * (34 + 66))
        self.assertEqual(counts, [34, 66] * 200)

    def test_each_has_a_turn(self) -> None:
        """Also one that weighs next to nothing among so many."""
        self.put("0", weight=1)
        self.put(*map(str, range(1, 3000)), weight=100)
        self.servers["1"].share -= 1
        self.assertEqual(self.counts(1 + 5 + 7 * 2998)[:3], [1, 5, 7])


class ClassicTests(RotationCase):
    """Whether a server of a policy is of the old kind."""

    def test_nobody_is_of_no_kind(self) -> None:
        self.assertTrue(self.rotation.all_take(4096))

    def test_none_is(self) -> None:
        self.put("1", "2", pipeline=16)
        self.assertTrue(self.rotation.all_take(4096))

    def test_one_is(self) -> None:
        self.put("1", "2", pipeline=16)
        self.put("3")
        self.servers["3"].takes_at_most = 2048
        self.assertFalse(self.rotation.all_take(4096))
        self.assertTrue(self.rotation.all_take(2048))

    def test_one_that_drains_doesnt_count(self) -> None:
        self.put("1", "2", pipeline=16)
        self.put("3", draining=True)
        self.servers["3"].takes_at_most = 2048
        self.assertTrue(self.rotation.all_take(4096))


#: Servers come, drain, go and are given packets.
steps = st.lists(
    st.tuples(st.sampled_from(["put", "drain", "remove"]), st.integers(1, 6)) | st.just(("offer", 0)), max_size=80
)


class AnyOrderTests(RotationCase):
    """Whoever comes and goes, those that stay are served in turn."""

    @given(steps)
    def test_between_two_turns_of_one_server_all_that_stayed_have_one(self, steps: list[tuple[str, int]]) -> None:
        self.setUp()
        served: list[str] = []
        #: Since which turn each server may have packets.
        since: dict[str, int] = {}
        for step, number in steps:
            server_id = str(number)
            if step == "put":
                self.put(server_id)
                since.setdefault(server_id, len(served))
            elif step == "drain":
                self.put(server_id, draining=True)
                since.pop(server_id, None)
            elif step == "remove":
                self.rotation.remove(server_id)
                since.pop(server_id, None)
            elif since:
                self._take_turn(served, since)
            else:
                self.assertEqual("-", self.turn())

    def _take_turn(self, served: list[str], since: dict[str, int]) -> None:
        taker = self.turn()
        self.assertIn(taker, since)
        if taker in served[since[taker] :]:
            last = len(served) - 1 - served[::-1].index(taker)
            between = served[last + 1 :]
            stayed = {server_id for server_id, turn in since.items() if turn <= last and server_id != taker}
            self.assertEqual(dict.fromkeys(stayed, 1), {s: between.count(s) for s in stayed})
        served.append(taker)
