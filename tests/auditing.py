"""Audit trails of tests: written to a file by hand, and read again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rproxy.audit.appending import TrailFile
from rproxy.audit.commands import Reading
from rproxy.audit.keys import Key
from rproxy.audit.lines import AnyLine, decode
from rproxy.audit.trail import Trail
from rproxy.figures.tallies import PolicyTally, ServerTally
from rproxy.packets import Setup
from rproxy.registry.registration import Registration
from rproxy.request import Refusal, Request
from tests.test_cli import CommandCase

SECRET = b"0123456789abcdef"
KEY = Key(SECRET)
OTHER = Key(b"fedcba9876543210")
TIME = "2026-01-02T03:04:05.500Z"
SETUP = Setup(type="1", id="100", policy="111", listenport=5000)

AnyLineT = TypeVar("AnyLineT", bound=AnyLine)


class Asker:
    """Nobody."""

    def deliver(self, now: float) -> None:
        """See :class:`rproxy.request.Asker`."""

    def deliver_soon(self) -> None:
        """See :class:`rproxy.request.Asker`."""


class Server:
    """A registered server, as far as a request knows one."""

    live = True

    def __init__(self, registration: Registration) -> None:
        self.policy, self.server_id = registration.key
        self.number = registration.number
        self.address = registration.address
        self.target = self
        self.tally = ServerTally(PolicyTally(30.0))
        self.noted = self.tally.total_times.noted


def request(client_id: str = "1", policy: str = "111") -> Request:
    """A packet that came."""
    return Request(b"", policy, client_id, 0.0, Asker())


def failing_to_keep(times: int) -> Callable[[int], None]:
    """What stands for ``os.fdatasync`` on a disk that fails so often when it is asked to keep what it was given."""
    keep, left = os.fdatasync, [times]

    def fail(fd: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        keep(fd)

    return fail


class World:
    """A trail that is written to a file by hand, and what happens to tell of."""

    def __init__(self, path: Path, key: Key = KEY, *, complete: bool = True) -> None:
        self.now = 1767323045.5
        self.trail = Trail(key, lambda: self.now, complete=complete)
        self.file = TrailFile(path, key)
        self.numbers = 0

    def start(self) -> World:
        self.trail.start(self.file.open())
        return self

    def register(self, server_id: str = "100", policy: str = "111", *, draining: bool = False) -> Server:
        self.numbers += 1
        registration = Registration(policy, server_id, "10.0.0.5", 5000, number=self.numbers, draining=draining)
        self.trail.registered(registration)
        return Server(registration)

    def end(self, server: Server) -> None:
        registration = Registration(server.policy, server.server_id, "10.0.0.5", 5000, number=server.number)
        self.trail.unregistered(registration, "its connection closed")

    def refuse(self, times: int = 1) -> None:
        """Setup packets are refused."""
        for _ in range(times):
            self.trail.setup_refused(SETUP.policy, SETUP.id, "10.0.0.6", "forbidden")

    def send(self, *servers: Server, client_id: str = "1", policy: str = "111") -> Request:
        """A packet is written to servers, one after the other."""
        sent = request(client_id, policy)
        for server in servers:
            sent.server = server
            self.trail.written(sent)
        return sent

    def ack(self, sent: Request) -> None:
        sent.reply = b"{}"
        self.trail.ended([sent], "10.0.0.9:40001")

    def write(self) -> World:
        self.file.put(self.trail.backlog.fetch())
        before = self.file.unwritten
        error = self.file.write()
        assert error is None, error
        self.trail.backlog.written_down(before)
        return self

    def stop(self) -> None:
        self.trail.stop()
        self.write()
        self.file.close()


class AuditCase(CommandCase):
    """Trails in a folder of their own."""

    def setUp(self) -> None:
        self.path = self.folder() / "audit.log"

    def sample(self, path: Path | None = None) -> list[bytes]:
        """A whole little trail; its lines."""
        world = World(path or self.path).start()
        first, second = world.register("100"), world.register("200", "222")
        world.ack(world.send(first))
        world.ack(world.send(second, client_id="2", policy="222"))
        refused = world.send()
        refused.reply = Refusal(b"", "no-server", "no")
        world.trail.ended([refused], "10.0.0.9:40001")
        world.stop()
        return (path or self.path).read_bytes().splitlines(keepends=True)

    def read(self, *paths: Path, key: Key = KEY, expect: str = "") -> Reading:
        return Reading(key, paths or (self.path,), expect=expect)

    def told_by(self, kind: type[AnyLineT], path: Path | None = None) -> list[AnyLineT]:
        """The lines of one kind."""
        lines = map(decode, (path or self.path).read_bytes().splitlines())
        return [line for line in lines if isinstance(line, kind)]

    def assert_good(self, *paths: Path) -> Reading:
        reading = self.read(*paths)
        self.assertEqual((reading.told(), reading.faults), ([], 0))
        return reading

    def assert_told(self, said: str, *paths: Path) -> Reading:
        reading = self.read(*paths)
        self.assertTrue(any(said in each for each in reading.told()), reading.told())
        return reading
