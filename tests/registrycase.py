"""Test cases of the registry, with whoever it tells of changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rproxy.packets import Setup
from rproxy.policies import Peer
from rproxy.registry import Registry
from rproxy.registry.claims import Claims
from rproxy.registry.records import NOBODY, Record
from rproxy.registry.registration import Key, Registration
from rproxy.registry.standing import Observer

EAST, WEST = "10.0.0.1", "10.0.0.2"


class Connection:
    """A setup connection, as far as the registry knows one."""


class Router:
    """Whoever is told of the changes: it can't lose what it doesn't have."""

    def __init__(self) -> None:
        self.standing: dict[Key, Registration] = {}
        self.heard: list[str] = []

    def registered(self, registration: Registration) -> None:
        self.standing[registration.key] = registration
        self.heard.append(f"{registration.server_id} serves {registration.policy} at {registration.host}")

    def ended(self, registration: Registration) -> None:
        assert self.standing.pop(registration.key) is registration
        self.heard.append(f"{registration.server_id} serves {registration.policy} no more")


def setup(server_id: str = "100", policy: str = "111", port: int = 5000, **modern: Any) -> Setup:
    return Setup(type="1", id=server_id, policy=policy, listenport=port, **modern)


class RegistryCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.router = Router()
        self.forbidden: set[Key] = set()
        self.registry = self.make_registry()
        self.connection = Connection()

    def make_registry(self, displaced: Callable[[object], object] = lambda owner: None, **limits: int) -> Registry:
        observer = Observer(self.router.registered, self.router.ended, displaced=displaced, refuses=self.refuses)
        return Registry(self.clock.seconds, observer, Claims("here", self.clock.seconds), **limits)

    def refuses(self, registration: Registration) -> str | None:
        return "not allowed" if registration.key in self.forbidden else None

    def register(self, setup: Setup, host: str = EAST, owner: object | None = None) -> Registration:
        registration = self.registry.register(setup, Peer(host), owner or self.connection)
        assert registration is not None, "it was a renewal"
        return registration

    def renew(self, setup: Setup, host: str = EAST, owner: object | None = None) -> None:
        self.assertIsNone(self.registry.register(setup, Peer(host), owner or self.connection))

    def assert_heard(self, *lines: str) -> None:
        """The router heard just this since the last time."""
        heard, self.router.heard[:] = list(self.router.heard), []
        self.assertEqual(list(lines), heard)


class HeardCase(RegistryCase):
    """A registry that hears from others, and writes down what it tells them."""

    def setUp(self) -> None:
        super().setUp()
        self.found: list[Registration] = []
        self.seen: list[Key] = []
        self.refused: list[tuple[Key, str]] = []
        self.changed: list[Record] = []
        self.displaced: list[object] = []
        self.conflicted: list[tuple[object, str]] = []
        self.over: list[tuple[str, str]] = []
        self.holds: set[Key] = set()
        self.asked_to_hold: list[Key] = []
        self.registry = self.make(100)

    def make(self, most: int) -> Registry:
        observer = Observer(
            self.router.registered,
            self.router.ended,
            found=self.find,
            seen=lambda registration: self.seen.append(registration.key),
            over=lambda registration, why: self.over.append((registration.server_id, why)),
            displaced=self.displaced.append,
            conflicted=lambda owner, registration: self.conflicted.append((owner, registration.host)),
            refused=lambda registration, why: self.refused.append((registration.key, why)),
            refuses=self.refuses,
            hold=self.hold,
            changed=self.changed.append,
        )
        return Registry(self.clock.seconds, observer, Claims("here", self.clock.seconds), most)

    def find(self, registration: Registration) -> None:
        self.found.append(registration)
        self.router.registered(registration)

    def hold(self, registrations: Sequence[Registration]) -> list[Registration]:
        self.asked_to_hold += [each.key for each in registrations]
        return [each for each in registrations if each.key in self.holds]

    def told(
        self, holder: str, version: int, server_id: str = "100", host: str = EAST, port: int = 5000, **terms: Any
    ) -> Record:
        terms = {"lease": None if holder == NOBODY else 10.0} | terms
        return Record("111", server_id, holder, version, Registration("111", server_id, host, port, **terms))

    def hear(self, *records: Record, complete: bool = False) -> None:
        self.registry.hear(records, complete=complete)

    def hosts(self) -> dict[str, str]:
        return {each.server_id: f"{each.host}:{each.port}" for each in self.registry.standing}
