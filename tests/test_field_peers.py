"""Peers that are already deployed go on working, unchanged, with every part of ours in the place of theirs.

The classic peers are those of ``tests/classic.py``, in threads; what is ours runs in processes of its own.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread

from rproxy.client import Client, is_correct
from rproxy.pool.handling import Handling
from rproxy.pool.leasing import Offer
from rproxy.pool.patience import OLD_PROXY_INTERVAL
from rproxy.pool.registrar import Registrar
from rproxy.pool.server import PoolServerFactory
from tests.classic import ClassicProxy, ClassicServer, Peer, Reply, send, sha1_hex
from tests.support import (
    POLL_SECONDS,
    ROOT,
    Group,
    Process,
    Talk,
    Twistd,
    data_packet,
    free_port,
    run,
    script,
    wait_for,
)

HOST = "127.0.0.1"
SECONDS = 20.0
#: The sample packets in the order of their numbers.
SAMPLES = sorted((ROOT / "pktfiles").glob("*.json"), key=lambda path: int(path.stem))


class Field(Group):
    """Processes of ours and classic peers, none of which may have been disturbed when it is over."""

    def __init__(self) -> None:
        super().__init__()
        self._peers: list[Peer] = []

    def classic_server(
        self, proxy: Twistd | ClassicProxy, server_id: str, policy: str, delay: float = 0.0
    ) -> ClassicServer:
        """Start a classic server, and return when the proxy knows it and, without a delay, its port is open."""
        server = ClassicServer((HOST, proxy.port), free_port(), server_id, policy, delay=delay)
        self._peers.append(server.start())
        if isinstance(proxy, ClassicProxy):
            wait_for(lambda: server_id in proxy.servers(policy), SECONDS, "the setup packet")
        else:
            proxy.wait_for_log(
                f"Received setup message from server id {server_id} ip {HOST} privacy policy {policy}"
                f" port {server.port}$"
            )
        if not delay:
            assert server.listening.wait(SECONDS)
        return server

    def classic_proxy(self, port: int = 0) -> ClassicProxy:
        """Start a classic proxy."""
        proxy = ClassicProxy(port)
        self._peers.append(proxy.start())
        return proxy

    def close(self) -> None:
        """Stop everything, and look at each peer."""
        with ExitStack() as stack:
            for peer in self._peers:
                stack.callback(_assert_undisturbed, peer)
            # Before the classic proxies: a server of ours would else try to find them again.
            stack.callback(super().close)


def _assert_undisturbed(peer: Peer) -> None:
    peer.stop()
    assert (peer.faults, peer.resets) == ([], 0)


@pytest.fixture
def field() -> Iterator[Field]:
    """What one test starts."""
    with Field() as started:
        yield started


def send_sample(port: int, path: Path) -> Reply:
    """Be a classic client with the packet of a file."""
    packet = json.loads(path.read_text())
    return send(HOST, port, packet["srcid"], packet["privPoliId"], packet["payload"], patience=SECONDS)


def assert_right(reply: Reply, packet: dict[str, Any], served: dict[str, set[str]]) -> None:
    """Check that the right server answered the right thing to the right client.

    :param served: the ids of the servers of each policy.
    """
    assert reply.hash_ok, reply.packet
    assert reply.packet["type"] == "2"
    assert reply.packet["destid"] == packet["srcid"]
    assert reply.packet["srcid"] in served[packet["privPoliId"]]


def sent_ids(replies: list[Reply]) -> list[str]:
    """Return which server answered each."""
    return [reply.packet["srcid"] for reply in replies]


# Our proxy.


def test_samples_one_by_one(field: Field) -> None:
    """Each sample packet is answered rightly, by a server of its policy, and reaches that server as it was sent."""
    proxy = field.proxy()
    served = {"111": {"100", "101"}, "222": {"200", "201"}}
    servers = [field.classic_server(proxy, each, policy) for policy, ids in served.items() for each in sorted(ids)]
    assert len(SAMPLES) == 15

    for path in SAMPLES:
        assert_right(send_sample(proxy.port, path), json.loads(path.read_text()), served)

    got = [packet for server in servers for packet in server.packets]
    assert sorted(got, key=lambda packet: int(packet["srcid"])) == [json.loads(path.read_text()) for path in SAMPLES]
    assert [server.connections for server in servers] == [len(server.packets) for server in servers]


def test_clients_at_once(field: Field) -> None:
    """Four clients at a time."""
    proxy = field.proxy()
    served = {"111": {"100", "101"}, "222": {"200", "201"}}
    for policy, ids in served.items():
        for each in sorted(ids):
            field.classic_server(proxy, each, policy)

    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(partial(send_sample, proxy.port), SAMPLES * 8))

    for path, reply in zip(SAMPLES * 8, replies, strict=True):
        assert_right(reply, json.loads(path.read_text()), served)


def test_more_clients_than_a_server_can_queue(field: Field) -> None:
    """A server with a backlog of 10 is never connected to more often than it can bear."""
    proxy = field.proxy()
    server = field.classic_server(proxy, "100", "111")

    with ExitStack() as stack:
        talks = [stack.enter_context(closing(Talk(proxy.port))) for _ in range(64)]
        for number, talk in enumerate(talks):
            talk.send(data_packet(str(number), "111", f"xyz{number}"))
        answers = [talk.answer() for talk in talks]

    assert [answer["payload"] for answer in answers] == [sha1_hex(f"xyz{number}") for number in range(64)]
    assert server.connections == 64


def test_rotation(field: Field) -> None:
    """Packets 1 to 5 of a policy go to servers 1, 2, 1, 2, 1, whatever comes for another policy in between."""
    proxy = field.proxy()
    for server_id, policy in ("1", "111"), ("3", "222"), ("2", "111"):
        field.classic_server(proxy, server_id, policy)

    replies = []
    for number in range(1, 6):
        replies.append(send(HOST, proxy.port, str(number), "111", f"xyz{number}", patience=SECONDS))
        assert send(HOST, proxy.port, "x", "222", "other", patience=SECONDS).packet["srcid"] == "3"

    assert sent_ids(replies) == ["1", "2", "1", "2", "1"]
    assert all(reply.hash_ok for reply in replies)


def test_server_binds_after_it_registered(field: Field) -> None:
    """Packets that come while a server is registered and doesn't listen yet are answered once it does."""
    proxy = field.proxy("--queue-timeout", str(SECONDS))
    server = field.classic_server(proxy, "100", "111", delay=3600)

    with ThreadPoolExecutor(3) as clients:
        early = [clients.submit(send, HOST, proxy.port, "1", "111", f"early{number}") for number in range(3)]
        proxy.wait_for_log(rf"Server at {HOST} port {server.port} is down: .*refused")
        assert not any(each.done() for each in early)
        server.bind_now()
        assert [each.result().hash_ok for each in early] == [True] * 3
    assert send(HOST, proxy.port, "1", "111", "late", patience=SECONDS).hash_ok

    assert sorted(packet["payload"] for packet in server.packets) == ["early0", "early1", "early2", "late"]


