"""The commands that ask a running proxy: what they print, and how they end; against a real one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from attrs import frozen
from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from rproxy.admin.site import MOST_CONNECTIONS
from rproxy.cli import COMMANDS, main, make_parser
from rproxy.commands import asking
from rproxy.commands.showing import columns, duration, milliseconds, plain, server_row, size, status
from rproxy.commands.top import make_table
from rproxy.figures import Figures
from rproxy.figures.tallies import new_times, observe
from tests.support import PATIENCE, Talk, Twistd, data_packet, environment, free_port, run, wait_for

HOST = "127.0.0.1"
TOKEN = "0123456789abcdef"


@frozen
class Running:
    """A proxy with an admin listener, and a pool server that is registered with it."""

    proxy: Twistd
    token: Path
    path: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str, admin: str | None = None) -> tuple[int, str, str]:
        """Run a command in this process: its exit code, and what it printed."""
        where = f"unix:{self.path}" if admin is None else admin
        try:
            code = main([*arguments, "--admin", where])
        except SystemExit as end:
            code = int(end.code or 0)
        printed = self.capsys.readouterr()
        return code, printed.out, printed.err

    def change(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command that needs the token."""
        return self.run(*arguments, "--token-file", str(self.token))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the proxy's socket and its token are."""
    folder = tmp_path_factory.mktemp("admin")
    (folder / "token").write_text(f"{TOKEN}\n")
    (folder / "token").chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def proxy(folder: Path) -> Iterator[Twistd]:
    """The proxy, with a pool server that serves policy 111."""
    admin = ("--admin", f"unix:{folder / 'admin.sock'}", "--admin-token", str(folder / "token"))
    with Twistd("rproxy", "--port", "0", *admin, "--queue-timeout", "0.01") as proxy:
        to_proxy = ("--revproc", str(proxy.port), "--listen", f"tcp:0:interface={HOST}")
        with Twistd("rpoolserver", "--id", "100", "--pp", "111", *to_proxy) as server:
            server.wait_for_log("Registered for privacy policy")
            yield proxy


@pytest.fixture
def running(proxy: Twistd, folder: Path, capsys: pytest.CaptureFixture[str]) -> Running:
    return Running(proxy, folder / "token", folder / "admin.sock", capsys)


def test_commands(running: Running) -> None:
    """Each shows what it is for, and what one changes the others show."""
    with closing(Talk(running.proxy.port)) as talk:
        assert talk.ask(data_packet("1", "111", "xyz1"))["type"] == "2"
        code, out, err = running.run("status")
        assert (code, err) == (0, "")
        assert "is ready\n1 packets: 1 acked, 0 refused, 0 whose client was gone, 0 in flight" in out
        assert "\nClients at 1 address\n" in out
        code, out, _ = running.run("clients")
        assert (code, out.splitlines()[1].split()) == (0, [HOST, "1", "0", "B", "0", "0", "1"])
        assert out.splitlines()[2:] == ["1 of 1 addresses"]
        code, out, _ = running.run("clients", "--json")
        assert (code, json.loads(out)[0]["address"]) == (0, HOST)
        code, out, _ = running.run("servers", "--policy", "111")
        assert (code, out.splitlines()[1].split()[:2]) == (0, ["111", "100"])
        assert running.run("explain", "111")[:2] == (0, running.run("explain", "111", "--client", "10.0.0.9")[1])
        assert running.change("drain", "100") == (0, "Draining 1 registration of server 100\n", "")
        code, out, _ = running.run("explain", "111")
        assert code == 1
        assert "an operator had it drained" in out
        assert talk.ask(data_packet("1", "111", "xyz1"))["error"] == "no-server"
        assert running.change("resume", "100", "--policy", "111") == (0, "Resumed 1 registration of server 100\n", "")
        assert talk.ask(data_packet("1", "111", "xyz1"))["type"] == "2"
        assert running.change("revoke", "100") == (0, "Revoked 1 registration of server 100\n", "")
        wait_for(lambda: running.run("servers")[0] == 0, PATIENCE, "the server to register again")


