"""The audit trail as such: its key, its lines and their chain, its files, its checks, and ``rproxy audit``."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.audit.appending import TrailError, TrailFile
from rproxy.audit.commands import Reading
from rproxy.audit.keys import Key, KeyFileError, read_key
from rproxy.audit.lines import (
    AnyLine,
    Chain,
    Doubt,
    Gap,
    LeftOut,
    Packet,
    Refused,
    Started,
    Written,
    decode,
    follows,
    split,
    stamp,
)
from rproxy.audit.reading import ReadError, find_end
from rproxy.audit.trail import REFUSED_LINES, REFUSED_PERIOD, ROOM, SHARED, Trail
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
        self.file.put(self.trail.fetch())
        before = self.file.unwritten
        error = self.file.write()
        assert error is None, error
        self.trail.written_down(before)
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

    def fail_to_keep(self, times: int) -> None:
        """Have the disk fail so often when it is asked to keep what it was given."""
        keep, left = os.fdatasync, [times]

        def fail(fd: int) -> None:
            if left[0]:
                left[0] -= 1
                raise OSError(errno.EIO, "Input/output error")
            keep(fd)

        self.patch(os, "fdatasync", fail)

    def assert_good(self, *paths: Path) -> Reading:
        reading = self.read(*paths)
        self.assertEqual((reading.told(), reading.faults), ([], 0))
        return reading

    def assert_told(self, said: str, *paths: Path) -> Reading:
        reading = self.read(*paths)
        self.assertTrue(any(said in each for each in reading.told()), reading.told())
        return reading


class KeyTests(AuditCase):
    def write(self, content: bytes, mode: int) -> Path:
        self.path.write_bytes(content)
        self.path.chmod(mode)
        return self.path

    def test_read(self) -> None:
        """Its owner may read it, and its group."""
        for mode in 0o400, 0o600, 0o640:
            self.assertEqual(read_key(self.write(SECRET + b"\n", mode)).name, KEY.name)
            self.path.unlink()

    def test_what_is_none(self) -> None:
        for content, mode, said in (
            (SECRET, 0o604, "is open to everybody: close it by: chmod o-rwx"),
            (SECRET, 0o602, "is open to everybody"),
            (SECRET[1:], 0o600, "has 15 bytes, and needs 16 at least; make one by: (umask 077; openssl rand"),
            (b"", 0o600, "has 0 bytes"),
        ):
            error = self.assertRaises(KeyFileError, read_key, self.write(content, mode))
            self.assertIn(said, str(error))
            self.path.unlink()
        self.assertIn("No such file", str(self.assertRaises(KeyFileError, read_key, self.path)))

    def test_hashes(self) -> None:
        """They are HMACs of keys that differ."""
        import hmac

        for name, found in (
            (b"client", KEY.client("1")),
            (b"chain", KEY.link(b"", b"1").hex()),
        ):
            key = hmac.digest(SECRET, b"rproxy audit " + name, "sha256")
            self.assertEqual(found, hmac.digest(key, b"1", "sha256").hex())


class LineTests(SynchronousTestCase):
    def test_form(self) -> None:
        """What docs/reference/audit.rst shows."""
        chain = Chain(KEY)
        packet = Packet(0, TIME, "111", "c", "10.0.0.9:1", "acked", "", "yes", [Written("100", 1, 3)])
        raw = chain.add(packet)
        self.assertEqual(
            json.loads(raw),
            {
                "event": "packet",
                "seq": 1,
                "time": TIME,
                "policy": "111",
                "client": "c",
                "address": "10.0.0.9:1",
                "outcome": "acked",
                "error": "",
                "delivered": "yes",
                "servers": [{"server": "100", "registration": 1, "after": 3}],
                "hash": chain.head.hex(),
            },
        )
        self.assertEqual(decode(raw[:-1]), packet)

    def test_link(self) -> None:
        """A line follows the one before, by this key."""
        chain = Chain(KEY)
        first = chain.add(Started(0, TIME, version="1", pid=1))
        head = chain.head
        second = chain.add(Started(0, TIME, version="1", pid=1))
        self.assertEqual(follows(KEY, bytes(32), first[:-1]), head)
        self.assertEqual(follows(KEY, head, second[:-1]), chain.head)
        for key, before, raw in (
            (KEY, bytes(32), second),
            (OTHER, head, second),
            (KEY, None, second),
            (KEY, head, b"x\n"),
        ):
            self.assertIsNone(follows(key, before, raw[:-1]))

    def test_split(self) -> None:
        self.assertIsNone(split(b"{}"))
        self.assertIsNone(split(b'{"a":1,"hash":"' + b"G" * 64 + b'"}'))

    def test_stamp(self) -> None:
        self.assertEqual(stamp(1767323045.5), TIME)


class ChainTests(AuditCase):
    """What was changed is found, and where."""

    def test_good(self) -> None:
        self.sample()
        reading = self.assert_good()
        self.assertEqual((reading.lines, reading.policies.packets, reading.policies.proved), (8, 3, 2))

    @given(st.data())
    def test_any_byte(self, data: st.DataObject) -> None:
        """Whatever byte is changed, and into what."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "audit.log"
            lines = self.sample(path)
            raw = bytearray(b"".join(lines))
            place = data.draw(st.integers(0, len(raw) - 1))
            raw[place] ^= data.draw(st.integers(1, 255))
            path.write_bytes(raw)
            number = raw[:place].count(b"\n") + 1 if place else 1
            self.assert_found(path, number, len(lines))

    @given(st.data())
    def test_any_line(self, data: st.DataObject) -> None:
        """Whatever line is gone, or stands elsewhere; but for the end, which nothing follows."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "audit.log"
            lines = self.sample(path)
            place = data.draw(st.integers(0, len(lines) - 2))
            if data.draw(st.booleans()):
                del lines[place]
            else:
                other = data.draw(st.integers(0, len(lines) - 1).filter(lambda other: other != place))
                lines[place], lines[other] = lines[other], lines[place]
                place = min(place, other)
            path.write_bytes(b"".join(lines))
            self.assert_found(path, place + 1, len(lines))

    def assert_found(self, path: Path, number: int, most: int) -> None:
        """The first fault is named at that line of the file, or the next one."""
        try:
            reading = self.read(path)
        except ReadError as error:
            self.assertEqual(number, 1, str(error))
            return
        self.assertGreater(reading.faults, 0)
        self.assertIn(reading.findings[0].place.number, (number, min(number + 1, most)))

    def test_words(self) -> None:
        lines = self.sample()
        for changed, said in {
            b"".join(lines[:3] + lines[4:]): "audit.log:4: lines are missing: after line 3 comes line 5",
            b"".join(lines[:4] + lines[3:]): "audit.log:5: line 4 comes after line 4: out of order, twice",
            b"".join(lines).replace(b'"222"', b'"223"', 1): "audit.log:4: line 4 was changed, or the one before it",
            b"".join(lines)[:-2]: "audit.log:8: the last line is unfinished",
            b"".join([*lines[:3], b"\x1b[2J\n", *lines[3:]]): "audit.log:4: a line was changed",
        }.items():
            self.path.write_bytes(changed)
            self.assert_told(said)
        self.path.write_bytes(b"".join(lines))
        reading = self.read(key=OTHER)
        self.assertIn("audit.log:1: this was written with another key", reading.told()[0])

    def test_each_fault_once(self) -> None:
        """What is behind a fault is checked too."""
        lines = self.sample()
        self.path.write_bytes(b"".join([lines[0], lines[1].replace(b"start", b"stark"), *lines[2:5], *lines[6:]]))
        self.assertEqual([each.place.number for each in self.read().findings if each.wrong], [2, 6])

    def test_the_end(self) -> None:
        """Lines that are taken away at the end are missed by who noted the hash of one of them."""
        lines = self.sample()
        head = self.assert_good().head
        self.assertFalse(self.read(expect=head).missing)
        self.path.write_bytes(b"".join(lines[:-1]))
        reading = self.read(expect=head)
        self.assertEqual((reading.missing, reading.faults), (True, 1))


class FileTests(AuditCase):
    """Files are continued, exchanged, locked, and never lose what is in them."""

    def test_restart(self) -> None:
        """The chain goes on."""
        before = b"".join(self.sample())
        World(self.path).start().stop()
        self.assertTrue(self.path.read_bytes().startswith(before))
        self.assertEqual(self.assert_good().lines, 11)

    def test_crash_in_a_line(self) -> None:
        """The rest stands as it is, and the chain knows it; at whatever byte it was."""
        lines = self.sample()
        for cut in range(1, len(lines[-1]) + 1):
            content = b"".join(lines)[:-cut]
            self.path.write_bytes(content)
            World(self.path).start().stop()
            self.assertTrue(self.path.read_bytes().startswith(content), cut)
            reading = self.read()
            self.assertEqual(reading.faults, 0, reading.told())

    def test_what_a_crash_left_is_part_of_the_chain(self) -> None:
        lines = self.sample()
        self.path.write_bytes(b"".join(lines)[:-30])
        World(self.path).start().stop()
        content = self.path.read_bytes()
        torn = lines[-1][:-30]
        for changed in content.replace(torn, torn[:-1] + b"x"), content.replace(torn + b"\n", b""):
            self.path.write_bytes(changed)
            self.assertEqual(self.read().chain.breaks, 1)

    def test_crash_again(self) -> None:
        """Before anything was written behind what the first one left, but the line break."""
        lines = self.sample()
        self.path.write_bytes(b"".join(lines)[:-30] + b"\n")
        World(self.path).start().stop()
        self.assertEqual(self.read().faults, 0)

    def test_begins_anew_without_a_stop(self) -> None:
        """That is told, and no fault."""
        World(self.path).start().write().file.close()
        World(self.path).start().stop()
        reading = self.assert_told("begins anew without having stopped")
        self.assertEqual(reading.faults, 0)

    def test_rotation(self) -> None:
        """The new file goes on where the old one ends, and can be checked alone too."""
        world = World(self.path).start()
        server = world.register()
        in_flight = world.send(server)
        world.write()
        old = self.path.rename(self.path.with_suffix(".log.1"))
        world.ack(world.send(server))
        world.trail.reopen()
        world.ack(in_flight)
        world.ack(world.send(server))
        world.write()
        world.stop()
        reading = self.assert_good(self.path, old)
        self.assertEqual(list(reading.files.values()), [(1, 4), (5, 9)])
        alone = self.read(self.path)
        self.assertEqual((alone.faults, alone.policies.proved, alone.policies.untold), (0, 1, 1))

    def test_a_file_is_missing(self) -> None:
        """Each file is good alone, and the one that stood between them is missed."""
        world = World(self.path).start()
        paths = []
        for number in range(3):
            world.ack(world.send(world.register()))
            world.write()
            paths.append(self.path.rename(self.path.with_suffix(f".{number}")))
            world.trail.reopen()
            world.write()
        world.stop()
        self.assert_good(*paths, self.path)
        reading = self.assert_told("lines are missing: after line ", paths[0], *paths[2:], self.path)
        self.assertEqual(reading.faults, 1)

    def test_compressed(self) -> None:
        lines = self.sample()
        old = self.path.with_suffix(".log.1.gz")
        old.write_bytes(gzip.compress(b"".join(lines)))
        self.path.unlink()
        World(self.path).start().stop()
        self.assertEqual(self.assert_good(self.path, old).lines, 11)
        old.write_bytes(old.read_bytes()[:-20])
        self.assertRaises(ReadError, self.read, old)

    def test_renamed_while_none_ran(self) -> None:
        """The next proxy goes on where the newest of the renamed files ends, torn or not."""
        lines = self.sample()
        for content in b"".join(lines), b"".join(lines)[:-9]:
            old = self.path.with_name("audit.log-20260102")
            old.write_bytes(content)
            self.path.with_name("audit.log.txt").write_text("no trail")
            self.path.unlink(missing_ok=True)
            World(self.path).start().stop()
            self.assertEqual(self.read(self.path, old).faults, 0)

    def test_another_key(self) -> None:
        """Nothing is written to what isn't this trail."""
        self.sample()
        before = self.path.read_bytes()
        error = self.assertRaises(TrailError, World(self.path, OTHER).start)
        self.assertIn("doesn't end as an audit trail with this key does", str(error))
        self.path.write_text("notes\n")
        self.assertRaises(TrailError, World(self.path).start)
        self.assertEqual((self.path.read_text(), bool(before)), ("notes\n", True))

    def test_locked(self) -> None:
        """Also for who has renamed it, and whoever comes then."""
        first = World(self.path).start().write()
        error = self.assertRaises(TrailError, World(self.path).start)
        self.assertIn("is another process's: give each proxy its own", str(error))
        self.path.rename(self.path.with_suffix(".1"))
        second = World(self.path).start()
        first.trail.reopen()
        first.write()
        self.assertIn("is another process's", first.file.complaint)
        first.stop()
        second.stop()

    def test_not_empty(self) -> None:
        """A file that something is in isn't continued by another one's lines."""
        world = World(self.path).start().write()
        old = self.path.rename(self.path.with_suffix(".1"))
        self.path.write_text("notes\n")
        world.trail.reopen()
        world.write()
        self.assertIn("is not empty", world.file.complaint)
        world.stop()
        self.assertEqual((self.path.read_text(), self.read(old).faults), ("notes\n", 0))

    def test_nowhere(self) -> None:
        error = self.assertRaises(TrailError, World(self.path / "x").start)
        self.assertIn("can't be opened: No such file or directory", str(error))

    def test_full(self) -> None:
        """What doesn't fit is kept, and written from the very byte on when there is room."""
        world = World(self.path).start()
        server = world.register()
        for _ in range(20):
            world.ack(world.send(server))
        lines = world.trail.fetch()
        world.file.put(lines)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
            error = world.file.write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        self.assertIsNotNone(error)
        self.assertEqual(self.path.stat().st_size, 1000)
        self.assertEqual(world.file.unwritten, len(lines[0]) - 1000)
        world.stop()
        self.assertEqual(self.assert_good().policies.packets, 20)

    def test_disk_that_fails(self) -> None:
        """What it didn't keep isn't written a second time; the trail says of it that it may be gone."""
        world = World(self.path).start()
        world.register()
        self.fail_to_keep(2)
        lines = world.trail.fetch()
        world.file.put(lines)
        self.assertIsNotNone(world.file.write())
        self.assertEqual((world.file.unwritten, self.path.read_bytes()), (0, lines[0]))
        size, why = world.file.take_doubt()
        self.assertEqual((size, why), (len(lines[0]), "Input/output error"))
        self.assertTrue(world.trail.doubt(size, why))
        # It is asked again, though there is nothing new, and there is nothing new to doubt.
        self.assertIsNotNone(world.file.write())
        self.assertEqual(world.file.take_doubt(), (0, ""))
        self.assertIsNone(world.file.write())
        self.assertFalse(world.trail.doubt(1, why))
        world.trail.written_down(size)
        world.trail.settle()
        world.stop()
        (doubt,) = self.told_by(Doubt)
        self.assertEqual((doubt.since, doubt.size, doubt.error), (TIME, size + 1, "Input/output error"))
        reading = self.assert_told(f"the disk failed to keep {size + 1} bytes of lines before this one")
        self.assertEqual((reading.faults, reading.lines), (0, 5))

    def test_disk_that_fails_at_rotation(self) -> None:
        """The new file is gone on with nevertheless."""
        world = World(self.path).start()
        old = self.path.rename(self.path.with_suffix(".1"))
        world.trail.reopen()
        self.fail_to_keep(1)
        world.write()
        self.assertEqual(world.file.take_doubt(), (old.stat().st_size, "Input/output error"))
        self.assertEqual(world.file.complaint, "")
        world.stop()
        self.assertEqual(self.assert_good(self.path, old).lines, 4)

    def test_pipe(self) -> None:
        """One that nobody reads can't be opened, and isn't waited for."""
        os.mkfifo(self.path)
        error = self.assertRaises(TrailError, World(self.path).start)
        self.assertIn("can't be opened: No such device or address", str(error))

    def test_blocks(self) -> None:
        """What is slow is waited for, in its thread: a call that wouldn't wait would fail."""
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        world = World(self.path).start()
        self.addCleanup(world.file.close)
        self.assertTrue(os.get_blocking(world.file._fd))

    def test_dev_full(self) -> None:
        """A device has no end to continue."""
        world = World(Path("/dev/full")).start()
        world.file.put(world.trail.fetch())
        error = world.file.write()
        self.assertEqual(error and error.strerror, "No space left on device")
        world.file.close()

    def test_find_end(self) -> None:
        lines = self.sample()
        end = find_end(self.path, KEY)
        self.assertEqual(end and (end.seq, end.rest, end.unfinished), (len(lines), b"", False))
        self.path.write_bytes(b"")
        self.assertIsNone(find_end(self.path, KEY))


