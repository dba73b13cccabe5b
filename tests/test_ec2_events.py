"""A stack's events as lines, and which of them is the cause of a failure."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, timezone

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from rproxy.ec2.events import Event, failures, last_operation, line, stamp

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def event(seconds: float, resource: str, state: str, reason: str = "") -> Event:
    """Return one so many seconds after the start."""
    return Event(f"{resource}-{seconds}", START + timedelta(seconds=seconds), resource, "AWS::EC2::VPC", state, reason)


class LineTests(SynchronousTestCase):
    """What is printed of an event."""

    def test_line(self) -> None:
        """All of it, the reason if there is one."""
        self.assertEqual(
            line(event(0, "Network", "CREATE_COMPLETE")),
            "2026-01-02 03:04:05Z CREATE_COMPLETE              Network (EC2::VPC)",
        )
        self.assertTrue(line(event(0, "Network", "CREATE_FAILED", "no room")).endswith("Network (EC2::VPC): no room"))

    def test_time(self) -> None:
        """In UTC, whatever it is told in."""
        self.assertEqual(stamp(START.astimezone(timezone(timedelta(hours=5)))), "2026-01-02 03:04:05Z")


class FailuresTests(SynchronousTestCase):
    """The first cause is first."""

    first = event(3, "Network", "CREATE_FAILED", "The maximum number of VPCs has been reached.")
    second = event(3.5, "Address", "CREATE_FAILED", "The maximum number of addresses has been reached.")
    cancelled = event(2, "Logs", "CREATE_FAILED", "Resource creation cancelled")
    all_events = (
        event(1, "demo", "CREATE_IN_PROGRESS", "User Initiated"),
        cancelled,
        first,
        second,
        event(4, "demo", "ROLLBACK_IN_PROGRESS", "The following resource(s) failed to create: [Network, Address]."),
        event(5, "demo", "ROLLBACK_COMPLETE"),
    )

    def test_order(self) -> None:
        """By time, without what failed because of them, in whatever order they come."""
        for seed in range(20):
            mixed = random.Random(seed).sample(self.all_events, len(self.all_events))
            self.assertEqual(failures(mixed), [self.first, self.second])

    def test_last_operation(self) -> None:
        """What failed before the last change isn't of interest any more."""
        kind = "AWS::CloudFormation::Stack"
        change = evolve(event(6, "demo", "UPDATE_IN_PROGRESS", "User Initiated"), kind=kind)
        done = evolve(event(7, "demo", "UPDATE_COMPLETE"), kind=kind)
        self.assertEqual(last_operation([*self.all_events, change, done]), [change, done])
        self.assertEqual(last_operation(self.all_events), self.all_events)
        self.assertEqual(last_operation([]), [])

    def test_no_cause(self) -> None:
        """What was only cancelled is better than nothing."""
        self.assertEqual(failures([self.cancelled]), [self.cancelled])
        self.assertEqual(failures(self.all_events[-1:]), [])
