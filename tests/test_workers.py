"""The workers from both sides, without a process: supervised by their parent, and told what to do."""

from __future__ import annotations

import gc
import os
import pickle
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.test.iosim import FakeTransport, IOPump, connect
from twisted.trial.unittest import SynchronousTestCase

from rproxy.audit.recording import PATIENCE as PATIENCE_OF_TRAILS
from rproxy.figures.counters import Counters
from rproxy.options import Options
from rproxy.proxyservice import CLOSE_TIMEOUT
from rproxy.stores.replica import STOP_TIMEOUT
from rproxy.stores.urls import SqliteUrl, parse_registry
from rproxy.systemd.service import NOBODY
from rproxy.workers import parent as parent_module
from rproxy.workers.channel import Channel, ChannelError, FullError
from rproxy.workers.parent import Parent, make_parent, patience_with, values_of
from rproxy.workers.places import STEADY
from rproxy.workers.serving import FAREWELL, WorkerService
from rproxy.workers.spawning import Orders, Told
from rproxy.workers.supervising import ATTEMPTS, BACKOFF, Supervisor
from rproxy.workers.watching import ANSWER, ROUND, START

PATIENCE = 10.0


@define(eq=False)
class FakeWorker:
    """A worker that does what the test says."""

    number: int
    told: Told
    happened: list[str] = field(factory=list)
    answers: Any = None
    #: What it was asked and hasn't answered, where it hangs.
    unanswered: list[Deferred[Any]] = field(factory=list)
    hangs: bool = False

    def ask(self, name: str, **arguments: Any) -> Deferred[Any]:
        self.happened.append(f"asked {name}")
        if self.hangs:
            self.unanswered.append(Deferred())
            return self.unanswered[-1]
        return fail(self.answers) if isinstance(self.answers, Exception) else succeed(self.answers)

    def owes(self, name: str) -> bool:
        return False

    def stop(self) -> None:
        self.happened.append("stopped")

    def kill(self) -> None:
        self.happened.append("killed")


class SupervisorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.workers: list[FakeWorker] = []
        self.said: list[str] = []
        self.no_more = False
        self.supervisor = Supervisor(
            2,
            self.spawn,
            self.clock,
            lambda: 1.0,
            PATIENCE,
            lambda: self.said.append("ready"),
            lambda: self.said.append("gave up"),
        )
        self.events = self.enterContext(capturedLogs())

    def spawn(self, number: int, told: Told) -> FakeWorker:
        if self.no_more:
            raise OSError("no more processes")
        self.workers.append(FakeWorker(number, told))
        return self.workers[-1]

    def lines(self, start: str = "") -> list[str]:
        return [line for event in self.events if (line := formatEvent(event)).startswith(start)]

    def start(self) -> None:
        self.supervisor.startService()
        for worker in self.workers:
            worker.told.ready()

    def numbers(self) -> list[int]:
        return [worker.number for worker in self.workers]

    def restarts(self) -> list[float]:
        """When workers are to be replaced."""
        calls: Any = self.clock.getDelayedCalls()
        return [call.getTime() for call in calls if call.func == self.supervisor._start]

    def test_start(self) -> None:
        """It is said once, and when the last one accepts."""
        self.supervisor.startService()
        self.assertEqual(self.numbers(), [1, 2])
        self.workers[1].told.ready()
        self.assertEqual(self.said, [])
        self.workers[0].told.ready()
        self.assertEqual(self.said, ["ready"])

    def test_one_dies(self) -> None:
        """It is replaced by one of its number; the other one goes on."""
        self.start()
        self.workers[0].told.ended("was ended by SIGKILL")
        said = "Worker 1 was ended by SIGKILL, and what it has counted is lost; another one is started in 0.2 seconds"
        self.assertEqual(self.lines("Worker"), [said])
        self.assertEqual(len(self.workers), 2)
        self.clock.advance(BACKOFF.first)
        self.assertEqual((self.numbers(), self.workers[1].happened), ([1, 2, 1], []))
        self.workers[2].told.ready()
        self.assertEqual((self.said, self.lines()[-1]), (["ready"], "Worker 1 is back"))

    def test_dies_again_and_again(self) -> None:
        """The waits grow, up to a bound, and the other one goes on for as long as it likes."""
        self.start()
        waits = []
        for _ in range(12):
            self.workers[-1].told.ended("ended with exit code 1")
            (restart,) = self.restarts()
            waits.append(round(restart - self.clock.seconds(), 6))
            self.clock.advance(waits[-1])
        self.assertEqual(waits, [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, *[10.0] * 6])
        self.assertEqual(self.said, ["ready"])

    def test_steady_ones_are_replaced_soon(self) -> None:
        """Also where many have died before."""
        self.start()
        for _ in range(5):
            self.workers[-1].told.ended("was ended by SIGSEGV")
            self.clock.advance(BACKOFF.most)
            self.workers[-1].told.ready()
        self.clock.advance(STEADY)
        self.workers[-1].told.ended("was ended by SIGSEGV")
        self.assertIn("in 0.2 seconds", self.lines()[-1])

    def test_one_that_can_not_start(self) -> None:
        """What keeps it from starting keeps all others; nothing is tried again."""
        self.supervisor.startService()
        self.workers[0].told.ready()
        self.workers[1].told.ended("ended with exit code 1")
        self.assertEqual(self.said, ["gave up"])
        self.assertEqual(self.lines(), ["Can't start: worker 2 ended with exit code 1"])
        self.workers[0].told.ended("ended with exit code 1")
        self.assertEqual((self.said, self.restarts()), (["gave up"], []))

    def test_system_that_does_not_let_it(self) -> None:
        self.no_more = True
        self.supervisor.startService()
        self.assertEqual(self.said, ["gave up"])
        self.assertEqual(self.lines(), ["Can't start: worker 1 can't be started: no more processes"])
        self.successResultOf(self.supervisor.stopService())

    def test_accepted_and_died_before_the_others_did(self) -> None:
        """Whatever it died of, it was no mistake in the options."""
        self.supervisor.startService()
        self.workers[0].told.ready()
        self.workers[0].told.ended("was ended by SIGKILL")
        self.clock.advance(1)
        self.workers[1].told.ready()
        self.assertEqual(self.said, [])
        self.workers[2].told.ready()
        self.assertEqual(self.said, ["ready"])

    def test_no_worker_any_more(self) -> None:
        """It isn't tried for ever."""
        self.start()
        self.no_more = True
        for worker in self.workers:
            worker.told.ended("was ended by SIGKILL")
        self.clock.pump([BACKOFF.most] * (ATTEMPTS - 1))
        self.assertEqual(self.said, ["ready"])
        self.clock.advance(BACKOFF.most)
        self.assertEqual(self.said, ["ready", "gave up"])
        self.assertEqual(len(self.lines("Giving up, as no worker can be started any more")), 1)

    def test_stop(self) -> None:
        """All are told, and what they counted is summed up when the last one is gone."""
        self.start()
        stopped = self.supervisor.stopService()
        self.assertEqual([worker.happened for worker in self.workers], [["stopped"], ["stopped"]])
        counted = Counters(received=3, acked=1, client_gone=1)
        counted.refused["no-server"] = 1
        for worker in self.workers:
            self.assertNoResult(stopped)
            worker.told.counted(counted.snapshot())
            worker.told.ended("ended with exit code 0")
        self.successResultOf(stopped)
        said = "Stopped after 6 packets: 2 acked, 2 refused, 2 whose client was gone"
        self.assertEqual((self.lines(), self.events[-1]["by_code"]), ([said], {"no-server": 2}))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_while_one_is_to_be_replaced(self) -> None:
        """It isn't."""
        self.start()
        self.workers[0].told.ended("was ended by SIGKILL")
        stopped = self.supervisor.stopService()
        self.workers[1].told.ended("was ended by SIGSEGV")
        self.successResultOf(stopped)
        self.clock.advance(BACKOFF.most)
        self.assertEqual(len(self.workers), 2)
        self.assertEqual(self.lines("Worker 2"), ["Worker 2 was ended by SIGSEGV, and what it has counted is lost"])

    def test_one_that_does_not_stop(self) -> None:
        """It is killed, when all had their time."""
        self.start()
        stopped = self.supervisor.stopService()
        self.workers[0].told.counted(Counters().snapshot())
        self.workers[0].told.ended("ended with exit code 0")
        self.clock.advance(PATIENCE - 0.1)
        self.assertEqual(self.workers[1].happened, ["stopped"])
        self.clock.advance(0.1)
        self.assertEqual([worker.happened for worker in self.workers], [["stopped"], ["stopped", "killed"]])
        self.assertEqual(self.lines(), ["Killing the workers that didn't stop within 10 seconds: 2"])
        self.assertNoResult(stopped)
        self.workers[1].told.ended("was ended by SIGKILL")
        self.successResultOf(stopped)

    def test_kill(self) -> None:
        """At once, and those that have ended aren't there any more."""
        self.start()
        self.workers[0].told.ended("was ended by SIGKILL")
        self.supervisor.kill()
        self.assertEqual([worker.happened for worker in self.workers], [[], ["killed"]])

    def test_tell(self) -> None:
        """All that there are, and it is over when all have heard it, or took too long; who doesn't answer is shown."""
        self.supervisor.startService()
        starting, other = self.workers
        starting.hangs = True
        other.told.ready()
        other.answers = ChannelError("the other side is gone")
        told = self.supervisor.workers.tell("reload", 2.0)
        self.assertEqual([worker.happened for worker in self.workers], [["asked reload"]] * 2)
        self.assertEqual(self.lines(), ["A worker didn't answer reload: the other side is gone"])
        self.assertNoResult(told)
        self.clock.advance(2.0)
        self.successResultOf(told)
        self.assertEqual(len(self.lines("A worker didn't answer reload: ")), 2)
        self.assertEqual([worker.happened[1:] for worker in self.workers], [[], []])

    def rounds(self, seconds: float) -> None:
        """Let that time go by, and the round that has begun."""
        self.clock.pump([ROUND] * (int(seconds / ROUND) + 1))

    def test_one_that_hangs(self) -> None:
        """It is asked once, killed when its time is over, and replaced; the other one is asked on, and left alone."""
        self.start()
        first, other = self.workers
        first.hangs = True
        self.rounds(ANSWER - ROUND)
        self.assertEqual(first.happened, ["asked ping"])
        self.clock.advance(ROUND)
        self.assertEqual(first.happened, ["asked ping", "killed"])
        self.assertEqual(self.lines(), ["Killing worker 1, which hasn't answered for 30 seconds"])
        self.rounds(ANSWER)
        self.assertEqual((first.happened[1:], set(other.happened)), (["killed"], {"asked ping"}))
        for question in first.unanswered:
            question.errback(ChannelError("the other side is gone"))
        first.told.ended("was ended by SIGKILL")
        self.clock.advance(BACKOFF.first)
        self.workers[2].told.ready()
        self.rounds(ANSWER * 2)
        self.assertEqual((set(self.workers[2].happened), self.lines()[-1]), ({"asked ping"}, "Worker 1 is back"))

    def test_one_that_was_slow(self) -> None:
        """Whoever answers in time has all of it again."""
        self.start()
        slow = self.workers[0]
        slow.hangs = True
        for _ in range(3):
            self.rounds(ANSWER - ROUND)
            slow.unanswered.pop().callback(None)
        self.assertEqual((slow.happened, self.lines()), (["asked ping"] * 3, []))

    def test_one_that_can_not_be_asked(self) -> None:
        """That is no answer."""
        self.start()
        self.workers[0].answers = ChannelError("there is no other side")
        self.rounds(ANSWER)
        self.assertEqual(self.workers[0].happened[-2:], ["asked ping", "killed"])

    def test_one_that_can_not_be_told(self) -> None:
        """It would go on without what it had to hear, so another one takes its place; others are left alone."""
        self.start()
        self.workers[0].answers = FullError("too many questions wait for their answer")
        self.workers[1].answers = ChannelError("there is no other side")
        self.workers[0].hangs = True
        told = self.supervisor.workers.tell("set_drained", 2.0)
        self.workers[0].hangs = False
        for _ in range(2):
            self.successResultOf(self.supervisor.workers.tell("set_drained", 2.0))
        self.assertEqual([worker.happened.count("killed") for worker in self.workers], [1, 0])
        self.assertEqual(self.lines("Killing"), ["Killing worker 1, which hasn't answered what it was told before"])
        # That it never heard what it was told before is no news any more.
        self.workers[0].unanswered[0].errback(ChannelError("the other side is gone"))
        self.successResultOf(told)
        self.assertEqual(len(self.lines("A worker didn't answer set_drained: ")), 3)
        self.workers[0].told.ended("was ended by SIGKILL")
        self.clock.advance(BACKOFF.first)
        self.workers[2].answers = FullError("too many questions wait for their answer")
        self.successResultOf(self.supervisor.workers.tell("set_drained", 2.0))
        self.assertEqual(self.workers[2].happened[-1], "killed")

    def test_pause_of_the_machine(self) -> None:
        """However long it was, it was no worker's fault."""
        self.start()
        self.workers[0].hangs = True
        self.clock.pump([ROUND, ANSWER * 100])
        self.assertEqual(self.workers[0].happened, ["asked ping"])

    def test_one_that_does_not_start(self) -> None:
        """It is killed when its time is over, and is one that ended before it accepted."""
        self.supervisor.startService()
        self.workers[0].told.ready()
        self.rounds(START - ROUND)
        self.assertEqual(self.workers[1].happened, [])
        self.clock.advance(ROUND)
        self.assertEqual(self.workers[1].happened, ["killed"])
        self.workers[1].told.ended("was ended by SIGKILL")
        said = ["Killing worker 2, which took over 60 seconds to start", "Can't start: worker 2 was ended by SIGKILL"]
        self.assertEqual((self.lines(), self.said), (said, ["gave up"]))

    def test_replacement_that_does_not_start(self) -> None:
        """It has as much time as the first."""
        self.start()
        self.rounds(START)
        self.workers[0].told.ended("was ended by SIGKILL")
        self.clock.advance(BACKOFF.first)
        self.rounds(START - ROUND)
        self.assertEqual(self.workers[2].happened, [])
        self.clock.advance(ROUND)
        self.assertEqual(self.workers[2].happened, ["killed"])

    def test_none_is_asked_while_they_stop(self) -> None:
        """They have their time for that."""
        self.start()
        self.workers[0].hangs = True
        self.clock.advance(ROUND)
        self.supervisor.stopService()
        self.clock.advance(ROUND)
        self.assertEqual(self.workers[1].happened, ["asked ping", "stopped"])

    def test_stopped_twice(self) -> None:
        self.start()
        self.supervisor.stopService()
        self.successResultOf(self.supervisor.stopService())
        self.assertEqual([worker.happened for worker in self.workers], [["stopped"], ["stopped"]])