class RoomTests(AuditCase):
    """What there is no room for is counted, and told when there is room again."""

    def test_gap(self) -> None:
        for complete, counted in (True, (1, 0, 1)), (False, (2, 1, 1)):
            world = World(self.path, complete=complete).start()
            server = world.register()
            world.trail.size += ROOM
            world.ack(world.send(server))
            refused = world.send()
            refused.reply = Refusal(b"", "overloaded", "no")
            world.trail.ended([refused], "")
            self.assertEqual(world.trail.missed, counted[0])
            while world.trail.missed == counted[0]:
                world.register("101")
            world.trail.written_down(ROOM)
            self.assertEqual(world.trail.missed, 0)
            world.stop()
            gaps = self.told_by(Gap)
            self.assertEqual([(gap.packets, gap.written, gap.registrations) for gap in gaps], [counted])
            self.assertEqual(self.read().faults, 1)
            self.path.unlink()

    def test_gap_of_packets(self) -> None:
        """One that was written to a server and has no line may have gone anywhere; one that wasn't, nowhere."""
        for is_written in (False, True):
            world = World(self.path, complete=False).start()
            server = world.register()
            world.trail.size += SHARED
            world.ack(world.send(*[server][:is_written]))
            world.trail.written_down(SHARED)
            world.stop()
            self.assertEqual(self.assert_told(f"1 packets have no line, {is_written:d} of them").faults, is_written)
            self.path.unlink()

    def test_room_for_registrations(self) -> None:
        """Nothing else takes it, and it is there again when the rest is written."""
        world = World(self.path, complete=False).start()
        for _ in range(2):
            world.trail.size += ROOM
            server = world.register()
            world.end(server)
            world.refuse()
            world.ack(request())
            self.assertEqual((world.trail.missed, world.trail._kept > 0), (2, True))
            world.trail.written_down(ROOM)
            self.assertEqual((world.trail.missed, world.trail._kept), (0, 0))
            server = world.register()
            world.ack(world.send(server))
        world.stop()
        reading = self.read()
        self.assertEqual((reading.faults, reading.policies.proved, reading.policies.untold), (0, 2, 0))

    def test_refused_without_room(self) -> None:
        """They are counted apart, and leave nothing of what is registered open."""
        world = World(self.path).start()
        server = world.register()
        world.trail.size += SHARED
        world.refuse(REFUSED_LINES + 2)
        world.trail.sweep()
        self.assertEqual(world.trail.missed, REFUSED_LINES + 2)
        world.trail.written_down(SHARED)
        world.ack(world.send(server))
        world.stop()
        (gap,) = self.told_by(Gap)
        self.assertEqual((gap.packets, gap.written, gap.registrations, gap.refused), (0, 0, 0, REFUSED_LINES + 2))
        reading = self.assert_told("12 refused setup packets")
        self.assertEqual((reading.faults, reading.policies.proved), (0, 1))