def test_no_clients(running: Running) -> None:
    """Who only registered is none."""
    wait_for(lambda: running.run("clients") == (1, "No client is connected\n", ""), PATIENCE, "the clients to leave")
    assert running.run("clients", "--json") == (1, "[]\n", "")


def test_json(running: Running) -> None:
    """All of it as JSON, refusals too."""
    for command in (["status"], ["servers"], ["explain", "111"], ["top", "--looks", "1"]):
        code, out, err = running.run(*command, "--json")
        assert (code, err) == (0, ""), command
        assert "100" in json.dumps(json.loads(out)), command
    code, out, err = running.change("drain", "nobody", "--json")
    assert (code, err) == (1, "")
    assert "no server nobody is registered" in json.loads(out)["error"]


def test_refused(running: Running) -> None:
    """In a sentence, by code 1."""
    code, out, err = running.change("drain", "nobody")
    assert (code, out) == (1, "")
    assert err.startswith("rproxy drain: no server nobody is registered")
    assert running.run("servers", "--policy", "999") == (1, "No server is registered for policy 999\n", "")
    assert running.run("explain", "999")[0] == 1


@pytest.mark.parametrize("what", ["drain", "resume", "revoke"])
def test_token(running: Running, tmp_path: Path, what: str) -> None:
    """Without the token, or with another, it is said what to give on the command line."""
    code, out, err = running.run(what, "100")
    assert (code, out) == (1, "")
    assert err.startswith(f"rproxy {what}: this needs the proxy's token: give --token-file FILE")
    assert "Authorization" not in err
    other = tmp_path / "other"
    other.write_text(TOKEN[::-1])
    other.chmod(0o600)
    code, out, err = running.run(what, "100", "--token-file", str(other), "--json")
    assert (code, err) == (1, "")
    assert json.loads(out)["error"].startswith("the token of --token-file isn't the proxy's")


def test_no_admin_token(capsys: pytest.CaptureFixture[str]) -> None:
    """A proxy that has none says how to give it one."""
    admin = str(free_port())
    with Twistd("rproxy", "--port", "0", "--admin", admin):
        assert main(["drain", "100", "--admin", admin]) == 1
    assert "the proxy has none: start it with --admin-token FILE" in capsys.readouterr().err


def test_not_there(running: Running, tmp_path: Path) -> None:
    """Who can't be reached, or is somebody else, by code 2."""
    proxy = str(running.proxy.port)
    (tmp_path / "file").touch()
    for where, said in (
        (str(free_port()), "Connection refused; does the proxy run with --admin?"),
        (f"unix:{tmp_path}/none", "No such file or directory; does the proxy run with --admin?"),
        (f"unix:{tmp_path}/file", "it is no socket; does the proxy run with --admin?"),
        (f"unix:{tmp_path}/{'x' * 200}", "path too long"),
        (f"{'x' * 70}:9000", "label too long"),
        (proxy, "is no admin listener of rproxy"),
    ):
        code, out, err = running.run("status", admin=where)
        assert (code, out) == (2, ""), where
        assert said in err
        assert "RPROXY_ADMIN" in err
    for wrong in ("x", "unix:", "99999", "1:2:3"):
        assert running.run("status", admin=wrong)[0] == 2
    assert running.run("drain", "100", "--token-file", str(tmp_path / "none"))[0] == 2


def test_not_allowed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that isn't for whoever asks; root may use any, so the system's word is told in its place."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(asking._UnixConnection, "connect", refuse)
    code, _, err = running.run("status")
    assert code == 2
    assert "Permission denied; ask as the proxy's user, or as root" in err


def test_full(running: Running) -> None:
    """As many connections as the listener takes: the next one is told so, and is served once there is room."""
    with ExitStack() as stack:
        for _ in range(MOST_CONNECTIONS):
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(running.path))
        code, out, err = running.run("status")
        assert (code, out) == (1, "")
        assert "too many are connected to the admin listener already" in err
    wait_for(lambda: running.run("status")[0] == 0, PATIENCE, "room")


