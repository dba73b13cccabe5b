"""What Prometheus is told, read by its own parser."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any
from unittest import skipUnless

from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from rproxy.admin.exposition import ROWS
from rproxy.admin.metrics import PARTS, STATES, make_metrics
from rproxy.figures import ClientFigures, Figures, PolicyFigures, ProcessFigures, ServerFigures, StoreFigures
from rproxy.figures.counters import Counters
from rproxy.figures.tallies import BOUNDS, new_times, observe
from tests.support import PATIENCE

PROMTOOL = shutil.which("promtool")
NEEDS_PROMTOOL = skipUnless(PROMTOOL, "promtool isn't installed: it is in Debian's package prometheus")

#: What a stranger may call a policy or a server.
HOSTILE = (
    'a"b', "a\\", "a\nb", '\\"', "\\n", 'a"} 1\nrproxy_violations_total 7', "{}", "a,b=", " ", "é€😀", "\r", "\x00",
    "\u2028", "\x85", "#", "x" * 256,
)  # fmt: skip


def server(policy: str = "111", server_id: str = "100", **figures: Any) -> ServerFigures:
    """A server's figures."""
    how: Any = {"host": "10.0.0.5", "port": 5000, "states": {"up": 1}, "weight": 1, "share": 1.0, "pipeline": 4}
    return ServerFigures(policy=policy, id=server_id, **{**how, "connections": 1, "in_flight": 0, **figures})


def process(number: int = 0, **figures: Any) -> ProcessFigures:
    """A process's figures."""
    how: Any = {"pid": 42, "uptime": 60.5, "connections": 3, "open_files": 20, "max_open_files": 1024}
    return ProcessFigures(number=number, **{**how, "store": StoreFigures(name="memory"), **figures})


def figures(*policies: PolicyFigures, counters: Counters | None = None, **changes: Any) -> Figures:
    """A proxy's figures."""
    how: Any = {"version": "1.2.3", "state": "ready", "in_flight": 0, "processes": [process()]}
    snapshot = (counters or Counters()).snapshot()
    return Figures(counters=snapshot, policies=list(policies), **{**how, **changes})


def full_figures() -> Figures:
    """Figures that have something for every metric."""
    counters = Counters()
    counters.refused["timeout"] = counters.setup_refused["forbidden"] = 1
    policy = PolicyFigures(name="111", refused={"timeout": 1}, servers=[server(lease_left=3.5)])
    return figures(policy, counters=counters)


def text_of(shown: Figures) -> bytes:
    """What Prometheus is told of them, in one."""
    return b"".join(make_metrics(shown))