class RefusedTests(AuditCase):
    """Whoever is refused can't fill a disk by asking again."""

    def counts(self) -> list[int]:
        """For each line of them in its order: 0 for one that is told, else how many were left out."""
        lines = map(decode, self.path.read_bytes().splitlines())
        return [
            line.refused if isinstance(line, LeftOut) else 0 for line in lines if isinstance(line, Refused | LeftOut)
        ]

    def test_few_lines(self) -> None:
        """The first of a minute; the next one after it tells how many there were."""
        world = World(self.path).start()
        alarms: list[float] = []
        world.trail.alarm = alarms.append
        world.refuse(REFUSED_LINES)
        self.assertEqual(alarms, [])
        world.now += 20
        world.refuse(1000)
        self.assertEqual(alarms, [REFUSED_PERIOD - 20])
        world.now += REFUSED_PERIOD - 20
        world.refuse()
        world.stop()
        self.assertEqual(self.counts(), [*[0] * REFUSED_LINES, 1000, 0])
        (left_out,) = self.told_by(LeftOut)
        self.assertEqual(left_out.since, stamp(world.now - REFUSED_PERIOD + 20))
        self.assert_good()

    def test_told_at_the_end(self) -> None:
        """Of a period, and of the proxy; a period may be ended by a clock that is set back."""
        world = World(self.path).start()
        world.refuse(REFUSED_LINES + 1)
        world.trail.sweep()
        world.trail.sweep()
        world.refuse(REFUSED_LINES + 2)
        world.now -= 1
        world.refuse(REFUSED_LINES + 3)
        world.stop()
        one = [0] * REFUSED_LINES
        self.assertEqual(self.counts(), [*one, 1, *one, 2, *one, 3])
        self.assert_good()


