"""The simulation: what it plans, starts, sends and reports, without a process; and the real thing, from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from errno import EMFILE
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from attrs import define, field
from rich.console import Console
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rproxy import simulation
from rproxy.client import Answer, ProxyError
from rproxy.hashing import sha1_hex
from rproxy.packets import Ack, Error
from rproxy.simulation import plot, report
from rproxy.simulation.plan import Packet, Plan, Server, generate_packets, make_plan, read_packets, spread
from rproxy.simulation.processes import GRACE, LAST_LINES, Child, ChildDied, Cluster
from rproxy.simulation.running import Stopper, simulate
from rproxy.simulation.traffic import Traffic
from rproxy.simulation.verdict import Outcome, Result
from tests.support import PATIENCE, ROOT, Process, wait_for

SERVERS = spread(4, ["111", "222"])
VERDICT = "All 15 packets were answered rightly, each by a server of its policy."


def packet(number: int, policy: str = "111") -> Packet:
    """The sample packet of that number."""
    return Packet(f"{number}.json", b"{%d}" % number, str(number), policy, f"xyz{number}")


def right(number: int, server_id: str = "100", policy: str = "111", seconds: float = 0.002) -> Outcome:
    """What comes of a packet that is answered by that server."""
    return Outcome(packet(number, policy), server_id, True, seconds)


def result(*outcomes: Outcome, **others: Any) -> Result:
    """The result that they make."""
    return Result(**{"servers": SERVERS, "planned": len(outcomes), "outcomes": outcomes, **others})


def plan_of(**options: Any) -> Plan:
    """The plan that options make, with the command's defaults."""
    defaults: dict[str, Any] = {"servers": 4, "policies": ["111", "222"], "folder": None, "count": None, "seed": 0}
    return make_plan(**{**defaults, "clients": None, "concurrency": 1, "timeout": 60.0, **options})


def temporary_folder(case: SynchronousTestCase) -> Path:
    """A folder for one test."""
    folder = TemporaryDirectory(prefix="rproxy-test-")
    case.addCleanup(folder.cleanup)
    return Path(folder.name)


class OptionTests(SynchronousTestCase):
    """What the command takes."""

    def test_defaults(self) -> None:
        """The classic setting."""
        parser = ArgumentParser()
        simulation.add_arguments(parser)
        args = parser.parse_args([])

        self.assertEqual((args.servers, args.policies, args.concurrency), (4, ["111", "222"], 1))
        self.assertEqual((args.clients, args.count, args.packets, args.timeout), (None, None, None, 60.0))