class FakeReactor(Clock):
    """Runs, and can be stopped once."""

    is_running = True

    def callWhenRunning(self, call: Any, *arguments: Any) -> None:
        call(*arguments)

    def stop(self) -> None:
        if not self.is_running:
            raise ReactorNotRunning("Can't stop reactor that isn't running.")
        self.is_running = False


class FakeProxy:
    """A proxy's service that drains for as long as the test says."""

    def __init__(self) -> None:
        self.happened: list[str] = []
        self.stopped: Deferred[None] = Deferred()

    def privilegedStartService(self) -> None:
        self.happened.append("bound")

    def startService(self) -> None:
        self.happened.append("started")

    def stopService(self) -> Deferred[None]:
        self.happened.append("stopped")
        return self.stopped


class WorkerServiceTests(SynchronousTestCase):
    """A worker, and its parent's end of the channel."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.counters = Counters(received=2, acked=2)
        self.told: list[Any] = []
        self.proxy = FakeProxy()
        self.parent = Channel({"ready": lambda: self.told.append("ready"), "stopped": self.counted}, list)
        proxy: Any = self.proxy
        self.service = WorkerService(
            proxy, self.counters, lambda: self.told.append("reloaded"), {}, self.connect, self.reactor
        )
        self.service.privilegedStartService()
        self.service.startService()
        self.pump.flush()

    def counted(self, counters: Any) -> None:
        self.told.append(counters)

    def connect(self, channel: Channel) -> None:
        transports = (FakeTransport(self.parent, False), FakeTransport(channel, True))
        self.pump: IOPump = connect(self.parent, transports[0], channel, transports[1])

    def ask(self, name: str) -> Any:
        asked = self.parent.ask(name)
        self.pump.flush()
        return self.successResultOf(asked)

    def test_ready(self) -> None:
        """When it accepts, and not before."""
        self.assertEqual((self.proxy.happened, self.told), (["bound", "started"], ["ready"]))

    def test_questions(self) -> None:
        self.ask("reload")
        self.assertEqual(self.told, ["ready", "reloaded"])
        self.assertIsNone(self.ask("ping"))

    def test_stop(self) -> None:
        """It leaves when it has drained and its parent knows what it counted; it is asked meanwhile, too."""
        self.ask("stop")
        self.assertFalse(self.reactor.is_running)
        stopped = self.service.stopService()
        self.assertEqual((self.ask("ping"), self.proxy.happened[-1]), (None, "stopped"))
        self.proxy.stopped.callback(None)
        self.assertNoResult(stopped)
        self.pump.flush()
        self.successResultOf(stopped)
        self.assertEqual(self.told[-1], self.counters.snapshot())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_told_twice(self) -> None:
        """By a signal and by its parent: the second changes nothing."""
        self.reactor.stop()
        self.service.stopService()
        self.ask("stop")
        self.successResultOf(self.service.stopService())
        self.assertEqual(self.proxy.happened.count("stopped"), 1)

    def test_parent_that_does_not_listen(self) -> None:
        """It isn't waited for for long."""
        stopped = self.service.stopService()
        self.proxy.stopped.callback(None)
        self.reactor.advance(FAREWELL)
        self.successResultOf(stopped)

    def test_parent_is_gone(self) -> None:
        """Nothing goes on serving that nobody can stop, and what is in flight is still answered."""
        with capturedLogs() as events:
            self.parent.transport.loseConnection()  # type: ignore[union-attr]  # it is connected
            self.pump.flush()
        self.assertEqual([formatEvent(event) for event in events], ["The parent process is gone: stopping"])
        self.assertFalse(self.reactor.is_running)
        stopped = self.service.stopService()
        self.proxy.stopped.callback(None)
        self.successResultOf(stopped)


