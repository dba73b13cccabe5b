"""From end to end: twistd with the proxy and with pool servers, ``rproxy send``, and sockets between them.

Everything here runs as a user would run it, in processes of its own. Where a test neither disturbs the proxy nor needs
options, it uses one that all of these share.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Self

import pytest
import pytest_twisted
from attrs import frozen
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import HostnameEndpoint

from rproxy import packets
from rproxy.client import Client, ProxyError, is_correct
from tests.classic import ClassicServer, sha1_hex
from tests.support import (
    FAULT,
    ROOT,
    Group,
    Talk,
    Twistd,
    data_packet,
    environment,
    free_port,
    messages,
    run,
    script,
    wait_for,
)

HOST = "127.0.0.1"
SECONDS = 20.0
MIB = 1 << 20
#: In every payload that goes through the shared proxy, which doesn't log packets.
SECRET = "xyz-secret"
RPROXY = script("rproxy")
TWISTD = script("twistd")


@pytest.fixture
def group() -> Iterator[Group]:
    """What one test starts."""
    with Group() as started:
        yield started


@frozen
class Shared:
    """A proxy and its pool servers: 100 and 101 of policy 111, and 200 of policy 222."""

    group: Group
    proxy: Twistd

    @property
    def port(self) -> int:
        """The proxy's."""
        return self.proxy.port


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """For tests that leave it as it was; no payload of theirs may be in any log in the end."""
    with Group() as group:
        proxy = group.proxy()
        for server_id, policy in ("100", "111"), ("101", "111"), ("200", "222"):
            group.pool_server(proxy.port, server_id, policy)
        yield Shared(group, proxy)
    for process in group.processes:
        assert SECRET not in process.log


def assert_ack(answer: dict[str, Any], client_id: str, payload: str) -> None:
    """Check that it is the ACK with the SHA-1 of that payload."""
    # Servers of the old kind give no size.
    found = answer["type"], answer["destid"], answer["payload"], answer.get("payloadsize", "40")
    assert found == ("2", client_id, sha1_hex(payload), "40"), answer


def assert_error(answer: dict[str, Any], code: str, delivered: str, client_id: str, server_id: str = "rproxy") -> None:
    """Check that it is such an error packet."""
    found = answer["type"], answer["error"], answer["delivered"], answer["destid"], answer["srcid"]
    assert found == ("3", code, delivered, client_id, server_id), answer
    assert answer["payloadsize"] == str(len(answer["payload"]))


def register_port(proxy: int, server_id: str, policy: str, port: int) -> None:
    """Register a server of the old kind at a port of this machine."""
    with closing(Talk(proxy)) as talk:
        setup = {"type": "1", "id": server_id, "privPolyId": policy, "listenport": str(port)}
        talk.send(json.dumps(setup).encode())


# What the terminals show, and what they don't.

#: How the lines begin that people and scripts know.
_KNOWN = re.compile(
    r"Running the |Received a |Received setup |Forwarding a |Server (running|serving) |Listening on |Connecting to |"
    r"Sending a "
)


def known_lines(process: Twistd) -> list[str]:
    """Return those lines of its log."""
    return [message for message in messages(process.log) if _KNOWN.match(message)]


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


# Where the proxy listens.


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


# The stream.


def test_half_closed(shared: Shared) -> None:
    """A client that has sent its packets and shut its writing side gets its answers, and then the end."""
    with closing(Talk(shared.port)) as talk:
        talk.send(*(data_packet(str(number), "111", f"{SECRET}{number}") for number in range(20)))
        talk.shut()
        for number in range(20):
            assert_ack(talk.answer(), str(number), f"{SECRET}{number}")
        talk.assert_end()


