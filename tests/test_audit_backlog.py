"""Tests for ``rproxy.audit.backlog``."""

from __future__ import annotations

from rproxy.audit.backlog import ROOM, SHARED
from rproxy.audit.lines import Gap
from rproxy.audit.trail import REFUSED_LINES
from rproxy.request import Refusal
from tests.auditing import AuditCase, World, request


class RoomTests(AuditCase):
    """What there is no room for is counted, and told when there is room again."""

    def test_gap(self) -> None:
        for complete, counted in (True, (1, 0, 1)), (False, (2, 1, 1)):
            world = World(self.path, complete=complete).start()
            server = world.register()
            world.trail.backlog.size += ROOM
            world.ack(world.send(server))
            refused = world.send()
            refused.reply = Refusal(b"", "overloaded", "no")
            world.trail.ended([refused], "")
            self.assertEqual(world.trail.backlog.missed, counted[0])
            while world.trail.backlog.missed == counted[0]:
                world.register("101")
            world.trail.backlog.written_down(ROOM)
            self.assertEqual(world.trail.backlog.missed, 0)
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
            world.trail.backlog.size += SHARED
            world.ack(world.send(*[server][:is_written]))
            world.trail.backlog.written_down(SHARED)
            world.stop()
            self.assertEqual(self.assert_told(f"no line of 1 packet, {is_written:d} of them").faults, is_written)
            self.path.unlink()

    def test_room_for_registrations(self) -> None:
        """Nothing else takes it, and it is there again when the rest is written."""
        world = World(self.path, complete=False).start()
        for _ in range(2):
            world.trail.backlog.size += ROOM
            server = world.register()
            world.end(server)
            world.refuse()
            world.ack(request())
            self.assertEqual((world.trail.backlog.missed, world.trail.backlog._kept > 0), (2, True))
            world.trail.backlog.written_down(ROOM)
            self.assertEqual((world.trail.backlog.missed, world.trail.backlog._kept), (0, 0))
            server = world.register()
            world.ack(world.send(server))
        world.stop()
        reading = self.read()
        self.assertEqual((reading.faults, reading.policies.proved, reading.policies.untold), (0, 2, 0))

    def test_refused_without_room(self) -> None:
        """They are counted apart, and leave nothing of what is registered open."""
        world = World(self.path).start()
        server = world.register()
        world.trail.backlog.size += SHARED
        world.refuse(REFUSED_LINES + 2)
        world.trail.sweep()
        self.assertEqual(world.trail.backlog.missed, REFUSED_LINES + 2)
        world.trail.backlog.written_down(SHARED)
        world.ack(world.send(server))
        world.stop()
        (gap,) = self.told_by(Gap)
        self.assertEqual((gap.packets, gap.written, gap.registrations, gap.refused), (0, 0, 0, REFUSED_LINES + 2))
        reading = self.assert_told("12 refused setup packets")
        self.assertEqual((reading.faults, reading.policies.proved), (0, 1))
