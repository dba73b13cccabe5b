"""What Prometheus is told (docs/reference/metrics.rst): all metrics, each with where it stands in the figures.

How many lines there are is bounded: by the servers that are registered at the time, and by the policies that are told
apart (:mod:`rproxy.figures.tallies`). The policies beyond that are one, with the label ``policy=""``. Of times, servers
have sums and counts only, because classes for each server would be most of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from rproxy.admin.exposition import Labels, Metric, Part, Rows, Values, by, histogram, label, one, render, summary, told
from rproxy.figures import Figures, ProcessFigures, ServerFigures

#: The states of servers, in the words of :class:`rproxy.figures.ServerFigures`. Each is shown, be it by a zero: an
#: alert can't look for what isn't there.
STATES = ("up", "down", "draining", "held")


def make_metrics(figures: Figures) -> Iterator[bytes]:
    """All metrics as Prometheus reads them, in pieces; :data:`rproxy.admin.exposition.CONTENT_TYPE` is their type."""
    return render(PARTS, figures)


def _counter(name: str) -> Values:
    """One of :class:`rproxy.figures.counters.Counters`, by its name."""
    return one(lambda figures: figures.counters[name])


def _codes(name: str) -> Values:
    """One that has a number for each error code."""
    return by(lambda figures: figures.counters[name])


def _of(name: str) -> Values:
    """An attribute."""
    return one(attrgetter(name))


def _proxy(figures: Figures) -> Rows:
    return [((), figures)]


def _policies(figures: Figures) -> Rows:
    return ((label(policy.name), policy) for policy in figures.policies)


def _servers(figures: Figures) -> Rows:
    return ((label(server.policy, server.id), server) for policy in figures.policies for server in policy.servers)


def _processes(figures: Figures) -> Rows:
    return ((label(process.number), process) for process in figures.processes)


def _states(server: ServerFigures) -> dict[str, float]:
    return {state: server.states.get(state, 0) for state in STATES}


def _place(server: ServerFigures) -> Labels:
    return label(server.host, server.port)


def _file_limit(process: ProcessFigures) -> int | None:
    # Below 0 is the system's way to say that there is none.
    return process.max_open_files if process.max_open_files >= 0 else None


PROXY = (
    Metric(
        "rproxy_build_info",
        "gauge",
        "Always 1; the version is in the label.",
        told(lambda figures: label(figures.version)),
        ("version",),
    ),
    Metric(
        "rproxy_draining",
        "gauge",
        "Whether the proxy was told to stop and takes no new packets: 1 or 0.",
        one(lambda figures: int(figures.state == "draining")),
    ),
    Metric(
        "rproxy_packets_received_total",
        "counter",
        "Packets that ask for an answer: data packets, and whatever was refused as no packet.",
        _counter("received"),
    ),
    Metric("rproxy_packets_acked_total", "counter", "ACKs written to clients.", _counter("acked")),
    Metric(
        "rproxy_packets_refused_total",
        "counter",
        "Error packets written to clients, by error code.",
        _codes("refused"),
        ("code",),
    ),
    Metric(
        "rproxy_packets_client_gone_total",
        "counter",
        "Packets whose client was gone before its answer.",
        _counter("client_gone"),
    ),
    Metric(
        "rproxy_packets_in_flight",
        "gauge",
        "Packets received and not yet answered, those in waiting lines too.",
        _of("in_flight"),
    ),
    Metric(
        "rproxy_packets_wrong_size_total",
        "counter",
        "Packets and answers whose payloadsize was wrong and that were let pass.",
        _counter("wrong_size"),
    ),
    Metric(
        "rproxy_packets_redispatched_total",
        "counter",
        "Packets given to another server because the first got not one byte of them.",
        _counter("redispatched"),
    ),
    Metric(
        "rproxy_packets_retried_total",
        "counter",
        "Packets given to another server although the first may have had them, as their policy allows.",
        _counter("retried"),
    ),
    Metric(
        "rproxy_answers_swallowed_total",
        "counter",
        "Answers of servers that came after their packet's deadline or client was gone, and went to nobody.",
        _counter("swallowed"),
    ),
    Metric(
        "rproxy_violations_total",
        "counter",
        "Packets that were about to be written to a server of another policy, and were not. It must stay 0.",
        _counter("violations"),
    ),
    Metric(
        "rproxy_registrations_total",
        "counter",
        "Registrations that setup packets made, anew or with other terms.",
        _counter("registered"),
    ),
    Metric(
        "rproxy_registrations_refused_total",
        "counter",
        "Setup packets refused, by error code.",
        _codes("setup_refused"),
        ("code",),
    ),
    Metric(
        "rproxy_connections_accepted_total",
        "counter",
        "Connections of clients and of registering servers that were accepted.",
        _counter("accepted"),
    ),
    Metric("rproxy_received_bytes_total", "counter", "Bytes of data packets received.", _counter("bytes_received")),
    Metric("rproxy_sent_bytes_total", "counter", "Bytes of answers written to clients.", _counter("bytes_sent")),
    Metric(
        "rproxy_client_addresses",
        "gauge",
        "Addresses that clients have connections from; of IPv6, networks of /64.",
        _of("client_addresses"),
    ),
    Metric(
        "rproxy_processes_missing",
        "gauge",
        "How many of several workers are left out, as they don't answer or are being replaced.",
        one(lambda figures: len(figures.missing)),
    ),
)

POLICY = (
    Metric(
        "rproxy_policy_packets_received_total",
        "counter",
        "Data packets of the policy received, from when it had its first server on.",
        _of("received"),
    ),
    Metric("rproxy_policy_packets_acked_total", "counter", "ACKs of the policy written to clients.", _of("acked")),
    Metric(
        "rproxy_policy_packets_refused_total",
        "counter",
        "Error packets in answer to packets of the policy written to clients, by error code.",
        by(attrgetter("refused")),
        ("code",),
    ),
    Metric(
        "rproxy_policy_packets_client_gone_total",
        "counter",
        "Packets of the policy whose client was gone before their answer.",
        _of("client_gone"),
    ),
    Metric(
        "rproxy_policy_packets_retried_total",
        "counter",
        "Packets of the policy given to another server although the first may have had them.",
        _of("retried"),
    ),
    Metric(
        "rproxy_policy_packets_in_flight",
        "gauge",
        "Packets of the policy received and not yet answered, those that wait too.",
        _of("in_flight"),
    ),
    Metric(
        "rproxy_policy_packets_waiting",
        "gauge",
        "Packets of the policy in line for a server, also those whose client has left it.",
        _of("waiting"),
    ),
    Metric(
        "rproxy_policy_servers",
        "gauge",
        "Servers that are registered for the policy.",
        one(lambda policy: len(policy.servers)),
    ),
    Metric(
        "rproxy_policy_servers_up",
        "gauge",
        "Servers of the policy that are up or held, in one of the proxy's processes at least.",
        one(lambda policy: policy.servers_up),
    ),
    Metric(
        "rproxy_policy_latency_seconds",
        "histogram",
        "Seconds from a packet's being read to its ACK's being written, of each ACK.",
        histogram(attrgetter("total_times")),
    ),
)

SERVER = (
    Metric(
        "rproxy_server_info",
        "gauge",
        "Always 1; where the server is, in the labels.",
        told(_place),
        ("host", "port"),
    ),
    Metric(
        "rproxy_server_state",
        "gauge",
        "In how many of the proxy's processes the server is up, down, draining, or held to its open connections.",
        by(_states),
        ("state",),
    ),
    Metric(
        "rproxy_server_share_ratio",
        "gauge",
        "How much of its turns the server gets now, from 0 to 1: less than 1 after it was down.",
        _of("share"),
    ),
    Metric("rproxy_server_weight", "gauge", "The weight that the server declared.", _of("weight")),
    Metric("rproxy_server_connections", "gauge", "Connections to the server that are open.", _of("connections")),
    Metric(
        "rproxy_server_packets_in_flight",
        "gauge",
        "Packets of the policy written to the server that still wait for an answer.",
        _of("in_flight"),
    ),
    Metric(
        "rproxy_server_lease_left_seconds",
        "gauge",
        "Seconds that the server's lease lasts unless it is renewed; missing where there is none.",
        _of("lease_left"),
    ),
    Metric(
        "rproxy_server_registrations_total",
        "counter",
        "Times that the server was registered, anew or with other terms.",
        _of("registrations"),
    ),
    Metric("rproxy_server_packets_acked_total", "counter", "ACKs of the server written to clients.", _of("acked")),
    Metric(
        "rproxy_server_packets_lost_total",
        "counter",
        "Packets written to the server whose connection was lost before their answer.",
        _of("lost"),
    ),
    Metric("rproxy_server_downs_total", "counter", "Times that the server went down.", _of("downs")),
    Metric(
        "rproxy_server_latency_seconds",
        "summary",
        "Seconds from a packet's being read to its ACK's being written, of each ACK.",
        summary(attrgetter("total_times")),
    ),
    Metric(
        "rproxy_server_answer_seconds",
        "summary",
        "Seconds from a packet's being written to the server to its answer, of a sample: one answer of each read.",
        summary(attrgetter("times")),
    ),
)

PROCESS = (
    Metric("rproxy_process_uptime_seconds", "gauge", "Seconds since the process began.", _of("uptime")),
    Metric(
        "rproxy_process_connections",
        "gauge",
        "Connections of clients and of registering servers that are open.",
        _of("connections"),
    ),
    Metric("rproxy_process_open_files", "gauge", "Open files, sockets too.", _of("open_files")),
    Metric(
        "rproxy_process_max_open_files",
        "gauge",
        "How many files the process may open; missing where there is no limit.",
        one(_file_limit),
    ),
    Metric(
        "rproxy_process_lag_seconds", "gauge", "Seconds by which a timer was late when it was due last.", _of("lag")
    ),
    Metric(
        "rproxy_process_max_lag_seconds",
        "gauge",
        "Seconds by which one was late at most, of a minute.",
        _of("max_lag"),
    ),
    Metric(
        "rproxy_process_store_away",
        "gauge",
        "Whether the place where registrations are kept can't be used: 1 or 0.",
        one(lambda process: int(process.store.away is not None)),
    ),
    Metric(
        "rproxy_process_store_away_seconds",
        "gauge",
        "Seconds for which that has been so; 0 while it can.",
        one(lambda process: process.store.away_for or 0),
    ),
    Metric(
        "rproxy_process_store_processes",
        "gauge",
        "Processes that share that place, this one too.",
        _of("store.processes"),
    ),
)

PARTS = (
    Part((), _proxy, PROXY),
    Part(("policy",), _policies, POLICY),
    Part(("policy", "server"), _servers, SERVER),
    Part(("process",), _processes, PROCESS),
)