def test_any_cut(shared: Shared) -> None:
    """Packets may come byte by byte, with white space between, of two policies and in both spellings."""
    packets = [
        data_packet("1", "111", SECRET),
        b"\r\n\t ",
        json.dumps({"type": 0, "srcid": 2, "privPolyId": 222, "payload": SECRET, "x": [{}]}, indent=1).encode(),
    ]
    with closing(Talk(shared.port)) as talk:
        talk.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"".join(packets):
            talk.send(bytes([byte]))
        first, second = talk.answer(), talk.answer()
    assert_ack(first, "1", SECRET)
    assert first["srcid"] in {"100", "101"}
    assert_ack(second, "2", SECRET)
    assert second["srcid"] == "200"


def test_slow_reader(group: Group, tmp_path: Path) -> None:
    """A thousand packets in one write, far more than any buffer on the way holds, to a client that reads slowly."""
    (tmp_path / "echo.py").write_text("def echo(payload):\n    return payload\n")
    proxy = group.proxy()
    for server_id in "100", "101":
        group.pool_server(proxy.port, server_id, "111", "--handler", "echo:echo", cwd=tmp_path)
    filler = "x" * 10_000
    packets = [data_packet(str(number), "111", f"{number} {filler}") for number in range(1000)]

    with closing(Talk(proxy.port, receive_bytes=4096)) as talk, ThreadPoolExecutor(1) as writer:
        written = writer.submit(talk.send, *packets)
        answers = []
        for number in range(1000):
            answers.append(talk.answer(1 << 14))
            if not number % 8:
                time.sleep(0.001)  # what makes it slow; nothing is waited for
        written.result()
        talk.shut()
        talk.assert_end()

    assert [(answer["destid"], answer["payload"]) for answer in answers] == [
        (str(number), f"{number} {filler}") for number in range(1000)
    ]
    assert {answer["srcid"] for answer in answers} == {"100", "101"}


def test_pipelined(shared: Shared) -> None:
    """A thousand small packets in one write, in order, and read a few bytes at a time."""
    with closing(Talk(shared.port, receive_bytes=4096)) as talk:
        talk.send(*(data_packet(str(number), "111", f"{SECRET}{number}") for number in range(1000)))
        for number in range(1000):
            assert_ack(talk.answer(100), str(number), f"{SECRET}{number}")


def test_longest_packet(shared: Shared) -> None:
    """1 MiB is answered, not a byte more."""
    space = MIB - len(data_packet("1", "111", SECRET))
    longest = SECRET + "x" * space
    packet = data_packet("1", "111", longest)
    assert len(packet) == MIB
    with closing(Talk(shared.port)) as talk:
        talk.send(packet, data_packet("2", "111", SECRET), data_packet("3", "111", longest + "x"))
        assert_ack(talk.answer(), "1", longest)
        assert_ack(talk.answer(), "2", SECRET)
        assert_error(talk.answer(), "too-large", "no", "")
        talk.assert_end()


