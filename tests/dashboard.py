"""A stand-in for a proxy's admin listener: shows the page what a test says, with the proxy's own types.

``python -m tests.dashboard`` runs it in a process of its own. Whatever :class:`StandIn` is given by ``PUT /standin``
it sends to each stream; what is done to servers it does to those figures.
"""

from __future__ import annotations

import json
import mimetypes
import re
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from urllib.request import Request as Asking
from urllib.request import urlopen

from msgspec import json as msgspec_json
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IReactorCore, IReactorTCP, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from rproxy.figures import ClientFigures, Figures, PolicyFigures, ProcessFigures, ServerFigures, StoreFigures
from rproxy.figures.happenings import Happening
from rproxy.figures.tallies import new_times, observe
from tests.support import PATIENCE, ROOT, Process

STATIC = ROOT / "rproxy" / "admin" / "static"
TOKEN = "0123456789abcdef0123456789abcdef"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: More often than the proxy does, so that tests needn't wait.
INTERVAL = 0.2
_ACTION = re.compile(r"/api/v1/servers/([^/]+)/(drain|resume|revoke)")


# What a test shows.


def make_server(policy: str, server_id: str, **changes: Any) -> ServerFigures:
    """A server that is up; ``changes`` are fields of it."""
    given: dict[str, Any] = {
        "host": "10.0.0.7",
        "port": 5000,
        "states": {"up": 1},
        "weight": 1,
        "share": 1.0,
        "pipeline": 16,
        "connections": 1,
        "in_flight": 0,
    }
    return ServerFigures(policy=policy, id=server_id, **{**given, **changes})


def make_process(**changes: Any) -> ProcessFigures:
    """A process of a proxy without workers."""
    given: dict[str, Any] = {
        "number": 0,
        "pid": 4242,
        "uptime": 3600.0,
        "connections": 3,
        "open_files": 20,
        "max_open_files": 1024,
        "store": StoreFigures(name="memory"),
    }
    return ProcessFigures(**{**given, **changes})


def make_client(address: str, **changes: int) -> ClientFigures:
    """An address with a client; ``changes`` are fields of it."""
    given = {"connections": 1, "unanswered_bytes": 0, "held_back": 0, "refused": 0, "leases": 0}
    return ClientFigures(address=address, **{**given, **changes})


def make_figures(*servers: ServerFigures, **changes: Any) -> Figures:
    """A proxy with these servers, and nothing counted yet."""
    policies: dict[str, PolicyFigures] = {}
    for server in servers:
        policies.setdefault(server.policy, PolicyFigures(name=server.policy)).servers.append(server)
    given: dict[str, Any] = {
        "version": "1.2.3",
        "state": "ready",
        "counters": {"received": 0, "refused": {}, "violations": 0},
        "in_flight": 0,
        "policies": list(policies.values()),
        "processes": [make_process()],
    }
    return Figures(**{**given, **changes})


def answer(figures: Figures, policy: str, server_id: str, packets: int, seconds: float) -> None:
    """Count packets that a server of it acknowledged, each after so many seconds."""
    [counted] = [each for each in figures.policies if each.name == policy]
    [server] = [each for each in counted.servers if each.id == server_id]
    counted.received += packets
    counted.acked += packets
    server.acked += packets
    received = figures.counters["received"]
    assert isinstance(received, int)
    figures.counters["received"] = received + packets
    for _ in range(packets):
        for times in (counted.total_times, server.total_times, server.times):
            observe(times, seconds)


def forget(figures: Figures) -> None:
    """Let it be as after a restart of the proxy: everything is counted from nothing."""
    figures.counters["received"] = 0
    for policy in figures.policies:
        policy.received = policy.acked = 0
        policy.total_times = new_times()
        for server in policy.servers:
            server.acked = 0
            server.times, server.total_times = new_times(), new_times()


# Its process.


class StandIn(Process):
    """The process, as a test has it."""

    def __init__(self, port: int = 0) -> None:
        super().__init__([sys.executable, "-m", "tests.dashboard", str(port)], ready=r"Listening on port (\d+)")

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/"

    def show(self, figures: Figures) -> None:
        """Show these from now on, on all streams at once."""
        self._put("figures", msgspec_json.encode(figures))

    def tell(self, **happening: Any) -> None:
        """Let something happen."""
        given = {"number": 1, "time": time.time(), "kind": "registered", "policy": "", "server": "", "text": ""}
        self._put("happening", msgspec_json.encode(Happening(**{**given, **happening})))

    def demand_token(self) -> None:
        """Have those who only look give the token too, as from another machine."""
        self._put("private", b"")

    def _put(self, what: str, body: bytes) -> None:
        with urlopen(Asking(f"{self.url}standin/{what}", body, method="PUT"), timeout=PATIENCE):
            pass


