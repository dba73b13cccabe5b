"""What workers know together: registrations that one is told of are all workers', whatever becomes of it or the store.

The store is the private one of the workers, or a file; see ``tests/test_workers_endtoend.py`` for all else.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from rproxy.limits import CLASSIC_CONNECTIONS
from tests.classic import ClassicServer, sha1_hex
from tests.support import FAULT, PATIENCE, Group, Talk, Twistd, data_packet, free_port, wait_for
from tests.test_workers_endtoend import HOST, assert_faultless, only, register, setup_packet, wait_until_known
from tests.workers import is_running, workers_of

#: The workers' numbers.
BOTH = (1, 2)


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """What systemd gives a service for as long as it runs: where the private store goes."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    return folder


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a test has open."""
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Where a server listens that the test plays."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def two_workers(*arguments: str, runtime: Path | None = None) -> Twistd:
    """A proxy whose packets wait for nothing but the registry."""
    env = {} if runtime is None else {"RUNTIME_DIRECTORY": str(runtime)}
    quick = ("--queue-timeout", "0.01", "--timeout", "2", "--log-packets")
    return Twistd("rproxy", "--workers", "2", "--port", "0", *quick, *arguments, env=env)


def classic(proxy: Twistd, stack: ExitStack, server_id: str = "9", policy: str = "111") -> ClassicServer:
    """A server of the old kind that has registered once, and is known to both workers."""
    server = stack.enter_context(ClassicServer((HOST, proxy.port), free_port(), server_id, policy))
    wait_until_known(proxy, f"server id {server_id} ip {HOST} privacy policy {policy} ")
    assert server.listening.wait(PATIENCE)
    return server


def connect(proxy: Twistd, number: int) -> Talk:
    """A connection to the worker of that number."""
    with only(proxy, number):
        talk = Talk(proxy.port)
        # Only an answer shows that it was accepted.
        assert talk.ask(data_packet("1", "nobody's", "xyz1"))["error"] == "no-server"
    return talk


def outcome(proxy: Twistd, number: int, policy: str = "111") -> str:
    """What becomes of a packet that comes to the worker of that number: the server's id, or an error."""
    with closing(connect(proxy, number)) as talk:
        answer = talk.ask(data_packet("1", policy, "xyz1"))
    if answer["type"] == "2":
        assert answer["payload"] == sha1_hex("xyz1")
        return f"server {answer['srcid']}"
    return str(answer["error"])


def wait_for_both(proxy: Twistd, policy: str, wanted: str) -> None:
    """Wait until that is what becomes of packets at either worker."""
    for number in BOTH:
        wait_for(lambda number=number: outcome(proxy, number, policy) == wanted, PATIENCE, f"{wanted} at {number}")  # type: ignore[misc]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_server_with_a_lease(end: signal.Signals) -> None:
    """It registers at one worker and is used by both, until its connection or its lease ends, or it drains."""
    with two_workers() as proxy, Group() as group:
        pool_server = group.pool_server(proxy.port, "9", "111", "--lease", "1")
        wait_until_known(proxy, f"server id 9 ip {HOST} privacy policy 111 ")
        for number in BOTH:
            assert outcome(proxy, number) == "server 9"
        if end is signal.SIGKILL:
            group.kill(pool_server)
        elif end is signal.SIGTERM:
            group.stop(pool_server)
        else:
            pool_server.send_signal(end)
        try:
            wait_for_both(proxy, "111", "no-server")
        finally:
            if end is signal.SIGSTOP:
                pool_server.send_signal(signal.SIGCONT)
        assert_faultless(proxy)


def test_classic_server(stack: ExitStack) -> None:
    """It registers once, and is used by both, and by those that replace them."""
    with two_workers() as proxy:
        server = classic(proxy, stack)
        for number in BOTH:
            assert outcome(proxy, number) == "server 9"
        for number in BOTH:
            os.kill(workers_of(proxy.pid)[number], signal.SIGKILL)
            proxy.wait_for_log(f"Worker {number} is back")
            assert outcome(proxy, number) == "server 9"
            assert outcome(proxy, 3 - number) == "server 9"
        assert not server.faults
        assert len(FAULT.findall(proxy.log)) == 2, proxy.log