@pytest.mark.parametrize(
    ("code", "begin", "more"),
    [
        ("too-large", data_packet("1", "111", SECRET + "x" * MIB)[:-2], b"x"),
        ("bad-packet", SECRET.encode(), SECRET.encode()),
        ("bad-packet", b"[", data_packet("1", "111", SECRET)),
    ],
    ids=["too-large", "garbage", "list"],
)
def test_error_arrives(shared: Shared, code: str, begin: bytes, more: bytes) -> None:
    """What ends a stream is told while the client still sends, behind the answers to what it sent before."""
    enough = threading.Event()
    with closing(Talk(shared.port)) as talk, ThreadPoolExecutor(1) as writer:

        def send_on() -> int:
            sent = 0
            while not enough.is_set():
                sent += talk.socket.send(more * (1 + (1 << 14) // len(more)))
            return sent

        talk.send(data_packet("1", "111", SECRET), begin)
        sent = writer.submit(send_on)
        try:
            assert_ack(talk.answer(), "1", SECRET)
            assert_error(talk.answer(), code, "no", "")
            talk.assert_end()
        finally:
            enough.set()
        assert sent.result() > 0


def test_no_packet(shared: Shared) -> None:
    """An object that is no packet is refused in its place, and the connection goes on."""
    with closing(Talk(shared.port)) as talk:
        talk.send(
            data_packet("1", "111", SECRET),
            json.dumps({"type": "0", "srcid": "2", "payload": SECRET}).encode(),
            data_packet("3", "111", SECRET).replace(b"}", b', "privPoliId": "222"}'),
            data_packet("4", "111", SECRET),
        )
        assert_ack(talk.answer(), "1", SECRET)
        assert_error(talk.answer(), "bad-packet", "no", "2")
        assert_error(talk.answer(), "bad-packet", "no", "3")
        assert_ack(talk.answer(), "4", SECRET)


def test_unknown_policy(shared: Shared) -> None:
    """A policy that nobody serves is refused at once, and the connection goes on."""
    with closing(Talk(shared.port)) as talk:
        assert_error(talk.ask(data_packet("1", "999", SECRET)), "no-server", "no", "1")
        assert_ack(talk.ask(data_packet("1", "222", SECRET)), "1", SECRET)


def test_wrong_size(shared: Shared) -> None:
    """It is let pass."""
    with closing(Talk(shared.port)) as talk:
        assert_ack(talk.ask(data_packet("1", "111", SECRET, payloadsize="1")), "1", SECRET)


def test_strict(group: Group) -> None:
    """With ``--strict`` it isn't; a right size and none at all are."""
    proxy = group.proxy("--strict")
    group.pool_server(proxy.port, "100", "111")
    with closing(Talk(proxy.port)) as talk:
        assert_error(talk.ask(data_packet("1", "111", "xyz1", payloadsize="5")), "bad-packet", "no", "1")
        assert_ack(talk.ask(data_packet("1", "111", "xyz1", payloadsize="4")), "1", "xyz1")
        assert_ack(talk.ask(data_packet("1", "111", "é\U0001f600", payloadsize=2)), "1", "é\U0001f600")
        assert_ack(talk.ask(data_packet("1", "111", "xyz1")), "1", "xyz1")


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


# Limits.


def test_max_clients(group: Group) -> None:
    """A client beyond the limit waits to be accepted, and is served when another leaves."""
    proxy = group.proxy("--max-clients", "2")
    with ClassicServer((HOST, proxy.port), free_port(), "100", "111") as server, ExitStack() as stack:
        proxy.wait_for_log("Received setup message")
        assert server.listening.wait(SECONDS)
        first, second = (stack.enter_context(closing(Talk(proxy.port))) for _ in range(2))
        for talk in first, second:
            assert_ack(talk.ask(data_packet("1", "111", "begin")), "1", "begin")
        third = stack.enter_context(closing(Talk(proxy.port)))
        third.send(data_packet("3", "111", "third"))
        for number in range(5):
            for talk in first, second:
                assert_ack(talk.ask(data_packet("1", "111", f"{number}")), "1", f"{number}")
        assert "third" not in [packet["payload"] for packet in server.packets]

        first.close()
        assert_ack(third.answer(), "3", "third")
        assert_ack(second.ask(data_packet("2", "111", "second")), "2", "second")
        for talk in second, third:
            talk.shut()
            talk.assert_end()
        assert (server.faults, server.resets) == ([], 0)


def test_max_clients_at_once(group: Group) -> None:
    """The limit also holds where many connections wait to be accepted at the same time."""
    proxy = group.proxy("--max-clients", "2")
    with ClassicServer((HOST, proxy.port), free_port(), "100", "111") as server, ExitStack() as stack:
        proxy.wait_for_log("Received setup message")
        assert server.listening.wait(SECONDS)
        proxy.send_signal(signal.SIGSTOP)
        talks = [stack.enter_context(closing(Talk(proxy.port))) for _ in range(10)]
        for number, talk in enumerate(talks):
            talk.send(data_packet(str(number), "111", f"{number}"))
        proxy.send_signal(signal.SIGCONT)

        for served in range(0, 10, 2):
            for number in served, served + 1:
                assert_ack(talks[number].answer(), str(number), f"{number}")
            assert len(server.packets) == served + 2
            for number in served, served + 1:
                talks[number].shut()
                talks[number].assert_end()


def test_stopped_at_max_clients(group: Group) -> None:
    """A proxy that is full is stopped like any other."""
    proxy = group.proxy("--max-clients", "1")
    with closing(Talk(proxy.port)) as talk:
        assert_error(talk.ask(data_packet("1", "111", "xyz1")), "no-server", "no", "1")
        group.stop(proxy)


def test_idle_timeout(group: Group) -> None:
    """A client that is silent for so long is left; one that awaits an answer and a registered server are not."""
    proxy = group.proxy("--idle-timeout", "1")
    group.pool_server(proxy.port, "100", "111")
    with socket.create_server((HOST, 0)) as silent, ExitStack() as stack:
        register_port(proxy.port, "200", "222", silent.getsockname()[1])
        proxy.wait_for_log("Received setup message from server id 200")
        never_spoke, spoke, awaits = (stack.enter_context(closing(Talk(proxy.port))) for _ in range(3))
        awaits.send(data_packet("3", "222", "slow"))
        begin = time.monotonic()
        assert_ack(spoke.ask(data_packet("2", "111", "xyz1")), "2", "xyz1")
        spoke.assert_end()
        assert time.monotonic() - begin > 0.9
        never_spoke.assert_end()
        # Both came before the one that awaits its answer still, and is given it now.
        silent.settimeout(SECONDS)
        with silent.accept()[0] as connection:
            connection.settimeout(SECONDS)
            connection.recv(2048)
            connection.sendall(json.dumps({"type": "2", "srcid": "200", "destid": "3", "payload": "done"}).encode())
            assert awaits.answer()["payload"] == "done"
        with closing(Talk(proxy.port)) as talk:
            assert_ack(talk.ask(data_packet("1", "111", "xyz1")), "1", "xyz1")
    assert "ended" not in proxy.log


def test_timeout(group: Group) -> None:
    """A server that takes a packet and never answers: an error in time, and the packets behind it go on."""
    proxy = group.proxy("--timeout", "1")
    group.pool_server(proxy.port, "200", "222")
    with socket.create_server((HOST, 0)) as silent:
        register_port(proxy.port, "100", "111", silent.getsockname()[1])
        proxy.wait_for_log("Received setup message from server id 100")
        with closing(Talk(proxy.port)) as talk:
            begin = time.monotonic()
            talk.send(data_packet("1", "111", "xyz1"), data_packet("2", "222", "xyz2"))
            assert_error(talk.answer(), "timeout", "unknown", "1")
            assert time.monotonic() - begin > 0.9
            assert_ack(talk.answer(), "2", "xyz2")


def test_queue_timeout(group: Group) -> None:
    """A server that is down: the packet waits for it, in vain."""
    proxy = group.proxy("--queue-timeout", "0.5")
    register_port(proxy.port, "100", "111", free_port())
    proxy.wait_for_log("Received setup message from server id 100")
    with closing(Talk(proxy.port)) as talk:
        assert_error(talk.ask(data_packet("1", "111", "xyz1")), "no-server", "no", "1")


# Servers come and go.


class Load:
    """Clients that send for as long as they may, several packets in flight each; they check whose each answer is.

    :param clients: how many, each with a connection of its own.
    :param window: how many packets each has in flight.
    """

    def __init__(self, port: int, policy: str, clients: int = 4, window: int = 8) -> None:
        #: ``ACK``, or what an error said, for each packet in the order of the answers; and who answered.
        self.outcomes: list[str] = []
        self.servers: list[str] = []
        self._port = port
        self._policy = policy
        self._window = window
        self._over = threading.Event()
        self._clients = ThreadPoolExecutor(clients)
        self._results = [self._clients.submit(self._run, str(number)) for number in range(clients)]

    def more(self, answers: int = 200) -> None:
        """Wait for so many further answers."""
        wanted = len(self.outcomes) + answers

        def enough() -> bool:
            return len(self.outcomes) >= wanted or any(result.done() for result in self._results)

        wait_for(enough, SECONDS, f"{wanted} answers, having {len(self.outcomes)}")
        for result in self._results:
            if result.done():
                result.result()

    def stop(self) -> None:
        """Send no more, wait for the last answers, and for the end of each connection."""
        self._over.set()
        for result in self._results:
            result.result(SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._clients.shutdown()

    def _run(self, client_id: str) -> None:
        waiting: deque[str] = deque()
        number = 0
        with closing(Talk(self._port)) as talk:
            while waiting or not self._over.is_set():
                while len(waiting) < self._window and not self._over.is_set():
                    number += 1
                    waiting.append(f"{client_id}-{number}")
                    talk.send(data_packet(client_id, self._policy, waiting[-1]))
                if waiting:
                    self._take(talk.answer(), client_id, waiting.popleft())
            talk.shut()
            talk.assert_end()

    def _take(self, answer: dict[str, Any], client_id: str, payload: str) -> None:
        if answer["type"] == "2":
            assert_ack(answer, client_id, payload)
            self.servers.append(answer["srcid"])
            self.outcomes.append("ACK")
        else:
            assert answer["destid"] == client_id
            self.outcomes.append(f"{answer['error']}, {answer['delivered']}")


def test_killed_server(group: Group) -> None:
    """A server that crashes under load: an answer for each packet, and only what it had is lost."""
    proxy = group.proxy()
    crashes = group.pool_server(proxy.port, "100", "111")
    group.pool_server(proxy.port, "101", "111")
    with Load(proxy.port, "111") as load:
        load.more()
        group.kill(crashes)
        load.more()
        at_last = len(load.servers)
        load.more()
        load.stop()

    assert set(load.outcomes) <= {"ACK", "server-lost, unknown"}
    # It had no more than what all clients had in flight.
    assert Counter(load.outcomes)["server-lost, unknown"] <= 4 * 8
    assert set(load.servers[:at_last]) == {"100", "101"}
    assert set(load.servers[at_last:]) == {"101"}


def test_killed_server_had_packets(group: Group) -> None:
    """What a server had got when it crashed ends as lost, in its place among the answers."""
    proxy = group.proxy("--log-packets")
    hangs = group.pool_server(proxy.port, "100", "111")
    group.pool_server(proxy.port, "101", "111")
    hangs.send_signal(signal.SIGSTOP)
    with closing(Talk(proxy.port)) as talk:
        talk.send(*(data_packet(str(number), "111", f"xyz{number}") for number in range(6)))
        proxy.wait_for_log("Forwarding a data message to server id 100 .* payload xyz4$")
        group.kill(hangs)
        for number in range(0, 6, 2):
            assert_error(talk.answer(), "server-lost", "unknown", str(number))
            assert_ack(talk.answer(), str(number + 1), f"xyz{number + 1}")


_SLOW = """
from twisted.internet.task import deferLater
from rproxy.hashing import sha1_hex

async def slow(payload):
    from twisted.internet import reactor
    await deferLater(reactor, 0.02)
    return sha1_hex(payload)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """Return a folder with a handler that takes its time, so that there is always something in flight."""
    (tmp_path / "handlers.py").write_text(_SLOW)
    return tmp_path


def test_stopped_server(group: Group, slow: Path) -> None:
    """One of two servers is stopped under load, and started again: it drains, so nothing is refused or lost."""
    proxy = group.proxy()
    handler = ("--handler", "handlers:slow")
    servers = {each: group.pool_server(proxy.port, each, "111", *handler, cwd=slow) for each in ("100", "101")}
    with Load(proxy.port, "111") as load:
        for server_id, server in servers.items():
            load.more()
            group.stop(server)
            at_last = len(load.servers)
            load.more()
            assert server_id not in load.servers[at_last + 32 :]
            group.pool_server(proxy.port, server_id, "111", *handler, cwd=slow)
        load.more()
        load.stop()

    assert set(load.outcomes) == {"ACK"}
    assert set(load.servers[-100:]) == {"100", "101"}


def test_stopped_only_server(group: Group, slow: Path) -> None:
    """The only server is stopped under load, and started again: its packets wait for it."""
    proxy = group.proxy("--queue-timeout", str(SECONDS))
    handler = ("--handler", "handlers:slow")
    server = group.pool_server(proxy.port, "100", "111", *handler, cwd=slow)
    with Load(proxy.port, "111") as load:
        load.more()
        group.stop(server)
        group.pool_server(proxy.port, "100", "111", *handler, cwd=slow)
        load.more()
        load.stop()

    assert set(load.outcomes) == {"ACK"}


_HANDLERS = """
def picky(payload):
    if payload.startswith("bad"):
        raise ValueError("the secret reason")
    return payload[::-1]
"""


def test_handler(group: Group, tmp_path: Path) -> None:
    """A handler of one's own; where it raises, its packet has failed, and the connection lives on."""
    (tmp_path / "handlers.py").write_text(_HANDLERS)
    proxy = group.proxy()
    server = group.pool_server(proxy.port, "100", "111", "--handler", "handlers:picky", cwd=tmp_path)
    with closing(Talk(proxy.port)) as talk:
        talk.send(*(data_packet(str(n), "111", payload) for n, payload in enumerate(("abc", "bad", "def"))))
        assert talk.answer()["payload"] == "cba"
        failed = talk.answer()
        assert_error(failed, "failed", "unknown", "1", "100")
        assert "secret" not in failed["payload"]
        assert talk.answer()["payload"] == "fed"
        assert talk.ask(data_packet("1", "111", "ghi"))["payload"] == "ihg"

    assert "The handler failed on a message from client 1" in server.log
    # The line of the failure, and its traceback: for whoever wrote the handler.
    group.stop(server, faults=2)
    assert server.log.count("ValueError: the secret reason") == 1
    assert "is down" not in proxy.log


def test_proxy_starts_again(group: Group) -> None:
    """Pool servers register again by themselves, also where the proxy crashed."""
    proxy = group.proxy()
    port = str(proxy.port)
    servers = [group.pool_server(proxy.port, each, "111") for each in ("100", "101")]
    for end in group.stop, group.kill:
        end(proxy)
        for server in servers:
            server.wait_for_log(f"Lost the registration for privacy policy 111 at 127.0.0.1:{port}")
        proxy = group.proxy("--port", port)
        for server_id in "100", "101":
            proxy.wait_for_log(f"Received setup message from server id {server_id} ")
        with closing(Talk(proxy.port)) as talk:
            answers = [talk.ask(data_packet("1", "111", f"xyz{number}")) for number in range(4)]
        assert Counter(answer["srcid"] for answer in answers) == {"100": 2, "101": 2}


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process open as many files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_many_servers_at_once(group: Group) -> None:
    """A thousand servers come, go and come back in the same moment: no client's packet is refused meanwhile."""
    proxy = group.proxy()
    group.pool_server(proxy.port, "100", "111")
    ids = [f"many-{number}" for number in range(1000)]
    setups = [packets.setup(each, "222", port, pipeline=8, lease=60) for port, each in enumerate(ids, start=1)]
    with Load(proxy.port, "111") as load:
        load.more()
        for _ in range(2):
            with ExitStack() as leases:
                servers = [leases.enter_context(closing(Talk(proxy.port))) for _ in setups]
                for server, setup in zip(servers, setups, strict=True):
                    server.send(setup)
                for server, each in zip(servers, ids, strict=True):
                    answer = server.answer()
                    assert (answer["type"], answer["destid"], answer["payload"]) == ("2", each, "registered")
            load.more()
        load.stop()

    assert set(load.outcomes) == {"ACK"}


# The command.


def rproxy_send(port: int, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``rproxy send``."""
    return run([*RPROXY, "send", "--revproc", str(port), *arguments], stdin=stdin)


def test_send(shared: Shared, tmp_path: Path) -> None:
    """Files and standard input, one after the other: all correct is 0."""
    file = tmp_path / "packet.json"
    file.write_bytes(data_packet("1", "222", f"{SECRET}\n") + b"\n")
    done = rproxy_send(shared.port, "--pkt", str(file), "--pkt", "-", stdin=data_packet("2", "111", SECRET).decode())

    through = f"through reverse proxy running on port {shared.port}"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"Sending message {SECRET}\\n to privacy policy 222 {through}",
        f"Receiving a response from the server payload: {sha1_hex(SECRET + chr(10))}",
        "Hash of payload is correct",
        f"Sending message {SECRET} to privacy policy 111 {through}",
        f"Receiving a response from the server payload: {sha1_hex(SECRET)}",
        "Hash of payload is correct",
    ]


def test_send_goes_wrong(shared: Shared) -> None:
    """An error packet is 1, and is told on standard error too."""
    done = rproxy_send(shared.port, "--id", "1", "--pp", "999", "--payload", SECRET)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"Sending message {SECRET} to privacy policy 999 through reverse proxy running on port {shared.port}",
        "Receiving a response from the server payload: no server serves policy 999",
        "Hash of payload is incorrect",
    ]
    assert done.stderr == (
        f"rproxy send: 127.0.0.1:{shared.port}: no-server (delivered: no), no server serves policy 999\n"
    )


def test_send_to_nobody() -> None:
    """No proxy is 1."""
    port = free_port()
    done = rproxy_send(port, "--id", "1", "--pp", "111", "--payload", SECRET)

    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"Sending message {SECRET} to privacy policy 111 through reverse proxy running on port {port}"
    ]
    begin = f"rproxy send: 127.0.0.1:{port}: connection-lost (delivered: no), there is no connection to the proxy: "
    assert done.stderr.startswith(begin)
    assert done.stderr.count("\n") == 1


def test_send_nonsense(shared: Shared) -> None:
    """Bad usage is 2, with what is wrong on standard error, and nothing is sent."""
    for arguments, said in (
        (["--pkt", str(ROOT / "setup.cfg")], "is no data packet: not JSON"),
        (["--payload", SECRET], "rproxy send: --payload needs --id and --pp\n"),
        ([], "one of the arguments --pkt --payload is required"),
    ):
        done = rproxy_send(shared.port, *arguments)

        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert not FAULT.search(done.stderr)


def test_send_json(shared: Shared) -> None:
    """With ``--json`` the packets are printed as they go and come."""
    packet = data_packet("1", "222", SECRET)
    done = rproxy_send(shared.port, "--json", "--pkt", "-", stdin=packet.decode())
    assert (done.returncode, done.stderr) == (0, "")
    sent, came = done.stdout.splitlines()
    assert sent == packet.decode()
    assert json.loads(came) == {
        "type": "2",
        "srcid": "200",
        "destid": "1",
        "payload": sha1_hex(SECRET),
        "payloadsize": "40",
    }

    done = rproxy_send(shared.port, "--json", "--id", "1", "--pp", "999", "--payload", SECRET)
    assert (done.returncode, done.stderr) == (1, "")
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["0", "3"]


def test_send_interrupted() -> None:
    """Stopped from the keyboard, while it waits for an answer, it ends without a traceback."""
    with socket.create_server((HOST, 0)) as silent:
        port = str(silent.getsockname()[1])
        argv = [*RPROXY, "send", "--revproc", port, "--id", "1", "--pp", "111", "--payload", "xyz1"]
        with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sending:
            try:
                silent.settimeout(SECONDS)
                with silent.accept()[0] as connection:
                    connection.settimeout(SECONDS)
                    assert connection.recv(2048)
                    sending.send_signal(signal.SIGINT)
                    _, err = sending.communicate(timeout=SECONDS)
            finally:
                sending.kill()
    assert (sending.returncode, err) == (130, b"")
