"""What the commands' arguments may be, in the form that :mod:`argparse` asks for: a value, or a sentence that helps."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable

from rproxy.packets import MAX_FIELD


def is_id(text: str) -> bool:
    """Whether a text can be an id or a policy (docs/reference/protocol.rst, Packets)."""
    return 1 <= len(text) <= MAX_FIELD and text.isprintable()


def identifier(text: str) -> str:
    """Take an id or a policy.

    :raises ArgumentTypeError: it can't be one.
    """
    if not is_id(text):
        raise ArgumentTypeError(f"{text!r} doesn't have 1 to {MAX_FIELD} printable characters")
    return text


def identifiers(text: str) -> list[str]:
    """Take several of them, with commas between them.

    :raises ArgumentTypeError: one can't be one.
    """
    return [identifier(each) for each in text.split(",")]


def seconds(text: str) -> float:
    """Take a time, in seconds.

    :raises ArgumentTypeError: it is none, or nothing.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not (math.isfinite(number) and number > 0):
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return what takes a whole number within bounds.

    :raises ArgumentTypeError: (the function) it isn't.
    """

    def take(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return number

    return take
