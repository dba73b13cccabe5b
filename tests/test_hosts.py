"""Proxies that share a Redis, each process on a host of its own, while hosts, networks and clocks fail.

What holds in the end of every test, whatever happened in it: no server ever got a packet of a policy that it wasn't
registered for, and no process logged a fault but that the store is away. Where a test says nothing else, no client lost
a single packet.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from tests.hosts import AWAY, BACK, LEASE, Load, Server, Site, ended, found, wait_for_all
from tests.namespaces import Network, obstacle
from tests.redisserver import MISSING, RedisServer
from tests.support import PATIENCE, Twistd, data_packet, environment, wait_for

WHY = obstacle() or MISSING
pytestmark = pytest.mark.skipif(bool(WHY), reason=WHY)

#: Those that :meth:`Site.start` starts.
SERVERS: dict[str, tuple[str, ...]] = {"111": ("100", "101"), "222": ("200", "201")}
#: Seconds within which a server that is down is tried again, and has answered: docs/reference/protocol.rst, Probes.
PROBE = 60.0


class Start(Protocol):
    """How a server of either kind is started, and registered at a proxy."""

    def __call__(self, server_id: str, policy: str, proxy: str, /, *, port: int = 5000) -> Server: ...


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """The hosts of one test."""
    with Network() as network:
        site = Site(network, tmp_path)
        yield site
        site.finish()


def all_serve(loads: dict[tuple[str, str], Load], seconds: float = PATIENCE) -> None:
    """Wait until each server has answered each client of its policy."""
    for (_, policy), load in loads.items():
        load.goes_on(*SERVERS[policy], seconds=seconds)


def all_are_there(site: Site) -> None:
    """A proxy that is new, and so knows nothing but what is in the store, has every server's answers."""
    site.proxy("new")
    for policy, server_ids in SERVERS.items():
        site.load("new", policy).goes_on(*server_ids)


def until_past_leases(site: Site, proxy: str, known_from: str) -> Callable[[], object]:
    """Return what returns when any lease of now has run out for a proxy, even if that can't hear of it.

    There is no line for that of a server whose connections still stand. So there is one that has none, and whose lease
    is longer than the others' and isn't renewed. Should it run out too early, less is shown, and nothing fails.
    """
    site.register(known_from, "900", "999", 3 * LEASE)
    site.proxies[proxy].wait_for_log(found("900"))
    return lambda: site.proxies[proxy].wait_for_log(ended("900", "999"))


# While all is well.


def test_registered_at_one(site: Site) -> None:
    """Packets come by way of both, and a lease lasts also where it isn't renewed."""
    site.redis()
    site.start()
    loads = site.loads()
    until_past_leases(site, "a", known_from="b")()
    all_serve(loads)

    assert site.losses() == []
    for proxy in site.proxies.values():
        assert not re.search(ended("[12]0.", "..."), proxy.log)


def test_first_packet(site: Site) -> None:
    """One that comes by way of the other proxy, before that has heard anything, is served."""
    redis = site.redis()
    site.all_at_once(*(partial(site.proxy, name) for name in "ab"))
    kinds: list[tuple[str, Start]] = [("111", site.modern), ("222", site.classic)]
    for known, (policy, start) in enumerate(kinds):
        talk = site.talk("b")
        assert site.ask("b", policy) == "no-server, no"
        # It finds the packet and the note that something changed at the same time: it can only have asked.
        site.proxies["b"].send_signal(signal.SIGSTOP)
        start(f"{policy[0]}00", policy, "a")
        wait_for(partial(has_more_than, redis, known), PATIENCE, "the record")
        talk.send(data_packet("1", policy, f"{policy}.first"))
        site.proxies["b"].send_signal(signal.SIGCONT)
        assert talk.answer().get("srcid") == f"{policy[0]}00"


def has_more_than(redis: RedisServer, records: int) -> bool:
    """Whether there are more than so many in the store."""
    return int(redis.call("HLEN", "{rproxy}:records")) > records


# While the store is away.


