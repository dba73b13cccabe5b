"""``twistd rproxy``: what its options mean, and the proxy that they make, on a real port."""

from __future__ import annotations

import json
import os
import re
import resource
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from rproxy import packets
from rproxy.audit.keys import Key
from rproxy.limits import Limits
from rproxy.policies import PRIVATE, Policies, Policy
from rproxy.proxy import ProxyFactory
from rproxy.registry.claims import Claims
from rproxy.stores.urls import MemoryUrl, RedisUrl, SqliteUrl
from rproxy.tap import Options, makeService, reload_policies
from rproxy.tls.files import Files

LOOPBACK = "tcp:0:interface=127.0.0.1"


def parsed(*arguments: str) -> Options:
    """``twistd rproxy`` with these arguments."""
    options = Options()
    options.parseOptions(arguments)
    return options


class ListenOptionsTests(SynchronousTestCase):
    """Where the proxy listens."""

    def listens(self, *arguments: str) -> list[str]:
        endpoints: list[str] = parsed(*arguments)["listen"]
        return [endpoint.removesuffix(":backlog=1024") for endpoint in endpoints]

    def test_port_8000_unless_told_otherwise(self) -> None:
        self.assertEqual(["tcp:8000"], self.listens())

    def test_another_port(self) -> None:
        self.assertEqual(["tcp:5000"], self.listens("--port", "5000"))
        self.assertEqual(["tcp:5000"], self.listens("-p", "5000"))

    def test_any_free_port(self) -> None:
        self.assertEqual(["tcp:0"], self.listens("--port", "0"))

    def test_any_endpoint(self) -> None:
        self.assertEqual(["tcp:8000:interface=10.0.0.1"], self.listens("--listen", "tcp:8000:interface=10.0.0.1"))

    def test_several_endpoints(self) -> None:
        self.assertEqual(["tcp:8000", LOOPBACK], self.listens("--listen", "8000", "--listen", LOOPBACK))

    def test_what_is_nothing_to_listen_on(self) -> None:
        for arguments, sentence in {
            ("--port", "65536"): "65536 is no port",
            ("--port", "-1"): "'-1' is nothing to listen on .*: give a port",
            ("--port", "http"): "'http' is nothing to listen on .*: give a port",
            ("--port", ""): "'' is nothing to listen on .*: give a port",
            ("--listen", ""): "'' is nothing to listen on .*: give a port",
            ("--listen", "pigeon:8000"): "'pigeon:8000' is nothing to listen on .*: give a port",
            ("--listen", "8000", "--listen", "99999"): "99999 is no port",
        }.items():
            with self.subTest(arguments), self.assertRaisesRegex(UsageError, f"^{sentence}"):
                parsed(*arguments)

    def fronted(self, *arguments: str) -> list[bool]:
        fronted: list[bool] = parsed(*arguments)["fronted"]
        return fronted

    def test_headers_are_expected_nowhere_unless_told_otherwise(self) -> None:
        self.assertEqual([False], self.fronted())
        self.assertEqual([False, False], self.fronted("--listen", "8000", "--listen", LOOPBACK))

    def test_headers_are_expected_everywhere_or_where_it_says_so(self) -> None:
        trusted = ("--proxy-from", "10.0.0.0/8", "--proxy-from", "::1")
        self.assertEqual(["10.0.0.0/8", "::1/128"], [str(each) for each in parsed(*trusted)["proxy-from"]])
        self.assertEqual([True], self.fronted(*trusted))
        self.assertEqual([True, True], self.fronted(*trusted, "--listen", "8000", "--listen", LOOPBACK))
        marked = (*trusted, "--listen", "8000", "--listen", f"haproxy:{LOOPBACK}", "--listen", "haproxy:8001")
        self.assertEqual([False, True, True], self.fronted(*marked))
        self.assertEqual(["tcp:8000", LOOPBACK, "tcp:8001"], self.listens(*marked))

    def test_headers_from_nobody(self) -> None:
        for option in ("--listen", "--register-listen"):
            with self.assertRaisesRegex(UsageError, "^haproxy:...: say by --proxy-from whose headers may be"):
                parsed(option, f"haproxy:{LOOPBACK}")

    def test_headers_from_everybody(self) -> None:
        """Twisted's own wrapper would believe them; and where nobody has an address, nobody can be told apart."""
        for option in ("--listen", "--register-listen"):
            for endpoint in (f"haproxy:haproxy:{LOOPBACK}", "haproxy:unix:socket"):
                said = f"^{endpoint}: haproxy: stands once, before an endpoint of TCP or TLS$"
                with self.assertRaisesRegex(UsageError, said):
                    parsed("--proxy-from", "10.0.0.0/8", option, endpoint)

    def test_headers_where_servers_register(self) -> None:
        """Everywhere, or only at those that are marked."""
        trusted = ("--proxy-from", "10.0.0.0/8", "--listen", LOOPBACK)
        options = parsed(*trusted, "--register-listen", LOOPBACK)
        self.assertEqual(([True], [True]), (options["fronted"], options["register-fronted"]))
        options = parsed(*trusted, "--register-listen", f"haproxy:{LOOPBACK}")
        self.assertEqual(([False], [True]), (options["fronted"], options["register-fronted"]))
        self.assertEqual([LOOPBACK], options["register-listen"])

    def test_headers_from_what_is_no_network(self) -> None:
        with self.assertRaisesRegex(UsageError, "^--proxy-from: 'here' does not .*: give a network"):
            parsed("--proxy-from", "here")

    def test_a_port_and_an_endpoint_at_once(self) -> None:
        for port in ("8000", "0"):
            with self.assertRaisesRegex(UsageError, "^--listen replaces --port: give one of them$"):
                parsed("--port", port, "--listen", LOOPBACK)


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


