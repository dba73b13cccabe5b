"""Processes that this one starts: what they import, and how they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence


def environment(variables: Mapping[str, str], path: Sequence[str]) -> dict[str, str]:
    """Return the variables of a process that imports what is imported here, wherever it starts.

    :param path: where that is; call it before this process changes its folder.
    """
    return {**variables, "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in path)}  # noqa: PTH100 - as text


def how_it_ended(reason: BaseException | None) -> str:
    """Say it, for a sentence that begins with who did.

    :param reason: what Twisted gives for it.
    """
    number = getattr(reason, "signal", None)
    if number is not None:
        # Most realtime signals have a number only.
        named = number in set(signal.Signals)
        return f"was ended by {signal.Signals(number).name if named else f'signal {number}'}"
    return f"ended with exit code {getattr(reason, 'exitCode', None)}"
