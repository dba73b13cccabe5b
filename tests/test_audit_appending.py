"""Tests for ``rproxy.audit.appending``, and ``reading``: files that are continued, exchanged and full."""

from __future__ import annotations

import errno
import fcntl
import gzip
import os
import resource
import signal
from pathlib import Path

from rproxy.audit.appending import TrailError
from rproxy.audit.lines import Doubt
from rproxy.audit.reading import LONGEST, ReadError, find_end
from tests.auditing import KEY, OTHER, TIME, AuditCase, World, failing_to_keep


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

    def test_crash_in_the_longest_line(self) -> None:
        lines = self.sample()
        self.path.write_bytes(b"".join(lines) + b"{" * (LONGEST - 1))
        World(self.path).start().stop()
        self.assertEqual(self.read().faults, 0)

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

    def test_no_locks(self) -> None:
        """As in folders of other machines: the proxy says so and doesn't start, or goes on in the file that it has."""

        opened: list[int] = []

        def fail(fd: int, operation: int) -> None:
            opened.append(fd)
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        world = World(self.path).start().write()
        old = self.path.rename(self.path.with_suffix(".1"))
        self.patch(fcntl, "flock", fail)
        error = self.assertRaises(TrailError, World(self.path).start)
        self.assertIn(f"{self.path} can't be locked: No locks available; put it where", str(error))
        world.trail.reopen()
        world.write()
        self.assertIn("can't be locked", world.file.complaint)
        self.assertEqual(len(opened), 2)
        for fd in opened:
            self.assertRaises(OSError, os.fstat, fd)
        world.stop()
        self.assertEqual(self.read(old).faults, 0)

    def test_predecessor_vanishes(self) -> None:
        """It is compressed while the proxy starts."""
        self.sample()
        old = self.path.rename(self.path.with_name("audit.log-1"))
        is_file = Path.is_file

        def found(path: Path) -> bool:
            try:
                return is_file(path)
            finally:
                old.unlink(missing_ok=True)

        self.patch(Path, "is_file", found)
        World(self.path).start().stop()
        self.assertEqual(self.assert_good().lines, 3)

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
        lines = world.trail.backlog.fetch()
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
        self.patch(os, "fdatasync", failing_to_keep(2))
        lines = world.trail.backlog.fetch()
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
        world.trail.backlog.written_down(size)
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
        self.patch(os, "fdatasync", failing_to_keep(1))
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
        world.file.put(world.trail.backlog.fetch())
        error = world.file.write()
        self.assertEqual(error and error.strerror, "No space left on device")
        world.file.close()

    def test_find_end(self) -> None:
        lines = self.sample()
        end = find_end(self.path, KEY)
        self.assertEqual(end and (end.seq, end.rest, end.unfinished), (len(lines), b"", False))
        self.path.write_bytes(b"")
        self.assertIsNone(find_end(self.path, KEY))
