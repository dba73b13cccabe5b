"""Tests of :mod:`tests.chaos.plan`: the seed decides all, and a plan can be carried out."""

from itertools import islice, pairwise

from twisted.trial.unittest import SynchronousTestCase

from tests.chaos import plan
from tests.chaos.plan import Fault, Kind


class PlanTests(SynchronousTestCase):
    """Plans of many seeds."""

    plans = [plan.make(seed, 4.0) for seed in range(100)]
    of_workers = [plan.make(seed, 4.0, workers=2) for seed in range(100)]

    def test_same_seed_same_plan(self) -> None:
        """Or no failure could be looked at twice."""
        for made in self.plans:
            self.assertEqual(plan.make(made.seed, 4.0), made)

    def test_other_seed_other_plan(self) -> None:
        """No two are alike."""
        self.assertEqual(len({made.events for made in self.plans}), len(self.plans))

    def test_same_packets(self) -> None:
        """A client's packets are the same each time, and no payload comes twice."""
        made = self.plans[0]
        payloads = set()
        for client in made.clients:
            drafts = list(islice(made.drafts(client), 50))
            self.assertEqual(list(islice(made.drafts(client), 50)), drafts)
            payloads |= {draft.payload for draft in drafts}
        self.assertEqual(len(payloads), 50 * len(made.clients))

    def test_same_bursts(self) -> None:
        """So are the times at which it sends them."""
        made = self.plans[0]
        for client in made.clients:
            bursts = list(made.bursts(client, made.drafts(client)))
            self.assertEqual(list(made.bursts(client, made.drafts(client))), bursts)
            self.assertLess(max(burst.at for burst in bursts), made.seconds)

    def test_every_kind_of_server_for_every_policy(self) -> None:
        """Twenty servers are enough for that."""
        for made in self.plans:
            found = {(server.kind, policy) for server in made.servers for policy in server.policies}
            self.assertEqual(found, {(kind, policy) for kind in Kind for policy in plan.POLICIES})

    def test_every_fault_comes(self) -> None:
        """The ordinary ones in every plan, and those of the proxy in some."""
        rare = plan.OF_PROXY | plan.OF_WORKER | {Fault.RELOAD}
        for made in (*self.plans, *self.of_workers):
            found = {event.fault for event in made.events}
            self.assertEqual(set(Fault) - rare - found, set())
        self.assertEqual({event.fault for made in self.of_workers for event in made.events}, set(Fault))

    def test_workers(self) -> None:
        """They have faults of their own, and all others are those that a proxy without them has."""
        further = plan.OF_WORKER | {Fault.RELOAD}
        for alone, made in zip(self.plans, self.of_workers, strict=True):
            self.assertEqual((alone.servers, alone.clients), (made.servers, made.clients))
            self.assertEqual(alone.events, tuple(event for event in made.events if event.fault not in further))
            self.assertNotEqual(alone.events, made.events)
            if not made.proxy.policies:
                self.assertNotIn(Fault.RELOAD, {event.fault for event in made.events})

    def test_one_fault_at_a_time(self) -> None:
        """A server that is dead can't be stopped."""
        for made in self.plans:
            for whom in {event.whom for event in made.events if event.fault is not Fault.VANISH}:
                events = [event for event in made.events if event.whom == whom]
                for first, second in pairwise(events):
                    self.assertGreater(second.at, first.at + first.seconds)
