"""The benchmark: what it reads, computes and shows, on made-up figures; and its load, against a real proxy."""

from __future__ import annotations

import os
import shutil
import socket
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import SkipTest, skipUnless

from twisted.trial.unittest import SynchronousTestCase

from bench import gauges, machine, registry, sharing
from bench.building import Missing, build
from bench.parts import CHOICES, PARTS
from bench.plan import QUICK
from bench.processes import Children, Failure
from bench.redis import find_redis, parse_info
from bench.run import make_parser
from bench.scrape import measure_point
from bench.shapes import SHAPES, alternate, check_limits, compare
from bench.stage import HAPROXY_HTTP, HAPROXY_TCP, RPROXY, RPROXY_WORKERS, Bench, Layout, haproxy_config, open_stage
from bench.tables import Column, decimal, render, size
from bench.workers import measure_spread

REPORT = (
    '{"done": 1000, "seconds": 2.0, "cpu_seconds": 0.05, "p50": 0.001, "p90": 0.002, "p99": 0.003, "p999": 0.004,'
    ' "longest": 0.005}'
)


def sample(micros: float) -> gauges.Sample:
    """A thousand messages that cost so much each."""
    return gauges.Sample(1000, 1.0, micros / 1e3, 0.001, 0.001, 0.001, 0.001, 0.001)


class GaugeTests(SynchronousTestCase):
    """What is read off."""

    def test_report(self) -> None:
        """The last line that is JSON counts."""
        found = gauges.parse_sample(f"measuring\n{REPORT}\n")

        self.assertEqual((found.micros, found.rate, found.p99), (50.0, 500.0, 0.003))

    def test_no_report(self) -> None:
        """What came instead is shown."""
        error = self.assertRaises(Failure, gauges.parse_sample, "measuring\nsegmentation fault\n")

        self.assertIn("segmentation fault", str(error))

    def test_nothing_answered(self) -> None:
        """There is no cost of a message where there was none."""
        self.assertRaises(Failure, gauges.parse_sample, REPORT.replace("1000", "0"))

    def test_parent(self) -> None:
        """The name of a process may look like the rest of the line."""
        self.assertEqual(gauges.parse_parent("7 (a) S 1 (b) S 42 7 7 0 -1 4194304"), 42)

    def test_sizes(self) -> None:
        """They come in KiB, between lines of other kinds."""
        text = "5581f3a000-7ffd1 ---p 00000000 00:00 0    [rollup]\nRss:     1832 kB\nPrivate_Dirty:  100 kB\n"

        self.assertEqual(gauges.parse_sizes(text), {"Rss": 1832 * 1024, "Private_Dirty": 100 * 1024})

    def test_family(self) -> None:
        """Children of children belong to it, others don't."""
        with TemporaryDirectory() as folder:
            for pid, parent in ((1, 0), (7, 1), (8, 7), (9, 8), (10, 1)):
                (Path(folder) / str(pid)).mkdir()
                (Path(folder) / str(pid) / "stat").write_text(f"{pid} (name) S {parent} 1 1")

            self.assertEqual(gauges.family(7, Path(folder)), [7, 8, 9])

    def test_connections(self) -> None:
        """Ports come in hexadecimal, and the sockets of others stand between."""
        head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        line = "   {}: 0100007F:{} 0100007F:{} 01 00000000:00000000 00:00000000 00000000  1000  0 {} 1 0 100 0\n"
        table = head + line.format(0, "1F40", "C001", 71) + line.format(1, "1F40", "C002", 72)

        self.assertEqual(gauges.parse_connections(table, {"72", "9"}), {(8000, 0xC002)})

    def test_own_connections(self) -> None:
        """Both ends of one within this process, and nothing of it when it is closed."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as one, listener.accept()[0]:
                own = one.getsockname()[1]
                self.assertLessEqual({(own, port), (port, own)}, gauges.connections(os.getpid()))

        self.assertNotIn((own, port), gauges.connections(os.getpid()))

    def test_processor_time(self) -> None:
        """It is this process's own, and grows."""
        before = gauges.processor_time(os.getpid())
        self.assertLessEqual(before, time.process_time())
        self.assertGreater(gauges.processor_time(os.getpid()), before)

    def test_quantile(self) -> None:
        """So many of a hundred are within it, whatever their order."""
        self.assertEqual(gauges.quantile([3.0, 1.0, 2.0, 4.0], 0.5), 3.0)
        self.assertEqual(gauges.quantile([*map(float, range(100))], 0.99), 99.0)

    def test_redis(self) -> None:
        """Versions and texts are no numbers; calls are found by the command's name."""
        text = (
            "# Stats\r\nredis_version:7.0.15\r\nused_memory:1500\r\nused_memory_human:1.46K\r\nratio:1.25\r\n"
            "cmdstat_evalsha:calls=12,usec=600,usec_per_call=50.00\r\n"
        )

        self.assertEqual(parse_info(text), {"used_memory": 1500.0, "ratio": 1.25, "calls_evalsha": 12.0})

    def test_machine(self) -> None:
        """The processor's and the peers' lines."""
        self.assertEqual(machine.parse_cpu_model("processor : 0\nmodel name\t: Some CPU @ 3 GHz\n"), "Some CPU @ 3 GHz")
        self.assertEqual(machine.parse_version("HAProxy version 2.6.12-1+deb12u4 2026/10/17\n"), "2.6.12-1+deb12u4")
        self.assertEqual(machine.parse_version("nats-server: v2.9.10\n"), "2.9.10")


