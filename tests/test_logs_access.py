"""The access log's lines, and the file that they are written to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from attrs import frozen
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rproxy.figures.tallies import ServerTally, Tallies
from rproxy.logs.access import ROOM, AccessLog
from rproxy.logs.accessfile import CHUNK, GATHER, RETRY, AccessLogError, AccessWriter
from rproxy.registry.registration import Registration
from rproxy.request import Refusal, Request
from rproxy.rotation import Member


class Asker:
    """Nobody waits for answers here."""

    def deliver(self, now: float) -> None:
        """See :class:`rproxy.request.Asker`."""

    def deliver_soon(self) -> None:
        """See :class:`rproxy.request.Asker`."""


@frozen
class Target:
    """A server's connections, of which there are none."""

    share: int = 1
    takes_at_most: int = 0

    def take(self, request: Request, member: Member) -> bool:
        """See :class:`rproxy.rotation.Target`."""
        return False


class LogCase(SynchronousTestCase):
    share = 1.0

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(100)
        self.tallies = Tallies()
        self.log = AccessLog(self.share, lambda: 1_800_000_000.5, self.clock.seconds, 30.0, self.tallies)

    def server(self, timeout: float = 30.0, host: str = "10.0.0.5") -> Member:
        registration = Registration("111", "100", host, 5000)
        tally = ServerTally(self.tallies.policy("111", timeout))
        return Member(registration, Target(), tally)

    def request(self, reply: bytes | None = b"answer", server: Member | None = None, **more: Any) -> Request:
        fields = {"deadline": self.clock.seconds() + 30, **more}
        return Request(b"a packet", "111", "1", fields.pop("deadline"), Asker(), reply, server, **fields)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.fetch().splitlines()]


class LineTests(LogCase):
    def test_acked(self) -> None:
        request = self.request(server=self.server(), sent=self.clock.seconds() + 30.25)
        self.clock.advance(1.5)
        self.log.ended([request], "10.0.0.9:4000")
        (line,) = self.lines()
        shown = {
            "time": "2027-01-15T08:00:00.500Z",
            "client": "10.0.0.9:4000",
            "client_id": "1",
            "policy": "111",
            "server": "100",
            "server_address": "10.0.0.5:5000",
            "outcome": "acked",
            "delivered": "yes",
            "bytes_in": 8,
            "bytes_out": 6,
            "seconds": 1.5,
            "waited": 0.25,
            "retried": False,
        }
        self.assertEqual(list(line.items()), list(shown.items()))

    def test_timeout_of_policy(self) -> None:
        """What is left until the deadline is counted from the policy's own timeout."""
        server = self.server(timeout=5.0, host="::1")
        self.log.ended([self.request(server=server, deadline=self.clock.seconds() + 4.5)], "")
        (line,) = self.lines()
        self.assertEqual((line["seconds"], line["waited"], line["server_address"]), (0.5, 0, "[::1]:5000"))

    def test_refused(self) -> None:
        reply = Refusal(b"no", "queue-full", "no")
        self.log.ended([self.request(reply), self.request(reply, deadline=0.0)], "")
        self.tallies.policy("111", 5.0)
        self.log.ended([self.request(reply)], "")
        found = [(line["outcome"], line["delivered"], line["seconds"], line["waited"]) for line in self.lines()]
        self.assertEqual(
            found,
            [("queue-full", "no", 0, None), ("queue-full", "no", 0, None), ("queue-full", "no", None, None)],
        )

    def test_gone(self) -> None:
        """The client left; an answer that it wasn't given counts for nothing, but that a server gave it."""
        requests = [
            self.request(None),
            self.request(None, self.server()),
            self.request(None, retried=True),
            self.request(b"answer", self.server()),
            self.request(Refusal(b"no", "timeout", "unknown"), self.server()),
        ]
        self.log.gone(requests, "")
        found = [(line["outcome"], line["delivered"], line["bytes_out"]) for line in self.lines()]
        self.assertEqual(
            found, [("client-gone", delivered, 0) for delivered in ("no", "unknown", "unknown", "yes", "unknown")]
        )

    def test_no_payload(self) -> None:
        """Nor anything else of the packet and its answer."""
        self.log.ended([self.request(server=self.server()), self.request(Refusal(b"secret", "timeout", "no"))], "")
        raw = self.log.fetch()
        for secret in (b"a packet", b"answer", b"secret"):
            self.assertNotIn(secret, raw)

    def test_no_room(self) -> None:
        """What comes then is counted, and told as soon as there is room."""
        self.log.size = ROOM
        self.log.ended([self.request(), self.request()], "")
        self.log.gone([self.request()], "")
        self.assertEqual((self.lines(), self.log.left_out), ([], 3))
        self.assertEqual(self.log.written_down(100), 0)
        self.assertEqual(self.log.written_down(ROOM - 100), 3)
        self.assertEqual(self.log.size, len(b'{"time":"2027-01-15T08:00:00.500Z","left_out":3}\n'))
        self.assertEqual(self.lines(), [{"time": "2027-01-15T08:00:00.500Z", "left_out": 3}])
        self.assertEqual(self.log.left_out, 0)


