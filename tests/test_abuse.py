"""Peers that mean no good, from end to end: drips, floods, and what it costs those beside them, on real sockets.

Every address of 127.0.0.0/8 is this machine's, so that one process can be clients of many addresses.
"""

from __future__ import annotations

import selectors
import socket
from contextlib import ExitStack, closing, suppress

from tests.classic import sha1_hex
from tests.support import PATIENCE, Group, Talk, Twistd, data_packet, wait_for

ABUSER, OTHER = "127.0.7.1", "127.0.7.2"
DRIPPING = 1000


def assert_served(talk: Talk, payload: str = "xyz1") -> None:
    """A packet is answered as if there were nobody else."""
    assert talk.ask(data_packet("1", "111", payload))["payload"] == sha1_hex(payload)


def drip(sockets: list[socket.socket]) -> None:
    """Send one byte more on each that is still taken."""
    for each in sockets:
        # The proxy may have dropped it by now, having waited for the end of what it closed.
        with suppress(ConnectionError):
            each.send(b" ")


def received(each: socket.socket) -> bytes:
    """What has come, to the end of the connection or to the reset of one whose peer had heard enough."""
    parts = []
    with suppress(ConnectionResetError):
        while part := each.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def test_a_thousand_drips(group: Group) -> None:
    """A thousand connections with an unfinished packet that grows, byte by byte: all are closed, and told why."""
    proxy = group.proxy("--packet-timeout", "1")
    group.pool_server(proxy.port, "100", "111")
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        sockets = []
        for number in range(DRIPPING):
            each = stack.enter_context(closing(socket.socket()))
            each.bind((f"127.0.8.{1 + number % 250}", 0))
            each.connect(("127.0.0.1", proxy.port))
            each.settimeout(PATIENCE)
            each.send(b'{"type": "0",')
            sockets.append(each)
            selector.register(each, selectors.EVENT_READ)
        other = stack.enter_context(closing(Talk(proxy.port, source=OTHER)))
        refused: set[socket.socket] = set()

        def all_refused() -> bool:
            assert_served(other)
            drip([each for each in sockets if each not in refused])
            for key, _ in selector.select(0):
                assert isinstance(key.fileobj, socket.socket)
                selector.unregister(key.fileobj)
                refused.add(key.fileobj)
            return len(refused) == DRIPPING

        wait_for(all_refused, PATIENCE, f"an end of {DRIPPING} drips")
        for each in sockets:
            assert b"bad-packet" in received(each)
        assert_served(other)


def test_white_space_for_ever(group: Group) -> None:
    """It is no packet, so the connection is closed as if nothing came."""
    proxy = group.proxy("--idle-timeout", "1")
    with closing(Talk(proxy.port)) as talk:
        talk.socket.setblocking(False)

        def closed() -> bool:
            with suppress(BlockingIOError):
                talk.socket.send(b" ")
                return talk.socket.recv(100) == b""
            return False

        with suppress(ConnectionError):
            wait_for(closed, PATIENCE, "the end of the connection")


def flood(proxy: Twistd, stack: ExitStack, connections: int) -> list[Talk]:
    """Open so many connections from one address, and ask on each; those that were reset at once are left out."""
    talks = []
    for number in range(connections):
        try:
            talk = stack.enter_context(closing(Talk(proxy.port, source=ABUSER)))
        except ConnectionResetError:
            # Who is reset may be so before it has seen that it is connected.
            continue
        with suppress(ConnectionError):
            talk.send(data_packet(str(number), "111", "flood"))
        talks.append(talk)
    return talks


def test_a_flood_of_connections(group: Group) -> None:
    """One address gets as many as it may, though it opens more than there may be in all; another one is served."""
    proxy = group.proxy("--max-clients", "100", "--max-clients-per-address", "20")
    group.pool_server(proxy.port, "100", "111")
    with ExitStack() as stack:
        talks = flood(proxy, stack, 300)
        with closing(Talk(proxy.port, source=OTHER)) as other:
            assert_served(other)
        answers = []
        for talk in talks:
            # Those that were too many to be told are reset.
            with suppress(ConnectionError, AssertionError):
                answers.append(talk.answer().get("error", "served"))
        assert answers.count("served") == 20
        assert 20 <= answers.count("overloaded") == len(answers) - 20
        for talk in talks:
            talk.close()
        # Whoever goes makes room for whoever comes.
        with closing(Talk(proxy.port, source=OTHER)) as other:
            assert_served(other)
    group.close()
    assert proxy.log.count("Refused a connection from 127.0.7.1: there are 20 from there") == 10


def test_a_flood_of_packets(group: Group) -> None:
    """One address sends far more than it may: another is served meanwhile, and in the end it got all its answers."""
    proxy = group.proxy("--rate-limit", "50")
    group.pool_server(proxy.port, "100", "111")
    with closing(Talk(proxy.port, source=ABUSER)) as abuser, closing(Talk(proxy.port, source=OTHER)) as other:
        abuser.send(*(data_packet("1", "111", f"{number}") for number in range(120)))
        for _ in range(20):
            assert_served(other)
        for number in range(120):
            assert abuser.answer()["payload"] == sha1_hex(f"{number}")