class ComparisonTests(SynchronousTestCase):
    """Contestants beside each other."""

    def test_rounds_alternate(self) -> None:
        """Each is measured once a round; every other round runs backwards."""
        order: list[str] = []

        def measure(who: str) -> gauges.Sample:
            order.append(who)
            return sample(len(order))

        found = alternate(["a", "b"], 2, measure, lambda line: None)

        self.assertEqual(order, ["a", "b", "b", "a"])
        self.assertEqual([round(one.micros) for one in found["b"]], [2, 3])

    def test_median_of_the_ratios(self) -> None:
        """The ratio is that within a round: here each is 0.5, however slow the round was."""
        rows = compare(
            {
                RPROXY: [sample(10), sample(40), sample(20)],
                HAPROXY_TCP: [sample(20), sample(80), sample(40)],
            }
        )

        found = [(row["who"], row["micros"], row["ratio"]) for row in rows]
        self.assertEqual(found, [(RPROXY, 20.0, None), (HAPROXY_TCP, 40.0, 0.5)])

    def test_limits(self) -> None:
        """One-shot is compared to TCP mode, the others to HTTP; what wasn't measured doesn't pass."""
        rows: list[dict[str, Any]] = [
            {"shape": "one-shot", "who": HAPROXY_TCP, "ratio": 0.8},
            {"shape": "one-shot", "who": HAPROXY_HTTP, "ratio": 1.5},
            {"shape": "keep-alive", "who": HAPROXY_HTTP, "ratio": 0.9},
        ]

        self.assertEqual(check_limits(rows, {"one-shot": 0.9, "keep-alive": 0.9}), [])
        self.assertEqual(len(check_limits(rows, {"keep-alive": 0.8})), 1)
        self.assertIn("wasn't measured", check_limits(rows, {"pipelined": 0.2})[0])


class TableTests(SynchronousTestCase):
    """Results as text."""

    def test_table(self) -> None:
        """Text stands left, numbers right, and what is missing is a dash."""
        columns = (Column("proxy", "who", str), Column("µs", "micros", decimal))

        text = render(columns, [{"who": "rproxy", "micros": 1234.5}, {"who": "a", "micros": None}, {"who": "b"}])

        self.assertEqual(
            text.splitlines(), ["proxy      µs", "------  -----", "rproxy  1,234", "a           -", "b           -"]
        )

    def test_numbers(self) -> None:
        """As many digits as say something."""
        self.assertEqual(
            [decimal(n) for n in (123456, 99.94, 5.678, 0.0123, 0.00123)], ["123,456", "99.9", "5.68", "0.01", "0.0012"]
        )
        self.assertEqual([size(n) for n in (100, 1024, 1 << 20, 1500)], ["100 B", "1 KiB", "1 MiB", "1500 B"])


class LayoutTests(SynchronousTestCase):
    """Which server serves what."""

    def test_every_policy_is_served(self) -> None:
        """By two servers at least, where there are two; and every server serves."""
        for policies, servers in ((1, 1), (2, 1), (2, 4), (1, 4), (1000, 4), (2, 500), (10, 7)):
            layout = Layout(policies, servers)
            served = [layout.servers_of(policy) for policy in range(policies)]

            self.assertTrue(all(len(some) >= min(2, servers) for some in served), layout)
            self.assertEqual({server for some in served for server in some}, set(range(servers)), layout)

    def test_haproxy(self) -> None:
        """Nothing is left to fill in, and each policy has its servers in both modes."""
        text = haproxy_config(Layout(), [1001, 1002, 1003, 1004], [2001, 2002, 2003, 2004], (8, 9))

        self.assertNotRegex(text, r"@[A-Z]")
        self.assertIn("bind fd@8", text)
        self.assertIn("backend packets222\n  mode tcp\n  server s2 127.0.0.1:1002\n  server s4 127.0.0.1:1004", text)
        self.assertIn("backend requests111\n  mode http\n  http-reuse always\n  server s1 127.0.0.1:2001\n", text)

    def test_large_requests_fit(self) -> None:
        """HAProxy can only look into what it can buffer."""
        text = haproxy_config(Layout(payload=100_000), [1] * 4, [2] * 4, (8, 9))

        self.assertRegex(text, r"tune\.bufsize 1\d{5}\n")