class PlanTests(SynchronousTestCase):
    """What is to be started and sent."""

    def setUp(self) -> None:
        self.folder = temporary_folder(self)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, "utf-8")

    def test_policies_are_dealt_out_in_turn(self) -> None:
        """100 and 300 serve the one, 200 and 400 the other."""
        self.assertEqual(
            SERVERS, (Server("100", "111"), Server("200", "222"), Server("300", "111"), Server("400", "222"))
        )

    def test_samples_in_the_order_of_their_numbers(self) -> None:
        """2.json comes before 10.json."""
        packets = read_packets(ROOT / "pktfiles")

        self.assertEqual([each.name for each in packets], [f"{number}.json" for number in range(15)])
        self.assertEqual((packets[10].client_id, packets[10].policy, packets[10].payload), ("10", "222", "xyz10"))

    def test_files_are_sent_as_they_are(self) -> None:
        """Only the white space around them goes."""
        text = '{"type": 0, "srcid": 7, "privPolyId": 999, "payload": "x", "more": [1]}'
        self.write("a.json", f"\n{text}\n")

        self.assertEqual(read_packets(self.folder), (Packet("a.json", text.encode(), "7", "999", "x"),))

    def test_files_that_are_no_packets(self) -> None:
        """The text says which, and why."""
        self.assertIn("no *.json", str(self.assertRaises(ValueError, read_packets, self.folder)))
        self.write("b.json", '{"type": "1", "id": "1", "privPolyId": "1", "listenport": "1"}')

        error = str(self.assertRaises(ValueError, plan_of, folder=self.folder))
        self.assertIn("b.json is no data packet", error)

    def test_count_repeats_and_cuts(self) -> None:
        """Files are sent in turn, as often as it takes."""
        folder = ROOT / "pktfiles"
        self.assertEqual([each.client_id for each in plan_of(folder=folder, count=17).packets[-3:]], ["14", "0", "1"])
        self.assertEqual(len(plan_of(folder=folder, count=2).packets), 2)

    def test_generated_packets(self) -> None:
        """The same for the same seed, each for a policy that is served."""
        packets = generate_packets(20, ["a", "b"], 1)

        self.assertEqual(packets, generate_packets(20, ["a", "b"], 1))
        self.assertNotEqual(packets, generate_packets(20, ["a", "b"], 2))
        self.assertEqual({each.policy for each in packets}, {"a", "b"})

    def test_samples_only_where_they_fit(self) -> None:
        """Without a folder given, packets that nobody would serve are not sent."""
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(ROOT)
        self.assertEqual(plan_of().source, "15 packets from pktfiles")
        self.assertEqual(plan_of(policies=["a"]).source, "15 packets generated from seed 0")
        os.chdir(self.folder)
        self.assertEqual(plan_of(count=1, seed=3).source, "1 packet generated from seed 3")

    def test_clients(self) -> None:
        """One for each packet, unless there are to be fewer."""
        self.assertEqual(plan_of(count=15).clients, 15)
        self.assertEqual(plan_of(count=15, clients=4).clients, 4)
        self.assertEqual(plan_of(count=15, clients=40).clients, 15)

    def test_too_few_servers(self) -> None:
        """A policy would have none."""
        error = self.assertRaises(ValueError, plan_of, servers=1)

        self.assertIn("1 server can't serve 2 policies", str(error))


class FakeProcess:
    """Stands for the process of a :class:`Child`, and does what a test says."""

    def __init__(self, child: Child, arguments: tuple[str, ...], path: str) -> None:
        self.child = child
        self.arguments = arguments
        self.path = path
        self.signals: list[str] = []
        self.exited = False
        child.makeConnection(self)

    def signalProcess(self, name: str) -> None:  # named by IProcessTransport
        if self.exited:
            raise ProcessExitedAlready
        self.signals.append(name)

    def says(self, text: str) -> None:
        self.child.outReceived(text.encode())

    def ends(self, code: int | None = None, number: int | None = None) -> None:
        reason = ProcessTerminated(code, number) if code or number else ProcessDone(0)
        self.child.processEnded(Failure(reason))


class FakeReactor(Clock):
    """Starts fake processes, and has a time of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[FakeProcess] = []
        #: So many, and no more.
        self.most = 100

    def spawnProcess(self, child: Child, executable: str, argv: list[str], env: dict[str, str], path: str) -> None:
        assert argv[:4] == [executable, "-m", "rproxy.simulation.child", "-n"], argv
        if len(self.processes) == self.most:
            raise OSError(EMFILE, os.strerror(EMFILE))
        self.processes.append(FakeProcess(child, tuple(argv[5:]), path))


def registered(server_id: str) -> str:
    """The proxy's line about a server."""
    return f"x Received setup message from server id {server_id} ip 127.0.0.1 privacy policy 111 port 5\n"


class ChildTests(SynchronousTestCase):
    """One process."""

    def setUp(self) -> None:
        self.deaths: list[ChildDied] = []
        self.child = Child("server 100", self.deaths.append)
        self.process = FakeProcess(self.child, (), "")

    def test_last_lines(self) -> None:
        """However its output is cut, and without a line break at the end, the last lines are there."""
        for number in range(30):
            self.process.says(f"line {number}\r")
            self.process.says("\n")
        self.process.says("the end")
        self.process.ends(code=3)

        self.assertEqual(str(self.deaths[0]), "server 100 ended with exit code 3")
        self.assertEqual(len(self.deaths[0].lines), LAST_LINES)
        self.assertEqual(self.deaths[0].lines[-2:], ("line 29", "the end"))

    def test_ended_by_a_signal(self) -> None:
        """It says by which."""
        self.process.ends(number=signal.SIGKILL)

        self.assertEqual([str(death) for death in self.deaths], ["server 100 was ended by SIGKILL"])

    def test_stop(self) -> None:
        """An end that was asked for is no death."""
        ended = self.child.stop()
        self.assertEqual(self.process.signals, ["TERM"])
        self.process.exited = True
        self.child.kill()
        self.assertNoResult(ended)
        self.process.ends(number=signal.SIGTERM)
        self.child.kill()

        self.successResultOf(ended)
        self.assertEqual(self.deaths, [])


