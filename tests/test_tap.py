"""``twistd rproxy``: what most of its options mean, and its help."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from rproxy.audit.keys import Key
from rproxy.limits import Limits
from rproxy.stores.urls import MemoryUrl, RedisUrl, SqliteUrl
from rproxy.tap import Options
from tests.tapoptions import parsed


class AccessLogOptionsTests(SynchronousTestCase):
    """Whether there is an access log, and of what."""

    def test_file(self) -> None:
        """A daemon finds it where it was named."""
        options = parsed("--access-log", "a.log", "--access-log-sample", "0.01")
        self.assertEqual((options["access-log"], options["access-log-sample"]), (Path.cwd() / "a.log", 0.01))
        self.assertIsNone(parsed()["access-log"])

    def test_what_cannot_be(self) -> None:
        for arguments, sentence in {
            ("--access-log-sample", "0.5"): "--access-log-sample needs --access-log",
            ("--access-log", "a", "--access-log-sample", "0"): "--access-log-sample 0: give a number above 0",
            ("--access-log", "a", "--access-log-sample", "1.1"): "--access-log-sample 1.1: give a number above 0",
            ("--access-log", "a", "--access-log-sample", "nan"): "--access-log-sample nan: give a number above 0",
            ("--access-log", "a", "--access-log-sample", "x"): "--access-log-sample x: give a number above 0",
        }.items():
            with self.subTest(arguments), self.assertRaisesRegex(UsageError, f"^{sentence}"):
                parsed(*arguments)


class WorkersOptionsTests(SynchronousTestCase):
    """How many processes it is."""

    def test_number(self) -> None:
        self.assertEqual(1, parsed()["workers"])
        self.assertEqual(4, parsed("--workers", "4")["workers"])

    def test_auto(self) -> None:
        """As many as there are processors for it, which may be fewer than there are."""
        self.patch(os, "sched_getaffinity", lambda pid: {0, 2, 5})
        self.assertEqual(3, parsed("--workers", "auto")["workers"])

    def test_what_is_no_number(self) -> None:
        for wrong in ("0", "-1", "257", "many", "1.5"):
            with self.assertRaisesRegex(UsageError, "^--workers: '.*' is not a whole number from 1 to 256, or auto$"):
                parsed("--workers", wrong)


class LimitOptionsTests(SynchronousTestCase):
    """How much the proxy allows."""

    def test_the_defaults(self) -> None:
        self.assertEqual(Limits(), parsed()["limits"])

    def test_each_option(self) -> None:
        for arguments, limits in {
            ("--max-packet", "4096"): Limits(max_packet=4096),
            ("--max-clients", "10"): Limits(max_clients=10),
            ("--timeout", "2.5"): Limits(timeout=2.5),
            ("--queue-timeout", "2"): Limits(queue_timeout=2.0),
            ("--connect-timeout", "0.5"): Limits(connect_timeout=0.5),
            ("--idle-timeout", "1e3"): Limits(idle_timeout=1000.0),
            ("--max-clients-per-address", "10"): Limits(max_clients_per_address=10),
            ("--rate-limit", "0.5"): Limits(rate_limit=0.5),
            ("--max-bytes-per-address", "4096"): Limits(max_bytes_per_address=4096),
            ("--packet-timeout", "2"): Limits(packet_timeout=2.0),
            ("--max-fails", "3"): Limits(max_fails=3),
            ("--max-timeouts", "5"): Limits(max_timeouts=5),
            ("--slow-start", "0"): Limits(slow_start=0.0),
            ("--forget-after", "60"): Limits(forget_after=60.0),
            ("--strict",): Limits(strict=True),
        }.items():
            with self.subTest(arguments):
                self.assertEqual(limits, parsed(*arguments)["limits"])

    def test_they_have_the_kinds_that_the_limits_have(self) -> None:
        limits = parsed("--max-packet", "4096", "--timeout", "2", "--strict")["limits"]
        self.assertEqual([int, float, bool], [type(v) for v in (limits.max_packet, limits.timeout, limits.strict)])

    def test_what_is_no_option(self) -> None:
        with self.assertRaisesRegex(UsageError, "8000 is no option: a port, for one, is given as --port 8000"):
            parsed("8000")

    def test_what_can_be_no_limit(self) -> None:
        for arguments, sentence in {
            ("--max-packet", "63"): "--max-packet 63: it must be >= 64",
            ("--max-packet", "1.5"): "--max-packet takes a whole number, not 1.5",
            ("--max-packet", "1MiB"): "--max-packet takes a whole number, not 1MiB",
            ("--max-clients", "0"): "--max-clients 0: it must be >= 1",
            ("--max-clients", ""): "--max-clients takes a whole number, not ",
            ("--timeout", "0"): "--timeout 0: it must be > 0",
            ("--timeout", "-1"): "--timeout -1: it must be > 0",
            ("--timeout", "30s"): "--timeout takes a number, not 30s",
            ("--timeout", "nan"): "--timeout nan: it must be > 0",
            ("--timeout", "inf"): "--timeout inf: without an end it would be no limit",
            ("--queue-timeout", "soon"): "--queue-timeout takes a number, not soon",
            ("--connect-timeout", "0"): "--connect-timeout 0: it must be > 0",
            ("--idle-timeout", "never"): "--idle-timeout takes a number, not never",
            ("--max-clients-per-address", "-1"): "--max-clients-per-address -1: it must be >= 0",
            ("--rate-limit", "-1"): "--rate-limit -1: it must be >= 0",
            ("--rate-limit", "inf"): "--rate-limit inf: without an end it would be no limit",
            ("--packet-timeout", "0"): "--packet-timeout 0: it must be > 0",
            ("--max-fails", "0"): "--max-fails 0: it must be >= 1",
            ("--max-timeouts", "0"): "--max-timeouts 0: it must be >= 1",
            ("--slow-start", "-1"): "--slow-start -1: it must be >= 0",
            ("--forget-after", "0"): "--forget-after 0: it must be > 0",
            ("--slow-start", "nan"): "--slow-start nan: it must be >= 0",
        }.items():
            with self.subTest(arguments), self.assertRaisesRegex(UsageError, f"^{sentence}"):
                parsed(*arguments)


class RetryOptionsTests(SynchronousTestCase):
    """Which policies' packets may be given to a second server."""

    def test_none_unless_told_otherwise(self) -> None:
        self.assertEqual(set(), parsed()["retry"])

    def test_several_policies(self) -> None:
        self.assertEqual({"111", "PP_1"}, parsed("--retry", "111", "--retry", "PP_1", "--retry", "111")["retry"])

    def test_what_is_no_policy(self) -> None:
        with self.assertRaisesRegex(UsageError, "--retry: '' doesn't have 1 to 256 printable characters"):
            parsed("--retry", "")


