"""From end to end: twistd with the proxy and with pool servers, ``rproxy send``, and sockets between them.

Everything here and in ``tests/test_endtoend_*.py`` runs as a user would run it, in processes of its own. Where a test
neither disturbs the proxy nor needs options, it uses one that all of its module share.
"""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import closing, suppress
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import HostnameEndpoint

from rproxy.client import Client, ProxyError, is_correct
from tests.classic import sha1_hex
from tests.endtoend import HOST, RPROXY, SECONDS, SECRET, TWISTD, Shared, assert_ack, assert_error, known_lines
from tests.support import FAULT, Group, Talk, data_packet, messages, run, wait_for


def test_terminals(group: Group) -> None:
    """The proxy, a pool server and ``rproxy send`` show, word for word, what people know."""
    proxy = group.proxy("--log-packets")
    server = group.pool_server(proxy.port, "100", "111", "--log-packets")
    digest = "b0400cf1f3919fdba057dbd2acc52f148fbb43ac"

    done = run([*RPROXY, "send", "--revproc", str(proxy.port), "--id", "1", "--pp", "111", "--payload", "xyz1"])

    assert known_lines(proxy) == [
        f"Running the reverse proxy on port {proxy.port}",
        f"Received setup message from server id 100 ip 127.0.0.1 privacy policy 111 port {server.port}",
        "Received a message from client 1 payload xyz1",
        f"Forwarding a data message to server id 100 server ip 127.0.0.1 port {server.port} payload xyz1",
        f"Received a data message from server id 100 payload {digest}",
    ]
    assert known_lines(server) == [
        "Server running with id 100",
        "Server serving privacy policy 111",
        f"Listening on port {server.port}",
        f"Connecting to the reverse proxy on port {proxy.port}",
        "Received a message from client 1 payload xyz1",
        f"Sending a message to the client 1 payload {digest}",
    ]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"Sending message xyz1 to privacy policy 111 through reverse proxy running on port {proxy.port}",
        f"Receiving a response from the server payload: {digest}",
        "Hash of payload is correct",
    ]


def test_payload_can_t_forge_a_line(group: Group) -> None:
    """It is escaped, and cut at 200 characters, on every terminal."""
    proxy = group.proxy("--log-packets")
    server = group.pool_server(proxy.port, "100", "111", "--log-packets")
    payload = "a\n2000-01-01T00:00:00+0000 [x#info] Received a message from client 2 payload \x1b[2J\u2028é" + "x" * 300
    shown = json.dumps(payload)[1:-1][:200]

    argv = [*RPROXY, "send", "--revproc", str(proxy.port), "--id", "1", "--pp", "111", "--payload", payload]
    done = run(argv)

    for process in proxy, server:
        assert f"Received a message from client 1 payload {shown}" in known_lines(process)
        assert len(messages(process.log)) == len(process.log.splitlines())
        assert not any(line.startswith("Received a message from client 2") for line in messages(process.log))
        assert "\x1b" not in process.log
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith(f"Sending message {shown} to privacy policy 111 through")


def test_no_payload_in_any_log(group: Group) -> None:
    """Without the option no log has anything of a payload, whatever becomes of the packet; the lifecycle is there."""
    proxy = group.proxy("--strict")
    server = group.pool_server(proxy.port, "100", "111")
    with closing(Talk(proxy.port)) as talk:
        assert_ack(talk.ask(data_packet("1", "111", SECRET)), "1", SECRET)
        assert_error(talk.ask(data_packet("1", "999", SECRET)), "no-server", "no", "1")
        assert_error(talk.ask(data_packet("1", "111", SECRET, payloadsize="1")), "bad-packet", "no", "1")
        assert_error(talk.ask(json.dumps({"type": SECRET, "srcid": "1"}).encode()), "bad-packet", "no", "1")
        assert_error(talk.ask(SECRET.encode()), "bad-packet", "no", "")
    with closing(Talk(server.port)) as talk:
        assert_error(talk.ask(data_packet("1", "999", SECRET)), "forbidden", "unknown", "1", "100")
        assert_error(talk.ask(SECRET.encode()), "bad-packet", "unknown", "", "100")
    group.close()

    for process in proxy, server:
        assert SECRET not in process.log
        assert sha1_hex(SECRET) not in process.log
    assert known_lines(proxy)[:2] == [
        f"Running the reverse proxy on port {proxy.port}",
        f"Received setup message from server id 100 ip 127.0.0.1 privacy policy 111 port {server.port}",
    ]
    assert "Registration of server id 100 for privacy policy 111 ended" in messages(proxy.log)
    assert known_lines(server) == [
        "Server running with id 100",
        "Server serving privacy policy 111",
        f"Listening on port {server.port}",
        f"Connecting to the reverse proxy on port {proxy.port}",
    ]
    assert f"Registered for privacy policy 111 at 127.0.0.1:{proxy.port}" in messages(server.log)


