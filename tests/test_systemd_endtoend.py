"""Real services that are told whom to tell: what they say from their start to their end, by a socket as systemd's."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import PATIENCE, Twistd

SERVICES = (
    ("rproxy", "--port", "0"),
    ("rproxy", "--port", "0", "--workers", "2"),
    ("rpoolserver", "--id", "100", "--pp", "111", "--listen", "0", "--revproc", "1"),
)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd has: a socket for datagrams."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def next_with(manager: socket.socket, name: str) -> str:
    """Take what comes until a field of that name does, and return its value."""
    while True:
        fields = dict(line.split("=", 1) for line in manager.recv(1 << 16).decode().splitlines())
        if name in fields:
            return fields[name]


@pytest.mark.parametrize("arguments", SERVICES, ids=["proxy", "workers", "pool server"])
def test_what_a_service_tells(manager: socket.socket, arguments: tuple[str, ...]) -> None:
    """That it is ready, how it is, that it lives, that it reads its files again, and that it stops."""
    env = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "200000"}
    with Twistd(*arguments, env=env) as service:
        assert next_with(manager, "READY") == "1"
        assert next_with(manager, "STATUS").startswith("ready: ")
        assert next_with(manager, "WATCHDOG") == "1"
        service.send_signal(signal.SIGHUP)
        assert next_with(manager, "RELOADING") == "1"
        assert next_with(manager, "READY") == "1"
        assert next_with(manager, "WATCHDOG") == "1"
        # A drain timeout of 30 seconds, and what comes after that.
        assert service.stop() == 0
        assert int(next_with(manager, "EXTEND_TIMEOUT_USEC")) > 30e6


@pytest.mark.parametrize("arguments", SERVICES, ids=["proxy", "workers", "pool server"])
def test_nobody_listens(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A service does its work nevertheless, and says so once."""
    with Twistd(*arguments, env={"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "20000"}) as service:
        service.wait_for_log("Can't tell systemd how it is")
        assert service.stop() == 0
    assert service.log.count("Can't tell systemd how it is") == 1
