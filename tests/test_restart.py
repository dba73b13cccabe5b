"""A proxy is started again, from end to end: clients and servers that run through it need no help."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from rproxy import packets
from rproxy.client import Client, ProxyError, is_correct
from tests.classic import ClassicServer, sha1_hex
from tests.support import POLL_SECONDS, Group, Talk, Twistd, data_packet, environment, free_port, script, wait_for
from tests.workers import is_running, workers_of

HOST = "127.0.0.1"
SECONDS = 30.0

#: What a pool server does: every packet that it gets is written down, in a file for each process.
HANDLERS = """
import os
from rproxy.hashing import sha1_hex

def note(payload):
    with open(f"journal-{os.getpid()}", "a") as journal:
        print(payload, file=journal)
    return sha1_hex(payload)
"""


async def until(predicate: Callable[[], bool], what: str) -> None:
    """Return when it is true; the reactor runs meanwhile."""
    from twisted.internet import reactor

    deadline = reactor.seconds() + SECONDS
    while not predicate():
        assert reactor.seconds() < deadline, f"waited {SECONDS} s for {what}"
        await deferLater(reactor, POLL_SECONDS)


@implementer(IStreamClientEndpoint)
class Counted:
    """An endpoint that counts the attempts to connect to it."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint
        self.attempts = 0

    def connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        self.attempts += 1
        return self._endpoint.connect(factory)


class Stream:
    """Sends packets of one policy through a client, a few at a time, until it is told to stop."""

    def __init__(self, client: Client, window: int = 8) -> None:
        #: What came of each packet, in the order of the answers: ``ACK``, or what the error said.
        self.outcomes: dict[str, str] = {}
        self._client = client
        self._over = False
        self._workers = [Deferred.fromCoroutine(self._work(number)) for number in range(window)]

    async def more(self, answers: int = 200) -> None:
        """Wait for so many further answers."""
        wanted = len(self.outcomes) + answers

        def enough() -> bool:
            return len(self.outcomes) >= wanted or any(worker.called for worker in self._workers)

        await until(enough, f"{wanted} answers")
        assert not any(worker.called for worker in self._workers)

    async def stop(self) -> None:
        """Send no more, and wait for the last answers."""
        self._over = True
        await gatherResults(self._workers, consumeErrors=True)

    async def _work(self, worker: int) -> None:
        number = 0
        while not self._over:
            number += 1
            payload = f"{worker}-{number}"
            try:
                ack = await self._client.send("111", payload)
            except ProxyError as error:
                self.outcomes[payload] = str(error)
            else:
                assert is_correct(payload, ack)
                self.outcomes[payload] = "ACK"


class Hold:
    """A packet that a proxy has in flight until :meth:`release`: so long, and no longer, it can't have drained."""

    def __init__(self, proxy: Twistd) -> None:
        self._server = socket.create_server((HOST, 0))
        self._server.settimeout(SECONDS)
        with closing(Talk(proxy.port)) as talk:
            talk.send(packets.setup("held", "222", self._server.getsockname()[1]))
        proxy.wait_for_log("Received setup message from server id held ")
        self._client = Talk(proxy.port)
        self._client.send(data_packet("1", "222", "held"))
        self._connection, _ = self._server.accept()
        self._connection.settimeout(SECONDS)
        self._connection.recv(2048)

    def release(self) -> None:
        """Answer it."""
        with self._server, closing(self._client), self._connection:
            self._connection.sendall(packets.ack("held", "1", "done"))
            assert self._client.answer()["payload"] == "done"


def journals(folder: Path) -> Counter[str]:
    """Return how often each payload reached a server."""
    return Counter(line for journal in folder.glob("journal-*") for line in journal.read_text().splitlines())


def start(group: Group, folder: Path) -> Twistd:
    """Start a proxy and two pool servers that write their journals there."""
    (folder / "handlers.py").write_text(HANDLERS)
    proxy = group.proxy()
    for server_id in "100", "101":
        group.pool_server(proxy.port, server_id, "111", "--handler", "handlers:note", cwd=folder)
    return proxy


@pytest_twisted.ensureDeferred
async def test_stopped(group: Group, tmp_path: Path) -> None:
    """A steady stream runs through an orderly restart: every packet is acknowledged, and reaches a server once."""
    from twisted.internet import reactor

    proxy = start(group, tmp_path)
    endpoint = Counted(HostnameEndpoint(reactor, HOST, proxy.port))
    client = Client(endpoint, "1", reactor, resend=True)
    stream = Stream(client)
    await stream.more()

    # The proxy is there for as long as it takes the client to hear that it is to look for another.
    hold = Hold(proxy)
    stopping = deferToThread(group.stop, proxy)
    await until(lambda: endpoint.attempts > 1, "the client to connect again")
    hold.release()
    await stopping
    again = await deferToThread(group.proxy, "--port", str(proxy.port))
    await stream.more()
    for server_id in "100", "101":
        await deferToThread(again.wait_for_log, f"Received setup message from server id {server_id} ")
    await stream.stop()
    await client.close()

    assert {*stream.outcomes.values()} == {"ACK"}
    assert journals(tmp_path) == Counter([*stream.outcomes])


