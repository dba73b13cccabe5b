"""The handler that makes ``twistd rpoolserver`` keep a journal: ``--handler tests.chaos.journaling:answer``."""

from __future__ import annotations

import os
from functools import cache

from tests.chaos.journal import Journal, sha1_hex

#: The variable that names the journal's file.
VARIABLE = "CHAOS_JOURNAL"


@cache
def _journal() -> Journal:
    return Journal(os.environ[VARIABLE])


def answer(payload: str) -> str:
    """Write the packet down, and answer what every server answers."""
    digest = sha1_hex(payload)
    _journal().add(digest)
    return digest
