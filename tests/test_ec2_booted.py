"""The user data of ``etc/ec2/``, as it comes out of AWS, on instances that boot with it; and packets sent through them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import instances, machine, stacks
from tests.instances import Instance, make_wheels, wire
from tests.stacks import Stack

pytestmark = pytest.mark.timeout(machine.MAKING)

PROXY_ADDRESS, POOL_ADDRESS = "10.80.0.10", "10.80.0.20"
PROXY_ID, POOL_ID = "i-0aaaaaaaaaaaaaaaa", "i-0bbbbbbbbbbbbbbbb"
RPROXY = "/opt/rproxy/bin/rproxy"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if why := instances.obstacle():
        pytest.skip(why)
    return tmp_path_factory.mktemp("instances")


@pytest.fixture(scope="module")
def wheel(folder: Path) -> Path:
    return make_wheels(folder)


@pytest.fixture(scope="module")
def stack(wheel: Path) -> Iterator[Stack]:
    with stacks.cloud():
        yield Stack("rproxy.yaml", {"ReleaseWheel": f"s3://releases/{wheel.name}", "ProxyPort": "8100"})


@pytest.fixture(scope="module")
def pair(stack: Stack, wheel: Path, folder: Path) -> Iterator[tuple[Instance, Instance]]:
    """A proxy and a pool server, each made what it is by its own user data, in one network."""
    name = f"ec2-{stack.outputs['ProxyAddress'].replace('.', '-')}.compute-1.amazonaws.com"
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{PROXY_ADDRESS} {name}\n")
    proxy = Instance(
        "inadyn",
        ident=PROXY_ID,
        user_data=stack.user_data("ProxyGroup"),
        wheels=wheel.parent,
        folder=folder / "proxy",
    )
    pool = Instance(
        ident=POOL_ID,
        user_data=stack.user_data("PoolGroup"),
        wheels=wheel.parent,
        folder=folder / "pool",
        answers={
            "ec2-describe-instances": "2026-01-01T00:00:01+00:00\ti-0cccccccccccccccc\t0\n"
            f"2026-01-01T00:00:02+00:00\t{POOL_ID}\tNone\n"
        },
        files={"/etc/hosts": hosts},
    )
    with ExitStack() as entered:
        entered.enter_context(proxy)
        entered.enter_context(pool)
        wire({f"{PROXY_ADDRESS}/20": proxy, f"{POOL_ADDRESS}/20": pool})
        yield proxy, pool


def test_the_proxy_serves(pair: tuple[Instance, Instance], stack: Stack) -> None:
    """Its release comes from S3, though that fails at first; it takes the address, and the stack is told."""
    proxy, _ = pair
    lines = proxy.asked

    assert proxy.run("systemctl", "is-active", "rproxy.service", "rproxy.socket").split() == ["active", "active"]
    assert "rproxy: again in 1 s: aws s3 cp" in proxy.bootstrapped
    assert any(line.startswith("ec2 associate-address") and f"--instance-id {PROXY_ID}" in line for line in lines)
    assert lines[-1].split() == [
        *("cloudformation", "signal-resource", "--stack-name", stack.ident),
        *("--logical-resource-id", "ProxyGroup", "--unique-id", PROXY_ID, "--status", "SUCCESS"),
    ]


def test_the_pool_server_takes_the_first_free_number(pair: tuple[Instance, Instance]) -> None:
    """One has number 0, so it has 1, and with it the second policy."""
    _, pool = pair

    assert pool.run("systemctl", "is-active", "rpoolserver@101.service").strip() == "active"
    assert "POLICY=222\n" in pool.run("cat", "/etc/rproxy/101.conf")
    assert f"ec2 create-tags --resources {POOL_ID} --tags Key=rproxy:number,Value=1" in pool.asked
    assert pool.asked[-1].endswith(f"--logical-resource-id PoolGroup --unique-id {POOL_ID} --status SUCCESS")


def test_packets_go_through(pair: tuple[Instance, Instance]) -> None:
    """From a client, to the proxy, to the pool server, which registered by the name of the proxy's address."""
    proxy, pool = pair
    send = ("--id=1", "--pp=222", "--payload=xyz1", "--keep-trying")

    assert "Hash of payload is correct" in proxy.run(RPROXY, "send", "--revproc=127.0.0.1:8100", *send)
    assert "Hash of payload is correct" in pool.run(RPROXY, "send", f"--revproc={PROXY_ADDRESS}:8100", *send)
    (server,) = json.loads(proxy.run(RPROXY, "servers", "--admin=unix:/run/rproxy/admin.sock", "--json"))["servers"]
    assert server["host"] == POOL_ADDRESS


def test_no_secret_is_left_in_what_everybody_reads(pair: tuple[Instance, Instance]) -> None:
    proxy, _ = pair

    assert proxy.run("stat", "--format=%a", "/usr/local/sbin/rproxy-bootstrap").strip() == "755"
