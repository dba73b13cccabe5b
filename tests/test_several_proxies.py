"""Several proxies for one service, from end to end: one that is away, or worse, disturbs nothing at the others."""

from __future__ import annotations

import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.threads import deferToThread

from rproxy.client import Client
from rproxy.client.failover import FailoverEndpoint
from tests.namespaces import Host, Network, obstacle
from tests.support import Group, Process, Talk, Twistd, data_packet, free_port, run, script
from tests.test_restart import HANDLERS, Stream, journals

HOST = "127.0.0.1"
SENT = [
    "Receiving a response from the server payload: b0400cf1f3919fdba057dbd2acc52f148fbb43ac",
    "Hash of payload is correct",
]


def registered(port: int) -> str:
    """The line of a pool server that is registered at the proxy at that port."""
    return f"Registered for privacy policy 111 at {HOST}:{port}$"


def serve(group: Group, *proxies: int, until: int, arguments: tuple[str, ...] = (), cwd: Path | None = None) -> Twistd:
    """Start a pool server for all these proxies, and return when it is registered at one of them."""
    first, *others = proxies
    more = [part for port in others for part in ("--revproc", str(port))]
    return group.pool_server(first, "100", "111", *more, *arguments, cwd=cwd, until=registered(until))


def ask(port: int) -> str:
    """Have a packet served through that proxy, and return by whom."""
    with Talk(port) as talk:
        return str(talk.ask(data_packet("1", "111", "xyz1"))["srcid"])


def send(*arguments: str) -> tuple[int, list[str], list[str]]:
    """Run ``rproxy send`` with one packet; return the exit code and the lines of both outputs."""
    done = run([*script("rproxy"), "send", *arguments, "--id", "1", "--pp", "111", "--payload", "xyz1"])
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


# Pool servers.


def test_registered_at_each(group: Group) -> None:
    """One proxy is killed: the other serves on. When it is back, the server is registered there again."""
    ports = [group.proxy().port for _ in range(2)]
    killed, other = group.processes
    server = serve(group, *ports, until=ports[1])
    server.wait_for_log(registered(ports[0]))
    assert [ask(port) for port in ports] == ["100", "100"]

    group.kill(killed)
    server.wait_for_log(f"Lost the registration for privacy policy 111 at {HOST}:{ports[0]}")
    assert ask(ports[1]) == "100"
    group.proxy("--port", str(ports[0]))
    server.wait_for_log(rf"at {HOST}:{ports[0]}$(?:.*\n)+.*Lost(?:.*\n)+.*{registered(ports[0])}")

    assert [ask(port) for port in ports] == ["100", "100"]
    # Nothing happened to the registration at the other one.
    assert len([line for line in server.log.splitlines() if line.endswith(f"{HOST}:{ports[1]}")]) == 2
    assert other.log.count("Received setup message") == 1


def test_bad_company(group: Group) -> None:
    """Proxies that are away, refuse, are old, or hang: the one that is as it should be gets its registration."""
    with ExitStack() as stack:
        hanging = stack.enter_context(socket.create_server((HOST, 0)))
        argv = (sys.executable, "-m", "tests.classic", "proxy", "--port", "0")
        old = stack.enter_context(Process(argv, ready=r"Running the reverse proxy on port (\d+)"))
        refusing = group.proxy("--register-from", "10.0.0.0/8")
        away = free_port()
        proxy = group.proxy()
        bad = {
            away: f"Can't connect to {HOST}:{away}, and will go on trying: ",
            refusing.port: f"{HOST}:{refusing.port} refuses privacy policy 111: forbidden, ",
            old.port: f"{HOST}:{old.port} doesn't answer setup packets, as old proxies do",
            hanging.getsockname()[1]: f"{HOST}:{hanging.getsockname()[1]} doesn't answer setup packets",
        }
        server = serve(group, *bad, proxy.port, until=proxy.port)
        assert ask(proxy.port) == "100"
        for line in bad.values():
            server.wait_for_log(line)
        assert ask(proxy.port) == "100"


def test_stop_beside_one_that_hangs(group: Group) -> None:
    """The stop isn't held up by a proxy that neither answers nor closes its connections."""
    ports = [group.proxy().port for _ in range(2)]
    hanging = group.processes[0]
    server = serve(group, *ports, until=ports[1], arguments=("--drain-timeout", "80000"))
    server.wait_for_log(registered(ports[0]))
    assert [ask(port) for port in ports] == ["100", "100"]

    hanging.send_signal(signal.SIGSTOP)
    try:
        group.stop(server)
    finally:
        hanging.send_signal(signal.SIGCONT)
    assert "Stopping with" not in server.log


# Clients.


