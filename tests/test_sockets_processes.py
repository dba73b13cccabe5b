"""Processes whose connections are grouped: how one ends, and one without descriptors."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import ExitStack
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rproxy.sockets.ports import PAUSE
from tests.support import FAULT, PATIENCE, Talk, Twistd, data_packet, run, wait_for

_STOPPED = """
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from rproxy.sockets import SocketGroup

group = SocketGroup(reactor)
made = []

class Told(Protocol):
    def connectionMade(self):
        made.append(self)
        self.number = len(made)
        if self.number == 6:
            made[1].transport.write(bytes(10 << 20))
            reactor.callLater(0, reactor.stop)

    def connectionLost(self, reason):
        print("lost", self.number, reason.type.__name__, flush=True)
        for other in made:
            other.transport.write(b"x")
            other.transport.loseConnection()
        if self.number % 2:
            raise ZeroDivisionError

port = group.listenTCP(0, Factory.forProtocol(Told), interface="127.0.0.1")
for _ in range(3):
    connectProtocol(TCP4ClientEndpoint(group, "127.0.0.1", port.getHost().port), Told())
reactor.run()
print("left", group in reactor.getReaders())
"""


class ProcessTests(SynchronousTestCase):
    """What a test can only see in another process."""

    def test_everybody_is_told(self) -> None:
        """The reactor stops, and each protocol hears that, those that fail then notwithstanding."""
        ended = run([sys.executable, "-c", _STOPPED])
        self.assertEqual(ended.returncode, 0, ended.stderr)
        lost = [f"lost {number} ConnectionLost" for number in range(1, 7)]
        self.assertEqual(sorted(ended.stdout.splitlines()), ["left False", *lost])

    def test_proxy_without_descriptors(self) -> None:
        """Clients that are there go on, those that come wait, and in between the proxy rests."""
        question = data_packet("1", "111", "xyz1")
        with ExitStack() as stack:
            proxy = stack.enter_context(Twistd("rproxy", "--port", "0"))
            first = stack.enter_context(Talk(proxy.port))
            self.assertEqual(first.ask(question)["error"], "no-server")
            # What is open now, and a few more.
            numbers = {int(entry.name) for entry in Path(f"/proc/{proxy.pid}/fd").iterdir()}
            limit = max(numbers) + 1 + 3
            hard = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)[1]
            resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (limit, hard))
            served = [stack.enter_context(Talk(proxy.port)) for _ in range(limit - len(numbers))]
            for talk in served:
                self.assertEqual(talk.ask(question)["error"], "no-server")
            waiting = [stack.enter_context(Talk(proxy.port)) for _ in range(5)]
            for talk in waiting:
                talk.send(question)

            def complaints() -> int:
                return proxy.log.count("Can't accept connections for now")

            wait_for(complaints, PATIENCE, "the first pause")
            before = cpu_seconds(proxy.pid)
            wait_for(lambda: complaints() >= 3, PATIENCE, "two more pauses")
            self.assertLess(cpu_seconds(proxy.pid) - before, PAUSE / 2)
            self.assertEqual(first.ask(question)["error"], "no-server")
            for talk in served:
                talk.close()
            for talk in waiting:
                self.assertEqual(talk.answer()["error"], "no-server")
                talk.close()
            self.assertEqual(first.ask(question)["error"], "no-server")
            self.assertNotRegex(proxy.log, FAULT)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
