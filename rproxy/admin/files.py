"""The pages: what is in the folder ``static``, read once, so that no request can name anything else."""

from __future__ import annotations

from hashlib import sha256
from mimetypes import guess_type
from pathlib import Path

from attrs import frozen

FOLDER = Path(__file__).parent / "static"


@frozen
class File:
    """One of them.

    :ivar tag: changes with the content.
    """

    kind: str
    content: bytes
    tag: str


def read_files(folder: Path = FOLDER) -> dict[str, File]:
    """Return all files by their paths within the folder, parted by ``/``."""
    return {path.relative_to(folder).as_posix(): _read(path) for path in folder.rglob("*") if path.is_file()}


def _read(path: Path) -> File:
    content = path.read_bytes()
    kind = guess_type(path.name)[0] or "application/octet-stream"
    charset = "; charset=utf-8" if kind.startswith("text/") else ""
    return File(f"{kind}{charset}", content, f'"{sha256(content).hexdigest()[:32]}"')