def test_server_of_a_killed_worker() -> None:
    """It registers again, at whichever worker; the other one doesn't lose it meanwhile, nor in the end."""
    with two_workers() as proxy, Group() as group:
        group.pool_server(proxy.port, "9", "111", "--lease", "2")
        server = f"server id 9 ip {HOST} privacy policy 111 "
        wait_until_known(proxy, server)
        holder = int(proxy.wait_for_log(rf"worker (\d): Received setup message from {server}")[1])
        os.kill(workers_of(proxy.pid)[holder], signal.SIGKILL)
        while f"Worker {holder} is back" not in proxy.log:
            assert outcome_anywhere(proxy) == "server 9"
        for number in BOTH:
            assert outcome(proxy, number) == "server 9"


def outcome_anywhere(proxy: Twistd) -> str:
    """What becomes of a packet that comes to whichever worker there is."""
    with closing(Talk(proxy.port)) as talk:
        answer = talk.ask(data_packet("1", "111", "xyz1"))
    return f"server {answer['srcid']}" if answer["type"] == "2" else str(answer["error"])


def next_packet(server: socket.socket) -> socket.socket:
    """The next connection that a packet comes over; one by which the server is only looked for has none."""
    while True:
        connection, _ = server.accept()
        connection.settimeout(PATIENCE)
        if connection.recv(2048):
            return connection
        connection.close()


def test_policy_that_a_worker_does_not_know(server: socket.socket, runtime: Path, stack: ExitStack) -> None:
    """It asks the registry before it refuses a packet: what is in there is never refused, however new."""
    with two_workers(runtime=runtime) as proxy:
        setups, client = (stack.enter_context(closing(connect(proxy, number))) for number in BOTH)
        (store,) = runtime.glob("*/registry.sqlite")
        database = stack.enter_context(closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)))
        for number in range(100):
            policy = f"p{number}"
            setups.send(setup_packet(server, policy, lease=30))
            while not database.execute("SELECT 1 FROM records WHERE record LIKE ?", (f'%"{policy}"%',)).fetchone():
                pass
            client.send(data_packet("1", policy, "xyz1"))
            with next_packet(server) as connection:
                connection.sendall(b'{"type":"2","srcid":"9","destid":"1","payload":"done"}')
                assert client.answer()["payload"] == "done"
        assert_faultless(proxy)


def test_connections_to_a_classic_server(server: socket.socket, stack: ExitStack) -> None:
    """They are no more than one proxy would make, both workers' together."""
    with two_workers() as proxy:
        register(proxy, server)
        for number in BOTH:
            for place in range(2 * CLASSIC_CONNECTIONS):
                client = stack.enter_context(closing(connect(proxy, number)))
                client.send(data_packet(f"c{number}{place}.", "111", "xyz1"))
                proxy.wait_for_log(rf"Received a message from client c{number}{place}\. ")
            # It has turned to others since.
            stack.enter_context(closing(connect(proxy, number)))
        server.setblocking(False)
        came = 0
        with suppress(BlockingIOError):
            while True:
                came += is_for_packets(stack.enter_context(server.accept()[0]))
        assert came == CLASSIC_CONNECTIONS


def is_for_packets(connection: socket.socket) -> bool:
    """Whether it is more than a look whether the server is there, which is closed again at once."""
    connection.setblocking(False)
    try:
        return bool(connection.recv(2048))
    except BlockingIOError:
        return True


def stop_once(proxy: Twistd) -> None:
    assert proxy.stop() == 0


def stop_twice(proxy: Twistd) -> None:
    proxy.send_signal(signal.SIGTERM)
    proxy.wait_for_log("Received SIGTERM: stopping")
    proxy.send_signal(signal.SIGTERM)
    assert proxy.wait() == -signal.SIGTERM


def test_folder(runtime: Path) -> None:
    """The private store is there while the proxy runs, nobody else's to read, and goes with it."""
    with two_workers(runtime=runtime) as proxy:
        (folder,) = runtime.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        wait_for((folder / "registry.sqlite").exists, PATIENCE, "the store")
        stop_once(proxy)
    assert not [*runtime.iterdir()]


def test_folder_after_second_sigterm(runtime: Path, server: socket.socket, stack: ExitStack) -> None:
    """It goes then too, whatever is in flight."""
    with two_workers("--timeout", "30", runtime=runtime) as proxy:
        register(proxy, server)
        client = stack.enter_context(closing(Talk(proxy.port)))
        client.send(data_packet("1", "111", "xyz1"))
        stack.enter_context(server.accept()[0])
        stop_twice(proxy)
    assert not [*runtime.iterdir()]


