"""The units under a real systemd, as somebody gets them who does what docs/howto/deploy.rst says.

All tests share one machine (:mod:`tests.machine`), since installing takes longer than all else.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import machine
from tests.authority import Authority
from tests.documentation import code_blocks, section
from tests.machine import Machine
from tests.support import ROOT
from tests.wheels import make

pytestmark = pytest.mark.timeout(machine.MAKING)

DEPLOY = ROOT / "docs" / "howto" / "deploy.rst"
PROXY, PORTS, SERVER, OTHER = "rproxy.service", "rproxy.socket", "rpoolserver@100.service", "rpoolserver@101.service"
COMMAND = "/opt/rproxy/bin/rproxy"
PYTHON = "/opt/rproxy/bin/python"
#: The servers' options: some tests halt them, and what they are tested for must not end meanwhile on a slow machine.
LEASE = "--lease 300"

#: The handlers of the second pool server: one that blocks the reactor for good, and one that waits until it may answer.
HANDLERS = """\
import os
import time

from twisted.internet import reactor
from twisted.internet.task import deferLater


def block(payload):
    while True:
        time.sleep(1)


async def wait(payload):
    while not os.path.exists("/etc/rproxy/go"):
        await deferLater(reactor, 0.05)
    return "waited"
"""

#: What the sandbox is tried by: run as the service is, it writes what it could do.
PROBE = """\
import json, os, socket

def can(function, *arguments):
    try:
        function(*arguments)
    except (OSError, ValueError):
        return False
    return True

def write(path):
    with open(path, "w") as file:
        file.write("x")

state = os.environ["STATE_DIRECTORY"]
found = {
    "written": [path for path in ("/etc/x", "/opt/rproxy/x", "/usr/x", "/var/lib/x", "/var/log/x", "/run/x", "/dev/x",
        "/sys/kernel/x", "/var/lib/private/x", "/home/x", "/root/x") if can(write, path)],
    "seen": [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()],
    "proc": sorted(name for name in os.listdir("/proc") if not name.isdigit()),
    "homes": can(os.listdir, "/root") or can(os.listdir, "/home"),
    "kill": can(os.kill, 1, 0),
    "netlink": can(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW),
    "root": os.getuid() == 0,
    "devices": [name for name in os.listdir("/dev") if name.startswith(("sd", "vd", "mem", "kmsg"))],
}
with open(os.path.join(state, "probe.json"), "w") as file:
    json.dump(found, file)
"""

#: A client that makes a connection for each packet until it is told to stop; it prints what became of them.
LOOP = """\
import collections, json, os, socket

counts = collections.Counter()
number = 0
while not os.path.exists("/tmp/enough"):
    number += 1
    packet = {"type": "0", "srcid": str(number), "privPoliId": "111", "payload": "xyz"}
    try:
        with socket.create_connection((("127.0.0.1", "::1")[number % 2], 8000), timeout=30) as connection:
            connection.sendall(json.dumps(packet).encode())
            answer = json.loads(connection.recv(2048) or b'{"error": "closed"}')
            counts[answer.get("error", "acked")] += 1
    except OSError as error:
        counts[type(error).__name__] += 1
    if number == 20:
        open("/tmp/begun", "w").close()
print(json.dumps(counts))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of rproxy and of all that it needs, for the machine's Python."""
    if why := machine.obstacle():
        pytest.skip(why)
    return make(tmp_path_factory.mktemp("release"), "tls").parent


def shown(title: str) -> list[str]:
    """The commands of a section, each on a line."""
    return [line for block in code_blocks(section(DEPLOY, title), "sh") for line in block.splitlines()]


#: Where the wheel is, and what the page has is typed.
FOLDER = "/release"