class TLSOptionsTests(SynchronousTestCase):
    """How it is secured."""

    def test_listen(self) -> None:
        """With the backlog of any other port, unless told otherwise."""
        endpoint = "tls:8443:cert=a:key=b:ca=c"
        self.assertEqual([f"{endpoint}:backlog=1024"], parsed("--listen", endpoint)["listen"])
        self.assertEqual([f"{endpoint}:backlog=5"], parsed("--listen", f"{endpoint}:backlog=5")["listen"])
        for wrong, sentence in {
            "tls:8443": "tls:8443: TLS needs a certificate and its key",
            "tls:http:cert=a:key=b": "'tls:http:cert=a:key=b.*' is nothing to listen on",
            "tls:8443:cert=a:key=b:colour=red": "'tls:8443:.*' is nothing to listen on",
        }.items():
            with self.subTest(wrong), self.assertRaisesRegex(UsageError, f"^{sentence}"):
                parsed("--listen", wrong)

    def test_upstream(self) -> None:
        """Not unless it was asked for, and then not without an authority."""
        self.assertIsNone(parsed()["upstream-files"])
        files = parsed("--upstream-tls", "--upstream-tls-ca", "system")["upstream-files"]
        self.assertEqual(Files("system"), files)
        for arguments, sentence in {
            ("--upstream-tls",): "--upstream-tls needs --upstream-tls-ca",
            (
                "--upstream-tls-ca",
                "a",
            ): "--upstream-tls-ca, -cert, -key and -name need --upstream-tls, or policies that have it",
            (
                "--upstream-tls-name",
                "a",
            ): "--upstream-tls-ca, -cert, -key and -name need --upstream-tls, or policies that have it",
            ("--upstream-tls", "--upstream-tls-cert", "a"): "--upstream-tls-cert and --upstream-tls-key go together",
        }.items():
            with self.subTest(arguments), self.assertRaisesRegex(UsageError, f"^{sentence}"):
                parsed(*arguments)


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


