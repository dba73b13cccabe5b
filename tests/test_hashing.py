"""The SHA-1 of a payload."""

from twisted.trial.unittest import SynchronousTestCase

from rproxy.hashing import sha1_hex


class HashingTests(SynchronousTestCase):
    """What deployed peers agree on."""

    def test_known(self) -> None:
        """The hash that docs/reference/protocol.rst shows, and the one of nothing."""
        self.assertEqual(sha1_hex("xyz1"), "b0400cf1f3919fdba057dbd2acc52f148fbb43ac")
        self.assertEqual(sha1_hex(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709")

    def test_utf8(self) -> None:
        """Text is hashed as UTF-8."""
        self.assertEqual(sha1_hex("é"), "bf15be717ac1b080b4f1c456692825891ff5073d")

    def test_surrogate(self) -> None:
        """Half of a surrogate pair isn't hashed as anything."""
        self.assertRaises(UnicodeEncodeError, sha1_hex, "\ud800")
