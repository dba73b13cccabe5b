"""What has to be where for systemd to run an installation of rproxy: the units with its paths, and example settings.

``etc/systemd`` has the units, for an installation in :data:`DEFAULT`. They close the services in, so there are places
where an installation can't be seen from inside (:func:`obstacle`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

#: The folder with what is installed: a link to ``etc`` in the sources.
FOLDER = Path(__file__).parent.parent / "etc"
#: What the units have in the place of an installation's own.
DEFAULT = "/opt/rproxy/bin/twistd"
#: The first version of systemd that waits longer and longer.
BACKOFF_SINCE = 254

_UNITS = Path("etc/systemd/system")
#: Where an operator has settings.
SETTINGS = Path("etc/rproxy")
_SERVICES = ("rproxy.service", "rpoolserver@.service")
#: What a service doesn't see, by ProtectHome and PrivateTmp.
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))


@frozen
class Place:
    """A file to be put in place.

    :ivar path: where, below the root of the system or what stands for it.
    :ivar is_operators: it is only an example: what is there already stays.
    """

    path: Path
    text: str
    mode: int = 0o644
    is_operators: bool = False


def places(twistd: Path, systemd_version: int) -> Iterator[Place]:
    """What has to be in place.

    :param twistd: the installation's.
    :param systemd_version: of the system that it is for, 0 if nobody knows.
    """
    units = FOLDER / "systemd"
    for name in ("rproxy.socket", *_SERVICES):
        # A percent sign is the first of two characters that mean something else in a unit.
        text = (units / name).read_text("utf-8").replace(DEFAULT, str(twistd).replace("%", "%%"))
        yield Place(_UNITS / name, text)
    if systemd_version >= BACKOFF_SINCE:
        text = (units / "backoff.conf").read_text("utf-8")
        yield from (Place(_UNITS / f"{name}.d" / "backoff.conf", text) for name in _SERVICES)
    text = (units / "credentials.conf").read_text("utf-8")
    yield Place(_UNITS / "rproxy.service.d" / "credentials.conf", text, is_operators=True)
    for path in sorted((FOLDER / "rproxy").iterdir()):
        # Options may have a password, and systemd reads them. All else is read by the services.
        mode = 0o640 if path.suffix == ".conf" else 0o644
        yield Place(SETTINGS / path.name, path.read_text("utf-8"), mode, is_operators=True)


def obstacle(twistd: Path, parts: Sequence[Path]) -> str:
    """Return why the services couldn't run this installation, and what helps; an empty text if they can.

    :param parts: files and folders of it, the interpreter's too.
    """
    if any(not each.isprintable() or each in "\"'\\ $" for each in str(twistd)):
        return (
            f"{twistd} can't be written into a unit: install rproxy in a folder with a plain name, such as /opt/rproxy"
        )
    paths = [path for part in (twistd, *parts) for path in (part.absolute(), part.resolve())]
    for path in paths:
        where = next((hidden for hidden in _HIDDEN if path.is_relative_to(hidden)), None)
        if where is not None:
            return f"services don't see {where}, and {path} is there: install rproxy and its Python in /opt or /usr"
    closed = next(filter(None, map(_closed, paths)), None)
    if closed is not None:
        return f"services run as other users, and can't read {closed}: chmod -R go+rX {closed}"
    return ""


def _closed(path: Path) -> Path | None:
    """The first of a path's folders, or itself, that not everybody may read or walk through."""
    try:
        for folder in (*reversed(path.parents), path):
            mode = folder.stat().st_mode
            if not mode & (stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH):
                return folder
    except OSError:
        return path
    return None
