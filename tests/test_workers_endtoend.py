"""Several processes behind one listener, as an operator has them: killed, stopped, told to read files again."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.support import FAULT, PATIENCE, Process, Talk, Twistd, data_packet, run, script, wait_for
from tests.workers import is_running, standing_still, workers_of

HOST = "127.0.0.1"


def two_workers(*arguments: str, cwd: Path | None = None, ready: str = Twistd.READY) -> Twistd:
    """A proxy that gives up soon what nobody serves, and shows who got which packet."""
    further = ("--queue-timeout", "0.01", "--log-packets", *arguments)
    listening = () if "--listen" in arguments else ("--port", "0")
    return Twistd("rproxy", "--workers", "2", *listening, *further, cwd=cwd, ready=ready)


@contextmanager
def only(proxy: Process, number: int) -> Iterator[None]:
    """Have only one worker accept, as the other doesn't run."""
    with standing_still(*(pid for each, pid in workers_of(proxy.pid).items() if each != number)):
        yield


def connect_to_both(proxy: Process, where: int | Path, stack: ExitStack) -> dict[int, list[Talk]]:
    """Two connections to each worker that have sent a packet each, by the worker's number."""
    found: dict[int, list[Talk]] = {}
    for number in (1, 2):
        with only(proxy, number):
            found[number] = [stack.enter_context(closing(Talk(where))) for _ in range(2)]
            for place, talk in enumerate(found[number]):
                talk.send(data_packet(f"c{number}{place}.", "111", "xyz1"))
                proxy.wait_for_log(rf"worker {number}: Received a message from client c{number}{place}\. ")
    return found


def ask(where: int | Path) -> str:
    """What a client is told that connects for one packet."""
    with closing(Talk(where)) as talk:
        talk.send(data_packet("1", "111", "xyz1"))
        return str(talk.answer()["error"])


def assert_faultless(proxy: Process) -> None:
    assert not FAULT.search(proxy.log), proxy.log


