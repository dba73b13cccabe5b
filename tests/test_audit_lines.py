"""Tests for ``rproxy.audit.lines``."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from rproxy.audit.lines import Chain, Packet, Started, Written, decode, follows, split, stamp
from tests.auditing import KEY, OTHER, TIME


class LineTests(SynchronousTestCase):
    def test_form(self) -> None:
        """What docs/reference/audit.rst shows."""
        chain = Chain(KEY)
        packet = Packet(0, TIME, "111", "c", "10.0.0.9:1", "acked", "", "yes", [Written("100", 1, 3)])
        raw = chain.add(packet)
        self.assertEqual(
            json.loads(raw),
            {
                "event": "packet",
                "seq": 1,
                "time": TIME,
                "policy": "111",
                "client": "c",
                "address": "10.0.0.9:1",
                "outcome": "acked",
                "error": "",
                "delivered": "yes",
                "servers": [{"server": "100", "registration": 1, "after": 3}],
                "hash": chain.head.hex(),
            },
        )
        self.assertEqual(decode(raw[:-1]), packet)

    def test_link(self) -> None:
        """A line follows the one before, by this key."""
        chain = Chain(KEY)
        first = chain.add(Started(0, TIME, version="1", pid=1))
        head = chain.head
        second = chain.add(Started(0, TIME, version="1", pid=1))
        self.assertEqual(follows(KEY, bytes(32), first[:-1]), head)
        self.assertEqual(follows(KEY, head, second[:-1]), chain.head)
        for key, before, raw in (
            (KEY, bytes(32), second),
            (OTHER, head, second),
            (KEY, None, second),
            (KEY, head, b"x\n"),
        ):
            self.assertIsNone(follows(key, before, raw[:-1]))

    def test_split(self) -> None:
        self.assertIsNone(split(b"{}"))
        self.assertIsNone(split(b'{"a":1,"hash":"' + b"G" * 64 + b'"}'))

    def test_stamp(self) -> None:
        self.assertEqual(stamp(1767323045.5), TIME)
