"""What an idle client connection costs in memory."""

from __future__ import annotations

import time

from bench.gauges import open_files, own_memory
from bench.processes import PATIENCE, POLL, Failure
from bench.stage import HAPROXY_HTTP, RPROXY, Bench, Layout, Stage, max_clients, open_stage
from bench.tables import Row

#: Seconds without a change.
SETTLED = 0.2


def measure(bench: Bench) -> list[Row]:
    """Measure rproxy and HAProxy with many clients: such as never sent anything, and such as have sent a message."""
    clients = min(bench.plan.idle_clients, max_clients())
    if clients < bench.plan.idle_clients:
        bench.note(f"memory: measured over {clients} clients, as the limit of open files leaves no room for more")
    return [
        _measure_one(bench, who, clients, used)
        for who in bench.present([RPROXY, HAPROXY_HTTP])
        for used in (False, True)
    ]


def _measure_one(bench: Bench, who: str, clients: int, used: bool) -> Row:
    with open_stage(bench, Layout(), [who]) as stage:
        files = open_files(stage.pid(who))
        # Whatever it only needs once, it has then.
        stage.measure(who, 0.3, connections=50)
        _wait_until_settled(stage, who)
        before = own_memory(stage.pid(who))
        load = stage.start_load(who, seconds=2 * PATIENCE, connections=1, rate=10, idle=clients, used=used)
        load.wait_for("^measuring$")
        _wait_until_settled(stage, who, files + clients)
        after = own_memory(stage.pid(who))
        load.stop()
    row = {"who": who, "clients": clients, "sent": "a message" if used else "nothing", "before": before, "after": after}
    row["bytes_each"] = (after - before) / clients
    bench.say(f"memory, {who}, {clients} clients that have sent {row['sent']}: {row['bytes_each']:.0f} bytes each")
    return row


def _wait_until_settled(stage: Stage, who: str, least: int = 0) -> None:
    """Wait until all connections are accepted, and those that are over closed: it has so many files, and no others."""
    deadline = time.monotonic() + PATIENCE
    files, since = 0, time.monotonic()
    while files < least or time.monotonic() < since + SETTLED:
        if time.monotonic() > deadline:
            raise Failure(f"{who} has {files} open files and doesn't come to rest with {least} or more")
        now = open_files(stage.pid(who))
        if now != files:
            files, since = now, time.monotonic()
        time.sleep(POLL)
