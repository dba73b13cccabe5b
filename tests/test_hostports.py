"""Tests of :mod:`rproxy.hostports`."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rproxy.hostports import format_address, parse_address


class ParseAddressTests(SynchronousTestCase):
    """[HOST:]PORT."""

    def test_forms(self) -> None:
        """With and without a host, of any kind."""
        self.assertEqual(parse_address("8000"), ("127.0.0.1", 8000))
        self.assertEqual(parse_address("8000", "10.0.0.1"), ("10.0.0.1", 8000))
        self.assertEqual(parse_address("proxy.example:1"), ("proxy.example", 1))
        self.assertEqual(parse_address("[::1]:65535"), ("::1", 65535))

    def test_wrong(self) -> None:
        """The text says what to give instead."""
        for text in "", "x", "host", "host:", ":8000", "[]:8000", " host:8000", "host:80 00", "host:-1", "host:٣":
            self.assertIn("give HOST:PORT or PORT", str(self.assertRaises(ValueError, parse_address, text)))
        for text in "0", "65536", "host:0":
            self.assertIn("from 1 to 65535", str(self.assertRaises(ValueError, parse_address, text)))
        self.assertIn("in brackets", str(self.assertRaises(ValueError, parse_address, "::1:8000")))

    @given(st.sampled_from(["127.0.0.1", "proxy.example", "::1", "fe80::1%eth0"]), st.integers(1, 65535))
    def test_round_trip(self, host: str, port: int) -> None:
        """What is formatted can be read."""
        self.assertEqual(parse_address(format_address(host, port)), (host, port))
