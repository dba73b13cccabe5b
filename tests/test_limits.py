"""The bounds that the proxy keeps: what they are unless told otherwise, and what can be no bound."""

from __future__ import annotations

from typing import Any

from attrs import asdict
from attrs.exceptions import FrozenInstanceError
from twisted.trial.unittest import SynchronousTestCase

from rproxy.limits import CLASSIC_CONNECTIONS, CLASSIC_READ, MAX_DEPTH, Limits


class LimitsTests(SynchronousTestCase):
    def test_the_defaults_are_those_of_the_protocol(self) -> None:
        limits = Limits()
        self.assertEqual(1024 * 1024, limits.max_packet)
        self.assertEqual(30.0, limits.timeout)
        self.assertEqual(5.0, limits.queue_timeout)
        self.assertIs(False, limits.strict)
        self.assertEqual(32, MAX_DEPTH)

    def test_servers_of_the_old_kind_get_what_they_can_take(self) -> None:
        backlog, read = 10, 2048
        self.assertLess(CLASSIC_CONNECTIONS, backlog)
        self.assertEqual(read, CLASSIC_READ)

    def test_nothing_is_without_a_bound(self) -> None:
        for name, limit in asdict(Limits()).items():
            with self.subTest(name):
                self.assertLess(limit, 1 << 30)

    def test_nothing_changes_while_the_proxy_runs(self) -> None:
        with self.assertRaises(FrozenInstanceError):
            Limits().timeout = 1.0  # type: ignore[misc]

    def test_what_can_be_no_limit_is_refused(self) -> None:
        nonsense: dict[str, Any]
        for name, default in asdict(Limits()).items():
            if name == "strict":
                continue
            # These may be left out.
            may_be_none = name.endswith("_per_address") or name in {"slow_start", "rate_limit"}
            nothing = () if may_be_none else (0,)
            for value in (*nothing, -1, *((float("nan"),) if isinstance(default, float) else ())):
                nonsense = {name: value}
                with self.subTest(**nonsense), self.assertRaisesRegex(ValueError, f"'{name}' must be >"):
                    Limits(**nonsense)

    def test_a_packet_must_have_room_for_its_fields(self) -> None:
        self.assertEqual(64, Limits(max_packet=64).max_packet)
        with self.assertRaisesRegex(ValueError, "'max_packet' must be >= 64: 63"):
            Limits(max_packet=63)