def test_folder_after_a_crash(runtime: Path) -> None:
    """Who is killed leaves it behind; the next one has its own."""
    with two_workers(runtime=runtime) as proxy:
        workers = workers_of(proxy.pid).values()
        proxy.kill()
        wait_for(lambda: not any(map(is_running, workers)), PATIENCE, "the workers to be gone")
        (left,) = runtime.iterdir()
        proxy.start()
        assert len([*runtime.iterdir()]) == 2
        stop_once(proxy)
    assert [*runtime.iterdir()] == [left]


def test_revoked(tmp_path: Path, stack: ExitStack) -> None:
    """What the policies file doesn't allow any more ends at both workers, for good: it has to be registered anew."""
    file = tmp_path / "policies.toml"
    file.write_text("[policy.111]\n[policy.222]\n")
    with two_workers("--policies", str(file)) as proxy:
        classic(proxy, stack, "9", "111")
        classic(proxy, stack, "8", "222")
        file.write_text('[policy.111]\nservers.ids = ["7"]\n[policy.222]\n')
        proxy.send_signal(signal.SIGHUP)
        # The other one may hear of it from the first before it has read the file.
        proxy.wait_for_log(r"worker \d: Revoked the registration of server id 9")
        for number in BOTH:
            proxy.wait_for_log(rf"worker {number}: Keeping to the policies of")
            assert outcome(proxy, number, "111") == "no-server"
            assert outcome(proxy, number, "222") == "server 8"
        os.kill(workers_of(proxy.pid)[1], signal.SIGKILL)
        proxy.wait_for_log("Worker 1 is back")
        assert outcome(proxy, 1, "111") == "no-server"
        file.write_text("[policy.111]\n[policy.222]\n")
        proxy.send_signal(signal.SIGHUP)
        for number in BOTH:
            proxy.wait_for_log(rf"(?s)(worker {number}: Keeping to the policies of.*){{2}}")
            assert outcome(proxy, number, "111") == "no-server"
        classic(proxy, stack, "9", "111")
        wait_for_both(proxy, "111", "server 9")


# The store fails.

AWAY = "The registry at .* can't be used, and is gone on with what is known here"
BACK = "The registry at .* is back after"


def fail_and_heal(proxy: Twistd, stack: ExitStack, fail: Callable[[], Any], heal: Callable[[], Any]) -> None:
    """Both workers go on with what they know while the store is away, and know the same when it is back."""
    classic(proxy, stack, "9", "111")
    fail()
    # It is noticed by who has something to say.
    late = stack.enter_context(ClassicServer((HOST, proxy.port), free_port(), "8", "222"))
    teller = int(proxy.wait_for_log(r"worker (\d): Received setup message from server id 8 ")[1])
    assert late.listening.wait(PATIENCE)
    proxy.wait_for_log(f"worker {teller}: {AWAY}")
    for number in BOTH:
        assert outcome(proxy, number, "111") == "server 9"
    assert outcome(proxy, teller, "222") == "server 8"
    heal()
    proxy.wait_for_log(f"worker {teller}: {BACK}")
    wait_for_both(proxy, "222", "server 8")
    for number in BOTH:
        assert outcome(proxy, number, "111") == "server 9"
    os.kill(workers_of(proxy.pid)[1], signal.SIGKILL)
    proxy.wait_for_log("Worker 1 is back")
    for policy, server in (("111", "server 9"), ("222", "server 8")):
        assert outcome(proxy, 1, policy) == server
    assert "Traceback" not in proxy.log, proxy.log


@pytest.mark.parametrize("all_of_it", [False, True])
def test_store_is_deleted(runtime: Path, stack: ExitStack, all_of_it: bool) -> None:
    """The file, or with what SQLite keeps beside it: another one takes its place, with all that was known."""

    def delete() -> None:
        for path in runtime.glob("*/registry.sqlite*" if all_of_it else "*/registry.sqlite"):
            path.unlink()

    with two_workers(runtime=runtime) as proxy:
        fail_and_heal(proxy, stack, delete, lambda: None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a file system")
def test_store_has_no_room(tmp_path: Path, stack: ExitStack) -> None:
    """Its file system is full for a while."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("there is no way to mount a file system here")
    stack.callback(lambda: subprocess.run(["umount", "--lazy", small], check=True))

    def fill() -> None:
        with (small / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(1024))

    with two_workers("--registry", f"sqlite:{small / 'registry'}") as proxy:
        fail_and_heal(proxy, stack, fill, (small / "filler").unlink)
