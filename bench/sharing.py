"""How long until another process knows of a server, from its setup packet on: with a packet that asks, and without.

A server registers at one process, and has a policy of its own. As soon as that is acknowledged, a packet of the policy
goes to another process. What counts is the time until its answer came from the server, refusals and further attempts
included. The same with another server and no packet: until the other process says that it found it.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.gauges import connections, family, parse_report, quantile
from bench.namespaces import Host, join, obstacle
from bench.processes import PATIENCE, Child, Children, Failure, Tail
from bench.redis import Redis
from bench.stage import Bench, Target, await_rproxy, launch_rproxy, stop_rproxies
from bench.tables import Row
from bench.talk import Talk

#: Seconds; long enough for all that is done here.
LEASE = 3600.0
#: Seconds between two looks at a log.
LOOK = 0.0005
#: Seconds before each registration, at most: what is done at regular times must not get into step with them.
PAUSE = 0.1
ADDRESSES = "10.77.0.1", "10.77.0.2"


@dataclass(frozen=True)
class Pair:
    """Two processes that share registrations.

    :ivar registering: a connection to the one; ``asking``: to the other.
    :ivar port: of the server; it answers any of the policies.
    :ivar listening: whose log has the other's lines.
    :ivar proxies: all there are.
    """

    registering: Talk
    asking: Talk
    port: int
    listening: Child
    proxies: Sequence[Child]


def measure(bench: Bench) -> list[Row]:
    """Measure all kinds of neighbours that there can be here."""
    return [measure_pair(bench, name, open_pair) for name, open_pair in _kinds(bench)]


def _kinds(bench: Bench) -> Iterator[tuple[str, Callable[[Bench, Children], Pair]]]:
    yield "worker, --workers 2", _two_workers
    yield "process, sqlite:", two_files
    if bench.redis is None:
        return
    yield "process, redis:", _two_processes
    if reason := obstacle():
        bench.note(f"sharing: another host is left out, as {reason}")
    else:
        yield "host, redis:", _two_hosts


def measure_pair(bench: Bench, name: str, open_pair: Callable[[Bench, Children], Pair]) -> Row:
    with Children() as children, _closing(open_pair(bench, children)) as pair:
        asked = [_ask(pair, number) for number in range(bench.plan.sharings)]
        unasked = [_listen(pair, number) for number in range(bench.plan.sharings, 2 * bench.plan.sharings)]
        if ended := children.failures():
            raise Failure(ended)
        stop_rproxies(pair.proxies)
    row: Row = {"other": name, "count": len(asked)}
    acknowledged, answered = ([times[place] for times in asked] for place in (0, 1))
    row |= {"acknowledged": median(acknowledged)}
    for what, times in (("answered", answered), ("found", unasked)):
        row |= {what: median(times), f"{what}_p99": quantile(times, 0.99)}
    row["refusals"] = sum(refusals for _, _, refusals in asked)
    bench.say(f"sharing, {name}: {row['answered'] * 1e3:.1f} ms, without asking {row['found'] * 1e3:.1f} ms")
    return row


@contextmanager
def _closing(pair: Pair) -> Iterator[Pair]:
    try:
        yield pair
    finally:
        pair.registering.close()
        pair.asking.close()


def _ask(pair: Pair, number: int) -> tuple[float, float, int]:
    """Seconds until a server is registered, and until it answers a packet, and how often that was refused before."""
    policy, payload = str(111 * (number + 1)), f"c{number}"
    time.sleep(random.random() * PAUSE)
    begin = time.perf_counter()
    pair.registering.register("s1", policy, pair.port, LEASE)
    acknowledged = time.perf_counter() - begin
    packet = {"type": "0", "srcid": payload, "privPoliId": policy, "payload": payload}
    refusals = 0
    while True:
        answer = pair.asking.ask(packet)
        answered = time.perf_counter() - begin
        if (answer["type"], answer["srcid"], answer["destid"], answer["payload"]) == ("2", "s1", payload, payload):
            return acknowledged, answered, refusals
        if answer.get("error") != "no-server" or answered > PATIENCE:
            raise Failure(f"wrong answer to a packet of policy {policy}: {answer}; {pair.listening.log[-400:]}")
        refusals += 1


def _listen(pair: Pair, number: int) -> float:
    """Seconds until a server that is registered is found by the other process."""
    policy = str(111 * (number + 1))
    time.sleep(random.random() * PAUSE)
    tail = Tail(pair.listening)
    found = re.compile(rf"Found in the registry: .* privacy policy {policy} ")
    begin = time.perf_counter()
    pair.registering.register("s1", policy, pair.port, LEASE)
    while not found.search(tail.read()):
        if time.perf_counter() > begin + PATIENCE:
            raise Failure(f"a registration for policy {policy} isn't heard of: {pair.listening.log[-400:]}")
        time.sleep(LOOK)
    return time.perf_counter() - begin


def _serve(bench: Bench, children: Children, *words: str, host: Host | None = None) -> int:
    """Start a server that answers for all policies, and return its port."""
    argv: list[str | Path] = [*(host.command if host else []), bench.programs / "servers", "count=1", "groups=1"]
    child = children.start("the pool server", [*argv, f"policies={2 * bench.plan.sharings}", *words])
    child.wait_for(r"^\{.*\}$")
    return int(parse_report(child.log)["ports"][0])


def _two_workers(bench: Bench, children: Children) -> Pair:
    proxy = await_rproxy(launch_rproxy(bench, children, "rproxy --workers 2", ["--workers", "2"]))
    one, other = family(proxy.child.pid)[1:]
    registering = _talk_to(proxy, one)
    return Pair(registering, _talk_to(proxy, other), _serve(bench, children), proxy.child, [proxy.child])


def _talk_to(proxy: Target, worker: int) -> Talk:
    """Connect until one certain worker accepts; the other's connections stay meanwhile, so that it has less time."""
    others: list[Talk] = []
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            talk = Talk("127.0.0.1", proxy.port)
            # Once it is answered, somebody has accepted it.
            talk.ask({"type": "0", "srcid": "c0", "privPoliId": "nobody", "payload": ""})
            if (proxy.port, talk.own_port) in connections(worker):
                return talk
            others.append(talk)
        raise Failure("one of two workers accepts no connections")
    finally:
        for other in others:
            other.close()


