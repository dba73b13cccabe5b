"""The options of ``twistd rpoolserver``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from twisted.application.service import IService
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from rproxy.hashing import sha1_hex
from rproxy.limits import Limits
from rproxy.listening import BACKLOG
from rproxy.pooltap import Options, make_service
from rproxy.tls.files import Files
from rproxy.tls.keyring import Keyring
from tests.transports import connect, packets_in

REQUIRED = ("--id", "100", "--pp", "111")


class OptionsCase(SynchronousTestCase):
    def parse(self, *arguments: str) -> Options:
        options = Options()
        options.parseOptions([*REQUIRED, *arguments])
        return options

    def folder(self) -> Path:
        """Return a new folder, for as long as the test runs."""
        return Path(self.enterContext(TemporaryDirectory()))

    def refused(self, *arguments: str, required: bool = True) -> str:
        """Return what is said to these arguments."""
        given = [*(REQUIRED if required else ()), *arguments]
        return str(self.assertRaises(UsageError, Options().parseOptions, given))


class OptionsTests(OptionsCase):
    """What comes in, and what is said to nonsense."""

    def test_defaults(self) -> None:
        """Little has to be given."""
        options = self.parse()

        self.assertEqual(options["policies"], ["111"])
        self.assertEqual(options["listen"], f"tcp:5000:backlog={BACKLOG}")
        self.assertEqual(options["proxies"], [("127.0.0.1", 8000)])
        self.assertIs(options["handler"], sha1_hex)
        self.assertEqual(options["max-packet"], Limits().max_packet)
        self.assertEqual([options[name] for name in ("pipeline", "connections", "lease", "weight")], [128, 1, 15, 1])
        self.assertIsNone(options["token"])

    def test_what_is_no_option(self) -> None:
        self.assertEqual(self.refused("222"), "222 is no option: a policy, for one, is given as --pp 111")

    def test_required(self) -> None:
        """An id, and a policy."""
        self.assertIn("--id must be given", self.refused("--pp", "111", required=False))
        self.assertIn("--pp must be given", self.refused("--id", "100", required=False))
        self.assertIn("--id must be given", self.refused("--id", ""))
        self.assertIn("--id must be given", self.refused("--id", "x" * 257))
        self.assertIn("--pp takes", self.refused("--pp", "a\nb"))

    def test_policies(self) -> None:
        """Several, each once."""
        self.assertEqual(self.parse("--pp", "PP_1", "--pp", "111")["policies"], ["111", "PP_1"])

    def test_proxies(self) -> None:
        """Several, in any form of address."""
        options = self.parse("--revproc", "8001", "--revproc", "proxy:8000", "--revproc", "127.0.0.1:8000")

        self.assertEqual(options["proxies"], [("127.0.0.1", 8001), ("proxy", 8000), ("127.0.0.1", 8000)])
        self.assertIn("--revproc 'x' is no address", self.refused("--revproc", "x"))

    def test_proxy_twice(self) -> None:
        """A proxy would refuse the second registration of a key, or replace the first."""
        twice = ("8000", "127.0.0.1:8000"), ("[::1]:8000", "[0:0::1]:8000"), ("proxy:8000", "Proxy.:8000")
        for first, second in twice:
            said = self.refused("--revproc", first, "--revproc", second)
            self.assertEqual(said, f"--revproc {second} is given twice")

    def test_ipv6(self) -> None:
        """A proxy that is registered with over IPv6 calls back over IPv6."""
        options = self.parse("--revproc", "[::1]:8000")

        self.assertEqual(options["proxies"], [("::1", 8000)])
        self.assertEqual(options["listen"], f"tcp6:5000:backlog={BACKLOG}")

    def test_listen(self) -> None:
        """A port or an endpoint."""
        self.assertEqual(self.parse("--listen", "0")["listen"], f"tcp:0:backlog={BACKLOG}")
        self.assertEqual(self.parse("--listen", "tcp:1:interface=::1".replace("::", r"\:\:"))["listen"][:5], "tcp:1")
        self.assertIn("--listen 'x' is nothing to listen on", self.refused("--listen", "x"))

    def test_tls(self) -> None:
        """The files for connecting are also those for listening, where the endpoint names none."""
        given = ("--tls-ca", "ca.pem", "--tls-cert", "cert.pem", "--tls-key", "key.pem")
        options = self.parse(*given, "--listen", "tls:5000")
        self.assertEqual(options["files"], Files("ca.pem", "cert.pem", "key.pem"))
        self.assertEqual(options["listen"], f"tls:5000:backlog={BACKLOG}")

        self.assertIsNone(self.parse()["files"])
        self.assertIn("--listen tls:5000: TLS needs a certificate", self.refused("--listen", "tls:5000"))
        self.assertIn("--tls-cert and --tls-key need --tls-ca", self.refused(*given[2:]))

    def test_numbers(self) -> None:
        """Within the bounds that the protocol sets."""
        options = self.parse("--pipeline", "7", "--connections", "2", "--weight", "3", "--lease", "1.5")
        self.assertEqual([options[name] for name in ("pipeline", "connections", "weight", "lease")], [7, 2, 3, 1.5])
        for option, wrong in {
            "pipeline": ("0", "1025", "x", "1.5", "nan"),
            "connections": ("0", "65"),
            "weight": ("0", "101"),
            "lease": ("0", "86401", "x", "nan", "inf"),
            "max-packet": ("63", "x"),
            "drain-timeout": ("-1", "nan"),
        }.items():
            for text in wrong:
                said = self.refused(f"--{option}={text}")
                self.assertRegex(said, rf"^--{option} takes a (whole )?number from \d+ to [\d.e+]+, not {text}$")

    def test_units(self) -> None:
        """The help has them."""
        help_text = " ".join(str(Options()).split())

        for unit in "last renewal, in seconds", "in flight, in seconds", "longest packet, in bytes":
            self.assertIn(unit, help_text)

    def test_token(self) -> None:
        """Read from a file, because a command line can be read by everybody."""
        path = self.folder() / "token"
        path.write_text("secrét\n", "utf-8")
        path.chmod(0o640)
        self.assertEqual(self.parse("--token-file", str(path))["token"], "secrét")

        for content in b"\xff", b"\n", b"a\nb", b"x" * 257:
            path.write_bytes(content)
            said = self.refused("--token-file", str(path))
            self.assertEqual(said, f"--token-file: {path} must hold 1 to 256 printable characters")
        self.assertIn("can't be read: No such file", self.refused("--token-file", f"{path}x"))

    def test_token_open_to_others(self) -> None:
        """It is refused, as the proxy refuses its own secrets."""
        path = self.folder() / "token"
        path.touch()
        path.chmod(0o604)
        said = self.refused("--token-file", str(path))
        self.assertEqual(said, f"--token-file: the token {path} is open to everybody: close it by: chmod o-rwx {path}")


class HandlerTests(OptionsCase):
    """--handler is imported when the options are read, not when the first packet comes."""

    def setUp(self) -> None:
        """A folder with modules, as the current one."""
        folder = self.folder()
        (folder / "rproxy_test_good.py").write_text("class Handlers:\n    upper = str.upper\nnumber = 1\n")
        (folder / "rproxy_test_bad.py").write_text("1 / 0\n")
        before, path = Path.cwd(), list(sys.path)
        self.addCleanup(setattr, sys, "path", path)
        self.addCleanup(os.chdir, before)
        os.chdir(folder)

    def test_found(self) -> None:
        """In the current folder too, and deep in a module."""
        handler = self.parse("--handler", "rproxy_test_good:Handlers.upper")["handler"]

        self.assertEqual(handler("a"), "A")
        self.assertIs(self.parse("--handler", "rproxy.hashing:sha1_hex")["handler"], sha1_hex)

    def test_wrong(self) -> None:
        """What is said tells what is wrong."""
        for name, said in {
            "str.upper": "takes PACKAGE.MODULE:CALLABLE",
            ":upper": "takes PACKAGE.MODULE:CALLABLE",
            "rproxy_test_good:": "takes PACKAGE.MODULE:CALLABLE",
            "rproxy_test_none:x": "can't be imported: ModuleNotFoundError: No module named 'rproxy_test_none'",
            "rproxy_test_good:x": "can't be imported: AttributeError",
            "rproxy_test_bad:x": "can't be imported: ZeroDivisionError: division by zero",
            "rproxy_test_good:number": "can't be called: it is a int",
            ".x:y": "can't be imported: TypeError",
        }.items():
            self.assertIn(said, self.refused("--handler", name))


class MakeServiceTests(OptionsCase):
    """The parts are put together as the options say."""

    def test_service(self) -> None:
        """It listens, registers each policy at each proxy, and serves."""
        reactor = MemoryReactorClock()
        token = self.folder() / "token"
        token.write_text("secret", "utf-8")
        token.chmod(0o600)
        options = self.parse(
            *("--pp", "222", "--listen", "tcp:5001:interface=127.0.0.1"),
            *("--revproc", "10.0.0.1:8000", "--revproc", "10.0.0.2:8001"),
            *("--pipeline", "7", "--connections", "2", "--weight", "3", "--lease", "20", "--token-file", str(token)),
        )

        service = make_service(options, reactor, Keyring())
        self.assertTrue(IService.providedBy(service))
        service.privilegedStartService()
        ((port, factory, _, interface),) = reactor.tcpServers
        self.assertEqual((port, interface), (5001, "127.0.0.1"))
        service.startService()

        self.assertEqual(len(reactor.tcpClients), 4)
        address = IPv4Address("TCP", "10.0.0.1", 8000)
        client = connect(cast(IProtocol, reactor.tcpClients[0][2].buildProtocol(address)))
        self.assertEqual(
            client.taken(),
            b'{"type":"1","id":"100","privPolyId":"111","listenport":"5001",'
            b'"pipeline":7,"connections":2,"lease":20,"weight":3,"token":"secret"}',
        )
        protocol = cast(IProtocol, factory.buildProtocol(address))
        transport = connect(protocol)
        protocol.dataReceived(b'{"type": "0", "srcid": "1", "privPoliId": "222", "payload": "xyz1"}')
        (answer,) = packets_in(transport.taken())
        self.assertEqual(getattr(answer, "payload", None), sha1_hex("xyz1"))