class CommandTests(SynchronousTestCase):
    """What can be asked for."""

    def test_each_part_can_be_asked_for(self) -> None:
        """Alone, and with those of its table."""
        for part in PARTS:
            self.assertIn(part, CHOICES[part.name])
            self.assertIn(part, CHOICES[part.table.name])
            self.assertEqual(make_parser().parse_args(["--only", part.name]).only, [part.name])

    def test_limits_are_of_shapes(self) -> None:
        """A limit of anything else would never be passed."""
        self.assertEqual(make_parser().parse_args(["--limit", "one-shot=0.9"]).limit, [("one-shot", 0.9)])
        for wrong in ("memory=1", "shapes=1", "one-shot", "one-shot=0"):
            with self.assertRaises(SystemExit):
                make_parser().parse_args(["--limit", wrong])

    def test_no_compiler(self) -> None:
        """What is missing is named, with the package that has it."""
        error = self.assertRaises(Missing, build, Path("/nonexistent"), "no-such-compiler")

        self.assertIn("apt-get install gcc", str(error))


class ScrapeTests(SynchronousTestCase):
    """What a scrape costs."""

    def test_point(self) -> None:
        """It is measured in a process of its own, with as many servers as are asked for."""
        said: list[str] = []
        few, many = (measure_point(Bench(Path("/nonexistent"), say=said.append), count) for count in (1, 9))

        self.assertEqual((few["servers"], many["servers"], len(said)), (1, 9, 2))
        self.assertGreater(many["bytes"], few["bytes"])
        self.assertLessEqual({"figures", "metrics", "turn", "longest"}, {*few})


@skipUnless(shutil.which("cc"), "the benchmark's load is in C, and there is no C compiler here (cc)")
class LoadTests(SynchronousTestCase):
    """The programs in C."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.programs = Path(folder.name)
        build(self.programs)

    def test_against_the_proxy(self) -> None:
        """Every answer is right, in each shape, and costs something."""
        with open_stage(Bench(self.programs), Layout(), [RPROXY]) as stage:
            options: tuple[dict[str, int], ...] = (
                {"one_shot": 1},
                {"depth": 16},
                {"rate": 500},
                {"idle": 20, "used": 1},
            )
            found = [stage.measure(RPROXY, 0.2, warmup=0.05, connections=5, **option) for option in options]

        for one in found:
            self.assertGreater(one.done, 10)
            self.assertGreater(one.micros, 0)
            self.assertLessEqual(one.p50, one.longest)

    def test_workers(self) -> None:
        """Whatever came to the servers came from one of the two, and each share is of the whole."""
        with open_stage(Bench(self.programs), Layout(), [RPROXY_WORKERS]) as stage:
            for shape in SHAPES:
                found, shares = measure_spread(stage, 0.2, shape)

                self.assertGreater(found.done, 10)
                for what, share in shares.items():
                    if share is None:
                        self.assertEqual((shape.name, what), ("one-shot", "connections"))
                    else:
                        self.assertTrue(0.5 <= share <= 1.0, (what, share))

    def test_sharing(self) -> None:
        """Another process answers for a server that registered at the first, asked and unasked."""
        bench = Bench(self.programs, replace(QUICK, sharings=2), say=lambda line: None)
        row = sharing.measure_pair(bench, "sqlite:", sharing.two_files)

        self.assertEqual(row["count"], 2)
        self.assertGreater(row["answered"], row["acknowledged"])
        self.assertGreater(row["found"], 0)

    def test_registry(self) -> None:
        """Servers stay registered, and the others know when one is gone, or all of a proxy that was killed."""
        redis = find_redis()
        if redis is None:
            raise SkipTest("redis-server isn't installed")
        plan = replace(QUICK, proxies=2, registrants=6, lease=1, registry_seconds=1, deaths=1)
        bench = Bench(self.programs, plan, redis=redis, say=lambda line: None)
        with registry.open_group(bench, shared=True) as group:
            row = registry.measure_rounds(group, registry.REDIS, group.register())
            server, proxy = registry.measure_servers(group), registry.measure_proxy(group)

        self.assertGreater(row["renewals"], 0)
        self.assertGreater(row["exchanges"], 0)
        self.assertEqual((server["count"], proxy["count"]), (1, 3))

    def test_a_wrong_answer_is_noticed(self) -> None:
        """A server that once gives the answer to the message before ends the load, which shows it."""
        words = ["policies=1", "count=1", "payload=50"]
        with Children() as children:
            servers = children.start("servers", [self.programs / "servers", *words, "spoil=100"])
            servers.wait_for(r"^\{.*\}$")
            port = gauges.parse_report(servers.log)["ports"][0]
            load = children.start(
                "load", [self.programs / "load", *words, f"port={port}", "connections=1", "seconds=5"]
            )
            error = self.assertRaises(Failure, load.finish, 20)

        self.assertEqual(load.code, 1)
        self.assertIn("message 99 of client c0 for policy 111: its payload", str(error))
        self.assertIn('"payload": "c0-98-', str(error))
        self.assertTrue(servers.code, "it was ended")