def test_one_cut_from_the_store(site: Site) -> None:
    """Both serve what they know; what was said at either while they were apart holds at both afterwards."""
    site.redis()
    site.start()
    a, b = site.proxies["a"], site.proxies["b"]
    loads = site.loads()
    wait_until_past_leases = until_past_leases(site, "a", known_from="b")

    site.host("a").cut(site.host("store"))
    a.wait_for_log(AWAY)
    # The lease at a can't be renewed in the store, and a can't hear of those that others renew there.
    b.wait_for_log(ended("100", "111"))
    wait_until_past_leases()
    for (proxy, policy), load in loads.items():
        load.goes_on(*(["101"] if (proxy, policy) == ("b", "111") else SERVERS[policy]))
    site.modern("102", "111", "a")
    loads["a", "111"].goes_on("102")
    moved = site.classic("201", "222", "b", port=5001)
    wait_for(lambda: moved.got, PATIENCE, "a packet at the new port")
    assert site.losses() == []
    stop_leased(site, "101")
    b.wait_for_log(ended("101", "111"))
    loads["a", "111"].goes_on("100", "102")

    site.host("a").mend(site.host("store"))
    for line in BACK, ended("101", "111"), found("201", port=5001):
        a.wait_for_log(line)
    for (_, policy), load in loads.items():
        load.goes_on(*(["100", "102"] if policy == "111" else SERVERS[policy]))
    assert AWAY not in b.log
    # Of 111, b has no server from when the last one went until it heard of those that a has.
    losses = {load: load.losses for load in loads.values() if load.losses}
    assert set(losses) <= {loads["a", "111"], loads["b", "111"]}
    assert set(losses.get(loads["b", "111"], [])) <= {"no-server, no"}
    # And a hears of no drain, so it may write a packet to one that closes the connection just then.
    assert losses.get(loads["a", "111"], []) in ([], ["server-lost, unknown"])


def stop_leased(site: Site, server_id: str) -> None:
    """Stop a server in order."""
    (server,) = [each for each in site.servers if each.server_id == server_id]
    assert server.process.stop() == 0


def test_store_is_killed(site: Site) -> None:
    """It comes back empty, and all that any proxy knows is put there again."""
    redis = site.redis()
    site.start()
    loads = site.loads()
    redis.kill()
    wait_for_all([*site.proxies.values()], AWAY)
    all_serve(loads)
    redis.start()
    wait_for_all([*site.proxies.values()], BACK)
    all_are_there(site)
    all_serve(loads)
    assert site.losses() == []


def test_store_is_paused(site: Site) -> None:
    """When it goes on, all leases in it have run out; all are put there again."""
    redis = site.redis()
    site.start()
    loads = site.loads()
    wait_until_past_leases = until_past_leases(site, "a", known_from="b")
    redis.pause()
    wait_for_all([*site.proxies.values()], AWAY)
    wait_until_past_leases()
    all_serve(loads)
    redis.resume()
    wait_for_all([*site.proxies.values()], BACK)
    all_are_there(site)
    all_serve(loads)
    assert site.losses() == []


@pytest.mark.parametrize("how", ["killed", "unplugged"])
def test_another_master(site: Site, how: str) -> None:
    """Sentinel makes the replica the master, which may lack the latest changes; nothing that lives is lost."""
    # Without its replica it takes no changes, which would be lost.
    master = site.redis("store", "repl-diskless-sync-delay 0", "min-replicas-to-write 1")
    replica = site.redis("spare", f"replicaof {master.address} {master.port}", "repl-diskless-sync-delay 0")
    wait_for(lambda: "master_link_status:up" in replica.call("INFO", "replication"), PATIENCE, "the replica")
    sentinel = site.redis(
        "sentinel",
        f"sentinel monitor main {master.address} {master.port} 1",
        "sentinel down-after-milliseconds main 500",
        "sentinel failover-timeout main 3000",
        sentinel=True,
    )
    site.registry = f"redis+sentinel://{sentinel.address}:{sentinel.port}/main"
    wait_for(
        lambda: "master-link-status\nok" in sentinel.call("SENTINEL", "replicas", "main"), PATIENCE, "the sentinel"
    )
    site.start()
    loads = site.loads()

    if how == "killed":
        master.kill()
    else:
        site.host("store").unplug()
    wait_for_all([*site.proxies.values()], AWAY)
    wait_for(lambda: replica.call("ROLE").startswith("master"), PATIENCE, "another master")
    wait_for_all([*site.proxies.values()], BACK)
    all_are_there(site)
    all_serve(loads)
    assert site.losses() == []


