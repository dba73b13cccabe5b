"""The parts of the benchmark: what each measures, and how its rows are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench import access, audit, backpressure, growth, latency, memory, registry, scrape, shapes, sharing, workers
from bench.stage import Bench
from bench.tables import Column, Row, count, decimal, millis, percent, ratio, size


@dataclass(frozen=True)
class Table:
    """A table of results.

    :ivar name: also what its parts are called together.
    """

    name: str
    title: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Part:
    """Something that can be measured alone, and the table that its rows go into."""

    name: str
    table: Table
    measure: Callable[[Bench], list[Row]]


SHAPES = Table(
    "shapes",
    "Microseconds of the proxy's processor time for each message. Ratio: rproxy's divided by the peer's.",
    (
        Column("shape", "shape", str),
        Column("proxy", "who", str),
        Column("µs", "micros", decimal),
        Column("ratio", "ratio", ratio),
        Column("messages/s", "rate", count),
        Column("routes each message", "routes_each", str),
    ),
)


def _curve_table(name: str, title: str, point: Callable[[Any], str] = count) -> Table:
    columns = [Column(name, "point", point), Column("proxy", "who", str), Column("µs", "micros", decimal)]
    if name == "payloads":
        columns.append(Column("ns/byte", "nanos_per_byte", decimal))
    return Table(name, title, (*columns, Column("ratio", "ratio", ratio), Column("messages/s", "rate", count)))


CURVES = {
    "clients": _curve_table(
        "clients", "Microseconds for each message by clients, of which 50 at most send and the others idle."
    ),
    "policies": _curve_table("policies", "Microseconds for each message by policies, over four servers."),
    "servers": _curve_table("servers", "Microseconds for each message by servers, over two policies."),
    "payloads": _curve_table(
        "payloads", "Microseconds for each message, and nanoseconds for each byte, by the size of the payload.", size
    ),
}

MEMORY = Table(
    "memory",
    "Memory of the proxy for each idle client connection.",
    (
        Column("proxy", "who", str),
        Column("clients", "clients", count),
        Column("that have sent", "sent", str),
        Column("bytes each", "bytes_each", count),
        Column("MiB before", "before", lambda n: decimal(n / 2**20)),
        Column("MiB with them", "after", lambda n: decimal(n / 2**20)),
    ),
)

AUDIT = Table(
    "audit",
    "Microseconds of the proxy's processor time for each message, without an audit trail and with one.",
    (
        Column("shape", "shape", str),
        Column("µs without", "without", decimal),
        Column("µs with", "with", decimal),
        Column("µs more", "more", decimal),
        Column("messages/s without", "rate_without", count),
        Column("messages/s with", "rate", count),
    ),
)

SCRAPE = Table(
    "scrape",
    "Milliseconds of processor time that a scrape takes, by registered servers: the figures, in one turn of the"
    " reactor, and the text, in many; of those the longest, and of all turns of all rounds the longest.",
    (
        Column("servers", "servers", count),
        Column("figures", "figures", millis),
        Column("text", "metrics", millis),
        Column("turn", "turn", millis),
        Column("longest", "longest", millis),
        Column("KiB", "bytes", lambda n: decimal(n / 2**10)),
    ),
)

ACCESS = Table(
    "access",
    "Microseconds of the proxy's processor time for each message, without an access log, with one, and with one of one"
    " packet in a hundred.",
    (
        Column("shape", "shape", str),
        Column("µs without", "without", decimal),
        Column("µs with", "with", decimal),
        Column("µs more", "more", decimal),
        Column("µs sampled", "sampled", decimal),
        Column("messages/s without", "rate_without", count),
        Column("messages/s with", "rate", count),
    ),
)

LATENCY = Table(
    "latency",
    "Milliseconds from when a message was to be sent to its answer, at half the rate that rproxy can take.",
    (
        Column("proxy", "who", str),
        Column("messages/s", "rate", count),
        Column("p50", "p50", millis),
        Column("p90", "p90", millis),
        Column("p99", "p99", millis),
        Column("p99.9", "p999", millis),
        Column("of one processor", "busy", percent),
    ),
)

BACKPRESSURE = Table(
    "backpressure",
    f"Milliseconds of {backpressure.CLIENTS} well-behaved clients, {backpressure.RATE} messages/s together, before"
    " others come, with them, and after; and the most memory that rproxy ever had.",
    (
        Column("the others", "others", str),
        Column("p50 before", "p50_before", millis),
        Column("p50 with", "p50_with", millis),
        Column("p99 before", "p99_before", millis),
        Column("p99 with", "p99_with", millis),
        Column("p99 after", "p99_after", millis),
        Column("MiB peak", "peak", lambda n: decimal(n / 2**20)),
    ),
)


WORKERS = Table(
    "workers",
    "Microseconds of the processor time of all the proxy's processes for each message, with one that serves and with"
    " two and their parent; with the clients and pool servers on all processors, and with everything on one. Share:"
    " what the one of two workers had that had more.",
    (
        Column("shape", "shape", str),
        Column("processors", "processors", str),
        Column("µs with one", "one", decimal),
        Column("µs with two", "two", decimal),
        Column("ratio", "more", ratio),
        Column("messages/s with one", "rate_one", count),
        Column("with two", "rate_two", count),
        Column("processors that one took", "busy_one", ratio),
        Column("two", "busy_two", ratio),
        Column("share of connections", "share_connections", percent),
        Column("of messages", "share_messages", percent),
        Column("of time", "share_time", percent),
    ),
)

SHARING = Table(
    "sharing",
    "Milliseconds from a server's setup packet to its acknowledgement, to the server's answer to a packet that came to"
    " another process then, and, without a packet, until that process had found the server.",
    (
        Column("the other", "other", str),
        Column("of each", "count", count),
        Column("acknowledged", "acknowledged", millis),
        Column("answered p50", "answered", millis),
        Column("p99", "answered_p99", millis),
        Column("refused before", "refusals", count),
        Column("found p50", "found", millis),
        Column("p99", "found_p99", millis),
    ),
)

REGISTRY = Table(
    "registry",
    "What proxies with servers that do nothing but renew their leases take. Busy: of one processor.",
    (
        Column("store", "store", str),
        Column("proxies", "proxies", count),
        Column("servers", "servers", count),
        Column("renewals/s", "renewals", decimal),
        Column("exchanges/s", "exchanges", decimal),
        Column("Redis busy", "redis_busy", lambda n: f"{n * 100:.2f} %"),
        Column("µs each", "redis_micros", decimal),
        Column("proxy busy", "proxy_busy", lambda n: f"{n * 100:.2f} %"),
        Column("most of them", "proxy_busy_most", lambda n: f"{n * 100:.2f} %"),
        Column("KB/s to Redis", "bytes_in", lambda n: decimal(n / 1e3)),
        Column("from it", "bytes_out", lambda n: decimal(n / 1e3)),
        Column("MB in Redis", "redis_memory", lambda n: decimal(n / 1e6)),
        Column("bytes a server", "redis_bytes_each", count),
    ),
)

DEATHS = Table(
    "deaths",
    "Milliseconds until the other proxies have ended a registration.",
    (
        Column("what", "what", str),
        Column("ends", "count", count),
        Column("least", "least", millis),
        Column("p50", "median", millis),
        Column("p99", "p99", millis),
        Column("most", "most", millis),
    ),
)

PARTS = (
    *(Part(shape.name, SHAPES, shape.measure) for shape in shapes.SHAPES),
    *(Part(curve.name, CURVES[curve.name], curve.measure) for curve in growth.CURVES),
    Part("memory", MEMORY, memory.measure),
    Part("audit", AUDIT, audit.measure),
    Part("scrape", SCRAPE, scrape.measure),
    Part("access", ACCESS, access.measure),
    Part("latency", LATENCY, latency.measure),
    Part("workers", WORKERS, workers.measure),
    Part("sharing", SHARING, sharing.measure),
    Part("registry", REGISTRY, registry.measure),
    Part("deaths", DEATHS, registry.measure_deaths),
    *(Part(others.name, BACKPRESSURE, others.measure) for others in backpressure.OTHERS),
)

#: What can be asked for, and what that is: each part, and all parts of a table.
CHOICES = {
    **{part.table.name: tuple(other for other in PARTS if other.table is part.table) for part in PARTS},
    **{part.name: (part,) for part in PARTS},
}
