"""What ends a command with a sentence."""

from __future__ import annotations


class FailedError(Exception):
    """It isn't done; the text says why, and what helps."""


class UsageError(Exception):
    """The arguments ask for what can't be; the text says what."""
