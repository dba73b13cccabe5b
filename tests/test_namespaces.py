"""Hosts with addresses of their own: what the proxy makes of where its peers are, and of those that vanish.

The proxy's host is in a private network, in another one, and in one that stands for the internet. The peers are twistd
with pool servers, the peers in the field, and sockets, each on a host of its own.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rproxy import packets
from tests.classic import sha1_hex
from tests.namespaces import Host, Network, obstacle
from tests.support import PATIENCE, Process, Talk, Twistd, data_packet, wait_for

pytestmark = pytest.mark.skipif(bool(obstacle()), reason=obstacle())
HAPROXY = shutil.which("haproxy")

PORT = 8000
#: The proxy's host, as each network knows it.
PRIVATE, OTHER, PUBLIC = "10.77.0.1", "10.77.1.1", "203.0.113.1"
REGISTERED = "Registered for privacy policy 111"
REGISTERED_AGAIN = rf"{REGISTERED}(?:.*\n)+.*{REGISTERED}"


class Site:
    """The proxy's host, and others in the same networks.

    :ivar host: the proxy's.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.host = network.host(*(f"{address}/24" for address in (PRIVATE, OTHER, PUBLIC)))

    def add(self, *addresses: str) -> Host:
        """Add a host with these addresses."""
        return self.network.host(*(f"{address}/24" for address in addresses))

    def proxy(self, *arguments: str) -> Twistd:
        """Start the proxy."""
        return self.network.start(self.host.twistd("rproxy", "--port", str(PORT), *arguments))

    def pool_server(
        self, host: Host, server_id: str, *arguments: str, to: int = PORT, until: str = REGISTERED
    ) -> Twistd:
        """Start a pool server of policy 111 that logs its packets.

        :param to: the port to register at.
        :param until: what its log has when this returns.
        """
        to_proxy = f"{proxy_of(host)[0]}:{to}"
        what = ("--id", server_id, "--pp", "111", "--revproc", to_proxy, "--log-packets")
        server = self.network.start(host.twistd("rpoolserver", *what, *arguments))
        server.wait_for_log(until)
        return server

    def classic_server(self, host: Host, server_id: str) -> Process:
        """Start a server as it is in the field, for policy 111."""
        address, port = proxy_of(host)
        what = ("--id", server_id, "--host", host.address, "--proxy-host", address, "--proxy-port", str(port))
        argv = (sys.executable, "-m", "tests.classic", "server", *what)
        return self.network.launch(host.process(*argv, ready="Connecting to the reverse proxy"))

    def talk(self, host: Host, where: tuple[str, int] | None = None) -> Talk:
        """Connect from there; to the proxy, unless told otherwise."""
        return self.network.talk(host, where or proxy_of(host))


def proxy_of(host: Host) -> tuple[str, int]:
    """Return the proxy's address and port in the network of that host."""
    (address,) = [each for each in (PRIVATE, OTHER, PUBLIC) if each.split(".")[:3] == host.address.split(".")[:3]]
    return address, PORT


@pytest.fixture
def site() -> Iterator[Site]:
    """The hosts and processes of one test."""
    with Network() as network:
        yield Site(network)


def ask(talk: Talk, policy: str = "111", payload: str = "xyz1") -> str:
    """Send a packet; return the id of the server that answered it, or the error and whether it was delivered."""
    return outcome(talk.ask(data_packet("1", policy, payload)), payload)


def outcome(answer: dict[str, Any], payload: str = "xyz1") -> str:
    """Return the id of the server whose ACK this is, or the error and whether it was delivered."""
    if answer["type"] == "3":
        return f"{answer['error']}, {answer['delivered']}"
    assert answer["payload"] == sha1_hex(payload), answer
    return str(answer["srcid"])


def register(talk: Talk, server_id: str, *, policy: str = "111", lease: float | None = None) -> None:
    """Send a setup packet."""
    talk.send(packets.setup(server_id, policy, 5000, lease=lease))


# Who may register.


