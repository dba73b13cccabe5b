"""Tests of :mod:`rproxy.systemd.units` and of ``rproxy install-units``.

:mod:`tests.test_booted` has systemd read the units.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import tempfile
from configparser import ConfigParser
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock, skipIf

from twisted.trial.unittest import SynchronousTestCase

from rproxy import cli
from rproxy.commands import asking, installing
from rproxy.limits import Limits
from rproxy.systemd import units
from rproxy.systemd.units import BACKOFF_SINCE, DEFAULT, FOLDER, obstacle, places
from tests.support import PATIENCE

TWISTD = Path("/srv/rproxy/bin/twistd")
SYSTEM = Path("etc/systemd/system")
SERVICES = ("rproxy.service", "rpoolserver@.service")


def unit(name: str) -> ConfigParser:
    """A unit as it is shipped; of what stands there several times, the last."""
    parser = ConfigParser(strict=False, interpolation=None, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names have capitals
    # Lines that go on are joined as systemd does.
    parser.read_string((FOLDER / "systemd" / name).read_text("utf-8").replace("\\\n", ""))
    return parser


class PlacesTests(SynchronousTestCase):
    """What has to be where."""

    def test_all_files(self) -> None:
        """The units as they are, and settings as the operator's."""
        found = {str(place.path): place.is_operators for place in places(TWISTD, 0)}
        self.assertEqual(
            found,
            {
                "etc/systemd/system/rproxy.socket": False,
                "etc/systemd/system/rproxy.service": False,
                "etc/systemd/system/rpoolserver@.service": False,
                "etc/systemd/system/rproxy.service.d/credentials.conf": True,
                "etc/rproxy/100.conf": True,
                "etc/rproxy/policies.toml": True,
                "etc/rproxy/rproxy.conf": True,
            },
        )

    def test_installation(self) -> None:
        """Both services run its twistd, and a percent sign in its path is one to systemd."""
        for twistd, written in (TWISTD, str(TWISTD)), (Path("/opt/100%/twistd"), "/opt/100%%/twistd"):
            for place in places(twistd, 0):
                if place.path.name in SERVICES:
                    self.assertIn(f"\nExecStart={written} -n --pidfile= r", place.text)
                    self.assertNotIn(DEFAULT, place.text)

    def test_backoff(self) -> None:
        """Where systemd knows it; an older one would complain."""
        names = [place.path for place in places(TWISTD, BACKOFF_SINCE) if place.path.name == "backoff.conf"]
        self.assertEqual(names, [SYSTEM / f"{name}.d" / "backoff.conf" for name in SERVICES])
        self.assertNotIn("backoff.conf", {place.path.name for place in places(TWISTD, BACKOFF_SINCE - 1)})

    def test_passwords(self) -> None:
        """Settings that may have one aren't for everybody, and what services read is."""
        modes = {place.path.name: place.mode for place in places(TWISTD, 0)}
        self.assertEqual((modes["rproxy.conf"], modes["100.conf"], modes["policies.toml"]), (0o640, 0o640, 0o644))


class UnitTests(SynchronousTestCase):
    """What the units say fits what they run."""

    def test_ports(self) -> None:
        """The service takes as many sockets as there are, in their order."""
        text = (FOLDER / "systemd" / "rproxy.socket").read_text("utf-8")
        listening = [line for line in text.splitlines() if line.startswith("ListenStream=")]
        start = unit("rproxy.service")["Service"]["ExecStart"]
        self.assertEqual(listening, ["ListenStream=0.0.0.0:8000", "ListenStream=[::]:8000"])
        self.assertEqual(start.split("--listen ")[1:][0].strip(), "systemd:domain=INET:index=0")
        self.assertTrue(start.split("--listen ")[2].startswith("systemd:domain=INET6:index=1 "))

    def test_closed_in_alike(self) -> None:
        """What one service may not, neither may the other."""
        begin = "# What it may do."
        first, second = (
            (FOLDER / "systemd" / name).read_text("utf-8").split(begin)[1].split("[Install]")[0].splitlines()
            for name in SERVICES
        )
        own = [line for line in second if line not in first]
        self.assertEqual([line for line in second if line in first], first)
        self.assertEqual([line for line in own if not line.startswith("#")], ["User=rpoolserver-%i"])

    def test_time_to_stop(self) -> None:
        """It is enough for the drain unless that is set to more, and then the service asks for it."""
        for name in SERVICES:
            seconds = int(unit(name)["Service"]["TimeoutStopSec"].removesuffix("s"))
            self.assertGreater(seconds, Limits().drain_timeout + 20)

    def test_crashes_go_on_being_mended(self) -> None:
        """By the wait between two starts, a crash can't be taken for a start that fails at once."""
        for name in SERVICES:
            service, limits = unit(name)["Service"], unit(name)["Unit"]
            wait, interval = (
                int(text.removesuffix("s")) for text in (service["RestartSec"], limits["StartLimitIntervalSec"])
            )
            self.assertGreater(int(limits["StartLimitBurst"]), interval / wait)

    def test_admin_socket(self) -> None:
        """The commands look where the unit has it."""
        start = unit("rproxy.service")["Service"]["ExecStart"].replace("%t", "/run")
        self.assertIn(f"--admin unix:{asking.SOCKET}:", start)


