"""What a simulation makes of its outcomes, and how that is shown."""

from __future__ import annotations

import json
from importlib.util import find_spec
from io import StringIO

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from rproxy.simulation import plot, report
from rproxy.simulation.verdict import Outcome, Result
from tests.simulated import VERDICT, packet, result, right, temporary_folder


class VerdictTests(SynchronousTestCase):
    """What is right."""

    def test_all_right(self) -> None:
        """In a sentence that can be watched for."""
        self.assertEqual(result(right(0), right(1, "300"), right(2, "200", "222")).verdict, VERDICT.replace("15", "3"))
        self.assertEqual(result(right(0)).verdict, "The one packet was answered rightly, by a server of its policy.")

    def test_problems(self) -> None:
        """Each packet for itself."""
        judged = result(
            Outcome(packet(0), "100", False, 0.1),
            right(1, "200"),
            right(2, "7"),
            Outcome(packet(3), error="no-server: nobody"),
            right(4),
        )

        self.assertEqual(judged.problems[0], "the answer is not the payload's SHA-1")
        self.assertEqual(judged.problems[1], "answered by server 200, which serves policy 222")
        self.assertEqual(judged.problems[2], "answered by 7, which is no server of ours")
        self.assertEqual(judged.problems[3:], ("no-server: nobody", ""))
        self.assertEqual(judged.verdict, "4 of 5 packets went wrong. The servers of policy 111 did not take turns.")

    def test_turns(self) -> None:
        """Counts may differ by 1, and by more only where packets are sent at the same time."""
        self.assertTrue(result(right(0), right(1), right(2, "300")).ok)
        uneven = result(right(0), right(1))
        self.assertEqual((uneven.ok, uneven.uneven), (False, ("111",)))
        concurrent = result(right(0), right(1), judge_turns=False)
        self.assertEqual((concurrent.ok, concurrent.differences), (True, {"111": 2, "222": 0}))

    def test_stopped(self) -> None:
        """What was not sent is counted."""
        stopped = result(right(0), planned=3, aborted="server 100 died")

        self.assertFalse(stopped.ok)
        self.assertEqual(stopped.verdict, "It was stopped: server 100 died. 2 of 3 packets were given up.")

    def test_shares(self) -> None:
        """Of what all servers of the policy answered."""
        shares = result(right(0), right(1), right(2, "300"), right(3, "400", "222")).shares

        self.assertEqual(
            [(share.count, round(share.of_policy, 2)) for share in shares],
            [
                (2, 0.67),
                (0, 0.0),
                (1, 0.33),
                (1, 1.0),
            ],
        )

    def test_latency(self) -> None:
        """Of the packets that were acknowledged."""
        refused = Outcome(packet(9), seconds=9.0, error="no-server: nobody")
        latency = result(*(right(number, seconds=number / 1000) for number in range(1, 101)), refused).latency
        assert latency is not None

        self.assertAlmostEqual(latency.median, 0.0505)
        self.assertAlmostEqual(latency.p95, 0.09505)
        self.assertEqual((latency.least, latency.most), (0.001, 0.1))
        self.assertIsNone(result(refused).latency)


class ReportTests(SynchronousTestCase):
    """What is shown."""

    def shown(self, judged: Result) -> str:
        out = StringIO()
        report.show(judged, Console(file=out, width=120))
        return out.getvalue()

    def test_rows(self) -> None:
        """All of a packet stands in its row."""
        text = self.shown(result(right(7, "300", seconds=0.01234), source="1 packet from nowhere"))

        self.assertRegex(text, r"7\.json +│ 111 +│ 300 +│ right │ +12\.34")
        self.assertRegex(text, r"300 +│ 111 +│ +1 │ +100\.0%")
        self.assertIn("1 packet from nowhere, 4 servers", text)
        self.assertIn("median 12.34 ms", text)

    def test_nothing_speaks_to_the_terminal(self) -> None:
        """Neither by a control character nor by markup."""
        text = self.shown(result(Outcome(packet(0), error="\x1b[31m [bold]failed\n")))

        self.assertNotIn("\x1b", text)
        self.assertIn("[bold]failed", text)

    def test_many_packets(self) -> None:
        """Those that went wrong are listed, and the others counted."""
        outcomes = [right(number) for number in range(report.LISTED)]
        text = self.shown(result(*outcomes, Outcome(packet(555), error="timeout: late"), judge_turns=False))

        self.assertRegex(text, r"555\.json.*timeout: late")
        self.assertIn("100 packets more", text)
        self.assertNotIn("7.json", text)
        self.assertIn("differ by at most 100", text)

    def test_json(self) -> None:
        """The same for programs."""
        outcome = Outcome(packet(1), error="no-server: nobody")
        shown = json.loads(json.dumps(report.as_json(result(right(0), outcome, planned=3, aborted="late"))))

        self.assertEqual((shown["ok"], shown["planned"], shown["right"]), (False, 3, 1))
        self.assertEqual((shown["wrong"], shown["given_up"]), (1, 1))
        self.assertEqual(shown["latency_ms"]["median"], 2.0)
        self.assertEqual(shown["servers"][0], {"id": "100", "policy": "111", "answered": 1, "share_of_policy": 1.0})
        self.assertEqual((shown["packets"][0]["ms"], shown["packets"][0]["problem"]), (2.0, None))
        self.assertEqual(shown["packets"][1]["problem"], "no-server: nobody")
        self.assertIsNone(report.as_json(result())["latency_ms"])

    def test_progress_is_for_terminals(self) -> None:
        """Anywhere else it would only be in the way."""
        for terminal in (False, True):
            out = StringIO()
            with report.progress(Console(file=out, force_terminal=terminal), 15) as told:
                told(0)
                told(3)
            self.assertEqual("Sending packets" in out.getvalue(), terminal)


class PlotTests(SynchronousTestCase):
    """Pictures, where there is matplotlib to draw them."""

    def setUp(self) -> None:
        self.path = temporary_folder(self) / "shares.png"

    def test_needs_matplotlib(self) -> None:
        """Where there is none, it says how to get it."""
        if find_spec("matplotlib"):
            raise self.skipTest("matplotlib is installed")
        error = self.assertRaises(ValueError, plot.check, self.path)

        self.assertIn("pip install matplotlib", str(error))

    def test_picture(self) -> None:
        """One is written, in the format that its name says, also of a simulation without answers."""
        if not find_spec("matplotlib"):
            raise self.skipTest("matplotlib is not installed")
        plot.check(self.path)
        plot.draw(result(right(0), right(1, "300")), self.path)
        self.assertEqual(self.path.read_bytes()[:4], b"\x89PNG")
        plot.draw(result(), self.path.with_suffix(".svg"))

        self.assertIn("no packet was answered", self.path.with_suffix(".svg").read_text())

    def test_checked_before_anything_starts(self) -> None:
        """Neither an unknown format nor a folder that isn't there comes up only at the end."""
        if not find_spec("matplotlib"):
            raise self.skipTest("matplotlib is not installed")
        self.assertIn("png", str(self.assertRaises(ValueError, plot.check, self.path.with_suffix(".xyz"))))
        self.assertRaises(ValueError, plot.check, self.path / "nowhere.png")
