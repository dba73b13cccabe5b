"""Which process it is that says something: workers of the same number come one after the other."""

from __future__ import annotations

from typing import NamedTuple


class Process(NamedTuple):
    """One process: what it says is never taken for what another one of its number says."""

    #: Of the worker, from 1.
    number: int
    #: The how manieth of that number it is, from 1.
    generation: int