def test_private_networks(site: Site) -> None:
    """Servers in private networks register and get packets; those on the public side are refused, and get none."""
    proxy = site.proxy()
    inside, outside = site.add("10.77.0.5"), site.add("203.0.113.7")
    site.pool_server(inside, "100")
    strangers = [
        site.pool_server(outside, "101", until=f"{PUBLIC}:{PORT} refuses privacy policy 111: forbidden"),
        # This one doesn't wait to be told so.
        site.classic_server(site.add("203.0.113.8"), "102"),
    ]
    for server_id, address in ("101", "203.0.113.7"), ("102", "203.0.113.8"):
        proxy.wait_for_log(f"Refused setup message from server id {server_id} ip {address} .* 111: forbidden")

    for host in inside, outside:
        talk = site.talk(host)
        assert [ask(talk) for _ in range(3)] == ["100"] * 3
    client = ("--proxy-host", PUBLIC, "--proxy-port", str(PORT))
    done = outside.run(sys.executable, "-m", "tests.classic", "client", *client)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "Hash of payload is correct"
    assert re.findall("Received setup message from server id .* ip [0-9.]+", proxy.log) == [
        "Received setup message from server id 100 ip 10.77.0.5"
    ]
    for stranger in strangers:
        assert "Received a message" not in stranger.log


def test_public_network(site: Site) -> None:
    """One that is named takes the place of the private ones, loopback included."""
    proxy = site.proxy("--register-from", "203.0.113.0/24")
    for host, where, may in (
        (site.add("203.0.113.7"), PUBLIC, True),
        (site.add("10.77.0.5"), PRIVATE, False),
        (site.host, "127.0.0.1", False),
    ):
        talk = site.talk(host, (where, PORT))
        register(talk, "100", lease=60)
        answer = talk.answer()
        assert (answer.get("error"), answer["payload"] == "registered") == (None if may else "forbidden", may)
    assert re.findall("(Received|Refused) setup message .* ip ([0-9.]+)", proxy.log) == [
        ("Received", "203.0.113.7"),
        ("Refused", "10.77.0.5"),
        ("Refused", "127.0.0.1"),
    ]


def test_register_listen(site: Site) -> None:
    """Where servers register is bound to the private network alone, and nowhere else is a setup packet taken."""
    inside, outside = site.add("10.77.0.5"), site.add("203.0.113.7")
    proxy = site.proxy("--register-listen", f"tcp:9000:interface={PRIVATE}")
    proxy.wait_for_log("Registering servers on port 9000")
    for address in PUBLIC, PRIVATE:
        with pytest.raises(OSError, match=r"refused|unreachable"), closing(outside.talk((address, 9000))):
            pass
    # A neighbour may find a way to the private address nevertheless, but its own is still the one that counts.
    outside.namespace.ip(f"route add {PRIVATE}/32 via {PUBLIC}")
    for host, where in (inside, (PRIVATE, PORT)), (outside, (PUBLIC, PORT)), (outside, (PRIVATE, 9000)):
        talk = site.talk(host, where)
        register(talk, "101", lease=60)
        assert outcome(talk.answer()) == "forbidden, no"

    site.pool_server(inside, "100", to=9000)
    assert ask(site.talk(inside, (PRIVATE, 9000))) == "forbidden, no"
    for host in inside, outside:
        assert ask(site.talk(host)) == "100"
    assert "Received setup message from server id 101" not in proxy.log


# Policies with networks.