class ClusterTests(SynchronousTestCase):
    """All processes."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.deaths: list[ChildDied] = []
        self.cluster = Cluster(self.reactor, "/folder", self.deaths.append)

    def start(self) -> Deferred[int]:
        starting = Deferred.fromCoroutine(self.cluster.start(SERVERS[:2]))
        self.reactor.processes[0].says("x Running the reverse proxy on port 1234\n")
        return starting

    def test_start(self) -> None:
        """The proxy's port is in its log, and each server is there when the proxy has its registration."""
        starting = self.start()
        proxy, *servers = self.reactor.processes

        self.assertEqual(proxy.arguments[0], "rproxy")
        self.assertEqual(
            [process.arguments[:5] for process in servers],
            [
                ("rpoolserver", "--id", "100", "--pp", "111"),
                ("rpoolserver", "--id", "200", "--pp", "222"),
            ],
        )
        self.assertEqual({process.arguments[-1] for process in servers}, {"127.0.0.1:1234"})
        self.assertEqual({process.path for process in self.reactor.processes}, {"/folder"})
        proxy.says(registered("200"))
        proxy.says(registered("200"))
        self.assertNoResult(starting)
        proxy.says(registered("100"))
        self.assertEqual(self.successResultOf(starting), 1234)

    def test_stop(self) -> None:
        """The servers first; who doesn't stop is killed."""
        self.start().addErrback(lambda _: None)
        proxy, first, second = self.reactor.processes
        stopping = Deferred.fromCoroutine(self.cluster.stop())
        first.ends()
        self.assertEqual((proxy.signals, second.signals), ([], ["TERM"]))
        self.reactor.advance(GRACE)
        self.assertEqual(second.signals, ["TERM", "KILL"])
        second.ends(number=signal.SIGKILL)
        self.assertEqual(proxy.signals, ["TERM"])
        proxy.ends()

        self.successResultOf(stopping)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(self.deaths, [])

    def test_stop_before_the_start(self) -> None:
        """There is nothing to do."""
        self.successResultOf(Deferred.fromCoroutine(self.cluster.stop()))


@define(eq=False)
class FakeConnection:
    """A connection whose packets are answered by the test."""

    sent: list[tuple[bytes, Deferred[Answer]]] = field(factory=list)
    closed: bool = False

    def exchange(self, raw: bytes, client_id: str) -> Deferred[Answer]:
        answer: Deferred[Answer] = Deferred()
        self.sent.append((raw, answer))
        return answer

    def close(self) -> Deferred[None]:
        self.closed = True
        return succeed(None)


