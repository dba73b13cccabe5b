"""What a proxy shows of itself, as text for people: sentences, and tables in columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rproxy.figures import ClientFigures, Figures, PolicyFigures, ProcessFigures, ServerFigures
from rproxy.figures.tallies import Times, quantile

SERVER_COLUMNS = (
    "POLICY",
    "SERVER",
    "ADDRESS",
    "STATE",
    "SHARE",
    "IN FLIGHT",
    "ACKED",
    "LOST",
    "P50",
    "P99",
    "WHY NOT",
)
POLICY_COLUMNS = ("POLICY", "UP", "SERVERS", "IN FLIGHT", "WAITING", "RECEIVED", "ACKED", "REFUSED", "P50", "P99")
CLIENT_COLUMNS = ("ADDRESS", "CONNECTIONS", "UNANSWERED", "HELD BACK", "REFUSED", "LEASES")
_PROCESS_COLUMNS = ("PROCESS", "PID", "UPTIME", "CONNECTIONS", "OPEN FILES", "LAG", "STORE")


def plain(text: str) -> str:
    """Return a text that may be a stranger's without what could speak to a terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    table = [head, *([plain(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]


def duration(seconds: float) -> str:
    """Return so many seconds in the unit that fits."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def size(number: int) -> str:
    """Return so many bytes in the unit that fits."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**power:
            return f"{number / 1024**power:.1f} {unit}"
    return f"{number} B"


def milliseconds(times: Times, share: float) -> str:
    """Return the time within which that share was done."""
    seconds = quantile(times, share)
    return "-" if seconds is None else f"{seconds * 1000:.3g} ms"


def states(server: ServerFigures) -> str:
    """Return the state of a server, or its states in different processes."""
    if len(server.states) == 1:
        return next(iter(server.states))
    return ", ".join(f"{number} {state}" for state, number in server.states.items())


def server_row(server: ServerFigures) -> tuple[str, ...]:
    """Return the cells below :data:`SERVER_COLUMNS`."""
    return (
        server.policy,
        server.id,
        f"{server.host}:{server.port}",
        states(server),
        f"{server.share:.0%}",
        str(server.in_flight),
        str(server.acked),
        str(server.lost),
        milliseconds(server.total_times, 0.5),
        milliseconds(server.total_times, 0.99),
        "; ".join(server.reasons),
    )


def policy_row(policy: PolicyFigures) -> tuple[str, ...]:
    """Return the cells below :data:`POLICY_COLUMNS`."""
    return (
        policy.name,
        str(policy.servers_up),
        str(len(policy.servers)),
        str(policy.in_flight),
        str(policy.waiting),
        str(policy.received),
        str(policy.acked),
        str(sum(policy.refused.values())),
        milliseconds(policy.total_times, 0.5),
        milliseconds(policy.total_times, 0.99),
    )


def client_row(client: ClientFigures) -> tuple[str, ...]:
    """Return the cells below :data:`CLIENT_COLUMNS`."""
    return (
        client.address,
        str(client.connections),
        size(client.unanswered_bytes),
        str(client.held_back),
        str(client.refused),
        str(client.leases),
    )


def _process_row(process: ProcessFigures) -> tuple[str, ...]:
    store = process.store
    away = "" if store.away is None else f" (away for {duration(store.away_for or 0.0)}: {store.away})"
    return (
        f"worker {process.number}" if process.number else "proxy",
        str(process.pid),
        duration(process.uptime),
        str(process.connections),
        f"{process.open_files} of {process.max_open_files}",
        f"{process.max_lag * 1000:.0f} ms",
        f"{store.name}{away}",
    )


def summary(figures: Figures) -> str:
    """Return what became of all packets, in a sentence."""
    counters = figures.counters
    refused = counters.get("refused", {})
    number = sum(refused.values()) if isinstance(refused, dict) else refused
    return (
        f"{counters.get('received', 0)} packets: {counters.get('acked', 0)} acked, {number} refused,"
        f" {counters.get('client_gone', 0)} whose client was gone, {figures.in_flight} in flight"
    )


def missing(figures: Figures) -> list[str]:
    """Return whose part is left out, if anybody's is."""
    numbers = ", ".join(map(str, figures.missing))
    return [f"Without what these workers didn't tell: {numbers}"] if numbers else []


def status(figures: Figures) -> list[str]:
    """Return the lines of ``rproxy status``."""
    lines = [f"rproxy {plain(figures.version)} is {plain(figures.state)}", summary(figures)]
    number = figures.client_addresses
    lines += [f"Clients at {number} address{'' if number == 1 else 'es'}", *missing(figures), ""]
    if figures.policies:
        lines += [*columns(POLICY_COLUMNS, map(policy_row, figures.policies)), ""]
    return lines + columns(_PROCESS_COLUMNS, map(_process_row, figures.processes))
