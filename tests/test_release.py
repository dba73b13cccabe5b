"""What is released: it has all that it should, and works with each Python that it says it runs on.

Both archives are built by ``make dist`` from what is in git, the wheel from the source archive. The wheel is installed,
tried and removed with each of those Pythons that is on this machine; packages come from where pip gets them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest
from attrs import frozen

from rproxy import __version__
from tests.sources import QUICK, clone, sources
from tests.support import ROOT

#: Seconds for a command, which may fetch packages, and for a test of several.
PATIENCE = 300.0
pytestmark = pytest.mark.timeout(2 * PATIENCE)


def run(*argv: str | Path, cwd: Path, code: int | None = 0) -> str:
    """Run a command that sees nothing of this project but what is installed, and return both its outputs.

    :param code: the exit code that it must have; None for any.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
    done = subprocess.run(
        argv, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, check=False
    )
    output = done.stdout.decode(errors="replace")
    assert code in {None, done.returncode}, f"{argv}: exit code {done.returncode}\n{output}"
    return output


def supported() -> list[str]:
    """The versions of Python that rproxy says it runs on."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", "utf-8")
    named = (line.rpartition(" :: ")[2] for line in setup["metadata"]["classifiers"].splitlines())
    return [version for version in named if version.startswith("3.")]


def python(version: str) -> Path | None:
    """The Python of that version that is here: this one, one on the PATH, or one of pyenv's."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return Path(sys.executable)
    of_pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(of_pyenv.glob(f"{version}.*/bin/python{version}"))]
    # Debian's comes without ensurepip, and pyenv has commands on the PATH that only say that there are several.
    return next((Path(each) for each in candidates if each and _makes_environments(each)), None)


def _makes_environments(candidate: str | Path) -> bool:
    argv = [candidate, "-c", "import ensurepip, ssl, sqlite3"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@frozen
class Release:
    """What was built.

    :ivar output: what ``make dist`` wrote.
    """

    wheel: Path
    archive: Path
    output: str


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """What ``make dist`` builds, by the tools that are installed beside this Python."""
    if not sources():
        pytest.skip("a release is made from a clone, and git knows of none here")
    folder = tmp_path_factory.mktemp("release")
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--no-deps", f"--dest={folder}", "setuptools>=77"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if fetched.returncode:
        pytest.skip(f"pip can't fetch what a release is built by: {fetched.stdout.splitlines()[-1]}")
    clone(folder / "clone")
    output = run("make", "dist", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/installed-dev", cwd=folder / "clone")
    dist = folder / "clone" / "dist"
    return Release(dist / f"rproxy-{__version__}-py3-none-any.whl", dist / f"rproxy-{__version__}.tar.gz", output)


def test_version_stands_once() -> None:
    """In the package; the changelog has it at the top, or what comes after it."""
    titles = re.findall(r"^(.+)\n-+$", (ROOT / "CHANGELOG.rst").read_text("utf-8"), re.MULTILINE)
    versions = [title.partition(" — ")[0] for title in titles]
    assert __version__ in versions[: 1 + (versions[0] == "Unreleased")]
    said = re.compile(rf"(?:rproxy|version)[\W_]{{1,9}}{re.escape(__version__)}(?![\w.]*\d)".encode(), re.IGNORECASE)
    assert said.search((ROOT / "rproxy" / "__init__.py").read_bytes())
    elsewhere = {*sources()} - {"rproxy/__init__.py", "rproxy/etc"}
    assert [name for name in elsewhere if said.search((ROOT / name).read_bytes())] == []


def test_there_is_no_more(release: Release) -> None:
    """One wheel, for any system, and one source archive, both of the version that the package has."""
    assert {*release.wheel.parent.iterdir()} == {release.wheel, release.archive}
    assert release.output.count("PASSED") == 2, release.output


def test_source_archive(release: Release) -> None:
    """It has each file that is in git; the link to ``etc`` is a folder there."""
    with tarfile.open(release.archive) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert {*sources()} - {"rproxy/etc"} - names == set()
    made = {name for name in names - {*sources()} if not name.startswith(("rproxy.egg-info/", "rproxy/etc/"))}
    assert made == {"PKG-INFO", "setup.cfg"} - {*sources()}


def test_wheel(release: Release) -> None:
    """It has the package with all that isn't Python, the plugins, and nothing else."""
    with zipfile.ZipFile(release.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    packaged = {name for name in sources() if name.startswith(("rproxy/", "twisted/"))} - {"rproxy/etc"}
    assert names == packaged | {f"rproxy/{name}" for name in sources() if name.startswith("etc/")}


@frozen
class Environment:
    """A fresh virtual environment.

    :ivar folder: where it is.
    :ivar elsewhere: an empty folder, to run commands in.
    """

    folder: Path
    elsewhere: Path

    def run(self, command: str, *arguments: str | Path, code: int | None = 0) -> str:
        """Run one of its commands."""
        return run(self.folder / "bin" / command, *arguments, cwd=self.elsewhere, code=code)

    def files(self) -> set[str]:
        """All that is there and has to do with rproxy, by its name."""
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        return {str(path) for path in paths if "rproxy" in str(path)}


@pytest.fixture(scope="module", params=supported())
def environment(
    request: pytest.FixtureRequest, release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Environment]:
    """One with the wheel, and nothing else but what that needs."""
    base = python(request.param)
    if base is None:
        pytest.skip(f"there is no Python {request.param} here that can make a virtual environment")
    folder = tmp_path_factory.mktemp("environment")
    made = Environment(folder / "venv", folder)
    run(base, "-m", "venv", made.folder, cwd=folder)
    made.run("python", "-m", "pip", "install", "--quiet", release.wheel)
    yield made
    shutil.rmtree(made.folder)


def test_installed(environment: Environment) -> None:
    """It is of its version, what it needs is there, and both services are twistd's."""
    assert environment.run("rproxy", "--version") == f"rproxy {__version__}\n"
    assert "No broken requirements found." in environment.run("python", "-m", "pip", "check")
    commands = {line.split()[0] for line in environment.run("twistd", "--help").splitlines() if line.split()}
    assert {"rproxy", "rpoolserver"} <= commands


def test_it_works(environment: Environment) -> None:
    """Packets go all the way, as in the demo, which brings its own."""
    output = environment.run("rproxy", "simulate")
    assert output.splitlines()[-1].endswith("were answered rightly, each by a server of its policy."), output


def test_quick_tests(environment: Environment, tmp_path: Path) -> None:
    """The tests that need nothing else pass."""
    clone(tmp_path)
    output = run(environment.folder / "bin" / "python", "-m", "twisted.trial", "--reporter=text", *QUICK, cwd=tmp_path)
    assert output.splitlines()[-1].startswith("PASSED"), output


def test_units(environment: Environment) -> None:
    """The units are found; they are refused only where services can't see this environment, or its Python."""
    output = environment.run("rproxy", "install-units", "--dry-run", code=None)
    assert "rproxy.service: would be written" in output or "install rproxy and its Python in /opt or /usr" in output
    package = environment.run("python", "-c", "import rproxy; print(rproxy.__path__[0])").strip()
    assert (Path(package) / "etc" / "systemd" / "rproxy.service").is_file()


def test_removed(environment: Environment) -> None:
    """In the end nothing of it stays, and twistd, which has seen its plugins, goes on without a word."""
    environment.run("twistd", "--help")
    assert environment.files()
    environment.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", "rproxy")
    assert environment.files() == set()
    output = environment.run("twistd", "--help")
    assert not any(word in output for word in ("rproxy", "rpoolserver", "Traceback"))