class PolicyOptionsTests(SynchronousTestCase):
    """Who may register and who may ask."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))

    def file(self, text: str, name: str = "policies.toml") -> str:
        path = self.folder / name
        path.write_text(text, "utf-8")
        return str(path)

    def test_private_networks_unless_told_otherwise(self) -> None:
        self.assertEqual(Policies(), parsed()["allowed"])
        self.assertEqual(PRIVATE, parsed()["allowed"].register_from)
        self.assertEqual([], parsed()["register-listen"])

    def test_networks_replace_the_default(self) -> None:
        allowed = parsed("--register-from", "10.0.1.0/24", "--register-from", "::ffff:10.0.2.1")["allowed"]
        self.assertEqual(["10.0.1.0/24", "10.0.2.1/32"], [str(network) for network in allowed.register_from])

    def test_what_is_no_network(self) -> None:
        for text, sentence in {
            "": "'' does not appear to be an IPv4 or IPv6 network",
            "pool": "'pool' does not appear to be an IPv4 or IPv6 network",
            "10.0.0.1/8": "10.0.0.1/8 has host bits set",
            "fe80::%eth0/64": "fe80::%eth0/64 has a zone, which networks are looked at without",
        }.items():
            said = f"^--register-from: {re.escape(sentence)}: give a network, such as 10.0.1.0/24$"
            with self.subTest(text), self.assertRaisesRegex(UsageError, said):
                parsed("--register-from", text)

    def test_listeners_for_servers(self) -> None:
        options = parsed("--register-listen", "9000", "--register-listen", LOOPBACK)
        self.assertEqual(["tcp:9000:backlog=1024", LOOPBACK], options["register-listen"])
        self.assertEqual(["tcp:8000:backlog=1024"], options["listen"])
        with self.assertRaisesRegex(UsageError, "^'' is nothing to listen on"):
            parsed("--register-listen", "")

    def test_a_file(self) -> None:
        """Beside the networks that the options name."""
        options = parsed("--policies", self.file("[policy.111]"), "--register-from", "10.0.1.0/24")
        self.assertEqual({"111": Policy()}, options["allowed"].by_name)
        self.assertEqual(1, len(options["allowed"].register_from))

    def test_a_file_in_another_folder(self) -> None:
        """It is found again wherever the process goes."""
        name = os.path.relpath(self.file("[policy.111]"))
        self.assertTrue(parsed("--policies", name)["policies"].is_absolute())

    def test_what_is_no_file(self) -> None:
        """The proxy doesn't start, and says which line of which file and what was expected."""
        bad = self.file("[policy.111]\nretry = 1", "bad.toml")
        for name, sentence in {
            bad: f"{bad}:2: retry: expected true or false, got a whole number",
            str(self.folder / "missing"): f"{self.folder}/missing: can't be read: No such file or directory",
            str(self.folder): f"{self.folder}: can't be read: Is a directory",
        }.items():
            with self.subTest(name), self.assertRaisesRegex(UsageError, f"^--policies: {re.escape(sentence)}$"):
                parsed("--policies", name)

    def test_a_file_that_wants_tls(self) -> None:
        name = self.file("[policy.111]\nupstream-tls = true")
        said = f"^--policies: {re.escape(name)}: policy 111 has upstream-tls: give --upstream-tls-ca$"
        with self.assertRaisesRegex(UsageError, said):
            parsed("--policies", name)
        options = parsed("--policies", name, "--upstream-tls-ca", "system")
        self.assertTrue(options["allowed"].uses_tls("111"))
        self.assertFalse(options["allowed"].upstream_tls)

    def test_a_file_says_itself_what_is_retried(self) -> None:
        with self.assertRaisesRegex(UsageError, "^--retry: with --policies, say retry = true in the file$"):
            parsed("--policies", self.file(""), "--retry", "111")

    def test_reading_it_again(self) -> None:
        """What is right is applied, what is wrong is told, and the old one stays."""
        name = self.file("[policy.111]")
        options = parsed("--policies", name)
        factory = self.factory(options)
        self.file("[policy.222]")
        self.assertEqual([f"Keeping to the policies of {name} as it is now"], self.reload(options, factory))
        self.assertEqual({"222": Policy()}, factory.policies.by_name)
        self.file("[policy.333]\nretry = 1")
        said = f"The policies stay as they were: {name}:2: retry: expected true or false, got a whole number"
        self.assertEqual([said], self.reload(options, factory))
        self.assertEqual({"222": Policy()}, factory.policies.by_name)

    def factory(self, options: Options) -> ProxyFactory:
        connect: Any = None
        clock = Clock()
        claims = Claims("here", clock.seconds)
        return ProxyFactory(options["limits"], clock, connect, lambda: 0.5, claims, None, options["allowed"])

    def reload(self, options: Options, factory: ProxyFactory) -> list[str | None]:
        with capturedLogs() as events:
            reload_policies(options, factory)
        return [formatEvent(event) for event in events]


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


