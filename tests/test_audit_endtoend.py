"""The audit trail from end to end: twistd with ``--audit``, logrotate's moves, a full disk, and ``rproxy audit``."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support import PATIENCE, Group, Talk, Twistd, data_packet, run, script, wait_for

RPROXY = script("rproxy")
TWISTD = script("twistd")


class Audit:
    """A key, a trail, and the arguments that name them."""

    def __init__(self, folder: Path) -> None:
        self.key = folder / "key"
        self.key.write_text("0123456789abcdef0123456789abcdef\n")
        self.key.chmod(0o600)
        self.path = folder / "audit.log"

    @property
    def arguments(self) -> list[str]:
        """The proxy's."""
        return ["--audit", str(self.path), "--audit-key", str(self.key)]

    def ask(self, question: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run ``rproxy audit`` on the trail's files."""
        return run([*RPROXY, "audit", question, "--audit-key", str(self.key), *map(str, arguments)])

    def verify(self, *paths: Path) -> dict[str, Any]:
        """The answer to ``rproxy audit verify``, which must be that all is well."""
        done = self.ask("verify", "--json", *(paths or (self.path,)))
        assert (done.returncode, done.stderr) == (0, ""), done
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["ok"], found
        return found


@pytest.fixture
def audit(tmp_path: Path) -> Audit:
    """A new one."""
    return Audit(tmp_path)


def restart(group: Group, audit: Audit) -> None:
    """Start a proxy, and stop it when it has begun to work."""
    before = audit.path.read_bytes().count(b'"start"')
    proxy = group.proxy(*audit.arguments)
    wait_for(lambda: audit.path.read_bytes().count(b'"start"') > before, PATIENCE, "the first lines")
    group.stop(proxy)


def ask(proxy: Twistd, *packets: bytes) -> list[dict[str, Any]]:
    """Send packets over a new connection, and return the answers."""
    with closing(Talk(proxy.port)) as talk:
        return [talk.ask(packet) for packet in packets]


def test_rotation_and_restart(group: Group, audit: Audit) -> None:
    """A trail over two files and two proxies: who received what is known, and nothing of a payload."""
    proxy = group.proxy(*audit.arguments)
    servers = [group.pool_server(proxy.port, *each) for each in (("100", "111"), ("200", "222"))]
    ask(proxy, data_packet("client-one", "111", "xyz-secret"), data_packet("client-two", "222", "xyz-secret"))
    old = audit.path.with_suffix(".log.1")
    wait_for(lambda: b"client" in audit.path.read_bytes(), PATIENCE, "the lines of packets")
    audit.path.rename(old)
    proxy.send_signal(signal.SIGHUP)
    wait_for(lambda: audit.path.exists() and audit.path.stat().st_size, PATIENCE, "the new file")
    ask(proxy, data_packet("client-one", "111", "xyz-secret"), data_packet("client-one", "999", "xyz-secret"))
    for process in servers:
        group.stop(process)
    group.stop(proxy)
    restart(group, audit)

    found = audit.verify(audit.path, old)
    assert (found["packets"], found["written"], found["proved"], found["untold"]) == (4, 3, 3, 0)
    assert audit.verify(audit.path)["proved"] == 1
    who = json.loads(audit.ask("who", "--json", "--client", "client-one", old, audit.path).stdout)["servers"]
    assert [(each["server"], each["policy"], each["packets"]) for each in who] == [("100", "111", 2)]
    listed = audit.ask("servers", "--policy", "222", old, audit.path)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["SERVER", "200"]
    assert audit.ask("verify", "--expect", found["head"], audit.path).returncode == 0
    for path in old, audit.path:
        content = path.read_text()
        for nothing in "xyz-secret", "client-one", "client-two":
            assert nothing not in content
    old.write_bytes(old.read_bytes().replace(b'"222"', b'"111"', 1))
    broken = audit.ask("verify", old, audit.path)
    assert broken.returncode == 1
    assert "was changed, or the one before it" in broken.stdout


def test_without_the_key(audit: Audit) -> None:
    """Who asks a trail is told which key it takes, and not to make one."""
    audit.key.unlink()
    done = audit.ask("verify", audit.path)
    assert done.returncode == 2
    assert done.stderr.endswith("No such file or directory; give the key that the proxy was given by --audit-key\n")


def test_killed(group: Group, audit: Audit) -> None:
    """What a killed proxy wrote stands, and the next one goes on behind it."""
    proxy = group.proxy(*audit.arguments)
    ask(proxy, data_packet("1", "111", "xyz1"))
    wait_for(lambda: b'"packet"' in audit.path.read_bytes(), PATIENCE, "the packet's line")
    group.kill(proxy)
    restart(group, audit)

    found = audit.verify()
    assert found["packets"] == 1
    assert ["begins anew without having stopped" in each["text"] for each in found["findings"]] == [True]


@pytest.mark.parametrize("continues", [False, True])
def test_full(group: Group, audit: Audit, continues: bool) -> None:
    """While nothing can be written, packets are refused, or go on; nothing is said of it but in the log."""
    audit.path = Path("/dev/full")
    proxy = group.proxy(*audit.arguments, *(["--audit-on-error", "continue"] if continues else []))
    proxy.wait_for_log("The audit trail can't be written: No space left on device")
    (answer,) = ask(proxy, data_packet("1", "111", "xyz1"))
    code = "no-server" if continues else "overloaded"
    assert (answer["error"], answer["delivered"], answer["destid"]) == (code, "no", "1")
    group.stop(proxy, faults=2)
    assert re.search(r"#error\] \d+ bytes of the audit trail are lost", proxy.log)


def test_full_and_room_again(group: Group, audit: Audit) -> None:
    """Packets are taken again as soon as their lines can be written, and none is missing."""
    proxy = group.proxy(*audit.arguments)
    # The limit holds for the log too, which is to stay below.
    ask(proxy, *[data_packet("1", "111", "xyz1")] * 100)
    wait_for(lambda: audit.path.read_bytes().count(b'"packet"') == 100, PATIENCE, "their lines")
    _, hard = resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (audit.path.stat().st_size + 10, hard))
    assert ask(proxy, data_packet("1", "111", "xyz1"))[0]["error"] == "no-server"
    proxy.wait_for_log("The audit trail can't be written: File too large")
    assert ask(proxy, data_packet("1", "111", "xyz1"))[0]["error"] == "overloaded"
    resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (hard, hard))
    proxy.wait_for_log("The audit trail is written again")
    assert ask(proxy, data_packet("1", "111", "xyz1"))[0]["error"] == "no-server"
    group.stop(proxy, faults=1)
    assert audit.verify()["packets"] == 103


