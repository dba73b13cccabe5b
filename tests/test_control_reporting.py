"""What one process shows of itself: it is what its clients and servers see, and it adds up."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import msgspec
from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.trial.unittest import SynchronousTestCase

from rproxy.control.reporting import Reporter
from rproxy.figures import MOST_CLIENTS, Figures, PolicyFigures, ServerFigures, tallies
from rproxy.figures.merging import add_up
from rproxy.figures.tallies import BOUNDS, OTHERS, count_of
from rproxy.limits import Limits
from rproxy.policies import Peer, Policies, Policy
from rproxy.process.lag import Lag
from tests.links import SharedStore
from tests.memory import Client, Proxy, ProxyCase, encode, setup
from tests.test_admin_metrics import Page, text_of

POLICIES = ("111", "222", "333")
RULES = Policies(
    anonymous={
        "222": Policy(retry=True, description="retried"),
        "333": Policy(timeout=4.0, description="impatient"),
    }
)


def reporter_of(proxy: Proxy, number: int = 0) -> Reporter:
    """What a process has to show what a proxy in memory does."""
    assert proxy.replica is not None
    return Reporter(proxy.factory, proxy.replica, Lag(cast(IReactorTime, proxy.reactor)), number, "memory")


class ReportingCase(ProxyCase):
    """A test with a proxy that shows itself."""

    def setUp(self) -> None:
        self.world = self.make(RULES)

    def make(self, policies: Policies, limits: Limits | None = None) -> Proxy:
        """A proxy with its reporter; its counters must add up at the end."""
        proxy = Proxy(limits or Limits(), policies)
        proxy.store = SharedStore(proxy.reactor).link()
        proxy.replica = proxy.make_replica(proxy.store)
        proxy.factory.share(proxy.replica)
        self.addCleanup(proxy.check_end)
        self.reporter = reporter_of(proxy)
        return proxy

    def figures(self) -> Figures:
        """What is shown, once it was seen to add up."""
        figures = self.reporter.figures()
        check_sums(self, figures, self.world)
        return figures

    def policy(self, name: str = "111") -> PolicyFigures:
        """Of one policy."""
        (found,) = (each for each in self.figures().policies if each.name == name)
        return found

    def server(self, server_id: str = "100", policy: str = "111") -> ServerFigures:
        """Of one server."""
        (found,) = (each for each in self.policy(policy).servers if each.id == server_id)
        return found


def check_sums(case: SynchronousTestCase, figures: Figures, proxy: Proxy) -> None:
    """Everything that was received is somewhere, in the figures and in the metrics made of them."""
    counters = proxy.factory.counters
    case.assertEqual(figures.counters, counters.snapshot())
    case.assertEqual(figures.in_flight, proxy.factory.in_flight)
    read = Page(text_of(figures))
    whole = {name: read.get(f"rproxy_packets_{name}_total") for name in ("received", "acked", "client_gone", "retried")}
    refused = sum(read["rproxy_packets_refused_total"].values())
    in_flight = read.get("rproxy_packets_in_flight")
    case.assertEqual(whole, {name: getattr(counters, name) for name in whole})
    case.assertEqual((refused, in_flight), (counters.refused.total(), proxy.factory.in_flight))
    case.assertEqual(whole["received"], whole["acked"] + refused + whole["client_gone"] + in_flight)  # type: ignore[operator]  # None would differ before
    for policy in figures.policies:
        out = policy.acked + sum(policy.refused.values()) + policy.client_gone + policy.in_flight
        case.assertEqual(policy.received, out, policy.name)
        case.assertGreaterEqual(policy.in_flight, 0)
        case.assertEqual(policy.acked, count_of(policy.total_times))
        case.assertLessEqual(sum(server.acked for server in policy.servers), policy.acked)
        for name in ("received", "acked", "client_gone", "retried"):
            shown = read.get(f"rproxy_policy_packets_{name}_total", policy=policy.name)
            case.assertEqual(shown, getattr(policy, name))
        shown = read.get("rproxy_policy_packets_in_flight", policy=policy.name)
        case.assertEqual(shown, policy.in_flight)
        case.assertEqual(read.get("rproxy_policy_latency_seconds_count", policy=policy.name), policy.acked)


class PolicyTests(ReportingCase):
    """What is counted by policy."""

    def test_way(self) -> None:
        """From its coming to its answer."""
        self.world.register("100", "111", 5000, pipeline=4)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("a", "b")
        found = self.policy()
        self.assertEqual((found.received, found.acked, found.in_flight), (2, 0, 2))
        self.assertEqual(self.server().in_flight, 2)
        self.world.reactor.advance(0.3)
        server.connection.answer(1)
        found = self.policy()
        self.assertEqual((found.received, found.acked, found.in_flight), (2, 1, 1))
        self.assertEqual(found.total_times[bisect_left(BOUNDS, 0.3)], 1)
        self.assertAlmostEqual(found.total_times[-1], 0.3)
        self.assertEqual(self.server().times, found.total_times)

    def test_own_timeout(self) -> None:
        """Times are right whatever the policy's timeout is."""
        self.world.register("100", "333", 5000, pipeline=4)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("a", policy="333")
        self.world.reactor.advance(2.0)
        server.answer()
        self.assertAlmostEqual(self.policy("333").total_times[-1], 2.0)

    def test_shorter_timeout_meanwhile(self) -> None:
        """The sum of times never sinks, as that of a counter mustn't."""
        self.world.register("100", "111", 5000, pipeline=4)
        server = self.world.server(5000)
        self.world.client().ask("a")
        self.world.factory.reload(Policies(anonymous={"111": Policy(timeout=1.0)}))
        server.answer()
        found = self.policy()
        self.assertEqual((found.acked, found.total_times[-1]), (1, 0.0))

    def test_before_its_first_server(self) -> None:
        """What was refused then isn't its, however late the client hears of it."""
        self.world.register("100", "111", 5000, pipeline=4)
        server = self.world.server(5000)
        client = self.world.client()
        client.ask("a")
        client.ask("b", policy="222")
        self.world.register("200", "222", 5000, pipeline=4)
        server.answer()
        self.assertEqual(client.answers(), ["a by 100", "no-server/no"])
        self.assertEqual(self.policy("222").received, 0)

    def test_after_its_last_server(self) -> None:
        """What is refused then is."""
        self.world.register("100", "111", 5000, pipeline=4, lease=60).close()
        self.world.advance(30)
        self.assertEqual(self.world.factory.router.routes, {})
        self.world.client().ask("a")
        found = self.policy()
        self.assertEqual((found.received, found.refused, found.servers), (1, {"no-server": 1}, []))

    def test_stopping(self) -> None:
        """So is what is refused because the proxy stops."""
        self.world.register("100", "111", 5000, pipeline=4)
        self.world.factory.drain()
        self.world.client().ask("a")
        self.assertEqual(self.policy().refused, {"shutting-down": 1})
        self.assertEqual(self.figures().state, "draining")

    def test_client_gone_while_asked(self) -> None:
        """So is a packet whose policy is being asked about, and whose client leaves meanwhile."""
        self.world.register("100", "111", 5000, pipeline=4, lease=60).close()
        self.world.advance(30)
        asked: list[object] = []
        self.world.factory.router.ask = lambda request: not asked.append(request)  # type: ignore[func-returns-value]  # it is None, so this is True
        client = self.world.client()
        client.ask("a")
        self.assertEqual((self.policy().received, self.policy().in_flight), (1, 1))
        client.reset()
        self.world.factory.router.answer_asked(asked)  # type: ignore[arg-type]  # what was asked
        found = self.policy()
        self.assertEqual((found.received, found.client_gone, found.in_flight), (1, 1, 0))

    def test_forward(self) -> None:
        """Packets that a caller asks for are counted like a client's."""
        self.world.register("100", "111", 5000, pipeline=4)
        server = self.world.server(5000)
        forward = self.world.factory.router.forward
        raw = encode({"type": "0", "srcid": "1", "privPoliId": "111", "payload": "a"})
        answered, cancelled, late = forward(raw), forward(raw), forward(raw)
        self.world.pump()
        self.assertEqual({each.tally.name for each in self.world.factory.pending() if each.tally}, {"111"})
        cancelled.cancel()
        self.failureResultOf(cancelled)
        self.world.reactor.advance(0.2)
        server.connection.answer(1)
        self.successResultOf(answered)
        self.world.advance(31)
        self.failureResultOf(late)
        found = self.policy()
        self.assertEqual((found.received, found.acked, found.client_gone, found.refused), (3, 1, 1, {"timeout": 1}))
        self.assertAlmostEqual(found.total_times[-1], 0.2)


class BoundTests(ReportingCase):
    """More than are told apart."""

    def test_policies(self) -> None:
        """They are shown as one, with all their servers, and everything still adds up."""
        self.patch(tallies, "MOST_POLICIES", 1)
        for policy in POLICIES:
            self.world.register("100", policy, 5000, pipeline=4)
        server = self.world.server(5000)
        client = self.world.client()
        for policy in POLICIES:
            client.ask("a", policy=policy)
        server.answer()
        client.ask("b", policy="333")
        client.reset()
        names = [each.name for each in self.figures().policies]
        self.assertEqual(names, ["111", OTHERS])
        found = self.policy(OTHERS)
        self.assertEqual((found.received, found.acked, found.client_gone), (3, 2, 1))
        self.assertEqual(found.description, "")
        self.assertEqual([(each.policy, each.id, each.acked) for each in found.servers], [
            ("222", "100", 0), ("333", "100", 0)
        ])  # fmt: skip

    def test_servers(self) -> None:
        """Their policy has what they did; none of them shows what several did."""
        self.patch(tallies, "MOST_SERVERS", 1)
        for number in range(3):
            self.world.register(str(number), "111", 5000 + number, pipeline=4)
            self.world.server(5000 + number)
        client = self.world.client()
        client.ask(*"abc")
        for number in range(3):
            self.world.server_at(("10.0.0.5", 5000 + number)).answer()
        self.assertEqual(self.policy().acked, 3)
        self.assertEqual([each.acked for each in self.policy().servers], [1, 0, 0])


class ServerTests(ReportingCase):
    """What is shown of a server."""

    def test_up_and_down(self) -> None:
        """When it went down, why, and that it is back."""
        self.world.register("100", "111", 5000, pipeline=4, weight=3, lease=60)
        found = self.server()
        self.assertEqual((found.states, found.weight, found.pipeline, found.port), ({"up": 1}, 3, 4, 5000))
        self.assertEqual((found.lease_left, found.registrations, found.down_ago), (60.0, 1, None))
        self.world.client().ask("a")
        self.world.reactor.advance(0.25)
        found = self.server()
        self.assertEqual((found.states, found.downs, found.down_ago), ({"down": 1}, 1, 0.25))
        self.assertTrue(found.down_why)
        self.assertEqual([*found.reasons.values()], [1])
        self.world.server(5000)
        self.world.advance(1)
        found = self.server()
        self.assertEqual((found.states, found.connections, found.reasons), ({"up": 1}, 1, {}))

    def test_draining(self) -> None:
        """It is told by the server, or by an operator."""
        connection = self.world.register("100", "111", 5000, pipeline=4, lease=60)
        connection.send(setup("100", "111", 5000, pipeline=4, lease=60, drain=True))
        self.assertEqual(self.server().states, {"draining": 1})

    def test_lost(self) -> None:
        """What it never answered."""
        self.world.register("100", "111", 5000, pipeline=4)
        server = self.world.server(5000)
        self.world.client().ask("a", "b")
        server.connection.reset()
        self.assertEqual((self.server().lost, self.policy().refused), (2, {"server-lost": 2}))

    def test_comes_back(self) -> None:
        """It goes on where it was."""
        for _ in range(2):
            connection = self.world.register("100", "111", 5000, pipeline=4, lease=60)
            server = self.world.server(5000)
            self.world.client().ask("a")
            server.answer()
            connection.close()
        self.world.register("100", "111", 5000, pipeline=4, lease=60)
        self.assertEqual((self.server().acked, self.server().registrations), (2, 3))

    def test_registrations(self) -> None:
        """They are those that setup packets made, as of the whole proxy; to drain, or to be resumed, is none."""
        terms: dict[str, Any] = {"pipeline": 4, "lease": 60}
        connection = self.world.register("100", "111", 5000, **terms)
        connection.send(setup("100", "111", 5000, weight=2, **terms))
        connection.send(setup("100", "111", 5000, weight=2, **terms))
        router, registry = self.world.factory.router, self.world.factory.registry
        [registration] = registry.standing
        router.drain(registration.key, registration)
        router.resume(registration.key, registration)
        connection.send(setup("100", "111", 5000, weight=2, drain=True, **terms))
        self.assertEqual((self.server().registrations, self.figures().counters["registered"]), (2, 2))


class ClientTests(ReportingCase):
    """Which clients take up most."""

    def clients(self) -> list[tuple[object, ...]]:
        """What is shown of each address."""
        shown = self.figures()
        self.assertEqual(shown.client_addresses, len(shown.clients))
        return [msgspec.structs.astuple(each) for each in shown.clients]

    def test_way(self) -> None:
        """From its connection to its answer and its end; whoever only registered is no client."""
        self.world.register("100", "111", 5000, lease=30.0, pipeline=4)
        server = self.world.server(5000)
        self.assertEqual(self.clients(), [])
        few, many = self.world.client("10.9.0.1"), self.world.client("2001:db8::7")
        self.world.client("2001:db8::8")
        self.assertEqual(self.clients(), [("2001:db8::/64", 2, 0, 0, 0, 0), ("10.9.0.1", 1, 0, 0, 0, 0)])
        few.ask("a", "b")
        size = self.world.factory.counters.bytes_received
        self.assertEqual(self.clients(), [("10.9.0.1", 1, size, 0, 0, 0), ("2001:db8::/64", 2, 0, 0, 0, 0)])
        server.connection.answer(1)
        self.assertEqual(self.clients()[0], ("10.9.0.1", 1, size // 2, 0, 0, 0))
        few.reset()
        many.reset()
        self.assertEqual(self.clients(), [("2001:db8::/64", 1, 0, 0, 0, 0)])

    def test_limits(self) -> None:
        """Who is held back, and who was refused."""
        self.world = self.make(RULES, Limits(rate_limit=1.0, max_clients_per_address=2))
        self.world.register("100", "111", 5000, pipeline=4)
        self.world.server(5000)
        first, second = (self.world.client("10.9.0.1") for _ in range(2))
        first.ask("a", "b")
        second.ask("c")
        self.world.client("10.9.0.1")
        ((address, connections, size, held_back, refused, _),) = self.clients()
        self.assertEqual((address, connections, held_back, refused), ("10.9.0.1", 2, 2, 1))
        self.assertGreater(cast(int, size), self.world.factory.counters.bytes_received - 1)

    def test_bounded(self) -> None:
        """However many addresses there are, and they are all counted."""
        for number in range(MOST_CLIENTS + 5):
            self.world.client(f"10.9.0.{number}")
        shown = self.figures()
        self.assertEqual((len(shown.clients), shown.client_addresses), (MOST_CLIENTS, MOST_CLIENTS + 5))


class ProcessTests(ReportingCase):
    """What is shown of the process."""

    def test_process(self) -> None:
        """How long it is there, and what it has."""
        self.world.client()
        self.world.reactor.advance(5)
        (found,) = self.figures().processes
        self.assertEqual((found.uptime, found.connections, found.number), (5.0, 1, 0))
        self.assertGreater(found.open_files, 2)
        self.assertIsNone(found.store.away)

    def test_open_files(self) -> None:
        """One more is one more."""
        before = self.figures().processes[0].open_files
        with Path(__file__).open("rb"):
            self.assertEqual(self.figures().processes[0].open_files, before + 1)

    def test_store_away(self) -> None:
        """Why, and for how long."""
        assert self.world.replica is not None
        self.world.replica.away, self.world.replica.away_since = "it is locked", self.world.reactor.seconds()
        self.world.reactor.advance(3)
        store = self.figures().processes[0].store
        self.assertEqual((store.away, store.away_for), ("it is locked", 3.0))


class ExplainTests(ReportingCase):
    """What would become of a packet."""

    def explain(self, policy: str = "111") -> str | None:
        return self.reporter.explain(policy, Peer("10.0.0.9")).refusal

    def test_limits_of_the_policy(self) -> None:
        """What would be refused is said in the words in which it then is; asking takes nothing of the limits."""
        rules = {"111": Policy(in_flight=1), "222": Policy(rate=1.0)}
        self.world = self.make(Policies(anonymous=rules))
        client = self.world.client()
        for policy, port in (("111", 5000), ("222", 5001)):
            self.world.register("100", policy, port, pipeline=4)
            self.world.server(port)
            self.assertEqual([self.explain(policy) for _ in range(3)], [None] * 3)
            client.ask("a", policy=policy)
            verdict = self.explain(policy)
            other = self.world.client()
            other.ask("b", policy=policy)
            (answer,) = other.take()
            self.assertEqual((answer["error"], answer["payload"]), ("overloaded", verdict))

    def test_refusals(self) -> None:
        """None if a server would have it; else why not."""
        self.assertIn("no server", self.explain() or "")
        self.world.register("100", "111", 5000, pipeline=4)
        self.assertIsNone(self.explain())
        self.world.client().ask("a")
        self.assertIn("wait for a server already", self.explain() or "")
        self.world.factory.gate.set_recording(False)
        self.assertIn("audit trail", self.explain() or "")
        self.assertEqual(self.figures().state, "refusing")
        self.world.factory.drain()
        self.assertIn("stopping", self.explain() or "")
        self.assertEqual(self.figures().state, "draining")

    def test_servers(self) -> None:
        """One by one, in the order of their registration."""
        self.world.register("200", "111", 5001, pipeline=4)
        self.world.register("100", "111", 5000, pipeline=4)
        self.world.server(5000)
        self.world.client().ask("a")
        found = self.reporter.explain("111", Peer("10.0.0.9")).servers
        self.assertEqual([each.server_id for each in found], ["200", "100"])
        self.assertIn("down", found[0].refusal or "")
        self.assertIsNone(found[1].refusal)


@define(eq=False)
class Watched:
    """A client whose packets and answers are counted by the test, by their policies."""

    client: Client
    sent: list[str] = field(factory=list)
    answered: int = 0


class Traffic:
    """Clients, servers and accidents, and what the clients see of it: the figures must say the same."""

    def __init__(self, proxy: Proxy, seed: int) -> None:
        self.proxy = proxy
        self.random = Random(seed)
        self.clients: list[Watched] = []
        self.received: Counter[str] = Counter()
        self.acked: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.gone: Counter[str] = Counter()
        for number, policy in enumerate(POLICIES * 2):
            self.register(number, policy)
            self.proxy.server(5000 + number)
            self.proxy.server(6000 + number)

    def register(self, number: int, policy: str) -> None:
        if number % 2:
            self.proxy.register(str(number), policy, 5000 + number, pipeline=4)
        else:
            self.proxy.register(str(number), policy, 5000 + number)

    def step(self) -> None:
        """Something happens."""
        kinds: list[tuple[Callable[[], object], float]] = [
            (self.ask, 8), (self.answer, 6), (self.connect, 2), (self.leave, 1), (self.lose, 1), (self.wait, 1),
            (self.toggle, 1), (self.come_back, 1), (self.move, 0.5), (self.reload, 0.5),
        ]  # fmt: skip
        (kind,) = self.random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
        kind()
        for watched in self.clients:
            self.read(watched)

    def connect(self) -> None:
        self.clients.append(Watched(self.proxy.client()))

    def ask(self) -> None:
        if not self.clients:
            return
        watched = self.random.choice(self.clients)
        policy = self.random.choice(POLICIES)
        count = self.random.randint(1, 6)
        watched.sent += [policy] * count
        self.received[policy] += count
        watched.client.ask(*map(str, range(count)), policy=policy)

    def read(self, watched: Watched) -> None:
        for answer in watched.client.answers():
            policy = watched.sent[watched.answered]
            watched.answered += 1
            code, is_error, _ = answer.partition("/")
            if is_error:
                self.refused[policy, code] += 1
            else:
                self.acked[policy] += 1

    def leave(self) -> None:
        if self.clients:
            watched = self.clients.pop(self.random.randrange(len(self.clients)))
            self.gone.update(watched.sent[watched.answered :])
            watched.client.reset()

    def answer(self) -> None:
        number = self.random.randrange(6)
        for port in 5000, 6000:
            self.proxy.server_at(("10.0.0.5", port + number)).answer()

    def lose(self) -> None:
        number = self.random.randrange(6)
        for port in 5000, 6000:
            for connection in self.proxy.server_at(("10.0.0.5", port + number)).open:
                connection.reset()

    def toggle(self) -> None:
        server = self.proxy.server_at(("10.0.0.5", 5000 + self.random.randrange(6)))
        self.random.choice([server.accept, server.refuse, server.hang])()

    def wait(self) -> None:
        self.proxy.advance(self.random.choice([0.25, 1.0, 5.0, 31.0]))

    def come_back(self) -> None:
        number = self.random.randrange(6)
        self.register(number, (POLICIES * 2)[number])

    def move(self) -> None:
        """A server is replaced by one elsewhere, which the next that comes back replaces."""
        number = self.random.randrange(6)
        self.proxy.register(str(number), (POLICIES * 2)[number], 6000 + number, pipeline=4)

    def reload(self) -> None:
        """A policy is there no more, or all are again."""
        gone = self.random.choice([*POLICIES, "", ""])
        rules = {name: RULES.get(name) or Policy() for name in POLICIES if name != gone}
        self.proxy.factory.reload(Policies(by_name=rules))
        self.proxy.pump()

    @property
    def in_flight(self) -> Counter[str]:
        return Counter(policy for watched in self.clients for policy in watched.sent[watched.answered :])


class AgreementTests(ReportingCase):
    """The figures say what the clients see."""

    def test_traffic(self) -> None:
        """Whatever happens, at any time, for the whole and for each policy."""
        seen: Counter[str] = Counter()
        for seed in range(8):
            self.world = self.make(RULES)
            traffic = Traffic(self.world, seed)
            for _ in range(120):
                traffic.step()
                self.compare(traffic, self.figures())
            counters = self.world.factory.counters
            seen.update(counters.refused)
            seen.update(retried=counters.retried, client_gone=counters.client_gone, swallowed=counters.swallowed)
        # It was all there.
        kinds = ("timeout", "server-lost", "no-server", "retried", "client_gone", "swallowed")
        self.assertEqual([kind for kind in kinds if not seen[kind]], [])

    def compare(self, traffic: Traffic, figures: Figures) -> None:
        self.assertEqual([each.name for each in figures.policies], [*POLICIES])
        for policy in figures.policies:
            name = policy.name
            codes = {code: count for (each, code), count in traffic.refused.items() if each == name}
            found = (policy.received, policy.acked, policy.refused, policy.client_gone, policy.in_flight)
            seen = (traffic.received[name], traffic.acked[name], codes, traffic.gone[name], traffic.in_flight[name])
            self.assertEqual(found, seen, name)
        counters = self.world.factory.counters
        self.assertEqual(sum(each.received for each in figures.policies), counters.received)
        self.assertEqual(sum(each.acked for each in figures.policies), counters.acked)
        self.assertEqual(sum(each.retried for each in figures.policies), counters.retried)
        self.assertEqual(add_up(each.refused for each in figures.policies), counters.refused)
        servers = self.world.factory.counters.tallies.servers.values()
        self.assertEqual(sum(count_of(server.total_times.sort()) for server in servers), counters.acked)
