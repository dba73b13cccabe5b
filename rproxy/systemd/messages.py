"""What a service and systemd say to each other: the variables that it is started with, and lines in one datagram back.

The protocol is sd_notify(3)'s. This is what is said; :mod:`rproxy.systemd.service` says it.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from rproxy.figures import Figures


@frozen
class Manager:
    """Whom a service that systemd started tells how it is.

    :ivar address: of its datagram socket, as Linux takes it: a path, or a zero byte and a name.
    :ivar watchdog: seconds without a word after which it takes the service for hung; None where it doesn't look.
    :ivar watchdog_pid: whose word that is; None for whoever has these variables.
    """

    address: str
    watchdog: float | None = None
    watchdog_pid: int | None = None


def read_manager(environ: Mapping[str, str]) -> Manager | None:
    """Return who is to be told, None where nobody asked for it.

    What isn't understood is as if it weren't there: a variable that somebody mistyped must not keep a service from
    running.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    elif not address.startswith("/"):
        return None
    microseconds = _number(environ.get("WATCHDOG_USEC", ""))
    return Manager(address, microseconds / 1e6 if microseconds else None, _number(environ.get("WATCHDOG_PID", "")))


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def datagram(fields: Mapping[str, str | int]) -> bytes:
    """Return the fields in the form that systemd reads, each on a line; what isn't printable becomes ``?``."""
    lines = (f"{name}={value}" for name, value in fields.items())
    return "\n".join("".join(each if each.isprintable() else "?" for each in line) for line in lines).encode()


def proxy_status(figures: Figures, rate: float | None) -> str:
    """Return how a proxy is, in a line.

    :param rate: packets a second lately, None if that isn't known.
    """
    policies = [policy for policy in figures.policies if policy.servers]
    up = sum(policy.servers_up for policy in policies)
    parts = [
        _count(len(policies), "policy", "policies"),
        f"{_count(up, 'server')} up of {sum(len(policy.servers) for policy in policies)}",
    ]
    if rate is not None:
        parts.append(f"{rate:.0f} packets/s")
    parts.append(f"{figures.in_flight} in flight")
    if figures.missing:
        parts.append(f"no answer from {_count(len(figures.missing), 'worker')}")
    return f"{figures.state}: {', '.join(parts)}"


def pool_status(registered: int, registrations: int, in_flight: int) -> str:
    """Return how a pool server is, in a line.

    :param registered: how many of its registrations, one for each proxy and policy, a proxy confirmed.
    """
    return f"ready: {registered} of {_count(registrations, 'registration')} confirmed, {in_flight} in flight"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"
