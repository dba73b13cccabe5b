"""Several registries on one store: whatever happens to their links, in the end they agree, and what they say is so."""

from __future__ import annotations

from typing import Any

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.packets import Setup
from rproxy.policies import Peer
from rproxy.registry import ConflictError, Registry, TooManyError
from rproxy.registry.claims import Claims, find_standing
from rproxy.registry.records import NOBODY
from rproxy.registry.registration import Key, Registration
from rproxy.registry.standing import Observer
from rproxy.stores import PRESENCE
from rproxy.stores.replica import MOST_PENDING, Replica
from tests.links import Link, SharedStore

HOSTS = ("10.0.0.1", "10.0.0.2")
IDS = ("100", "101", "102")
PORTS = (5000, 5001)
LEASES = (None, 4.0, 9.0)
MOST = 5
#: Seconds that an exchange takes to come about, at most.
STEP = 0.25

Terms = tuple[str, str, str, int]


def terms(registration: Registration) -> Terms:
    return registration.policy, registration.server_id, registration.host, registration.port


class Connection:
    """A setup connection."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.renews: dict[Key, Setup] = {}


@define(eq=False)
class Process:
    """One process: its registry and its replica."""

    clock: Clock
    name: str
    link: Link
    #: What its policies refuse.
    refused: set[Key] = field(factory=set)
    connections: list[Connection] = field(factory=list)
    standing: dict[Key, Registration] = field(factory=dict)
    registry: Registry = field(init=False)
    replica: Replica = field(init=False)

    def __attrs_post_init__(self) -> None:
        observer = Observer(
            self._stands,
            self._ended,
            found=self._stands,
            refuses=lambda each: "not allowed" if each.key in self.refused else None,
            displaced=self._forget_lost,
            hold=lambda registrations: registrations,
            conflicted=lambda owner, registration: self._forget_lost(owner),
        )
        self.registry = Registry(self.clock.seconds, observer, Claims(self.name, self.clock.seconds), MOST * 3)
        clock: Any = self.clock
        self.replica = Replica(
            self.link, self.registry, clock, lambda asked: None, lambda count: None, lambda: None, lambda: 0.5
        )
        observer.changed = self.replica.changed
        observer.renewed = self.replica.renewed
        self.replica.startService()

    def _stands(self, registration: Registration) -> None:
        self.standing[registration.key] = registration

    def _ended(self, registration: Registration) -> None:
        assert self.standing.pop(registration.key) is registration

    def _forget_lost(self, owner: Any) -> None:
        """A server that is told, or has its connection taken over, doesn't renew that any more."""
        owner.renews = {key: setup for key, setup in owner.renews.items() if self.holds(owner, key)}

    def holds(self, owner: Connection, key: Key) -> bool:
        own = self.registry.claims.own(key)
        return own is not None and own.owner is owner

    def kill(self) -> None:
        """Nothing of it is left, and nobody was told."""
        self.link.cut()
        self.link.close()
        self.replica.running = 0
        self.replica._alarm.wake()

    def sweep(self) -> None:
        for owner in self.registry.expire():
            self._forget_lost(owner)


