"""The logs of real processes: as JSON, for systemd's journal, the access log, and what stands in none of them."""

from __future__ import annotations

import json
import re
import signal
import sys
from contextlib import ExitStack, closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support import PATIENCE, Group, Process, Talk, Twistd, data_packet, script, wait_for

#: Runs a command whose output goes to the journal, as far as it can tell.
UNDER_SYSTEMD = """
import os, sys
there = os.fstat(1)
os.environ["JOURNAL_STREAM"] = f"{there.st_dev}:{there.st_ino}"
os.execv(sys.argv[1], sys.argv[1:])
"""


def lines(log: str) -> list[dict[str, Any]]:
    """The objects of a log, which has nothing else."""
    return [json.loads(line) for line in log.splitlines()]


def named(log: str, event: str) -> list[dict[str, Any]]:
    """Those of one kind."""
    return [line for line in lines(log) if line["event"] == event]


def accesses(path: Path) -> list[dict[str, Any]]:
    """The lines of an access log, as far as they are there."""
    return lines(path.read_text()) if path.exists() else []


def test_json(group: Group) -> None:
    """Each line of both services, from the first to the last."""
    proxy = group.proxy("--log-format", "json")
    server = group.pool_server(proxy.port, "100", "111", "--log-format", "json")
    group.stop(server)
    proxy.wait_for_log("registration-ended")
    # The log is gone with the folder of the process.
    proxy.send_signal(signal.SIGTERM)
    assert proxy.wait() == 0
    (registered,) = named(proxy.log, "registered")
    assert {name: registered[name] for name in ("level", "server", "policy", "host")} == {
        "level": "info",
        "server": "100",
        "policy": "111",
        "host": "127.0.0.1",
    }
    assert registered["message"].startswith("Received setup message from server id 100 ip 127.0.0.1 privacy policy 111")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", registered["time"])
    assert [line["received"] for line in named(proxy.log, "stopped")] == [0]
    assert lines(proxy.log)[0]["message"].startswith("twistd ")
    assert [line["policy"] for line in named(server.log, "proxy-registered")] == ["111"]


def test_json_of_workers() -> None:
    """Their lines keep their names, levels and fields, and say whose they are."""
    arguments = ("--port", "0", "--workers", "2", "--log-format", "json", "--queue-timeout", "0.01")
    with Twistd("rproxy", *arguments) as proxy:
        with closing(Talk(proxy.port)) as talk:
            talk.send(b'{"type": "1", "id": "7", "privPoliId": "111", "listenport": "5000"}')
            proxy.wait_for_log("registered")
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait() == 0
        log = proxy.log
    (registered,) = named(log, "registered")
    assert (registered["server"], registered["logger"]) == ("7", "rproxy.admission.Admission")
    assert registered["worker"] in {1, 2}
    assert not registered["message"].startswith("worker")
    assert sorted(line.get("worker", 0) for line in named(log, "stopped")) == [0, 1, 2]


@pytest.mark.parametrize("format", ["text", "json"])
def test_journal(format: str) -> None:
    """Each line has its priority; in the text, none has a time."""
    python, path = script("twistd")
    command = [python, path, "-n", "--pidfile=", "rproxy", "--port", "0", "--log-format", format]
    with Process([sys.executable, "-c", UNDER_SYSTEMD, *command], ready=Twistd.READY) as proxy:
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait() == 0
        log = proxy.log
    begin = "<6>[" if format == "text" else '<6>{"time": "'
    assert {line[: len(begin)] for line in log.splitlines()} == {begin}


def test_elsewhere(tmp_path: Path) -> None:
    """What goes to a file of its own isn't the journal's."""
    path = tmp_path / "log"
    python, twistd = script("twistd")
    command = [python, twistd, "-n", "--pidfile=", f"--logfile={path}", "rproxy", "--port", "0"]
    with Process([sys.executable, "-c", UNDER_SYSTEMD, *command], ready="") as proxy:
        wait_for(lambda: path.exists() and "Running" in path.read_text(), PATIENCE, "the first lines")
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait() == 0
    assert "<" not in path.read_text()[:1]