POLICIES = """
[policy.111]
servers.networks = ["10.77.{number}.0/24"]
clients.networks = ["10.77.1.0/24"]
[policy.222]
servers.networks = ["10.77.0.0/16"]
"""


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A file by which the private network serves policy 111."""
    path = tmp_path / "policies.toml"
    path.write_text(POLICIES.format(number=0))
    return path


def test_networks_of_policies(site: Site, policies: Path) -> None:
    """Each policy has its own, for its servers and for its clients."""
    proxy = site.proxy("--policies", str(policies))
    inside, beside, outside = site.add("10.77.0.5"), site.add("10.77.1.5"), site.add("203.0.113.7")
    site.pool_server(inside, "100")
    wrong = site.pool_server(beside, "101", "--pp", "222", until="Registered for privacy policy 222")
    wrong.wait_for_log(f"{OTHER}:{PORT} refuses privacy policy 111: forbidden")
    stranger = site.talk(outside)
    for policy in "111", "222":
        register(stranger, "102", policy=policy)
        assert outcome(stranger.answer()) == "forbidden, no"
    proxy.wait_for_log("Refused setup message from server id 101 ip 10.77.1.5 privacy policy 111: forbidden")

    for host, outcomes in (
        (inside, ["forbidden, no", "101", "forbidden, no"]),
        (beside, ["100", "101", "100"]),
        (outside, ["forbidden, no", "101", "forbidden, no"]),
    ):
        talk = site.talk(host)
        assert [ask(talk, policy) for policy in ("111", "222", "111")] == outcomes
    assert "Received a message" in wrong.log


def reload(proxy: Twistd, policies: Path, text: str) -> None:
    """Have the proxy read its policies anew."""
    policies.write_text(text)
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_for_log("Keeping to the policies of .* as it is now")


def test_network_that_is_revoked(site: Site, policies: Path) -> None:
    """A live server of a network that may not serve a policy any more gets nothing more, and one that may now does."""
    proxy = site.proxy("--policies", str(policies), "--queue-timeout", "60", "--timeout", "60")
    inside, beside = site.add("10.77.0.5"), site.add("10.77.1.5")
    server = site.pool_server(inside, "100", "--lease", "2")
    site.pool_server(beside, "101", until="refuses privacy policy 111: forbidden")
    talk = site.talk(beside)
    assert ask(talk) == "100"
    reload(proxy, policies, POLICIES.format(number=1))
    proxy.wait_for_log(
        "Revoked the registration of server id 100 for privacy policy 111: 10.77.0.5 is not in a network"
    )
    # The other one comes by itself, and the packet waits for it.
    assert [ask(talk, payload=payload) for payload in ("after1", "after2")] == ["101", "101"]
    server.wait_for_log("refuses privacy policy 111: forbidden")
    assert "after" not in server.log


def test_packets_that_wait_for_a_revoked_server(site: Site, policies: Path) -> None:
    """They go to another one, at once."""
    policies.write_text(POLICIES.replace('"10.77.{number}.0/24"', '"10.77.0.0/24", "10.77.1.0/24"'))
    patient = ("--connect-timeout", "60", "--queue-timeout", "60", "--timeout", "60")
    proxy = site.proxy("--policies", str(policies), "--log-packets", *patient)
    inside, beside = site.add("10.77.0.5"), site.add("10.77.1.5")
    held = site.talk(inside)
    register(held, "100", lease=3600)
    assert held.answer()["payload"] == "registered"
    site.pool_server(beside, "101")

    # Nobody tells the proxy that the host isn't there, so it waits to be connected.
    inside.unplug()
    waiting, other = site.talk(beside), site.talk(beside)
    waiting.send(data_packet("1", "111", "waits"))
    proxy.wait_for_log("Received a message from client 1 payload waits")
    assert ask(other) == "101"
    reload(proxy, policies, POLICIES.format(number=1))
    assert outcome(waiting.answer(), "waits") == "101"
    assert "Revoked the registration of server id 100 for privacy policy 111" in proxy.log
    assert "Forwarding a data message to server id 100" not in proxy.log


# Whose key it is.


def test_key_with_a_lease(site: Site) -> None:
    """Another host gets a conflict while the lease lives, and the key when its host has vanished."""
    proxy = site.proxy()
    first, second = site.add("10.77.0.5"), site.add("10.77.1.5")
    old = site.pool_server(first, "100", "--lease", "3")
    new = site.pool_server(second, "100", "--lease", "3", until="refuses privacy policy 111: conflict")
    proxy.wait_for_log("Refused setup message from server id 100 ip 10.77.1.5 privacy policy 111: conflict")
    classic = site.talk(second)
    register(classic, "100")
    assert outcome(classic.answer()) == "conflict, no"
    talk = site.talk(second)
    assert ask(talk, payload="early") == "100"
    old.wait_for_log("Received a message from client 1 payload early")

    first.unplug()
    # It waits longer each time that it is refused.
    new.wait_for_log(REGISTERED, 60)
    assert ask(talk, payload="late") == "100"
    new.wait_for_log("Received a message from client 1 payload late")
    first.plug()
    old.wait_for_log("refuses privacy policy 111: conflict", 60)
    assert ("late" in old.log, "early" in new.log) == (False, False)


def test_key_of_a_classic_server(site: Site) -> None:
    """It moves to the host that asked for it last."""
    proxy = site.proxy()
    talk = site.talk(site.add("203.0.113.7"))
    for number, network in enumerate((0, 1, 0)):
        host = site.add(f"10.77.{network}.{5 + number}")
        server = site.classic_server(host, "100")
        proxy.wait_for_log(f"Received setup message from server id 100 ip {host.address} privacy policy 111 port 5000")
        assert ask(talk, payload=f"xyz{number}") == "100"
        server.wait_for_log(f"Received a message from client 1 payload xyz{number}")


# Hosts that vanish.


def test_vanished_server(site: Site) -> None:
    """It is missed by deadlines alone: neither FIN nor RST comes; and it comes back by itself."""
    proxy = site.proxy("--log-packets", "--timeout", "2", "--slow-start", "0.01")
    vanishes, stays, clients = site.add("10.77.0.5"), site.add("10.77.0.6"), site.add("203.0.113.7")
    server = site.pool_server(vanishes, "100", "--lease", "3")
    site.pool_server(stays, "101")
    talk, held = site.talk(clients), site.talk(clients)
    assert [ask(talk) for _ in range(2)] == ["100", "101"]

    # It has got a packet, and can't say what became of it.
    server.send_signal(signal.SIGSTOP)
    held.send(data_packet("1", "111", "held"))
    proxy.wait_for_log("Forwarding a data message to server id 100 .* payload held$")
    vanishes.unplug()
    server.send_signal(signal.SIGCONT)
    talk.send(*(data_packet("1", "111", "xyz1") for _ in range(6)))
    outcomes = [outcome(talk.answer()) for _ in range(6)]
    assert set(outcomes) <= {"101", "timeout, unknown", "server-lost, unknown"}
    assert outcomes.count("101") >= 3
    assert outcome(held.answer()) in ("timeout, unknown", "server-lost, unknown")
    proxy.wait_for_log("Registration of server id 100 for privacy policy 111 ended")
    assert [ask(talk) for _ in range(4)] == ["101"] * 4
    server.wait_for_log("Lost the registration for privacy policy 111")

    vanishes.plug()
    server.wait_for_log(REGISTERED_AGAIN)
    answered: list[str] = []

    def is_back() -> bool:
        answered.append(ask(talk))
        return answered[-1] == "100"

    wait_for(is_back, PATIENCE, "an answer of the server that came back")
    assert set(answered[:-1]) <= {"101"}
    for process in server, proxy:
        site.network.stop(process)


def test_vanished_classic_server(site: Site) -> None:
    """Without a lease it stays registered and is passed over, until its host is there again."""
    proxy = site.proxy("--connect-timeout", "0.5", "--slow-start", "0.01")
    vanishes, stays, clients = site.add("10.77.0.5"), site.add("10.77.0.6"), site.add("203.0.113.7")
    site.classic_server(vanishes, "100")
    proxy.wait_for_log("Received setup message from server id 100 ")
    talk = site.talk(clients)
    assert ask(talk) == "100"
    site.classic_server(stays, "101")
    proxy.wait_for_log("Received setup message from server id 101 ")
    vanishes.unplug()
    # Those that it should have had were never written, so they are given to the other one.
    assert [ask(talk) for _ in range(4)] == ["101"] * 4
    proxy.wait_for_log("Server at 10.77.0.5 port 5000 is down")
    vanishes.plug()
    proxy.wait_for_log("Server at 10.77.0.5 port 5000 is up again")
    wait_for(lambda: ask(talk) == "100", PATIENCE, "an answer of the server that came back")
    assert "ended" not in proxy.log


def test_vanished_proxy(site: Site) -> None:
    """Its servers notice that their leases aren't renewed, and register again when it is there."""
    site.proxy()
    host = site.add("10.77.0.5")
    server = site.pool_server(host, "100", "--lease", "1")
    site.host.unplug()
    server.wait_for_log(f"{PRIVATE}:{PORT} acknowledges no renewal for privacy policy 111")
    site.host.plug()
    server.wait_for_log(REGISTERED_AGAIN)
    assert ask(site.talk(host)) == "100"