def test_server_binds_in_time(field: Field) -> None:
    """The same with the time that packets wait unless told otherwise, and another server that is there meanwhile."""
    proxy = field.proxy()
    field.classic_server(proxy, "100", "111")
    late = field.classic_server(proxy, "101", "111", delay=3600)

    replies = [send(HOST, proxy.port, "1", "111", f"early{number}", patience=SECONDS) for number in range(4)]
    assert sent_ids(replies) == ["100"] * 4
    late.bind_now()
    proxy.wait_for_log(rf"Server at {HOST} port {late.port} is up again")
    replies += [send(HOST, proxy.port, "1", "111", f"late{number}", patience=SECONDS) for number in range(4)]

    assert Counter(sent_ids(replies)) == {"100": 6, "101": 2}
    assert all(reply.hash_ok for reply in replies)


def test_server_starts_again(field: Field) -> None:
    """A server that died comes back at another port, under its old id: the new port is the one that counts."""
    proxy = field.proxy()
    first = field.classic_server(proxy, "100", "111")
    assert send(HOST, proxy.port, "1", "111", "a", patience=SECONDS).hash_ok
    first.stop()
    second = field.classic_server(proxy, "100", "111")
    assert send(HOST, proxy.port, "1", "111", "b", patience=SECONDS).hash_ok

    assert [packet["payload"] for packet in second.packets] == ["b"]