def test_full_backlog(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has to wait until others are accepted waits, and not for ever."""
    monkeypatch.setattr(asking, "SECONDS", 0.01)
    path = str(tmp_path / "full")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        code, _, err = running.run("status", admin=f"unix:{path}")
    assert code == 2
    assert "the proxy hangs, or this isn't one" in err


def answer(body: bytes, status: str = "200 OK") -> bytes:
    """The bytes of an answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@contextmanager
def somebody(reply: bytes, *, holds: bool = False) -> Iterator[str]:
    """Somebody who answers one connection so, and hangs up or not; where that is."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(reply)
            if holds:
                done.wait(PATIENCE)

    done = threading.Event()
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield str(listener.getsockname()[1])
        done.set()
        thread.join()


@pytest.mark.parametrize("command", [["status"], ["explain", "111"], ["drain", "100"]])
@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\0\x1b[2J\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        answer(b""),
        answer(b"[]"),
        answer(b"null"),
        answer(b"{}"),
        answer(b"\xff"),
        answer(b"[" * 100_000),
        answer(b"<html>", "404 Not Found"),
        answer(b"[]", "500 Oops"),
    ],
)
def test_somebody_else(running: Running, reply: bytes, command: list[str]) -> None:
    """Whatever comes, it is told in a sentence, and none of it is shown."""
    with somebody(reply) as where:
        code, out, err = running.run(*command, admin=where)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    assert "no admin listener" in err or "is of another version" in err


def test_odd_refusal(running: Running) -> None:
    """What the other side says can't speak to the terminal."""
    with somebody(answer(b'{"error": "\\u001b[2J no"}', "403 Forbidden")) as where:
        assert running.run("status", admin=where) == (1, "", "rproxy status: ?[2J no\n")


def test_hangs(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't waited for for ever."""
    monkeypatch.setattr(asking, "SECONDS", 0.2)
    with somebody(b"", holds=True) as where:
        code, out, err = running.run("status", admin=where)
    assert (code, out) == (2, "")
    assert "the proxy hangs, or this isn't one" in err


def test_interrupted() -> None:
    """Ctrl-C ends it without a traceback."""
    with socket.create_server((HOST, 0)) as listener:
        argv = [sys.executable, "-m", "rproxy.cli", "status", "--admin", str(listener.getsockname()[1])]
        with subprocess.Popen(argv, env=environment(), stderr=subprocess.PIPE, text=True) as process:
            connection, _ = listener.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, "")


@pytest.mark.parametrize(
    "command",
    [("completion", "bash"), ("send", "--id", "1", "--pp", "111", "--payload", "xyz1", "--revproc", "1")],
    ids=["completion", "send"],
)
def test_nobody_reads_on(command: tuple[str, ...]) -> None:
    """As where head has what it wants: no traceback, nor a complaint of Python's."""
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "rproxy.cli", *command]
    with os.fdopen(writing, "w") as out:
        ended = subprocess.run(
            argv, env=environment(), stdout=out, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
        )
    assert (ended.returncode, ended.stderr) == (141, "")


def test_top(running: Running) -> None:
    """The table, as often as it is asked for."""
    code, out, err = running.run("top", "--looks", "2", "--interval", "0.01")
    assert (code, err) == (0, "")
    assert "is ready" in out
    # It is no terminal, where the second would take the place of the first.
    assert out.count("ACKS/S") == 2


