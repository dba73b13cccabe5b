"""Where ``twistd rproxy`` listens, with headers or TLS or not."""

from __future__ import annotations

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from rproxy.tls.files import Files
from tests.tapoptions import LOOPBACK, parsed


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