def test_classic_beside_modern_servers(field: Field) -> None:
    """Servers of both kinds share a policy evenly."""
    proxy = field.proxy()
    field.classic_server(proxy, "100", "111")
    field.pool_server(proxy.port, "101", "111")
    field.classic_server(proxy, "102", "111")
    field.pool_server(proxy.port, "103", "111")

    replies = [send(HOST, proxy.port, str(n), "111", f"xyz{n}", patience=SECONDS) for n in range(20)]

    assert all(reply.hash_ok for reply in replies)
    assert sent_ids(replies) == ["100", "101", "102", "103"] * 5


def test_pipelining_over_servers_of_both_kinds(field: Field) -> None:
    """What comes all at once is spread over both kinds, and the answers have the order of the packets."""
    proxy = field.proxy()
    classic = field.classic_server(proxy, "100", "111")
    field.pool_server(proxy.port, "101", "111")

    with closing(Talk(proxy.port)) as talk:
        talk.send(*(data_packet(str(number), "111", f"xyz{number}") for number in range(300)))
        answers = [talk.answer() for _ in range(300)]

    assert [(answer["destid"], answer["payload"]) for answer in answers] == [
        (str(number), sha1_hex(f"xyz{number}")) for number in range(300)
    ]
    by_server = Counter(answer["srcid"] for answer in answers)
    assert by_server["100"] == classic.connections >= 8


def test_classic_client_and_modern_servers(field: Field) -> None:
    """A classic client gets all that it needs in its one read."""
    proxy = field.proxy()
    served = {"111": {"100", "101"}, "222": {"200"}}
    field.pool_server(proxy.port, "100", "111")
    field.pool_server(proxy.port, "200", "222")
    field.pool_server(proxy.port, "101", "111")

    with ThreadPoolExecutor(4) as clients:
        replies = list(clients.map(partial(send_sample, proxy.port), SAMPLES))

    for path, reply in zip(SAMPLES, replies, strict=True):
        assert_right(reply, json.loads(path.read_text()), served)


def test_classic_client_gets_an_error(field: Field) -> None:
    """It prints the sentence for people that the error packet has where ACKs have their payload."""
    lines: list[str] = []
    reply = send(HOST, field.proxy().port, "1", "999", "xyz1", say=lines.append, patience=SECONDS)

    assert not reply.hash_ok
    assert (reply.packet["type"], reply.packet["error"], reply.packet["delivered"]) == ("3", "no-server", "no")
    assert lines[1:] == [
        f"Receiving a response from the server payload: {reply.packet['payload']}",
        "Hash of payload is incorrect",
    ]


def test_terminals_of_classic_peers(field: Field) -> None:
    """As scripts, with our proxy between them, they show what they always did."""
    proxy = field.proxy()
    digest = sha1_hex("xyz1")
    port = free_port()
    to_proxy = ("--proxy-port", str(proxy.port))
    argv = [sys.executable, "-m", "tests.classic"]
    with Process([*argv, "server", *to_proxy, "--port", str(port)], ready="Connecting to") as server:
        proxy.wait_for_log(f"privacy policy 111 port {port}$")
        with Process([*argv, "client", *to_proxy], ready="Hash") as client:
            assert client.wait() == 0
        assert client.log.splitlines() == [
            f"Sending message xyz1 to privacy policy 111 through reverse proxy running on port {proxy.port}",
            f"Receiving a response from the server payload: {digest}",
            "Hash of payload is correct",
        ]
        assert server.log.splitlines()[4:] == [
            "Received a message from client 1 payload xyz1",
            f"Sending a message to the client 1 payload {digest}",
        ]


# The classic proxy.