def test_access_log(group: Group, tmp_path: Path) -> None:
    """Every packet has a line, and logrotate moves the file."""
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    proxy = group.proxy("--access-log", str(path), "--queue-timeout", "0.01")
    server = group.pool_server(proxy.port, "100", "111")
    with closing(Talk(proxy.port)) as talk:
        answer = talk.ask(data_packet("client-one", "111", "xyz-secret"))
        wait_for(lambda: accesses(path), PATIENCE, "the first line")
        path.rename(old)
        proxy.send_signal(signal.SIGHUP)
        wait_for(path.exists, PATIENCE, "the new file")
        assert talk.ask(data_packet("client-one", "222", "xyz-secret"))["error"] == "no-server"
        port = talk.socket.getsockname()[1]
    group.stop(server)
    group.stop(proxy)
    ((acked,), (refused,)) = accesses(old), accesses(path)
    size = len(json.dumps(answer, separators=(",", ":")))
    assert (acked["client"], acked["client_id"], acked["policy"]) == (f"127.0.0.1:{port}", "client-one", "111")
    assert (acked["server"], acked["server_address"]) == ("100", f"127.0.0.1:{server.port}")
    assert (acked["outcome"], acked["delivered"], acked["bytes_out"]) == ("acked", "yes", size)
    assert 0 <= acked["waited"] <= acked["seconds"] < PATIENCE
    assert (refused["outcome"], refused["delivered"], refused["server"]) == ("no-server", "no", None)


def test_access_logs_of_workers(tmp_path: Path) -> None:
    """Each has a file of its own."""
    arguments = ("--port", "0", "--workers", "2", "--access-log", str(tmp_path / "access.log"))
    with Twistd("rproxy", *arguments) as proxy, closing(Talk(proxy.port)) as talk:
        talk.ask(data_packet("1", "111", "a"))
        found = wait_for(
            lambda: [each for number in (1, 2) for each in accesses(tmp_path / f"access-{number}.log")],
            PATIENCE,
            "the line",
        )
    assert [line["outcome"] for line in found] == ["no-server"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["access-1.log", "access-2.log"]


class Secrets:
    """What a proxy and a pool server are told that is nobody else's."""

    TOKEN = "the-token-of-100"
    WRONG = "a-token-that-is-wrong"
    KEY = "0123456789abcdef0123456789abcdef"
    PASSWORD = "the-password-of-redis"
    PAYLOAD = "the-payload-of-a-client"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policies = self.file("policies.toml", '[policy.111.servers]\ntoken-file = "tokens"\n')
        self.file("tokens", f"{self.TOKEN}\n")

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o600)
        return str(path)

    def arguments(self, registry: bool) -> list[str]:
        """The proxy's. With a registry that isn't there it would know no server."""
        arguments = ["--policies", self.policies, "--audit", str(self.folder / "audit.log")]
        arguments += ["--audit-key", self.file("key", self.KEY), "--access-log", str(self.folder / "access.log")]
        return [*arguments, "--registry", f"redis://:{self.PASSWORD}@127.0.0.1:1/0"] if registry else arguments

    def assert_absent(self, log: str) -> None:
        for secret in (self.TOKEN, self.WRONG, self.KEY, self.PASSWORD, self.PAYLOAD):
            assert secret not in log
            for digest in sha256(secret.encode()).hexdigest(), repr(sha256(secret.encode()).digest())[2:-1]:
                assert digest not in log


@pytest.mark.parametrize("format", ["text", "json"])
def test_secrets(tmp_path: Path, format: str) -> None:
    """Nothing that is secret is in any log, also when it is wrong."""
    secrets = Secrets(tmp_path)
    form = ("--log-format", format)
    with ExitStack() as stack:
        proxy = stack.enter_context(Twistd("rproxy", "--port", "0", *secrets.arguments(False), *form))
        proxies = ("--revproc", str(proxy.port), "--listen", "tcp:0:interface=127.0.0.1")
        logs = []
        for token, until in ((secrets.WRONG, "refuses privacy policy"), (secrets.TOKEN, "Registered for")):
            file = ("--token-file", secrets.file("token", token))
            arguments = ("rpoolserver", "--id", "100", "--pp", "111", *proxies, *file, *form)
            server = stack.enter_context(Twistd(*arguments))
            server.wait_for_log(until)
            logs.append(server)
        with closing(Talk(proxy.port)) as talk:
            assert talk.ask(data_packet("1", "111", secrets.PAYLOAD))["type"] == "2"
            assert talk.ask(data_packet("1", "222", secrets.PAYLOAD))["type"] == "3"
        proxy.send_signal(signal.SIGHUP)
        proxy.wait_for_log("Keeping to the policies")
        access = tmp_path / "access.log"
        wait_for(lambda: len(accesses(access)) == 2, PATIENCE, "the access log")
        for text in (proxy.log, access.read_text(), *(server.log for server in logs)):
            assert text
            secrets.assert_absent(text)


def test_password_of_a_registry(tmp_path: Path) -> None:
    """Nor is the password of a registry that can't be reached."""
    secrets = Secrets(tmp_path)
    with Twistd("rproxy", "--port", "0", *secrets.arguments(True), "--log-format", "json") as proxy:
        proxy.wait_for_log("store-away")
        (away,) = named(proxy.log, "store-away")
        assert away["store"].startswith("redis://")
        secrets.assert_absent(proxy.log)
