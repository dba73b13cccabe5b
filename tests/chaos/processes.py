"""The proxy and the servers of a run, as processes that can be killed, stopped and started again.

What waits runs in threads (:func:`asyncio.to_thread`), for the clients go on meanwhile.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos import journal
from tests.chaos.history import ProxyLife
from tests.chaos.openfiles import open_files
from tests.chaos.plan import QUEUE_TIMEOUT, TIMEOUT, Kind, Server
from tests.support import Process, Twistd, free_port

#: Until the proxy gives up draining, in seconds: longer than any packet has, so that it never does.
DRAIN_TIMEOUT = 10.0
#: Until a SIGSTOP is seen in the state of the process, in seconds.
PATIENCE = 5.0


class ServerProcess:
    """A server of the plan: its process, its port and its journal, over all its lives.

    :param proxy: the proxy's port.
    :param folder: where its files go.
    """

    def __init__(self, server: Server, proxy: int, folder: Path) -> None:
        self.server = server
        self.port = free_port()
        self._journal = folder / f"{server.server_id}.journal"
        self._orders = folder / f"{server.server_id}.orders"
        self._process = self._make(proxy)
        self._log = ""

    async def start(self) -> None:
        """Start it; returns when it listens."""
        await asyncio.to_thread(self._process.start)

    async def kill(self) -> int | None:
        """Send SIGKILL, and return the exit code."""
        code = await asyncio.to_thread(self._process.kill)
        self._log += self._process.log
        return code

    async def end(self) -> int:
        """Send SIGTERM, and return the exit code when it is gone; see :func:`_end`."""
        code = await asyncio.to_thread(_end, self._process)
        self._log += self._process.log
        return code

    async def stop(self) -> str:
        """Send SIGSTOP, and return the state that the process is in then: ``T`` if it is stopped."""
        self._process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while (state := self._state()) != "T" and time.monotonic() < deadline:
            await asyncio.sleep(0)
        return state

    def resume(self) -> None:
        """Send SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def order(self, order: str) -> None:
        """Order something for its next packet; see :mod:`tests.chaos.faultserver`."""
        with self._orders.open("a") as orders:
            orders.write(f"{order}\n")

    def receipts(self) -> list[journal.Receipt]:
        """Return all that it received so far."""
        return list(journal.read(self._journal, self.server.server_id))

    def abandon(self) -> None:
        """Send SIGKILL, if it is still there."""
        self._process.kill()

    @property
    def log(self) -> str:
        """What it wrote in all lives that are over."""
        return self._log

    def _make(self, proxy: int) -> Process:
        server = self.server
        if server.kind is Kind.TWISTD:
            arguments = [
                *("--id", server.server_id, "--revproc", str(proxy)),
                *("--listen", f"tcp:{self.port}:interface=127.0.0.1", "--handler", "tests.chaos.journaling:answer"),
                *("--lease", str(server.lease), "--pipeline", str(server.pipeline)),
                *("--connections", str(server.connections)),
            ]
            for policy in server.policies:
                arguments += ["--pp", policy]
            return Twistd("rpoolserver", *arguments, env={journal.VARIABLE: str(self._journal)})
        # Without what is installed, it starts several times as fast.
        argv = [sys.executable, "-S", "-m", "tests.chaos.faultserver", "--id", server.server_id]
        argv += ["--port", str(self.port), "--proxy", str(proxy)]
        argv += ["--journal", str(self._journal), "--orders", str(self._orders)]
        for policy in server.policies:
            argv += ["--policy", policy]
        if server.kind is Kind.MODERN:
            argv += ["--pipeline", str(server.pipeline), "--connections", str(server.connections)]
            argv += ["--lease", str(server.lease)]
        return Process(argv, ready=r"Listening on port (\d+)")

    def _state(self) -> str:
        # After the name of the command, which may have anything in it.
        stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0]


class ProxyProcess:
    """The proxy, over all its lives, which have one port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.lives: list[ProxyLife] = []
        self._process = Twistd(
            "rproxy",
            *("--listen", f"tcp:{self.port}:interface=127.0.0.1"),
            *("--timeout", str(TIMEOUT), "--queue-timeout", str(QUEUE_TIMEOUT)),
            *("--connect-timeout", "1", "--drain-timeout", str(DRAIN_TIMEOUT)),
        )

    async def start(self) -> None:
        """Start it; returns when it listens."""
        # Clients may connect before the start is noticed here, and want to know to which life.
        self.lives.append(ProxyLife())
        await asyncio.to_thread(self._process.start)

    async def end(self) -> ProxyLife:
        """Send SIGTERM; returns the life when it is over."""
        life = self._told()
        life.gently = True
        life.exit_code = await asyncio.to_thread(_end, self._process)
        return self._over(life)

    async def kill(self) -> ProxyLife:
        """Send SIGKILL; returns the life when it is over."""
        life = self._told()
        life.exit_code = await asyncio.to_thread(self._process.kill)
        return self._over(life)

    def abandon(self) -> None:
        """Send SIGKILL, if it is still there."""
        self._process.kill()

    def open_files(self) -> Counter[str]:
        """Return what it has open now."""
        return open_files(self._process.pid, self.port)

    @property
    def log(self) -> str:
        """What the life that it has, or had last, wrote so far."""
        return self._process.log

    def _told(self) -> ProxyLife:
        life = self.lives[-1]
        life.told_at = time.monotonic()
        return life

    def _over(self, life: ProxyLife) -> ProxyLife:
        life.ended_at = time.monotonic()
        life.log = self._process.log
        return life


def _end(process: Process) -> int:
    """Have a process end by SIGTERM, and return its exit code; that of SIGKILL if it didn't in time."""
    try:
        return process.stop()
    except AssertionError:
        return -signal.SIGKILL