class Booted(Machine):
    """The machine, with what is asked of it here again and again."""

    def do(self, title: str) -> str:
        """Do what a section says in the folder that the wheel is in, and return what is printed."""
        return "".join(self.run("sh", "-c", f"cd {FOLDER} && {line}") for line in shown(title))

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).strip()

    def wait_until(self, unit: str, name: str, value: str) -> None:
        """Wait until a property matches a regular expression."""
        self.wait_for("systemctl", "show", f"--property={name}", "--value", unit, until=value)

    def send(self, policy: str = "111") -> str:
        """Send a packet, and keep trying."""
        return self.run(COMMAND, "send", "--id=1", f"--pp={policy}", "--payload=xyz1", "--keep-trying")

    def wait_for_servers(self) -> None:
        """Wait until the proxy knows both; policies are shown in the order in which they got their first servers."""
        self.wait_for("sh", "-c", f"{COMMAND} servers | sort", until=r"^111 +100 .*\n222 +101 ")

    @contextmanager
    def halted_servers(self) -> Iterator[None]:
        """Have both pool servers do nothing meanwhile, for however long: systemd doesn't take them for hung."""
        self.run("systemctl", "service-watchdogs", "no")
        self.run("systemctl", "kill", "--signal=STOP", SERVER, OTHER)
        try:
            yield
        finally:
            self.run("systemctl", "kill", "--signal=CONT", SERVER, OTHER)
            self.run("systemctl", "service-watchdogs", "yes")

    def handle_by(self, name: str) -> None:
        """Have the second pool server, when it is started again, handle packets by one of :data:`HANDLERS`."""
        self.write("/etc/rproxy/101.conf", f"POLICY=222\nLISTEN=5001\nOPTIONS={LEASE} --handler handlers:{name}\n")

    def log(self, unit: str) -> str:
        """What the journal has of a unit."""
        return self.run("journalctl", f"--unit={unit}", "--output=cat", "--no-pager")

    def drop_in(self, unit: str, name: str, text: str) -> None:
        """Change a unit, in a test that has it :func:`put_back`."""
        self.write(f"/run/systemd/system/{unit}.d/{name}.conf", text)
        self.run("systemctl", "daemon-reload")


@pytest.fixture(scope="module")
def booted(wheels: Path) -> Iterator[Booted]:
    """A machine in which what docs/howto/deploy.rst says was done, and a second pool server of another policy."""
    with Booted(binds={"/wheels": wheels}) as booted:
        booted.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /wheels\n")
        booted.run("sh", "-c", f"mkdir {FOLDER} && cp /wheels/rproxy-*.whl {FOLDER}")
        output = booted.do("Installing")
        assert "/etc/systemd/system/rproxy.service: written" in output
        assert "Hash of payload is correct" in output
        packages = booted.run(PYTHON, "-c", "import rproxy; print(rproxy.__path__[0])").strip()
        booted.write(f"{packages}/../handlers.py", HANDLERS)
        booted.run("sh", "-c", f"echo 'OPTIONS={LEASE}' >>/etc/rproxy/100.conf")
        booted.handle_by("wait")
        booted.run("systemctl", "restart", SERVER)
        booted.run("systemctl", "enable", "--now", OTHER)
        booted.wait_until(PROXY, "StatusText", "2 servers up of 2")
        yield booted


@pytest.fixture
def put_back(booted: Booted) -> Iterator[None]:
    """Have settings and units after the test as they were before it, and all run anew."""
    booted.run("tar", "-C", "/", "-cf", "/tmp/settings.tar", "etc/rproxy", "etc/systemd/system")
    yield
    booted.run("systemctl", "stop", PORTS, PROXY, SERVER, OTHER)
    booted.run("sh", "-c", "rm -rf /etc/rproxy /etc/systemd/system /run/systemd/system/r*.d")
    booted.run("tar", "-C", "/", "-xf", "/tmp/settings.tar")
    booted.run("systemctl", "daemon-reload")
    booted.run("systemctl", "reset-failed")
    booted.run("systemctl", "start", PORTS, PROXY, SERVER, OTHER)
    booted.wait_for_servers()


def test_units_are_right(booted: Booted) -> None:
    """Nothing is found wrong in them as they are installed, and little in how open they are."""
    assert booted.run("systemd-analyze", "verify", PROXY, PORTS, SERVER) == ""
    for unit in PROXY, SERVER:
        booted.run("systemd-analyze", "security", "--threshold=15", "--no-pager", unit)


def test_it_says_how_it_is(booted: Booted) -> None:
    """In the line that ``systemctl status`` shows, and by the commands, which find the proxy by themselves."""
    assert "Hash of payload is correct" in booted.send()
    # What was sent may still have been in flight when it was said last.
    booted.wait_until(PROXY, "StatusText", "2 servers up of 2, .* 0 in flight")
    booted.wait_until(SERVER, "StatusText", "1 of 1 registration confirmed, 0 in flight")
    output = booted.do("How it is")
    assert re.search(r'Status: "ready: 2 policies, 2 servers up of 2, \d+ packets/s, 0 in flight"', output)
    assert 'Status: "ready: 1 of 1 registration confirmed, 0 in flight"' in output
    assert "is ready" in output
    assert "Unable to write" not in output