class TrafficTests(SynchronousTestCase):
    """Packets on their way."""

    def setUp(self) -> None:
        self.connections: list[FakeConnection] = []
        self.clock = Clock()
        self.outcomes: dict[int, Outcome] = {}

    def send(self, packets: int, clients: int, concurrency: int) -> Deferred[None]:
        def connect() -> FakeConnection:
            self.connections.append(FakeConnection())
            return self.connections[-1]

        self.traffic = Traffic(
            [packet(number) for number in range(packets)],
            clients,
            connect,
            self.clock.seconds,
            self.outcomes.__setitem__,
        )
        return Deferred.fromCoroutine(self.traffic.send(concurrency))

    def answer(self, connection: int, number: int, payload: str) -> None:
        ack = Ack("2", "100", "1", payload)
        self.connections[connection].sent[number][1].callback(Answer(b"", ack))

    def test_one_after_the_other(self) -> None:
        """The next packet goes when the one before is answered, and a connection goes with its last packet."""
        sending = self.send(3, 2, 1)
        self.assertEqual(len(self.connections), 1)
        self.clock.advance(0.25)
        self.answer(0, 0, sha1_hex("xyz0"))
        self.answer(1, 0, "something else")
        self.assertEqual([connection.closed for connection in self.connections], [False, True])
        self.answer(0, 1, sha1_hex("xyz2"))

        self.successResultOf(sending)
        self.assertEqual(self.outcomes[0], right(0, seconds=0.25))
        self.assertEqual([self.outcomes[number].hash_right for number in range(3)], [True, False, True])
        self.assertTrue(self.connections[0].closed)

    def test_concurrency(self) -> None:
        """So many at a time, over all connections together, in the order of the packets."""
        self.send(5, 2, 3)
        self.assertEqual([[raw for raw, _ in each.sent] for each in self.connections], [[b"{0}", b"{2}"], [b"{1}"]])
        self.answer(1, 0, "")

        self.assertEqual([raw for raw, _ in self.connections[1].sent], [b"{1}", b"{3}"])

    def test_errors(self) -> None:
        """What the proxy refuses, and what it doesn't answer at all."""
        sending = self.send(2, 1, 1)
        error = Error("3", "rproxy", "0", "no-server", "no", "nobody serves it")
        self.connections[0].sent[0][1].callback(Answer(b"", error))
        self.connections[0].sent[1][1].errback(ProxyError("connection-lost", "unknown", "it broke"))

        self.successResultOf(sending)
        self.assertEqual(self.outcomes[0].error, "no-server: nobody serves it")
        self.assertEqual(self.outcomes[1].error, "connection-lost: it broke")

    def test_given_up(self) -> None:
        """What is in flight is waited for no longer; the connections can be closed."""
        sending = self.send(5, 5, 2)
        sending.cancel()
        self.failureResultOf(sending)
        self.successResultOf(Deferred.fromCoroutine(self.traffic.close()))

        self.assertEqual(self.outcomes, {})
        self.assertEqual([connection.closed for connection in self.connections], [True, True])


class VerdictTests(SynchronousTestCase):
    """What is right."""

    def test_all_right(self) -> None:
        """In a sentence that can be watched for."""
        self.assertEqual(result(right(0), right(1, "300"), right(2, "200", "222")).verdict, VERDICT.replace("15", "3"))
        self.assertEqual(result(right(0)).verdict, "The one packet was answered rightly, by a server of its policy.")

    def test_problems(self) -> None:
        """Each packet for itself."""
        judged = result(
            Outcome(packet(0), "100", False, 0.1),
            right(1, "200"),
            right(2, "7"),
            Outcome(packet(3), error="no-server: nobody"),
            right(4),
        )

        self.assertEqual(judged.problems[0], "the answer is not the payload's SHA-1")
        self.assertEqual(judged.problems[1], "answered by server 200, which serves policy 222")
        self.assertEqual(judged.problems[2], "answered by 7, which is no server of ours")
        self.assertEqual(judged.problems[3:], ("no-server: nobody", ""))
        self.assertEqual(judged.verdict, "4 of 5 packets went wrong. The servers of policy 111 did not take turns.")

    def test_turns(self) -> None:
        """Counts may differ by 1, and by more only where packets are sent at the same time."""
        self.assertTrue(result(right(0), right(1), right(2, "300")).ok)
        uneven = result(right(0), right(1))
        self.assertEqual((uneven.ok, uneven.uneven), (False, ("111",)))
        concurrent = result(right(0), right(1), judge_turns=False)
        self.assertEqual((concurrent.ok, concurrent.differences), (True, {"111": 2, "222": 0}))

    def test_stopped(self) -> None:
        """What was not sent is counted."""
        stopped = result(right(0), planned=3, aborted="server 100 died")

        self.assertFalse(stopped.ok)
        self.assertEqual(stopped.verdict, "It was stopped: server 100 died. 2 of 3 packets were given up.")

    def test_shares(self) -> None:
        """Of what all servers of the policy answered."""
        shares = result(right(0), right(1), right(2, "300"), right(3, "400", "222")).shares

        self.assertEqual(
            [(share.count, round(share.of_policy, 2)) for share in shares],
            [
                (2, 0.67),
                (0, 0.0),
                (1, 0.33),
                (1, 1.0),
            ],
        )

    def test_latency(self) -> None:
        """Of the packets that were acknowledged."""
        refused = Outcome(packet(9), seconds=9.0, error="no-server: nobody")
        latency = result(*(right(number, seconds=number / 1000) for number in range(1, 101)), refused).latency
        assert latency is not None

        self.assertAlmostEqual(latency.median, 0.0505)
        self.assertAlmostEqual(latency.p95, 0.09505)
        self.assertEqual((latency.least, latency.most), (0.001, 0.1))
        self.assertIsNone(result(refused).latency)


