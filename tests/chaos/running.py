"""Has a plan carried out: starts everything, sends, strikes, waits until all is quiet, and hands back the history."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

from tests.chaos import clients, plan
from tests.chaos.faultserver import register_classic
from tests.chaos.history import Connection, History, Incident, Reading
from tests.chaos.openfiles import ports_of_peers
from tests.chaos.oracle import SLACK, unexplained
from tests.chaos.plan import OF_PROXY, OF_WORKER, ORDERED, Event, Fault, Kind, Plan
from tests.chaos.processes import LOOK, ProxyProcess, ServerProcess
from tests.chaos.report import command
from tests.chaos.rollcall import RollCall
from tests.chaos.views import AwayError, known_to, unanswered
from tests.workers import standing_still

#: Seconds until every server is registered, and until all is quiet in the end.
PATIENCE = 15.0
#: Seconds between two looks at what the proxy shows while packets go.
INTERVAL = 0.2
#: Seconds until it has shown itself in all ways without anything happening meanwhile: a few commands have to start.
PATIENCE_TO_LOOK = 60.0

_SETUP = re.compile(r"Received setup message from server id (\S+) ip \S+ privacy policy (\S+) ")


def run(each: Plan, folder: Path, visit: Callable[[int], object] | None = None) -> History:
    """Carry out a plan.

    :param folder: where journals go; an empty one.
    :param visit: called in a thread with the port of the proxy's admin listener, when all is quiet.
    :raises BaseExceptionGroup: it couldn't be carried out, as where a process doesn't start.
    """
    try:
        return asyncio.run(_Run(each, folder).run(visit))
    except BaseException as error:
        error.add_note(f"This was seed {each.seed}; again: {command(each)}")
        raise


class _Run:
    def __init__(self, each: Plan, folder: Path) -> None:
        self._plan = each
        self._proxy = ProxyProcess(each.proxy, folder)
        self._servers = {one.server_id: ServerProcess(one, self._proxy.port, folder) for one in each.servers}
        self._clients = {one.client_id: self._client(one) for one in each.clients}
        self._history = History(
            each,
            ports={server_id: server.port for server_id, server in self._servers.items()},
            proxies=self._proxy.lives,
        )
        #: When all answers have come.
        self._is_over = asyncio.Event()
        #: Only one fault of the proxy at a time, and of each worker.
        self._proxy_is_there = asyncio.Lock()
        self._worker_is_there = {number: asyncio.Lock() for number in range(1, each.proxy.workers + 1)}

    async def run(self, visit: Callable[[int], object] | None) -> History:
        # Each process may be waited for at a time, and looked at besides.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(len(self._servers) + 3))
        try:
            await self._start()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._look_on())
                await self._disturb()
                self._is_over.set()
            await self._until(self._quiet)
            await self._call_roll()
            await self._look()
            if visit is not None:
                await asyncio.to_thread(visit, self._proxy.admin_port)
            await self._stop()
        finally:
            self._proxy.abandon()
            for server in self._servers.values():
                server.abandon()
        return self._history

    async def _start(self) -> None:
        await self._proxy.start()
        await self._until(self._proxy.has_opened_files)
        self._history.open_at_start = self._proxy.open_files()
        async with asyncio.TaskGroup() as starting:
            for server in self._servers.values():
                starting.create_task(server.start())
        await self._until(self._all_registered)

    async def _disturb(self) -> None:
        """Have the clients send and the faults strike; returns when all answers have come, or are overdue."""
        self._history.began = time.monotonic()
        async with asyncio.TaskGroup() as going_on:
            for client in self._clients.values():
                going_on.create_task(client.run(self._until_time))
            for event in self._plan.events:
                going_on.create_task(self._strike(event))
        await asyncio.gather(*(client.finish() for client in self._clients.values()))

    async def _look_on(self) -> None:
        """See what the proxy shows again and again, whoever is away or stands still."""
        while not self._is_over.is_set():
            life = len(self._proxy.lives) - 1
            with suppress(AwayError):
                figures = await asyncio.to_thread(self._proxy.admin.figures)
                # There may be another one by now.
                if life == len(self._proxy.lives) - 1:
                    self._history.readings.append(Reading(time.monotonic(), life, figures))
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._is_over.wait()

    async def _look(self) -> None:
        """See what it shows in the end, in all ways, when nothing happens between the first look and the last."""
        deadline = time.monotonic() + PATIENCE_TO_LOOK
        while time.monotonic() < deadline:
            # Nobody answers while all workers have more to do than they can.
            with suppress(AwayError):
                views = self._history.views = await asyncio.to_thread(self._proxy.admin.look)
                if views.still and not unanswered(views.after):
                    return

    async def _call_roll(self) -> None:
        """Ask for each policy through each worker, until every server has answered."""
        for number, pid in self._proxy.serving.items():
            roll = RollCall(self._plan, number, self._open_record)
            self._history.roll[number] = roll.present
            others = [other for other in self._proxy.serving.values() if other != pid]
            with standing_still(*others):
                await roll.connect(self._proxy.port, partial(ports_of_peers, pid, self._proxy.port))
            await roll.call(PATIENCE)

    async def _stop(self) -> None:
        """Have the servers go gently, then the proxy; those of the old kind don't know how to."""
        gentle = [server for server in self._servers.values() if server.server.kind is not Kind.CLASSIC]
        codes = await asyncio.gather(*(server.end() for server in gentle))
        for server, code in zip(gentle, codes, strict=True):
            self._history.exit_codes[server.server.server_id] = code
        await self._proxy.end()
        self._history.trails = await asyncio.to_thread(self._proxy.verify_trails)
        for server_id, server in self._servers.items():
            if server not in gentle:
                await server.kill()
            self._history.logs[server_id] = server.log
            self._history.receipts += server.receipts()

    # Faults.

    async def _strike(self, event: Event) -> None:
        await self._until_time(event.at)
        incident = Incident(event, began=time.monotonic())
        self._history.incidents.append(incident)
        if event.fault in OF_PROXY:
            incident.evidence = await self._strike_proxy(event)
        elif event.fault in OF_WORKER:
            await self._strike_worker(incident)
        elif event.fault is Fault.RELOAD:
            async with self._proxy_is_there:
                incident.evidence = await self._proxy.reload()
        elif event.fault is Fault.VANISH:
            unanswered = await self._clients[event.whom].vanish(event.form)
            incident.evidence = f"{unanswered} unanswered" if unanswered else ""
        else:
            incident.evidence = await self._strike_server(event, self._servers[event.whom])
        incident.ended = incident.ended or time.monotonic()

    async def _strike_proxy(self, event: Event) -> str:
        async with AsyncExitStack() as stack:
            for lock in (self._proxy_is_there, *self._worker_is_there.values()):
                await stack.enter_async_context(lock)
            life = await (self._proxy.kill() if event.fault is Fault.PROXY_KILL else self._proxy.end())
            await asyncio.sleep(event.seconds)
            await self._proxy.start()
            # Only then is it there: it says that it runs a little before it does.
            if self._plan.proxy.durable:
                await RollCall(self._plan, 0, self._open_record).ask_anything(self._proxy.port)
            else:
                await asyncio.to_thread(self._register_classic)
                await self._until(self._classic_registered)
                await self._until_shared()
            return f"exit code {life.exit_code}"

    async def _strike_worker(self, incident: Incident) -> None:
        event = incident.event
        number = int(event.whom.removeprefix("worker "))
        async with self._worker_is_there[number]:
            incident.began = time.monotonic()
            incident.proxy = len(self._proxy.lives) - 1
            if event.fault is Fault.WORKER_KILL:
                incident.ports, incident.evidence = await self._proxy.kill_worker(number)
            else:
                incident.ports = await self._proxy.stop_worker(number, event.seconds)
                incident.evidence = "stopped"
            incident.ended = time.monotonic()

    def _register_classic(self) -> None:
        """Do what the operator has to when the proxy is back: servers of the old kind don't notice that it was gone."""
        for process in self._servers.values():
            server = process.server
            if server.kind is Kind.CLASSIC:
                register_classic(self._proxy.port, server.server_id, server.policies[0], process.port)

    async def _strike_server(self, event: Event, server: ServerProcess) -> str:
        if event.fault in ORDERED:
            server.order(event.order)
            return "ordered"
        if event.fault is Fault.STOP:
            state = await server.stop()
            await asyncio.sleep(event.seconds)
            server.resume()
            return "stopped" if state == "T" else ""
        if event.fault is Fault.KILL:
            code = await server.kill()
            await asyncio.sleep(event.seconds)
        else:
            code = await server.end()
            self._history.exit_codes[f"{event.whom}, told at {event.at:.2f} s"] = code
        await server.start()
        return f"exit code {code}"

    # Waiting.

    async def _until_time(self, at: float) -> None:
        await asyncio.sleep(max(0.0, self._history.began + at - time.monotonic()))

    async def _until(self, predicate: Callable[[], bool]) -> None:
        """Wait; what isn't so after all that time is for the oracle to tell."""
        deadline = time.monotonic() + PATIENCE
        while not predicate() and time.monotonic() < deadline:
            await asyncio.sleep(LOOK)

    async def _until_shared(self) -> None:
        """Wait until all workers know the classic servers: what only one knows may die with it."""
        classic = {server.server_id for server in self._plan.servers if server.kind is Kind.CLASSIC}
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(AwayError):
                figures = await asyncio.to_thread(self._proxy.admin.figures)
                if classic <= known_to(figures, self._plan.proxy.workers):
                    return
            await asyncio.sleep(LOOK)

    def _all_registered(self) -> bool:
        return self._registered(*Kind)

    def _classic_registered(self) -> bool:
        return self._registered(Kind.CLASSIC)

    def _registered(self, *kinds: Kind) -> bool:
        """Whether the proxy, in the life that it has, has heard of all servers of these kinds."""
        servers = [server for server in self._plan.servers if server.kind in kinds]
        wanted = {(server.server_id, policy) for server in servers for policy in server.policies}
        return wanted <= set(_SETUP.findall(self._proxy.log))

    def _quiet(self) -> bool:
        # What is judged in the end is what was looked at last: a moment later there may be a probe of a server.
        self._history.open_at_end = self._proxy.open_files()
        return not unexplained(self._history, self._history.open_at_end)

    def _open_record(self, client_id: str) -> Connection:
        record = Connection(client_id, len(self._proxy.lives) - 1)
        self._history.connections.append(record)
        return record

    def _client(self, client: plan.Client) -> clients.Client:
        drafts = self._plan.drafts(client)
        bursts = self._plan.bursts(client, drafts)
        patience = plan.TIMEOUT + SLACK
        open_record = partial(self._open_record, client.client_id)
        return clients.Client(self._proxy.port, drafts, bursts, client.single, open_record, patience)