@pytest.mark.usefixtures("put_back")
def test_reload(booted: Booted) -> None:
    """It reads its policies again and goes on as the same process; so does what has nothing to read."""
    booted.write("/etc/rproxy/policies.toml", "[policy.111]\n[policy.222]\n")
    booted.write("/etc/rproxy/rproxy.conf", "RPROXY_OPTIONS=--policies /etc/rproxy/policies.toml\n")
    booted.run("systemctl", "restart", PROXY)
    assert "Hash of payload is correct" in booted.send()
    before = booted.show(PROXY, "MainPID"), booted.show(SERVER, "MainPID")
    booted.write("/etc/rproxy/policies.toml", "[policy.222]\n")
    booted.run("systemctl", "reload", PROXY, SERVER)
    booted.wait_for(COMMAND, "explain", "111", until="wouldn't go to a server")
    assert (booted.show(PROXY, "MainPID"), booted.show(SERVER, "MainPID")) == before
    assert booted.show(PROXY, "ActiveState") == "active"


def test_killed(booted: Booted) -> None:
    """It comes back and knows its servers without their help, and whoever connected meanwhile is answered."""
    pid = booted.show(PROXY, "MainPID")
    with booted.halted_servers():
        booted.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", PROXY)
        send = booted.command(COMMAND, "send", "--id=1", "--pp=111", "--payload=xyz1")
        client = subprocess.Popen(send, stdout=subprocess.PIPE, text=True)
        booted.wait_until(PROXY, "NRestarts", "^1$")
        booted.wait_until(PROXY, "ActiveState", "^active$")
        assert booted.show(PROXY, "MainPID") not in {"0", pid}
        booted.wait_for_servers()
    output, _ = client.communicate(timeout=60)
    assert "Hash of payload is correct" in output


@pytest.mark.usefixtures("put_back")
def test_watchdog(booted: Booted) -> None:
    """What hangs is killed and started again: a pool server that a handler blocks, and a proxy that was halted."""
    for unit in PROXY, OTHER:
        # Not so short that a proxy that works is taken for hung when the machine has much to do.
        booted.drop_in(unit, "watchdog", "[Service]\nWatchdogSec=5s\n")
    booted.handle_by("block")
    booted.run("systemctl", "restart", PROXY, OTHER)
    booted.wait_until(OTHER, "StatusText", "1 of 1 registration confirmed")
    # The proxy feeds its own all the while.
    assert "server-lost" in booted.run(COMMAND, "send", "--id=1", "--pp=222", "--payload=x", code=1)
    assert "Watchdog timeout" in booted.log(OTHER)
    assert "Watchdog timeout" not in booted.log(PROXY)
    pid = booted.show(PROXY, "MainPID")
    booted.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", PROXY)
    booted.wait_until(PROXY, "MainPID", rf"^(?!0$|{pid}$)\d+")
    assert "Watchdog timeout" in booted.log(PROXY)
    assert "Hash of payload is correct" in booted.send()


@pytest.mark.usefixtures("put_back")
def test_restart_refuses_nobody(booted: Booted) -> None:
    """A client that makes connection after connection, of IPv4 and IPv6, is never refused, and always answered."""
    # Packets wait for the server for as long as it may take to start on a machine that has much to do.
    booted.write("/etc/rproxy/rproxy.conf", "RPROXY_OPTIONS=--queue-timeout 25\n")
    booted.run("systemctl", "restart", PROXY)
    booted.write("/tmp/loop.py", LOOP)
    client = subprocess.Popen(booted.command(PYTHON, "/tmp/loop.py"), stdout=subprocess.PIPE, text=True)
    try:
        booted.wait_for("ls", "/tmp", until="^begun$")
        for _ in range(2):
            booted.run("systemctl", "restart", PROXY)
        # It may not have found the new proxy yet, which knows it from the registry.
        booted.run("systemctl", "restart", SERVER)
        booted.do("Restarting and upgrading")
    finally:
        booted.write("/tmp/enough", "")
        output, _ = client.communicate(timeout=60)
    counts = json.loads(output)
    print(f"what became of one connection after another: {counts}")
    assert counts["acked"] > 100
    # Who was accepted as the last one is told so, rather than nothing.
    assert {*counts} <= {"acked", "shutting-down"}


