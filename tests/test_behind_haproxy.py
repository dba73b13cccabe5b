"""The proxy behind a real HAProxy, which says whom it forwards: processes of their own, and what the log says."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.classic import sha1_hex
from tests.support import PATIENCE, Group, Process, Talk, Twistd, data_packet, free_port, wait_for

HAPROXY = shutil.which("haproxy")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="HAProxy isn't installed")

CONFIGURATION = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend v1
    bind 127.0.0.1:{v1}
    default_backend v1
frontend v2
    bind 127.0.0.1:{v2}
    default_backend v2
backend v1
    server proxy 127.0.0.1:{proxy} send-proxy source 127.0.1.1 {check}
backend v2
    server proxy 127.0.0.1:{proxy} send-proxy-v2 proxy-v2-options unique-id,crc32c source 127.0.1.1 {check}
"""
#: HAProxy speaks from an address of its own, so that whoever connects directly isn't taken for it.
TRUSTED = "127.0.1.1"


class Front:
    """A running HAProxy.

    :ivar ports: where it sends headers of version 1, and of version 2.
    """

    def __init__(self, folder: Path, proxy: int, check: str = "") -> None:
        self.ports = free_port(), free_port()
        v1, v2 = self.ports
        path = folder / "haproxy.cfg"
        path.write_text(CONFIGURATION.format(v1=v1, v2=v2, proxy=proxy, check=check))
        assert HAPROXY is not None
        self.process = Process([HAPROXY, "-db", "-V", "-f", str(path)], ready="Using epoll")

    def __enter__(self) -> Front:
        self.process.start()
        # That line comes a little before it listens.
        for port in self.ports:
            wait_for(partial(self._listens, port), PATIENCE, f"HAProxy on port {port}")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def _listens(self, port: int) -> bool:
        with suppress(ConnectionRefusedError), closing(Talk(port)):
            return True
        return False


def setup_packet(server_id: str, port: int, **further: Any) -> bytes:
    """A setup packet for policy 111."""
    return json.dumps({"type": "1", "id": server_id, "privPolyId": "111", "listenport": str(port), **further}).encode()


def complaints(proxy: Twistd) -> list[str]:
    """The log's lines about something that went wrong."""
    return [line for line in proxy.log.splitlines() if re.search("Refused|Left out|warn|error|critical", line)]


def test_the_real_peer(group: Group, tmp_path: Path) -> None:
    """Servers register with the address that HAProxy saw, and clients are served through it and without it."""
    proxy = group.proxy("--proxy-from", TRUSTED)
    with Front(tmp_path, proxy.port) as front:
        for number, port in enumerate(front.ports):
            host = f"127.0.0.{7 + number}"
            with closing(Talk(port, source=host)) as server:
                answer = server.ask(setup_packet(str(100 + number), 5000, lease=60))
                assert (answer["type"], answer["payload"]) == ("2", "registered")
            proxy.wait_for_log(f"Received setup message from server id {100 + number} ip {host} privacy policy 111")
        # Their leases end with their connections, and this one is at the address that it is reached at.
        group.pool_server(front.ports[1], "102", "111")
        proxy.wait_for_log("Received setup message from server id 102 ip 127.0.0.1 privacy policy 111")
        proxy.wait_for_log("Registration of server id 101 for privacy policy 111 ended")
        for port in (*front.ports, proxy.port):
            with closing(Talk(port)) as client:
                for payload in ("xyz1", "x" * 100_000):
                    assert client.ask(data_packet("1", "111", payload))["payload"] == sha1_hex(payload)
                client.send(data_packet("1", "111", "last"))
                client.shut()
                assert client.answer()["payload"] == sha1_hex("last")
                client.assert_end()
        group.close()
    assert complaints(proxy) == []


def test_refused_setup(group: Group, tmp_path: Path) -> None:
    """A key that one host holds is refused to another, though both come by way of the same HAProxy."""
    proxy = group.proxy("--proxy-from", TRUSTED)
    with (
        Front(tmp_path, proxy.port) as front,
        closing(Talk(front.ports[0], source="127.0.0.7")) as holder,
        closing(Talk(front.ports[1], source="127.0.0.8")) as other,
    ):
        assert holder.ask(setup_packet("100", 5000, lease=60))["payload"] == "registered"
        assert other.ask(setup_packet("100", 5000, lease=60))["error"] == "conflict"
        proxy.wait_for_log("Refused setup message from server id 100 ip .* privacy policy 111: conflict")


def test_limits_for_the_real_peer(group: Group, tmp_path: Path) -> None:
    """One address that is full doesn't keep out another one behind the same HAProxy."""
    proxy = group.proxy("--proxy-from", TRUSTED, "--max-clients-per-address", "1")
    with Front(tmp_path, proxy.port) as front, ExitStack() as stack:
        for port, host, error in (
            (front.ports[0], "127.0.0.7", "no-server"),
            (front.ports[1], "127.0.0.7", "overloaded"),
            (front.ports[1], "127.0.0.8", "no-server"),
        ):
            talk = stack.enter_context(closing(Talk(port, source=host)))
            assert talk.ask(data_packet("1", "111", "a"))["error"] == error
        proxy.wait_for_log("Refused a connection from 127.0.0.7: there are 1 from there")


@pytest.mark.parametrize("check", ["check inter 50ms", "check check-send-proxy inter 50ms"])
def test_health_checks(group: Group, tmp_path: Path, check: str) -> None:
    """HAProxy's checks notice when the proxy comes, and leave nothing in its log."""
    port = free_port()
    with Front(tmp_path, port, check) as front:
        for name in ("v1", "v2"):
            front.process.wait_for_log(f"Server {name}/proxy is DOWN")
        proxy = group.proxy("--port", str(port), "--proxy-from", TRUSTED)
        for name, way in zip(("v1", "v2"), front.ports, strict=True):
            # After several that went well.
            front.process.wait_for_log(f"Server {name}/proxy is UP")
            with closing(Talk(way)) as client:
                assert client.ask(data_packet("1", "111", "a"))["error"] == "no-server"
        group.stop(proxy)
    assert complaints(proxy) == []


def test_header_from_elsewhere(group: Group) -> None:
    """Whoever isn't trusted can't say who it is: its header is no packet."""
    proxy = group.proxy("--proxy-from", TRUSTED)
    with closing(Talk(proxy.port)) as talk:
        talk.send(b"PROXY TCP4 127.0.0.7 127.0.0.1 40000 8000\r\n", setup_packet("100", 5000))
        assert talk.answer()["error"] == "bad-packet"
        talk.assert_end()
    group.close()
    assert "Received setup" not in proxy.log
