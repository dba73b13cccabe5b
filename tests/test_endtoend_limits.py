"""Limits from end to end: how many clients there may be, and how long they wait."""

from __future__ import annotations

import json
import signal
import socket
import time
from contextlib import ExitStack, closing

from tests.classic import ClassicServer
from tests.endtoend import HOST, SECONDS, assert_ack, assert_error, register_port
from tests.support import Group, Talk, data_packet, free_port


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
