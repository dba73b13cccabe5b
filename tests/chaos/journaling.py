"""The handler that makes ``twistd rpoolserver`` keep a journal: ``--handler tests.chaos.journaling:answer``."""

from __future__ import annotations

import os
from functools import cache

from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.chaos.journal import VARIABLE, WORK, Journal, sha1_hex


@cache
def _journal() -> Journal:
    return Journal(os.environ[VARIABLE])


async def answer(payload: str) -> str:
    """Write the packet down, and answer what every server answers when it has worked for a while."""
    digest = sha1_hex(payload)
    _journal().add(digest)
    await deferLater(reactor, WORK)
    return digest