class OptionTests(SynchronousTestCase):
    """What each worker is told."""

    def values(self, number: int, *arguments: str, folder: Path | None = None) -> dict[str, Any]:
        options = Options()
        options.parseOptions(["--workers", "3", *arguments])
        return values_of(options, number, folder)

    def test_clients_are_of_all_together(self) -> None:
        """Rounded up, so that as many as were asked for find room."""
        self.assertEqual(self.values(1, "--max-clients", "7")["limits"].max_clients, 3)

    def test_registrations_are_shared(self) -> None:
        """Where the parent has made room for them, unless the options say where."""
        self.assertEqual(self.values(1, folder=Path("/run/x"))["registry"], SqliteUrl(Path("/run/x/registry.sqlite")))
        redis = self.values(1, "--registry", "redis://localhost/0")["registry"]
        self.assertEqual(redis, parse_registry("redis://localhost/0"))

    def test_registry_that_can_not_be_used(self) -> None:
        """It is told of by the parent, before it has anything."""
        options = Options()
        options.parseOptions(["--workers", "3", "--registry", "redis://localhost/0"])
        reactor = MemoryReactorClock()
        with (
            mock.patch.dict(sys.modules, {"txredisapi": None}),
            self.assertRaisesRegex(SystemExit, r"--registry: a registry in Redis needs txredisapi: pip install"),
        ):
            make_parent(options, reactor, NOBODY)

    def test_trails_are_not(self) -> None:
        for name, own in (("audit.log", "audit-2.log"), ("audit", "audit-2"), ("a.b.log", "a.b-2.log")):
            options = Options()
            options.update(self.values(2), audit=Path("/var/log") / name)
            self.assertEqual(values_of(options, 2, None)["audit"], Path("/var/log") / own)

    def test_patience(self) -> None:
        """It is longer than all that a worker may take, one thing after the other, when it is told to stop."""
        options = self.values(1, "--drain-timeout", "7")
        longest = 7.0 + STOP_TIMEOUT + CLOSE_TIMEOUT + FAREWELL
        self.assertGreater(patience_with(options), longest)
        options["audit"] = Path("audit.log")
        self.assertGreater(patience_with(options), longest + PATIENCE_OF_TRAILS)

    def test_they_can_be_handed_on(self) -> None:
        """Whatever the parent has read: also a policies file and a key."""
        folder = Path(self.enterContext(TemporaryDirectory()))
        (folder / "policies.toml").write_text("[policy.111]\nservers.networks = ['10.0.0.0/8']\nclients.names = ['a']")
        (folder / "key").write_text("0123456789abcdef")
        (folder / "key").chmod(0o600)
        files = ("--policies", str(folder / "policies.toml"), "--audit", "a", "--audit-key", str(folder / "key"))
        values = self.values(1, *files)
        again = pickle.loads(pickle.dumps(Orders(1, values, [2], []))).options
        self.assertEqual(again["audit-key"].link(b"a", b"b"), values["audit-key"].link(b"a", b"b"))
        for told in values, again:
            del told["audit-key"]
        self.assertEqual(again, values)