class ReportTests(SynchronousTestCase):
    """What is shown."""

    def shown(self, judged: Result) -> str:
        out = StringIO()
        report.show(judged, Console(file=out, width=120))
        return out.getvalue()

    def test_rows(self) -> None:
        """All of a packet stands in its row."""
        text = self.shown(result(right(7, "300", seconds=0.01234), source="1 packet from nowhere"))

        self.assertRegex(text, r"7\.json +│ 111 +│ 300 +│ right │ +12\.34")
        self.assertRegex(text, r"300 +│ 111 +│ +1 │ +100\.0%")
        self.assertIn("1 packet from nowhere, 4 servers", text)
        self.assertIn("median 12.34 ms", text)

    def test_nothing_speaks_to_the_terminal(self) -> None:
        """Neither by a control character nor by markup."""
        text = self.shown(result(Outcome(packet(0), error="\x1b[31m [bold]failed\n")))

        self.assertNotIn("\x1b", text)
        self.assertIn("[bold]failed", text)

    def test_many_packets(self) -> None:
        """Those that went wrong are listed, and the others counted."""
        outcomes = [right(number) for number in range(report.LISTED)]
        text = self.shown(result(*outcomes, Outcome(packet(555), error="timeout: late"), judge_turns=False))

        self.assertRegex(text, r"555\.json.*timeout: late")
        self.assertIn("100 packets more", text)
        self.assertNotIn("7.json", text)
        self.assertIn("differ by at most 100", text)

    def test_json(self) -> None:
        """The same for programs."""
        outcome = Outcome(packet(1), error="no-server: nobody")
        shown = json.loads(json.dumps(report.as_json(result(right(0), outcome, planned=3, aborted="late"))))

        self.assertEqual((shown["ok"], shown["planned"], shown["right"]), (False, 3, 1))
        self.assertEqual((shown["wrong"], shown["given_up"]), (1, 1))
        self.assertEqual(shown["latency_ms"]["median"], 2.0)
        self.assertEqual(shown["servers"][0], {"id": "100", "policy": "111", "answered": 1, "share_of_policy": 1.0})
        self.assertEqual((shown["packets"][0]["ms"], shown["packets"][0]["problem"]), (2.0, None))
        self.assertEqual(shown["packets"][1]["problem"], "no-server: nobody")
        self.assertIsNone(report.as_json(result())["latency_ms"])

    def test_progress_is_for_terminals(self) -> None:
        """Anywhere else it would only be in the way."""
        for terminal in (False, True):
            out = StringIO()
            with report.progress(Console(file=out, force_terminal=terminal), 15) as told:
                told(0)
                told(3)
            self.assertEqual("Sending packets" in out.getvalue(), terminal)