@pytest_twisted.ensureDeferred
async def test_crashed(group: Group, tmp_path: Path) -> None:
    """Through a crash too; what was in flight then is told apart, and isn't sent again."""
    from twisted.internet import reactor

    proxy = start(group, tmp_path)
    client = Client(HostnameEndpoint(reactor, HOST, proxy.port), "1", reactor, resend=True)
    stream = Stream(client, window=8)
    await stream.more()

    await deferToThread(group.kill, proxy)
    await deferToThread(group.proxy, "--port", str(proxy.port))
    await stream.more()
    await stream.stop()
    await client.close()

    lost = {payload for payload, outcome in stream.outcomes.items() if outcome != "ACK"}
    assert all(stream.outcomes[payload].startswith("connection-lost, delivered: unknown: ") for payload in lost)
    assert len(lost) <= 8
    came = journals(tmp_path)
    assert {*came.values()} == {1}
    assert {*stream.outcomes} - lost <= {*came} <= {*stream.outcomes}


#: Servers of the old kind, which register once for all lives of a proxy: their ids, by policy.
CLASSIC = {"111": ("100", "101"), "222": ("200", "201"), "PP_3": ("300",)}
RESTARTS = 10


class Load:
    """A thread that sends packets of one policy, over a connection each, as long as it is entered."""

    def __init__(self, port: int, policy: str) -> None:
        self.policy = policy
        #: Who answered, and what was refused why, in the order of the answers.
        self.servers: list[str] = []
        self.errors: list[str] = []
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(SECONDS)

    def _run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            try:
                with closing(Talk(self._port)) as talk:
                    answer = talk.ask(data_packet("1", self.policy, f"{number}"))
            except (OSError, AssertionError):
                # There is no proxy, or not the one any more that was connected to.
                self._over.wait(POLL_SECONDS)
                continue
            if answer["type"] == "2" and answer["payload"] == sha1_hex(f"{number}"):
                self.servers.append(answer["srcid"])
            else:
                self.errors.append(answer.get("error", f"{answer}"))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_classic_servers_stay_registered(group: Group, tmp_path: Path, workers: str) -> None:
    """They register once; then the proxy is stopped and killed in turn, and each of its lives knows them all."""
    port = free_port()
    arguments = ("--port", str(port), "--registry", f"sqlite:{tmp_path / 'registry'}", "--workers", workers)
    proxy = group.proxy(*arguments)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(ClassicServer((HOST, port), free_port(), server_id, policy))
            for policy, server_ids in CLASSIC.items()
            for server_id in server_ids
        ]
        loads = [stack.enter_context(Load(port, policy)) for policy in CLASSIC]
        wait_until_served(proxy, loads)
        for load in loads:
            load.errors.clear()
        for number in range(RESTARTS):
            pids = workers_of(proxy.pid).values()
            if number % 2:
                group.kill(proxy)
            else:
                group.stop(proxy)
            # Without their parent they answer their last packets, and the port is theirs until they have closed it.
            wait_for(lambda pids=pids: not any(map(is_running, pids)), SECONDS, "the workers to be gone")  # type: ignore[misc]
            proxy = group.proxy(*arguments)
            wait_until_served(proxy, loads)
            assert "Received setup message" not in proxy.log
        for server in servers:
            assert (server.faults, server.connections > RESTARTS) == ([], True)
    assert {error for load in loads for error in load.errors} <= {"shutting-down"}


def wait_until_served(proxy: Twistd, loads: list[Load]) -> None:
    """Wait until all servers have answered from now on."""
    for load in loads:
        before = len(load.servers)
        wanted = {*CLASSIC[load.policy]}
        try:
            wait_for(lambda: wanted <= {*load.servers[before:]}, SECONDS, f"all of {wanted}")  # noqa: B023 - at once
        except AssertionError as error:
            raise AssertionError(f"{error}, not just {load.servers[before:][-5:]}:\n{proxy.log}") from None


def test_send_keeps_trying(group: Group) -> None:
    """``rproxy send --keep-trying`` meets a proxy that stops, then none, then one that answers."""
    port = free_port()
    argv = [*script("rproxy"), "send", "--keep-trying", "--revproc", str(port)]
    packet = ["--id", "1", "--pp", "111", "--payload", "xyz1"]
    with (
        socket.create_server((HOST, port)) as stops,
        subprocess.Popen([*argv, *packet], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as send,
    ):
        try:
            with stops:
                stops.settimeout(SECONDS)
                with stops.accept()[0] as connection:
                    connection.settimeout(SECONDS)
                    assert connection.recv(2048) == packets.data("1", "111", "xyz1")
                    connection.sendall(packets.error("rproxy", "1", "shutting-down", "no", "the proxy is stopping"))
            proxy = group.proxy("--port", str(port))
            group.pool_server(proxy.port, "100", "111")
            out, err = send.communicate(timeout=SECONDS)
        finally:
            send.kill()

    assert (send.returncode, err) == (0, b"")
    assert out.decode().splitlines() == [
        f"Sending message xyz1 to privacy policy 111 through reverse proxy running on port {port}",
        "Receiving a response from the server payload: b0400cf1f3919fdba057dbd2acc52f148fbb43ac",
        "Hash of payload is correct",
    ]


def test_send_keeps_trying_in_vain() -> None:
    """Until its time is over, with the reason; or until it is told to stop."""
    port = free_port()
    argv = [*script("rproxy"), "send", "--keep-trying", "--revproc", str(port), "--id=1", "--pp=111", "--payload=xyz1"]
    done = subprocess.run(
        [*argv, "--timeout", "0.5"], env=environment(), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 1
    begin = f"rproxy send: 127.0.0.1:{port}: timeout (delivered: no), no answer within 0.5 seconds, and no connection"
    assert done.stderr.startswith(begin)

    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as send:
        try:
            assert send.stdout is not None
            assert send.stdout.readline().startswith(b"Sending message")
            send.terminate()
            _, err = send.communicate(timeout=SECONDS)
        finally:
            send.kill()
    assert (send.returncode, err) == (130, b"")