@pytest_twisted.ensureDeferred
async def test_client(group: Group, tmp_path: Path) -> None:
    """A steady stream runs on when its proxy is stopped, and when it is killed: at most once, and nothing for long."""
    from twisted.internet import reactor

    (tmp_path / "handlers.py").write_text(HANDLERS)
    ports = [group.proxy().port for _ in range(3)]
    proxies = dict(zip(ports, group.processes, strict=True))
    serve(group, *ports, until=ports[2], arguments=("--handler", "handlers:note"), cwd=tmp_path)
    for port in ports[:2]:
        await deferToThread(group.processes[-1].wait_for_log, registered(port))
    endpoint = FailoverEndpoint(
        {str(port): HostnameEndpoint(reactor, HOST, port) for port in ports}, reactor, shuffle=lambda line: None
    )
    client = Client(endpoint, "1", reactor, resend=True)
    stream = Stream(client)
    await stream.more()
    await deferToThread(group.stop, proxies[ports[0]])
    await stream.more()
    assert {*stream.outcomes.values()} == {"ACK"}
    await deferToThread(group.kill, proxies[ports[1]])
    await stream.more()
    await stream.stop()
    await client.close()

    lost = {payload for payload, outcome in stream.outcomes.items() if outcome != "ACK"}
    assert len(lost) <= 8
    assert all(stream.outcomes[payload].startswith("connection-lost, delivered: unknown: ") for payload in lost)
    came = journals(tmp_path)
    assert {*came.values()} == {1}
    assert {*stream.outcomes} - lost <= {*came} <= {*stream.outcomes}


def test_send(group: Group) -> None:
    """Through the second proxy, with one sentence why."""
    proxy = group.proxy()
    serve(group, proxy.port, until=proxy.port)
    away = free_port()

    code, out, err = send("--revproc", str(away), "--revproc", str(proxy.port))

    sending = f"Sending message xyz1 to privacy policy 111 through reverse proxy running on port {away}"
    assert (code, out) == (0, [sending, *SENT])
    assert len(err) == 1
    assert err[0].startswith(
        f"rproxy send: {HOST}:{away} failed, {HOST}:{proxy.port} is the next: Connection was refused"
    )


def test_send_where_there_is_no_server(group: Group) -> None:
    """A proxy that knows no server isn't the last word, but where no other knows one either."""
    empty, proxy = group.proxy(), group.proxy()
    serve(group, proxy.port, until=proxy.port)

    code, out, err = send("--revproc", str(empty.port), "--revproc", str(proxy.port))
    assert (code, out[1:]) == (0, SENT)
    assert err == [f"rproxy send: {HOST}:{empty.port} failed, {HOST}:{proxy.port} is the next: it refused a packet"]

    code, out, err = send("--revproc", str(empty.port), "--revproc", str(free_port()))
    assert (code, out[-1]) == (1, "Hash of payload is incorrect")


# Names with several addresses.

NAMES = pytest.mark.skipif(bool(obstacle()), reason=obstacle())
HOLE, REFUSING, PROXY = "10.77.0.7", "10.77.0.8", "10.77.0.9"


class Named:
    """A client's host, for which the name ``proxies`` has three addresses: nobody's, a host's, and a proxy's."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.host: Host = network.host("10.77.0.5/24")
        network.host(f"{REFUSING}/24")
        there = network.host(f"{PROXY}/24")
        # Whoever has this address takes everything and answers nothing.
        self.host.namespace.ip(f"neighbour add {HOLE} lladdr 02:00:00:00:00:01 nud permanent dev eth0")
        self.proxy = network.start(there.twistd("rproxy", "--port", "8000"))
        self._hosts = folder / "hosts"
        self._hosts.write_text("".join(f"{address} proxies\n" for address in (HOLE, REFUSING, PROXY)))

    def command(self, argv: list[str]) -> list[str]:
        """Return how to run a command that knows the name."""
        return ["unshare", "--mount", "sh", "-c", f'mount --bind {self._hosts} /etc/hosts && exec "$@"', "sh", *argv]


@NAMES
def test_name(tmp_path: Path) -> None:
    """A pool server registers, and a client is served, at the one address of three that has a proxy."""
    with Network() as network:
        named = Named(network, tmp_path)
        server = Twistd("rpoolserver", "--id", "100", "--pp", "111", "--revproc", "proxies:8000")
        server.argv = named.host.namespace.command(named.command(server.argv))
        network.start(server).wait_for_log("Registered for privacy policy 111 at proxies:8000$")

        argv = [*script("rproxy"), "send", "--revproc", "proxies:8000", "--timeout", "10"]
        done = named.host.run(*named.command([*argv, "--id", "1", "--pp", "111", "--payload", "xyz1"]))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[1:] == SENT


@NAMES
def test_black_hole(tmp_path: Path) -> None:
    """The same where the black hole and the proxy are given as two proxies."""
    with Network() as network:
        named = Named(network, tmp_path)
        proxies = ["--revproc", f"{HOLE}:8000", "--revproc", f"{PROXY}:8000"]
        server = Twistd("rpoolserver", "--id", "100", "--pp", "111", *proxies)
        server.argv = named.host.namespace.command(server.argv)
        network.start(server).wait_for_log(f"Registered for privacy policy 111 at {PROXY}:8000$")

        argv = [*script("rproxy"), "send", *proxies, "--timeout", "10"]
        done = named.host.run(*argv, "--id", "1", "--pp", "111", "--payload", "xyz1")
        assert (done.returncode, done.stdout.splitlines()[1:]) == (0, SENT)
        assert f"{HOLE}:8000 failed, {PROXY}:8000 is the next: it was slower to connect" in done.stderr
