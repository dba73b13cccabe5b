"""Real processes for the end-to-end tests, in blocking style: start, wait for a line in the log, stop.

Nothing here sleeps for a fixed time: whatever is waited for is polled every few milliseconds, and a deadline makes a
failing test say what it waited for, with the log so far.
"""

from __future__ import annotations

import codecs
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

T = TypeVar("T")

#: The project's top folder: processes import from it, wherever they run.
ROOT = Path(__file__).resolve().parent.parent
#: Seconds between two looks.
POLL_SECONDS = 0.01
#: Seconds for a process to start or to stop, before it is taken for hung.
PATIENCE = 20.0
#: What systemd tells a service; the tests may be run by one, and it isn't meant for what they start.
SYSTEMDS = frozenset(
    {"LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "JOURNAL_STREAM"}
)
#: What no log may have.
FAULT = re.compile(r"Traceback|Unhandled|#(?:critical|error)\]")
#: What twistd's log format puts in front of a message.
_PREFIX = re.compile(r"^\S+ \[[^\]]*\] ")

#: Below where Linux (32768) and others (49152) begin to give ports away.
_FREE_PORTS = (20_000, 32_000)
_given_ports: set[int] = set()


def wait_for(predicate: Callable[[], T | None], seconds: float, what: str) -> T:
    """Poll until the predicate returns something true, and return that.

    :param what: what is waited for, as in "the second packet".
    :raises AssertionError: it didn't within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        late = time.monotonic() >= deadline
        if result := predicate():
            return result
        if late:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(POLL_SECONDS)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on, another one each time.

    For peers that must know their port before they bind it; whoever can should bind port 0 instead. It is none of those
    that the kernel gives to whoever wants any, for a listener or for a connection: one of these could come in between.
    """
    while True:
        port = random.randrange(*_FREE_PORTS)
        if port not in _given_ports:
            _given_ports.add(port)
            with socket.socket() as probe, suppress(OSError):
                probe.bind((host, port))
                return port


def script(name: str) -> list[str]:
    """Return how to run a command that is installed beside this Python: twistd, or rproxy."""
    return [sys.executable, str(Path(sysconfig.get_path("scripts")) / name)]


def environment() -> dict[str, str]:
    """Return the variables of this process, without what systemd tells it, and with the project to import from."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: value for name, value in os.environ.items() if name not in SYSTEMDS}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def run(argv: Sequence[str], cwd: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself; its exit code and its outputs are in what is returned."""
    return subprocess.run(
        argv, cwd=cwd, input=stdin, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )


def messages(log: str) -> list[str]:
    """Return a twistd log's messages, without what its format puts in front."""
    return [_PREFIX.sub("", line) for line in log.splitlines() if _PREFIX.match(line)]


class Process:
    """A process of its own whose output goes to a file that is watched for a line.

    Start and stop it as a context manager, or call :meth:`start` and :meth:`stop` from a fixture.

    :param argv: the command.
    :param ready: a regular expression; :meth:`start` returns when the log has it.
    :param cwd: the folder to run in; without one, a temporary folder that is removed by :meth:`stop`.
    :param env: variables beside those of this process.
    :param seconds: how long to wait for it to be ready, and to stop.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        ready: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        seconds: float = PATIENCE,
    ) -> None:
        self.argv = list(argv)
        self._ready = ready
        self._cwd = cwd
        self._env = dict(env or {})
        self._seconds = seconds
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._log_path: Path | None = None
        self._last_log = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._match: re.Match[str] | None = None

    def start(self) -> Self:
        """Start it and wait until it is ready; it may be started again once stopped.

        :raises AssertionError: it ended before, or wasn't ready in time; the log is in the text.
        """
        assert self._folder is None, "it runs already"
        self._match = None
        self._folder = tempfile.TemporaryDirectory(prefix="rproxy-test-")
        # The log has its own folder, so that cwd holds nothing but what the process put there.
        folder = Path(self._folder.name)
        self._log_path = folder / "output.log"
        cwd = self._cwd or folder / "cwd"
        cwd.mkdir(exist_ok=True)
        try:
            with self._log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    self.argv,
                    cwd=cwd,
                    env={**environment(), **self._env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self._match = self.wait_for_log(self._ready, self._seconds)
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> int:
        """Send SIGTERM, wait, and return the exit code: negative where the signal ended it.

        Stopping again, or after it ended by itself, returns the same code.

        :raises AssertionError: it had to be killed.
        """
        process = self._started()
        if process.poll() is None:
            process.terminate()
        try:
            return process.wait(self._seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"killed, as SIGTERM didn't end it in {self._seconds} s:\n{self.log}") from None
        finally:
            self._clean_up()

    def kill(self) -> int | None:
        """Send SIGKILL, as a crash would, and return the exit code; None if it never started."""
        code = None
        if self._process is not None:
            self._process.kill()
            code = self._process.wait()
        self._clean_up()
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send any other signal."""
        self._started().send_signal(number)

    def wait(self) -> int:
        """Wait for it to end by itself, and return the exit code; :meth:`stop` it nevertheless.

        :raises AssertionError: it didn't in time.
        """
        try:
            return self._started().wait(self._seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {self._seconds} s:\n{self.log}") from None

    def wait_for_log(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """Wait for a regular expression anywhere in the log; ``^`` and ``$`` match at lines.

        :raises AssertionError: it didn't come in time, or the process ended without it; the log is in the text.
        """
        process = self._started()
        wanted = re.compile(pattern, re.MULTILINE)

        def look() -> re.Match[str] | bool:
            ended = process.poll() is not None
            return wanted.search(self.log) or ended

        try:
            found = wait_for(look, seconds, f"{pattern!r} in the log")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log}") from None
        if not isinstance(found, re.Match):
            raise AssertionError(f"ended with {process.returncode} without {pattern!r} in the log:\n{self.log}")
        return found

    @property
    def log(self) -> str:
        """What it wrote so far to both its outputs; after it was stopped, all that it wrote."""
        if self._log_path is not None:
            # Half a character may be at the end.
            self._last_log = self._log_path.read_bytes().decode(errors="replace")
        return self._last_log

    @property
    def ready_match(self) -> re.Match[str]:
        """What the ready line matched."""
        assert self._match is not None, "it was never ready"
        return self._match

    @property
    def port(self) -> int:
        """The first group of the ready line."""
        return int(self.ready_match[1])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._started().pid

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process

    def _clean_up(self) -> None:
        if self._folder is not None:
            self._last_log = self.log
            self._log_path = None
            self._folder.cleanup()
            self._folder = None


class Twistd(Process):
    """``twistd -n --pidfile= ARGUMENTS``, with the twistd of this Python: ``Twistd("rproxy", "--port", "0")``.

    :param arguments: the plugin's name and its options.
    :param ready: the line that shows that it is ready; its first group is the port. The default knows both plugins'.
    """

    READY = r"(?:Running the reverse proxy|Listening) on port (\d+)"

    def __init__(
        self,
        *arguments: str,
        ready: str = READY,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        seconds: float = PATIENCE,
    ) -> None:
        argv = [*script("twistd"), "-n", "--pidfile=", *arguments]
        super().__init__(argv, ready=ready, cwd=cwd, env=env, seconds=seconds)


class Group:
    """The processes of one test: stopped when it is over, the youngest first, and then looked at.

    A pool server should go before its proxy: it would else try to find it again.
    """

    def __init__(self) -> None:
        self._running: list[Twistd] = []
        #: All that was ever started.
        self.processes: list[Twistd] = []

    def proxy(self, *arguments: str) -> Twistd:
        """Start a proxy, at any free port unless told otherwise."""
        if not {"--port", "--listen"}.intersection(arguments):
            arguments = ("--port", "0", *arguments)
        return self._start(Twistd("rproxy", *arguments))

    def pool_server(
        self,
        proxy: int,
        server_id: str,
        policy: str,
        *arguments: str,
        cwd: Path | None = None,
        until: str = "Registered for privacy policy",
    ) -> Twistd:
        """Start a pool server, and return when it is registered at that port.

        :param until: what its log has then.
        """
        to_proxy = ("--revproc", str(proxy), "--listen", "tcp:0:interface=127.0.0.1")
        server = Twistd("rpoolserver", "--id", server_id, "--pp", policy, *to_proxy, *arguments, cwd=cwd)
        self._start(server).wait_for_log(until)
        return server

    def stop(self, process: Twistd, faults: int = 0) -> None:
        """Stop one of them now, and look at it.

        :param faults: how often its log may have one of :data:`FAULT`.
        """
        self._running.remove(process)
        code = process.stop()
        assert code == 0, f"exit code {code}:\n{process.log}"
        self._look(process, faults)

    def kill(self, process: Twistd) -> None:
        """Let one of them crash."""
        self._running.remove(process)
        process.kill()
        self._look(process, 0)

    def close(self) -> None:
        """Stop what still runs."""
        with ExitStack() as stack:
            for process in self._running:
                stack.callback(self.stop, process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, process: Twistd) -> Twistd:
        process.start()
        self._running.append(process)
        self.processes.append(process)
        return process

    def _look(self, process: Twistd, faults: int) -> None:
        assert len(FAULT.findall(process.log)) == faults, f"something went wrong there:\n{process.log}"


def data_packet(client_id: str, policy: str, payload: str, **further: Any) -> bytes:
    """Return a data packet in the form of those in the field, with further fields if need be."""
    return json.dumps({"type": "0", "srcid": client_id, "privPoliId": policy, "payload": payload, **further}).encode()


class Talk:
    """A client's connection, in blocking style: whole answers, however TCP cut them.

    :param where: a port of this machine, a host's address and port, or the path of a Unix socket.
    :param receive_bytes: how much the kernel may hold for it.
    :param source: the address to come from, if the kernel isn't to choose one.
    """

    def __init__(
        self, where: int | tuple[str, int] | Path, receive_bytes: int | None = None, source: str | None = None
    ) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._received = ""
        if isinstance(where, int):
            where = ("127.0.0.1", where)
        self.socket = socket.socket(socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET)
        self.socket.settimeout(PATIENCE)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            if source is not None:
                self.socket.bind((source, 0))
            self.socket.connect(str(where) if isinstance(where, Path) else where)
        except BaseException:
            self.socket.close()
            raise

    def send(self, *packets: bytes) -> None:
        """Send packets, all in one."""
        self.socket.sendall(b"".join(packets))

    def shut(self) -> None:
        """Send nothing more; answers may still come."""
        self.socket.shutdown(socket.SHUT_WR)

    def answer(self, read_bytes: int = 1 << 16) -> dict[str, Any]:
        """Return the next answer.

        :param read_bytes: how much to take from the socket at a time.
        :raises AssertionError: the connection ended before one was there.
        """
        while True:
            try:
                packet, end = json.JSONDecoder().raw_decode(self._received)
            except ValueError:
                assert self._read(read_bytes), f"the connection ended with {self._received!r}"
            else:
                self._received = self._received[end:]
                assert isinstance(packet, dict), packet
                return packet

    def ask(self, packet: bytes) -> dict[str, Any]:
        """Send a packet and return the next answer."""
        self.send(packet)
        return self.answer()

    def assert_end(self) -> None:
        """Wait until the other side closes, in an orderly way and without a further word."""
        while self._read(1 << 16):
            pass
        assert not self._received, f"more came: {self._received!r}"

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, most: int) -> bool:
        """Take what came; False at the end."""
        read = self.socket.recv(most)
        self._received += self._decoder.decode(read)
        return bool(read)
