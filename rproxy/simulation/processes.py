"""The proxy and the pool servers, as processes: started, watched, and stopped again."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from rproxy.listening import BACKLOG
from rproxy.process.children import environment, how_it_ended
from rproxy.simulation.plan import Server

HOST = "127.0.0.1"

#: How long a process may take to stop before it is killed, in seconds.
GRACE = 5.0

#: How many of its last lines are shown of a process that died.
LAST_LINES = 20

#: The longest line that is kept, in bytes.
_LONGEST_LINE = 1 << 16

_ANY_PORT = f"tcp:0:backlog={BACKLOG}:interface={HOST}"
_PROXY_LISTENS = re.compile(r"Running the reverse proxy on port (\d+)$")


class ChildDied(Exception):
    """A process ended before it was told to, or couldn't be started.

    :ivar lines: the last ones of its log.
    """

    def __init__(self, name: str, how: str, lines: Iterable[str]) -> None:
        super().__init__(f"{name} {how}")
        self.lines = tuple(lines)


class Child(ProcessProtocol):
    """One process, and its log.

    :param name: what to call it, as in "server 100".
    :param died: called if it ends before :meth:`stop`.
    """

    def __init__(self, name: str, died: Callable[[ChildDied], object]) -> None:
        self._name = name
        self._died = died
        self._stopping = False
        self._partial = b""
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._awaited: list[tuple[re.Pattern[str], Deferred[re.Match[str]]]] = []
        #: Fires when it has ended, however it did.
        self.ended: Deferred[None] = Deferred()

    def wait_for(self, pattern: re.Pattern[str]) -> Deferred[re.Match[str]]:
        """Fire with the match of the first line from now on that has one; cancel it to wait no longer.

        It never fires if the process ends before: that is what ``died`` tells.
        """
        matched: Deferred[re.Match[str]] = Deferred()
        self._awaited.append((pattern, matched))
        return matched

    def stop(self) -> Deferred[None]:
        """Have it stop, and return :attr:`ended`."""
        self._stopping = True
        self._signal(signal.SIGTERM)
        return self.ended

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        self._signal(signal.SIGKILL)

    # From the process.

    def outReceived(self, data: bytes) -> None:
        *lines, rest = (self._partial + data).split(b"\n")
        self._partial = rest[-_LONGEST_LINE:]
        for line in lines:
            self._take(line.decode(errors="replace").rstrip("\r"))

    def errReceived(self, data: bytes) -> None:
        # What twistd writes there is rare, and whole lines.
        self.outReceived(data)

    def processEnded(self, reason: Failure) -> None:
        if self._partial:
            self.outReceived(b"\n")
        self.ended.callback(None)
        if not self._stopping:
            self._died(ChildDied(self._name, how_it_ended(reason.value), self._lines))

    def _take(self, line: str) -> None:
        self._lines.append(line)
        awaited, self._awaited = self._awaited, []
        for pattern, matched in awaited:
            if matched.called:
                continue
            if match := pattern.search(line):
                matched.callback(match)
            else:
                self._awaited.append((pattern, matched))

    def _signal(self, number: signal.Signals) -> None:
        transport: IProcessTransport | None = self.transport
        if transport is None or self.ended.called:
            return
        try:
            transport.signalProcess(number.name.removeprefix("SIG"))
        except ProcessExitedAlready:
            # Its last output is still being read; ``ended`` fires in a moment.
            return


@define(eq=False)
class Cluster:
    """A proxy and its pool servers.

    :param reactor: provides ``IReactorProcess`` and ``IReactorTime``.
    :param folder: where the processes run.
    :param died: called with the :exc:`ChildDied` of each process that ends before :meth:`stop`.
    """

    _reactor: Any
    _folder: str
    _died: Callable[[ChildDied], object]
    _proxy: Child | None = field(default=None, init=False)
    _servers: list[Child] = field(factory=list, init=False)

    async def start(self, servers: Sequence[Server]) -> int:
        """Start all processes, wait until each server is registered, and return the proxy's port.

        :raises ChildDied: the system doesn't let one be started.
        """
        self._proxy = self._spawn("the proxy", "rproxy", "--listen", _ANY_PORT)
        match = await self._proxy.wait_for(_PROXY_LISTENS)
        port = int(match[1])
        registered = [self._proxy.wait_for(_registration_of(server)) for server in servers]
        for server in servers:
            # One by one, as those that were started are to be stopped where the next one can't be.
            self._servers.append(self._spawn_server(server, port))
        await gatherResults(registered, consumeErrors=True)
        return port

    async def stop(self) -> None:
        """Stop all processes, servers first, as they take leave of the proxy; return when none is left."""
        await self._stop(self._servers)
        await self._stop([self._proxy] if self._proxy is not None else [])

    async def _stop(self, children: Sequence[Child]) -> None:
        kill = self._reactor.callLater(GRACE, _kill, children)
        for child in children:
            child.stop()
        for child in children:
            await child.ended
        if kill.active():
            kill.cancel()

    def _spawn_server(self, server: Server, proxy_port: int) -> Child:
        return self._spawn(
            f"server {server.server_id}",
            "rpoolserver",
            *("--id", server.server_id, "--pp", server.policy),
            *("--listen", _ANY_PORT, "--revproc", f"{HOST}:{proxy_port}"),
        )

    def _spawn(self, name: str, *arguments: str) -> Child:
        child = Child(name, self._died)
        argv = [sys.executable, "-m", "rproxy.simulation.child", "-n", "--pidfile=", *arguments]
        env = environment(os.environ, sys.path)
        try:
            self._reactor.spawnProcess(child, sys.executable, argv, env=env, path=self._folder)
        except OSError as error:
            raise ChildDied(name, f"can't be started: {error.strerror}", ()) from None
        return child


def _kill(children: Iterable[Child]) -> None:
    for child in children:
        child.kill()


def _registration_of(server: Server) -> re.Pattern[str]:
    """The proxy's line that says that a server is registered (docs/reference/protocol.rst, What the terminals show)."""
    return re.compile(rf"Received setup message from server id {re.escape(server.server_id)} ip ")
