"""What the page has to show of figures, in its own words: said once more, and not by the page's code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: What is shown where there is no number.
NOTHING = "\N{EN DASH}"
#: Fields that the page makes of the last seconds: rates, quantiles, and trouble. They have tests of their own, and a
#: timer's being late is too short to be looked at twice.
MADE = {
    "summary": {"rate", "errors", "p50", "p99", "trouble"},
    "policy": {"rate", "errorRate", "p50", "p99", "trouble"},
    "server": {"rate", "p99"},
    "process": {"lag", "maxLag"},
}
#: What is shown of one moment: JavaScript that returns it as :func:`page_fields` has it, with all fields.
READ = """
const fieldsOf = (...parts) => Object.fromEntries(parts.flatMap(part => [...part.querySelectorAll('[data-field]')])
    .map(each => [each.dataset.field, each.textContent]));
const found = {summary: fieldsOf(document.getElementById('summary'))};
for (const policy of document.querySelectorAll('tbody.policy')) {
    const head = fieldsOf(policy.querySelector('.head'), policy.querySelector('.detail .hint'));
    found[`policy ${head.name}`] = head;
    for (const row of policy.querySelectorAll('.servers tbody tr')) {
        const server = fieldsOf(row);
        found[`server ${head.name}/${server.id}`] = server;
    }
}
for (const row of document.querySelectorAll('#clients tr')) {
    const client = fieldsOf(row);
    found[`client ${client.address}`] = client;
}
for (const row of document.querySelectorAll('#processes tr')) {
    const process = fieldsOf(row);
    found[`process ${process.name}`] = process;
}
return found;
"""

Fields = dict[str, str]


def count(number: float) -> str:
    """A count."""
    return f"{number:,.0f}"


def policy_fields(policy: dict[str, Any]) -> Fields:
    """The fields of a policy's row, and of what is below it."""
    refused = policy["refused"]
    codes = ", ".join(f"{code} {count(number)}" for code, number in refused.items())
    up = sum(_worst(server) == "up" for server in policy["servers"])
    errors = f"Errors: {codes}." if codes else "No errors."
    return {
        "name": policy["name"],
        "description": policy["description"],
        "servers": f"{up} of {len(policy['servers'])} up",
        "waiting": count(policy["waiting"]),
        "inFlight": count(policy["in_flight"]),
        "acked": count(policy["acked"]),
        "errors": count(sum(refused.values())),
        "codes": f"{errors} Retried: {count(policy['retried'])}. Client gone: {count(policy['client_gone'])}.",
    }


def server_fields(server: dict[str, Any], processes: int) -> Fields:
    """The fields of a server's row."""
    return {
        "id": server["id"],
        "address": f"{server['host']}:{server['port']}",
        "state": _listed(server["states"], processes),
        "reasons": _listed(server["reasons"], processes),
        "inFlight": count(server["in_flight"]),
        "acked": count(server["acked"]),
        "lost": count(server["lost"]),
    }


def client_fields(client: dict[str, Any]) -> Fields:
    """The fields of the row of a client's address."""
    size, unit = client["unanswered_bytes"], "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size >= 1024:
            size, unit = size / 1024, larger
    return {
        "address": client["address"],
        "connections": count(client["connections"]),
        "unanswered": f"{size} B" if unit == "B" else f"{size:.1f} {unit}",
        "heldBack": "yes" if client["held_back"] else "no",
        "refused": count(client["refused"]),
    }


def process_fields(process: dict[str, Any]) -> Fields:
    """The fields of a process's row."""
    number, pid, store = process["number"], process["pid"], process["store"]
    shared = f", shared by {store['processes']} processes" if store["processes"] > 1 else ""
    return {
        "name": f"worker {number} (pid {pid})" if number else f"pid {pid}",
        "connections": count(process["connections"]),
        "store": f"{store['name']}{shared}",
    }


def summary_fields(figures: dict[str, Any]) -> Fields:
    """The fields of the tiles."""
    up: dict[str, bool] = {}
    for policy in figures["policies"]:
        for server in policy["servers"]:
            up[server["id"]] = up.get(server["id"], True) and _worst(server) == "up"
    return {
        "inFlight": count(figures["in_flight"]),
        "waiting": count(sum(policy["waiting"] for policy in figures["policies"])),
        "connections": count(sum(process["connections"] for process in figures["processes"])),
        "servers": f"{sum(up.values())} of {len(up)}",
    }


def page_fields(figures: dict[str, Any]) -> dict[str, Fields]:
    """All fields that stay while nothing happens, by what of: ``server 111/100``, ``process pid 1``."""
    found = {"summary": summary_fields(figures)}
    for policy in figures["policies"]:
        found[f"policy {policy['name']}"] = policy_fields(policy)
        for server in policy["servers"]:
            found[f"server {policy['name']}/{server['id']}"] = server_fields(server, len(figures["processes"]))
    for client in figures["clients"]:
        found[f"client {client['address']}"] = client_fields(client)
    for process in figures["processes"]:
        fields = process_fields(process)
        found[f"process {fields['name']}"] = fields
    return found


def moving_fields(figures: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The numbers that the other fields begin with; None where there is none."""
    found: dict[str, dict[str, float | None]] = {}
    for policy in figures["policies"]:
        for server in policy["servers"]:
            numbers = {"share": server["share"] * 100, "lease": server["lease_left"], "failure": server["down_ago"]}
            found[f"server {policy['name']}/{server['id']}"] = numbers
    for process in figures["processes"]:
        name = process_fields(process)["name"]
        found[f"process {name}"] = {"uptime": process["uptime"], "files": process["open_files"]}
    return found


def differences(shown: Mapping[str, Fields], before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Where the page doesn't show the figures.

    :param shown: what :data:`READ` returned.
    :param before: the figures before that.
    :param after: the figures after that.
    """
    found = []
    fixed, earlier, later = page_fields(after), moving_fields(before), moving_fields(after)
    for name in sorted(shown.keys() | fixed.keys()):
        texts, wanted = shown.get(name, {}), fixed.get(name, {})
        numbers = later.get(name, {})
        for field in sorted(texts.keys() - MADE.get(name.split()[0], set()) | wanted.keys() | numbers.keys()):
            text = texts.get(field)
            if field in numbers:
                ends = earlier.get(name, {}).get(field), numbers[field]
                if not _between(text, *ends):
                    found.append(f"{field} of {name}: {text!r}, which was from {ends[0]} to {ends[1]}")
            elif text != wanted.get(field):
                found.append(f"{field} of {name}: {text!r} and not {wanted.get(field)!r}")
    return found


def _between(text: str | None, *ends: float | None) -> bool:
    """Whether a text begins with a number between these, as rounded."""
    numbers = [number for number in ends if number is not None]
    if not numbers:
        return text in {NOTHING, ""}
    first = re.match(r"[\d,]+", text or "")
    # The page is up to a second older than what it is compared to.
    return first is not None and min(numbers) - 2 <= int(first[0].replace(",", "")) <= max(numbers) + 1


def _worst(server: dict[str, Any]) -> str:
    return next((state for state in ("down", "held", "draining") if server["states"].get(state)), "up")


def _listed(numbers: dict[str, int], processes: int) -> str:
    return ", ".join(f"{name} ({number})" if number < processes else name for name, number in numbers.items())
