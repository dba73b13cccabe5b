"""The proxy and the servers of a run, as processes that can be killed, stopped and started again.

What waits runs in threads (:func:`asyncio.to_thread`), for the clients go on meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.chaos import journal
from tests.chaos.history import ProxyLife
from tests.chaos.openfiles import has_open, open_files, ports_of_peers
from tests.chaos.plan import POLICIES, QUEUE_TIMEOUT, TIMEOUT, Kind, Proxy, Server
from tests.chaos.views import Admin
from tests.support import Process, Twistd, free_port, run, script
from tests.workers import is_running, standing_still, workers_of

#: Until the proxy gives up draining, in seconds: longer than any packet has, so that it never does.
DRAIN_TIMEOUT = 10.0
#: Until a signal is seen to have had its effect, in seconds.
PATIENCE = 10.0
#: Seconds between two looks.
LOOK = 0.02
#: What the log says of a SIGHUP.
RELOADS = "Received SIGHUP: reading files again"
#: The name of the file that has the key of the audit trails.
AUDIT_KEY = "audit.key"


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
    """The proxy, over all its lives, which have one port, and one more to show themselves.

    :param proxy: how it is set up.
    :param folder: where its files go.
    """

    def __init__(self, proxy: Proxy, folder: Path) -> None:
        self.port = free_port()
        self.admin_port = free_port()
        self.admin = Admin(self.admin_port)
        self.lives: list[ProxyLife] = []
        self._proxy = proxy
        self._folder = folder
        self._process = Twistd(
            "rproxy",
            *("--listen", f"tcp:{self.port}:interface=127.0.0.1"),
            *("--timeout", str(TIMEOUT), "--queue-timeout", str(QUEUE_TIMEOUT)),
            *("--connect-timeout", "1", "--drain-timeout", str(DRAIN_TIMEOUT)),
            *("--admin", str(self.admin_port)),
            *self._further(),
            # What a parent that is killed leaves behind.
            env={"RUNTIME_DIRECTORY": str(folder)},
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
        """Send SIGKILL; returns the life when it is over, and workers without a parent have left."""
        life = self._told()
        workers = workers_of(self._process.pid).values()
        life.exit_code = await asyncio.to_thread(self._process.kill)
        while any(map(is_running, workers)) and time.monotonic() < life.told_at + DRAIN_TIMEOUT:
            await asyncio.sleep(LOOK)
        life.orphans = sum(map(is_running, workers))
        return self._over(life)

    async def reload(self) -> str:
        """Send SIGHUP, and return what the log says of it."""
        before = self.log.count(RELOADS)
        self._process.send_signal(signal.SIGHUP)
        return RELOADS if await _wait_for(lambda: self.log.count(RELOADS) > before) else ""

    async def kill_worker(self, number: int) -> tuple[frozenset[int], str]:
        """Send SIGKILL to a worker.

        :returns: when it was replaced; the ports of those that were connected to it, and what the log says then.
        """
        pid = workers_of(self._process.pid)[number]
        back = f"Worker {number} is back"
        before = self.log.count(back)
        # Whom it has connections with is known for sure only when it doesn't run any more.
        with standing_still(pid):
            ports = ports_of_peers(pid, self.port)
            os.kill(pid, signal.SIGKILL)
        return ports, back if await _wait_for(lambda: self.log.count(back) > before) else ""

    async def stop_worker(self, number: int, seconds: float) -> frozenset[int]:
        """Send SIGSTOP to a worker, and SIGCONT so much later; returns the ports of those that were connected to it."""
        pid = workers_of(self._process.pid)[number]
        with standing_still(pid):
            ports = ports_of_peers(pid, self.port)
            await asyncio.sleep(seconds)
        return ports

    @property
    def serving(self) -> dict[int, int]:
        """The process ids of those that accept, by their number from 1."""
        return workers_of(self._process.pid) if self._proxy.workers > 1 else {1: self._process.pid}

    def verify_trails(self) -> dict[str, str]:
        """Return what is wrong with each audit trail; see :attr:`History.trails`."""
        key = ("--audit-key", str(self._folder / AUDIT_KEY))
        found = {}
        for trail in sorted(self._folder.glob("audit*.log")):
            done = run([*script("rproxy"), "audit", "verify", *key, str(trail)])
            found[trail.name] = f"{done.stdout}{done.stderr}" if done.returncode else ""
        return found

    def abandon(self) -> None:
        """Send SIGKILL, if it is still there."""
        self._process.kill()

    def open_files(self) -> Counter[str]:
        """Return what it has open now, all its processes together."""
        pids = {self._process.pid, *self.serving.values()}
        return sum((open_files(pid, self.port) for pid in pids), Counter())

    def has_opened_files(self) -> bool:
        """Whether those that accept have opened the files that they keep open, and closed what that took."""
        kept = ["audit*.log"] * self._proxy.audit + ["*.sqlite-shm"] * (self._proxy.durable or self._proxy.workers > 1)
        return all(
            all(has_open(pid, pattern) for pattern in kept) and not has_open(pid, "*.sqlite-lock")
            for pid in self.serving.values()
        )

    @property
    def log(self) -> str:
        """What the life that it has, or had last, wrote so far."""
        return self._process.log

    def _further(self) -> list[str]:
        """Return the options for how it is set up, and make the files that they name."""
        proxy, folder = self._proxy, self._folder
        options = ["--workers", str(proxy.workers)]
        if proxy.durable:
            options += ["--registry", f"sqlite:{folder / 'registry.sqlite'}"]
        if proxy.policies:
            retry = "retry = true\n" if proxy.retry else ""
            (folder / "policies.toml").write_text("".join(f"[policy.{policy}]\n{retry}" for policy in POLICIES))
            options += ["--policies", str(folder / "policies.toml")]
        elif proxy.retry:
            options += [option for policy in POLICIES for option in ("--retry", policy)]
        if proxy.audit:
            (folder / AUDIT_KEY).write_text("0123456789abcdef")
            (folder / AUDIT_KEY).chmod(0o600)
            options += ["--audit", str(folder / "audit.log"), "--audit-key", str(folder / AUDIT_KEY)]
        return options

    def _told(self) -> ProxyLife:
        life = self.lives[-1]
        life.told_at = time.monotonic()
        return life

    def _over(self, life: ProxyLife) -> ProxyLife:
        life.ended_at = time.monotonic()
        life.log = self._process.log
        return life


async def _wait_for(predicate: Callable[[], bool]) -> bool:
    """Return whether it became true."""
    deadline = time.monotonic() + PATIENCE
    while not predicate() and time.monotonic() < deadline:
        await asyncio.sleep(LOOK)
    return predicate()


def _end(process: Process) -> int:
    """Have a process end by SIGTERM, and return its exit code; that of SIGKILL if it didn't in time."""
    try:
        return process.stop()
    except AssertionError:
        return -signal.SIGKILL
