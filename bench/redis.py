"""A Redis of the benchmark's own, and what it says of itself."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Sequence

from bench.gauges import processor_time
from bench.processes import Child, Children
from bench.stage import Bench, find

#: As it is for rproxy: whatever has to last is appended to a file that is synced each second, and nothing is thrown
#: away (docs/howto/scaling.rst). It is reached at addresses of this machine only, so nobody needs a password.
CONFIG = """
port {port}
bind {host}
protected-mode no
save ""
appendonly yes
appendfsync everysec
maxmemory-policy noeviction
"""


def find_redis() -> str | None:
    """Where it is installed, or a Valkey."""
    return find("redis-server") or find("valkey-server")


def can_use_redis(bench: Bench) -> bool:
    """Whether the Python that runs rproxy has what it needs for it."""
    done = subprocess.run([bench.python, "-c", "import txredisapi"], capture_output=True, check=False)
    return done.returncode == 0


class Redis:
    """One that runs.

    :param enter: calls a function where it can be reached.
    :param within: a command that becomes the one that stands behind it.
    """

    def __init__(
        self,
        bench: Bench,
        children: Children,
        host: str = "127.0.0.1",
        enter: Callable[[Callable[[], int]], int] = lambda function: function(),
        within: Sequence[str] = (),
    ) -> None:
        assert bench.redis is not None
        self._address = host, enter(lambda: _free_port(host))
        config = children.folder / "redis.conf"
        config.write_text(CONFIG.format(port=self._address[1], host=host))
        self.child: Child = children.start("Redis", [*within, bench.redis, config])
        self.child.wait_for("[Rr]eady to accept connections")

    @property
    def url(self) -> str:
        """For ``--registry``."""
        return f"redis://{self._address[0]}:{self._address[1]}"

    def info(self) -> dict[str, float]:
        """The numbers that it tells of itself.

        And as ``cpu_seconds`` its processor time, all threads together, and as ``info_bytes`` how long this answer was,
        which isn't among the bytes that it tells of yet.
        """
        with socket.create_connection(self._address, 20) as connection:
            connection.sendall(b"INFO all\r\n")
            with connection.makefile("rb") as answer:
                length = int(answer.readline()[1:])
                text = answer.read(length).decode()
        extra = {"cpu_seconds": processor_time(self.child.pid), "info_bytes": float(length)}
        return parse_info(text) | extra


def parse_info(text: str) -> dict[str, float]:
    """The lines that have one number, and how often each command was called, as ``calls_COMMAND``."""
    found = {name: float(value) for name, value in re.findall(r"^(\w+):(\d+(?:\.\d+)?)\r?$", text, re.MULTILINE)}
    calls = re.findall(r"^cmdstat_(\w+):calls=(\d+)", text, re.MULTILINE)
    return found | {f"calls_{name}": float(number) for name, number in calls}


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
