"""Tests for ``rproxy.registry.forgetting``: classic servers that are down for too long."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.packets import Setup
from rproxy.policies import Peer
from rproxy.registry import Registry
from rproxy.registry.claims import Claims
from rproxy.registry.forgetting import Forgetter
from rproxy.registry.records import Record
from rproxy.registry.registration import Registration
from rproxy.registry.standing import Observer

AFTER = 24.0


class Process:
    """One process; what it changes is heard by the others."""

    def __init__(self, clock: Clock, name: str) -> None:
        self.others: list[Process] = []
        self.is_down = False
        self.probed: list[Registration] = []
        self.over: list[str] = []
        self.told = 0
        observer = Observer(
            lambda _: None, lambda _: None, over=lambda _, why: self.over.append(why), changed=self._tell
        )
        self.registry = Registry(clock.seconds, observer, Claims(name, clock.seconds))
        self.forgetter = Forgetter(
            self.registry, clock.seconds, lambda _: self.is_down, self.probed.append, forget_after=AFTER
        )

    def _tell(self, record: Record) -> None:
        self.told += 1
        for other in self.others:
            other.registry.hear([record], complete=False)

    def register(self, lease: float | None = None) -> None:
        setup = Setup(type="1", id="100", policy="111", listenport=5000, lease=lease)
        self.registry.register(setup, Peer("10.0.0.1"), self)

    @property
    def down(self) -> float:
        [record] = self.registry.without_lease
        return record.down

    @property
    def knows(self) -> bool:
        return bool(self.registry.standing)


class ForgettingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.a, self.b = Process(self.clock, "a"), Process(self.clock, "b")
        self.a.others, self.b.others = [self.b], [self.a]

    def sweep(self, *processes: Process, times: int = 1) -> None:
        for _ in range(times):
            for process in processes or (self.a, self.b):
                process.forgetter.sweep()
            self.clock.advance(1)

    def test_after_that_time_for_all(self) -> None:
        self.a.register()
        self.a.is_down = True
        self.sweep(self.a, times=24)
        self.assertTrue(self.a.knows)
        self.sweep(self.a)
        self.assertFalse(self.a.knows or self.b.knows)
        self.assertEqual(self.a.over, ["its server was down for 24 seconds"])

    def test_nothing_to_tell(self) -> None:
        """At the first look it has been down for no time."""
        self.a.register()
        self.a.is_down = True
        self.sweep(self.a)
        self.assertEqual(self.a.told, 1)
        self.sweep(self.a)
        self.assertEqual(self.a.told, 2)

    def test_two_that_see_it_down_count_no_faster(self) -> None:
        self.a.register()
        self.a.is_down = self.b.is_down = True
        self.sweep(times=24)
        self.assertTrue(self.a.knows and self.b.knows)
        self.sweep()
        self.assertFalse(self.a.knows or self.b.knows)

    def test_up_never(self) -> None:
        """And it is looked for each time: one that nobody has packets for would never be known to be down."""
        self.a.register()
        self.sweep(times=100)
        self.assertTrue(self.a.knows)
        self.assertEqual(len(self.a.probed), 100)

    def test_a_lease_says_all_itself(self) -> None:
        self.a.register(lease=1000.0)
        self.a.is_down = True
        self.sweep(times=100)
        self.assertTrue(self.a.knows)

    def test_up_in_between(self) -> None:
        """It begins anew; what was told is taken back, once it is found out that it is so."""
        self.a.register()
        self.a.is_down = True
        self.sweep(self.a, times=20)
        self.a.is_down = False
        self.sweep(self.a)
        self.assertEqual((len(self.a.probed), self.a.down), (1, 19.0))
        self.sweep(self.a)
        self.assertEqual(self.a.down, 0.0)
        self.a.is_down = True
        self.sweep(self.a, times=20)
        self.assertTrue(self.a.knows)

    def test_a_probe_that_fails(self) -> None:
        self.a.register()
        self.a.is_down = True
        self.sweep(self.a, times=10)
        self.a.is_down = False
        self.sweep(self.a)
        self.a.is_down = True
        self.sweep(self.a)
        self.assertEqual(self.a.down, 9.0)

    def test_another_sees_it_up(self) -> None:
        self.a.register()
        self.a.is_down = True
        self.sweep(times=100)
        self.assertTrue(self.a.knows and self.b.knows)
        self.assertTrue(self.b.probed)

    def test_over_a_restart(self) -> None:
        """The time that was seen counts; the time while nobody looked doesn't."""
        self.a.register()
        self.a.is_down = self.b.is_down = True
        self.sweep(self.a, times=20)
        self.clock.advance(1000)
        self.sweep(self.b, times=5)
        self.assertEqual(self.b.down, 23.0)
        self.assertTrue(self.b.knows)
        self.sweep(self.b)
        self.assertFalse(self.b.knows)

    def test_registered_anew(self) -> None:
        self.a.register()
        self.a.is_down = True
        self.sweep(self.a, times=20)
        self.a.register()
        self.sweep(self.a, times=20)
        self.assertTrue(self.a.knows)

    def test_registered_anew_elsewhere_as_it_is_forgotten(self) -> None:
        """The end is that of the old registration alone, whatever is heard first."""
        self.a.register()
        self.a.is_down = True
        self.sweep(self.a, times=24)
        self.b.others = []
        self.b.register()
        self.sweep(self.a)
        self.assertEqual((self.a.knows, self.b.knows), (False, True))

    def test_cut_off(self) -> None:
        """Who doesn't hear of the others can't say that it isn't itself who is down."""
        self.a.register()
        self.a.is_down = True
        self.sweep(self.a, times=10)
        self.a.registry.lose_touch()
        self.sweep(self.a, times=100)
        self.assertEqual((self.a.knows, self.a.down), (True, 9.0))
        self.a.registry.hear([], complete=False)
        self.sweep(self.a, times=10)
        self.assertTrue(self.a.knows)
        self.sweep(self.a, times=10)
        self.assertFalse(self.a.knows)
