"""Whether all views of the proxy show the same: what the API has is what the others have to have, and no more.

What each metric is to the API is said here once more, so that it can be seen that the proxy says it rightly.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.views import Figures, Views, steady

#: Upper bounds of the classes of times that metrics have, in seconds.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Metrics of the whole proxy that are counters, and what the API calls them.
COUNTERS = {
    "rproxy_packets_received_total": "received",
    "rproxy_packets_acked_total": "acked",
    "rproxy_packets_client_gone_total": "client_gone",
    "rproxy_packets_wrong_size_total": "wrong_size",
    "rproxy_packets_redispatched_total": "redispatched",
    "rproxy_packets_retried_total": "retried",
    "rproxy_answers_swallowed_total": "swallowed",
    "rproxy_violations_total": "violations",
    "rproxy_registrations_total": "registered",
    "rproxy_connections_accepted_total": "accepted",
    "rproxy_received_bytes_total": "bytes_received",
    "rproxy_sent_bytes_total": "bytes_sent",
}
#: What metrics and the API have of policies, by the same names.
OF_POLICY = ("received", "acked", "client_gone", "retried", "in_flight", "waiting")
#: Metrics of servers, and what the API calls them.
OF_SERVER = {
    "rproxy_server_weight": "weight",
    "rproxy_server_connections": "connections",
    "rproxy_server_packets_in_flight": "in_flight",
    "rproxy_server_registrations_total": "registrations",
    "rproxy_server_packets_acked_total": "acked",
    "rproxy_server_packets_lost_total": "lost",
    "rproxy_server_downs_total": "downs",
}
STATES = ("up", "down", "draining", "held")
#: Those that say something else a moment later, and what the API calls them.
MOVING = {
    "rproxy_server_share_ratio": "share",
    "rproxy_server_lease_left_seconds": "lease_left",
    "rproxy_process_uptime_seconds": "uptime",
    "rproxy_process_open_files": "open_files",
    "rproxy_process_lag_seconds": "lag",
    "rproxy_process_max_lag_seconds": "max_lag",
    "rproxy_process_store_away_seconds": "away_for",
}

#: Of those, what only grows as long as nothing happens.
GROWING = ("rproxy_process_uptime_seconds", "rproxy_server_share_ratio")

#: A line of the metrics: name and labels.
Line = tuple[str, frozenset[tuple[str, str]]]


def differences(views: Views) -> Iterator[str]:
    """Give each figure that isn't the same everywhere."""
    shown = steady(views.after)
    rows = [server for policy in shown["policies"] for server in policy["servers"]]
    listed = steady({"processes": [], "policies": [{"servers": views.servers}]})["policies"][0]["servers"]
    for name, here, there in (
        ("the API, a moment before", shown, steady(views.before)),
        ("rproxy status", shown, steady(views.status)),
        ("the page's stream", shown, steady(views.stream)),
        ("rproxy servers", rows, listed),
    ):
        for difference in _differences(here, there):
            yield f"{name}: {difference}"
    found = _read(views.metrics)
    expected = dict(_lines(shown))
    for line in sorted(found.keys() | expected.keys(), key=repr):
        if line[0] not in MOVING and found.get(line) != expected.get(line):
            yield f"/metrics: {line} is {found.get(line)} and not {expected.get(line)}"
    yield from _moving(views, found)


def _differences(here: Any, there: Any, path: str = "") -> Iterator[str]:
    """Give each place where two values of JSON aren't the same."""
    if isinstance(here, dict) and isinstance(there, dict):
        for key in {**here, **there}:
            yield from _differences(here.get(key), there.get(key), f"{path}.{key}")
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        for number, pair in enumerate(zip(here, there, strict=True)):
            yield from _differences(*pair, f"{path}[{number}]")
    elif here != there:
        yield f"{path} is {there!r} and not {here!r}"


