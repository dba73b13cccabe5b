"""The examples, from end to end: what their README shows, and what both clients do when something goes wrong.

The clients take the same arguments and print the same, so most tests are run with each. Where the proxy is to answer in
an unusual way, a thread of the test plays it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from examples.asyncio_client import MAX_ANSWER, Ack, Client, Decoder, ProxyError, encode, is_correct
from tests.support import PATIENCE, ROOT, Group, Twistd, environment, free_port, run
from tests.test_docs import code_blocks, section

PAGE = ROOT / "examples" / "README.rst"
HANDLER, ASYNCIO, NODE, SHELL = (
    "A handler that redacts personal data",
    "A client with asyncio",
    "A client for Node.js",
    "A client in one line of shell",
)

NO_NODE = "" if shutil.which("node") else "Node.js isn't installed"
NO_NC = (
    ""
    if shutil.which("nc") and "OpenBSD" in run(["nc", "-h"]).stderr
    else "the nc of OpenBSD isn't installed: it is in Debian's package netcat-openbsd"
)
NEEDS_NODE = pytest.mark.skipif(bool(NO_NODE), reason=NO_NODE)
NEEDS_NC = pytest.mark.skipif(bool(NO_NC), reason=NO_NC)

#: Both clients, as commands.
CLIENTS = pytest.mark.parametrize(
    "client",
    [
        pytest.param([sys.executable, str(ROOT / "examples" / "asyncio_client.py")], id="asyncio"),
        pytest.param(["node", str(ROOT / "examples" / "client.mjs")], id="node", marks=NEEDS_NODE),
    ],
)

#: What is hard to frame, and what must not get to a terminal.
PAYLOADS = ("", "}{", '"\\', "\\u007d\\", "é\N{GRINNING FACE}}", "[1]\x1b[31m\x7f\u202e\n", "x" * 100_000)


@frozen
class Running:
    """What the README's first section starts: a proxy and two servers."""

    proxy: Twistd

    def shell(self, typed: str) -> subprocess.CompletedProcess[str]:
        """Run what somebody types in the clone, in an environment that is activated."""
        env = environment()
        env["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent), env["PATH"]])
        return subprocess.run(
            ["bash", "-c", self.ported(typed)],
            cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    def ported(self, typed: str) -> str:
        """The command for where the proxy is; it is given with those that leave it out, too."""
        for name in "rproxy send", "asyncio_client.py", "client.mjs":
            if "--revproc" not in typed:
                typed = typed.replace(name, f"{name} --revproc 8000")
        return typed.replace("8000", str(self.proxy.port))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """As the README starts it, but that the proxy refuses packets with a wrong size."""
    _, first, second = [shlex.split(typed) for typed, _ in typed_in("What has to run")]
    with Group() as group:
        proxy = group.proxy("--strict")
        for argv in first, second:
            options = dict(zip(argv[4::2], argv[5::2], strict=True))
            further = ("--handler", options["--handler"]) if "--handler" in options else ()
            group.pool_server(proxy.port, options["--id"], options["--pp"], *further, cwd=ROOT)
        yield Running(proxy)


def typed_in(title: str) -> list[tuple[str, str]]:
    """The commands of a section, and what each shows."""
    blocks = "".join(code_blocks(section(PAGE, title), "console"))
    parts = (part.partition("\n") for part in f"\n{blocks}".split("\n$ ")[1:])
    return [(typed, output.rstrip("\n")) for typed, _, output in parts]


def sha1(payload: str) -> str:
    return hashlib.sha1(payload.encode(), usedforsecurity=False).hexdigest()


def ack(payload: str | int, **instead: Any) -> bytes:
    """The answer of server 100 to client 1."""
    return json.dumps({"type": "2", "srcid": "100", "destid": "1", "payload": payload, **instead}).encode()


def ask(client: list[str], port: int, *arguments: str) -> tuple[int, list[str], list[str]]:
    """Run a client for policy 111; return its exit code, and the lines of its outputs."""
    done = run([*client, "--revproc", str(port), "--pp", "111", *arguments])
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def right(payload: str) -> str:
    """What a client prints of the right answer."""
    return json.dumps(f"{payload}: {sha1(payload)} from server 100, SHA-1 correct")[1:-1]


@contextmanager
def scripted(*pieces: bytes, stays: bool = False) -> Iterator[int]:
    """A proxy that says this once something came, in these pieces, and then closes or stays; yields its port."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(PATIENCE)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert connection.recv(1 << 16)
            for piece in pieces:
                connection.sendall(piece)
            if not stays:
                connection.shutdown(socket.SHUT_WR)
            # The client is the first to close, or else what it sent could reset what it was sent.
            while connection.recv(1 << 16):
                pass
            if stays:
                left.wait(PATIENCE)

    left = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            left.set()
            thread.join()


# What the README shows.


@pytest.mark.parametrize(
    ("title", "codes"),
    [
        pytest.param(HANDLER, [1], id="handler"),
        pytest.param(ASYNCIO, [0, 1], id="asyncio"),
        pytest.param(NODE, [0], id="node", marks=NEEDS_NODE),
        pytest.param(SHELL, [0, 0, 0, 0, 0], id="shell", marks=NEEDS_NC),
    ],
)
def test_commands(running: Running, title: str, codes: list[int]) -> None:
    """Whoever types it sees what is shown."""
    typed = typed_in(title)
    assert len(typed) == len(codes)
    for (command, shown), code in zip(typed, codes, strict=True):
        done = running.shell(command)
        assert (done.stdout + done.stderr).rstrip("\n") == shown, command
        assert done.returncode == code, command


def test_module(running: Running) -> None:
    """The asyncio client in a program."""
    (program,) = code_blocks(section(PAGE, ASYNCIO), "python")
    (shown,) = code_blocks(section(PAGE, ASYNCIO), "text")
    done = run([sys.executable, "-W", "error", "-c", running.ported(program)], cwd=ROOT)
    assert (done.stdout, done.stderr) == (shown, "")


@NEEDS_NC
def test_nc_without_a_proxy(running: Running) -> None:
    """It can't connect, and its exit code says so."""
    command, _ = typed_in(SHELL)[0]
    done = running.shell(command.replace("8000", str(free_port())))
    assert (done.returncode, done.stdout) == (1, "")


# Both clients, through a proxy.


@CLIENTS
def test_payloads(running: Running, client: list[str]) -> None:
    """Whatever is in them; and nothing of it is written to the terminal as it is."""
    code, out, err = ask(client, running.proxy.port, *PAYLOADS)
    assert (code, out, err) == (0, [right(payload) for payload in PAYLOADS], [])


@CLIENTS
def test_many(running: Running, client: list[str]) -> None:
    """More than the proxy takes from one connection at a time."""
    payloads = [f"xyz{number}" for number in range(500)]
    assert ask(client, running.proxy.port, *payloads) == (0, [right(payload) for payload in payloads], [])


@CLIENTS
def test_no_server(running: Running, client: list[str]) -> None:
    """The code of the error, and that the packet may be sent again."""
    code, out, err = ask(client, running.proxy.port, "--pp", "999", "a", "b")
    said = "no-server (delivered: no), no server serves policy 999"
    assert (code, out, err) == (1, [], [f"a: {said}", f"b: {said}"])


@CLIENTS
def test_no_sha1(running: Running, client: list[str]) -> None:
    """An answer that is something else is shown, and told apart."""
    code, out, err = ask(client, running.proxy.port, "--pp", "222", "a@b.example")
    assert (code, out, err) == (1, ["a@b.example: [e-mail] from server 200, SHA-1 incorrect"], [])


@CLIENTS
def test_no_proxy(client: list[str]) -> None:
    """Each packet may be sent again."""
    code, out, err = ask(client, free_port(), "a", "b")
    assert (code, out) == (1, [])
    assert [line.partition(", ")[0] for line in err] == [f"{each}: connection-lost (delivered: no)" for each in "ab"]


@CLIENTS
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["xyz1"],
        ["--pp", "111"],
        ["--pp", "111", "--colour", "xyz1"],
        ["--pp", "111", "--revproc", "", "xyz1"],
        ["--pp", "111", "--revproc", "localhost", "xyz1"],
        ["--pp", "111", "--revproc", "65536", "xyz1"],
        ["--pp", "111", "--timeout", "0", "xyz1"],
        ["--pp", "111", "--timeout", "soon", "xyz1"],
    ],
    ids=lambda arguments: " ".join(arguments) or "nothing",
)
def test_wrong_usage(client: list[str], arguments: list[str]) -> None:
    """Exit code 2, and how it is used; nothing is sent."""
    done = run([*client, *arguments])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: ")


