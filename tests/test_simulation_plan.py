"""What a simulation sends: the sample packets, those of a folder, or generated ones."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rproxy.simulation.plan import Packet, Server, generate_packets, read_packets
from tests.simulated import SERVERS, plan_of, temporary_folder
from tests.support import ROOT


class PlanTests(SynchronousTestCase):
    """What is to be started and sent."""

    def setUp(self) -> None:
        self.folder = temporary_folder(self)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, "utf-8")

    def test_policies_are_dealt_out_in_turn(self) -> None:
        """100 and 300 serve the one, 200 and 400 the other."""
        self.assertEqual(
            SERVERS, (Server("100", "111"), Server("200", "222"), Server("300", "111"), Server("400", "222"))
        )

    def test_samples_in_the_order_of_their_numbers(self) -> None:
        """2.json comes before 10.json."""
        packets = read_packets(ROOT / "pktfiles")

        self.assertEqual([each.name for each in packets], [f"{number}.json" for number in range(15)])
        self.assertEqual((packets[10].client_id, packets[10].policy, packets[10].payload), ("10", "222", "xyz10"))

    def test_files_are_sent_as_they_are(self) -> None:
        """Only the white space around them goes."""
        text = '{"type": 0, "srcid": 7, "privPolyId": 999, "payload": "x", "more": [1]}'
        self.write("a.json", f"\n{text}\n")

        self.assertEqual(read_packets(self.folder), (Packet("a.json", text.encode(), "7", "999", "x"),))

    def test_files_that_are_no_packets(self) -> None:
        """The text says which, and why."""
        self.assertIn("no *.json", str(self.assertRaises(ValueError, read_packets, self.folder)))
        self.write("b.json", '{"type": "1", "id": "1", "privPolyId": "1", "listenport": "1"}')

        error = str(self.assertRaises(ValueError, plan_of, folder=self.folder))
        self.assertIn("b.json is no data packet", error)

    def test_count_repeats_and_cuts(self) -> None:
        """Files are sent in turn, as often as it takes."""
        folder = ROOT / "pktfiles"
        self.assertEqual([each.client_id for each in plan_of(folder=folder, count=17).packets[-3:]], ["14", "0", "1"])
        self.assertEqual(len(plan_of(folder=folder, count=2).packets), 2)

    def test_generated_packets(self) -> None:
        """The same for the same seed, each for a policy that is served."""
        packets = generate_packets(20, ["a", "b"], 1)

        self.assertEqual(packets, generate_packets(20, ["a", "b"], 1))
        self.assertNotEqual(packets, generate_packets(20, ["a", "b"], 2))
        self.assertEqual({each.policy for each in packets}, {"a", "b"})

    def test_samples_only_where_they_fit(self) -> None:
        """Without a folder given, packets that nobody would serve are not sent."""
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(ROOT)
        self.assertEqual(plan_of().source, "15 packets from pktfiles")
        self.assertEqual(plan_of(policies=["a"]).source, "15 packets generated from seed 0")
        os.chdir(self.folder)
        self.assertEqual(plan_of(count=1, seed=3).source, "1 packet generated from seed 3")

    def test_clients(self) -> None:
        """One for each packet, unless there are to be fewer."""
        self.assertEqual(plan_of(count=15).clients, 15)
        self.assertEqual(plan_of(count=15, clients=4).clients, 4)
        self.assertEqual(plan_of(count=15, clients=40).clients, 15)

    def test_too_few_servers(self) -> None:
        """A policy would have none."""
        error = self.assertRaises(ValueError, plan_of, servers=1)

        self.assertIn("1 server can't serve 2 policies", str(error))