class Page:
    """What was read."""

    def __init__(self, text: bytes) -> None:
        self.text = text.decode("utf-8")
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __getitem__(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        """All lines of a name by their labels."""
        return {labels: value for (each, labels), value in self._samples.items() if each == name}

    def get(self, name: str, **labels: str) -> float | None:
        """The number in one line."""
        return self._samples.get((name, frozenset(labels.items())))


def page(*policies: PolicyFigures, **changes: Any) -> Page:
    """What Prometheus reads."""
    return Page(text_of(figures(*policies, **changes)))


class FormatTests(SynchronousTestCase):
    """The text."""

    def test_every_metric_is_there(self) -> None:
        """Once, with its kind, what it means, and the labels that the table says."""
        read = Page(text_of(full_figures()))
        metrics = [(part, metric) for part in PARTS for metric in part.metrics]
        names = [metric.name for _, metric in metrics]
        self.assertEqual(len({*names}), len(names))
        self.assertEqual([*read.families], [name.removesuffix("_total") for name in names])
        for part, metric in metrics:
            family = read.families[metric.name.removesuffix("_total")]
            self.assertEqual((family.type, family.documentation), (metric.kind, metric.help))
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            self.assertEqual(labels, {*part.labels, *metric.labels}, metric.name)

    def test_names(self) -> None:
        """They keep to Prometheus' conventions."""
        for metric in (metric for part in PARTS for metric in part.metrics):
            self.assertRegex(metric.name, "^rproxy_[a-z_]+$")
            self.assertEqual(metric.name.endswith("_total"), metric.kind == "counter", metric.name)
            self.assertEqual("econds" in metric.help.split(".")[0].split()[0], metric.name.endswith("_seconds"))
            self.assertTrue(metric.help.endswith("."), metric.name)

    def test_hostile_names(self) -> None:
        """Whatever policies, servers, codes and hosts are called, it comes out as it went in."""
        policies = [
            PolicyFigures(name=name, refused={name: 3}, servers=[server(name, name, host=name, acked=2)])
            for name in HOSTILE
        ]
        read = page(*policies, version=HOSTILE[0])
        for name in HOSTILE:
            self.assertEqual(read.get("rproxy_policy_packets_refused_total", policy=name, code=name), 3)
            self.assertEqual(read.get("rproxy_server_packets_acked_total", policy=name, server=name), 2)
            self.assertEqual(read.get("rproxy_server_info", policy=name, server=name, host=name, port="5000"), 1)
        self.assertEqual(read["rproxy_violations_total"], {frozenset(): 0})
        self.assertEqual(len(read["rproxy_policy_servers"]), len(HOSTILE))

    def test_surrogate(self) -> None:
        """What UTF-8 doesn't have is replaced, and stops nothing."""
        self.assertEqual(page(PolicyFigures(name="a\ud800")).get("rproxy_policy_servers", policy="a?"), 0)

    @NEEDS_PROMTOOL
    def test_promtool(self) -> None:
        """Prometheus itself has nothing to say about it."""
        assert PROMTOOL is not None
        policies = [PolicyFigures(name=name, servers=[server(name, name)]) for name in HOSTILE if name != "\x00"]
        text = text_of(figures(*policies))
        argv = [PROMTOOL, "check", "metrics"]
        result = subprocess.run(argv, input=text, capture_output=True, timeout=PATIENCE, check=False)
        self.assertEqual((result.returncode, result.stdout + result.stderr), (0, b""))


class NumberTests(SynchronousTestCase):
    """What the lines say."""

    def test_counters(self) -> None:
        """Each of the proxy's counters is shown."""
        numbers = {name: 1000 + n for n, name in enumerate(Counters().snapshot())}
        counters = Counters()
        for name, number in numbers.items():
            if not name.endswith("refused"):
                setattr(counters, name, number)
        counters.refused["timeout"], counters.setup_refused["conflict"] = numbers["refused"], numbers["setup_refused"]
        read = page(counters=counters, in_flight=77)
        shown = {sample.value for family in read.families.values() for sample in family.samples}
        self.assertEqual({*numbers.values(), 77} - shown, set())

    def test_histogram(self) -> None:
        """It adds up from class to class; what took longer than all bounds is in the last."""
        times = new_times()
        for seconds in (0.0005, 0.001, 0.003, 0.003, 31.0):
            observe(times, seconds)
        read = page(PolicyFigures(name="111", total_times=times))
        buckets = read["rproxy_policy_latency_seconds_bucket"]
        found = [buckets[frozenset({("policy", "111"), ("le", str(le))})] for le in (*BOUNDS, "+Inf")]
        self.assertEqual(found, [2, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5])
        self.assertEqual(read.get("rproxy_policy_latency_seconds_count", policy="111"), 5)
        self.assertAlmostEqual(read.get("rproxy_policy_latency_seconds_sum", policy="111") or 0, 31.0075)

    def test_states(self) -> None:
        """All of them, also those that no process has it in."""
        policy = PolicyFigures(name="111", servers=[server(states={"up": 2, "down": 1}), server(server_id="200")])
        policy.servers.append(server(server_id="300", states={"down": 3}))
        policy.servers.append(server(server_id="400", states={"held": 1, "draining": 2}))
        read = page(policy)
        found = [read.get("rproxy_server_state", policy="111", server="100", state=state) for state in STATES]
        self.assertEqual(found, [2, 1, 0, 0])
        self.assertEqual(read.get("rproxy_policy_servers", policy="111"), 4)
        self.assertEqual(read.get("rproxy_policy_servers_up", policy="111"), 3)

    def test_processes(self) -> None:
        """One by one, with what their store is like."""
        away = StoreFigures(name="sqlite:/x", away="it is locked", away_for=2.5, processes=2)
        read = page(processes=[process(1, store=away), process(2, max_open_files=-1)], state="draining")
        for number, of_store in ("1", (1, 2.5, 2)), ("2", (0, 0, 1)):
            names = ("store_away", "store_away_seconds", "store_processes")
            found = tuple(read.get(f"rproxy_process_{name}", process=number) for name in names)
            self.assertEqual(found, of_store)
        self.assertEqual(read["rproxy_process_max_open_files"], {frozenset({("process", "1")}): 1024})
        self.assertEqual(read.get("rproxy_draining"), 1)

    def test_missing(self) -> None:
        """So many, and none where all are there."""
        for missing in ([], [2], [1, 3]):
            self.assertEqual(page(missing=missing).get("rproxy_processes_missing"), len(missing))

    def test_client_addresses(self) -> None:
        """How many there are, and nothing of which they are."""
        client = ClientFigures(address="10.9.8.7", connections=1, unanswered_bytes=2, held_back=3, refused=4, leases=5)
        read = page(client_addresses=7, clients=[client])
        self.assertEqual(read.get("rproxy_client_addresses"), 7)
        self.assertNotIn(client.address, read.text)

    def test_no_lease(self) -> None:
        """There is no line for what isn't there."""
        self.assertEqual(page(PolicyFigures(name="1", servers=[server()]))["rproxy_server_lease_left_seconds"], {})

    def test_pieces(self) -> None:
        """However many servers there are, a piece has no more than some hundred lines; none is lost between two."""
        servers = [server(server_id=str(n)) for n in range(3 * ROWS + 1)]
        policies = [PolicyFigures(name=str(n)) for n in range(3 * ROWS + 1)]
        pieces = [*make_metrics(figures(PolicyFigures(name="111", servers=servers), *policies))]
        self.assertLessEqual(max(piece.count(b"\n") for piece in pieces), ROWS * (len(BOUNDS) + 3))
        read = Page(b"".join(pieces))
        self.assertEqual(len(read["rproxy_server_weight"]), len(servers))
        self.assertEqual(len(read["rproxy_policy_latency_seconds_sum"]), len({"111", *(one.name for one in policies)}))

    def test_servers_have_no_classes(self) -> None:
        """What there is of a server is bounded, or five hundred would take too long."""
        few, many = (
            page(PolicyFigures(name="111", servers=[server(server_id=str(n)) for n in range(count)])).text.count("\n")
            for count in (1, 101)
        )
        self.assertLess(many - few, 100 * 20)