def test_send_through_the_classic_proxy(field: Field) -> None:
    """``rproxy send`` works with it."""
    proxy = field.classic_proxy()
    field.classic_server(proxy, "100", "111")

    done = run([*script("rproxy"), "send", "--revproc", str(proxy.port), "--pkt", str(ROOT / "pktfiles" / "1.json")])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"Sending message xyz1 to privacy policy 111 through reverse proxy running on port {proxy.port}",
        f"Receiving a response from the server payload: {sha1_hex('xyz1')}",
        "Hash of payload is correct",
    ]


def test_send_several_through_the_classic_proxy(field: Field) -> None:
    """Also with several packets, though it closes each connection after one."""
    proxy = field.classic_proxy()
    field.classic_server(proxy, "100", "111")
    field.classic_server(proxy, "200", "222")

    files = [argument for path in SAMPLES for argument in ("--pkt", str(path))]
    done = run([*script("rproxy"), "send", "--revproc", str(proxy.port), *files])

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Hash of payload is correct\n") == len(SAMPLES)


def within(deferred: Deferred[Any]) -> Deferred[Any]:
    """Let a test fail where something never fires."""
    from twisted.internet import reactor

    return deferred.addTimeout(SECONDS, reactor)


@pytest_twisted.ensureDeferred
async def test_library_with_the_classic_proxy(field: Field) -> None:
    """The client library works with it, a connection for each packet."""
    from twisted.internet import reactor

    proxy = field.classic_proxy()
    field.classic_server(proxy, "100", "111")

    async def ask(payload: str) -> bool:
        client = Client(HostnameEndpoint(reactor, HOST, proxy.port), payload, reactor)
        ack = await client.send("111", payload)
        await client.close()
        return is_correct(payload, ack)

    asked = [Deferred.fromCoroutine(ask(f"xyz{number}")) for number in range(8)]
    assert await within(gatherResults(asked, consumeErrors=True)) == [True] * 8


def test_pool_server_with_the_classic_proxy(field: Field) -> None:
    """It registers there, is told apart from a modern one, and answers each packet over a connection of its own."""
    proxy = field.classic_proxy()
    server = field.pool_server(proxy.port, "100", "111", until=f"{HOST}:{proxy.port} doesn't answer setup packets")
    assert proxy.servers("111") == ["100"]

    for number in range(5):
        reply = send(HOST, proxy.port, "1", "111", f"xyz{number}", patience=SECONDS)
        assert (reply.hash_ok, reply.packet["srcid"]) == (True, "100")

    field.stop(server)


@pytest_twisted.ensureDeferred
async def test_classic_proxy_starts_again(field: Field) -> None:
    """A pool server comes back by being told again every so often; only the time between is not the real one."""
    from twisted.internet import reactor

    proxy = field.classic_proxy()
    factory = PoolServerFactory(Handling(server_id="100", policies=frozenset({"111"})), reactor)
    port = await TCP4ServerEndpoint(reactor, 0, interface=HOST).listen(factory)
    clock = Clock()
    offer = Offer(server_id="100", policy="111", port=port.getHost().port, pipeline=16)
    registrar = Registrar(HostnameEndpoint(reactor, HOST, proxy.port), "it", offer, clock, lambda: 1.0)

    def is_waiting() -> bool:
        return any(call.getTime() == clock.seconds() + OLD_PROXY_INTERVAL for call in clock.getDelayedCalls())

    async def registered(at: ClassicProxy) -> None:
        while not (at.servers("111") and is_waiting()):
            await deferLater(reactor, POLL_SECONDS)

    async def answered() -> bool:
        reply: Reply = await deferToThread(send, HOST, proxy.port, "1", "111", "xyz1", patience=SECONDS)
        return reply.hash_ok

    registrar.startService()
    await within(Deferred.fromCoroutine(registered(proxy)))
    assert await answered()
    await deferToThread(proxy.stop)

    again = field.classic_proxy(proxy.port)
    clock.advance(OLD_PROXY_INTERVAL)
    await within(Deferred.fromCoroutine(registered(again)))
    assert again.servers("111") == ["100"]
    assert await answered()

    await within(registrar.stopService())
    await within(port.stopListening())
    await within(factory.when_closed())
