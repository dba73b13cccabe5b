"""What is measured and what it works with: proxies, and pool servers, started anew for each layout."""

from __future__ import annotations

import resource
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.building import SOURCES
from bench.gauges import Sample, family, parse_report, parse_sample
from bench.plan import FULL, Plan
from bench.processes import SHOWN, Child, Children, Failure

RPROXY = "rproxy"
#: The same with an audit trail.
RPROXY_AUDIT = "rproxy --audit"
#: The same as two processes.
RPROXY_WORKERS = "rproxy --workers 2"
#: With an access log of all packets, and of one in a hundred.
RPROXY_ACCESS = "rproxy --access-log"
RPROXY_SAMPLE = "rproxy --access-log-sample 0.01"
HAPROXY_TCP = "HAProxy TCP"
HAPROXY_HTTP = "HAProxy HTTP"
NATS = "NATS"
#: Clients that talk to a server directly: what can't be put down to a proxy.
NO_PROXY = "no proxy"

#: The project's top folder.
ROOT = SOURCES.parent
#: What twistd's script does.
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"
#: What a proxy's log must not have.
FAULTS = ("Traceback", "Unhandled", "#error]", "#critical]")
#: Bytes of a packet and of an HTTP head beside the payload, at most.
OVERHEAD = 512
#: HAProxy's own default.
BUFSIZE = 16384
#: rproxy's own default.
MAX_PACKET = 1 << 20
#: Where Debian installs servers, which the PATH of users may not have.
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Layout:
    """How many of what.

    :ivar policies: each is served by as many servers as any other.
    :ivar payload: bytes.
    """

    policies: int = 2
    servers: int = 4
    payload: int = 24

    @property
    def groups(self) -> int:
        """So many groups of servers there are; each serves its share of the policies, and has two servers at least."""
        return max(1, min(self.policies, self.servers // 2))

    @property
    def words(self) -> list[str]:
        """The layout as arguments of the programs in C."""
        return [f"policies={self.policies}", f"groups={self.groups}", f"payload={self.payload}"]

    def servers_of(self, policy: int) -> list[int]:
        """Which servers serve a policy; both are counted from 0."""
        return list(range(policy % self.groups, self.servers, self.groups))


@dataclass
class Bench:
    """What all measurements have in common.

    :ivar programs: where the programs in C are.
    :ivar python: what runs rproxy.
    :ivar installed: whether rproxy is the one installed there, and not this clone's.
    :ivar haproxy: the command, None if it isn't there; likewise ``nats`` and ``redis``.
    :ivar memory_bound: bytes that rproxy may have, whatever its clients and servers do.
    :ivar say: tells how it goes.
    :ivar notes: what was left out, and why.
    :ivar problems: what was measured and is not as it should be.
    """

    programs: Path
    plan: Plan = FULL
    python: str = sys.executable
    installed: bool = False
    haproxy: str | None = None
    nats: str | None = None
    redis: str | None = None
    memory_bound: int = 512 << 20
    say: Callable[[str], None] = print
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def present(self, wanted: Sequence[str]) -> list[str]:
        """Those that are there."""
        there = {HAPROXY_TCP: self.haproxy, HAPROXY_HTTP: self.haproxy, NATS: self.nats}
        return [who for who in wanted if there.get(who, True)]

    def note(self, text: str) -> None:
        """Something that readers of the results have to know."""
        if text not in self.notes:
            self.notes.append(text)
            self.say(text)


@dataclass(frozen=True)
class Target:
    """A proxy that runs, and how to talk to it."""

    port: int
    child: Child
    words: tuple[str, ...] = ()
    program: str = "load"


def launch_rproxy(
    bench: Bench,
    children: Children,
    name: str,
    options: Sequence[str],
    host: str = "127.0.0.1",
    within: Sequence[str] = (),
) -> Child:
    """Start an rproxy at a free port, without waiting for it.

    :param within: a command that becomes the one that stands behind it.
    """
    argv = [*within, bench.python, "-c", TWISTD, "-n", "--pidfile=", "rproxy"]
    argv += ["--listen", f"tcp:0:interface={host}:backlog=1024", *options]
    return children.start(name, argv, {} if bench.installed else {"PYTHONPATH": str(ROOT)})


def await_rproxy(child: Child) -> Target:
    """Wait until it runs.

    :raises Failure: it doesn't.
    """
    return Target(int(child.wait_for(r"Running the reverse proxy on port (\d+)$")[1]), child)


class Stage:
    """Proxies that are ready, with the pool servers behind them."""

    def __init__(self, bench: Bench, layout: Layout, children: Children) -> None:
        self._bench = bench
        self._children = children
        self.layout = layout
        self.targets: dict[str, Target] = {}
        #: The pool servers of each rproxy.
        self.servers: dict[str, Child] = {}

    def start(self, contestants: Sequence[str]) -> None:
        """Start the proxies, and the servers that they need."""
        ours = {
            RPROXY: (),
            RPROXY_AUDIT: self._audit(),
            RPROXY_ACCESS: self._access(),
            RPROXY_SAMPLE: self._sample(),
            RPROXY_WORKERS: ("--workers", "2"),
        }
        for who in [who for who in ours if who in contestants]:
            self.targets[who] = self._start_rproxy(who, *ours[who])
            self.servers[who], _ = self.start_servers(f"proxy={self.targets[who].port}")
        if HAPROXY_TCP in contestants or HAPROXY_HTTP in contestants:
            self._start_haproxy()
        if NATS in contestants:
            self.targets[NATS] = self._start_nats()
        if NO_PROXY in contestants:
            child, ports = self.start_servers(layout=Layout(1, 1, self.layout.payload))
            self.targets[NO_PROXY] = Target(ports[0], child, ("policies=1", "groups=1"))

    def _audit(self) -> list[str]:
        """The options that make a trail, on the disk that has the temporary files."""
        key = self._children.folder / "audit.key"
        key.write_text("0123456789abcdef0123456789abcdef")
        key.chmod(0o600)
        return ["--audit", str(self._children.folder / "audit.log"), "--audit-key", str(key)]

    def _access(self) -> list[str]:
        return ["--access-log", str(self._children.folder / "access.log")]

    def _sample(self) -> list[str]:
        return ["--access-log", str(self._children.folder / "sample.log"), "--access-log-sample", "0.01"]

    def _start_rproxy(self, who: str, *options: str) -> Target:
        if self.layout.payload + OVERHEAD > MAX_PACKET:
            options = (*options, "--max-packet", str(self.layout.payload + OVERHEAD))
        return await_rproxy(launch_rproxy(self._bench, self._children, who, options))

    def start_servers(self, *words: str, layout: Layout | None = None) -> tuple[Child, list[int]]:
        """Start pool servers, all in one process, and return that and their ports."""
        layout = layout or self.layout
        argv: list[str | Path] = [self._bench.programs / "servers", f"count={layout.servers}", *layout.words, *words]
        child = self._children.start("the pool servers", argv)
        child.wait_for(r"^\{.*\}$")
        return child, parse_report(child.log)["ports"]

    def _start_haproxy(self) -> None:
        assert self._bench.haproxy is not None
        (_, raw), (_, http) = self.start_servers(), self.start_servers("http=1")
        with socket.socket() as for_packets, socket.socket() as for_requests:
            for listener in (for_packets, for_requests):
                listener.bind(("127.0.0.1", 0))
                listener.listen(1024)
            fds = (for_packets.fileno(), for_requests.fileno())
            config = self._children.folder / "haproxy.cfg"
            config.write_text(haproxy_config(self.layout, raw, http, fds))
            argv: list[str | Path] = [self._bench.haproxy, "-db", "-f", config]
            child = self._children.start("HAProxy", argv, pass_fds=fds)
            ports = [listener.getsockname()[1] for listener in (for_packets, for_requests)]
        # While it starts, the sockets already take what comes. Once HAProxy has them and nobody else, an answer comes,
        # or the connection is reset.
        try:
            _wait_for_http(ports[1])
        except OSError as error:
            raise Failure(
                f"HAProxy doesn't answer ({error}); it can be left out by --without haproxy: {child.log[-SHOWN:]}"
            ) from None
        self.targets[HAPROXY_TCP] = Target(ports[0], child, ("sticky=1",))
        self.targets[HAPROXY_HTTP] = Target(ports[1], child, ("http=1",))

    def _start_nats(self) -> Target:
        assert self._bench.nats is not None
        config = self._children.folder / "nats.conf"
        config.write_text(f"listen: 127.0.0.1:-1\nmax_payload: {max(MAX_PACKET, self.layout.payload + OVERHEAD)}\n")
        child = self._children.start("the NATS server", [self._bench.nats, "-c", config])
        child.wait_for("Server is ready")
        port = int(child.wait_for(r"Listening for client connections on 127\.0\.0\.1:(\d+)$")[1])
        return Target(port, child, program="nats")

    def pid(self, who: str) -> int:
        """The process id of a proxy."""
        return self.targets[who].child.pid

    def start_load(self, who: str, **options: object) -> Child:
        """Let clients begin to work with a proxy. The options are those of ``load.c``; give the seconds."""
        target = self.targets[who]
        pids = ",".join(map(str, family(target.child.pid)))
        words = [f"port={target.port}", f"pids={pids}", *self.layout.words, *target.words, *to_words(options)]
        return self._children.start(f"the clients of {who}", [self._bench.programs / target.program, *words])

    def measure(self, who: str, seconds: float, **options: object) -> Sample:
        """Let clients work with a proxy for some time, and return what was measured.

        :raises Failure: an answer was wrong or missing.
        """
        return self.finish_load(who, self.start_load(who, seconds=seconds, **options), seconds)

    def finish_load(self, who: str, load: Child, seconds: float) -> Sample:
        """Wait until clients that work for so many seconds are done, and return what was measured.

        :raises Failure: an answer was wrong or missing.
        """
        try:
            return parse_sample(load.finish(seconds + 90))
        except Failure as error:
            raise Failure(f"{who}: {self._children.failures() or error}") from None

    def start_rude(self, how: str, **options: object) -> Child:
        """Let clients of another kind begin to work with rproxy; returns when they are in full swing."""
        words = [f"port={self.targets[RPROXY].port}", f"how={how}", *to_words(options)]
        child = self._children.start(f"the clients of how={how}", [self._bench.programs / "rude", *words])
        child.wait_for("^busy$")
        return child

    def finish(self) -> None:
        """End everything, and look whether all was well.

        :raises Failure: it wasn't.
        """
        if ended := self._children.failures():
            raise Failure(ended)
        self._children.stop()
        for target in self.targets.values():
            check_log(target.child)


def stop_rproxies(children: Sequence[Child]) -> None:
    """Stop proxies, and look whether they wrote of a fault: to be called before what they need is gone.

    :raises Failure: one did.
    """
    for child in children:
        child.terminate()
    for child in children:
        child.stop()
        check_log(child)


def check_log(child: Child) -> None:
    """Look whether a proxy wrote of a fault.

    :raises Failure: it did.
    """
    if any(fault in child.log for fault in FAULTS):
        raise Failure(f"the log of {child.name} has a fault: {child.log[-SHOWN:]}")


@contextmanager
def open_stage(bench: Bench, layout: Layout, contestants: Sequence[str]) -> Iterator[Stage]:
    """Start the contestants with their servers; everything is ended with the context.

    :raises Failure: one doesn't start, or wrote of a fault in its log.
    """
    with Children() as children:
        stage = Stage(bench, layout, children)
        stage.start(contestants)
        yield stage
        stage.finish()


def to_words(options: dict[str, Any]) -> list[str]:
    """Options as arguments of a program in C."""
    return [f"{name}={int(value) if isinstance(value, bool) else value}" for name, value in options.items()]


def haproxy_config(layout: Layout, raw: Sequence[int], http: Sequence[int], fds: tuple[int, int]) -> str:
    """The configuration of HAProxy.

    :param raw: the ports of the servers that speak packets alone; ``http``: of those that speak HTTP.
    :param fds: the listening sockets, for packets and for HTTP.
    """
    lines = []
    for policy in range(layout.policies):
        for mode, name, ports in ("tcp", "packets", raw), ("http", "requests", http):
            lines += [f"backend {name}{111 * (policy + 1)}", f"  mode {mode}"]
            lines += ["  http-reuse always"] if mode == "http" else []
            lines += [f"  server s{number + 1} 127.0.0.1:{ports[number]}" for number in layout.servers_of(policy)]
    packet = layout.payload + OVERHEAD
    values = {
        "MAXCONN": max_clients(),
        # A whole request has to fit, and what HAProxy keeps free for rewriting.
        "BUFSIZE": BUFSIZE if packet + 1024 <= BUFSIZE else packet + 1024,
        "TCP_FD": fds[0],
        "HTTP_FD": fds[1],
        "BACKENDS": "\n".join(lines),
    }
    text = (SOURCES / "haproxy.cfg.in").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def _wait_for_http(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: proxy\r\nContent-Length: 2\r\n\r\n{}")
        if not connection.recv(1024).startswith(b"HTTP/1."):
            raise ConnectionError("what came is no HTTP")


def raise_file_limit() -> None:
    """Let this process and its children have as many open files as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_clients() -> int:
    """How many clients fit into the limit of open files; HAProxy may need two files for each."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(8000, (soft - 1200) // 2)


def find(command: str) -> str | None:
    """Where a command is installed."""
    return shutil.which(command) or shutil.which(command, path=SBIN)