# Both clients, and a proxy that does what a test says.


@CLIENTS
def test_byte_by_byte(client: list[str]) -> None:
    """Answers cut anywhere, in the middle of characters too, with white space between them."""
    payloads = PAYLOADS[:-1]
    further = {"note": 'é\N{GRINNING FACE} }{[]"\\', "nested": [{"a": ["}"]}]}
    answers = [json.dumps(json.loads(ack(sha1(payload), **further)), ensure_ascii=False) for payload in payloads]
    wire = "\r\n\t ".join(answers).encode()
    with scripted(*(wire[place : place + 1] for place in range(len(wire)))) as port:
        assert ask(client, port, *payloads) == (0, [right(payload) for payload in payloads], [])


@CLIENTS
def test_numbers(client: list[str]) -> None:
    """Types and ids that are integers."""
    with scripted(ack(sha1("a"), type=2, srcid=100, destid=1), stays=True) as port:
        assert ask(client, port, "a") == (0, [right("a")], [])


@CLIENTS
def test_timeout(client: list[str]) -> None:
    """Whatever was sent may have been delivered."""
    with scripted(stays=True) as port:
        code, out, err = ask(client, port, "--timeout", "1.5", "a", "b")
    said = "timeout (delivered: unknown), no answer within 1.5 seconds"
    assert (code, out, err) == (1, [], [f"a: {said}", f"b: {said}"])