class PolicyTests(AuditCase):
    """Each packet is held against what was registered when it was written."""

    def assert_wrong(self, said: str) -> None:
        reading = self.assert_told(said)
        self.assertEqual((reading.faults, reading.policies.proved), (1, 0))

    def world(self) -> World:
        return World(self.path).start()

    def test_another_policy(self) -> None:
        world = self.world()
        world.ack(world.send(world.register("200", "222")))
        world.stop()
        self.assert_wrong("a packet of policy 111 was written to server 200, which was registered for policy 222")

    def test_before_and_after(self) -> None:
        world = self.world()
        server = world.register()
        world.end(server)
        world.ack(world.send(server))
        world.stop()
        self.assert_wrong("was written to server 100, which was not registered then")

    def test_before_in_an_earlier_file(self) -> None:
        """That the next file tells of a registration again doesn't make it older."""
        world = self.world()
        sent = world.send(Server(Registration("111", "100", "10.0.0.5", 5000, number=1)))
        world.register()
        world.write()
        old = self.path.rename(self.path.with_suffix(".1"))
        world.trail.reopen()
        world.ack(sent)
        world.stop()
        reading = self.assert_told("was written to server 100, which was not registered then", old, self.path)
        self.assertEqual((reading.faults, reading.policies.proved), (1, 0))

    def test_in_flight_when_it_ended(self) -> None:
        """The line comes later; that doesn't matter."""
        world = self.world()
        server = world.register()
        sent = world.send(server)
        world.end(server)
        world.ack(sent)
        world.stop()
        self.assert_good()

    def test_unknown(self) -> None:
        world = self.world()
        server = world.register()
        server.number = 7
        world.ack(world.send(server))
        world.stop()
        self.assert_wrong("whose registration 7 there was not")

    def test_of_an_earlier_run(self) -> None:
        """A proxy that begins anew knows nobody, and its first registration is number 1 too."""
        world = self.world()
        server = world.register()
        world.write().file.close()
        world = self.world()
        world.ack(world.send(server))
        world.stop()
        self.assert_wrong("whose registration 1 there was not")

    def test_draining(self) -> None:
        world = self.world()
        world.ack(world.send(world.register(draining=True)))
        world.stop()
        self.assert_wrong("which was draining")

    def test_draining_since_an_earlier_file(self) -> None:
        """Which the new one tells alone."""
        world = self.world()
        server = world.register(draining=True)
        world.write()
        old = self.path.rename(self.path.with_suffix(".1"))
        world.trail.reopen()
        world.ack(world.send(server))
        world.stop()
        for paths in (self.path,), (old, self.path):
            reading = self.assert_told("which was draining", *paths)
            self.assertEqual((reading.faults, reading.policies.proved), (1, 0))

    def test_another_server(self) -> None:
        world = self.world()
        server = world.register()
        server.server_id = "\x1b[2J"
        world.ack(world.send(server))
        world.stop()
        self.assert_wrong("server \\u001b[2J, with the registration of server 100")

    def test_delivered(self) -> None:
        world = self.world()
        sent = world.send(world.register())
        sent.reply = Refusal(b"", "no-server", "no")
        world.trail.ended([sent], "")
        world.stop()
        self.assertEqual(self.assert_told("delivered is no, with 1 servers").faults, 1)

    def test_lines_missing(self) -> None:
        """What they would have told isn't guessed; nor what the line behind them tells, as it may be anybody's."""
        world = self.world()
        server = world.register()
        world.ack(world.send(server))
        world.ack(world.send(server))
        world.stop()
        lines = self.path.read_bytes().splitlines(keepends=True)
        self.path.write_bytes(b"".join(lines[:2] + lines[3:]))
        reading = self.read()
        self.assertEqual((reading.faults, reading.policies.untold, reading.policies.proved), (1, 1, 0))

    def test_an_end_without_a_line(self) -> None:
        """Where events of registrations have none, nobody is known to be registered any more."""
        world = self.world()
        server = world.register()
        world.trail.size += ROOM
        while not world.trail.missed:
            world.register("101")
        world.end(server)
        world.trail.written_down(ROOM)
        world.ack(world.send(server))
        world.stop()
        reading = self.assert_told("2 events of registrations")
        self.assertEqual((reading.faults, reading.policies.untold, reading.policies.proved), (1, 1, 0))

    def test_an_end_among_missing_lines(self) -> None:
        """The next file tells all who are registered, and whoever was before is forgotten."""
        world = self.world()
        server = world.register()
        world.end(server)
        world.refuse()
        world.write()
        lines = self.path.read_bytes().splitlines(keepends=True)
        old = self.path.rename(self.path.with_suffix(".1"))
        world.trail.reopen()
        world.ack(world.send(server))
        world.stop()
        old.write_bytes(b"".join(lines[:3] + lines[4:]))
        reading = self.assert_told("whose registration 1 there was not", old, self.path)
        self.assertEqual((reading.faults, reading.policies.proved), (2, 0))