# Limits for each address.


def test_clients_per_address(site: Site) -> None:
    """Hosts count apart, whichever way they come in; the one host's clients count together."""
    proxy = site.proxy("--max-clients-per-address", "2")
    full, other = site.add("203.0.113.7"), site.add("203.0.113.8", "10.77.0.8")
    talks = [site.talk(full) for _ in range(2)]
    assert [ask(talk) for talk in talks] == ["no-server, no"] * 2
    assert outcome(site.talk(full).answer()) == "overloaded, no"
    proxy.wait_for_log("Refused a connection from 203.0.113.7: there are 2 from there")
    for where in PUBLIC, PUBLIC, PRIVATE, PRIVATE:
        assert ask(site.talk(other, (where, PORT))) == "no-server, no"
    talks[0].close()

    def has_room() -> bool:
        # The proxy learns of the close a moment later.
        with suppress(OSError, AssertionError), closing(full.talk((PUBLIC, PORT))) as talk:
            return ask(talk) == "no-server, no"
        return False

    wait_for(has_room, PATIENCE, "room for one more")
    assert ask(talks[1]) == "no-server, no"


# Behind HAProxy.


BALANCER = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 203.0.113.2:{port}
    default_backend proxy
backend proxy
    server proxy {proxy}:{port} send-proxy-v2
