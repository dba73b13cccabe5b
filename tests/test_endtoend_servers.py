"""Servers that come and go, from end to end, and so does the proxy."""

from __future__ import annotations

import resource
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import pytest

from rproxy import packets
from tests.endtoend import SECONDS, assert_ack, assert_error
from tests.support import Group, Talk, data_packet, wait_for


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
