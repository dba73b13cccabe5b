"""What a second worker costs and brings: the shapes of traffic through two, beside the same proxy with one.

Both have the clients and the pool servers on the same processors. So two workers can only be faster where those leave
something over; what they take for a message, all together with their parent, can be compared on any machine. With all
of it on one processor nobody can be faster by having more of them, and what is left is what two cost.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from bench.gauges import Sample, connections, family, parse_report, processor_time
from bench.processes import PATIENCE, POLL, Child, Failure
from bench.shapes import SHAPES, Shape, alternate, compare
from bench.stage import RPROXY, RPROXY_WORKERS, Bench, Layout, Stage, open_stage
from bench.tables import Row


def measure(bench: Bench) -> list[Row]:
    """Measure both in each shape, on all processors and on one, the rounds alternating between them."""
    everywhere = os.sched_getaffinity(0)
    places = {"all": everywhere, "one": {min(everywhere)}}
    rows = []
    for shape in SHAPES:
        for name, processors in places.items():
            with _confined(processors):
                rows.append(_measure_shape(bench, shape, name))
    return rows


@contextmanager
def _confined(processors: set[int]) -> Iterator[None]:
    """This process, and what it starts, has these processors and no others."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _measure_shape(bench: Bench, shape: Shape, place: str) -> Row:
    contestants = [RPROXY, RPROXY_WORKERS]
    shares: list[dict[str, float | None]] = []
    with open_stage(bench, Layout(), contestants) as stage:

        def run(who: str) -> Sample:
            if who == RPROXY:
                return stage.measure(who, bench.plan.seconds, **shape.options)
            sample, share = measure_spread(stage, bench.plan.seconds, shape)
            shares.append(share)
            return sample

        samples = alternate(
            contestants,
            bench.plan.rounds,
            run,
            lambda line: bench.say(f"workers, {shape.name}, processors: {place}, {line}"),
        )
    one, two = compare(samples)
    row = {"shape": shape.name, "processors": place, "one": one["micros"], "two": two["micros"]}
    row["more"] = median(b.micros / a.micros for a, b in zip(samples[RPROXY], samples[RPROXY_WORKERS], strict=True))
    row |= {"rate_one": one["rate"], "rate_two": two["rate"]}
    row |= {f"busy_{name}": _busy(samples[who]) for name, who in (("one", RPROXY), ("two", RPROXY_WORKERS))}
    row["rounds"] = {"one": one["rounds"], "two": two["rounds"], "shares": shares}
    for what in ("connections", "messages", "time"):
        found = [value for share in shares if (value := share[what]) is not None]
        row[f"share_{what}"] = median(found) if found else None
    return row


def _busy(samples: list[Sample]) -> float:
    return median(sample.cpu_seconds / sample.seconds for sample in samples)


def measure_spread(stage: Stage, seconds: float, shape: Shape) -> tuple[Sample, dict[str, float | None]]:
    """Measure two workers, and how much the one had that had more: of the connections, of the messages, of the time.

    Connections that last for one message can't be counted one by one, but there are as many as messages.
    """
    workers = family(stage.pid(RPROXY_WORKERS))[1:]
    servers, port = stage.servers[RPROXY_WORKERS], stage.targets[RPROXY_WORKERS].port
    before, used = ask_servers(servers), [processor_time(pid) for pid in workers]
    load = stage.start_load(RPROXY_WORKERS, seconds=seconds, **shape.options)
    load.wait_for("^measuring$")
    clients = [sum(own == port for own, _ in connections(pid)) for pid in workers]
    sample = stage.finish_load(RPROXY_WORKERS, load, seconds)
    used = [processor_time(pid) - time for pid, time in zip(workers, used, strict=True)]
    after = ask_servers(servers)
    ports = [{str(own) for own, _ in connections(pid)} for pid in workers]
    messages = [sum(after[name] - before.get(name, 0) for name in after if name in theirs) for theirs in ports]
    total = sum(after.values()) - sum(before.values())
    if sum(messages) != total:
        raise Failure(f"servers had {total} packets, and {sum(messages)} of them came from the workers that there are")
    each = {"connections": None if "one_shot" in shape.options else clients, "messages": messages, "time": used}
    return sample, {what: None if had is None else max(had) / sum(had) for what, had in each.items()}


def ask_servers(servers: Child) -> dict[str, int]:
    """Ask the pool servers how many packets came from which port of the proxy's.

    :raises Failure: they don't say.
    """
    reports = len(re.findall(r"^\{.*\}$", servers.log, re.MULTILINE))
    servers.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + PATIENCE
    while len(re.findall(r"^\{.*\}$", servers.log, re.MULTILINE)) == reports:
        if servers.code is not None or time.monotonic() > deadline:
            raise Failure(f"the pool servers don't say what they had: {servers.log[-400:]}")
        time.sleep(POLL)
    return parse_report(servers.log)