def test_killed_worker() -> None:
    """Its connections break, the others and those that come don't, and another one takes its place."""
    with two_workers() as proxy, ExitStack() as stack:
        talks = connect_to_both(proxy, proxy.port, stack)
        for talk in (*talks[1], *talks[2]):
            assert talk.answer()["error"] == "no-server"
        before = workers_of(proxy.pid)
        os.kill(before[1], signal.SIGKILL)
        proxy.wait_for_log("Worker 1 was ended by SIGKILL, and what it has counted is lost")
        for talk in talks[1]:
            talk.assert_end()
        while "Worker 1 is back" not in proxy.log:
            assert ask(proxy.port) == "no-server"
        for talk in talks[2]:
            talk.send(data_packet("again", "111", "xyz1"))
            assert talk.answer()["error"] == "no-server"
        after = workers_of(proxy.pid)
        assert (after[2], after[1] == before[1]) == (before[2], False)
        connect_to_both(proxy, proxy.port, stack)
        assert proxy.stop() == 0
        assert len(re.findall("Running the reverse proxy on port", proxy.log)) == 1
        assert len(FAULT.findall(proxy.log)) == 1, proxy.log


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """Where a server listens that answers when the test does."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(PATIENCE)
        yield listener


def register(proxy: Process, server: socket.socket, policy: str = "111", **further: Any) -> None:
    """Register a server once, and wait until both workers know it."""
    with closing(Talk(proxy.port)) as talk:
        talk.send(setup_packet(server, policy, **further))
        wait_until_known(proxy, f"server id 9 ip {HOST} privacy policy {policy} ")


def setup_packet(server: socket.socket, policy: str, **further: Any) -> bytes:
    fields = {"type": "1", "id": "9", "privPolyId": policy, "listenport": str(server.getsockname()[1]), **further}
    return json.dumps(fields).encode()


def wait_until_known(proxy: Process, server: str) -> None:
    """Wait until one worker was told by the server, and the other one by the registry."""
    found = proxy.wait_for_log(rf"worker (\d): Received setup message from {server}")
    proxy.wait_for_log(rf"worker {3 - int(found[1])}: Found in the registry: {server}")


def packets_for(server: socket.socket, count: int, stack: ExitStack) -> dict[socket.socket, bytes]:
    """The connections to the server, and what came over each, when so many packets came."""
    came: dict[socket.socket, bytes] = {}
    watched = stack.enter_context(selectors.DefaultSelector())
    watched.register(server, selectors.EVENT_READ)
    while b"".join(came.values()).count(b"privPoliId") < count:
        ready = watched.select(PATIENCE)
        assert ready, f"{came} is all that came"
        for key, _ in ready:
            one: Any = key.fileobj
            if one is server:
                connection = stack.enter_context(server.accept()[0])
                watched.register(connection, selectors.EVENT_READ)
                came[connection] = b""
            else:
                data = one.recv(1 << 16)
                came[one] += data
                if not data:
                    watched.unregister(one)
    return came


@pytest.mark.parametrize("also_workers", [False, True])
def test_sigterm(server: socket.socket, also_workers: bool) -> None:
    """Each worker has its last packets answered, also where it gets the signal itself, as from a terminal."""
    with two_workers() as proxy, ExitStack() as stack:
        register(proxy, server, pipeline=64)
        talks = connect_to_both(proxy, proxy.port, stack)
        count = len(talks[1]) + len(talks[2])
        came = packets_for(server, count, stack)
        signalled = [*workers_of(proxy.pid).values()] if also_workers else []
        for pid in (*signalled, proxy.pid):
            os.kill(pid, signal.SIGTERM)
        for number in (1, 2):
            proxy.wait_for_log(rf"worker {number}: \(TCP Port \d+ Closed\)")
        proxy.wait_for_log(r"\[-\] \(TCP Port \d+ Closed\)")
        with pytest.raises(ConnectionRefusedError):
            Talk(proxy.port)
        for connection, data in came.items():
            for client in re.findall(rb'"srcid": "(c\d+\.)"', data):
                connection.sendall(b'{"type":"2","srcid":"9","destid":"%s","payload":"done"}' % client)
        for talk in (*talks[1], *talks[2]):
            assert talk.answer()["payload"] == "done"
        assert proxy.wait() == 0
        # Without a worker's number before it.
        said = rf"\] Stopped after {count} packets: {count} acked, 0 refused, 0 whose client was gone$"
        assert len(re.findall(said, proxy.log, re.MULTILINE)) == 1, proxy.log
        assert_faultless(proxy)


def test_second_sigterm(server: socket.socket) -> None:
    """It ends all of them at once, whatever is in flight."""
    with two_workers() as proxy, ExitStack() as stack:
        register(proxy, server, pipeline=64)
        connect_to_both(proxy, proxy.port, stack)
        workers = workers_of(proxy.pid).values()
        proxy.send_signal(signal.SIGTERM)
        proxy.wait_for_log("Received SIGTERM: stopping")
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait() == -signal.SIGTERM
        wait_for(lambda: not any(map(is_running, workers)), PATIENCE, "the workers to be gone")


def test_killed_parent(server: socket.socket) -> None:
    """No worker goes on without it, and each has its last packets answered."""
    with two_workers() as proxy, ExitStack() as stack:
        register(proxy, server, pipeline=64)
        talks = connect_to_both(proxy, proxy.port, stack)
        came = packets_for(server, len(talks[1]) + len(talks[2]), stack)
        workers = workers_of(proxy.pid).values()
        port = proxy.port
        proxy.kill()

        def is_closed() -> bool:
            try:
                Talk(port).socket.close()
            except ConnectionRefusedError:
                return True
            return False

        wait_for(is_closed, PATIENCE, "nobody to listen")
        for connection, data in came.items():
            for client in re.findall(rb'"srcid": "(c\d+\.)"', data):
                connection.sendall(b'{"type":"2","srcid":"9","destid":"%s","payload":"done"}' % client)
        for talk in (*talks[1], *talks[2]):
            assert talk.answer()["payload"] == "done"
        wait_for(lambda: not any(map(is_running, workers)), PATIENCE, "the workers to be gone")


def test_sighup(tmp_path: Path) -> None:
    """All keep to what the file says now, also those that are started later."""
    file = tmp_path / "policies.toml"
    file.write_text("[policy.111]\n")
    with two_workers("--policies", str(file)) as proxy:
        assert ask(proxy.port) == "no-server"
        file.write_text("[policy.111]\nclients.networks = []\n")
        proxy.send_signal(signal.SIGHUP)
        for number in (1, 2):
            proxy.wait_for_log(f"worker {number}: Keeping to the policies of {file} as it is now")
        file.write_text("[policy.")
        os.kill(workers_of(proxy.pid)[1], signal.SIGKILL)
        proxy.wait_for_log("Worker 1 is back")
        with ExitStack() as stack:
            for talks in connect_to_both(proxy, proxy.port, stack).values():
                assert talks[0].answer()["error"] == "forbidden"


#: What systemd does for a service with a socket: a descriptor from 3 on, and who it is for.
ACTIVATE = """
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="rproxy.socket")
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_socket_activation() -> None:
    """The socket that systemd bound is the one that all accept from."""
    _, twistd = script("twistd")
    options = ("--workers", "2", "--queue-timeout", "0.01", "--log-packets")
    listen = ("--listen", "systemd:domain=INET:name=rproxy.socket")
    argv = [sys.executable, "-c", ACTIVATE, twistd, "-n", "--pidfile=", "rproxy", *options, *listen]
    with Process(argv, ready=Twistd.READY) as proxy, ExitStack() as stack:
        for talks in connect_to_both(proxy, proxy.port, stack).values():
            assert talks[0].answer()["error"] == "no-server"
        assert proxy.stop() == 0
        assert_faultless(proxy)


