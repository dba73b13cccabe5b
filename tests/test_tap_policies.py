"""Which policies ``twistd rproxy`` is given, and given anew."""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from rproxy.policies import PRIVATE, Policies, Policy
from rproxy.proxy import ProxyFactory
from rproxy.registry.claims import Claims
from rproxy.tap import Options, reload_policies
from tests.tapoptions import LOOPBACK, parsed


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