# While others are.


def test_server_cut_from_one_proxy(site: Site) -> None:
    """That one sees it down and passes it over; the other serves by it; nobody forgets it."""
    site.redis()
    site.start("--connect-timeout", "0.5", "--timeout", "2")
    # It registers at both, and one of its leases ends.
    site.modern("102", "111", "a", "b")
    loads = site.loads()
    a, cut = site.host("a"), ("102", "201")
    a.cut(*(site.host(each) for each in cut))
    for each in cut:
        site.proxies["a"].wait_for_log(f"Server at {site.host(each).address} port 5000 is down")
    for (proxy, policy), load in loads.items():
        load.goes_on(*({"111": ("100", "101"), "222": ("200",)} if proxy == "a" else SERVERS)[policy])
    loads["b", "111"].goes_on("102")

    a.mend(*(site.host(each) for each in cut))
    all_serve(loads, seconds=PROBE)
    loads["a", "111"].goes_on("102", seconds=PROBE)
    assert not any(re.search(ended("...", "..."), process.log) for process in site.proxies.values())
    # A client has one packet on its way, and that may be at the server when it is cut.
    for (proxy, _), load in loads.items():
        assert load.losses in ([], ["timeout, unknown"] if proxy == "a" else [])


@pytest.mark.parametrize("hours", [5, -5])
def test_proxy_is_killed(site: Site, hours: int) -> None:
    """The leases that it held end at the other one, by nobody's clock but the store's; all else goes on there."""
    site.redis()
    site.start(env={"a": clock(site, hours)})
    b = site.proxies["b"]
    loads = {policy: site.load("b", policy) for policy in SERVERS}
    for policy, load in loads.items():
        load.goes_on(*SERVERS[policy])
    site.proxies["a"].kill()
    b.wait_for_log(ended("100", "111"))
    loads["111"].goes_on("101")
    loads["222"].goes_on("200", "201")
    # It comes back by itself.
    site.proxy("a", env=clock(site, hours))
    loads["111"].goes_on("100", "101")
    assert site.losses() == []
    assert not re.search(ended("(?:101|200|201)", "..."), b.log)


def clock(site: Site, hours: int) -> dict[str, str]:
    """Return variables with which Python's wall clock is ahead by so many hours."""
    folder = site.folder / f"clock{hours}"
    folder.mkdir(exist_ok=True)
    # Python imports it at its start.
    (folder / "sitecustomize.py").write_text(
        f"import time\nright = time.time\ntime.time = lambda: right() + {hours * 3600}\n"
    )
    return {"PYTHONPATH": f"{folder}:{environment()['PYTHONPATH']}"}


def test_clocks(site: Site) -> None:
    """A server that moves is reached where it registered last, whose clock is ahead or behind."""
    site.redis()
    site.start(env={"a": clock(site, 5), "b": clock(site, -7)})
    # Each line begins with the time.
    assert site.proxies["a"].log[:13] != site.proxies["b"].log[:13]
    loads = site.loads()

    def move(start: Start, policy: str, to: str, port: int) -> None:
        server_id = SERVERS[policy][0]
        moved = start(server_id, policy, to, port=port)
        for proxy in "ab":
            moved.gets(loads[proxy, policy])
        # Each client has one packet on its way, so by now none can be at the old port.
        *_, old, _ = [each for each in site.servers if each.server_id == server_id]
        old.process.kill()
        all_serve(loads)

    # Those that move are registered at a.
    for to, port in ("b", 5001), ("a", 5002):
        move(site.classic, "222", to, port)
        move(site.modern, "111", to, port)
    until_past_leases(site, "a", known_from="b")()
    assert site.losses() == []


