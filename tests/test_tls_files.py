"""How TLS is configured."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.endpoints import quoteStringArgument
from twisted.trial.unittest import SynchronousTestCase

from rproxy.tls.files import SYSTEM, Files, absolute_files, absolute_listen, client_files, split_listen


class SplitListenTests(SynchronousTestCase):
    """``tls:`` endpoints."""

    def test_others(self) -> None:
        """They have no TLS of ours."""
        for description in "tcp:8000", "tcp:8000:interface=10.0.0.1", "unix:/run/tls", "8000", "":
            self.assertEqual(split_listen(description, Files("a", "b", "c")), (description, None))

    def test_parts(self) -> None:
        """In any order; what isn't TLS's is TCP's, as it stands there."""
        files = Files("ca.pem", "cert.pem", "key.pem")
        for description, below in {
            "tls:8443:cert=cert.pem:key=key.pem:ca=ca.pem": "tcp:8443",
            "tls:cert=cert.pem:8443:ca=ca.pem:key=key.pem": "tcp:8443",
            "tls:port=8443:key=key.pem:ca=ca.pem:cert=cert.pem:backlog=5": "tcp:port=8443:backlog=5",
            "tls:systemd:domain=INET:index=2:cert=cert.pem:key=key.pem:ca=ca.pem": "systemd:domain=INET:index=2",
            r"tls:8443:interface=\:\:1:cert=cert.pem:key=key.pem:ca=ca.pem": r"tcp:8443:interface=\:\:1",
        }.items():
            self.assertEqual(split_listen(description), (below, files))

    def test_no_authority(self) -> None:
        """Clients need no certificate."""
        self.assertEqual(split_listen("tls:1:cert=a:key=b"), ("tcp:1", Files(None, "a", "b")))
        self.assertEqual(split_listen("tls:1:cert=a:key=b:ca="), ("tcp:1", Files(None, "a", "b")))

    def test_strange_names(self) -> None:
        """A file may be called anything, quoted as Twisted does."""
        for name in "a:b", "a\\b", "a=b", "a\\:", "tls:1:key=x", "\n":
            quoted = quoteStringArgument(name)
            self.assertEqual(split_listen(f"tls:1:cert={quoted}:key={quoted}"), ("tcp:1", Files(None, name, name)))

    def test_default(self) -> None:
        """Where none is named; never mixed."""
        default = Files("ca.pem", "cert.pem", "key.pem")
        self.assertEqual(split_listen("tls:1", default), ("tcp:1", default))
        self.assertEqual(split_listen("tls:1:cert=a:key=b", default), ("tcp:1", Files(None, "a", "b")))

    def test_incomplete(self) -> None:
        """A certificate and its key have to be there."""
        for description in "tls:1", "tls:1:cert=a", "tls:1:key=b", "tls:1:cert=:key=b", "tls:1:ca=c", "tls":
            with self.assertRaisesRegex(ValueError, f"^{description}: TLS needs a certificate and its key, as in "):
                split_listen(description)
        with self.assertRaisesRegex(ValueError, "TLS needs a certificate and its key"):
            split_listen("tls:1", Files("ca.pem"))

    def test_everybody(self) -> None:
        """That anybody can get a certificate for is no way to tell clients."""
        with self.assertRaisesRegex(ValueError, "have to come from an authority of your own$"):
            split_listen("tls:1:cert=a:key=b:ca=system")


class AbsoluteTests(SynchronousTestCase):
    """The same files from wherever one looks."""

    def test_listen(self) -> None:
        """All else stays, and so does what an absolute name means."""
        here = Path.cwd()
        text = r"tls:8443:interface=\:\:1:cert=a\:b\\c.pem:key=/k.pem:backlog=5"
        below, files = split_listen(absolute_listen(text))
        self.assertEqual((below, files), (split_listen(text)[0], Files(None, f"{here}/a:b\\c.pem", "/k.pem")))
        self.assertEqual(absolute_listen("unix:cert=a"), "unix:cert=a")

    def test_client(self) -> None:
        """Those of the system have no name."""
        here = Path.cwd()
        self.assertEqual(absolute_files(Files("ca", "a", "/b")), Files(f"{here}/ca", f"{here}/a", "/b"))
        self.assertEqual(absolute_files(Files(SYSTEM)), Files(SYSTEM))


class ClientFilesTests(SynchronousTestCase):
    """The options of who connects."""

    def test_all(self) -> None:
        """What goes together."""
        self.assertIsNone(client_files("--tls", None, None, None))
        self.assertEqual(client_files("--tls", "ca", None, None), Files("ca", None, None))
        self.assertEqual(client_files("--tls", "ca", "cert", "key"), Files("ca", "cert", "key"))

    def test_incomplete(self) -> None:
        """What doesn't."""
        for ca, cert, key, said in (
            ("ca", "cert", None, "^--tls-cert and --tls-key go together"),
            ("ca", None, "key", "^--tls-cert and --tls-key go together"),
            (None, None, "key", "^--tls-cert and --tls-key go together"),
            (None, "cert", "key", "^--tls-cert and --tls-key need --tls-ca"),
        ):
            with self.assertRaisesRegex(ValueError, said):
                client_files("--tls", ca, cert, key)
