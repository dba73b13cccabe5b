"""A machine of a test's own: Debian with a real systemd, booted in a container within a second or two.

Its root is made by debootstrap once, which takes a minute, and kept below ``RPROXY_TEST_CACHE``, or ``~/.cache`` where
that isn't set. What a machine writes is gone with it: the root itself stays as it was made. It has its own network, of
which there is loopback only. To use it::

    if why := machine.obstacle():
        pytest.skip(why)
    with Machine() as booted:
        booted.write("/etc/systemd/system/hello.service", "[Service]\\nExecStart=/bin/echo hello\\n")
        booted.run("systemctl", "daemon-reload")
        booted.run("systemctl", "start", "hello.service")
        assert "hello" in booted.run("journalctl", "--unit=hello.service", "--output=cat")

``Machine("cloud-init", "inadyn")`` has these Debian packages besides :data:`PACKAGES`, in a root of their own that is
made by copying the first one and kept as well. What has to be there before it boots is handed in by ``binds``, as in
``Machine("cloud-init", binds={"/var/lib/cloud/seed/nocloud": folder})``. Packages are fetched from ``MIRROR``;
:func:`prepare` fetches them without booting, for whoever has a network only at first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Self
from uuid import uuid4

from tests.support import wait_for

SUITE = "bookworm"
MIRROR = os.environ.get("RPROXY_TEST_MIRROR", "http://deb.debian.org/debian")
#: What every machine has.
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv")
#: What this machine needs for it: commands, and the Debian packages that they are in.
NEEDED = {"systemd-nspawn": "systemd-container", "debootstrap": "debootstrap", "nsenter": "util-linux"}
#: Seconds for a command in the machine, for the machine to boot and to stop, and to make its root.
PATIENCE = 60.0
MAKING = 600.0

#: What commands find in the machine, and nothing else of this process's.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENVIRONMENT = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"}
#: Where cgroups are made.
CGROUPS = Path("/sys/fs/cgroup")


@cache
def obstacle() -> str:
    """Return why no machine can be booted here; an empty text if one can."""
    if sys.platform != "linux":
        return "systemd is Linux's"
    for command, package in NEEDED.items():
        if shutil.which(command, path=_ENVIRONMENT["PATH"]) is None:
            return f"the command {command} isn't here: install {package}"
    if os.geteuid() != 0:
        return "only root may boot a machine"
    if not stat.S_ISCHR(Path("/dev/null").stat().st_mode):
        return "/dev/null isn't a device here, and the machine's is made like it"
    return ""


# Its root.


def prepare(*packages: str) -> Path:
    """Return the folder of a root with these packages too; where there is none yet it is made.

    :raises AssertionError: it can't be made; the last lines of what was tried are in the text.
    """
    home = Path(os.environ.get("RPROXY_TEST_CACHE") or Path.home() / ".cache" / "rproxy-tests").absolute()
    home.mkdir(parents=True, exist_ok=True)
    names = (*PACKAGES, *sorted(packages))
    root = home / f"{SUITE}-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:12]}"
    with _locked(root.with_suffix(".lock")):
        if not root.exists():
            base = prepare() if packages else None
            with tempfile.TemporaryDirectory(prefix="making-", dir=home) as folder:
                new = Path(folder) / "root"
                if base is None:
                    include = f"--include={','.join(PACKAGES)}"
                    _make("debootstrap", "--variant=minbase", include, SUITE, str(new), MIRROR)
                else:
                    _make("cp", "--archive", "--reflink=auto", str(base), str(new))
                    _install(new, packages)
                new.rename(root)
    return root


def _install(root: Path, packages: Sequence[str]) -> None:
    """Install packages, without starting what they bring."""
    policy = root / "usr" / "sbin" / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    apt = ("chroot", str(root), "apt-get", "--quiet=2")
    _make(*apt, "update")
    _make(*apt, "install", "--yes", "--no-install-recommends", *packages)
    policy.unlink()


def _make(*argv: str) -> None:
    env = {**_ENVIRONMENT, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, timeout=MAKING, check=False
    )
    assert done.returncode == 0, f"{' '.join(argv)} failed:\n" + "\n".join(done.stdout.splitlines()[-20:])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Be the only one of all processes here."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# The machine.


class Machine:
    """One machine: boot it as a context manager.

    Two of the same packages take turns, as a root has one machine at a time.

    :param packages: Debian packages beside :data:`PACKAGES`.
    :param binds: folders of this machine that it sees, by their path there; it can't write to them.
    :cvar booting: seconds that it may take until all that boots with it is done.
    """

    booting = PATIENCE

    def __init__(self, *packages: str, binds: Mapping[str, Path] | None = None) -> None:
        self._packages = packages
        self._binds = dict(binds or {})
        #: What it is called here; another one each time.
        self.name = f"rproxy-test-{uuid4().hex[:8]}"
        self._stack = ExitStack()
        self._leader = 0

    def __enter__(self) -> Self:
        """Boot it.

        :raises AssertionError: it doesn't come up; what its console shows is in the text.
        """
        with ExitStack() as stack:
            root = prepare(*self._packages)
            stack.enter_context(_locked(root.with_suffix(".lock")))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rproxy-machine-")))
            cgroups = stack.enter_context(_own_cgroups(self.name))
            console = folder / "console"
            process = self._spawn(root, cgroups, console)
            stack.callback(self._end, process)
            try:
                self._leader = wait_for(lambda: _child_of(process), PATIENCE, "the machine's first process")
                wait_for(self._is_up, self.booting, "the machine to boot")
            except AssertionError as error:
                raise AssertionError(f"{error}:\n{console.read_text(errors='replace')}") from None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Switch it off."""
        self._stack.close()

    def run(self, *argv: str, stdin: str | bytes = "", code: int | None = 0, seconds: float = PATIENCE) -> str:
        """Run a command in the machine as root, and return what it writes to both its outputs.

        :param code: the exit code that it must have; None for any.
        :raises AssertionError: it has another; what it wrote is in the text.
        """
        done = subprocess.run(
            self.command(*argv),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            timeout=seconds,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        assert code in {None, done.returncode}, f"{' '.join(argv)}: exit code {done.returncode}\n{output}"
        return output

    def command(self, *argv: str) -> list[str]:
        """Return how to run a command in the machine, for whoever starts it without waiting for its end."""
        return ["nsenter", f"--target={self._leader}", "--all", "--", *argv]

    def wait_for(self, *argv: str, until: str, seconds: float = PATIENCE) -> re.Match[str]:
        """Run a command again and again until its output has a regular expression.

        :raises AssertionError: it never did; the last output is in the text.
        """
        wanted = re.compile(until, re.MULTILINE)
        output = ""

        def look() -> re.Match[str] | None:
            nonlocal output
            output = self.run(*argv, code=None)
            return wanted.search(output)

        try:
            return wait_for(look, seconds, f"{until!r} from {' '.join(argv)}")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{output}") from None

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file in the machine, and make its folder if need be."""
        self.run("install", "-D", f"--mode={mode:o}", "/dev/stdin", path, stdin=text)

    def copy(self, folder: Path, path: str) -> None:
        """Copy what is in a folder of this machine into one in the machine, which is made if need be."""
        packed = subprocess.run(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE, check=True)
        self.run("mkdir", "--parents", path)
        self.run("tar", "-C", path, "--no-same-owner", "-x", stdin=packed.stdout)

    def _spawn(self, root: Path, cgroups: Sequence[Path], console: Path) -> subprocess.Popen[bytes]:
        # In a cgroup of its own, because all of them use the same names below that. It is switched off when this
        # process ends, in whatever way.
        join = "".join(f"echo $$ > {cgroup}/cgroup.procs; " for cgroup in cgroups)
        argv = ["setpriv", "--pdeathsig=TERM", "systemd-nspawn", "--quiet", f"--directory={root}"]
        argv += [f"--machine={self.name}", "--register=no", "--keep-unit", "--private-network", "--volatile=overlay"]
        argv += [f"--bind-ro={path}:{place}" for place, path in self._binds.items()]
        with console.open("wb") as output:
            return subprocess.Popen(
                ["sh", "-c", f'{join}exec "$@"', "sh", *argv, "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_ENVIRONMENT,
            )

    def _is_up(self) -> bool:
        # Degraded is one of which a unit failed, as those of some packages do without a network.
        return self.run("systemctl", "is-system-running", code=None).strip() in {"running", "degraded"}

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        # Its first process takes all others along, and nothing of it is to be kept. It would outlive systemd-nspawn.
        with suppress(ProcessLookupError):
            if leader := self._leader or _child_of(process):
                os.kill(leader, signal.SIGKILL)
        process.terminate()
        process.wait(PATIENCE)


def _child_of(process: subprocess.Popen[bytes]) -> int:
    """The machine's first process, once there is one; it stays beside the ones that nspawn uses to set it up."""
    with suppress(OSError):
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            inside = re.search(r"^NSpid:.*\t1$", Path(f"/proc/{child}/status").read_text(), re.MULTILINE)
            if inside is not None and Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
    return 0


@contextmanager
def _own_cgroups(name: str) -> Iterator[list[Path]]:
    """Make a cgroup of that name wherever systemd wants one, and remove it with all that was made below."""
    tops = [top for top in (CGROUPS, CGROUPS / "unified", CGROUPS / "systemd") if (top / "cgroup.procs").exists()]
    cgroups = [top / name for top in tops]
    for cgroup in cgroups:
        cgroup.mkdir()
    try:
        yield cgroups
    finally:
        for cgroup in cgroups:
            wait_for(lambda cgroup=cgroup: _remove(cgroup), PATIENCE, f"{cgroup} to be empty")  # type: ignore[misc]


def _remove(cgroup: Path) -> bool:
    """Remove a cgroup and those below it; False while something runs there."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        try:
            Path(folder).rmdir()
        except OSError:
            return False
    return True
