"""A service on hosts of its own: proxies, a Redis, servers and clients, and what nobody there may ever do.

Every payload begins with the policy that its packet asks for, and every server writes down the payloads that it gets,
whatever becomes of them. So what a server got says by itself whether it should have got it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event, Lock, Thread

from attrs import frozen

from rproxy import packets
from tests.classic import sha1_hex
from tests.namespaces import Host, Network
from tests.redisserver import RedisServer
from tests.support import FAULT, PATIENCE, Process, Talk, Twistd, data_packet, wait_for

PORT = 8000
#: Seconds: the least that a pool server takes.
LEASE = 1.0
#: Seconds from an answer to the next packet: what is tested is that there are answers, not how many.
_PACE = 0.01
#: How many further answers show that packets are still served, where it doesn't matter by whom.
_SOME = 10
#: What a proxy's log may have of what no other may: the store that it can't use.
_AWAY = re.compile(r"#error\] The registry at .* can't be used, and is gone on with what is known here: .*$")


def outcome(talk: Talk, policy: str, client: str, payload: str) -> str:
    """Send a packet; return the id of the server that answered it, or the error and whether it was delivered."""
    answer = talk.ask(data_packet(client, policy, payload))
    if answer["type"] == "3":
        return f"{answer['error']}, {answer['delivered']}"
    assert (answer["destid"], answer["payload"]) == (client, sha1_hex(payload)), answer
    return str(answer["srcid"])


class Load:
    """A client that sends one packet after the other over one connection, until it is stopped.

    :ivar outcomes: of each packet, as :func:`outcome` says it.
    """

    def __init__(self, talk: Talk, client: str, policy: str) -> None:
        self.outcomes: list[str] = []
        self._talk = talk
        self._client = client
        self._policy = policy
        self._over = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return self._client

    def goes_on(self, *server_ids: str, seconds: float = PATIENCE) -> None:
        """Return when each of these servers has answered a packet that was sent from now on.

        :param server_ids: none where it doesn't matter who answers.
        """
        # One may be on its way already.
        since = len(self.outcomes) + 1

        def is_served() -> bool:
            assert self._thread.is_alive(), f"{self} got {self.outcomes[-1:]}"
            came = self.outcomes[since:]
            return set(server_ids) <= set(came) if server_ids else sum(map(str.isdigit, came)) >= _SOME

        try:
            wait_for(is_served, seconds, f"answers of {server_ids or 'anybody'} to {self}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.outcomes[since:][-20:]}") from None

    def stop(self) -> None:
        """Send nothing more; the last answer is waited for."""
        self._over.set()
        self._thread.join(PATIENCE)

    @property
    def losses(self) -> list[str]:
        """The outcomes that are no server's answer."""
        return [each for each in self.outcomes if not each.isdigit()]

    def _run(self) -> None:
        number = 0
        while not self._over.wait(_PACE):
            number += 1
            try:
                served_by = outcome(self._talk, self._policy, self._client, f"{self._policy}.{self._client}.{number}")
            except (OSError, AssertionError) as error:
                self.outcomes.append(f"no answer: {error!r}")
                return
            self.outcomes.append(served_by)


@frozen
class Server:
    """A server of one policy; its process, or one of its processes if it moved."""

    server_id: str
    policy: str
    process: Process

    @property
    def got(self) -> list[str]:
        """The payloads that came to it."""
        return re.findall(r"Received a message from client \S+ payload (\S+)", self.process.log)

    def gets(self, load: Load) -> None:
        """Return when a packet of this client has come to it."""
        begin = f"{self.policy}.{load}."
        wait_for(lambda: any(each.startswith(begin) for each in self.got), PATIENCE, f"a packet {begin}")


