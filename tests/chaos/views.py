"""What the proxy shows of itself in all ways that there are: API, metrics, commands, and the page's stream."""

from __future__ import annotations

import json
from contextlib import closing
from copy import deepcopy
from http.client import HTTPConnection, HTTPException
from subprocess import TimeoutExpired
from typing import Any

from attrs import frozen

from tests.support import run, script

HOST = "127.0.0.1"
#: For an answer, in seconds: longer than the proxy waits for a worker that stands still.
PATIENCE = 10.0
#: What goes on while nothing happens: of processes, of their stores and of servers.
MOVING = {
    "processes": ("uptime", "open_files", "lag", "max_lag"),
    "store": ("away_for",),
    "servers": ("lease_left", "down_ago", "share"),
}

#: What JSON makes of :class:`rproxy.figures.Figures`.
Figures = dict[str, Any]


class AwayError(Exception):
    """The proxy isn't there, or can't say anything."""


@frozen
class Views:
    """What was shown at one time, one after the other.

    :ivar before: by the API, before all others.
    :ivar metrics: the text for Prometheus.
    :ivar status: by ``rproxy status --json``.
    :ivar servers: by ``rproxy servers --json``.
    :ivar stream: what the page is made of: the first figures that its stream has.
    :ivar after: by the API, after all others.
    """

    before: Figures
    metrics: str
    status: Figures
    servers: list[dict[str, Any]]
    stream: Figures
    after: Figures

    @property
    def still(self) -> bool:
        """Whether nothing happened meanwhile."""
        return steady(self.before) == steady(self.after)


class Admin:
    """The admin listener of a proxy, asked in blocking style."""

    def __init__(self, port: int) -> None:
        self._port = port

    def figures(self) -> Figures:
        """What the API shows.

        :raises AwayError: nobody is there.
        """
        return _read(self._get("/api/v1/figures"))

    def look(self) -> Views:
        """Look at all of them.

        :raises AwayError: nobody is there.
        """
        return Views(
            self.figures(),
            self._get("/metrics").decode(),
            self._command("status"),
            self._command("servers"),
            self._first_of_stream(),
            self.figures(),
        )

    def _get(self, path: str) -> bytes:
        with closing(HTTPConnection(HOST, self._port, timeout=PATIENCE)) as connection:
            try:
                connection.request("GET", path, headers={"Connection": "close"})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, HTTPException) as error:
                raise AwayError(f"{path}: {error!r}") from None
        if answer.status != 200:
            raise AwayError(f"{path}: {answer.status} {body[:200]!r}")
        return body

    def _first_of_stream(self) -> Figures:
        with closing(HTTPConnection(HOST, self._port, timeout=PATIENCE)) as connection:
            try:
                connection.request("GET", "/api/v1/stream", headers={"Connection": "close"})
                answer = connection.getresponse()
                while line := answer.readline():
                    if line == b"event: figures\n":
                        return _read(answer.readline().removeprefix(b"data: "))
            except (OSError, HTTPException) as error:
                raise AwayError(f"the stream: {error!r}") from None
        raise AwayError("the stream ended without figures")

    def _command(self, name: str) -> Any:
        try:
            done = run([*script("rproxy"), name, "--admin", f"{HOST}:{self._port}", "--json"])
        except TimeoutExpired as error:
            raise AwayError(str(error)) from None
        if done.returncode:
            raise AwayError(f"rproxy {name}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)


def _read(text: bytes) -> Figures:
    figures: Figures = json.loads(text)
    return figures


def steady(figures: Figures) -> Figures:
    """Return figures without what goes on while nothing happens."""
    found = deepcopy(figures)
    for process in found["processes"]:
        _drop(process, "processes")
        _drop(process["store"], "store")
    for policy in found["policies"]:
        for server in policy["servers"]:
            _drop(server, "servers")
    return found


def _drop(part: dict[str, Any], kind: str) -> None:
    for name in MOVING[kind]:
        # Whether there is one at all stays.
        part[name] = None if part[name] is None else 0


def unanswered(figures: Figures) -> int:
    """Return how many packets have no answer yet, from their clients or from the servers that have them."""
    servers = sum(server["in_flight"] for policy in figures["policies"] for server in policy["servers"])
    policies = sum(policy["in_flight"] + policy["waiting"] for policy in figures["policies"])
    return int(figures["in_flight"] + policies + servers)


def known_to(figures: Figures, processes: int) -> set[str]:
    """Return the ids of servers that so many processes know."""
    servers = [server for policy in figures["policies"] for server in policy["servers"]]
    return {server["id"] for server in servers if sum(server["states"].values()) >= processes}