class Listener(Resource):
    """The admin listener's paths."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._figures = make_figures()
        self._happenings: list[bytes] = []
        self._streams: list[Request] = []
        self._private = False

    def render(self, request: Request) -> bytes | int:
        path = request.path.decode()
        assert request.content is not None
        body = request.content.read()
        if request.method == b"PUT":
            return self._show(path, body)
        if path == "/api/v1/stream":
            return self._stream(request)
        if action := _ACTION.fullmatch(path):
            status, answered = self._act(request, body, unquote(action[1]), action[2])
            request.setResponseCode(status)
            request.setHeader("content-type", "application/json")
            return json.dumps(answered).encode()
        name = "index.html" if path == "/" else path.removeprefix("/static/")
        return self._file(request, STATIC / name)

    def send_figures(self) -> None:
        """Give them to each stream."""
        body = event("figures", msgspec_json.encode(self._figures))
        for stream in self._streams:
            stream.write(body)

    def _show(self, path: str, body: bytes) -> bytes:
        if path == "/standin/figures":
            self._figures = msgspec_json.decode(body, type=Figures)
            self.send_figures()
        elif path == "/standin/private":
            self._private = True
        else:
            self._happenings.append(event("happening", body))
            for stream in self._streams:
                stream.write(self._happenings[-1])
        return b""

    def _stream(self, request: Request) -> bytes | int:
        if self._private and not may(request):
            request.setResponseCode(HTTPStatus.UNAUTHORIZED)
            return b'{"error": "Asking from another machine needs the token of --admin-token."}'
        request.setHeader("content-type", "text/event-stream")
        request.write(b": hello\n\n" + b"".join(self._happenings))
        request.write(event("figures", msgspec_json.encode(self._figures)))
        self._streams.append(request)
        request.notifyFinish().addErrback(lambda _: self._streams.remove(request))
        return NOT_DONE_YET

    def _act(self, request: Request, body: bytes, server_id: str, action: str) -> tuple[HTTPStatus, dict[str, Any]]:
        if not may(request):
            return HTTPStatus.UNAUTHORIZED, {"error": "This token isn't that of --admin-token: give the right one."}
        policy = json.loads(body).get("policy")
        found = 0
        for each in self._figures.policies:
            those = [server for server in each.servers if server.id == server_id and policy in {None, each.name}]
            found += len(those)
            for server in those:
                server.states = {"draining" if action == "drain" else "up": 1}
                if action == "revoke":
                    each.servers.remove(server)
        self.send_figures()
        if not found:
            return HTTPStatus.NOT_FOUND, {"error": f"No server {server_id} is registered."}
        return HTTPStatus.OK, {"registrations": found}

    def _file(self, request: Request, path: Path) -> bytes:
        if not path.is_file():
            request.setResponseCode(HTTPStatus.NOT_FOUND)
            return b"no such file"
        request.setHeader("content-type", mimetypes.guess_type(path.name)[0] or "application/octet-stream")
        request.setHeader("content-security-policy", POLICY)
        request.setHeader("x-content-type-options", "nosniff")
        return path.read_bytes()


def may(request: Request) -> bool:
    """Whether it has the token."""
    return request.getHeader("authorization") == f"Bearer {TOKEN}"


def event(name: str, data: bytes) -> bytes:
    """A Server-Sent Event."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def main(port: int) -> None:
    """Run it until a signal comes."""
    assert IReactorTCP.providedBy(reactor)
    assert IReactorCore.providedBy(reactor)
    assert IReactorTime.providedBy(reactor)
    listener = Listener()

    def started(listening: Any) -> None:
        print(f"Listening on port {listening.getHost().port}", flush=True)

    TCP4ServerEndpoint(reactor, port, interface="127.0.0.1").listen(Site(listener)).addCallback(started)
    LoopingCall(listener.send_figures).start(INTERVAL)
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