class RunningTests(SynchronousTestCase):
    """How it ends."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.stopper = Stopper()
        running = simulate(plan_of(timeout=60.0), self.reactor, self.stopper, lambda done: None)
        self.running = Deferred.fromCoroutine(running)

    def test_out_of_time(self) -> None:
        """Whatever it waits for, it ends after the timeout, when its processes have ended."""
        proxy = self.reactor.processes[0]
        self.assertTrue(Path(proxy.path).is_dir())
        self.reactor.advance(60)
        self.assertEqual(proxy.signals, ["TERM"])
        self.assertNoResult(self.running)
        proxy.ends()

        self.assertEqual(self.successResultOf(self.running).aborted, "it took longer than 60 s")
        self.assertFalse(Path(proxy.path).exists())
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_a_process_dies(self) -> None:
        """That ends it, and the others are stopped."""
        proxy = self.reactor.processes[0]
        proxy.says("x Running the reverse proxy on port 1234\n")
        _, first, *others = self.reactor.processes
        first.says("It broke\n")
        first.ends(code=1)
        self.assertEqual([process.signals for process in others], [["TERM"]] * 3)
        for process in (*others, proxy):
            process.ends()

        self.assertEqual(self.successResultOf(self.running).aborted, "server 100 ended with exit code 1")
        assert isinstance(self.stopper.why, ChildDied)
        self.assertEqual(self.stopper.why.lines, ("It broke",))

    def test_system_that_does_not_let_it(self) -> None:
        """What it had started is stopped, and it is said what is missing."""
        self.reactor.most = 3
        proxy = self.reactor.processes[0]
        proxy.says("x Running the reverse proxy on port 1234\n")
        _, *servers = self.reactor.processes
        self.assertEqual([process.signals for process in servers], [["TERM"]] * 2)
        for process in (*servers, proxy):
            process.ends()

        why = "server 300 can't be started: Too many open files"
        self.assertEqual(self.successResultOf(self.running).aborted, why)
        self.assertEqual(str(self.stopper.why), why)

    def test_first_reason_counts(self) -> None:
        """What follows from it is none."""
        first = OSError()
        self.stopper.stop(first)
        self.stopper.stop(OSError())
        self.reactor.processes[0].ends()

        self.assertIs(self.stopper.why, first)
        self.successResultOf(self.running)


class PlotTests(SynchronousTestCase):
    """Pictures, where there is matplotlib to draw them."""

    def setUp(self) -> None:
        self.path = temporary_folder(self) / "shares.png"

    def test_needs_matplotlib(self) -> None:
        """Where there is none, it says how to get it."""
        if find_spec("matplotlib"):
            raise self.skipTest("matplotlib is installed")
        error = self.assertRaises(ValueError, plot.check, self.path)

        self.assertIn("pip install matplotlib", str(error))

    def test_picture(self) -> None:
        """One is written, in the format that its name says, also of a simulation without answers."""
        if not find_spec("matplotlib"):
            raise self.skipTest("matplotlib is not installed")
        plot.check(self.path)
        plot.draw(result(right(0), right(1, "300")), self.path)
        self.assertEqual(self.path.read_bytes()[:4], b"\x89PNG")
        plot.draw(result(), self.path.with_suffix(".svg"))

        self.assertIn("no packet was answered", self.path.with_suffix(".svg").read_text())

    def test_checked_before_anything_starts(self) -> None:
        """Neither an unknown format nor a folder that isn't there comes up only at the end."""
        if not find_spec("matplotlib"):
            raise self.skipTest("matplotlib is not installed")
        self.assertIn("png", str(self.assertRaises(ValueError, plot.check, self.path.with_suffix(".xyz"))))
        self.assertRaises(ValueError, plot.check, self.path / "nowhere.png")


# From here on with real processes.


def command(*options: object) -> list[str]:
    """The command line of a simulation."""
    return [sys.executable, "-m", "rproxy.cli", "simulate", *map(str, options)]


def run_simulation(*options: object) -> subprocess.CompletedProcess[str]:
    """Run one to its end."""
    return subprocess.run(
        command(*options), cwd=ROOT, capture_output=True, text=True, timeout=4 * PATIENCE, check=False
    )


def children_of(pid: int) -> list[int]:
    """The processes that it started and that are still there."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; what follows it is: state, parent.
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether there is such a process that hasn't ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


@define
class Running:
    """A simulation with more packets than it will get to send."""

    process: Process
    folder: Path
    children: list[int] = field(factory=list)

    def wait_for_children(self) -> None:
        """Wait until the proxy and all servers are there."""
        wait_for(lambda: len(children_of(self.process.pid)) == 5, PATIENCE, "five processes")
        self.children = sorted(children_of(self.process.pid))

    def wait_for_end_of_children(self) -> None:
        """Wait until none of them is left."""
        wait_for(lambda: not any(map(is_alive, self.children)), PATIENCE, f"the end of {self.children}")

    def temporary_folders(self) -> list[Path]:
        """What it keeps on disk."""
        return list(self.folder.glob("rproxy-simulation-*"))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A simulation whose processes have just been started."""
    process = Process(command("--count", 200_000), ready="", cwd=ROOT, env={"TMPDIR": str(tmp_path)})
    with process:
        started = Running(process, tmp_path)
        started.wait_for_children()
        yield started