class Site:
    """Hosts in one network, made when they are named first.

    :param folder: where the Redis, and whoever needs a file, has it.
    :ivar registry: what the proxies' ``--registry`` is.
    """

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        self.registry = ""
        self.proxies: dict[str, Twistd] = {}
        self.servers: list[Server] = []
        self._hosts: dict[str, Host] = {}
        self._making = Lock()
        self._loads: list[Load] = []

    def host(self, name: str) -> Host:
        """The host of that name: a proxy's name, a server's id, or any other."""
        with self._making:
            if name not in self._hosts:
                self._hosts[name] = self.network.host(f"10.77.0.{len(self._hosts) + 1}/24")
            return self._hosts[name]

    # What runs there.

    def redis(self, name: str = "store", *settings: str, sentinel: bool = False) -> RedisServer:
        """Start a Redis; the proxies that are started later use it."""
        server = RedisServer(self.folder, *settings, sentinel=sentinel, host=self.host(name)).start()
        self.network.finally_do(server.kill)
        self.registry = f"redis://{server.address}:{server.port}"
        return server

    def proxy(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Twistd:
        """Start a proxy. One that is away for seconds has its whole share again at once, as nothing here is slow."""
        options = ("--port", str(PORT), "--registry", self.registry, "--slow-start", "0.01")
        proxy = Twistd("rproxy", *options, *arguments, env=env)
        proxy.argv = self.host(name).namespace.command(proxy.argv)
        self.network.launch(proxy)
        self.proxies[name] = proxy
        return proxy

    def modern(self, server_id: str, policy: str, *proxies: str, port: int = 5000) -> Server:
        """Start a pool server with a lease, and return when it is registered at these proxies."""
        where = [f"{self.host(name).address}:{PORT}" for name in proxies]
        what = ["--id", server_id, "--pp", policy, "--lease", str(LEASE), "--log-packets", "--drain-timeout", "1"]
        what += ["--listen", str(port)]
        to = [part for each in where for part in ("--revproc", each)]
        server = Server(server_id, policy, self.host(server_id).twistd("rpoolserver", *what, *to))
        self.network.launch(server.process)
        self.servers.append(server)
        for each in where:
            server.process.wait_for_log(f"Registered for privacy policy {policy} at {each}$")
        return server

    def classic(self, server_id: str, policy: str, proxy: str, port: int = 5000, on: str | None = None) -> Server:
        """Start a server as it is in the field, and return when the proxy knows it.

        :param on: the host, if it isn't the one with the server's name.
        """
        host, at = self.host(on or server_id), self.host(proxy).address
        what = ["--id", server_id, "--policy", policy, "--host", host.address, "--port", str(port)]
        argv = (sys.executable, "-m", "tests.classic", "server", *what, "--proxy-host", at, "--proxy-port", str(PORT))
        server = Server(server_id, policy, host.process(*argv, ready="Connecting to the reverse proxy"))
        self.network.launch(server.process)
        self.servers.append(server)
        self.proxies[proxy].wait_for_log(
            f"Received setup message from server id {server_id} ip {host.address} privacy policy {policy} port {port}$"
        )
        return server

    def all_at_once(self, *starts: Callable[[], object]) -> None:
        """Start several at the same time."""
        with ThreadPoolExecutor(len(starts)) as threads:
            for done in [threads.submit(start) for start in starts]:
                done.result()

    def start(self, *arguments: str, env: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Start proxies a and b, with two servers for each of two policies, one registered at a and the other at b.

        Those of policy 111, 100 and 101, have leases; those of policy 222, 200 and 201, are of the old kind.

        :param env: more variables of each proxy, by its name.
        """
        env = env or {}
        self.all_at_once(*(partial(self.proxy, name, *arguments, env=env.get(name)) for name in "ab"))
        self.all_at_once(
            lambda: self.modern("100", "111", "a"),
            lambda: self.modern("101", "111", "b"),
            lambda: self.classic("200", "222", "a"),
            lambda: self.classic("201", "222", "b"),
        )

    # What clients and servers do.

    def talk(self, proxy: str) -> Talk:
        """Connect to a proxy."""
        return self.network.talk(self.host("clients"), (self.host(proxy).address, PORT))

    def ask(self, proxy: str, policy: str) -> str:
        """Have one packet served."""
        return outcome(self.talk(proxy), policy, "1", f"{policy}.once")

    def load(self, proxy: str, policy: str) -> Load:
        """Send packets by way of a proxy until the test is over."""
        load = Load(self.talk(proxy), f"{proxy}{policy}-{len(self._loads)}", policy)
        self._loads.append(load)
        return load

    def loads(self) -> dict[tuple[str, str], Load]:
        """Send packets of both policies by way of both proxies, and return when each server has answered each."""
        loads = {(proxy, policy): self.load(proxy, policy) for proxy in "ab" for policy in ("111", "222")}
        for (_, policy), load in loads.items():
            load.goes_on(*(server.server_id for server in self.servers if server.policy == policy))
        return loads

    def register(self, proxy: str, server_id: str, policy: str, lease: float) -> Talk:
        """Register a server that doesn't exist."""
        talk = self.talk(proxy)
        talk.send(packets.setup(server_id, policy, 5000, lease=lease))
        assert talk.answer()["payload"] == "registered"
        return talk

    # What must be so.

    def losses(self) -> list[str]:
        """What clients got in the place of a server's answer, until now."""
        return [f"{load}: {each}" for load in self._loads for each in load.losses]

    def finish(self) -> None:
        """End the clients, and look at what every process has written down."""
        for load in self._loads:
            load.stop()
        for server in self.servers:
            strange = [payload for payload in server.got if not payload.startswith(f"{server.policy}.")]
            assert not strange, f"server {server.server_id} of policy {server.policy} got {strange}"
            assert "Refused a message" not in server.process.log, server.process.log
        for process in [*self.proxies.values(), *(server.process for server in self.servers)]:
            faults = [line for line in process.log.splitlines() if FAULT.search(line) and not _AWAY.search(line)]
            assert not faults, process.log


def ended(server_id: str, policy: str) -> str:
    """The line of a proxy where a registration ended."""
    return f"Registration of server id {server_id} for privacy policy {policy} ended"


def found(server_id: str, port: int = 5000) -> str:
    """The line of a proxy that found a registration in the store."""
    return rf"Found in the registry: server id {server_id} ip \S+ privacy policy \d+ port {port}$"


AWAY = "The registry at .* can't be used"
BACK = "The registry at .* is back"


def wait_for_all(processes: Sequence[Process], pattern: str) -> None:
    """Wait for a line in each of these logs."""
    for process in processes:
        process.wait_for_log(pattern)
