"""Whatever happens, in whatever order: what docs/protocol.rst promises holds after each step.

A machine makes clients come, ask, break their streams, fall silent and go; servers register, drain, lose their leases,
refuse, hang, answer, answer wrongly and break; policies change; and time pass. It knows what is registered, what is
allowed and what was asked, and after each step it compares that with all that arrived anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from attrs import asdict, define, evolve, field, frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from rproxy.health import LAST_PROBE
from rproxy.limits import CLASSIC_CONNECTIONS, CLASSIC_READ, Limits
from rproxy.policies import ClientRule, Policies, Policy, ServerRule, digest
from rproxy.process.sweeping import SWEEP
from tests.memory import BIG, Client, MemoryServerHost, Packet, Proxy, ServerConnection, ack, data, encode, setup
from tests.strategies import spaces

POLICIES = ("111", "222")
#: Each port's server has one id; two of them share theirs, so that a key moves from one address to the other.
IDS = {5000: "1", 5001: "2", 5002: "1"}
CLIENTS = 6
#: What an error may say of a packet that no server got.
UNDELIVERED = {"no-server", "overloaded", "timeout", "too-large", "forbidden"}
LIMITS = Limits(
    timeout=4,
    queue_timeout=3,
    connect_timeout=5,
    max_fails=2,
    max_timeouts=2,
    slow_start=5,
    linger=1,
    idle_timeout=100_000,
    packet_timeout=100_000,
    client_packets=5,
    queue_packets=8,
)
#: The policy whose packets may come to a second server.
RETRIED = "222"
#: What is allowed in the beginning and in the end: everything.
EVERYTHING = Policies(anonymous={RETRIED: Policy(retry=True)})


@define(eq=False)
class Asker:
    """A client, what it asked for, and how much of that is answered."""

    peer: Client
    client_id: str
    #: Payload by payload; None for what was no packet.
    asked: list[str | None] = field(factory=list)
    answered: int = 0
    #: It sent its end, or broke its stream.
    over: bool = False
    #: It broke its stream while it didn't read: it may not be waited for.
    deaf: bool = False
    #: The rest of a packet of which a part was sent.
    rest: bytes = b""

    @property
    def open(self) -> bool:
        """Whether it may send more."""
        return not (self.over or self.peer.closed or self.peer.gone)

    def end(self) -> None:
        """Its stream ends, maybe in the middle of a packet."""
        if self.rest and not self.over:
            self.asked[-1] = None
        self.over = True


@define
class Terms:
    """What a setup packet says beside where and what."""

    pipeline: int | None = None
    connections: int | None = None
    lease: int | None = None
    weight: int | None = None
    drain: bool | None = None
    token: str | None = None


@frozen
class Rule:
    """What a policies file says of a policy."""

    ids: frozenset[str] | None = None
    token: str | None = None
    #: Whether clients may ask for it.
    open: bool = True
    in_flight: int | None = None

    def allows(self, server_id: str, token: str | None) -> bool:
        """Whether such a server may serve it."""
        return (self.ids is None or server_id in self.ids) and self.token in {None, token}

    def policy(self, name: str) -> Policy:
        """As it is read from the file."""
        tokens = None if self.token is None else (digest(self.token) or b"",)
        clients = ClientRule() if self.open else ClientRule(())
        return Policy(
            servers=ServerRule(ids=self.ids, tokens=tokens),
            clients=clients,
            in_flight=self.in_flight,
            retry=name == RETRIED,
        )


@define
class Entry:
    """A registration as the machine knows it."""

    port: int
    terms: Terms
    #: Whose end is its end, and when it ends at the latest, if it was for a lease.
    owner: Client | None = None
    expires: float = 0.0


@define
class Place:
    """What the machine knows of one address."""

    server: MemoryServerHost
    #: The policies whose packets it may get.
    allowed: set[str] = field(factory=set)
    #: Whether it is a classic server by its latest registration, and was one by all before.
    classic: bool = True
    always_classic: bool = True
    #: The most that it ever asked for.
    depth: int = 1
    connections: int = 0
    #: What it asked for at last, and the connections from before, which may stay until they have their answers.
    terms: tuple[int | None, int | None] = None, None
    outdated: set[ServerConnection] = field(factory=set)
    #: How many packets were seen on each connection.
    seen: dict[ServerConnection, int] = field(factory=dict)


indices = st.integers(0, 999)
registrations = st.builds(
    Terms,
    pipeline=st.sampled_from([None, None, 1, 2, 3]),
    connections=st.sampled_from([None, 1, 2]),
    lease=st.sampled_from([None, 3, 30, 30, 30]),
    weight=st.sampled_from([None, None, 2]),
    drain=st.sampled_from([None] * 5 + [True]),
    token=st.sampled_from([None, "a", "a", "b"]),
)
#: What a policies file says of each policy; one that it says nothing of doesn't exist.
rules = st.dictionaries(
    st.sampled_from(POLICIES),
    st.builds(
        Rule,
        ids=st.sampled_from([None, None, {"1"}, {"2"}, set[str]()]).map(
            lambda ids: None if ids is None else frozenset(ids)
        ),
        token=st.sampled_from([None, None, "a", "b"]),
        open=st.integers(0, 7).map(bool),
        in_flight=st.sampled_from([None, None, 1, 3]),
    ),
)


@implementer(ILogObserver)
class Traffic(RuleBasedStateMachine):
    """One proxy, two policies, three addresses, and whoever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.proxy = Proxy(LIMITS, EVERYTHING)
        #: The policies file; None without one.
        self.file: dict[str, Rule] | None = None
        self.places = {port: Place(self.proxy.server(port)) for port in IDS}
        self.entries: dict[tuple[str, str], Entry] = {}
        self.leases: list[Client] = []
        #: All that ever came, and those who may still send.
        self.askers: list[Asker] = []
        self.present: list[Asker] = []
        #: Of each payload: its packet, and how often it arrived at a server.
        self.packets: dict[str, Packet] = {}
        self.arrived: dict[str, int] = {}
        self.undelivered: set[str] = set()
        #: How many more steps happen before the proxy sees what they did.
        self.together = 0
        self.moment = ExitStack()
        self.errors: list[LogEvent] = []
        globalLogPublisher.addObserver(self)

    def __call__(self, event: LogEvent) -> None:
        """Remember what went wrong where nobody could be told but the log."""
        if "log_failure" in event:
            self.errors.append(event)

    # Clients.

    @initialize(terms=st.lists(st.tuples(st.sampled_from(POLICIES), registrations), min_size=1, max_size=4))
    def begins(self, terms: list[tuple[str, Terms]]) -> None:
        """Not with nothing: a proxy that nobody serves refuses everything."""
        for port, (policy, term) in zip(IDS, terms, strict=False):
            self.registers(port, policy, term, renews=False)

    def asker(self, index: int) -> Asker:
        """Some client; a new one in the place of one that can send no more."""
        index %= CLIENTS
        while index >= len(self.present):
            self.present.append(self.new_asker())
        if not self.present[index].open:
            self.present[index] = self.new_asker()
        return self.present[index]

    def new_asker(self) -> Asker:
        asker = Asker(self.proxy.client(), f"c{len(self.askers)}")
        self.askers.append(asker)
        return asker

    def packet_of(self, asker: Asker, policy: str, long: bool) -> bytes:
        """A packet like no other."""
        payload = f"p{len(self.packets)}" + ("x" * CLASSIC_READ if long else "")
        self.packets[payload] = data(payload, policy, asker.client_id)
        asker.asked.append(payload)
        return encode(self.packets[payload])

    @rule(
        index=indices,
        policies=st.lists(st.sampled_from((*POLICIES * 4, "333")), min_size=1, max_size=4),
        long=st.integers(0, 7).map(lambda number: number == 0),
        cut=st.integers(0, 80),
        space=spaces.map(str.encode),
    )
    def asks(self, index: int, policies: list[str], long: bool, cut: int, space: bytes) -> None:
        """Several packets in one segment; sometimes the last one's end is missing for the moment."""
        asker = self.asker(index)
        stream = asker.rest + space.join(self.packet_of(asker, policy, long) for policy in policies)
        asker.rest = stream[len(stream) - cut :] if cut < 60 and cut < len(stream) else b""
        asker.peer.send(stream[: len(stream) - len(asker.rest)])

    @rule(
        index=indices,
        what=st.sampled_from(
            ["asks_the_rest"] * 3
            + [
                "stops_reading",
                "reads_again",
                "sends_no_packet",
                "breaks_its_stream",
                "shuts_its_side",
                "closes",
                "goes",
            ]
        ),
    )
    def client_does(self, index: int, what: str) -> None:
        """Something else than to ask."""
        getattr(self, what)(self.asker(index))

    def asks_the_rest(self, asker: Asker) -> None:
        if asker.rest:
            rest, asker.rest = asker.rest, b""
            asker.peer.send(rest)

    def stops_reading(self, asker: Asker) -> None:
        asker.peer.reads = False

    def reads_again(self, asker: Asker) -> None:
        asker.peer.read_again()

    def sends_no_packet(self, asker: Asker) -> None:
        """A well-formed object that is none: the connection goes on."""
        if not asker.rest:
            asker.asked.append(None)
            asker.peer.send(b'{"type": "17"}')

    def breaks_its_stream(self, asker: Asker) -> None:
        if not asker.rest:
            asker.asked.append(None)
            asker.over = True
            asker.deaf = not asker.peer.reads
            asker.peer.send(b"garbage")

    def shuts_its_side(self, asker: Asker) -> None:
        asker.end()
        asker.peer.half_close()

    def closes(self, asker: Asker) -> None:
        asker.end()
        asker.peer.close()

    def goes(self, asker: Asker) -> None:
        asker.peer.reset()

    # Servers register.

    @precondition(lambda self: not self.together)
    @rule(port=st.sampled_from(list(IDS)), policy=st.sampled_from(POLICIES), terms=registrations, renews=st.booleans())
    def registers(self, port: int, policy: str, terms: Terms, renews: bool) -> None:
        """Over a connection of its own, or over one that holds a lease on the key."""
        modern = asdict(terms, filter=lambda _, value: value is not None)
        key = policy, IDS[port]
        held = self.entries.get(key)
        owner = held.owner if held is not None and renews and held.port == port else None
        allowed = self.allows(key, terms)
        if allowed:
            self.note_terms(port, terms)
            entry = self.entries[key] = Entry(port, terms)
        if owner is not None:
            owner.send(setup(key[1], policy, port, **modern))
        else:
            owner = self.proxy.register(key[1], policy, port, **modern)
        refused = [answer["error"] for answer in owner.take() if answer["type"] == "3"]
        assert refused == ([] if allowed else ["forbidden"]), refused
        if not allowed:
            return
        if terms.lease is not None:
            entry.owner, entry.expires = owner, self.proxy.reactor.seconds() + terms.lease
            if owner not in self.leases:
                self.leases.append(owner)
        self.note_policies()

    def allows(self, key: tuple[str, str], terms: Terms) -> bool:
        """Whether such a server may serve such a policy, as the policies are now."""
        rule = Rule() if self.file is None else self.file.get(key[0])
        return rule is not None and rule.allows(key[1], terms.token)

    @rule(rules=st.none() | rules)
    def policies_change(self, rules: dict[str, Rule] | None) -> None:
        """What isn't allowed any more ends."""
        self.file = rules
        by_name = None if rules is None else {name: each.policy(name) for name, each in rules.items()}
        self.proxy.factory.reload(evolve(EVERYTHING, by_name=by_name))
        self.proxy.pump()
        self.entries = {key: entry for key, entry in self.entries.items() if self.allows(key, entry.terms)}
        self.note_policies()

    def note_terms(self, port: int, terms: Terms) -> None:
        place = self.places[port]
        place.classic = terms.pipeline is None
        place.always_classic &= place.classic
        place.depth = max(place.depth, terms.pipeline or 1)
        place.connections = max(place.connections, terms.connections or (CLASSIC_CONNECTIONS if place.classic else 1))
        if (terms.pipeline, terms.connections) != place.terms:
            place.terms = terms.pipeline, terms.connections
            place.outdated = set(place.server.connections)

    def note_policies(self) -> None:
        """What each address may get from now on: also what it might get before, while that may still be under way."""
        for port, place in self.places.items():
            if not self.together and all(connection.reads for connection in place.server.open):
                place.allowed.clear()
            live = (key for key, entry in self.entries.items() if entry.port == port and not entry.terms.drain)
            place.allowed.update(policy for policy, _ in live)

    @rule(
        index=indices,
        what=st.sampled_from(["accept"] * 4 + ["hang"] * 2 + ["refuse", "lease_ends"]),
        politely=st.booleans(),
    )
    def server_does(self, index: int, what: str, politely: bool) -> None:
        """Something about connections to come, or about the setup connection."""
        if what != "lease_ends":
            places = list(self.places.values())
            getattr(places[index % len(places)].server, what)()
        elif self.leases:
            self.lease_ends(self.leases[index % len(self.leases)], politely)

    @precondition(lambda self: not self.together)
    @rule(
        index=indices,
        port=st.sampled_from(list(IDS)),
        policies=st.sampled_from([POLICIES, POLICIES[::-1]]),
        terms=registrations,
        politely=st.booleans(),
    )
    def changes_policy(self, index: int, port: int, policies: Sequence[str], terms: Terms, politely: bool) -> None:
        """A server that is being connected to, for a packet of the one policy, serves only the other from now on."""
        before, after = policies
        terms = evolve(terms, lease=30, drain=None)
        if not all(self.allows((policy, IDS[port]), terms) for policy in policies):
            return
        self.registers(port, before, terms, renews=False)
        self.places[port].server.hang()
        self.asks(index, [before], long=False, cut=80, space=b"")
        self.check_all()
        self.registers(port, after, terms, renews=False)
        self.check_all()
        owner = self.entries[before, IDS[port]].owner
        assert owner is not None
        self.lease_ends(owner, politely)

    def lease_ends(self, owner: Client, politely: bool) -> None:
        """A server closes its setup connection, or is gone."""
        self.leases.remove(owner)
        for key in [key for key, entry in self.entries.items() if entry.owner is owner]:
            del self.entries[key]
        if politely:
            owner.close()
        else:
            owner.reset()
        self.note_policies()

    # Servers answer, or do something else.

    def connections(self) -> list[ServerConnection]:
        """The connections to servers that both sides hold open."""
        return [connection for place in self.places.values() for connection in place.server.open]

    def asked_connections(self) -> list[ServerConnection]:
        """Those on which a packet isn't answered."""
        return [connection for connection in self.connections() if connection.unanswered]

    @precondition(lambda self: self.asked_connections())
    @rule(index=indices, count=st.integers(1, 5))
    def answers(self, index: int, count: int) -> None:
        connections = self.asked_connections()
        connections[index % len(connections)].answer(count)

    @precondition(lambda self: self.asked_connections())
    @rule()
    def all_answer(self) -> None:
        for place in self.places.values():
            place.server.answer()

    @precondition(lambda self: self.asked_connections())
    @rule(
        index=indices,
        what=st.sampled_from(
            ["answers_much", "answers_with_an_error", "answers_by_halves", "answers_wrongly", "answers_out_of_turn"]
        ),
        cut=st.integers(1, 80),
    )
    def server_answers_otherwise(self, index: int, what: str, cut: int) -> None:
        connections = self.asked_connections()
        getattr(self, what)(connections[index % len(connections)], cut)

    def answers_much(self, connection: ServerConnection, _: int) -> None:
        """So much that its client has to read it before more can come."""
        payload = connection.unanswered[0]["payload"]
        connection.answer(1, payload=f"{payload} by {BIG}")

    def answers_with_an_error(self, connection: ServerConnection, _: int) -> None:
        connection.answer(1, type="3", error="failed", delivered="unknown")

    def answers_by_halves(self, connection: ServerConnection, cut: int) -> None:
        """The first half and then the end."""
        connection.send(encode(ack(connection.unanswered[0], "1"))[:cut])
        connection.close()

    def answers_wrongly(self, connection: ServerConnection, cut: int) -> None:
        """The connection is closed, whatever else was on it."""
        packet = connection.unanswered[0]
        wrong: list[Packet | bytes] = [
            b"garbage",
            packet,
            ack(packet, "1", destid="nobody"),
            ack(packet, "nobody"),
            {**ack(packet, "1"), "type": "3", "error": "busy", "delivered": "no"},
        ]
        connection.send(wrong[cut % len(wrong)])
        if not self.together:
            assert connection.gone, "a wrong answer was taken"

    def answers_out_of_turn(self, connection: ServerConnection, _: int) -> None:
        """The second packet first, where that can be seen."""
        first, second = connection.unanswered[0], connection.unanswered[-1]
        if first["srcid"] != second["srcid"]:
            connection.send(ack(second, "1"), ack(first, "1"))

    @precondition(lambda self: self.connections())
    @rule(index=indices, what=st.sampled_from(["speaks_unasked", "closes", "goes", "stops_reading", "reads_again"]))
    def connection_does(self, index: int, what: str) -> None:
        """Something else than to answer."""
        connections = self.connections()
        connection = connections[index % len(connections)]
        match what:
            case "speaks_unasked":
                connection.send(ack(data("unasked", client_id="nobody"), "1"))
            case "closes":
                connection.close()
            case "goes":
                connection.reset()
            case "stops_reading":
                connection.reads = False
            case "reads_again":
                connection.read_again()

    # Time, and what happens at the same time.

    @precondition(lambda self: not self.together)
    @rule(seconds=st.sampled_from([0.25] * 4 + [0.5, 1.0, 1.0, 2.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        for _ in range(round(seconds / SWEEP)):
            self.proxy.advance(SWEEP)
            self.check_all()
            now = self.proxy.reactor.seconds()
            for key in [key for key, entry in self.entries.items() if entry.owner is not None and entry.expires <= now]:
                del self.entries[key]
            self.note_policies()

    @precondition(lambda self: not self.together and self.connections())
    @rule(steps=st.integers(2, 5))
    def much_happens_together(self, steps: int) -> None:
        """What the next steps do is seen at once."""
        self.together = steps
        self.moment.enter_context(self.proxy.at_once())

    def is_seen(self) -> None:
        self.together = 0
        self.moment.close()
        self.check_all()
        self.note_policies()

    # What holds.

    @invariant()
    def check(self) -> None:
        """After each step, or after all of those that happen together."""
        if not self.together:
            self.check_all()
            return
        self.together -= 1
        if not self.together:
            self.is_seen()

    def check_all(self) -> None:
        assert not self.errors, [event["log_failure"].getTraceback() for event in self.errors]
        for place in self.places.values():
            self.check_place(place)
        for asker in self.askers:
            self.check_answers(asker)
        self.proxy.check_counters()
        assert all(client.in_flight <= LIMITS.client_packets for client in self.proxy.factory.clients)

    def check_place(self, place: Place) -> None:
        """No packet at a server that isn't registered for its policy, none changed, and none twice."""
        for connection in place.server.connections:
            packets = connection.packets
            for packet in packets[place.seen.get(connection, 0) :]:
                payload = packet["payload"]
                assert packet == self.packets[payload], "a packet was changed"
                assert packet["privPoliId"] in place.allowed, f"{payload} came to a server of {place.allowed}"
                times = self.arrived[payload] = self.arrived.get(payload, 0) + 1
                assert times <= 1 + (packet["privPoliId"] == RETRIED), f"{payload} was written {times} times"
                assert payload not in self.undelivered, f"{payload} was delivered after its client was told otherwise"
                assert len(payload) < CLASSIC_READ or not place.classic or not connection.reads, "longer than it reads"
            place.seen[connection] = len(packets)
            assert len(connection.unanswered) <= place.depth, "more than it takes"
        wanted = [connection for connection in place.server.open if connection not in place.outdated]
        assert len(wanted) <= place.connections, "more connections than wanted"
        # One of a server that is down is probed for, whatever it has.
        free = place.connections - len(wanted)
        assert len(place.server.attempts) <= max(1, free), "more attempts than connections that are wanted"
        if place.always_classic:
            assert len(place.server.open) <= CLASSIC_CONNECTIONS, "more connections than it listens for"

    def check_answers(self, asker: Asker) -> None:
        """Each answer is the one to the next packet, and there is none to anything else."""
        for answer in asker.peer.take():
            assert asker.answered < len(asker.asked), f"{answer} answers nothing"
            payload = asker.asked[asker.answered]
            asker.answered += 1
            if payload is None:
                assert answer["error"] == "bad-packet"
                continue
            assert answer["destid"] == asker.client_id
            if answer["type"] == "2" or answer["error"] == "failed":
                assert answer["srcid"] in IDS.values()
                assert answer["payload"].startswith(f"{payload} by "), f"{answer['payload']} answers {payload}"
            elif answer["delivered"] == "no":
                assert answer["error"] in UNDELIVERED
                assert payload not in self.arrived, f"{payload} was delivered"
                self.undelivered.add(payload)
            else:
                # Whether it arrived somewhere before can't be asked: who goes takes along what it didn't read.
                retried = self.packets[payload]["privPoliId"] == RETRIED
                assert answer["error"] in {"timeout", "server-lost"} | (UNDELIVERED if retried else set())

    def teardown(self) -> None:
        """After enough time nothing is in flight and nothing waits; and after that, all is as in the beginning."""
        try:
            if self.together:
                self.is_seen()
            self.policies_change(None)
            for asker in self.askers:
                asker.peer.read_again()
            for _ in range(50):
                self.time_passes(3.0)
                if not self.proxy.factory.in_flight and all(asker.peer.is_read_from for asker in self.askers):
                    break
            self.check_settled()
            self.check_recovered()
        finally:
            globalLogPublisher.removeObserver(self)

    def check_settled(self) -> None:
        """Each packet of a client that is still there has its answer."""
        assert self.proxy.factory.in_flight == 0
        for asker in self.askers:
            if not (asker.peer.closed or asker.deaf):
                whole = len(asker.asked) - bool(asker.rest and not asker.over)
                assert asker.answered == whole, f"{asker.asked[asker.answered : whole]} had no answer"
        self.time_passes(LIMITS.timeout)
        assert not self.asked_connections(), "a server is waited for that was given up long ago"

    def check_recovered(self) -> None:
        """Whoever comes now is served, by those who are registered, and by those who register now."""
        for place in self.places.values():
            place.server.accept()
        for connection in self.connections():
            connection.read_again()
        self.time_passes(LAST_PROBE * 1.25)
        self.assert_served(sorted({key[0] for key, entry in self.entries.items() if not entry.terms.drain}))
        for port, policy in zip((5000, 5001), POLICIES, strict=True):
            self.registers(port, policy, Terms(pipeline=1), renews=False)
        self.assert_served(POLICIES)

    def assert_served(self, policies: Sequence[str]) -> None:
        """A packet for each of these policies gets its ACK."""
        asker = self.new_asker()
        for policy in policies:
            asker.peer.send(self.packet_of(asker, policy, long=False))
        answers: list[Packet] = []
        for _ in range(round(LIMITS.queue_timeout / SWEEP)):
            self.all_answer()
            answers += asker.peer.take()
            self.proxy.advance(SWEEP)
        assert [answer["type"] for answer in answers] == ["2"] * len(policies), answers


class InvariantTests(SynchronousTestCase):
    """The machine, run many times."""

    def test_traffic(self) -> None:
        """The promises hold whatever happens."""
        run_state_machine_as_test(Traffic, settings=settings(stateful_step_count=100))