class AuditOptionsTests(SynchronousTestCase):
    """Whether there is an audit trail."""

    def key(self, mode: int = 0o600) -> str:
        path = Path(self.enterContext(TemporaryDirectory())) / "key"
        path.write_text("0123456789abcdef")
        path.chmod(mode)
        return str(path)

    def test_none_unless_asked_for(self) -> None:
        self.assertIsNone(parsed()["audit"])

    def test_the_file_and_the_key(self) -> None:
        options = parsed("--audit", "trail", "--audit-key", self.key())
        self.assertEqual(Path.cwd() / "trail", options["audit"])
        self.assertEqual(Key(b"0123456789abcdef").name, options["audit-key"].name)
        self.assertEqual("refuse", options["audit-on-error"])

    def test_what_does_not_go_together(self) -> None:
        for arguments in ("--audit", "trail"), ("--audit-key", self.key()):
            with self.assertRaisesRegex(UsageError, "^--audit and --audit-key need each other$"):
                parsed(*arguments)
        with self.assertRaisesRegex(UsageError, "^--audit-on-error x: give refuse or continue$"):
            parsed("--audit-on-error", "x")

    def test_what_is_no_key(self) -> None:
        for key in self.key(0o604), "nowhere":
            with self.assertRaisesRegex(UsageError, "^--audit-key: the key "):
                parsed("--audit", "trail", "--audit-key", key)


