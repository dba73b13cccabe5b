"""Tests for ``rproxy.audit.proving``."""

from __future__ import annotations

from rproxy.audit.backlog import KEPT, ROOM
from rproxy.registry.registration import Registration
from rproxy.request import Refusal
from tests.auditing import AuditCase, Server, World


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

    def test_behind_a_gap(self) -> None:
        """Where registrations have no line, who was rightful isn't guessed."""
        world = self.world()
        world.trail.backlog.size += ROOM
        world.trail.backlog._kept = KEPT
        server = world.register()
        world.trail.backlog.written_down(ROOM)
        world.ack(world.send(server))
        world.stop()
        reading = self.assert_told("of 1 event of registrations")
        self.assertEqual((reading.faults, reading.policies.untold, reading.policies.proved), (1, 1, 0))

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
        world.trail.backlog.size += ROOM
        while not world.trail.backlog.missed:
            world.register("101")
        world.end(server)
        world.trail.backlog.written_down(ROOM)
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