class SampleTests(LogCase):
    share = 0.25

    def test_share(self) -> None:
        """One in four that are acked, and all that aren't, whatever the batches are."""
        for size in (1, 2, 3, 10):
            self.log.ended([self.request() for _ in range(size)], "")
        self.log.ended([self.request(Refusal(b"", "timeout", "no")) for _ in range(3)], "")
        self.log.gone([self.request(None)], "")
        outcomes = [line["outcome"] for line in self.lines()]
        self.assertEqual(outcomes, ["acked"] * 4 + ["timeout"] * 3 + ["client-gone"])


class WriterTests(LogCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "access.log"
        self.writer = AccessWriter(self.log, self.path, self.clock)
        self.events = self.enterContext(capturedLogs())
        self.addCleanup(self.writer.stopService)

    def end(self, times: int = 1) -> None:
        self.log.ended([self.request() for _ in range(times)], "")

    def count(self, path: Path | None = None) -> int:
        """How many lines there are, all of them whole."""
        raw = (path or self.path).read_bytes()
        return len([json.loads(line) for line in raw.splitlines()])

    def told(self) -> list[str]:
        return [formatEvent(event) for event in self.events]

    def write_once(self) -> None:
        """Let there be one turn, and not the one that it asks for."""
        self.clock.rightNow += GATHER
        (due,) = self.clock.getDelayedCalls()
        due.cancel()
        self.writer._due = None
        self.writer._flush()

    def fail(self, *_: object) -> int:  # type: ignore[override]  # as os.write of a full disk
        raise OSError(28, "No space left on device")

    def test_gathers(self) -> None:
        """Nothing is written, nor anybody woken, before there is a line; then several at once."""
        self.writer.startService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.end()
        self.end()
        self.assertEqual(self.count(), 0)
        self.clock.advance(GATHER)
        self.assertEqual((self.count(), self.log.size, self.clock.getDelayedCalls()), (2, 0, []))

    def test_appends(self) -> None:
        for _ in range(2):
            self.writer.startService()
            self.end()
            self.writer.stopService()
        self.assertEqual(self.count(), 2)
        self.assertEqual(self.path.stat().st_mode & 0o007, 0)

    def test_stop(self) -> None:
        """All is written, however much it is."""
        self.writer.startService()
        self.end(20_000)
        self.assertGreater(self.log.size, 2 * CHUNK)
        self.writer.stopService()
        self.assertEqual((self.count(), self.told(), self.clock.getDelayedCalls()), (20_000, [], []))

    def test_chunks(self) -> None:
        """Not all at once: between two, others have their turn."""
        self.writer.startService()
        self.end(20_000)
        self.write_once()
        (rest,) = self.clock.getDelayedCalls()
        self.assertEqual((self.path.stat().st_size, rest.getTime()), (CHUNK, self.clock.seconds()))

    def test_cannot_open(self) -> None:
        writer = AccessWriter(self.log, self.folder, self.clock)
        with self.assertRaisesRegex(AccessLogError, "the access log .* can't be opened: Is a directory"):
            writer.startService()

    def test_full_disk(self) -> None:
        """It is told once, tried again every second, and nothing is lost while there is room."""
        self.writer.startService()
        with patch.object(os, "write", self.fail):
            self.end()
            self.clock.advance(GATHER)
            self.clock.pump([RETRY] * 3)
            self.end()
        self.assertEqual(self.told(), ["The access log can't be written: No space left on device; it is tried again"])
        self.clock.advance(RETRY)
        self.clock.advance(0)
        self.assertEqual((self.count(), self.told()[1:]), (2, ["The access log is written again"]))

    def test_left_out(self) -> None:
        """What there was no room for is told in both logs."""
        self.writer.startService()
        with patch.object(os, "write", self.fail):
            self.end()
            self.clock.advance(GATHER)
            self.log.size += ROOM
            self.end(5)
            self.log.size -= ROOM
        self.clock.pump([RETRY] * 2)
        self.assertEqual((self.count(), json.loads(self.path.read_bytes().splitlines()[-1])["left_out"]), (2, 5))
        self.assertIn("Left out 5 lines of the access log: the file took none", self.told())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lost(self) -> None:
        """A disk that is full to the end."""
        self.writer.startService()
        self.end()
        size = self.log.size
        with patch.object(os, "write", self.fail):
            self.writer.stopService()
        lost = f"{size} bytes of the access log are lost, and 0 lines that were left out before"
        self.assertEqual(self.told()[1:], [lost])

    def test_reopen(self) -> None:
        """As logrotate has it: what was made before is in the old file."""
        self.writer.startService()
        self.end()
        old = self.path.rename(self.folder / "access.log.1")
        self.writer.reopen()
        self.end(2)
        self.clock.advance(GATHER)
        self.assertEqual((self.count(old), self.count()), (1, 2))

    def test_reopen_within_a_line(self) -> None:
        """No line is in two files."""
        self.writer.startService()
        self.end(20_000)
        self.write_once()
        self.assertNotEqual(self.path.read_bytes()[-1:], b"\n")
        old = self.path.rename(self.folder / "access.log.1")
        self.writer.reopen()
        self.writer.stopService()
        self.assertEqual((self.count(old) + self.count(), self.count() > 0, self.log.size), (20_000, True, 0))

    def full_within_a_line(self, left_out: int) -> Path:
        """Reopen while a line is begun, the disk is full, and so many are left out; return the old file's path."""
        self.writer.startService()
        self.end(20_000)
        self.write_once()
        self.log.size += ROOM
        self.end(left_out)
        self.log.size -= ROOM
        old = self.path.rename(self.folder / "access.log.1")
        with patch.object(os, "write", self.fail):
            self.writer.reopen()
        return old

    def test_reopen_on_a_full_disk(self) -> None:
        """The rest of a line that was begun goes nowhere, which is told; all others are in the new file, whole."""
        old = self.full_within_a_line(0)
        self.writer.stopService()
        self.assertEqual((len(old.read_bytes().splitlines()) + self.count(), self.log.size), (20_000, 0))
        self.assertIn("A line of the access log's old file is cut short: it took no more", self.told())

    def test_left_out_while_reopening(self) -> None:
        """What there was no room for is told in both logs, also where giving up a line makes the room."""
        self.full_within_a_line(5)
        self.assertIn("Left out 5 lines of the access log: the file took none", self.told())
        self.writer.stopService()
        self.assertEqual(sum(json.loads(line).get("left_out", 0) for line in self.path.read_bytes().splitlines()), 5)

    def test_cannot_reopen(self) -> None:
        """It goes on in the old file."""
        self.writer.startService()
        old = self.path.rename(self.folder / "access.log.1")
        self.path.mkdir()
        self.writer.reopen()
        self.end()
        self.clock.advance(GATHER)
        self.assertEqual(self.count(old), 1)
        self.assertEqual(self.told(), ["Going on in the access log's old file: Is a directory"])

    def test_not_running(self) -> None:
        """Nothing is opened before it starts, nor after it ended."""
        self.writer.reopen()
        self.assertEqual(list(self.folder.iterdir()), [])
