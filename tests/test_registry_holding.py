"""What stands of other processes when they tell nothing."""

from __future__ import annotations

from rproxy.registry.records import NOBODY
from tests.registrycase import HeardCase, setup


class HoldingTests(HeardCase):
    """What stands of others when nobody tells of it any more."""

    def test_out_of_touch(self) -> None:
        """For one lease; then only what can be held, and it doesn't come back once let go."""
        self.hear(self.told("a", 5, "100"), self.told("a", 6, "101", port=5001), self.told(NOBODY, 7, "102", port=5002))
        self.holds = {("111", "101")}
        self.registry.lose_touch()
        self.clock.advance(9.9)
        self.registry.expire()
        self.assertEqual(set(self.hosts()), {"100", "101", "102"})
        self.clock.advance(0.1)
        self.registry.expire()
        self.assertEqual(set(self.hosts()), {"101", "102"})
        self.registry.lose_touch()
        self.clock.advance(20)
        self.registry.expire()
        self.assertEqual(set(self.hosts()), {"101", "102"})
        held = next(each for each in self.registry.standing if each.server_id == "101")
        self.registry.let_go(held)
        self.registry.let_go(held)
        self.registry.reconsider()
        self.assertEqual(set(self.hosts()), {"102"})

    def test_held_and_heard_of_again(self) -> None:
        self.hear(self.told("a", 5))
        self.holds = {("111", "100")}
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        held = self.registry.standing[0]
        self.hear(self.told("a", 5), complete=True)
        self.assertEqual((self.seen, self.registry.standing), ([held.key], [held]))
        self.registry.let_go(held)
        self.assertEqual(self.registry.standing, [held])

    def test_held_once_the_lease_here_ran_out(self) -> None:
        """Both ran out at once; that the other one is heard of again is news to those who hold it."""
        self.register(setup(lease=10.0))
        self.hear(self.told("a", 5))
        self.holds = {("111", "100")}
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        [held] = self.found
        self.assertEqual(self.registry.standing, [held])
        self.seen.clear()
        self.hear(self.told("a", 5), complete=True)
        self.assertEqual((self.seen, self.registry.standing), ([held.key], [held]))

    def test_held_and_not_heard_of_again(self) -> None:
        self.hear(self.told("a", 5))
        self.holds = {("111", "100")}
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        self.hear(complete=True)
        self.assertEqual(self.registry.standing, [])

    def test_not_told_of(self) -> None:
        """It stays for one more lease, for its holder to come back."""
        self.hear(self.told("a", 5), complete=True)
        self.hear(complete=True)
        self.clock.advance(9.9)
        self.registry.expire()
        self.assertEqual(len(self.registry.standing), 1)
        self.clock.advance(0.1)
        self.registry.expire()
        self.assertEqual(self.registry.standing, [])

    def test_held_and_not_allowed_any_more(self) -> None:
        """It ends, and doesn't come back when it is allowed again."""
        self.hold_one()
        self.forbidden.add(("111", "100"))
        self.registry.revoke(self.registry.standing[0], "no")
        self.assertEqual(self.registry.standing, [])
        self.forbidden.clear()
        self.registry.reconsider()
        self.assertEqual(self.registry.standing, [])

    def test_held_until_something_else_counts(self) -> None:
        """On its key, or at its place; and then never again."""
        for other in setup(lease=10.0), setup("101", lease=10.0):
            self.registry = self.make(100)
            self.hold_one()
            self.register(other)
            self.assertEqual(set(self.hosts()), {other.id})
            self.registry.release(self.connection)
            self.registry.reconsider()
            self.assertEqual(self.registry.standing, [])

    def test_held_by_nothing_else(self) -> None:
        """Not where another lease counts, nor where what stood last was held here."""
        self.hear(self.told("a", 5), self.told("b", 6, lease=20.0))
        self.hear(self.told("a", 5, "101", port=5001))
        self.register(setup("101", port=5001, lease=10.0))
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        self.assertEqual((self.asked_to_hold, set(self.hosts())), ([], {"100"}))
        self.clock.advance(10)
        self.registry.expire()
        self.assertEqual((self.asked_to_hold, self.registry.standing), ([("111", "100")], []))

    def test_revoked_and_others_hold_it(self) -> None:
        """Whoever revokes it is told of the leases that it stands by: one that is held, and none that has lapsed."""
        self.hold_one()
        self.assertEqual(self.registry.revoke(self.registry.standing[0], "no"), [("111", "100", "a")])
        self.hear(self.told("b", 6))
        registration = self.register(setup(lease=10.0))
        self.assertEqual(self.registry.revoke(registration, "no"), [("111", "100", "b")])
        self.hear(self.told("b", 6).ended())
        registration = self.register(setup(lease=10.0))
        self.assertEqual(self.registry.revoke(registration, "no"), [])
        self.assertEqual(self.registry.standing, [])

    def hold_one(self) -> None:
        self.hear(self.told("a", 5))
        self.holds = {("111", "100")}
        self.registry.lose_touch()
        self.clock.advance(10)
        self.registry.expire()
        self.assertEqual(set(self.hosts()), {"100"})

    def test_nobody_could_say(self) -> None:
        """What others hold doesn't stand until it is heard of again; what is held here does, and what has changed."""
        self.hear(self.told("a", 5), self.told("a", 6, "101", port=5001), self.told(NOBODY, 7, "102", port=5002))
        self.register(setup("103", port=5003, lease=10.0))
        before = self.registry.standing
        self.hear(self.told("a", 8, "101", port=5009))
        self.registry.lapse(before)
        self.assertEqual(set(self.hosts()), {"101", "102", "103"})
        self.registry.reconsider()
        self.assertEqual(set(self.hosts()), {"101", "102", "103"})
        self.hear(self.told("a", 5))
        self.assertEqual(set(self.hosts()), {"100", "101", "102", "103"})

    def test_why_it_is_over(self) -> None:
        """As the audit trail has it."""
        self.register(setup("1", port=1))
        self.register(setup("1", port=2))
        self.register(setup("2", port=2))
        self.registry.revoke(self.registry.standing[0], "by an operator")
        self.register(setup("3", port=3, lease=10.0))
        self.registry.release(self.connection)
        self.register(setup("4", port=4, lease=10.0))
        self.clock.advance(10)
        self.registry.expire()
        self.hear(self.told("a", 5, "5", port=5))
        self.hear(self.told("a", 5, "5", port=5).ended())
        self.hear(self.told("a", 6, "6", port=6))
        self.registry.lapse(self.registry.standing)
        self.hear(self.told(NOBODY, 7, "7", port=7))
        self.registry.forget(self.registry.without_lease[0], "it was down")
        self.hold_one()
        self.registry.let_go(self.registry.standing[0])
        self.assertEqual(
            self.over,
            [
                ("1", "replaced"),
                ("1", "another server has its address"),
                ("2", "revoked: by an operator"),
                ("3", "its connection closed"),
                ("4", "its lease ran out"),
                ("5", "it ended at another process"),
                ("6", "nobody could say whether it is still there"),
                ("7", "it was down"),
                ("100", "its lease ran out"),
            ],
        )