class RegistryOptionsTests(SynchronousTestCase):
    """Where registrations are kept."""

    def password(self) -> str:
        path = Path(self.enterContext(TemporaryDirectory())) / "password"
        path.write_text("Xyzzy\n")
        path.chmod(0o600)
        return str(path)

    def test_in_memory_unless_told_otherwise(self) -> None:
        self.assertEqual(MemoryUrl(), parsed()["registry"])

    def test_a_file(self) -> None:
        self.assertEqual(SqliteUrl(Path.cwd() / "r"), parsed("--registry", "sqlite:r")["registry"])

    def test_a_password_in_a_file(self) -> None:
        arguments = "--registry", "redis://user@a", "--registry-password", self.password()
        url = RedisUrl((("a", 6379),), username="user", password="Xyzzy")
        self.assertEqual(url, parsed(*arguments)["registry"])

    def test_what_is_wrong(self) -> None:
        """Without a word of the password."""
        for arguments, sentence in {
            ("--registry", "redis:Xyzzy"): "--registry: give memory:, ",
            ("--registry", "redis://:Xyzzy/@a"): "--registry: in a password, write ",
            ("--registry", "redis://Xyzzy@a"): "--registry: a user name needs a password",
            ("--registry-password", self.password()): "--registry-password: it is for a --registry of redis",
            (
                "--registry",
                "redis://:Xyzzy@a",
                "--registry-password",
                self.password(),
            ): "--registry-password: it is for a --registry of redis, without a password there",
            ("--registry", "redis://a", "--registry-password", "nowhere"): "--registry-password: the password nowhere",
        }.items():
            with self.subTest(arguments), self.assertRaisesRegex(UsageError, f"^{sentence}") as raised:
                parsed(*arguments)
            self.assertNotIn("Xyzzy", str(raised.exception))


class HelpTests(SynchronousTestCase):
    """``twistd rproxy --help``."""

    def setUp(self) -> None:
        self.help = " ".join(str(Options()).split())

    def test_it_names_units_and_defaults(self) -> None:
        for line in (
            r"-p, --port= TCP port [^\[]*\[default: 8000\]",
            r"--max-packet= [^\[]* in bytes \[default: 1048576\]",
            r"--max-clients= [^\[]*\[default: 10000\]",
            r"--timeout= [^\[]* in seconds \[default: 30.0\]",
            r"--queue-timeout= [^\[]* in seconds \[default: 5.0\]",
            r"--connect-timeout= [^\[]* in seconds \[default: 5.0\]",
            r"--idle-timeout= [^\[]* in seconds \[default: 300.0\]",
            r"--max-clients-per-address= [^\[]*\[default: 0\]",
            r"--rate-limit= Packets a second [^\[]*\[default: 0.0\]",
            r"--max-bytes-per-address= [^\[]* bytes [^\[]*\[default: 0\]",
            r"--packet-timeout= [^\[]* in seconds \[default: 30.0\]",
            r"--proxy-from= [^(]*\(repeatable\)",
            r"--max-fails= [^\[]*\[default: 1\]",
            r"--max-timeouts= [^\[]*\[default: 3\]",
            r"--slow-start= [^\[]* in seconds \[default: 10.0\]",
            r"--registry= [^\[]*\[default: memory:\]",
            r"--forget-after= [^\[]* in seconds \[default: 86400.0\]",
            r"--retry= [^-]*\(repeatable\)",
            r"--listen= [^-]*\(repeatable\)",
            r"--register-listen= [^-]*\(repeatable\)",
            r"--register-from= [^-]*\(repeatable\) \[default: loopback and private networks\]",
            r"--policies= [^-]*TOML file",
            r"--strict [^-]*payloadsize",
            r"--log-packets [^-]*payload",
        ):
            self.assertRegex(self.help, line)

    def test_it_says_what_it_is(self) -> None:
        self.assertIn("A reverse proxy for JSON packets", self.help)
        self.assertIn("[--port N | --listen ENDPOINT ...]", parsed().getSynopsis())

    def test_what_is_no_option(self) -> None:
        for arguments in (("--colour",), ("8000",), ("--strict=no",)):
            with self.subTest(arguments), self.assertRaises(UsageError):
                parsed(*arguments)