def test_fifteen_packets() -> None:
    """Each is in the table, with the servers that take turns, and the verdict is right."""
    run = run_simulation()

    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    for number in range(15):
        policy, servers = ("111", "100|300") if number % 2 else ("222", "200|400")
        row = rf"│ {number}\.json +│ {policy} +│ (?:{servers}) +│ right │ +\d+\.\d\d │"
        assert len(re.findall(row, run.stdout)) == 1, run.stdout
    assert run.stdout.splitlines()[-1] == VERDICT


def test_figures_add_up() -> None:
    """Also with several packets in flight on few connections."""
    run = run_simulation("--json", "--count", 60, "--clients", 3, "--concurrency", 6)
    shown = json.loads(run.stdout)

    assert run.returncode == 0, run.stderr
    assert shown["ok"]
    assert (shown["planned"], shown["right"], shown["wrong"], shown["given_up"]) == (60, 60, 0, 0)
    answered = {server["id"]: server["answered"] for server in shown["servers"]}
    assert sum(answered.values()) == len(shown["packets"]) == 60
    for server_id, number in answered.items():
        assert number == sum(1 for each in shown["packets"] if each["server"] == server_id)
    assert sum(server["share_of_policy"] for server in shown["servers"]) == pytest.approx(2)
    latency = shown["latency_ms"]
    assert 0 < latency["min"] <= latency["median"] <= latency["p95"] <= latency["max"]
    assert latency["max"] == max(each["ms"] for each in shown["packets"])


def test_policy_that_nobody_serves(tmp_path: Path) -> None:
    """That packet went wrong, and the others are right nevertheless."""
    for name, policy in (("0.json", "111"), ("1.json", "999"), ("2.json", "222")):
        packet_text = json.dumps({"type": "0", "srcid": "1", "privPoliId": policy, "payload": "x"})
        (tmp_path / name).write_text(packet_text, "utf-8")
    run = run_simulation("--packets", tmp_path, "--json")
    shown = json.loads(run.stdout)

    assert run.returncode == 1
    assert [each["problem"] and each["problem"].partition(":")[0] for each in shown["packets"]] == [
        None,
        "no-server",
        None,
    ]
    assert shown["verdict"] == "1 of 3 packets went wrong."


def test_nothing_to_start(tmp_path: Path) -> None:
    """What can't be done is said before anything is done."""
    run = run_simulation("--packets", tmp_path)

    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("rproxy simulate: ")


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed")
def test_plot_without_matplotlib(tmp_path: Path) -> None:
    """It says what to install."""
    run = run_simulation("--plot", tmp_path / "shares.png")

    assert (run.returncode, run.stdout) == (2, "")
    assert "pip install matplotlib" in run.stderr


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_plot(tmp_path: Path) -> None:
    """The picture is there at the end."""
    run = run_simulation("--plot", tmp_path / "shares.png")

    assert run.returncode == 0, run.stderr
    assert (tmp_path / "shares.png").stat().st_size > 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(running: Running, number: signal.Signals) -> None:
    """Nothing of it is left: no process, no folder."""
    assert running.temporary_folders()
    running.process.send_signal(number)

    assert running.process.wait() == 128 + number
    assert not any(map(is_alive, running.children))
    assert not running.temporary_folders()
    assert number.name in running.process.log


def test_killed(running: Running) -> None:
    """Even then no process is left."""
    running.process.send_signal(signal.SIGKILL)

    assert running.process.wait() == -signal.SIGKILL
    running.wait_for_end_of_children()


def test_server_dies(running: Running) -> None:
    """It ends, and says who it was."""
    os.kill(running.children[-1], signal.SIGKILL)

    assert running.process.wait() == 1
    assert not any(map(is_alive, running.children))
    assert re.search(r"(server \d00|the proxy) was ended by SIGKILL", running.process.log)
    assert not running.temporary_folders()