class Convergence(RuleBasedStateMachine):
    """Three processes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.store = SharedStore(self.clock)
        self.processes: list[Process] = []
        self.started = 0
        self.claimed: set[Terms] = set()

    @initialize()
    def start(self) -> None:
        for _ in range(3):
            self.start_process()

    def start_process(self) -> None:
        self.started += 1
        self.processes.append(Process(self.clock, f"p{self.started}", self.store.link()))
        self.pass_time(0.0)

    def pass_time(self, seconds: float) -> None:
        """Servers renew what they hold; processes sweep."""
        steps = max(1, round(seconds / STEP))
        for number in range(steps):
            self.clock.advance(seconds / steps)
            for process in self.processes:
                process.sweep()
                for connection in process.connections if number % 4 == 0 else ():
                    for setup in list(connection.renews.values()):
                        self.send(process, connection, setup)
            self.clock.advance(0.0)

    def send(self, process: Process, connection: Connection, setup: Setup) -> None:
        key = setup.policy, setup.id
        if key in process.refused:
            connection.renews.pop(key, None)
            return
        try:
            process.registry.register(setup, Peer(connection.host), connection)
        except (ConflictError, TooManyError):
            connection.renews.pop(key, None)
            return
        self.claimed.add((*key, connection.host, setup.listenport))
        connection.renews.pop(key, None)
        if setup.lease is not None:
            connection.renews[key] = setup

    numbers = st.integers(0, 2)

    @rule(
        packets=st.lists(
            st.tuples(
                numbers,
                st.sampled_from(HOSTS),
                st.sampled_from(IDS),
                st.sampled_from(PORTS),
                st.sampled_from(LEASES),
                st.booleans(),
                st.booleans(),
            ),
            min_size=1,
            max_size=5,
        ),
        at_once=st.booleans(),
    )
    def register(self, packets: list[tuple[int, str, str, int, float | None, bool, bool]], at_once: bool) -> None:
        """Servers register, before the others hear of it or one after the other, on connections that are new or not."""
        for number, host, server_id, port, lease, drain, fresh in packets:
            process = self.processes[number]
            known = [each for each in process.connections if each.host == host]
            if fresh or not known:
                known = [Connection(host)]
                process.connections += known
            setup = Setup(type="1", id=server_id, policy="111", listenport=port, lease=lease, drain=drain)
            self.send(process, known[-1], setup)
            if not at_once:
                self.clock.advance(0.0)
        self.clock.advance(0.0)

    @rule(number=numbers, which=st.integers(0, 3))
    def release(self, number: int, which: int) -> None:
        process = self.processes[number]
        if process.connections:
            connection = process.connections.pop(which % len(process.connections))
            process.registry.release(connection)
            self.clock.advance(0.0)

    @rule(number=numbers, which=st.integers(0, 3))
    def fall_silent(self, number: int, which: int) -> None:
        """The server of a connection vanished: its leases run out."""
        process = self.processes[number]
        if process.connections:
            process.connections[which % len(process.connections)].renews.clear()

    @rule(number=numbers)
    def cut(self, number: int) -> None:
        self.processes[number].link.cut()

    @rule(number=numbers)
    def hang(self, number: int) -> None:
        self.processes[number].link.mode = "hang"

    @rule(number=numbers, how=st.sampled_from(["before", "after"]))
    def fail_once(self, number: int, how: str) -> None:
        if self.processes[number].link.mode == "up":
            self.processes[number].link.fail_once(how)

    @rule(number=numbers)
    def heal(self, number: int) -> None:
        self.processes[number].link.heal()

    @rule(number=numbers, which=st.integers(0, 3))
    def lose_held(self, number: int, which: int) -> None:
        """A server that is held, if it is, loses its connection."""
        registry = self.processes[number].registry
        if registry.standing:
            registry.let_go(registry.standing[which % len(registry.standing)])

    @rule()
    def lose_everything(self) -> None:
        self.store.lose_everything()

    @rule(number=numbers)
    def kill(self, number: int) -> None:
        self.processes.pop(number).kill()
        self.start_process()

    @rule(number=numbers)
    def stop(self, number: int) -> None:
        """It tells that it leaves; then its connections close."""
        process = self.processes.pop(number)
        process.replica.stopService()
        for connection in process.connections:
            process.registry.release(connection)
        self.clock.advance(0.0)
        self.start_process()

    @rule(number=numbers, server_id=st.sampled_from(IDS))
    def forget(self, number: int, server_id: str) -> None:
        registry = self.processes[number].registry
        for record in registry.without_lease:
            if record.server_id == server_id and registry.in_touch:
                registry.forget(record, "it was down")
        self.clock.advance(0.0)

    @rule(number=numbers, server_id=st.sampled_from(IDS))
    def forbid(self, number: int, server_id: str) -> None:
        """One process's policies change, to be the others' again in the end."""
        process = self.processes[number]
        process.refused = process.refused ^ {("111", server_id)}
        for registration in process.registry.standing:
            if registration.key in process.refused:
                process.registry.revoke(registration, "not allowed")
        process.registry.reconsider()
        self.clock.advance(0.0)

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0, 12.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(seconds=st.sampled_from([2.0, 11.0]))
    def pause(self, seconds: float) -> None:
        """Nobody does anything."""
        self.clock.advance(seconds)

    @invariant()
    def all_is_well(self) -> None:
        for process in self.processes:
            standing = process.registry.standing
            assert process.standing == {each.key: each for each in standing}, "what was told of is what stands"
            assert {terms(each) for each in standing} <= self.claimed, "nobody ever said so"
            assert not {each.key for each in standing} & process.refused, "that isn't allowed"
            places = [(each.policy, each.address) for each in standing]
            assert len(places) == len(set(places)), "two servers at one address"
            claims = list(process.registry.claims)
            # Each is that of a holder and a key.
            assert len(claims) <= len(IDS) * (self.started + 1)
            assert len(process.replica._pending) <= MOST_PENDING

    @rule()
    def come_to_rest(self) -> None:
        """All links heal, all have the same policies, and time passes."""
        self.store.heal()
        for process in self.processes:
            process.refused.clear()
            process.registry.reconsider()
        self.pass_time(PRESENCE + 2 * max(lease or 0.0 for lease in LEASES))
        self.check_agreement()

    def check_agreement(self) -> None:
        living = {process.name for process in self.processes}
        views = []
        for process in self.processes:
            claims = process.registry.claims
            assert {claim.record.holder for claim in claims} <= living | {NOBODY}, "the dead hold nothing"
            assert all(claim.expires is None or claim.owner is not None for claim in claims)
            views.append({claim.record.key: claim.record for claim in claims})
            expected = {}
            for key in claims.keys:
                claim, conflicting = find_standing(claims.on(key), lambda each: True)
                assert claim is not None
                assert all(each.record.holder == NOBODY for each in conflicting), "whoever holds it ends it"
                expected[key] = terms(claim.registration), claim.registration.draining
            standing = {each.key: (terms(each), each.draining) for each in process.registry.standing}
            assert standing == expected, "what is claimed stands"
        assert all(view == views[0] for view in views), "they know the same"
        for process in self.processes:
            for key in process.registry.claims.keys:
                own = process.registry.claims.own(key)
                assert own is None or own.record == views[0][own.record.key]
        kept = self.store.ledger._kept
        assert views[0] == {key: each.record for key, each in kept.items() if each.record.registration is not None}

    def teardown(self) -> None:
        if self.processes:
            self.come_to_rest()
            self.all_is_well()


class ConvergenceTests(SynchronousTestCase):
    def test_they_agree(self) -> None:
        run_state_machine_as_test(Convergence, settings=settings(max_examples=200, stateful_step_count=30))