@CLIENTS
def test_lost(client: list[str]) -> None:
    """The connection ends in the middle of an answer."""
    with scripted(ack(sha1("a")) + ack(sha1("b"))[:-1]) as port:
        code, out, err = ask(client, port, "a", "b")
    assert (code, out) == (1, [right("a")])
    assert err == ["b: connection-lost (delivered: unknown), the proxy closed the connection"]


@CLIENTS
@pytest.mark.parametrize(
    "wrong",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"[1]",
        b"]",
        b'"{}"',
        b"{}",
        b'{"\xff": 1}',
        b'{"type": "1", "srcid": "100", "destid": "1", "payload": "x"}',
        ack("x", note="?").replace(b"?", b"\xff"),
        ack("x", destid="2"),
        ack(7),
        b'{"x": "' + b"x" * MAX_ANSWER,
    ],
    ids=lambda wrong: str(wrong[:30]),
)
def test_wrong_answers(client: list[str], wrong: bytes) -> None:
    """What is no answer, or somebody else's, ends the connection; what was there before it counts."""
    with scripted(ack(sha1("a")), wrong, stays=True) as port:
        code, out, err = ask(client, port, "a", "b", "c")
    assert (code, out) == (1, [right("a")])
    assert [line.partition(", ")[0] for line in err] == [
        f"{each}: connection-lost (delivered: unknown)" for each in "bc"
    ]


@CLIENTS
def test_hostile_error(client: list[str]) -> None:
    """An error packet whose every part would do something to a terminal."""
    bad = "\x1b[31m\n"
    error = {"type": "3", "srcid": bad, "destid": "", "error": bad, "delivered": bad, "payload": bad}
    with scripted(json.dumps(error).encode(), stays=True) as port:
        code, out, err = ask(client, port, "a")
    shown = json.dumps(bad)[1:-1]
    assert (code, out, err) == (1, [], [f"a: {shown} (delivered: {shown}), {shown}"])


# The asyncio client as a module.

#: What a connection of a proxy is given.
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def connected(serve: Serve) -> AsyncIterator[Client]:
    """A client, and a proxy that does what is said."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, Client("127.0.0.1", server.sockets[0].getsockname()[1], "1", PATIENCE) as client:
        yield client


def test_late_answer() -> None:
    """An answer that comes after its timeout isn't given to the next packet."""

    async def main() -> None:
        over = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await over.wait()
            writer.write(ack(sha1("a")))
            await reader.readuntil(b"}")
            await reader.readuntil(b"}")
            writer.write(ack(sha1("b")))
            await reader.read()
            writer.close()

        async with connected(serve) as client:
            client._timeout = 0.01
            with pytest.raises(ProxyError, match="timeout"):
                await client.send("111", "a")
            client._timeout = PATIENCE
            over.set()
            assert is_correct("b", await client.send("111", "b"))

    asyncio.run(main())


def test_closed_meanwhile() -> None:
    """Whoever still waits when the client is closed is told, and nothing can be sent from then on."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with connected(serve) as client:
            waiting = asyncio.create_task(client.send("111", "a"))
            await asyncio.sleep(0)
        with pytest.raises(ProxyError, match="the client closed") as during:
            await waiting
        with pytest.raises(ProxyError, match="the client closed") as after:
            await client.send("111", "b")
        assert (during.value.delivered, after.value.delivered) == ("unknown", "no")

    asyncio.run(main())


def test_told_at_once() -> None:
    """A proxy that refuses the connection says why before anything is sent."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            error = {"type": "3", "error": "overloaded", "delivered": "no", "payload": "too many"}
            writer.write(json.dumps(error).encode())
            await reader.read()
            writer.close()

        async with connected(serve) as client:
            await client._reading
            with pytest.raises(ProxyError, match=r"unasked: overloaded .*too many") as refused:
                await client.send("111", "a")
        assert refused.value.delivered == "no"

    asyncio.run(main())


def test_no_text() -> None:
    """Half of a surrogate pair takes no place among the packets."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}")
            writer.write(ack(sha1("b")))
            await reader.read()
            writer.close()

        async with connected(serve) as client:
            with pytest.raises(UnicodeEncodeError):
                await client.send("111", "\ud800")
            assert await client.send("111", "b") == Ack("100", sha1("b"))

    asyncio.run(main())


def test_decoder() -> None:
    """The same objects come out, whatever the cuts."""
    packets = [json.loads(encode("1", "111", payload)) for payload in PAYLOADS[:-1]]
    wire = b" \n".join(encode("1", "111", payload) for payload in PAYLOADS[:-1])
    for size in 1, 2, 3, 7, len(wire):
        decoder = Decoder()
        pieces = [wire[place : place + size] for place in range(0, len(wire), size)]
        assert [packet for piece in pieces for packet in decoder.feed(piece)] == packets
    with pytest.raises(ValueError, match="too deep"):
        list(Decoder().feed(b'{"x":' + b"[" * 100_000 + b"}"))
