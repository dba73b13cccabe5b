"""Tests for ``rproxy.registry.claims``: which claim on a key counts, and when those of others end."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.registry.claims import Claim, Claims, find_standing
from rproxy.registry.records import NOBODY, Record
from rproxy.registry.registration import Registration

EAST, WEST = "10.0.0.1", "10.0.0.2"
LEASE = 10.0


def record(
    holder: str,
    version: int,
    host: str = EAST,
    *,
    lease: float | None = LEASE,
    server_id: str = "100",
    port: int = 5000,
) -> Record:
    terms = Registration("111", server_id, host, port, lease=None if holder == NOBODY else lease)
    return Record("111", server_id, holder, version, terms)


class FindStandingTests(SynchronousTestCase):
    """As if all setup packets had come to one process."""

    def find(self, *records: Record, refused: str = "") -> tuple[str | None, list[str]]:
        claims = [Claim(each) for each in records]
        standing, conflicting = find_standing(claims, lambda registration: registration.host != refused)
        return None if standing is None else standing.record.holder, [each.record.holder for each in conflicting]

    def test_none(self) -> None:
        self.assertEqual(self.find(), (None, []))

    def test_the_newest_of_one_host(self) -> None:
        self.assertEqual(self.find(record("a", 1), record("b", 2), record(NOBODY, 3)), (NOBODY, []))

    def test_another_host_while_there_is_a_lease(self) -> None:
        self.assertEqual(self.find(record("a", 1), record("b", 2, WEST), record("c", 3)), ("c", ["b"]))

    def test_another_host_where_there_is_none(self) -> None:
        self.assertEqual(self.find(record(NOBODY, 1), record("b", 2, WEST)), ("b", []))

    def test_what_is_not_allowed_stands_in_nobodys_way(self) -> None:
        self.assertEqual(self.find(record("a", 1), record("b", 2, WEST), refused=EAST), ("b", []))

    def test_what_is_past_its_lease_likewise(self) -> None:
        for held in (False, True):
            past = Claim(record("a", 1), lapsed=True, held=held)
            heir = Claim(record("b", 2, WEST))
            self.assertEqual(find_standing([past, heir], lambda _: True), (heir, []))


class ClaimsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.claims = Claims("here", self.clock.seconds)

    def only(self) -> Claim:
        [claim] = self.claims
        return claim


class VersionTests(ClaimsCase):
    def test_they_grow(self) -> None:
        """By the clock, and past all that was seen, whatever the clock does."""
        self.clock.advance(5)
        self.assertEqual([self.claims.next_version() for _ in range(2)], [5_000_000, 5_000_001])
        self.claims.hear(record("a", 9_000_000))
        self.assertEqual(self.claims.next_version(), 9_000_001)
        self.claims.hear(record("a", 9_500_000).ended())
        self.assertEqual(self.claims.next_version(), 9_500_001)

    def test_said_anew(self) -> None:
        """Newer than its end, and no newer than need be."""
        self.claims.put(record("here", 7))
        claim = self.only()
        self.assertEqual(self.claims.say_anew(claim, 9), record("here", 10))
        self.assertEqual(self.claims.say_anew(claim, 3), record("here", 11))
        self.assertGreater(self.claims.next_version(), 11)


class IndexTests(ClaimsCase):
    """Who is said to be where, and who holds what: nothing is left of what is gone."""

    def test_places(self) -> None:
        self.claims.put(record("here", 1))
        self.claims.hear(record("a", 2))
        self.claims.hear(record("a", 3, port=5001))
        self.claims.hear(record("a", 4, server_id="101"))
        self.assertEqual(self.claims.keys_at(("111", (EAST, 5000))), [("111", "100"), ("111", "101")])
        self.claims.drop(("111", "100"), "here")
        self.assertEqual(self.claims.keys_at(("111", (EAST, 5000))), [("111", "101")])
        self.claims.hear(record("a", 3, port=5001).ended())
        self.claims.hear(record("a", 4, server_id="101").ended())
        self.assertEqual((self.claims.keys, self.claims._at), ([], {}))

    def test_owners(self) -> None:
        owner, other = object(), object()
        self.claims.put(record("here", 1), owner)
        self.claims.put(record("here", 2, server_id="101"), owner)
        self.claims.put(record("here", 3), other)
        self.assertEqual(self.claims.owned[owner], {("111", "101")})
        self.claims.drop(("111", "101"), "here")
        self.assertEqual(self.claims.owned, {other: {("111", "100")}})


class HearTests(ClaimsCase):
    def test_only_what_is_newer(self) -> None:
        self.assertTrue(self.claims.hear(record("a", 5)))
        self.assertFalse(self.claims.hear(record("a", 5)))
        self.assertFalse(self.claims.hear(record("a", 4, port=5001)))
        self.assertFalse(self.claims.hear(record("a", 4).ended()))
        self.assertTrue(self.claims.hear(evolve(record("a", 5), down=1.0)))
        self.assertTrue(self.claims.hear(record("a", 5).ended()))
        self.assertFalse(self.claims.hear(record("a", 5).ended()))
        self.assertEqual(self.claims.keys, [])

    def test_what_was_past_its_lease_counts_again(self) -> None:
        self.claims.hear(record("a", 5))
        for held in (False, True):
            self.only().lapse()
            self.only().held = held
            self.assertTrue(self.claims.hear(record("a", 5)))
            self.assertFalse(self.only().held or self.only().lapsed)


class TouchTests(ClaimsCase):
    """What others hold lasts for one lease once they aren't heard of."""

    def setUp(self) -> None:
        super().setUp()
        self.claims.hear(record("a", 5))

    def test_lost(self) -> None:
        """From when it was lost first; what has no lease, or is past it, isn't touched."""
        self.claims.hear(record(NOBODY, 6))
        self.claims.hear(record("b", 7))
        lapsed = self.claims.get(("111", "100"), "b")
        assert lapsed is not None
        lapsed.lapsed = True
        self.claims.lose_touch(3.0)
        self.claims.lose_touch(5.0)
        expires = {claim.record.holder: claim.expires for claim in self.claims}
        self.assertEqual(expires, {"a": 13.0, NOBODY: None, "b": None})

    def test_told_of(self) -> None:
        self.claims.lose_touch(3.0)
        self.claims.hear(record("a", 5))
        self.assertEqual(self.claims.confirm({record("a", 5).key: record("a", 5)}, 6.0), [])
        self.assertIsNone(self.only().expires)

    def test_not_told_of(self) -> None:
        """Its holder may come back yet."""
        self.assertEqual(self.claims.confirm({}, 6.0), [])
        self.assertEqual(self.only().expires, 16.0)
        self.claims.confirm({}, 8.0)
        self.assertEqual(self.only().expires, 16.0)

    def test_some_are_told_of(self) -> None:
        self.claims.hear(record("b", 6))
        self.claims.confirm({record("a", 5).key: record("a", 5)}, 6.0)
        self.assertEqual({claim.record.holder: claim.expires for claim in self.claims}, {"a": None, "b": 16.0})

    def test_an_older_one_is_told_of(self) -> None:
        """Its end wouldn't be the end of this one; an older end likewise."""
        for older in (record("a", 4), record("a", 4).ended()):
            self.only().expires = None
            self.claims.hear(older)
            self.claims.confirm({older.key: older}, 6.0)
            self.assertEqual(self.only().expires, 16.0)

    def test_no_lease_that_another_process_may_end(self) -> None:
        """It lasts no time at all."""
        self.claims.hear(record("a", 6, lease=None))
        self.claims.lose_touch(3.0)
        self.assertEqual(self.only().expires, 3.0)

    def test_past_its_lease_and_not_told_of(self) -> None:
        self.only().lapsed = True
        self.assertEqual(self.claims.confirm({}, 6.0), [("111", "100")])
        self.assertEqual(self.claims.keys, [])