class FailingService(Service):
    """A service that ends when the test says, and as it says."""

    def __init__(self) -> None:
        self.stopped: Deferred[None] = Deferred()

    def stopService(self) -> Deferred[None]:
        return self.stopped


class ParentTests(SynchronousTestCase):
    """The parent, without a process."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.policies = self.folder / "policies.toml"
        self.policies.write_text("[policy.111]\n")
        self.orders: list[Orders] = []
        self.told: list[Told] = []
        self.asked: list[str] = []
        self.answer: Any = [["111", "9"]]
        self.kills = 0
        self.options = Options()
        self.options.parseOptions(["--workers", "2", "--policies", str(self.policies), "--admin", "9000"])
        # What a reactor in memory listens with can't be kept from reading.
        self.options["listen"] = []
        self.patch(parent_module, "WorkerProcess", self.process)
        self.enterContext(mock.patch.dict(os.environ, RUNTIME_DIRECTORY=str(self.folder)))
        self.make()

    def make(self) -> None:
        """A parent in a reactor of its own."""
        self.reactor: Any = MemoryReactorClock()
        self.parent: Any = Parent(self.options, self.reactor)
        self.addCleanup(os.close, self.parent._board)

    def process(self, number: int, told: Told) -> ParentTests:
        """A worker's, which the test is."""
        self.told.append(told)
        return self

    def spawn(self, reactor: Any, orders: Orders, *rest: Any) -> None:
        """See :class:`rproxy.workers.spawning.WorkerProcess`."""
        self.orders.append(orders)

    def ask(self, name: str, **arguments: Any) -> Deferred[Any]:
        """See :class:`rproxy.workers.spawning.WorkerProcess`."""
        self.asked.append(name)
        return fail(self.answer) if isinstance(self.answer, Exception) else succeed(self.answer)

    def owes(self, name: str) -> bool:
        """See :class:`rproxy.workers.spawning.WorkerProcess`."""
        return False

    def kill(self) -> None:
        """See :class:`rproxy.workers.spawning.WorkerProcess`."""
        self.kills += 1

    def start(self) -> None:
        """Start it, and its workers."""
        self.told.clear()
        self.parent.startService()
        self.reactor.run()
        for told in self.told:
            told.ready()

    def test_orders(self) -> None:
        """A worker that replaces another begins with what the files said last, and with what is drained."""
        self.start()
        self.assertEqual([(each.number, each.drained) for each in self.orders], [(1, []), (2, [])])
        self.assertEqual(self.successResultOf(self.parent.control.drain("9", None)), 1)
        self.policies.write_text("[policy.222]\n")
        self.parent.reload()
        self.policies.write_text("not this time")
        self.parent.reload()
        self.assertEqual(self.asked, ["find"] * 2 + ["set_drained"] * 2 + ["reload"] * 4)
        self.told[0].ended("was ended by SIGKILL")
        self.reactor.advance(BACKOFF.first)
        self.assertEqual((self.orders[-1].number, self.orders[-1].drained), (1, [("111", "9")]))
        self.assertEqual([*self.orders[-1].options["allowed"].by_name], ["222"])

    def test_reload_that_does_not_arrive(self) -> None:
        """Who doesn't hear that the policies changed doesn't go on by the old ones."""
        self.start()
        self.answer = FullError("too many questions wait for their answer")
        with capturedLogs() as events:
            self.parent.reload()
        self.assertEqual(self.kills, 2)
        self.assertEqual([event["event"] for event in events], ["worker-hangs"] * 2)

    def test_stop_that_fails(self) -> None:
        """Whatever fails is told when the workers are gone, and what they shared with them."""
        for fails in "_supervisor", "_listeners":
            self.make()
            self.start()
            workers, listener = FailingService(), FailingService()
            self.parent._supervisor, self.parent._listeners = workers, [listener]
            (shared,) = self.folder.glob("rproxy-*")
            stopped = self.parent.stopService()
            (workers if fails == "_supervisor" else listener).stopped.errback(ValueError("a fault"))
            self.assertNoResult(stopped)
            self.assertTrue(shared.exists())
            (listener if fails == "_supervisor" else workers).stopped.callback(None)
            self.assertIn("a fault", str(self.failureResultOf(stopped).value))
            self.assertFalse(shared.exists())
            self.assertFalse(self.parent.running)
            # It is told once.
            del workers, listener
            self.parent._supervisor, self.parent._listeners = None, []
            gc.collect()
            self.assertEqual(self.flushLoggedErrors(), [])
