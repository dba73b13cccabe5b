"""Streams from end to end: however packets are cut, and whatever stands between them."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.endtoend import SECRET, Shared, assert_ack, assert_error
from tests.support import Group, Talk, data_packet

MIB = 1 << 20


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
