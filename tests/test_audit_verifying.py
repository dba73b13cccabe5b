"""Tests for ``rproxy.audit.verifying``: what was changed is found."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.audit.reading import LONGEST, ReadError
from rproxy.audit.verifying import ChainCheck, Place
from tests.auditing import KEY, OTHER, AuditCase


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

    def test_much_that_is_no_trail(self) -> None:
        """No more of it is kept than a crash could have left."""
        check = ChainCheck(KEY, lambda finding: None)
        for number in range(10):
            check.take(Place(self.path, number), b"x" * LONGEST)
        assert check._doubt is not None
        self.assertLessEqual(len(check._doubt.raw), 3 * LONGEST)

    def test_the_end(self) -> None:
        """Lines that are taken away at the end are missed by who noted the hash of one of them."""
        lines = self.sample()
        head = self.assert_good().head
        self.assertFalse(self.read(expect=head).missing)
        self.path.write_bytes(b"".join(lines[:-1]))
        reading = self.read(expect=head)
        self.assertEqual((reading.missing, reading.faults), (True, 1))