# Who gets what.


def test_address_changes_hands(site: Site) -> None:
    """Also a proxy that can't hear of it writes nothing to whoever has it now.

    The server goes when its lease of that moment is over for this proxy. What was on its way to it just then may be
    lost, with its connection.
    """
    site.redis()
    site.start()
    a, b = site.proxies["a"], site.proxies["b"]
    loads = site.loads()
    wait_until_past_leases = until_past_leases(site, "b", known_from="a")
    site.host("b").cut(site.host("store"))
    b.wait_for_log(AWAY)
    wait_until_past_leases()
    loads["b", "111"].goes_on("100", "101")

    stop_leased(site, "100")
    a.wait_for_log(ended("100", "111"))
    site.classic("202", "222", "a", on="100")
    loads["a", "222"].goes_on("202")
    for (proxy, policy), load in loads.items():
        if (proxy, policy) != ("a", "111"):
            load.goes_on(SERVERS[policy][1])
    # It hasn't heard of this one, either.
    assert "202" not in loads["b", "222"].outcomes
    site.host("b").mend(site.host("store"))
    b.wait_for_log(BACK)
    loads["b", "222"].goes_on("200", "201", "202")
    loads["a", "111"].goes_on("101")
    loads["b", "111"].goes_on("101")
    losses = {load: load.losses for load in loads.values() if load.losses}
    assert set(losses) <= {loads["b", "111"]}
    assert losses.get(loads["b", "111"], []) in ([], ["server-lost, unknown"])


@pytest.mark.parametrize("when", ["noticed", "unnoticed"])
def test_address_changes_hands_within_the_lease(site: Site, when: str) -> None:
    """As far as the proxy that is cut off knows, the server is there. It asks before it connects, in vain."""
    site.redis()
    site.start()
    a, b = site.proxies["a"], site.proxies["b"]
    loads = site.loads()
    site.host("b").cut(site.host("store"))
    if when == "noticed":
        b.wait_for_log(AWAY)
    stop_leased(site, "100")
    a.wait_for_log(ended("100", "111"))
    site.classic("202", "222", "a", on="100")
    loads["a", "222"].goes_on("202")
    b.wait_for_log(ended("100", "111"))
    loads["b", "111"].goes_on("101")


POLICIES = """
[policy.111]
servers.ids = [{ids}]
[policy.222]
"""


def test_policies_of_each(site: Site) -> None:
    """What one proxy may not serve by, though it finds it in the store, another one may; until it may too."""
    site.redis()
    files = {name: site.folder / f"{name}.toml" for name in "ab"}
    files["a"].write_text(POLICIES.format(ids='"100"'))
    files["b"].write_text(POLICIES.format(ids='"100", "101"'))
    site.all_at_once(*(partial(site.proxy, name, "--policies", str(files[name])) for name in "ab"))
    a = site.proxies["a"]
    site.modern("100", "111", "a")
    forbidden = site.modern("101", "111", "b")
    loads = {name: site.load(name, "111") for name in "ab"}
    loads["b"].goes_on("100", "101")
    a.wait_for_log("Refused .* server id 101 ")
    loads["a"].goes_on()
    assert "101" not in loads["a"].outcomes

    reload(a, files["a"], '"100", "101"')
    loads["a"].goes_on("100", "101")
    reload(a, files["a"], '"100"')
    a.wait_for_log("Revoked the registration of server id 101")
    loads["a"].goes_on()
    since = len(loads["a"].outcomes)
    loads["b"].goes_on("100", "101")
    loads["a"].goes_on()
    assert "101" not in loads["a"].outcomes[since:]
    assert forbidden.got
    assert site.losses() == []


def reload(proxy: Twistd, policies: Path, ids: str) -> None:
    """Have the proxy read its policies anew."""
    before = proxy.log.count("Keeping to the policies")
    policies.write_text(POLICIES.format(ids=ids))
    proxy.send_signal(signal.SIGHUP)
    wait_for(lambda: proxy.log.count("Keeping to the policies") > before, PATIENCE, "the policies to be read")