def test_unix_socket(tmp_path: Path) -> None:
    """Its file stays when a worker leaves, and is gone when all have."""
    path = tmp_path / "socket"
    with (
        two_workers("--listen", f"unix:{path}:mode=600", ready="Running the reverse proxy") as proxy,
        ExitStack() as stack,
    ):
        for talks in connect_to_both(proxy, path, stack).values():
            assert talks[0].answer()["error"] == "no-server"
        os.kill(workers_of(proxy.pid)[1], signal.SIGTERM)
        proxy.wait_for_log("Worker 1 ended with exit code 0; another one is started")
        assert ask(path) == "no-server"
        assert path.stat().st_mode & 0o777 == 0o600
        assert proxy.stop() == 0
        assert not path.exists()
        assert len(FAULT.findall(proxy.log)) == 1, proxy.log


def test_daemon(tmp_path: Path) -> None:
    """The pidfile is the parent's, the log has one writer, and nothing is left of either."""
    log, pidfile, run_in = tmp_path / "log", tmp_path / "pid", tmp_path / "run"
    run_in.mkdir()
    twistd = (*script("twistd"), f"--pidfile={pidfile}", f"--logfile={log}", f"--rundir={run_in}", "rproxy")
    started = run([*twistd, "--workers", "2", "--port", "0", "--queue-timeout", "0.01"], cwd=tmp_path)
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
    parent = int(pidfile.read_text())
    try:
        found = wait_for(lambda: re.search(Twistd.READY, log.read_text()), PATIENCE, "the proxy to be ready")
        workers = workers_of(parent)
        assert sorted(workers) == [1, 2]
        assert ask(int(found[1])) == "no-server"
    finally:
        os.kill(parent, signal.SIGTERM)
        wait_for(lambda: not is_running(parent), PATIENCE, "the proxy to stop")
    assert not any(map(is_running, workers.values()))
    assert not pidfile.exists()
    assert "] Stopped after 1 packets: 0 acked, 1 refused" in log.read_text()
    assert not FAULT.search(log.read_text()), log.read_text()


def test_audit(tmp_path: Path) -> None:
    """Each worker has a trail of its own, which its replacement continues."""
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    key.chmod(0o600)
    with two_workers("--audit", "audit.log", "--audit-key", str(key), cwd=tmp_path) as proxy, ExitStack() as stack:
        connect_to_both(proxy, proxy.port, stack)
        os.kill(workers_of(proxy.pid)[1], signal.SIGTERM)
        proxy.wait_for_log("Worker 1 is back")
        assert proxy.stop() == 0
    assert sorted(path.name for path in tmp_path.glob("audit*")) == ["audit-1.log", "audit-2.log"]
    for number, opened in ((1, 2), (2, 1)):
        command = ("audit", "verify", "--audit-key", str(key), f"audit-{number}.log")
        verified = run([*script("rproxy"), *command], cwd=tmp_path)
        assert verified.returncode == 0, verified
        assert (tmp_path / f"audit-{number}.log").read_text().count('"event":"start"') == opened


def test_what_can_not_start(tmp_path: Path) -> None:
    """It ends with exit code 1, and the log says why."""
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    key.chmod(0o600)
    (tmp_path / "audit-2.log").mkdir()
    options = ("--audit", "audit.log", "--audit-key", str(key))
    with two_workers(*options, cwd=tmp_path, ready="Can't start: worker 2") as proxy:
        assert proxy.wait() == 1
        assert "Running the reverse proxy" not in proxy.log
        assert re.search("worker 2: .*audit-2.log", proxy.log), proxy.log


def test_certificates_that_can_not_be_used(tmp_path: Path) -> None:
    """They are told of before anything is bound or started."""
    listen = f"tls:0:cert={tmp_path}/cert.pem:key={tmp_path}/key.pem"
    ended = run([*script("twistd"), "-n", "--pidfile=", "rproxy", "--workers", "2", "--listen", listen], cwd=tmp_path)
    assert ended.returncode == 1
    assert "cert.pem" in ended.stderr
    assert "Traceback" not in ended.stderr


ADMIN_TOKEN = "0123456789abcdef"


def ask_admin(proxy: Process, path: str, change: bool = False) -> tuple[int, Any]:
    """What the admin listener of a proxy answers: the status, and the value of the body."""
    port = int(proxy.wait_for_log(r"Admin listener on (\d+)")[1])
    with closing(HTTPConnection(HOST, port, timeout=PATIENCE)) as connection:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_TOKEN}"}
        connection.request("POST" if change else "GET", path, b"{}" if change else None, headers)
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, json.loads(body) if body[:1] in {b"{", b"["} else body


@pytest.fixture
def admin(tmp_path: Path) -> list[str]:
    """The options of an admin listener."""
    token = tmp_path / "token"
    token.write_text(ADMIN_TOKEN)
    token.chmod(0o600)
    return ["--admin", "0", "--admin-token", str(token)]


def states_of(proxy: Process) -> dict[str, int]:
    """In how many workers server 9 is in which state."""
    policies = ask_admin(proxy, "/api/v1/figures")[1]["policies"]
    (server,) = (server for policy in policies for server in policy["servers"])
    states: dict[str, int] = server["states"]
    return states


def test_admin(admin: list[str], server: socket.socket) -> None:
    """Figures are those of both, a drain reaches both, and whoever replaces one knows of it."""
    with two_workers(*admin) as proxy, ExitStack() as stack:
        assert ask_admin(proxy, "/readyz") == (200, b"ready\n")
        connect_to_both(proxy, proxy.port, stack)
        figures = ask_admin(proxy, "/api/v1/figures")[1]
        assert [each["number"] for each in figures["processes"]] == [1, 2]
        assert (figures["counters"]["received"], figures["missing"]) == (4, [])
        assert b"rproxy_packets_received_total 4.0" in ask_admin(proxy, "/metrics")[1].splitlines()
        with only(proxy, 1), closing(Talk(proxy.port)) as talk:
            talk.send(f'{{"type":"1","id":"9","privPolyId":"111","listenport":"{server.getsockname()[1]}"}}'.encode())
            proxy.wait_for_log("Received setup message from server id 9")
            # The other one doesn't answer as it stands still.
            assert ask_admin(proxy, "/api/v1/figures")[1]["missing"] == [2]
        wait_for(lambda: sum(states_of(proxy).values()) == 2, PATIENCE, "both to know the server")
        assert ask_admin(proxy, "/api/v1/servers/9/drain", change=True) == (200, {"registrations": 1})
        assert states_of(proxy) == {"draining": 2}
        os.kill(workers_of(proxy.pid)[1], signal.SIGKILL)
        proxy.wait_for_log("Worker 1 is back")
        wait_for(lambda: sum(states_of(proxy).values()) == 2, PATIENCE, "both to know the server")
        assert states_of(proxy) == {"draining": 2}
        assert ask_admin(proxy, "/api/v1/servers/9/resume", change=True) == (200, {"registrations": 1})
        assert "draining" not in states_of(proxy)
        told = [each["kind"] for each in ask_admin(proxy, "/api/v1/happenings")[1]]
        assert [told.count(kind) for kind in ("registered", "drained", "resumed")] == [1, 1, 1], told
        assert proxy.stop() == 0


def test_admin_while_it_drains(admin: list[str], server: socket.socket) -> None:
    """It tells that the proxy is about to go as long as there is something to answer."""
    with two_workers("--drain-timeout", "20", *admin) as proxy, ExitStack() as stack:
        register(proxy, server, pipeline=64)
        talk = stack.enter_context(closing(Talk(proxy.port)))
        talk.send(data_packet("1", "111", "xyz1"))
        (came,) = (each for each, data in packets_for(server, 1, stack).items() if data)
        proxy.send_signal(signal.SIGTERM)
        wait_for(lambda: ask_admin(proxy, "/readyz")[0] == 503, PATIENCE, "the proxy to say that it drains")
        assert ask_admin(proxy, "/api/v1/figures")[1]["state"] == "draining"
        came.sendall(b'{"type":"2","srcid":"9","destid":"1","payload":"a","payloadsize":"1"}')
        assert talk.answer()["type"] == "2"
        assert proxy.wait() == 0
        proxy.stop()
        assert_faultless(proxy)
