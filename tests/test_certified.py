"""Who may serve and who may ask, by the names in certificates: the policies file and TLS together, with processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rproxy import packets
from rproxy.tls.files import Files
from tests.authority import Authority
from tests.support import Group, Twistd, data_packet
from tests.test_tls_endtoend import HOST, TLSTalk, World

POLICIES = """
[policy.111.servers]
names = ["pool-1.example", "pool-2.example"]

[policy.111.clients]
names = ["clinic.example"]

[policy.222.clients]
certificate = true
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    authority = Authority(tmp_path)
    with Group() as group:
        yield World(tmp_path, authority, authority.issue(HOST), group)


def start(world: World) -> tuple[Twistd, Path]:
    """Start a proxy with the policies, where everybody needs a certificate."""
    file = world.folder / "policies.toml"
    file.write_text(POLICIES)
    return world.proxy("--policies", str(file)), file


def register(proxy: Twistd, files: Files, policy: str) -> TLSTalk:
    """Register a server with a certificate; the answer is still to be read."""
    talk = TLSTalk(proxy.port, files)
    talk.send(packets.setup("100", policy, 5000, pipeline=4, lease=60))
    return talk


def ask(proxy: Twistd, files: Files, policy: str) -> str:
    """Send a packet with a certificate; return the code of the error."""
    with closing(TLSTalk(proxy.port, files)) as talk:
        return str(talk.ask(data_packet("1", policy, "xyz1"))["error"])


def test_servers(world: World) -> None:
    """A server registers for what its certificate names, and for nothing else, whatever else it says."""
    proxy, _ = start(world)
    for names, policy, answer in (
        (("pool-2.example", "10.0.0.1"), "111", "registered"),
        (("pool-3.example",), "111", "forbidden"),
        (("clinic.example",), "111", "forbidden"),
        (("pool-3.example",), "222", "registered"),
        (("pool-1.example",), "333", "forbidden"),
    ):
        with closing(register(proxy, world.authority.issue(*names), policy)) as talk:
            told = talk.answer()
            assert answer in (told["payload"], told.get("error")), told


def test_clients(world: World) -> None:
    """A client asks for what its certificate names."""
    proxy, _ = start(world)
    clinic, other = world.authority.issue("clinic.example"), world.authority.issue("other.example")
    assert [ask(proxy, clinic, policy) for policy in ("111", "222")] == ["no-server", "no-server"]
    assert [ask(proxy, other, policy) for policy in ("111", "222")] == ["forbidden", "no-server"]


def test_revoked(world: World) -> None:
    """A server whose name is taken out of the file is none from then on."""
    proxy, file = start(world)
    with closing(register(proxy, world.authority.issue("pool-1.example"), "111")) as talk:
        assert talk.answer()["payload"] == "registered"
        file.write_text(POLICIES.replace('"pool-1.example", ', ""))
        proxy.send_signal(signal.SIGHUP)
        proxy.wait_for_log(
            "Revoked the registration of server id 100 for privacy policy 111: no name of the server's certificate"
        )
        talk.send(packets.setup("100", "111", 5000, pipeline=4, lease=60))
        assert talk.answer()["error"] == "forbidden"
