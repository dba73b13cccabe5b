"""The audit trail of a proxy at work: what becomes of packets, and what when the trail can't be written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event, enumerate
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rproxy.audit.appending import TrailFile
from rproxy.audit.backlog import ROOM, SHARED
from rproxy.audit.commands import Reading
from rproxy.audit.keys import Key
from rproxy.audit.recording import GATHER, PATIENCE, RETRY, Leavable, Recorder, RecordError
from rproxy.audit.trail import REFUSED_LINES, REFUSED_PERIOD, Trail
from rproxy.limits import Limits
from rproxy.networks import parse_network
from rproxy.packets import Setup
from rproxy.packets import data as data_packet
from rproxy.policies import ClientRule, Policies, Policy
from rproxy.proxy import ProxyFactory
from rproxy.registry.claims import Claims
from tests.auditing import failing_to_keep
from tests.memory import CLIENT_HOST, Proxy, ProxyCase, setup
from tests.test_cli import CommandCase

KEY = Key(b"0123456789abcdef")
WALL = 1767323045.0
SETUP = Setup(type="1", id="100", policy="111", listenport=5000)


@define(eq=False)
class RecordedProxy(Proxy):
    """A proxy with a trail that is written to a file, at once whenever :meth:`lines` are asked for."""

    path: Path = Path()
    trail: Trail = field(init=False)

    def make_factory(self) -> ProxyFactory:
        self.trail = Trail(KEY, lambda: WALL + self.reactor.seconds(), complete=True)
        self.trail.start(None)
        claims = Claims("here", self.reactor.seconds)
        return ProxyFactory(
            self.limits, cast(Any, self.reactor), self.connect, lambda: 0.5, claims, None, self.policies, self.trail
        )

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        with self.path.open("ab") as file:
            file.write(b"".join(self.trail.backlog.fetch()))
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def told(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind, without what all have."""
        common = {"seq", "time", "event", "hash"}
        lines = [line for line in self.lines() if line["event"] == event]
        return [{name: value for name, value in line.items() if name not in common} for line in lines]


class RecordedCase(ProxyCase, CommandCase):
    """Each packet has a line, and the trail is good in the end."""

    #: What was refused as no packet, and so has no line.
    no_packets = 0

    def recorded(self, *, retry: tuple[str, ...] = (), **limits: Any) -> RecordedProxy:
        proxy = RecordedProxy(
            Limits(**limits),
            Policies(anonymous={each: Policy(retry=True) for each in retry}),
            path=self.folder() / "audit.log",
        )
        self.addCleanup(proxy.check_counters)
        self.addCleanup(self.check, proxy)
        return proxy

    def check(self, proxy: RecordedProxy) -> None:
        """There is a line for each packet that is over, and the trail is good."""
        counters = proxy.factory.counters
        over = counters.acked + counters.refused.total() + counters.client_gone
        lines = proxy.told("packet")
        self.assertEqual(len(lines), over - self.no_packets)
        reading = Reading(KEY, [proxy.path])
        self.assertEqual((reading.told(), reading.faults), ([], 0))
        self.assertEqual(reading.policies.proved, sum(len(line["servers"]) for line in lines))

    def assert_packets(self, proxy: RecordedProxy, *expected: tuple[str, str, str, list[str]]) -> None:
        """Outcome, error, delivered, servers of each."""
        found = [
            (line["outcome"], line["error"], line["delivered"], [each["server"] for each in line["servers"]])
            for line in proxy.told("packet")
        ]
        self.assertEqual(found, [*expected])


