"""What simulations are tried with: plans, outcomes, and processes that are none."""

from __future__ import annotations

import os
from errno import EMFILE
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rproxy.simulation.plan import Packet, Plan, make_plan, spread
from rproxy.simulation.processes import Child
from rproxy.simulation.verdict import Outcome, Result

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