def test_hangs(group: Group, audit: Audit) -> None:
    """A file that takes nothing and gives no error, such as a full pipe, doesn't keep the process from ending."""
    os.mkfifo(audit.path)
    with ExitStack() as stack:
        for flags in os.O_RDONLY, os.O_WRONLY:
            pipe = os.open(audit.path, flags | os.O_NONBLOCK)
            stack.callback(os.close, pipe)
        with suppress(BlockingIOError):
            while True:
                os.write(pipe, bytes(4096))
        proxy = group.proxy(*audit.arguments)
        assert ask(proxy, data_packet("1", "111", "xyz1"))[0]["error"] == "no-server"
        group.stop(proxy, faults=2)
    assert re.search(r"#error\] Up to \d+ bytes of the audit trail are lost", proxy.log)


def test_pipe_that_nobody_reads(audit: Audit) -> None:
    """The process ends with a sentence, and doesn't wait for somebody to."""
    os.mkfifo(audit.path)
    done = run([*TWISTD, "-n", "--pidfile=", "rproxy", "--port", "0", *audit.arguments])
    assert done.returncode == 1
    assert f"the audit trail {audit.path} can't be opened: No such device or address" in done.stdout + done.stderr


def test_two_proxies(group: Group, audit: Audit) -> None:
    """The second ends with a sentence."""
    group.proxy(*audit.arguments)
    done = run([*TWISTD, "-n", "--pidfile=", "rproxy", "--port", "0", *audit.arguments])
    assert done.returncode == 1
    assert f"the audit trail {audit.path} is another process's: give each proxy its own" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout
