"""Tests of :mod:`tests.chaos.agreement`: it finds each disagreement in views made up for it, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import msgspec
from attrs import evolve

from rproxy.admin.metrics import make_metrics
from rproxy.figures import Figures as Shown
from rproxy.figures import PolicyFigures, ProcessFigures, ServerFigures, StoreFigures
from rproxy.figures.counters import Counters
from rproxy.figures.tallies import BOUNDS, observe
from tests.chaos import agreement, comparing
from tests.chaos.clients import encode
from tests.chaos.history import End, Reading
from tests.chaos.oracle import Seen
from tests.chaos.plan import UNSERVED, Fault
from tests.chaos.test_oracle import BEGAN, PORTS, SERVERS, HistoryCase
from tests.chaos.views import Figures, Views


def server_of(policy: PolicyFigures, server_id: str) -> ServerFigures:
    """A server in the figures of its policy."""
    [found] = [each for each in policy.servers if each.id == server_id]
    return found


class AgreementTests(HistoryCase):
    """That history, and what a proxy shows that counted it rightly; each test then changes what it is about."""

    def setUp(self) -> None:
        super().setUp()
        counters = Counters(received=8, acked=8, registered=3, accepted=4)
        counters.bytes_received = sum(
            len(encode(packet.draft)) for each in self.history.connections for packet in each.packets
        )
        self.shown = Shown(
            version="1.2.3",
            state="ready",
            counters=counters.snapshot(),
            in_flight=0,
            policies=[self.make_policy("111", "s1", "s2"), self.make_policy("222", "s3")],
            processes=[
                ProcessFigures(
                    number=0,
                    pid=42,
                    uptime=10.0,
                    connections=2,
                    open_files=20,
                    max_open_files=1024,
                    store=StoreFigures(name="memory"),
                )
            ],
        )
        for server_id, number in ("s1", 4), ("s2", 2), ("s3", 2):
            self.acknowledged(server_id, number)
        begun = msgspec.structs.replace(self.shown, counters=Counters().snapshot(), policies=[])
        self.history.readings = [Reading(BEGAN, 0, msgspec.to_builtins(begun))]

    # Making it up.

    def make_policy(self, name: str, *server_ids: str) -> PolicyFigures:
        """A policy with servers, and nothing counted yet."""
        servers = [self.make_server(name, server_id) for server_id in server_ids]
        return PolicyFigures(name=name, servers=servers)

    def make_server(self, policy: str, server_id: str) -> ServerFigures:
        """A server that is up."""
        [planned] = [each for each in SERVERS if each.server_id == server_id]
        return ServerFigures(
            policy=policy,
            id=server_id,
            host="127.0.0.1",
            port=PORTS[server_id],
            states={"up": 1},
            weight=1,
            share=1.0,
            pipeline=planned.pipeline or None,
            connections=1,
            in_flight=0,
            lease_left=2.5 if planned.lease else None,
            registrations=1,
        )

    def acknowledged(self, server_id: str, number: int) -> None:
        """Count packets for a server and its policy."""
        [policy] = [each for each in self.shown.policies if any(one.id == server_id for one in each.servers)]
        server = server_of(policy, server_id)
        policy.received += number
        policy.acked += number
        server.acked += number
        for _ in range(number):
            observe(policy.total_times, 0.25)
            observe(server.total_times, 0.25)
            observe(server.times, 0.125)

    def counters(self, **changes: Any) -> None:
        """Add to what the whole proxy counted."""
        for name, value in changes.items():
            before: Any = self.shown.counters[name]
            self.shown.counters[name] = {**before, **value} if isinstance(value, dict) else before + value

    def figures(self) -> Figures:
        """What the API answers."""
        return msgspec.json.decode(msgspec.json.encode(self.shown))  # type: ignore[no-any-return]

    def views(self) -> Views:
        """All views, of the figures that there are now."""
        metrics = b"".join(make_metrics(self.shown)).decode()
        before, status, stream, after = (self.figures() for _ in range(4))
        servers = [server for policy in self.figures()["policies"] for server in policy["servers"]]
        return Views(before, metrics, status, servers, stream, after)

    def assert_found(self, *rules: str, views: Views | None = None) -> None:
        """Check that these are broken."""
        self.history.views = views or self.views()
        violations = agreement.judge(self.history)

        self.assertEqual({violation.rule for violation in violations}, {*rules}, violations)

    # All views.

    def test_all_well(self) -> None:
        """What is made up first agrees."""
        self.assert_found()

    def test_nobody_looked(self) -> None:
        """Then nothing is known."""
        self.assertEqual([each.rule for each in agreement.judge(self.history)], ["vacuous"])

    def test_bounds(self) -> None:
        """They are the proxy's, said again."""
        self.assertEqual(comparing.BOUNDS, BOUNDS)

    def test_each_number_of_each_view(self) -> None:
        """Whichever is another one in whichever view is found, but for what goes on."""
        views = self.views()
        for name in ("before", "status", "stream", "servers"):
            numbers = [*_numbers(getattr(views, name))]
            self.assertGreater(len(numbers), 20)
            for path in numbers:
                if path[-1] in ("uptime", "open_files", "lag", "max_lag", "lease_left", "down_ago", "share"):
                    continue
                changed = deepcopy(getattr(views, name))
                _increase(changed, path)
                with self.subTest(view=name, path=path):
                    self.assertEqual(len([*comparing.differences(evolve(views, **{name: changed}))]), 1)

    def test_each_line_of_metrics(self) -> None:
        """Whichever says something else, is missing or is too many is found."""
        views = self.views()
        lines = views.metrics.splitlines()
        for place, line in enumerate(lines):
            name = line.partition("{")[0]
            if line.startswith("#") or name in comparing.MOVING:
                continue
            text, _, value = line.rpartition(" ")
            for instead in (f"{text} {float(value) + 1}", ""):
                metrics = "\n".join([*lines[:place], *filter(None, [instead]), *lines[place + 1 :], ""])
                with self.subTest(line=line, instead=instead):
                    self.assert_found("views differ", views=evolve(views, metrics=metrics))
        more = views.metrics + "# TYPE rproxy_more gauge\nrproxy_more{} 1\n"
        self.assert_found("views differ", views=evolve(views, metrics=more))

    def test_moving_lines(self) -> None:
        """They are there, and what only grows is between what it was before and after."""
        views = self.views()
        for name in ("rproxy_process_uptime_seconds", "rproxy_server_lease_left_seconds"):
            lines = [line for line in views.metrics.splitlines() if not line.startswith(f"{name}{{")]
            self.assert_found("views differ", views=evolve(views, metrics="\n".join([*lines, ""])))
        self.shown.processes[0].uptime += 1
        later = b"".join(make_metrics(self.shown)).decode()
        self.assert_found("views differ", views=evolve(views, metrics=later))
        self.assert_found(views=evolve(views, metrics=later, after=self.figures()))

    def test_log(self) -> None:
        """It says in the end what was shown."""
        self.count(9, 8, 1, 0)

        self.assert_found("views differ")

    # Sums.

    def test_sums(self) -> None:
        """Of the whole proxy, and of each policy; no part is less than nothing."""
        self.shown.policies[0].received += 1
        self.counters(received=1)
        self.count(9, 8, 0, 0)
        self.assert_found("sums", "not what clients saw")
        self.shown.policies[0].in_flight = self.shown.in_flight = -1
        self.shown.policies[0].client_gone = 2
        self.counters(client_gone=2)
        self.count(9, 8, 0, 2)
        self.assert_found("sums", "left", "not what clients saw")

    def test_parts(self) -> None:
        """ACKs of servers, times, violations, registrations and retries."""
        self.shown.policies[0].servers[0].acked -= 1
        self.assert_found("sums", "not what clients saw")
        self.shown.policies[0].servers[0].acked += 1
        for change in ({"violations": 1}, {"registered": 1}, {"retried": 1}):
            self.counters(**change)
            self.assert_found("sums")
            self.counters(**{name: -number for name, number in change.items()})
        self.assert_found()

    def test_more_by_policy(self) -> None:
        """Policies together have no more than the proxy."""
        self.shown.policies[0].refused = {"timeout": 1}
        self.shown.policies[0].received += 1
        self.counters(received=1, client_gone=1)
        self.count(9, 8, 0, 1)
        self.assert_found("sums", "not what clients saw")

    def test_left(self) -> None:
        """Nothing is in flight or waits when all is quiet, and all are there."""
        policy = self.shown.policies[0]
        for part, name in (policy, "waiting"), (policy.servers[0], "in_flight"):
            setattr(part, name, 1)
            self.assert_found("left")
            setattr(part, name, 0)
        self.shown.missing = [2]
        self.assert_found("left")

    def test_nobody_looked_meanwhile(self) -> None:
        """Something may have sunk."""
        self.history.readings = []
        self.assert_found("vacuous")

    def test_readings(self) -> None:
        """Nothing sinks from one to the next of a life, and each adds up."""
        fewer = self.figures()
        self.send_one_more()
        more = self.figures()
        readings = [Reading(BEGAN + 1, 0, fewer), Reading(BEGAN + 2, 0, more)]
        self.history.readings = readings
        self.assert_found()
        self.history.readings = [*readings, Reading(BEGAN + 3, 0, fewer)]
        self.assert_found("sank")
        self.history.proxies.append(self.history.proxies[0])
        self.history.readings = [Reading(BEGAN + 1, 0, more), Reading(BEGAN + 2, 1, fewer)]
        self.assertNotIn("sank", [each.rule for each in agreement.readings(Seen(self.history))])
        fewer["in_flight"] = 1
        self.assertIn("sums", [each.rule for each in agreement.readings(Seen(self.history))])

    def send_one_more(self) -> None:
        """A client sends one more packet, and it is acknowledged."""
        packet = self.send(self.first)
        self.receive(packet, "s1")
        self.acknowledge(self.first, packet, "s1")
        self.acknowledged("s1", 1)
        self.counters(received=1, acked=1, bytes_received=len(encode(packet.draft)))
        self.count(9, 9, 0, 0)

    # What happened.

    def test_servers(self) -> None:
        """Those that there are, where they are, with their leases' connections."""
        server = self.shown.policies[0].servers[1]
        for name, wrong in ("port", 5009), ("pipeline", None), ("lease_left", None):
            right = getattr(server, name)
            setattr(server, name, wrong)
            self.assert_found("servers")
            setattr(server, name, right)
        self.shown.processes[0].connections = 3
        self.assert_found("servers")

    def test_clients(self) -> None:
        """ACKs by server and errors by code are what clients got."""
        first = self.first.answers[0].fields
        first["srcid"] = "s2"
        self.assert_found("not what clients saw")
        first["srcid"] = "s1"
        first.update(type="3", error="timeout")
        self.assert_found("not what clients saw")

    def test_unserved(self) -> None:
        """What came for a policy without servers is the whole proxy's only."""
        packet = self.send(self.first, UNSERVED)
        self.refuse(self.first, packet, "no-server", "no")
        self.counters(received=1, refused={"no-server": 1}, bytes_received=len(encode(packet.draft)))
        self.count(9, 8, 1, 0)
        self.assert_found()

    def test_client_that_left(self) -> None:
        """Its packets may be counted in whatever way, or not at all."""
        connection = self.connection("c1")
        connection.end = End.LEFT
        self.send(connection)
        self.assert_found()
        self.shown.policies[0].received += 1
        self.shown.policies[0].client_gone += 1
        self.counters(received=1, client_gone=1)
        self.count(9, 8, 0, 1)
        self.assert_found()

    def test_journals(self) -> None:
        """No more is acknowledged than was received, and all that was received is counted."""
        lost = self.history.receipts.pop(0)
        self.assert_found("not what servers saw")
        self.history.receipts += [lost, lost]
        self.assert_found("not what servers saw")

    def test_lost(self) -> None:
        """A packet that was refused for a lost server was lost by one."""
        packet = self.send(self.first)
        self.refuse(self.first, packet, "server-lost", "unknown")
        self.shown.policies[0].received += 1
        self.shown.policies[0].refused = {"server-lost": 1}
        self.counters(received=1, refused={"server-lost": 1}, bytes_received=len(encode(packet.draft)))
        self.count(9, 8, 1, 0)
        self.assert_found("sums")
        self.shown.policies[0].servers[0].lost = 1
        self.assert_found()

    # A worker that was killed.

    def test_worker_that_was_killed(self) -> None:
        """What it counted since it was heard of last is missing, and what it had then is counted as gone."""
        self.have(workers=2)
        self.shown.processes[0].number = 1
        connection = self.connection("c1")
        connection.end, connection.ended_at = End.CUT, BEGAN + 8.5
        for server_id in ("s1", "s1", "s2"):
            packet = self.send(connection)
            self.receive(packet, server_id)
            self.acknowledge(connection, packet, server_id)
        self.strike_worker(Fault.WORKER_KILL, connection)
        self.history.incidents[-1].ended = BEGAN + 8.5
        self.acknowledged("s1", 1)
        self.shown.policies[0].received += 1
        self.shown.policies[0].client_gone += 1
        self.counters(received=2, acked=1, client_gone=1)
        self.assert_found()
        # But nothing of the others.
        self.counters(received=-3, acked=-3)
        self.assert_found("sums", "not what clients saw", "views differ")


def _numbers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give where in a value of JSON there is a number; of lists, where in their first and last item."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _numbers(each, (*path, key))
    elif isinstance(value, list):
        for place in {0, len(value) - 1} if value else ():
            yield from _numbers(value[place], (*path, place))
    elif isinstance(value, int | float):
        yield path


def _increase(value: Any, path: tuple[Any, ...]) -> None:
    *way, last = path
    for key in way:
        value = value[key]
    value[last] += 1
