"""How pytest runs the tests: trial's asynchronous test cases first."""

import signal

import pytest
from twisted.trial.unittest import TestCase


def pytest_configure() -> None:
    """Have what tests start end by Ctrl-C, also where the tests themselves run in a shell's background, deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the test cases that run the reactor to the front, and change no other order.

    Such a test case runs the reactor itself, for as long as it needs it. pytest-twisted starts the same reactor at the
    first test that is a plain function, asynchronous or not, and never stops it until the end. A reactor that already
    runs can't be run once more: trial would return at once and report a dirty reactor.
    """
    items.sort(key=lambda item: not _runs_the_reactor(item))


def _runs_the_reactor(item: pytest.Item) -> bool:
    case = getattr(item, "cls", None)
    return isinstance(case, type) and issubclass(case, TestCase)
