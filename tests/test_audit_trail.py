"""Tests for ``rproxy.audit.trail``: which refused setup packets have a line."""

from __future__ import annotations

from rproxy.audit.lines import LeftOut, Refused, decode, stamp
from rproxy.audit.trail import REFUSED_LINES, REFUSED_PERIOD
from tests.auditing import AuditCase, World


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
