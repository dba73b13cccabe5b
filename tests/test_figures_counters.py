"""What is counted, summed up over processes."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from rproxy.figures.counters import Counters


class SnapshotTests(SynchronousTestCase):
    def test_sum(self) -> None:
        """Each counter, and each code of those by code; also by way of JSON."""
        one = Counters(received=7, acked=3, registered=2)
        one.refused.update({"no-server": 2, "timeout": 1})
        two = Counters(received=1, client_gone=1)
        two.refused.update({"timeout": 1})
        both = Counters()
        for each in one, two:
            both.add(json.loads(json.dumps(each.snapshot())))
        expected = Counters(received=8, acked=3, client_gone=1, registered=2)
        expected.refused.update({"no-server": 2, "timeout": 2})
        self.assertEqual(both, expected)