@skipIf(shutil.which("systemd-analyze") is None, "systemd-analyze isn't installed")
class AnalyzeTests(SynchronousTestCase):
    """What systemd thinks of the units."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        executable = shutil.which("true")
        assert executable is not None
        for place in places(Path(executable), 0):
            if place.path.parent == SYSTEM:
                (self.folder / place.path.name).write_text(place.text, "utf-8")

    def analyze(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What ``systemd-analyze`` says of the units."""
        return subprocess.run(
            ["systemd-analyze", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def test_verify(self) -> None:
        """Nothing. It says what it finds, and succeeds all the same."""
        for name in "rproxy.socket", *SERVICES:
            self.assertEqual(self.analyze("verify", f"./{name}").stdout, "", name)

    def test_verify_finds_something(self) -> None:
        """If there is something."""
        service = self.folder / "rproxy.service"
        service.write_text(service.read_text("utf-8").replace("WatchdogSec=", "WatchdogSecs="), "utf-8")
        self.assertIn("WatchdogSecs", self.analyze("verify", "./rproxy.service").stdout)

    def test_security(self) -> None:
        """They are as closed as they are said to be: 1.5 at most, of 10."""
        for name in SERVICES:
            done = self.analyze("security", "--offline=yes", "--threshold=15", "--no-pager", f"./{name}")
            self.assertEqual(done.returncode, 0, done.stdout)


class ObstacleTests(SynchronousTestCase):
    """Installations that services couldn't run."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.folder.chmod(0o755)
        self.twistd = self.folder / "twistd"
        self.twistd.write_text("")
        self.twistd.chmod(0o755)

    def obstacle(self, *parts: Path) -> str:
        """Where temporary folders can be seen."""
        hidden = tuple(each for each in units._HIDDEN if not self.folder.is_relative_to(each))
        with mock.patch.object(units, "_HIDDEN", hidden):
            return obstacle(self.twistd, parts)

    def test_none(self) -> None:
        """Everybody can read it."""
        self.assertEqual(self.obstacle(self.folder), "")

    def test_home(self) -> None:
        """Also where only a part of it is in a home directory, or a link leads there."""
        self.assertIn("don't see /home, and /home/x/python", self.obstacle(Path("/home/x/python")))
        (self.folder / "python").symlink_to("/home/x/python3")
        self.assertIn("/home/x/python3 is there: install", self.obstacle(self.folder / "python"))

    def test_temporary(self) -> None:
        """The services have a /tmp of their own."""
        self.assertIn("don't see /tmp", obstacle(Path("/tmp/x/twistd"), []))

    def test_closed(self) -> None:
        """What only its owner may read, and what helps."""
        for path, mode in (self.twistd, 0o700), (self.folder, 0o700):
            before = path.stat().st_mode
            path.chmod(mode)
            self.assertIn(f"chmod -R go+rX {path}", self.obstacle())
            path.chmod(before)

    def test_missing(self) -> None:
        """What isn't there can't be read either."""
        self.twistd.unlink()
        self.assertIn(str(self.twistd), self.obstacle())

    def test_name(self) -> None:
        """A unit parts words at spaces, and more."""
        for name in "/opt/my proxy/twistd", "/opt/$x/twistd", "/opt/x\n/twistd", '/opt/"/twistd':
            self.assertIn("can't be written into a unit", obstacle(Path(name), []))


class InstallTests(SynchronousTestCase):
    """``rproxy install-units``."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.prefix = Path(folder.name)
        patched = mock.patch.object(units, "obstacle", lambda twistd, parts: "")
        patched.start()
        self.addCleanup(patched.stop)

    def install(self, *arguments: str, code: int = 0) -> list[str]:
        """Do it below a folder, and return the lines of both outputs, without that folder."""
        output = StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            self.assertEqual(cli.main(["install-units", f"--prefix={self.prefix}", *arguments]), code)
        return output.getvalue().replace(str(self.prefix), "").splitlines()

    def files(self) -> set[str]:
        return {str(path.relative_to(self.prefix)) for path in self.prefix.rglob("*") if path.is_file()}

    def test_first_time(self) -> None:
        """Everything is written, and it says so, and what comes next."""
        lines = self.install()
        written = {line.removeprefix("/").removesuffix(": written") for line in lines if line.endswith(": written")}
        self.assertEqual(written, self.files())
        self.assertIn("etc/rproxy/rproxy.conf", written)
        self.assertIn("  systemctl daemon-reload", lines)
        self.assertEqual((self.prefix / "etc/rproxy/rproxy.conf").stat().st_mode & 0o777, 0o640)

    def test_again(self) -> None:
        """A unit that differs is replaced, what an operator changed or may change is kept, whatever is in it."""
        self.install()
        service, settings = self.prefix / SYSTEM / "rproxy.service", self.prefix / "etc/rproxy/rproxy.conf"
        right = service.read_bytes()
        service.write_text("[Service]\n")
        settings.write_text("RPROXY_OPTIONS=--strict\n")
        lines = self.install()
        self.assertIn("/etc/systemd/system/rproxy.service: replaced", lines)
        self.assertIn("/etc/systemd/system/rproxy.socket: as it should be", lines)
        self.assertIn("/etc/rproxy/rproxy.conf: kept", lines)
        self.assertEqual((service.read_bytes(), settings.read_text()), (right, "RPROXY_OPTIONS=--strict\n"))

    def test_masked(self) -> None:
        """What a link leads to isn't touched: a unit that was masked leads to a device that all need."""
        device, masked = self.prefix / "null", self.prefix / SYSTEM / "rproxy.service"
        device.touch(0o666)
        device.chmod(0o666)
        masked.parent.mkdir(parents=True)
        masked.symlink_to(device)
        lines = self.install()
        self.assertIn("/etc/systemd/system/rproxy.service: kept, as it is a link", lines)
        self.assertEqual((device.read_bytes(), device.stat().st_mode & 0o777), (b"", 0o666))

    def test_tight_mask(self) -> None:
        """Services get to their settings, though whoever installs keeps what they make to themselves."""
        before = os.umask(0o077)
        self.addCleanup(os.umask, before)
        self.install()
        self.assertEqual((self.prefix / "etc/rproxy").stat().st_mode & 0o777, 0o755)
        self.assertEqual(os.umask(0o077), 0o077)

    def test_dry_run(self) -> None:
        """It says the same, and does nothing."""
        lines = self.install("--dry-run")
        self.assertIn("/etc/systemd/system/rproxy.service: would be written", lines)
        self.assertEqual(self.files(), set())

    def test_examples_stay_away(self) -> None:
        """Where an operator has settings and took an example out, it doesn't come back."""
        self.install()
        (self.prefix / "etc/rproxy/100.conf").unlink()
        lines = self.install()
        self.assertNotIn("etc/rproxy/100.conf", self.files())
        self.assertIn("/etc/rproxy/100.conf: left out, as there are settings", lines)

    def test_where_nothing_can_be_written(self) -> None:
        """It is said in a sentence."""
        (self.prefix / "etc").write_text("")
        (line,) = [line for line in self.install(code=1) if "install-units" in line]
        self.assertIn("rproxy install-units: /etc", line)

    def test_full_disk(self) -> None:
        """The file is named."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
        lines = self.install(code=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        first = lines[0].removesuffix(": written")
        self.assertEqual(lines[1:], [f"rproxy install-units: {first}: File too large"])

    def test_not_root(self) -> None:
        """The system itself is only root's to change; anybody may look."""
        errors = StringIO()
        with mock.patch("os.geteuid", lambda: 1000), redirect_stderr(errors):
            self.assertEqual(installing.install(TWISTD, [], Path("/"), dry_run=False), 1)
        self.assertIn("only root may write there: run it by sudo", errors.getvalue())

    def test_obstacle(self) -> None:
        """Nothing is written that wouldn't work."""
        with mock.patch.object(units, "obstacle", lambda twistd, parts: "services don't see /home"):
            self.assertEqual(self.install(code=1), ["rproxy install-units: services don't see /home"])
        self.assertEqual(self.files(), set())
