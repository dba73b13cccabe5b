"""Tests for ``rproxy.stores.urls`` and ``rproxy.stores.opening``: what ``--registry`` may say, and what comes of it."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import tests.strategies  # noqa: F401  # the profile that Hypothesis runs under
from rproxy.stores import StoreRefusedError
from rproxy.stores.memory import MemoryStore
from rproxy.stores.opening import check_registry, open_registry
from rproxy.stores.sqlite import SqliteStore
from rproxy.stores.urls import MemoryUrl, RedisUrl, SqliteUrl, parse_registry, read_password
from rproxy.tls.files import Files
from rproxy.tls.keyring import Keyring

A = (("a.example", 6379),)
SENTINELS = (("a", 26379), ("b", 5000))


class UrlTests(SynchronousTestCase):
    """What the option says."""

    def test_without_redis(self) -> None:
        self.assertEqual(parse_registry("memory:"), MemoryUrl())
        self.assertEqual(parse_registry("sqlite:/var/lib/r"), SqliteUrl(Path("/var/lib/r")))
        self.assertEqual(parse_registry("sqlite:a b?c#d%20"), SqliteUrl(Path.cwd() / "a b?c#d%20"))

    def test_redis(self) -> None:
        for text, url in {
            "redis://a.example": RedisUrl(A),
            "REDIS://a.example/": RedisUrl(A),
            "redis://a.example:7000/3": RedisUrl((("a.example", 7000),), db=3),
            "redis://[fd00::1]:7000": RedisUrl((("fd00::1", 7000),)),
            "redis://[::1]": RedisUrl((("::1", 6379),)),
            "redis://user:se%40c:ret@a.example": RedisUrl(A, username="user", password="se@c:ret"),
            "redis://:p@ss@a.example": RedisUrl(A, password="p@ss"),
            "redis://user@a.example": RedisUrl(A, username="user"),
            "redis://a.example?prefix=site-1:x": RedisUrl(A, prefix="site-1:x"),
            "rediss://a.example": RedisUrl(A, tls=Files("system")),
            "rediss://a.example?ca=system": RedisUrl(A, tls=Files("system")),
            "rediss://a.example/1?ca=/ca&cert=/c%26&key=/k": RedisUrl(A, db=1, tls=Files("/ca", "/c&", "/k")),
            "rediss://a.example?ca=ca.pem": RedisUrl(A, tls=Files(str(Path.cwd() / "ca.pem"))),
            "redis+sentinel://a,b:5000/main": RedisUrl(SENTINELS, "main"),
            "redis+sentinel://:x@a,b:5000/main/2": RedisUrl(SENTINELS, "main", 2, password="x"),
            "rediss+sentinel://a,b:5000/main": RedisUrl(SENTINELS, "main", tls=Files("system")),
        }.items():
            with self.subTest(text):
                self.assertEqual(parse_registry(text), url)

    def test_what_cannot_be_understood(self) -> None:
        """Each error says what to write."""
        for text, sentence in {
            "": "give memory:, sqlite:PATH, redis://",
            "memory": "give memory:",
            "/var/lib/r": "give memory:, sqlite:PATH",
            "mysql://a": "give memory:",
            "redis:a": "give memory:",
            "sqlite:": "needs the path of a file",
            "sqlite:/": "needs the path of a file",
            "sqlite:a\0": "needs the path of a file",
            "sqlite:///var/lib/r": "without //",
            "sqlite::memory:": "give memory:, not",
            "redis://": "the host can't be read",
            "redis://a:b": "the host can't be read",
            "redis://fd00::1": "an IPv6 address in brackets",
            "redis://a b": "the host can't be read",
            "redis://a:0": "from 1 to 65535",
            "redis://a:65536": "from 1 to 65535",
            "redis://a,b": r"give redis\+sentinel://",
            "redis://a/x": "the database is a number",
            "redis://a/0/1": "the database is a number",
            "redis://a/-1": "the database is a number",
            "redis+sentinel://a": "needs the master's name",
            "redis+sentinel://a//0": "needs the master's name",
            "redis://a?x=1": "give prefix=NAME",
            "redis://a?prefix": "give prefix=NAME",
            "redis://a?prefix=": "give prefix=NAME",
            "redis://a?prefix=a&prefix=b": "each once",
            "redis://a?prefix=a%20b": "up to 64 letters",
            "redis://a?ca=x": "give rediss://",
            "rediss://a?cert=x": "go together",
            "redis://:a/b@c": "write @ as %40, / as %2F",
            "redis://:a?b@c": "write @ as %40, / as %2F",
            "redis://:a#b@c": "write @ as %40, / as %2F",
            "redis://:%ff@c": "no text in UTF-8",
            "redis://:a%0a@c": "can't be printed",
        }.items():
            with self.subTest(text), self.assertRaisesRegex(ValueError, sentence):
                parse_registry(text)

    @given(
        st.sampled_from(["", "user"]),
        st.text("#/?@:[],% &=\n", max_size=4),
        st.text("#/?@:[],% &=\n", max_size=4),
        st.sampled_from(["", "redis://", "rediss://", "redis+sentinel://", "redis:", "reds://"]),
    )
    def test_passwords_are_not_shown(self, user: str, before: str, after: str, scheme: str) -> None:
        """Wherever in the text they are, and whatever is wrong with it."""
        secret = "Xyzzy"
        text = f"{scheme}{user}:{before}{secret}{after}@host/1"
        try:
            url = parse_registry(text)
        except ValueError as error:
            self.assertNotIn(secret, f"{error!r} {error} {error.__cause__}")
        else:
            self.assertNotIn(secret, f"{url!r} {url}")


class PasswordFileTests(SynchronousTestCase):
    """``--registry-password``."""

    def setUp(self) -> None:
        self.path = Path(self.enterContext(TemporaryDirectory())) / "password"

    def write(self, content: bytes, mode: int = 0o640) -> Path:
        self.path.write_bytes(content)
        self.path.chmod(mode)
        return self.path

    def test_what_it_holds(self) -> None:
        """Without the line break, and with all else."""
        for content, password in (b" p w ", " p w "), (b"x\n", "x"), (b"x\r\n", "x"), ("ä".encode(), "ä"):
            self.assertEqual(read_password(self.write(content)), password)

    def test_what_is_none(self) -> None:
        for content in b"", b"\n", b"Xyzzy\nXyzzy\n", b"Xyzzy\xff":
            with self.subTest(content), self.assertRaisesRegex(ValueError, "password") as raised:
                read_password(self.write(content))
            self.assertNotIn("Xyzzy", str(raised.exception))
        with self.assertRaisesRegex(ValueError, "chmod o-rwx"):
            read_password(self.write(b"x", 0o644))
        with self.assertRaisesRegex(ValueError, "can't be read: No such file"):
            read_password(self.path.with_name("nowhere"))
        with self.assertRaisesRegex(ValueError, "password"):
            read_password(Path("/dev/null"))


class OpeningTests(SynchronousTestCase):
    """Which store it is."""

    def test_without_redis(self) -> None:
        clock = Clock()
        self.assertIsInstance(open_registry(MemoryUrl(), clock, Keyring()), MemoryStore)
        store = open_registry(SqliteUrl(Path("/nowhere/r")), clock, Keyring())
        self.assertIsInstance(store, SqliteStore)
        self.assertEqual(str(store), "sqlite:/nowhere/r")

    def test_redis_where_it_is_not_installed(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"txredisapi": None}),
            self.assertRaisesRegex(StoreRefusedError, "pip install txredisapi$"),
        ):
            check_registry(evolve(RedisUrl(A), password="x"))
