"""What is asked of several workers, and done to them, put together; without a process."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from msgspec import json
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.controlling import ControlError, LocalControl
from rproxy.happenings import Happening
from rproxy.policies import Peer
from rproxy.tallies import count_of
from rproxy.workers.channel import ChannelError
from rproxy.workers.controlling import MOST, SECONDS, WorkersControl
from rproxy.workers.merging import WINDOW, Merged
from rproxy.workers.processes import Process
from rproxy.workers.serving import answers_of
from rproxy.workers.spawning import Told
from rproxy.workers.supervising import BACKOFF, Supervisor
from tests.adminclient import control_of
from tests.memory import HOST, Proxy, ProxyCase

FIRST, SECOND = Process(1, 1), Process(2, 1)


@define(eq=False)
class MemoryWorker:
    """A worker whose proxy is in memory; what it answers goes through JSON."""

    number: int
    told: Told
    proxy: Proxy
    control: LocalControl = field(init=False)
    hangs: bool = False
    #: How often it was asked something and hasn't answered.
    asked: int = 0

    def __attrs_post_init__(self) -> None:
        self.control = control_of(self.proxy)

    def ask(self, name: str, **arguments: Any) -> Deferred[Any]:
        if self.hangs:
            self.asked += 1
            return Deferred(lambda cancelled: cancelled.errback(ChannelError("nobody waits")))
        return Deferred.fromCoroutine(self._answer(name, arguments))

    async def _answer(self, name: str, arguments: dict[str, Any]) -> Any:
        answer = answers_of(self.control, self.number)[name](**json.decode(json.encode(arguments)))
        return json.decode(json.encode(await answer if isinstance(answer, Deferred) else answer))

    def stop(self) -> None:
        """See :class:`rproxy.workers.supervising.Worker`."""

    def kill(self) -> None:
        """See :class:`rproxy.workers.supervising.Worker`."""


class WorkersControlTests(ProxyCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.workers: dict[int, MemoryWorker] = {}
        self.supervisor = Supervisor(2, self.spawn, self.clock, lambda: 1.0, 9.0, list, list)
        self.control = WorkersControl(self.supervisor)
        self.supervisor.startService()
        for worker in self.workers.values():
            worker.told.ready()

    def spawn(self, number: int, told: Told) -> MemoryWorker:
        self.workers[number] = MemoryWorker(number, told, self.proxy())
        self.workers[number].control.set_drained(self.control.drained)
        return self.workers[number]

    def register(self, *numbers: int) -> None:
        """Have a server registered at these workers."""
        for number in numbers:
            self.workers[number].proxy.server(5000)
            self.workers[number].proxy.register("100", "111", 5000, pipeline=8, lease=30)

    def states(self) -> list[list[dict[str, int]]]:
        """Of each worker's servers."""
        figures = [self.successResultOf(each.control.figures()) for each in self.workers.values()]
        return [[server.states for policy in each.policies for server in policy.servers] for each in figures]

    def kinds(self) -> list[str]:
        return [each.kind for each in self.successResultOf(self.control.happenings())]

    def replace(self, number: int) -> None:
        """Let a worker die, and another one take its place."""
        self.workers[number].told.ended("was ended by SIGKILL")
        self.clock.advance(BACKOFF.first)
        self.workers[number].told.ready()
        self.flushLoggedErrors()

    def test_figures(self) -> None:
        """Sums of what each counts."""
        self.register(1, 2)
        for worker in self.workers.values():
            worker.proxy.client().ask("xyz1", "xyz2")
        figures = self.successResultOf(self.control.figures())
        self.assertEqual((figures.counters["received"], figures.in_flight, figures.missing), (4, 4, []))
        (server,) = figures.policies[0].servers
        self.assertEqual((server.in_flight, server.states), (4, {"up": 2}))
        self.assertEqual(len(figures.processes), 2)

    def test_hung_worker(self) -> None:
        """It is waited for no longer than that, and it is said whose part is missing."""
        self.register(1, 2)
        self.workers[1].hangs = True
        asked = self.control.figures()
        self.assertNoResult(asked)
        self.clock.advance(SECONDS)
        figures = self.successResultOf(asked)
        self.assertEqual((figures.missing, len(figures.processes)), ([1], 1))

    def test_replaced_worker(self) -> None:
        """What it had counted when it was asked last stays counted; its server is the one that there is now."""
        self.register(1, 2)
        for worker in self.workers.values():
            client = worker.proxy.client()
            client.ask("xyz1", "xyz2")
            worker.proxy.server_at((HOST, 5000)).connection.answer(1)
        before = self.successResultOf(self.control.figures())
        self.replace(1)
        self.register(1)
        after = self.successResultOf(self.control.figures())
        self.assertEqual((after.counters["received"], after.counters["acked"]), (4, 2))
        self.assertEqual((after.counters["client_gone"], after.in_flight), (1, 1))
        (policy,) = after.policies
        self.assertEqual((policy.received, policy.acked, policy.client_gone, policy.in_flight), (4, 2, 1, 1))
        (server,) = policy.servers
        self.assertEqual((server.acked, server.states), (2, {"up": 2}))
        self.assertEqual(count_of(policy.total_times), 2)
        self.assertEqual((before.counters["received"], before.in_flight), (4, 2))

    def test_silent_worker(self) -> None:
        """What it had counted when it was asked last goes on to count."""
        self.register(1, 2)
        self.workers[1].proxy.client().ask("xyz1")
        self.successResultOf(self.control.figures())
        self.workers[1].hangs = True
        asked = self.control.figures()
        self.clock.advance(SECONDS)
        figures = self.successResultOf(asked)
        self.assertEqual((figures.counters["received"], figures.in_flight, figures.missing), (1, 1, [1]))
        self.assertEqual(figures.counters["client_gone"], 0)
        self.workers[1].hangs = False
        again = self.successResultOf(self.control.figures())
        self.assertEqual((again.counters["received"], again.counters["client_gone"], again.in_flight), (1, 0, 1))

    def test_readers_share(self) -> None:
        """However many there are, the workers are asked once, so that what must reach them does."""
        self.workers[1].hangs = True
        asked = [self.control.figures() for _ in range(200)]
        changes = [self.control.drain("1", None) for _ in range(MOST + 5)]
        refused = [each for each in changes if each.called]
        self.assertLess(self.workers[1].asked, 64)
        self.assertTrue(refused)
        for each in refused:
            self.assertIn("too much", str(self.failureResultOf(each, ControlError).value))
        self.clock.advance(SECONDS)
        self.assertEqual([self.successResultOf(each).missing for each in asked], [[1]] * 200)
        self.clock.advance(SECONDS)
        for each in changes:
            if each not in refused:
                self.successResultOf(each)

    def test_none_answers(self) -> None:
        for worker in self.workers.values():
            worker.hangs = True
        asked: list[Any] = [
            self.control.figures(),
            self.control.explain("111", Peer("127.0.0.1")),
            self.control.drain("1", None),
        ]
        self.clock.advance(SECONDS)
        for each in asked:
            self.failureResultOf(each, ControlError)

    def test_explain(self) -> None:
        self.register(1)
        told = self.successResultOf(self.control.explain("111", Peer("127.0.0.1")))
        self.assertEqual([each.refusal for each in told], [None, "no server serves policy 111"])

    def test_drain(self) -> None:
        """It reaches all, counts once, holds for a worker that hears of the server later, and for one that is new."""
        self.register(1)
        self.assertEqual(self.successResultOf(self.control.drain("100", None)), 1)
        self.register(2)
        self.assertEqual(self.states(), [[{"draining": 1}]] * 2)
        self.replace(1)
        self.register(1)
        self.assertEqual(self.states(), [[{"draining": 1}]] * 2)
        self.assertEqual(self.successResultOf(self.control.resume("100", None)), 1)
        self.assertEqual(self.states(), [[{"up": 1}]] * 2)
        self.replace(2)
        self.register(2)
        self.assertEqual(self.states(), [[{"up": 1}]] * 2)

    def test_revoke(self) -> None:
        self.register(1, 2)
        self.assertEqual(self.successResultOf(self.control.revoke("100", "222")), 0)
        self.assertEqual(self.successResultOf(self.control.revoke("100", None)), 1)
        self.assertEqual(self.states(), [[], []])

    def test_happenings(self) -> None:
        """What all tell is told once; a new worker is heard from its first word."""
        heard: list[Happening] = []
        unlisten = self.control.listen(heard.append)
        self.register(1, 2)
        self.successResultOf(self.control.drain("100", None))
        self.assertEqual(self.kinds(), ["registered", "drained"])
        self.assertEqual(self.kinds(), ["registered", "drained"])
        self.replace(1)
        unlisten()
        self.workers[1].proxy.advance(WINDOW * 2)
        self.register(1)
        self.control.look()
        self.assertEqual(self.kinds(), ["registered", "drained", "registered"])
        self.assertEqual([each.number for each in heard], [1, 2])

    def test_ready(self) -> None:
        """From when all accept until it is told to stop; what it answers then says so."""
        self.assertTrue(self.control.is_ready)
        self.supervisor.stopService()
        self.assertFalse(self.control.is_ready)
        self.assertEqual(self.successResultOf(self.control.figures()).state, "draining")


class MergedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.merged = Merged()
        self.numbers = {1: 0, 2: 0}

    def happening(self, worker: int, time: float, kind: str, text: str = "") -> Happening:
        self.numbers[worker] += 1
        return Happening(number=self.numbers[worker], time=time, kind=kind, policy="111", server="9", text=text)

    def told(self) -> list[tuple[float, str, str]]:
        return [(each.time, each.kind, each.text) for each in self.merged.lately]

    def test_found_is_registered(self) -> None:
        """Whichever is heard of first."""
        found = self.happening(2, 1.1, "found", "at 5000")
        self.merged.take({SECOND: [found]})
        self.merged.take({FIRST: [self.happening(1, 1.0, "registered", "at 5000")], SECOND: [found]})
        self.assertEqual(self.told(), [(1.1, "found", "at 5000")])
        self.merged.take({FIRST: [self.happening(1, 2.0, "registered", "at 5000")]})
        self.assertEqual(len(self.told()), 2)

    def test_long_after(self) -> None:
        self.merged.take({FIRST: [self.happening(1, 1.0, "ended")], SECOND: [self.happening(2, 1.1 + WINDOW, "ended")]})
        self.assertEqual(len(self.told()), 2)

    def test_own_findings(self) -> None:
        """Each says whose it is, in the order of time."""
        self.merged.take(
            {FIRST: [self.happening(1, 2.0, "down", "refused")], SECOND: [self.happening(2, 1.0, "down", "refused")]}
        )
        self.merged.take({FIRST: [self.happening(1, 0.5, "up")]})
        self.assertEqual(
            self.told(),
            [(0.5, "up", "worker 1"), (1.0, "down", "worker 2: refused"), (2.0, "down", "worker 1: refused")],
        )
        self.assertEqual(sorted(each.number for each in self.merged.lately), [1, 2, 3])
