"""The options of ``twistd rproxy``, as the proxy takes them."""

from __future__ import annotations

from rproxy.tap import Options

LOOPBACK = "tcp:0:interface=127.0.0.1"


def parsed(*arguments: str) -> Options:
    """``twistd rproxy`` with these arguments."""
    options = Options()
    options.parseOptions(arguments)
    return options