@implementer(IHalfCloseableProtocol)
class Client(Protocol):
    """Collects what it reads until the proxy closes."""

    def __init__(self) -> None:
        self.received = b""
        self.closed: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def readConnectionLost(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """It has said all that it has to say."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(self.received)


class ServiceTests(TestCase):
    """The whole proxy on a loopback port."""

    timeout = 60

    def setUp(self) -> None:
        self.events = self.enterContext(capturedLogs())

    def lines(self, start: str = "") -> list[str]:
        """What was logged."""
        return [line for event in self.events if (line := formatEvent(event)).startswith(start)]

    def ports(self) -> list[int]:
        """Where the log says that the proxy listens."""
        return [int(line.rpartition(" ")[2]) for line in self.lines("Running the reverse proxy on port ")]

    def start(self, *arguments: str) -> IService:
        """Start it as twistd does."""
        service = makeService(parsed(*(arguments if "--listen" in arguments else (*arguments, "--listen", LOOPBACK))))
        service.privilegedStartService()
        service.startService()
        self.addCleanup(service.stopService)
        return service

    async def connect(self, port: int | None = None) -> Client:
        from twisted.internet import reactor

        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port or self.ports()[0])
        client: Client = await connectProtocol(endpoint, Client())
        return client

    async def ask(self, raw: bytes, port: int | None = None) -> packets.Packet:
        """Send one packet and shut the writing side; return the answer."""
        client = await self.connect(port)
        transport: Any = client.transport
        transport.write(raw)
        transport.loseWriteConnection()
        return packets.decode(await client.closed)

    def assert_refused(self, code: str, answer: packets.Packet) -> None:
        assert isinstance(answer, packets.Error)
        self.assertEqual((code, "1", "no"), (answer.error, answer.destid, answer.delivered))

    async def test_it_says_where_it_listens_and_answers_there(self) -> None:
        self.start()
        self.assertEqual(1, len(self.ports()))
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1")))

    async def test_it_listens_at_each_endpoint(self) -> None:
        self.start("--listen", LOOPBACK, "--listen", LOOPBACK)
        self.assertEqual(2, len(set(self.ports())))
        for port in self.ports():
            self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1"), port))

    async def test_it_shows_packets_only_where_it_was_asked_to(self) -> None:
        line = "Received a message from client 1 payload xyz1"
        service = self.start()
        await self.ask(packets.data("1", "111", "xyz1"))
        self.assertEqual([], self.lines(line))
        await service.stopService()
        self.start("--log-packets")
        await self.ask(packets.data("1", "111", "xyz1"), self.ports()[-1])
        self.assertEqual([line], self.lines(line))

    async def test_it_is_strict_only_where_it_was_asked_to(self) -> None:
        wrong = b'{"type": "0", "srcid": "1", "privPoliId": "111", "payload": "xyz1", "payloadsize": "512"}'
        service = self.start()
        self.assert_refused("no-server", await self.ask(wrong))
        await service.stopService()
        self.start("--strict")
        self.assert_refused("bad-packet", await self.ask(wrong, self.ports()[-1]))

    async def test_it_keeps_an_audit_trail_where_it_was_asked_to(self) -> None:
        folder = Path(self.enterContext(TemporaryDirectory()))
        key = folder / "key"
        key.write_text("0123456789abcdef")
        key.chmod(0o600)
        service = self.start("--audit", str(folder / "trail"), "--audit-key", str(key))
        await self.ask(packets.data("1", "111", "xyz1"))
        await service.stopService()
        lines = [json.loads(line) for line in (folder / "trail").read_text().splitlines()]
        self.assertEqual(["open", "start", "packet", "stop"], [line["event"] for line in lines])

    async def test_its_limits_hold(self) -> None:
        self.start("--max-packet", "64")
        answer = await self.ask(packets.data("1", "111", "x" * 64))
        assert isinstance(answer, packets.Error)
        self.assertEqual("too-large", answer.error)

    async def test_it_retries_only_what_it_was_told_to(self) -> None:
        self.start("--retry", "222", "--queue-timeout", "2")
        server = await self.fickle_server()
        for policy in ("111", "222"):
            setup = await self.connect()
            setup.transport.write(packets.setup("100", policy, server.getHost().port))  # type: ignore[union-attr]
            setup.transport.loseConnection()  # type: ignore[union-attr]
            await setup.closed
        lost = await self.ask(packets.data("1", "111", "lost"))
        assert isinstance(lost, packets.Error)
        self.assertEqual(("server-lost", "unknown"), (lost.error, lost.delivered))
        found = await self.ask(packets.data("1", "222", "lost"))
        assert isinstance(found, packets.Ack)
        self.assertEqual("lost", found.payload)

    async def fickle_server(self) -> Any:
        """A classic server that loses the first packet of each policy."""
        from twisted.internet import reactor

        seen = set()

        class Fickle(Protocol):
            def dataReceived(self, raw: bytes) -> None:
                packet = packets.decode(raw)
                assert isinstance(packet, packets.Data)
                transport: Any = self.transport
                if packet.policy in seen:
                    transport.write(packets.ack("100", packet.srcid, packet.payload))
                else:
                    seen.add(packet.policy)
                    transport.abortConnection()

        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Factory.forProtocol(Fickle))
        self.addCleanup(port.stopListening)
        return port

    def setup_port(self) -> int:
        """Where the log says that servers register."""
        return int(self.lines("Registering servers on port ")[0].rpartition(" ")[2])

    async def test_servers_register_where_they_are_told_to(self) -> None:
        """Not where clients come in; and clients are answered there, and not where servers register."""
        self.start("--register-listen", LOOPBACK, "--max-clients", "1")
        self.assertEqual(1, len(self.ports()))
        packet = packets.setup("100", "111", 5000, lease=10)
        self.assert_forbidden("100", await self.ask(packet))
        self.assert_forbidden("1", await self.ask(packets.data("1", "111", "xyz1"), self.setup_port()))
        client = await self.connect()
        self.assertIsInstance(await self.ask(packet, self.setup_port()), packets.Ack)
        client.transport.loseConnection()  # type: ignore[union-attr]
        await client.closed
        refused = "Refused setup message from server id 100 ip 127.0.0.1 privacy policy 111: forbidden"
        self.assertEqual(1, len(self.lines(refused)))

    def assert_forbidden(self, destid: str, answer: packets.Packet) -> None:
        assert isinstance(answer, packets.Error)
        self.assertEqual(("forbidden", destid, "no"), (answer.error, answer.destid, answer.delivered))

    async def test_servers_register_from_where_they_may(self) -> None:
        self.start("--register-from", "127.0.0.2/32", "--register-from", "10.0.0.0/8")
        answer = await self.ask(packets.setup("100", "111", 5000))
        self.assert_forbidden("100", answer)
        self.assertEqual("setup packets are not taken from 127.0.0.1", getattr(answer, "payload", None))

    async def test_the_policies_file_holds(self) -> None:
        with TemporaryDirectory() as folder:
            file = Path(folder) / "policies.toml"
            file.write_text("[policy.111]\nservers.ids = ['100']\n[policy.222]\nclients.networks = []", "utf-8")
            self.start("--policies", str(file))
        self.assert_forbidden("101", await self.ask(packets.setup("101", "111", 5000)))
        self.assert_forbidden("100", await self.ask(packets.setup("100", "333", 5000)))
        self.assert_refused("forbidden", await self.ask(packets.data("1", "222", "xyz1")))
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1")))
        self.assertIsInstance(await self.ask(packets.setup("100", "111", 5000, lease=10)), packets.Ack)

    async def test_leases_end_on_time(self) -> None:
        from twisted.internet import reactor

        self.start("--queue-timeout", "0.1")
        server = await self.connect()
        transport: Any = server.transport
        transport.write(packets.setup("100", "111", 5000, lease=0.05))
        while not self.lines("Registration of server id 100"):
            await deferLater(reactor, 0.01)
        self.assertIsInstance(packets.decode(server.received), packets.Ack)
        transport.loseWriteConnection()
        await server.closed
        setup_line = "Received setup message from server id 100 ip 127.0.0.1 privacy policy 111 port 5000"
        self.assertEqual([setup_line], self.lines("Received setup"))
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1")))

    async def test_it_may_open_as_many_files_as_the_system_lets_it(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
        self.start("--max-clients", str(hard))
        self.assertEqual((hard, hard), resource.getrlimit(resource.RLIMIT_NOFILE))
        self.assertEqual(1, len(self.lines(f"Only {hard} files may be open, and {hard} connections are allowed")))

    async def test_silent_clients_are_disconnected(self) -> None:
        self.start("--idle-timeout", "0.1")
        client = await self.connect()
        self.assertEqual(b"", await client.closed)

    async def test_it_believes_whom_it_was_told_to(self) -> None:
        header = b"PROXY TCP4 203.0.113.7 203.0.113.8 40000 8000\r\n"
        self.start("--listen", f"haproxy:{LOOPBACK}", "--listen", LOOPBACK, "--proxy-from", "127.0.0.0/8")
        fronted, plain = self.ports()
        self.assert_refused("no-server", await self.ask(header + packets.data("1", "111", "xyz1"), fronted))
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1"), plain))
        answer = await self.ask(header, plain)
        assert isinstance(answer, packets.Error)
        self.assertEqual("bad-packet", answer.error)

    async def test_unfinished_packets_are_not_waited_for(self) -> None:
        self.start("--packet-timeout", "0.1")
        client = await self.connect()
        client.transport.write(b"{")  # type: ignore[union-attr]
        answer = packets.decode(await client.closed)
        assert isinstance(answer, packets.Error)
        self.assertEqual("bad-packet", answer.error)

    async def test_stopped_it_listens_no_more(self) -> None:
        service = self.start()
        port = self.ports()[0]
        await service.stopService()
        with self.assertRaises(ConnectionRefusedError):
            await self.connect(port)

    async def test_it_can_be_started_again(self) -> None:
        service = self.start()
        await service.stopService()
        service.privilegedStartService()
        service.startService()
        self.assert_refused("no-server", await self.ask(packets.data("1", "111", "xyz1"), self.ports()[1]))