class OutcomeTests(RecordedCase):
    """A packet's line has all that it was written to and nothing else."""

    def test_acked(self) -> None:
        proxy = self.recorded()
        server = proxy.server(5000)
        proxy.register("100", "111", 5000, pipeline=4)
        client = proxy.client()
        client.ask("secret", client_id="id-of-1")
        server.answer()
        self.assert_packets(proxy, ("acked", "", "yes", ["100"]))
        (line,) = proxy.told("packet")
        self.assertEqual(line["client"], KEY.client("id-of-1"))
        self.assertTrue(line["address"].startswith(f"{CLIENT_HOST}:"))
        self.assertEqual((line["policy"], line["servers"][0]["registration"]), ("111", 1))
        for nothing in "secret", "id-of-1":
            self.assertNotIn(nothing, proxy.path.read_text())

    def test_refused(self) -> None:
        """Without a server, by its line's end, after a deadline, by a server's own error."""
        proxy = self.recorded(timeout=2.0, queue_timeout=1.0)
        client = proxy.client()
        client.ask("a", policy="999")
        proxy.register("100", "111", 5000, pipeline=4)
        client.ask("b")
        proxy.advance(1.5)
        proxy.server(5001)
        proxy.register("200", "222", 5001, pipeline=4)
        client.ask("c", policy="222")
        proxy.advance(2.5)
        self.assert_packets(
            proxy,
            ("refused", "no-server", "no", []),
            ("refused", "no-server", "no", []),
            ("refused", "timeout", "unknown", ["200"]),
        )

    def test_server_lost(self) -> None:
        proxy = self.recorded()
        server = proxy.server(5000)
        proxy.register("100", "111", 5000, pipeline=4)
        proxy.client().ask("a")
        server.connection.reset()
        self.assert_packets(proxy, ("refused", "server-lost", "unknown", ["100"]))

    def test_retried(self) -> None:
        """Both servers."""
        proxy = self.recorded(retry=("111",))
        servers = {str(port): proxy.server(port) for port in (5000, 5001)}
        for port in 5000, 5001:
            proxy.register(str(port), "111", port, pipeline=4)
        proxy.client().ask("a")
        servers["5000"].connection.reset()
        servers["5001"].answer()
        self.assert_packets(proxy, ("acked", "", "yes", ["5000", "5001"]))

    def test_not_written(self) -> None:
        """A server that a packet only waited for doesn't stand in its line."""
        proxy = self.recorded()
        first, second = proxy.server_at(("10.0.0.5", 5000)), proxy.server(5001)
        first.hang()
        proxy.register("100", "111", 5000, pipeline=4)
        proxy.register("101", "111", 5001, pipeline=4)
        proxy.client().ask("a")
        first.refuse()
        second.answer()
        self.assert_packets(proxy, ("acked", "", "yes", ["101"]))

    def test_client_gone(self) -> None:
        """With the server that has it, and without one."""
        proxy = self.recorded()
        proxy.server(5000)
        proxy.register("100", "111", 5000, pipeline=4)
        proxy.register("200", "222", 5001, pipeline=4)
        client = proxy.client()
        client.ask("a")
        client.ask("b", policy="222")
        client.reset()
        self.assert_packets(proxy, ("client-gone", "", "unknown", ["100"]), ("client-gone", "", "no", []))

    def test_answered_to_nobody(self) -> None:
        """An answer that stood behind another one when its client went."""
        proxy = self.recorded()
        proxy.server(5000)
        second = proxy.server(5001)
        proxy.register("100", "111", 5000, pipeline=4)
        proxy.register("200", "222", 5001, pipeline=4)
        client = proxy.client()
        client.ask("a")
        client.ask("b", policy="222")
        second.answer()
        client.reset()
        self.assert_packets(proxy, ("client-gone", "", "unknown", ["100"]), ("client-gone", "", "yes", ["200"]))

    def test_forbidden(self) -> None:
        """A packet of a policy that its client may not ask for is a data packet too."""
        proxy = self.recorded()
        rule = ClientRule(networks=(parse_network("10.99.0.0/16"),))
        proxy.factory.reload(Policies(by_name={"111": Policy(clients=rule)}))
        client = proxy.client()
        client.ask("a")
        self.assertEqual(client.answers(), ["forbidden/no"])
        self.assert_packets(proxy, ("refused", "forbidden", "no", []))
        self.assertEqual(proxy.told("packet")[0]["policy"], "111")

    def test_strict(self) -> None:
        """A data packet with a wrong size is one; what is no packet has no line."""
        proxy = self.recorded(strict=True)
        proxy.client().send({"type": "0", "srcid": "1", "privPoliId": "111", "payload": "a", "payloadsize": "7"})
        self.assert_packets(proxy, ("refused", "bad-packet", "no", []))
        proxy.client().send(b"{}")
        self.no_packets = 1
        self.assertEqual(len(proxy.told("packet")), 1)

    def test_forward(self) -> None:
        """What the proxy itself asks for has lines too."""
        proxy = self.recorded()
        server = proxy.server(5000)
        proxy.register("100", "111", 5000, pipeline=4)
        answer = proxy.factory.router.forward(data_packet("1", "111", "a"))
        proxy.pump()
        server.answer()
        self.successResultOf(answer)
        cancelled = proxy.factory.router.forward(data_packet("1", "111", "b"))
        proxy.pump()
        cancelled.cancel()
        self.failureResultOf(cancelled)
        self.assert_packets(proxy, ("acked", "", "yes", ["100"]), ("client-gone", "", "unknown", ["100"]))

    def test_registrations(self) -> None:
        """From their beginning to their end, and why."""
        proxy = self.recorded()
        connection = proxy.register("100", "111", 5000, pipeline=4, lease=2)
        connection.send(setup("100", "111", 5000, pipeline=4, lease=2, drain=True))
        proxy.client("10.0.0.6").send(setup("100", "111", 5000))
        proxy.advance(3)
        proxy.register("101", "111", 5001)
        proxy.register("102", "111", 5001)
        proxy.register("103", "111", 5002, lease=9).close()
        (terms, *_) = proxy.told("registered")
        self.assertEqual(
            terms,
            {
                "registration": 1,
                "policy": "111",
                "server": "100",
                "host": "10.0.0.5",
                "port": 5000,
                "pipeline": 4,
                "connections": 1,
                "weight": 1,
                "lease": 2.0,
            },
        )
        self.assertEqual([(each["registration"], each["server"]) for each in proxy.told("draining")], [(2, "100")])
        self.assertEqual(
            [(each["registration"], each["why"]) for each in proxy.told("ended")],
            [
                (1, "replaced"),
                (2, "its lease ran out"),
                (3, "another server has its address"),
                (5, "its connection closed"),
            ],
        )
        refused = {"policy": "111", "server": "100", "host": "10.0.0.6", "error": "conflict"}
        self.assertEqual(proxy.told("refused"), [refused])

    def test_replaced_with_packets_in_line(self) -> None:
        """Whoever is written to at the moment of a change was registered."""
        proxy = self.recorded()
        server = proxy.server(5000)
        proxy.register("100", "111", 5000, pipeline=1)
        client = proxy.client()
        client.ask("a", "b", "c", "d")
        for _ in range(4):
            proxy.register("100", "111", 5000, pipeline=1, weight=2)
            server.answer()
        self.assert_packets(proxy, *[("acked", "", "yes", ["100"])] * 4)

    def test_refuses_when_told_to(self) -> None:
        """And takes packets again, unless it is about to stop."""
        proxy = self.recorded()
        server = proxy.server(5000)
        proxy.register("100", "111", 5000, pipeline=4)
        client = proxy.client()
        proxy.factory.gate.set_recording(False)
        client.ask("a")
        self.assertEqual(client.answers(), ["overloaded/no"])
        proxy.factory.gate.set_recording(True)
        client.ask("b")
        server.answer()
        self.assertEqual(client.answers(), ["b by 100"])
        proxy.factory.drain()
        proxy.factory.gate.set_recording(False)
        proxy.factory.gate.set_recording(True)
        client.ask("c")
        self.assertEqual(client.answers(), ["shutting-down/no"])