def two_files(bench: Bench, children: Children) -> Pair:
    return _two_with(bench, children, f"sqlite:{children.folder / 'registrations'}")


def _two_processes(bench: Bench, children: Children) -> Pair:
    return _two_with(bench, children, Redis(bench, children).url)


def _two_with(bench: Bench, children: Children, url: str) -> Pair:
    started = [launch_rproxy(bench, children, "rproxy", ["--registry", url]) for _ in range(2)]
    one, other = (await_rproxy(child) for child in started)
    registering, asking = (Talk("127.0.0.1", proxy.port) for proxy in (one, other))
    return Pair(registering, asking, _serve(bench, children), other.child, started)


def _two_hosts(bench: Bench, children: Children) -> Pair:
    """One host has the server, the Redis and the process where it registers, the other host the other process."""
    hosts = [Host(address) for address in ADDRESSES]
    try:
        join(*hosts)
        redis = Redis(bench, children, hosts[0].address, hosts[0].within, hosts[0].command)
        options = ["--registry", redis.url]
        started = [launch_rproxy(bench, children, "rproxy", options, host.address, host.command) for host in hosts]
        proxies = [await_rproxy(child) for child in started]
        talks = [Talk(host.address, proxy.port, host.within) for host, proxy in zip(hosts, proxies, strict=True)]
        port = _serve(bench, children, "anywhere=1", host=hosts[0])
        return Pair(talks[0], talks[1], port, proxies[1].child, started)
    finally:
        # What runs in them keeps them.
        for host in hosts:
            host.close()