"""
#: For those that come by way of the balancer, and for nobody else, though all of them have the balancer's connections.
CLIENTS = """
[policy.111]
clients.networks = ["203.0.113.64/28"]
[policy.222]
clients.networks = ["10.77.0.2"]
"""


@pytest.fixture
def policies_for_clients(tmp_path: Path) -> Path:
    """A file by which only some addresses may ask."""
    path = tmp_path / "policies.toml"
    path.write_text(CLIENTS)
    return path


@pytest.mark.skipif(HAPROXY is None, reason="HAProxy isn't installed")
def test_clients_behind_haproxy(site: Site, policies_for_clients: Path) -> None:
    """The address that counts for a policy is the client's own, not the balancer's."""
    site.proxy("--policies", str(policies_for_clients), "--proxy-from", "10.77.0.2")
    server = site.pool_server(site.add("10.77.0.5"), "100", "--pp", "222")
    server.wait_for_log("Registered for privacy policy 222")
    balancer = site.add("10.77.0.2", "203.0.113.2")
    configuration = policies_for_clients.with_name("haproxy.cfg")
    configuration.write_text(BALANCER.format(port=PORT, proxy=PRIVATE))
    assert HAPROXY is not None
    site.network.launch(balancer.process(HAPROXY, "-db", "-V", "-f", str(configuration), ready="Using epoll"))

    where = ("203.0.113.2", PORT)
    may, may_not = site.add("203.0.113.70"), site.add("203.0.113.80")

    def listens() -> bool:
        # The line comes a little before HAProxy does.
        with suppress(ConnectionRefusedError), closing(may.talk(where)):
            return True
        return False

    wait_for(listens, PATIENCE, "HAProxy")
    for host, policy_111 in (may, "100"), (may_not, "forbidden, no"):
        for to in where, (PUBLIC, PORT):
            talk = site.talk(host, to)
            assert [ask(talk, policy) for policy in ("111", "222", "111")] == [policy_111, "forbidden, no", policy_111]


def header(version: int, source: str) -> bytes:
    """A PROXY header that says that a connection comes from there."""
    if version == 1:
        return f"PROXY TCP4 {source} {PRIVATE} 40000 {PORT}\r\n".encode()
    addresses = bytes(int(part) for address in (source, PRIVATE) for part in address.split("."))
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + addresses + (40000).to_bytes(2) + PORT.to_bytes(2)


def test_header_of_whom_nobody_believes(site: Site, policies_for_clients: Path) -> None:
    """A host that isn't trusted can't give itself another address, neither as a client nor as a server."""
    proxy = site.proxy("--policies", str(policies_for_clients), "--proxy-from", "10.77.0.2")
    trusted, liars = site.add("10.77.0.2"), [site.add("10.77.0.3"), site.add("203.0.113.7")]
    for version, source in product((1, 2), ("203.0.113.70", "203.0.113.80")):
        talk = site.talk(trusted)
        talk.send(header(version, source))
        # Nobody serves it, which only those learn who may ask.
        assert ask(talk) == ("no-server, no" if source == "203.0.113.70" else "forbidden, no")
    packet, setup = data_packet("1", "111", "lie"), packets.setup("101", "111", 5000, lease=60)
    for liar, version, lie in product(liars, (1, 2), (packet, setup)):
        talk = site.talk(liar)
        talk.send(header(version, "203.0.113.70"), lie)
        answer = talk.answer()
        assert (answer["type"], answer["error"]) == ("3", "bad-packet"), answer
        talk.assert_end()
    assert "Received setup message from server id 101" not in proxy.log