class Disk:
    """A thread that a test lets work, and a file that can't be written while it is full."""

    def __init__(self) -> None:
        self.full = False
        self.slow = False
        self.waiting: list[tuple[Callable[[], OSError | None], Deferred[OSError | None]]] = []

    def __call__(self, write: Callable[[], OSError | None]) -> Deferred[OSError | None]:
        if self.slow:
            done: Deferred[OSError | None] = Deferred()
            self.waiting.append((write, done))
            return done
        return succeed(OSError(errno.ENOSPC, "No space left on device") if self.full else write())

    def work(self) -> None:
        """Do what waits."""
        for write, done in self.waiting:
            done.callback(write())
        self.waiting.clear()


def fail(works: bool) -> None:
    """Have a mistake in it."""
    raise ZeroDivisionError


class RecorderTests(CommandCase):
    """When lines are written, and what happens where they can't be."""

    def setUp(self) -> None:
        self.path = self.folder() / "audit.log"
        self.clock = Clock()
        self.disk = Disk()
        self.works: list[bool] = []
        self.trail = Trail(KEY, self.clock.seconds, complete=True)
        self.recorder = self.make(self.trail)

    def make(self, trail: Trail) -> Recorder:
        return Recorder(trail, TrailFile(self.path, KEY), cast(Any, self.clock), self.disk, self.works.append)

    def lines(self) -> list[str]:
        return [str(json.loads(line)["event"]) for line in self.path.read_text().splitlines()]

    def assert_good(self) -> None:
        reading = Reading(KEY, [self.path])
        self.assertEqual((reading.told(), reading.faults), ([], 0))

    def test_batches(self) -> None:
        """Whatever comes within a while is written together; nothing wakes up where there is nothing."""
        self.recorder.startService()
        self.assertEqual(self.lines(), [])
        self.clock.advance(GATHER)
        self.assertEqual(self.lines(), ["open", "start"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.recorder.reopen()
        self.clock.advance(GATHER)
        self.successResultOf(self.recorder.stopService())
        self.assertEqual(self.lines(), ["open", "start", "open", "stop"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assert_good()

    def test_stop_writes_what_waits(self) -> None:
        self.recorder.startService()
        self.successResultOf(self.recorder.stopService())
        self.successResultOf(self.recorder.stopService())
        self.assertEqual(self.lines(), ["open", "start", "stop"])

    def test_started_again(self) -> None:
        """In one process too."""
        for _ in range(2):
            self.recorder.startService()
            self.successResultOf(self.recorder.stopService())
        self.assertEqual(self.lines(), ["open", "start", "stop"] * 2)
        self.assert_good()

    def test_slow_disk(self) -> None:
        """One batch at a time; the next has all that came meanwhile, and a stop waits."""
        self.disk.slow = True
        self.recorder.startService()
        self.clock.advance(GATHER)
        for _ in range(3):
            self.recorder.reopen()
            self.clock.advance(GATHER)
        self.assertEqual(len(self.disk.waiting), 1)
        stopped = self.recorder.stopService()
        self.assertNoResult(stopped)
        self.disk.slow = False
        self.disk.work()
        self.successResultOf(stopped)
        self.assertEqual(self.lines(), ["open", "start", "open", "open", "open", "stop"])

    def test_slow_disk_and_much_to_write(self) -> None:
        """Packets are refused until there is room again."""
        self.disk.slow = True
        self.recorder.startService()
        self.clock.advance(GATHER)
        self.trail.backlog.size += ROOM
        self.recorder.reopen()
        self.clock.advance(GATHER)
        self.assertEqual(self.works, [False])
        self.trail.backlog.size -= ROOM
        self.disk.slow = False
        self.disk.work()
        self.assertEqual(self.works, [False, True])
        self.successResultOf(self.recorder.stopService())

    def test_full_disk(self) -> None:
        """It is said once, tried again, and nothing is lost."""
        self.disk.full = True
        with capturedLogs() as logs:
            self.recorder.startService()
            self.clock.advance(GATHER)
            self.recorder.reopen()
            self.clock.pump([RETRY] * 3)
            self.assertEqual((self.works, self.lines()), ([False], []))
            self.disk.full = False
            self.clock.advance(RETRY)
        self.assertEqual(self.works, [False, True])
        self.assertEqual(
            [formatEvent(event) for event in logs],
            [
                "The audit trail can't be written: No space left on device; it is tried again",
                "The audit trail is written again",
            ],
        )
        self.successResultOf(self.recorder.stopService())
        self.assertEqual(self.lines(), ["open", "start", "open", "stop"])
        self.assert_good()

    def test_full_to_the_end(self) -> None:
        """What is lost is said."""
        self.disk.full = True
        with capturedLogs() as logs:
            self.recorder.startService()
            self.clock.advance(GATHER)
            self.successResultOf(self.recorder.stopService())
        size = self.trail.backlog.size
        self.assertIn(f"{size} bytes of the audit trail are lost", formatEvent(logs[-1]) or "")

    def test_disk_that_fails(self) -> None:
        """Once, when it is asked to keep what is written: that is tried again without anything new, and told."""
        self.patch(os, "fdatasync", failing_to_keep(2))
        with capturedLogs() as logs:
            self.recorder.startService()
            self.clock.advance(GATHER)
            self.assertEqual((self.works, self.trail.backlog.size), ([False], 0))
            self.clock.advance(RETRY)
            self.assertEqual(self.works, [False])
            self.clock.advance(RETRY)
            self.assertEqual(self.works, [False, True])
        self.assertEqual(
            [formatEvent(event) for event in logs],
            [
                "The audit trail can't be written: Input/output error; it is tried again",
                "The disk failed to keep what was written of the audit trail: Input/output error",
                "The audit trail is written again",
            ],
        )
        self.clock.advance(GATHER)
        self.assertEqual(self.lines(), ["open", "start", "doubt"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.successResultOf(self.recorder.stopService())
        self.assertEqual(Reading(KEY, [self.path]).faults, 0)

    def test_disk_that_hangs(self) -> None:
        """It is given up after a while, whether it hung before or only now, and what is lost is said."""
        for hung_before in True, False:
            trail = Trail(KEY, self.clock.seconds, complete=True)
            recorder = self.make(trail)
            self.path.unlink(missing_ok=True)
            self.disk.slow = hung_before
            recorder.startService()
            self.clock.advance(GATHER)
            self.disk.slow = True
            with capturedLogs() as logs:
                stopped = recorder.stopService()
                self.clock.advance(PATIENCE - 1)
                self.assertNoResult(stopped)
                self.clock.advance(1)
                self.successResultOf(stopped)
                # It is through after all.
                for _, done in self.disk.waiting:
                    done.callback(None)
                self.disk.waiting.clear()
            lost = trail.backlog.size
            self.assertEqual(
                [formatEvent(event) for event in logs],
                [
                    "The audit trail isn't written to its end within 5 seconds",
                    f"Up to {lost} bytes of the audit trail are lost, and 0 events that it has no line of",
                ],
            )
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_told_at_the_very_end(self) -> None:
        """What had no room, and there is room only when the last lines are written."""
        self.recorder.startService()
        self.clock.advance(GATHER)
        self.trail.backlog.size += SHARED
        self.trail.setup_refused(SETUP.policy, SETUP.id, "10.0.0.6", "forbidden")
        self.trail.backlog.size -= SHARED
        self.successResultOf(self.recorder.stopService())
        self.assertEqual(self.lines(), ["open", "start", "stop", "gap"])
        self.assertEqual(self.trail.backlog.size, 0)

    def test_refused_setup_packets(self) -> None:
        """Those that were left out are told when their period is over, without anything new, and at the end."""
        self.recorder.startService()
        for _ in range(REFUSED_LINES + 5):
            self.trail.setup_refused(SETUP.policy, SETUP.id, "10.0.0.6", "forbidden")
        self.clock.advance(GATHER)
        expected = ["open", "start", *["refused"] * REFUSED_LINES]
        self.assertEqual(self.lines(), expected)
        self.clock.advance(REFUSED_PERIOD)
        self.clock.advance(GATHER)
        self.assertEqual(self.lines(), [*expected, "refused-more"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for _ in range(REFUSED_LINES + 5):
            self.trail.setup_refused(SETUP.policy, SETUP.id, "10.0.0.6", "forbidden")
        self.successResultOf(self.recorder.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.lines()[-2:], ["refused-more", "stop"])
        self.assert_good()

    def test_mishandled(self) -> None:
        """A mistake in what writes is shown, and counts as a failure to write."""
        self.disk.slow = True
        self.recorder.startService()
        self.clock.advance(GATHER)
        ((_, done),) = self.disk.waiting
        self.disk.slow = False
        done.errback(Failure(ZeroDivisionError()))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.works, [False])
        self.clock.advance(RETRY)
        self.assertEqual(self.works, [False, True])
        self.successResultOf(self.recorder.stopService())

    def test_mishandled_result(self) -> None:
        """A mistake in what is told of it is shown, and keeps nobody waiting who stops."""
        self.recorder = Recorder(self.trail, TrailFile(self.path, KEY), cast(Any, self.clock), self.disk, fail)
        self.disk.slow = True
        self.recorder.startService()
        self.clock.advance(GATHER)
        stopped = self.recorder.stopService()
        ((_, done),) = self.disk.waiting
        self.disk.slow = False
        done.callback(OSError(errno.ENOSPC, "No space left on device"))
        self.successResultOf(stopped)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_mishandled_result_is_tried_again(self) -> None:
        """Also where nothing new comes, as packets are refused until it works."""
        told: list[bool] = []

        def fail_once(works: bool) -> None:
            told.append(works)
            if len(told) == 1:
                raise ZeroDivisionError

        self.recorder = Recorder(self.trail, TrailFile(self.path, KEY), cast(Any, self.clock), self.disk, fail_once)
        self.recorder.startService()
        self.disk.full = True
        self.clock.advance(GATHER)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.disk.full = False
        self.clock.advance(RETRY)
        self.assertEqual(told, [False, True])
        self.assertEqual(self.lines(), ["open", "start"])
        self.successResultOf(self.recorder.stopService())

    def test_rotation_that_fails(self) -> None:
        """It goes on in the old file, and says so."""
        self.recorder.startService()
        self.clock.advance(GATHER)
        old = self.path.rename(self.path.with_suffix(".1"))
        self.path.mkdir()
        self.recorder.reopen()
        with capturedLogs() as logs:
            self.clock.advance(GATHER)
        self.assertIn("Going on in the audit trail's old file", formatEvent(logs[-1]) or "")
        self.successResultOf(self.recorder.stopService())
        self.assertEqual(Reading(KEY, [old]).lines, 4)

    def test_can_t_begin(self) -> None:
        """The process ends with a sentence."""
        self.path.write_text("notes\n")
        error = self.assertRaises(RecordError, self.recorder.startService)
        self.assertIn("is no", str(error).replace("doesn't end as", "is no"))
        self.successResultOf(self.recorder.stopService())


class LeavableTests(SynchronousTestCase):
    """Who waits for what may never end can be told not to."""

    def test_answers(self) -> None:
        leavable = Leavable()
        error = OSError(errno.ENOSPC, "No space left on device")
        self.assertIsNone(leavable(lambda: None))
        self.assertIs(leavable(lambda: error), error)

        def mistake() -> OSError | None:
            raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, leavable, mistake)

    def test_left(self) -> None:
        """The thread goes on alone, and doesn't keep the process from ending."""
        leavable = Leavable()
        goes_on = Event()

        def hang() -> None:
            goes_on.wait()

        before = set(enumerate())
        leavable.leave()
        error = leavable(hang)
        self.assertEqual(error and error.errno, errno.ETIMEDOUT)
        (thread,) = set(enumerate()) - before
        self.assertTrue(thread.daemon)
        goes_on.set()
        thread.join()


class CostTests(RecordedCase):
    """What a trail adds to the way of a packet."""

    def test_woken_once_a_batch(self) -> None:
        """However many packets it has: no timer, and no write, is a packet's own."""
        proxy = self.recorded()
        server = proxy.server(5000)
        proxy.register("100", "111", 5000, pipeline=16)
        proxy.lines()
        woken: list[None] = []
        proxy.trail.backlog.wake = lambda: woken.append(None)
        client = proxy.client()
        for _ in range(3):
            client.ask(*"abcdefgh")
            server.answer()
        self.assertEqual(woken, [None])
        self.assertEqual(len(proxy.told("packet")), 24)
