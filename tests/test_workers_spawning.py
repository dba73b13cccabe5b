"""A worker as its parent sees it, without a process."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from errno import EAGAIN, EMFILE
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.error import ConnectionDone, ProcessTerminated
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rproxy.workers.channel import Channel
from rproxy.workers.spawning import Orders, WorkerProcess, variables

ENDED = Failure(ProcessTerminated(signal=9))
CLOSED = Failure(ConnectionDone())


@define
class Heard:
    """What a worker tells of itself."""

    happened: list[str] = field(factory=list)

    def ready(self) -> None:
        self.happened.append("ready")

    def counted(self, counters: Mapping[str, Any]) -> None:
        self.happened.append(f"counted {counters['received']}")

    def ended(self, how: str) -> None:
        self.happened.append(how)


class WorkerProcessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.told = Heard()
        self.worker = WorkerProcess(1, self.told)

    def connect(self) -> None:
        self.worker.channel.makeConnection(StringTransport())

    def say(self, name: str, **arguments: Any) -> None:
        """Have the worker say something over the channel."""
        transport, there = StringTransport(), Channel({}, list)
        there.makeConnection(transport)
        there.ask(name, **arguments)
        self.worker.channel.dataReceived(transport.value())

    def test_last_words(self) -> None:
        """They are heard although the process has ended meanwhile; only then it has."""
        self.connect()
        self.worker.processEnded(ENDED)
        self.say("ready")
        self.say("stopped", counters={"received": 3})
        self.assertEqual(self.told.happened, ["ready", "counted 3"])
        self.worker.channel.connectionLost(CLOSED)
        self.assertEqual(self.told.happened[2:], ["was ended by SIGKILL"])

    def test_channel_that_ends_first(self) -> None:
        """It has ended when its process has."""
        self.connect()
        self.worker.channel.connectionLost(CLOSED)
        self.assertEqual(self.told.happened, [])
        self.worker.processEnded(ENDED)
        self.assertEqual(self.told.happened, ["was ended by SIGKILL"])


class StubbornReactor(MemoryReactorClock):
    """One that doesn't do everything."""

    def __init__(self, adopts: bool) -> None:
        super().__init__()
        self.adopts = adopts
        self.spawned = 0

    def adoptStreamConnection(self, *connection: Any) -> None:
        if not self.adopts:
            raise OSError(EMFILE, os.strerror(EMFILE))

    def spawnProcess(self, *process: Any, **further: Any) -> None:
        self.spawned += 1
        raise OSError(EAGAIN, os.strerror(EAGAIN))


def open_files() -> set[str]:
    """What this process has open."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


class SpawnTests(SynchronousTestCase):
    def test_system_that_does_not_let_it(self) -> None:
        """Nothing is left open, and no process is there that nobody knows of."""
        for adopts in True, False:
            told, reactor = Heard(), StubbornReactor(adopts)
            before = open_files()
            with self.assertRaises(OSError):
                WorkerProcess(1, told).spawn(reactor, Orders(1, {}, [socket.AF_INET], []), 0, [0], {})
            # Others may close what they had.
            self.assertLessEqual(open_files(), before)
            self.assertEqual(reactor.getReaders(), [])
            self.assertEqual((reactor.spawned, told.happened), (int(adopts), []))

    def test_variables(self) -> None:
        """What systemd told the parent isn't passed on."""
        self.assertEqual(variables({"LISTEN_FDS": "1", "NOTIFY_SOCKET": "/n", "HOME": "/root"}), {"HOME": "/root"})