class CommandTests(AuditCase):
    """``rproxy audit``."""

    def setUp(self) -> None:
        super().setUp()
        self.key = self.path.with_name("key")
        self.key.write_bytes(SECRET)
        self.key.chmod(0o600)
        self.lines = self.sample()

    def audit(self, question: str, *arguments: str) -> tuple[int, str, str]:
        return self.run_main("audit", question, "--audit-key", str(self.key), *arguments, str(self.path))

    def test_verify(self) -> None:
        code, out, err = self.audit("verify")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("8 lines, 3 packets, 2 of them written to a server", out)
        self.assertIn("Good: nothing was changed, and every packet reached only servers registered for its policy", out)
        (head,) = (line.split()[-1] for line in out.splitlines() if line.startswith("The last line is 8"))
        self.assertEqual(self.audit("verify", "--expect", head)[0], 0)
        self.assertEqual(self.audit("verify", "--expect", "0" * 64)[0], 1)

    def test_verify_broken(self) -> None:
        self.path.write_bytes(b"".join(self.lines[:5] + self.lines[6:]))
        code, out, _ = self.audit("verify")
        self.assertEqual(code, 1)
        self.assertIn("lines are missing", out)
        self.assertIn("NOT GOOD: 1 faults", out)
        code, out, err = self.audit("who", "--client", "1")
        self.assertEqual(code, 1)
        self.assertIn("100", out)
        self.assertIn("NOT GOOD", err)

    def test_json(self) -> None:
        code, out, _ = self.audit("verify", "--json")
        found: Any = json.loads(out)
        self.assertEqual((code, found["ok"], found["proved"], found["seq"]), (0, True, 2, 8))
        code, out, _ = self.audit("servers", "--json", "--policy", "222")
        self.assertEqual(
            json.loads(out)["servers"],
            [
                {
                    "server": "200",
                    "address": "10.0.0.5:5000",
                    "policy": "222",
                    "packets": 1,
                    "first": "2026-01-02T03:04:05.500Z",
                    "last": "2026-01-02T03:04:05.500Z",
                    "registrations": [2],
                }
            ],
        )

    def test_who(self) -> None:
        code, out, err = self.audit("who", "--client", "2")
        self.assertEqual((code, err), (0, ""))
        head, row = out.splitlines()
        self.assertEqual(head.split(), ["SERVER", "ADDRESS", "POLICY", "PACKETS", "FIRST", "LAST", "REGISTRATIONS"])
        self.assertEqual(row.split(), ["200", "10.0.0.5:5000", "222", "1", TIME, TIME, "2"])
        self.assertEqual(self.audit("who", "--client", "3"), (0, "No server received a packet of client 3\n", ""))

    def test_servers(self) -> None:
        code, out, _ = self.audit("servers", "--policy", "111")
        self.assertEqual((code, out.splitlines()[1].split()[0]), (0, "100"))

    def test_usage(self) -> None:
        self.key.chmod(0o644)
        self.assert_usage("is open to everybody", "audit", "verify", "--audit-key", str(self.key), str(self.path))
        self.assert_usage("required: QUESTION", "audit")
        self.assert_usage("required: --audit-key, FILE", "audit", "verify")
        self.assert_usage("64 hexadecimal digits", "audit", "verify", "--expect", "x")

    def test_what_is_no_trail(self) -> None:
        self.path.write_bytes(b"notes\n")
        code, out, err = self.audit("verify")
        self.assertEqual((code, out), (1, ""))
        self.assertIn("is no audit trail", err)
        self.path.unlink()
        self.assertIn("No such file", self.audit("verify")[2])
        self.path.write_bytes(b"")
        self.assertEqual(self.audit("verify")[0], 0)
