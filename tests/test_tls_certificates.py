"""Reading certificates, and what is said to those that are no good."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import evolve
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rproxy.tls.certificates import Certificates
from rproxy.tls.files import CertificatesError, Files
from tests.authority import Authority


class FilesCase(SynchronousTestCase):
    """With an authority, and files that are good."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.authority = Authority(self.folder)
        self.files = self.authority.issue("localhost")
        self.events = self.enterContext(capturedLogs())
        self.seen = 0

    def tearDown(self) -> None:
        # Twisted gives pyOpenSSL objects of a kind that newer versions would rather not have.
        self.flushWarnings()

    def file(self, content: str) -> str:
        """Return a new file with that in it."""
        path = self.folder / "other.pem"
        path.write_text(content)
        return str(path)

    def logged(self) -> list[str]:
        """Return what was logged since the last time."""
        new, self.seen = self.events[self.seen :], len(self.events)
        return [formatEvent(event) for event in new if event["log_namespace"].startswith("rproxy.")]


class ReadTests(FilesCase):
    """At the start."""

    def refused(self, files: Files) -> str:
        """Return what is said to these files."""
        return str(self.assertRaises(CertificatesError, Certificates, files))

    def test_good(self) -> None:
        """Nothing is said."""
        Certificates(self.files)
        Certificates(Files(self.files.ca))
        Certificates(Files("system"))
        Certificates(Files(None, self.files.cert, self.files.key))
        self.assertEqual(self.logged(), [])

    def test_one_file(self) -> None:
        """A certificate, those that it comes from and its key may stand together."""
        together = self.file("".join(Path(str(name)).read_text() for name in (self.files.cert, self.files.ca)))
        with Path(together).open("a") as end:
            end.write(Path(str(self.files.key)).read_text())
        Path(together).chmod(0o600)
        Certificates(Files(together, together, together))
        self.assertEqual(self.logged(), [])

    def test_missing(self) -> None:
        """The file is named, and what the system says."""
        for what in "ca", "cert", "key":
            said = self.refused(evolve(self.files, **{what: "/nowhere.pem"}))
            self.assertEqual(said, "/nowhere.pem can't be read: No such file or directory")

    def test_something_else(self) -> None:
        """No PEM, a key for a certificate, a certificate for a key."""
        for name in self.file(""), self.file("nonsense"), self.file("-----BEGIN CERTIFICATE-----\n"), self.files.key:
            for what in "ca", "cert":
                said = self.refused(evolve(self.files, **{what: name}))
                self.assertEqual(said, f"{name} holds no certificate in PEM form")
        for name in self.file(""), self.files.cert:
            self.assertEqual(self.refused(evolve(self.files, key=name)), f"{name} holds no private key in PEM form")

    def test_broken(self) -> None:
        """PEM with nonsense in it."""
        name = self.file("-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n")
        self.assertEqual(self.refused(evolve(self.files, cert=name)), f"{name} holds no certificate in PEM form")

    def test_another_key(self) -> None:
        """Both are named."""
        other = self.authority.issue("localhost")
        said = self.refused(evolve(self.files, key=other.key))
        self.assertEqual(said, f"{other.key} isn't the key of the certificate in {self.files.cert}")

    def test_passphrase(self) -> None:
        """Nobody is there to type it."""
        files = self.authority.issue("localhost", passphrase=b"secret")
        self.assertEqual(self.refused(files), f"{files.key} has a passphrase: give a key without one")

    def test_out_of_time(self) -> None:
        """It is said, and used all the same: the clock may be wrong."""
        for age, said in (
            (5, "A certificate in {} has expired: it was valid until "),
            (-5, "A certificate in {} isn't valid yet: "),
        ):
            files = self.authority.issue("localhost", age_days=age)
            Certificates(files)
            (line,) = self.logged()
            self.assertTrue(line.startswith(said.format(files.cert)), line)

    def test_open_key(self) -> None:
        """Others than its owner and its group."""
        key = Path(str(self.files.key))
        for mode, told in (0o640, False), (0o644, True), (0o601, True):
            key.chmod(mode)
            Certificates(self.files)
            self.assertEqual(bool(self.logged()), told)


class ReloadTests(FilesCase):
    """Later on."""

    def test_good(self) -> None:
        """It is told of."""
        certificates = Certificates(self.files)
        certificates.reload()
        line = f"New connections use what is now in {self.files.ca}, {self.files.cert}, {self.files.key}"
        self.assertEqual(self.logged(), [line])

    def test_bad(self) -> None:
        """The old ones stay, and it is said why."""
        certificates = Certificates(self.files)
        Path(str(self.files.cert)).unlink()
        certificates.reload()
        line = f"Going on with what was read before: {self.files.cert} can't be read: No such file or directory"
        self.assertEqual(self.logged(), [line])
