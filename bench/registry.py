"""Many proxies that share registrations by one Redis: what that takes when nothing but renewals happens, and how soon
all others know that a server, or a proxy, is gone.

The servers are made of a registration and its connection; they are never asked for anything. Each is registered at one
of the proxies, as ``--revproc`` with one proxy does it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from bench.gauges import parse_report, processor_time, quantile
from bench.processes import PATIENCE, Child, Children, Failure, Tail
from bench.redis import Redis
from bench.stage import Bench, Target, await_rproxy, launch_rproxy, stop_rproxies
from bench.tables import Row
from bench.talk import Talk

POLICIES = 100
#: Seconds from one look at the logs to the next.
LOOK = 0.001
#: Seconds for all proxies to have heard of all servers, and for what that left to do.
CALM = 2.0
MEMORY = "memory:"
REDIS = "redis:"


@dataclass(frozen=True)
class Group:
    """Proxies that run, and where they keep registrations."""

    bench: Bench
    children: Children
    proxies: list[Target]
    redis: Redis | None

    def register(self) -> Child:
        """Have all servers registered, and known to all."""
        plan = self.bench.plan
        ports = ",".join(str(proxy.port) for proxy in self.proxies)
        tails = [Tail(proxy.child) for proxy in self.proxies]
        words = [f"count={plan.registrants}", f"proxies={ports}", f"lease={plan.lease}", f"policies={POLICIES}"]
        child = self.children.start("the servers", [self.bench.programs / "registrants", *words])
        child.wait_for("^registered$", 2 * PATIENCE)
        if self.redis is not None:
            _wait_for_all(tails, r"Found in the registry: server id (r\d+) ", self._of_others())
        time.sleep(CALM)
        return child

    def _of_others(self) -> list[set[str]]:
        """For each proxy the servers that are registered elsewhere."""
        count = len(self.proxies)
        names = [f"r{number + 1}" for number in range(self.bench.plan.registrants)]
        return [{name for place, name in enumerate(names) if place % count != own} for own in range(count)]


@dataclass(frozen=True)
class Reading:
    """What has been so far."""

    when: float
    renewals: int
    proxies: list[float]
    redis: dict[str, float]


def measure(bench: Bench) -> list[Row]:
    """Measure nothing but the proxies, and all servers with and without a Redis."""
    if bench.redis is None:
        return []
    with open_group(bench, shared=False) as group:
        rows = [measure_rounds(group, MEMORY, group.register())]
    with open_group(bench, shared=True) as group:
        time.sleep(CALM)
        rows.append(measure_rounds(group, REDIS, None))
        rows.append(measure_rounds(group, REDIS, group.register()))
    empty, full = rows[1:]
    # What a Redis does where nobody asks is no exchange's.
    more = {key: full[key] - empty[key] for key in ("redis_busy", "exchanges")}
    full["redis_micros"] = more["redis_busy"] * 1e6 / more["exchanges"]
    full["redis_bytes_each"] = (full["redis_memory"] - empty["redis_memory"]) / bench.plan.registrants
    return rows


def measure_deaths(bench: Bench) -> list[Row]:
    """Measure how soon all others know that one is gone."""
    if bench.redis is None:
        return []
    with open_group(bench, shared=True) as group:
        group.register()
        return [measure_servers(group), measure_proxy(group)]


@contextmanager
def open_group(bench: Bench, *, shared: bool) -> Iterator[Group]:
    with Children() as children:
        redis = Redis(bench, children) if shared else None
        options = ["--registry", redis.url] if redis is not None else []
        started = [launch_rproxy(bench, children, f"proxy {number}", options) for number in range(bench.plan.proxies)]
        group = Group(bench, children, [await_rproxy(child) for child in started], redis)
        yield group
        if ended := children.failures():
            raise Failure(ended)
        stop_rproxies([proxy.child for proxy in group.proxies])


def measure_rounds(group: Group, store: str, servers: Child | None) -> Row:
    plan = group.bench.plan
    rounds = []
    for _ in range(plan.registry_rounds):
        before = _read(group, servers)
        time.sleep(plan.registry_seconds)
        rounds.append(_compare(before, _read(group, servers)))
    row: Row = {key: median(one[key] for one in rounds) for key in rounds[0]}
    row |= {"store": store, "servers": plan.registrants if servers else 0, "rounds": rounds}
    row["proxies"] = len(group.proxies)
    told = ", ".join(f"{key} {row[key]:.4g}" for key in rounds[0])
    group.bench.say(f"registry, {store} {row['servers']} servers: {told}")
    return row


def _read(group: Group, servers: Child | None) -> Reading:
    report = {"renewals": 0, "lost": 0} if servers is None else parse_report(servers.log)
    if report["lost"]:
        raise Failure(f"{report['lost']} servers lost their connection")
    return Reading(
        time.monotonic(),
        report["renewals"],
        [processor_time(proxy.child.pid) for proxy in group.proxies],
        {} if group.redis is None else group.redis.info(),
    )


def _compare(before: Reading, after: Reading) -> dict[str, float]:
    seconds = after.when - before.when
    busy = [(late - early) / seconds for early, late in zip(before.proxies, after.proxies, strict=True)]
    found = {"renewals": (after.renewals - before.renewals) / seconds}
    found |= {"proxy_busy": median(busy), "proxy_busy_most": max(busy)}
    if after.redis:
        new = {key: after.redis[key] - before.redis.get(key, 0.0) for key in after.redis}
        found |= {"exchanges": new["calls_evalsha"] / seconds, "redis_busy": new["cpu_seconds"] / seconds}
        found["bytes_in"] = new["total_net_input_bytes"] / seconds
        found["bytes_out"] = (new["total_net_output_bytes"] - before.redis["info_bytes"]) / seconds
        found["redis_memory"] = after.redis["used_memory"]
    return found


def _wait_for_all(
    tails: Sequence[Tail], pattern: str, wanted: Iterable[set[str]], patience: float = 2 * PATIENCE
) -> list[dict[str, float]]:
    """For each log, when what the pattern's group finds in its lines was there, in the clock's seconds.

    :raises Failure: it isn't all there in time.
    """
    left = [set(names) for names in wanted]
    found: list[dict[str, float]] = [{} for _ in left]
    deadline = time.monotonic() + patience
    while any(left):
        for place, tail in enumerate(tails):
            lines = tail.read()
            now = time.monotonic()
            for name in re.findall(pattern, lines):
                if name in left[place]:
                    left[place].remove(name)
                    found[place][name] = now
        if time.monotonic() > deadline:
            raise Failure(f"{len(tails)} logs still don't say {pattern}, for so many: {[*map(len, left)]}")
        time.sleep(LOOK)
    return found


def measure_servers(group: Group) -> Row:
    """Close the connections of servers, one after the other."""
    times: list[float] = []
    for number in range(group.bench.plan.deaths):
        name, place = f"v{number}", number % len(group.proxies)
        tails = [Tail(proxy.child) for proxy in group.proxies if proxy is not group.proxies[place]]
        talk = Talk("127.0.0.1", group.proxies[place].port)
        # Below the ports of the others.
        talk.register(name, name, 9000 + number, group.bench.plan.lease)
        _wait_for_all(tails, rf"Found in the registry: server id ({name}) ", [{name}] * len(tails))
        times += _time_ends(tails, {name}, talk.close)
    return _row(group, "a server's connection is closed", times)


def measure_proxy(group: Group) -> Row:
    """Kill a proxy with all that is registered there."""
    count = len(group.proxies)
    killed, *others = group.proxies
    names = {f"r{number + 1}" for number in range(group.bench.plan.registrants) if number % count == 0}
    times = _time_ends([Tail(proxy.child) for proxy in others], names, killed.child.kill)
    return _row(group, "a proxy is killed, and never comes back", times)


def _time_ends(tails: Sequence[Tail], names: set[str], end: Callable[[], object]) -> list[float]:
    begin = time.monotonic()
    end()
    found = _wait_for_all(tails, r"Registration of server id (\w+) for .* ended", [names] * len(tails))
    return [when - begin for each in found for when in each.values()]


def _row(group: Group, what: str, times: Sequence[float]) -> Row:
    row: Row = {"what": what, "count": len(times), "least": min(times), "most": max(times)}
    row |= {"median": median(times), "p99": quantile(times, 0.99)}
    group.bench.say(f"deaths, {what}: {row['median']:.4f} s, {row['most']:.4f} s at most")
    return row