def _read(text: str) -> dict[Line, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _line(name: str, value: float, **labels: object) -> tuple[Line, float]:
    return (name, frozenset((label, str(text)) for label, text in labels.items())), value


def _lines(figures: Figures) -> Iterator[tuple[Line, float]]:
    """Give all that metrics have to say, but for what moves."""
    counters = figures["counters"]
    yield _line("rproxy_build_info", 1, version=figures["version"])
    yield _line("rproxy_draining", figures["state"] == "draining")
    yield _line("rproxy_packets_in_flight", figures["in_flight"])
    yield _line("rproxy_client_addresses", figures["client_addresses"])
    yield _line("rproxy_processes_missing", len(figures["missing"]))
    for name, counter in COUNTERS.items():
        yield _line(name, counters[counter])
    for code, number in counters["refused"].items():
        yield _line("rproxy_packets_refused_total", number, code=code)
    for code, number in counters["setup_refused"].items():
        yield _line("rproxy_registrations_refused_total", number, code=code)
    for policy in figures["policies"]:
        yield from _policy_lines(policy)
        for server in policy["servers"]:
            yield from _server_lines(server)
    for process in figures["processes"]:
        yield from _process_lines(process)


def _policy_lines(policy: dict[str, Any]) -> Iterator[tuple[Line, float]]:
    name, times = policy["name"], policy["total_times"]
    for what in OF_POLICY:
        end = "" if what in ("in_flight", "waiting") else "_total"
        yield _line(f"rproxy_policy_packets_{what}{end}", policy[what], policy=name)
    for code, number in policy["refused"].items():
        yield _line("rproxy_policy_packets_refused_total", number, policy=name, code=code)
    up = sum("up" in server["states"] or "held" in server["states"] for server in policy["servers"])
    yield _line("rproxy_policy_servers", len(policy["servers"]), policy=name)
    yield _line("rproxy_policy_servers_up", up, policy=name)
    for bound, number in zip((*BOUNDS, "+Inf"), accumulate(times[:-1]), strict=True):
        yield _line("rproxy_policy_latency_seconds_bucket", number, policy=name, le=bound)
    yield _line("rproxy_policy_latency_seconds_count", sum(times[:-1]), policy=name)
    yield _line("rproxy_policy_latency_seconds_sum", times[-1], policy=name)


def _server_lines(server: dict[str, Any]) -> Iterator[tuple[Line, float]]:
    who = {"policy": server["policy"], "server": server["id"]}
    yield _line("rproxy_server_info", 1, **who, host=server["host"], port=server["port"])
    for state in STATES:
        yield _line("rproxy_server_state", server["states"].get(state, 0), **who, state=state)
    for name, what in OF_SERVER.items():
        yield _line(name, server[what], **who)
    for name, times in ("latency", server["total_times"]), ("answer", server["times"]):
        yield _line(f"rproxy_server_{name}_seconds_count", sum(times[:-1]), **who)
        yield _line(f"rproxy_server_{name}_seconds_sum", times[-1], **who)


def _process_lines(process: dict[str, Any]) -> Iterator[tuple[Line, float]]:
    number, store = process["number"], process["store"]
    yield _line("rproxy_process_connections", process["connections"], process=number)
    yield _line("rproxy_process_max_open_files", process["max_open_files"], process=number)
    yield _line("rproxy_process_store_away", store["away"] is not None, process=number)
    yield _line("rproxy_process_store_processes", store["processes"], process=number)


def _moving(views: Views, found: dict[Line, float]) -> Iterator[str]:
    """What moves is there where the API has it; and what only grows is between what it was before and after."""
    before, after = dict(_moving_lines(views.before)), dict(_moving_lines(views.after))
    there = {line for line in found if line[0] in MOVING}
    for line in there ^ after.keys():
        yield f"/metrics and the API don't both have {line}"
    for line in there & before.keys() & after.keys():
        # The mean of several may be off by a rounding.
        if line[0] in GROWING and not before[line] - 1e-9 <= found[line] <= after[line] + 1e-9:
            yield f"/metrics: {line} is {found[line]}, was {before[line]} and then {after[line]}"


def _moving_lines(figures: Figures) -> Iterator[tuple[Line, float]]:
    servers = [server for policy in figures["policies"] for server in policy["servers"]]
    for name, what in MOVING.items():
        if name.startswith("rproxy_server_"):
            for server in servers:
                if server[what] is not None:
                    yield _line(name, server[what], policy=server["policy"], server=server["id"])
            continue
        for process in figures["processes"]:
            value = (process["store"][what] or 0) if what == "away_for" else process[what]
            yield _line(name, value, process=process["number"])
