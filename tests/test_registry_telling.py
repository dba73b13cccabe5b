"""What the registry tells other processes."""

from __future__ import annotations

from attrs import evolve

from rproxy.registry.records import NOBODY
from tests.registrycase import HeardCase, setup


class TellingTests(HeardCase):
    """What the others are told, and told again."""

    def test_leases(self) -> None:
        """Those that are held here, and how long they still have."""
        self.register(setup("100", lease=10.0))
        self.register(setup("101", port=5001, lease=20.0))
        self.hear(self.told("a", 5, "102", port=5002), self.told(NOBODY, 6, "103", port=5003))
        self.registry.lose_touch()
        self.clock.advance(3)
        one, other = ("111", "100", "here"), ("111", "101", "here")
        self.assertEqual(self.registry.leases, {one: 7.0, other: 17.0})
        asked = [("111", "102", "a"), ("111", "100", "a"), ("111", "103", NOBODY), ("111", "103", "here"), other]
        self.assertEqual(self.registry.leases_of(asked), {other: 17.0})

    def test_put_again(self) -> None:
        """As old as it was: who came after it still counts."""
        self.register(setup(lease=10.0))
        [record] = self.changed
        self.hear(self.told("b", record.version + 5, draining=True))
        self.registry.put_again([record.key, ("111", "999", "here"), ("111", "100", "b")])
        self.assertEqual(self.changed, [record, evolve(record, version=record.version + 1)])
        self.assertTrue(self.registry.standing[0].draining)

    def test_put_again_and_newer_by_that(self) -> None:
        """What counts is looked at anew, as the others will."""
        self.register(setup(lease=10.0))
        [record] = self.changed
        self.hear(self.told("a", record.version + 1, draining=True))
        self.assertTrue(self.registry.standing[0].draining)
        self.registry.put_again([record.key])
        self.assertFalse(self.registry.standing[0].draining)

    def test_put_back(self) -> None:
        """What is missing, or older, among all that there is; what others hold is theirs to put back."""
        self.register(setup("100", lease=10.0))
        self.register(setup("101", port=5001))
        self.hear(self.told("a", 5, "102", port=5002))
        mine, nobodys = self.changed
        self.changed.clear()
        self.registry.put_back({mine.key: mine, nobodys.key: nobodys})
        self.assertEqual(self.changed, [])
        self.registry.put_back({mine.key: mine})
        self.assertEqual(self.changed, [nobodys])
        self.changed.clear()
        self.registry.put_back(
            {mine.key: evolve(mine, version=mine.version - 1), nobodys.key: evolve(nobodys, down=9.0)}
        )
        self.assertEqual(self.changed, [mine, nobodys])
        self.changed.clear()
        self.registry.put_back({})
        self.assertEqual(self.changed, [mine, nobodys])

    def test_put_back_what_ended_elsewhere(self) -> None:
        """A lease that is held here goes on; it isn't so with what is nobody's. An older end is none of theirs."""
        self.register(setup("100", lease=10.0))
        self.register(setup("101", port=5001))
        mine, nobodys = self.changed
        self.changed.clear()
        ends = mine.ended(mine.version + 5), nobodys.ended(nobodys.version + 5)
        self.registry.put_back({end.key: end for end in ends})
        again = evolve(mine, version=mine.version + 6)
        self.assertEqual(self.changed, [again])
        self.changed.clear()
        self.registry.put_back({mine.key: mine.ended(), nobodys.key: nobodys.ended(nobodys.version - 1)})
        self.assertEqual(self.changed, [again, nobodys])

    def test_put_back_and_newer_by_that(self) -> None:
        """What counts is looked at anew."""
        self.register(setup(lease=10.0))
        [record] = self.changed
        self.hear(self.told("a", record.version + 5, draining=True))
        self.registry.put_back({record.key: record.ended(record.version + 5)})
        self.assertFalse(self.registry.standing[0].draining)

    def test_set_down(self) -> None:
        """Only what is nobody's, and only what there is."""
        self.hear(self.told(NOBODY, 5))
        self.register(setup("101", port=5001, lease=10.0))
        self.changed.clear()
        self.registry.set_down(self.told(NOBODY, 5), 7.0)
        self.registry.set_down(self.told(NOBODY, 5, "101"), 7.0)
        self.assertEqual(self.changed, [evolve(self.told(NOBODY, 5), down=7.0)])
        self.assertEqual(self.registry.without_lease, self.changed)
