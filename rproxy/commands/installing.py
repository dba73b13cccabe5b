"""``rproxy install-units``: has systemd run this installation."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import rproxy
from rproxy.systemd import units
from rproxy.systemd.units import Place

_NEXT = """\
Next:
  systemctl daemon-reload
  systemctl enable --now rproxy.service          # the proxy, with its ports
  systemctl enable --now rpoolserver@100.service # a pool server, with the settings of /etc/rproxy/100.conf"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.description = (
        "Put the units for systemd in place, in /etc/systemd/system and with the paths of this installation, and"
        " example settings in /etc/rproxy. Units that differ are replaced; settings that are there are kept. Run it"
        " again after an upgrade."
    )
    parser.add_argument(
        "--prefix", type=Path, default=Path("/"), metavar="DIR", help="what stands for / [default: / itself]"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def run(args: argparse.Namespace) -> int:
    """Do it, and return the exit code: 1 where it can't be done."""
    twistd = Path(sysconfig.get_path("scripts")) / "twistd"
    parts = [Path(sys.executable), Path(os.__file__), Path(rproxy.__file__)]
    # The services are other users, and have to get to what is written, whatever whoever runs this keeps to themselves.
    mask = os.umask(0o022)
    try:
        return install(twistd, parts, args.prefix, dry_run=args.dry_run)
    finally:
        os.umask(mask)


def install(twistd: Path, parts: list[Path], prefix: Path, *, dry_run: bool) -> int:
    """Put everything in place for an installation, say so, and return the exit code.

    :param twistd: the installation's.
    :param parts: see :func:`rproxy.systemd.units.obstacle`.
    """
    why = units.obstacle(twistd, parts)
    if not why and prefix == Path("/") and os.geteuid() != 0 and not dry_run:
        why = "only root may write there: run it by sudo, or see what it would do by --dry-run"
    if why:
        return _fail(why)
    verb = "would be " if dry_run else ""
    # An example that the operator took out is to stay out.
    has_settings = _has_settings(prefix / units.SETTINGS)
    path = prefix
    try:
        for place in units.places(twistd, _systemd_version()):
            path = prefix / place.path
            what = _difference(path, place, has_settings)
            if what in {"written", "replaced"}:
                print(f"{path}: {verb}{what}")
                if not dry_run:
                    _write(path, place)
            else:
                print(f"{path}: {what}")
    except OSError as error:
        # Where a disk is full, the error doesn't say which file it was.
        return _fail(f"{error.filename or path}: {error.strerror}")
    if not dry_run:
        _list_plugins()
    print(_NEXT)
    return 0


def _fail(why: str) -> int:
    print(f"rproxy install-units: {why}", file=sys.stderr)
    return 1


def _has_settings(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _difference(path: Path, place: Place, has_settings: bool) -> str:
    if path.is_symlink():
        # What it leads to isn't to be written: systemctl mask has a unit lead to /dev/null.
        return "kept, as it is a link"
    if not path.exists():
        return "left out, as there are settings" if place.is_operators and has_settings else "written"
    if place.is_operators:
        return "kept"
    return "as it should be" if path.read_bytes() == place.text.encode() else "replaced"


def _write(path: Path, place: Place) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(place.text.encode())
    path.chmod(place.mode)


def _list_plugins() -> None:
    """Have twistd's list of its plugins up to date: as a service it can't write that, and complains at each start."""
    from twisted.application.service import IServiceMaker
    from twisted.plugin import getPlugins

    list(getPlugins(IServiceMaker))


def _systemd_version() -> int:
    """The version that this machine has, 0 if it has none."""
    try:
        done = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=10, check=False)
        return int(done.stdout.split()[1].split(".")[0].split("~")[0])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return 0