@pytest.mark.usefixtures("put_back")
def test_stop(booted: Booted) -> None:
    """Told to stop with a packet in flight, it says that it stops, has it answered, and leaves in order."""
    client = subprocess.Popen(
        booted.command(COMMAND, "send", "--id=1", "--pp=222", "--payload=x"), stdout=subprocess.PIPE, text=True
    )
    booted.wait_for(COMMAND, "status", until=r"1 in flight")
    (stop,) = shown("Stopping")
    booted.run("sh", "-c", f"{stop} --no-block")
    booted.wait_until(PROXY, "ActiveState", "deactivating")
    booted.wait_until(PROXY, "StatusText", "stopping: ")
    booted.write("/etc/rproxy/go", "")
    output, _ = client.communicate(timeout=60)
    assert "from the server payload: waited" in output
    booted.wait_until(PROXY, "ActiveState", "inactive")
    assert (booted.show(PROXY, "Result"), booted.show(PROXY, "ExecMainStatus")) == ("success", "0")
    booted.run("systemctl", "start", PORTS, PROXY)
    assert "Hash of payload is correct" in booted.send()


@pytest.mark.usefixtures("put_back")
def test_wrong_options(booted: Booted) -> None:
    """It isn't started again and again with them; when they are right it is started as the page says."""
    booted.run("cp", "/etc/rproxy/rproxy.conf", "/tmp/rproxy.conf")
    booted.drop_in(PROXY, "limit", "[Unit]\nStartLimitIntervalSec=10min\nStartLimitBurst=3\n")
    booted.run("systemctl", "reset-failed", PROXY)
    # Servers that look for the proxy would start it.
    booted.run("systemctl", "stop", PORTS, PROXY, SERVER, OTHER)
    booted.write("/etc/rproxy/rproxy.conf", "RPROXY_OPTIONS=--nonsense\n")
    booted.run("systemctl", "start", PROXY, code=1)
    assert (booted.show(PROXY, "ActiveState"), booted.show(PROXY, "NRestarts")) == ("failed", "0")
    # A connection does start it, but not without end.
    knock = "import socket; socket.create_connection(('127.0.0.1', 8000)).recv(1)"
    booted.run(PYTHON, "-c", knock, code=None)
    booted.wait_until(PORTS, "ActiveState", "failed")
    booted.run("mv", "/tmp/rproxy.conf", "/etc/rproxy/rproxy.conf")
    booted.do("When it doesn't start")
    booted.run("systemctl", "start", SERVER)
    assert "Hash of payload is correct" in booted.send()


@pytest.mark.usefixtures("put_back")
def test_sandbox(booted: Booted) -> None:
    """What runs as a service does writes nowhere but into its state, and sees nothing of others."""
    booted.write("/opt/rproxy/probe.py", PROBE)
    for unit, state in (PROXY, "rproxy"), (SERVER, "rpoolserver/100"):
        booted.drop_in(unit, "probe", f"[Service]\nExecStartPre={PYTHON} /opt/rproxy/probe.py\n")
        booted.run("systemctl", "restart", unit)
        assert json.loads(booted.run("cat", f"/var/lib/{state}/probe.json")) == {
            "written": [],
            "seen": [],
            "proc": ["self", "thread-self"],
            "homes": False,
            "kill": False,
            "netlink": False,
            "root": False,
            "devices": [],
        }
    # The probe would find something where there is no sandbox.
    outside = json.loads(
        booted.run("sh", "-c", f"cd /tmp; STATE_DIRECTORY=. {PYTHON} /opt/rproxy/probe.py; cat probe.json")
    )
    # A machine in a container has none of them anyway.
    del outside["devices"]
    assert all(outside.values())


@pytest.mark.usefixtures("put_back")
def test_several_processes_and_a_token(booted: Booted) -> None:
    """With workers the parent is systemd's, and what only root may read is handed over."""
    booted.do("Keys and tokens")
    booted.run("sed", "-i", "s/^RPROXY_OPTIONS=/&--workers 2 /", "/etc/rproxy/rproxy.conf")
    booted.run("systemctl", "restart", PROXY)
    assert "Hash of payload is correct" in booted.send()
    booted.wait_until(PROXY, "StatusText", "2 servers up of 2")
    parent = booted.show(PROXY, "MainPID")
    children = booted.run("cat", f"/proc/{parent}/task/{parent}/children").split()
    workers = [pid for pid in children if "rproxy.worker" in booted.run("cat", f"/proc/{pid}/cmdline")]
    assert len(workers) == 2
    assert not any("NOTIFY_SOCKET" in booted.run("cat", f"/proc/{pid}/environ") for pid in workers)
    assert "Draining 1 registration" in booted.run(COMMAND, "drain", "100", "--token-file=/etc/rproxy/admin.token")
    booted.run("systemctl", "reload", PROXY)
    booted.run("systemctl", "stop", PORTS, PROXY)
    assert booted.show(PROXY, "Result") == "success"