def test_variable(running: Running) -> None:
    """The address may come from the environment."""
    argv = [sys.executable, "-m", "rproxy.cli", "status"]
    env = {**environment(), "RPROXY_ADMIN": f"unix:{running.path}"}
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is empty says nothing."""
    monkeypatch.setenv("RPROXY_ADMIN", "")
    assert str(make_parser().parse_args(["status"]).admin) == asking.ADDRESS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, tmp_path: Path) -> None:
    """A script that knows every command; bash completes by it."""
    ended = run([sys.executable, "-m", "rproxy.cli", "completion", shell])
    assert (ended.returncode, ended.stderr) == (0, "")
    for name, _, _ in COMMANDS:
        assert name in ended.stdout
    if shell == "bash":
        script = tmp_path / "rproxy"
        script.write_text(ended.stdout)
        find = 'complete -p rproxy | sed "s/.*-F \\([^ ]*\\).*/\\1/"'
        ask = f'. {script}; COMP_WORDS=(rproxy dr); COMP_CWORD=1; f=$({find}); $f; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(
            ["bash", "-c", ask], env={**os.environ}, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.stdout.split() == ["drain"], done


class ShowingTests(SynchronousTestCase):
    """What strangers name their things can't speak to a terminal, and numbers are readable."""

    def figures(self, name: str = "[red]\x1b[2J") -> Figures:
        none: dict[str, Any] = {"connections": 0, "in_flight": 0}
        where: dict[str, Any] = {"policy": name, "id": name, "host": "h", "port": 1, "pipeline": None}
        server = {**none, **where, "states": {"up": 1, "down": 1}, "weight": 1, "share": 1, "acked": 7}
        store = {"name": "memory", "away": "gone", "away_for": 90.0}
        process = {**none, "number": 1, "pid": 1, "uptime": 5.0, "open_files": 1, "max_open_files": 2, "store": store}
        value = {
            **none,
            "version": "1",
            "state": "ready",
            "counters": {"refused": {"no-server": 2}},
            "missing": [2],
            "policies": [{"name": name, "servers": [server]}],
            "processes": [process],
        }
        return msgspec.convert(value, Figures)

    def test_status(self) -> None:
        text = "\n".join(status(self.figures()))
        self.assertNotIn("\x1b", text)
        for said in "2 refused", "workers didn't tell: 2", "worker 1", "away for 1.5 min: gone":
            self.assertIn(said, text)

    def test_top(self) -> None:

        before, after = self.figures(), self.figures()
        after.processes[0].uptime += 2
        after.policies[0].servers[0].acked += 10
        observe(after.policies[0].servers[0].total_times, 0.004)
        observe(after.policies[0].servers[0].times, 0.002)
        console = Console(width=200)
        with console.capture() as printed:
            console.print(make_table(before, after))
        (row,) = (line for line in printed.get().splitlines() if "[red]?[2J" in line)
        self.assertIn("1 up, 1 down", row)
        self.assertEqual(row.split()[6], "5")
        # As the page has it; the server's own part is shorter.
        self.assertIn("3.75 ms", row)
        self.assertIn("3.75 ms", server_row(after.policies[0].servers[0]))

    def test_units(self) -> None:
        self.assertEqual([duration(each) for each in (3, 90, 7200, 90000)], ["3 s", "1.5 min", "2.0 h", "1.0 d"])
        self.assertEqual(
            [size(each) for each in (1023, 1024, 2 << 20, 3 << 30)], ["1023 B", "1.0 KiB", "2.0 MiB", "3.0 GiB"]
        )
        times = new_times()
        self.assertEqual(milliseconds(times, 0.5), "-")
        observe(times, 0.004)
        self.assertEqual(milliseconds(times, 0.5), "3.75 ms")

    def test_columns(self) -> None:
        self.assertEqual(columns(("A", "B"), [("1\n", "22"), ("333", "")]), ["A    B", "1?   22", "333"])
        self.assertEqual(plain("a\u202eb"), "a?b")


class AddressTests(SynchronousTestCase):
    """Where a listener is looked for that nobody named."""

    def address(self, path: Path, variable: str) -> str:
        parser = ArgumentParser()
        with patch.object(asking, "SOCKET", path), patch.dict(os.environ, {"RPROXY_ADMIN": variable}):
            asking.add_arguments(parser)
        return str(parser.parse_args([]).admin)

    def test_where(self) -> None:
        """Where the variable says, else at the socket of what systemd runs, else at a port."""
        there, missing = Path(__file__), Path("/run/rproxy-test/missing")
        self.assertEqual(self.address(there, "10.0.0.1:1"), "10.0.0.1:1")
        self.assertEqual(self.address(there, ""), f"unix:{there}")
        self.assertEqual(self.address(missing, ""), "127.0.0.1:9000")