def test_listen(group: Group, tmp_path: Path) -> None:
    """Several endpoints, each with a line that says where it really is; a server can register over TCP only."""
    path = tmp_path / "socket"
    tcp = "tcp:0:interface=127.0.0.1"
    proxy = group.proxy("--listen", tcp, "--listen", tcp, "--listen", f"unix:{path}")
    proxy.wait_for_log("Running the reverse proxy on port .*" + re.escape(str(path)))
    ports = [int(line.removeprefix("Running the reverse proxy on port ")) for line in known_lines(proxy)[:2]]
    assert len({0, *ports}) == 3
    assert str(path) in known_lines(proxy)[2]
    group.pool_server(ports[1], "100", "111")

    everywhere: list[int | Path] = [*ports, path]
    for number, where in enumerate(everywhere):
        with closing(Talk(where)) as talk:
            assert_ack(talk.ask(data_packet("1", "111", f"xyz{number}")), "1", f"xyz{number}")
    with closing(Talk(path)) as talk:
        setup = {"type": "1", "id": "7", "privPolyId": "111", "listenport": "1"}
        assert_error(talk.ask(json.dumps(setup).encode()), "forbidden", "no", "7")


def test_port_in_use(group: Group, tmp_path: Path) -> None:
    """Twistd ends with a line that says what is wrong, and no traceback, also where it would have become a daemon."""
    port = str(group.proxy().port)
    pidfile, logfile = tmp_path / "pid", tmp_path / "log"
    plugins = ["rproxy", "--port", port], ["rpoolserver", "--id", "100", "--pp", "111", "--listen", port]
    said = re.compile(f"Can't listen on tcp:{port}:.* Address already in use")
    for plugin in plugins:
        done = run([*TWISTD, "-n", f"--pidfile={pidfile}", *plugin], tmp_path)
        assert (done.returncode, done.stderr) == (1, "")
        assert said.search(messages(done.stdout)[-1])
        assert "Traceback" not in done.stdout
        assert not pidfile.exists()

        done = run([*TWISTD, f"--logfile={logfile}", f"--pidfile={pidfile}", *plugin], tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"Can't listen on tcp:{port}:" in done.stderr
        # What would have become the daemon ends a moment later.
        wait_for(lambda: said.search(logfile.read_text()), SECONDS, "the line in the log")
        wait_for(lambda: not pidfile.exists(), SECONDS, "the removal of the pidfile")
        assert "Traceback" not in done.stderr + logfile.read_text()
        logfile.unlink()


def test_daemon(tmp_path: Path) -> None:
    """Without ``-n`` twistd returns when the proxy serves, which then runs on until it is told to stop."""
    pidfile, logfile = tmp_path / "pid", tmp_path / "log"
    argv = [*TWISTD, f"--pidfile={pidfile}", f"--logfile={logfile}", "rproxy", "--port", "0"]
    done = run(argv, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pid = int(pidfile.read_text())
    try:
        running = re.search(r"Running the reverse proxy on port (\d+)$", logfile.read_text(), re.MULTILINE)
        assert running is not None, logfile.read_text()
        port = int(running[1])
        with Group() as group, closing(Talk(port)) as talk:
            group.pool_server(port, "100", "111")
            assert_ack(talk.ask(data_packet("1", "111", "xyz1")), "1", "xyz1")
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: "Server Shut Down." in logfile.read_text(), SECONDS, "the last line of the log")
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        raise
    assert not pidfile.exists()
    assert not FAULT.search(logfile.read_text())
    with pytest.raises(ConnectionRefusedError):
        Talk(port)


@pytest_twisted.ensureDeferred
async def test_library(shared: Shared) -> None:
    """The client library: many packets at once over one connection, and errors as exceptions."""
    from twisted.internet import reactor

    client = Client(HostnameEndpoint(reactor, HOST, shared.port), "1", reactor, timeout=SECONDS)
    payloads = [f"{SECRET}{number}" for number in range(500)]
    acks = await gatherResults([client.send("111", payload) for payload in payloads], consumeErrors=True)
    assert all(is_correct(payload, ack) for payload, ack in zip(payloads, acks, strict=True))
    with pytest.raises(ProxyError) as raised:
        await client.send("999", SECRET)
    assert (raised.value.code, raised.value.delivered) == ("no-server", "no")
    await client.close()