@pytest.mark.usefixtures("put_back")
def test_tls(booted: Booted, tmp_path: Path) -> None:
    """At a port that systemd holds, with a key that only root may read."""
    booted.run("/opt/rproxy/bin/pip", "install", "rproxy[tls]")
    files = Authority(tmp_path).issue("127.0.0.1")
    names = {"ca": files.ca, "cert": files.cert, "key": files.key}
    for name, file in names.items():
        booted.write(f"/etc/rproxy/{name}.pem", Path(file or "").read_text(), 0o600)
    load = "\n".join(f"LoadCredential={name}:/etc/rproxy/{name}.pem" for name in names)
    booted.drop_in(PROXY, "tls", f"[Service]\n{load}\n")
    booted.drop_in(PORTS, "tls", "[Socket]\nListenStream=0.0.0.0:8443\n")
    options = ":".join(f"{name}=/run/credentials/{PROXY}/{name}" for name in names)
    booted.write("/etc/rproxy/rproxy.conf", f"RPROXY_OPTIONS=--listen tls:systemd:domain=INET:index=2:{options}\n")
    booted.run("systemctl", "stop", PORTS, PROXY)
    booted.run("systemctl", "start", PORTS, PROXY)
    assert "Hash of payload is correct" in booted.send()
    tls = [f"--tls-{name}=/etc/rproxy/{name}.pem" for name in names]
    send = (COMMAND, "send", "--id=1", "--pp=111", "--payload=xyz1", "--revproc=127.0.0.1:8443")
    assert "Hash of payload is correct" in booted.run(*send, *tls)
    booted.run("systemctl", "reload", PROXY)
    assert "Hash of payload is correct" in booted.run(*send, *tls)


def test_renewal(booted: Booted) -> None:
    """What an ACME client runs puts both files in place, and has the proxy take them by a restart."""
    (hook,) = code_blocks(section(DEPLOY, "Renewing certificates"), "sh")
    booted.write("/tmp/lineage/fullchain.pem", "a certificate")
    booted.write("/tmp/lineage/privkey.pem", "a key")
    booted.write("/tmp/hook", hook, 0o755)
    before = booted.show(PROXY, "MainPID")
    booted.run("env", "RENEWED_LINEAGE=/tmp/lineage", "/tmp/hook")
    assert booted.run("cat", "/etc/rproxy/proxy.crt", "/etc/rproxy/proxy.key") == "a certificatea key"
    assert booted.run("stat", "--format=%a", "/etc/rproxy/proxy.key").strip() == "600"
    assert booted.show(PROXY, "MainPID") not in {"0", before}
    booted.run("rm", "/etc/rproxy/proxy.crt", "/etc/rproxy/proxy.key")


def test_backup(booted: Booted) -> None:
    """What was saved comes back, settings and registrations, without the servers' help."""
    saving, restoring = code_blocks(section(DEPLOY, "Backup and restoring"), "sh")
    # What isn't there yet can't be saved: the last test may have restarted them.
    booted.wait_for_servers()
    booted.run("sh", "-ec", saving)
    with booted.halted_servers():
        stop, rest = restoring.split("\n", 1)
        booted.run("sh", "-c", stop)
        booted.run("sh", "-c", "rm -r /etc/rproxy/rproxy.conf /var/lib/private/rproxy/*")
        booted.run("sh", "-ec", rest)
        booted.wait_for_servers()
        booted.run("test", "-f", "/etc/rproxy/rproxy.conf")
    assert "Hash of payload is correct" in booted.send()
    assert "Unable to" not in booted.log(PROXY)


def test_package(booted: Booted) -> None:
    """The tree of a package has the units where packages have them."""
    booted.do("The layout, and packages")
    files = booted.run("sh", "-c", f"cd {FOLDER}/debian/rproxy && find . -type f | sort").split()
    assert "./usr/lib/systemd/system/rproxy.service" in files
    assert "./etc/rproxy/rproxy.conf" in files
    assert not [file for file in files if file.startswith("./etc/systemd")]


def test_removing(booted: Booted) -> None:
    """Nothing is left, and nothing is broken."""
    booted.run("systemctl", "disable", "--now", OTHER)
    booted.do("Removing it")
    assert booted.run("systemctl", "list-units", "--no-legend", "rproxy*", "rpoolserver*") == ""
    assert booted.run("sh", "-c", "ls -d /opt/rproxy /etc/rproxy /var/lib/*/rp* /var/lib/rp* /run/rproxy", code=2)
    assert booted.run("systemctl", "list-unit-files", "--no-legend", "rproxy*", "rpoolserver*", code=None) == ""
