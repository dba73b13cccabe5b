"""Registrations that aren't allowed any more."""

from __future__ import annotations

from rproxy.policies import Peer, digest
from tests.registrycase import WEST, Connection, RegistryCase, setup


class RevocationTests(RegistryCase):
    """Registrations that aren't allowed any more."""

    def setUp(self) -> None:
        super().setUp()
        self.displaced: list[object] = []
        self.registry = self.make_registry(displaced=self.displaced.append)

    def test_standing(self) -> None:
        """All of them, in the order of registration, with what each showed."""
        self.assertEqual([], self.registry.standing)
        first = self.register(setup("100"))
        peer = Peer(WEST, frozenset({"a"}))
        second = self.registry.register(setup("101", lease=10.0, token="secret"), peer, self.connection)
        assert second is not None
        self.assertEqual([first, second], self.registry.standing)
        self.assertEqual((peer, digest("secret")), (second.peer, second.token))
        self.assertNotIn("token", repr(second))

    def test_without_a_lease(self) -> None:
        registration = self.register(setup())
        self.forbidden.add(registration.key)
        self.registry.revoke(registration, "not allowed")
        self.assert_heard("100 serves 111 at 10.0.0.1", "100 serves 111 no more")
        self.assertEqual(([], []), (self.registry.standing, self.displaced))

    def test_with_a_lease(self) -> None:
        """The connection holds it no more, and is told; what it holds beside stays."""
        registration = self.register(setup(lease=10.0))
        self.register(setup(policy="222", lease=10.0))
        self.registry.revoke(registration, "not allowed")
        self.assertEqual([self.connection], self.displaced)
        self.assertTrue(self.registry.is_owner(self.connection))
        self.registry.revoke(self.registry.standing[0], "not allowed")
        self.assertFalse(self.registry.is_owner(self.connection))
        self.registry.release(self.connection)
        self.assertEqual([], self.registry.expire())

    def test_allowed_again(self) -> None:
        """It has to be registered anew: whoever listens there by now may be another server."""
        registration = self.register(setup())
        self.forbidden.add(registration.key)
        self.registry.revoke(registration, "not allowed")
        self.forbidden.clear()
        self.registry.reconsider()
        self.assertEqual([], self.registry.standing)
        self.register(setup())
        self.assertEqual(["100"], [each.server_id for each in self.registry.standing])

    def test_its_key_and_its_place_are_free(self) -> None:
        """For another host, and for another id at the same port."""
        self.registry.revoke(self.register(setup(lease=10.0)), "not allowed")
        self.register(setup(lease=10.0), WEST, Connection())
        self.register(setup("101"))
        self.assertEqual(["100", "101"], [each.server_id for each in self.registry.standing])

    def test_what_was_shown_at_last_counts(self) -> None:
        """Another token is another registration, not a renewal of the one that is allowed."""
        self.register(setup(lease=10.0, token="a"))
        second = self.register(setup(lease=10.0, token="b"))
        self.assertEqual([digest("b")], [each.token for each in self.registry.standing])
        self.renew(setup(lease=10.0, token="b"))
        self.assertEqual([second], self.registry.standing)
