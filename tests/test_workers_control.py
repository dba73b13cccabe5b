"""What is asked of several workers, and done to them, put together; without a process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field
from msgspec import json
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rproxy.control import FRESH, ControlError, HeldElsewhereError, LocalControl
from rproxy.figures import Figures, PolicyFigures
from rproxy.figures.counters import Counters
from rproxy.figures.happenings import Happening
from rproxy.figures.tallies import OTHERS, count_of, new_times
from rproxy.policies import Peer
from rproxy.workers import remembering
from rproxy.workers.channel import ChannelError
from rproxy.workers.controlling import MOST, SECONDS, WorkersControl
from rproxy.workers.merging import WINDOW, Merged
from rproxy.workers.processes import Process
from rproxy.workers.remembering import Memory
from rproxy.workers.serving import answers_of
from rproxy.workers.spawning import Told
from rproxy.workers.supervising import BACKOFF, Supervisor
from tests.adminclient import control_of
from tests.memory import HOST, Proxy, ProxyCase
from tests.test_admin_metrics import figures, server

FIRST, SECOND = Process(1, 1), Process(2, 1)


@define(eq=False)
class MemoryWorker:
    """A worker whose proxy is in memory; what it answers goes through JSON."""

    number: int
    told: Told
    proxy: Proxy
    control: LocalControl = field(init=False)
    hangs: bool = False
    #: What it hasn't answered and nobody waits for, where it is so.
    owed: set[str] = field(factory=set)
    #: Questions that wait until the test has them answered, where it is slow.
    waiting: list[Callable[[], None]] | None = None
    #: How often it was asked something and hasn't answered.
    asked: int = 0

    def __attrs_post_init__(self) -> None:
        self.control = control_of(self.proxy)

    def ask(self, name: str, **arguments: Any) -> Deferred[Any]:
        if self.hangs:
            self.asked += 1
            return Deferred(lambda cancelled: cancelled.errback(ChannelError("nobody waits")))
        if self.waiting is None:
            return Deferred.fromCoroutine(self._answer(name, arguments))
        later: Deferred[Any] = Deferred(lambda cancelled: cancelled.errback(ChannelError("nobody waits")))
        self.waiting.append(lambda: self._answer_late(name, arguments, later))
        return later

    def answer(self) -> None:
        """Answer what waits, in order."""
        waiting, self.waiting = self.waiting or [], None
        for each in waiting:
            each()

    def _answer_late(self, name: str, arguments: dict[str, Any], later: Deferred[Any]) -> None:
        answering = Deferred.fromCoroutine(self._answer(name, arguments))
        if not later.called:
            answering.chainDeferred(later)

    async def _answer(self, name: str, arguments: dict[str, Any]) -> Any:
        answers: dict[str, Any] = {**answers_of(self.control, self.number), "ping": lambda: None}
        answer = answers[name](**json.decode(json.encode(arguments)))
        return json.decode(json.encode(await answer if isinstance(answer, Deferred) else answer))

    def owes(self, name: str) -> bool:
        """See :class:`rproxy.workers.supervising.Worker`."""
        return name in self.owed

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
        self.workers[number] = MemoryWorker(number, told, self.proxy(name=f"worker {number}"))
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

    def test_replaced_while_gathered(self) -> None:
        """What it answered is what it counted, and not what its successor did, so nothing sinks or counts twice."""
        self.register(1, 2)
        for _ in range(3):
            self.workers[1].proxy.client().ask("xyz1")
        self.successResultOf(self.control.figures())
        self.workers[1].proxy.client().ask("xyz1")
        self.workers[1].proxy.reactor.advance(FRESH)
        self.workers[2].waiting = []
        asked = self.control.figures()
        self.replace(1)
        self.workers[2].answer()
        figures = self.successResultOf(asked)
        self.assertEqual((figures.counters["received"], figures.missing), (4, [1]))
        self.workers[1].proxy.client().ask("xyz1")
        figures = self.successResultOf(self.control.figures())
        counted = (figures.counters["received"], figures.counters["client_gone"], figures.counters["refused"])
        self.assertEqual((counted, figures.missing), ((5, 4, {"no-server": 1}), []))

    def test_replaced_and_no_other_answers(self) -> None:
        """What the dead one said is kept; that nobody is there now is told."""
        self.register(1)
        self.workers[1].proxy.client().ask("xyz1")
        self.workers[2].hangs = True
        asked = self.control.figures()
        self.replace(1)
        self.workers[1].hangs = True
        self.clock.advance(SECONDS)
        self.failureResultOf(asked, ControlError)
        self.workers[1].hangs = False
        asked = self.control.figures()
        self.clock.advance(SECONDS)
        self.assertEqual(self.successResultOf(asked).counters["received"], 1)

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

    def test_slow_worker(self) -> None:
        """It isn't asked more and more; what it is told to do it hears all the same."""
        self.register(1, 2)
        self.workers[1].owed = {"figures", "happenings", "find"}
        figures = self.successResultOf(self.control.figures())
        self.assertEqual(figures.missing, [1])
        self.assertEqual(self.successResultOf(self.control.drain("100", None)), 1)
        self.assertEqual(self.states(), [[{"draining": 1}]] * 2)
        self.assertEqual(self.successResultOf(self.control.revoke("100", None)), 1)
        self.assertEqual(self.states(), [[], []])

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

    def test_drain_and_a_new_worker(self) -> None:
        """It begins with what is drained, before it hears anything; one that is starting hears of a change, too."""
        self.register(1, 2)
        self.successResultOf(self.control.drain("100", None))
        self.workers[1].told.ended("was ended by SIGKILL")
        self.clock.advance(BACKOFF.first)
        self.register(1)
        self.assertEqual(self.states(), [[{"draining": 1}]] * 2)
        self.assertEqual(self.successResultOf(self.control.resume("100", None)), 1)
        self.assertEqual(self.states(), [[{"up": 1}]] * 2)

    def test_resume_while_a_worker_comes_back(self) -> None:
        """It stays undone, though another one is slow to say so."""
        self.register(1, 2)
        self.successResultOf(self.control.drain("100", None))
        self.workers[2].waiting = []
        resumed = self.control.resume("100", None)
        self.assertNoResult(resumed)
        self.replace(1)
        self.register(1)
        self.workers[2].answer()
        self.assertEqual(self.successResultOf(resumed), 1)
        self.assertEqual(self.states(), [[{"up": 1}]] * 2)

    def test_order_of_operators(self) -> None:
        """Whatever is asked later counts, however long the answers to the first take."""
        self.register(1, 2)
        self.workers[2].waiting = []
        drained, resumed = self.control.drain("100", None), self.control.resume("100", None)
        self.assertNoResult(drained)
        self.assertNoResult(resumed)
        self.workers[2].answer()
        self.assertEqual((self.successResultOf(drained), self.successResultOf(resumed)), (1, 1))
        self.assertEqual(self.states(), [[{"up": 1}]] * 2)
        self.workers[2].waiting = []
        resumed, drained = self.control.resume("100", None), self.control.drain("100", None)
        self.workers[2].answer()
        self.assertEqual((self.successResultOf(resumed), self.successResultOf(drained)), (0, 1))
        self.assertEqual(self.states(), [[{"draining": 1}]] * 2)

    def test_order_of_drains(self) -> None:
        """Also where the answers to a later one are there first."""
        self.register(1, 2)
        slow = self.workers[2]
        slow.waiting = []
        asked = [self.control.drain("100", None), self.control.resume("100", None)]
        slow.told.ended("was ended by SIGKILL")
        asked.append(self.control.drain("100", None))
        slow.answer()
        self.assertEqual([self.successResultOf(each) for each in asked], [1, 1, 1])
        self.assertEqual(self.control.drained, [("111", "100")])

    def test_drain_that_nobody_answers(self) -> None:
        """Whoever comes next has its turn all the same."""
        self.register(1, 2)
        for worker in self.workers.values():
            worker.hangs = True
        drained, resumed = self.control.drain("100", None), self.control.resume("100", None)
        self.clock.advance(SECONDS)
        self.failureResultOf(drained, ControlError)
        self.clock.advance(SECONDS)
        self.assertEqual(self.successResultOf(resumed), 0)

    def test_hung_worker_hears_the_newest(self) -> None:
        """When it goes on it has all that was said meanwhile, in that order."""
        self.register(1, 2)
        self.workers[2].waiting = []
        for done in self.control.drain, self.control.resume, self.control.drain:
            asked = done("100", None)
            self.clock.pump([SECONDS] * 2)
            self.assertEqual(self.successResultOf(asked), 1)
        self.workers[2].answer()
        self.assertEqual(self.states(), [[{"draining": 1}]] * 2)

    def test_revoke(self) -> None:
        self.register(1, 2)
        self.assertEqual(self.successResultOf(self.control.revoke("100", "222")), 0)
        self.assertEqual(self.successResultOf(self.control.revoke("100", None)), 1)
        self.assertEqual(self.states(), [[], []])

    def share(self, **changes: Any) -> None:
        """Have each worker hear of the leases that each has, with these changes to their records."""
        registries = [worker.proxy.factory.registry for worker in self.workers.values()]
        told = [evolve(claim.record, **changes) for registry in registries for claim in registry.claims]
        for registry in registries:
            registry.hear(told, complete=False)

    def test_revoke_what_two_hold(self) -> None:
        """Each ends its own lease, and hears of the other's end only later."""
        self.register(1, 2)
        self.share()
        self.assertEqual(self.successResultOf(self.control.revoke("100", None)), 1)

    def test_revoke_what_another_proxy_holds(self) -> None:
        self.register(1, 2)
        self.share()
        self.share(holder="another proxy's")
        self.failureResultOf(self.control.revoke("100", None), HeldElsewhereError)
        self.workers[1].proxy.register("100", "222", 5000, pipeline=8, lease=30)
        self.assertEqual(self.successResultOf(self.control.revoke("100", None)), 1)
        self.failureResultOf(self.control.revoke("100", None), HeldElsewhereError)

    def test_revoke_where_one_hangs(self) -> None:
        self.register(1)
        self.workers[2].waiting = []
        asked = self.control.revoke("100", None)
        self.clock.pump([SECONDS] * 2)
        self.assertEqual(self.successResultOf(asked), 1)
        self.workers[2].answer()

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

    def test_many_ask_what_happened(self) -> None:
        """A worker is asked once for all of them, and has room for what it must be told."""
        self.workers[2].hangs = True
        asked = [self.control.happenings() for _ in range(100)]
        self.control.look()
        self.assertEqual(self.workers[2].asked, 1)
        self.clock.advance(SECONDS)
        self.assertEqual([self.successResultOf(each) for each in asked], [[]] * 100)
        self.workers[2].hangs = False
        self.register(2)
        self.assertEqual(self.kinds(), ["registered"])

    def test_mistake_in_a_listener(self) -> None:
        """It is shown, and what happens later is collected all the same."""
        unlisten = self.control.listen(lambda happening: 1 // 0)
        self.register(1)
        with capturedLogs() as events:
            self.control.look()
        self.assertEqual([event["event"] for event in events], ["happenings-mishandled"])
        self.flushLoggedErrors(ZeroDivisionError)
        unlisten()
        unlisten()
        self.control.look()
        self.assertEqual(self.kinds(), ["registered"])

    def test_happenings_of_a_dead_worker(self) -> None:
        """What its successor tells isn't taken for what it told already."""
        self.register(1)
        self.assertEqual(self.kinds(), ["registered"])
        self.workers[1].proxy.server(5001)
        self.workers[1].proxy.register("101", "111", 5001, pipeline=8, lease=30)
        self.workers[2].waiting = []
        self.control.look()
        self.replace(1)
        self.workers[2].answer()
        self.workers[1].proxy.advance(WINDOW * 2)
        self.register(1)
        self.assertEqual(self.kinds(), ["registered", "registered", "registered"])

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

    def test_late_words(self) -> None:
        """A dead worker's come too late once its successor has said something."""
        self.merged.take({FIRST: [self.happening(1, 1.0, "down", "old")]})
        late = self.happening(1, 1.5, "down", "late")
        self.numbers[1] = 0
        self.merged.take({Process(1, 2): [self.happening(1, 2.0, "down", "new")]})
        self.merged.take({FIRST: [late]})
        self.assertEqual([text for _, _, text in self.told()], ["worker 1: old", "worker 1: new"])

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


class MemoryTests(SynchronousTestCase):
    """However many workers come and go, what is told apart is bounded, and nothing that was counted is lost."""

    def setUp(self) -> None:
        self.patch(remembering, "MOST_POLICIES", 3)
        self.patch(remembering, "MOST_SERVERS", 4)
        self.memory = Memory()

    def counted(self, *names: str) -> Figures:
        """Figures of a worker with these policies, of one server each, each with one ACK and a packet in flight."""
        ack = [1.0, *new_times()[1:]]
        policies = [
            PolicyFigures(
                name=name, description="one", received=2, acked=1, in_flight=1, total_times=ack, refused={},
                servers=[server(name, "100", acked=1, total_times=ack, down_ago=1.0, down_why="refused")],
            )
            for name in names
        ]  # fmt: skip
        counters = Counters(received=2 * len(names), acked=len(names))
        return figures(*policies, counters=counters, in_flight=len(names))

    def shown(self, heard: dict[Process, Figures]) -> Figures:
        """What is shown when these answer, and are all that there are."""
        self.memory.hear(heard, [*heard])
        return self.memory.together([*heard])

    def received(self, shown: Figures) -> dict[str, int]:
        return {policy.name: policy.received for policy in shown.policies}

    def assert_sums(self, shown: Figures) -> None:
        """They add up, in each policy and all together."""
        for policy in shown.policies:
            out = policy.acked + sum(policy.refused.values()) + policy.client_gone + policy.in_flight
            self.assertEqual((policy.received, count_of(policy.total_times)), (out, policy.acked), policy.name)
        total = [sum(getattr(policy, name) for policy in shown.policies) for name in ("received", "acked", "in_flight")]
        self.assertEqual(total, [shown.counters["received"], shown.counters["acked"], shown.in_flight])

    def test_months(self) -> None:
        """The first policies stay by themselves, all others are one, and no counter ever sinks."""
        before: dict[str, int] = {}
        for generation in range(1, 30):
            names = ("b", f"new{generation}", f"newer{generation}")
            heard = {Process(1, generation): self.counted(*names), SECOND: self.counted("a", "b")}
            shown = self.shown(heard)
            self.assert_sums(shown)
            now = self.received(shown)
            self.assertEqual(set(now) - {OTHERS}, {"b", "new1", "newer1"})
            for name, number in before.items():
                self.assertGreaterEqual(now[name], number)
            before = now
            servers = [(each.policy, each.id, each.acked) for policy in shown.policies for each in policy.servers]
            self.assertEqual({acked for name, _, acked in servers if name not in now}, {0})
            self.assertEqual(len({each[:2] for each in servers}), len(servers))
        self.assertEqual(before, {"b": 60, "new1": 2, "newer1": 2, OTHERS: 2 + 28 * 4})
        past: Any = self.memory._past
        self.assertLessEqual(sum(len(policy.servers) for policy in past.policies), 4)

    def test_both_tell_others_apart(self) -> None:
        """Workers need not agree: a server stands where the proxy has its policy, and once."""
        here = self.counted("a", "b", "c")
        there = self.counted("b")
        there.policies.append(PolicyFigures(name=OTHERS, received=5, in_flight=5, servers=[server("a", "100")]))
        there.in_flight += 5
        there.counters["received"] = 7
        shown = self.shown({FIRST: there, SECOND: here})
        self.assert_sums(shown)
        self.assertEqual(self.received(shown), {"a": 2, "b": 4, "c": 2, OTHERS: 5})
        servers = {policy.name: [(each.policy, each.states) for each in policy.servers] for policy in shown.policies}
        self.assertEqual(servers["a"], [("a", {"up": 2})])
        self.assertEqual(servers[OTHERS], [])
        described = {policy.name: policy.description for policy in shown.policies}
        self.assertEqual(described, {"a": "one", "b": "one", "c": "one", OTHERS: ""})

    def test_servers(self) -> None:
        """Those beyond the bound have a state, and no counts; their policy has them."""
        names = [str(number) for number in range(7)]
        many = self.counted("a")
        many.policies[0].servers = [server("a", name, acked=3, down_ago=1.0, down_why="refused") for name in names]
        for _ in range(2):
            (policy,) = self.shown({FIRST: many}).policies
            told = {each.id: (each.acked, each.down_why) for each in policy.servers}
            self.assertEqual(told, {name: (3, "refused") if name < "4" else (0, "") for name in names})
            self.assertEqual([each.states for each in policy.servers], [{"up": 1}] * 7)
            # It isn't those that come first now.
            many.policies[0].servers.reverse()

    def test_answers_stay(self) -> None:
        """Asked twice, it says the same."""
        heard = {FIRST: self.counted("a", "b"), SECOND: self.counted("c", "d")}
        self.assertEqual(self.shown(heard), self.shown(heard))
        del heard[SECOND]
        self.assertEqual(self.shown(heard), self.shown(heard))
