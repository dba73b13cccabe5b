"""A Redis of a test's own, which can be paused, killed and started again; also with TLS, as a replica or a sentinel."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from shutil import which

from rproxy.tls.files import Files
from tests.namespaces import Host
from tests.support import free_port

#: Why there can't be one here; empty if there can.
MISSING = "" if which("redis-server") and which("redis-cli") else "redis-server isn't installed"

LOOPBACK = "127.0.0.1"
#: What a user of the store has to be allowed, as docs/howto/scaling.rst says.
ALLOWED = (
    "~{rproxy}:* &{rproxy}:changed +auth +ping +select +role +subscribe +publish +time +eval +evalsha +hget +hmget"
    " +hset +hdel +hlen +hvals +zadd +zcard +zrange +zrangebyscore +zscore +zrem +zremrangebyscore"
)
#: Seconds within which a server that was started has to answer.
_START = 20.0


class RedisServer:
    """One on a free port of loopback; empty again after each start, unless told to keep its data.

    :param settings: more lines of its configuration.
    :param tls: its certificate, for TLS in the place of plain TCP.
    :param host: where it runs, at that host's address, in the place of this one.
    """

    def __init__(
        self,
        folder: Path,
        *settings: str,
        tls: Files | None = None,
        sentinel: bool = False,
        host: Host | None = None,
    ) -> None:
        self._host = host
        self.address = LOOPBACK if host is None else host.address
        self.port = free_port()
        self._folder = folder / str(self.port)
        self._folder.mkdir()
        self._file = self._folder / "redis.conf"
        self._log = self._folder / "log"
        self._arguments = ["--sentinel"] if sentinel else []
        lines = [f"bind {self.address}", f"dir {self._folder}", *settings]
        if host is not None:
            # Else it only talks to its own host, as it has no password.
            lines += ["protected-mode no"]
        if not sentinel:
            lines += ['save ""']
        self._client: list[str] = []
        if tls is None:
            lines += [f"port {self.port}"]
        else:
            lines += ["port 0", f"tls-port {self.port}", "tls-auth-clients optional", f"tls-ca-cert-file {tls.ca}"]
            lines += [f"tls-cert-file {tls.cert}", f"tls-key-file {tls.key}"]
            self._client = ["--tls", "--cacert", str(tls.ca)]
        self._file.write_text("".join(f"{line}\n" for line in lines))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> RedisServer:
        """Start it, and return when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._there(["redis-server", str(self._file), *self._arguments]), stdout=log, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + _START
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < until, self._log.read_text()
            time.sleep(0.01)
        return self

    def _answers(self) -> bool:
        answer = self._cli("PING")
        return "PONG" in answer or "NOAUTH" in answer

    def call(self, *words: str) -> str:
        """Return what redis-cli prints for a command."""
        return self._cli(*words).strip()

    def _cli(self, *words: str) -> str:
        command = ["redis-cli", "-h", self.address, "-p", str(self.port), *self._client, *words]
        done = subprocess.run(
            self._there(command),
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            check=False,
            timeout=_START,
        )
        return done.stdout + done.stderr

    def _there(self, command: list[str]) -> list[str]:
        return command if self._host is None else self._host.namespace.command(command)

    def pause(self) -> None:
        """Have it accept connections and say nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, in whatever state it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
