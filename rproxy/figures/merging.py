"""The figures of several processes together: those of the proxy that they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import nlargest

from rproxy.figures import MOST_CLIENTS, ClientFigures, Figures, PolicyFigures, ServerFigures
from rproxy.figures.tallies import add_times


def merge(parts: Sequence[Figures]) -> Figures:
    """The figures of several processes together.

    :param parts: at least one.
    """
    policies: dict[str, list[PolicyFigures]] = {}
    for part in parts:
        for policy in part.policies:
            policies.setdefault(policy.name, []).append(policy)
    shown = [client for part in parts for client in part.clients]
    clients = _merge_clients(shown)
    return Figures(
        version=parts[0].version,
        state="ready" if any(part.state == "ready" for part in parts) else parts[0].state,
        counters=add_counters(part.counters for part in parts),
        in_flight=sum(part.in_flight for part in parts),
        policies=[_merge_policy(same) for same in policies.values()],
        processes=[process for part in parts for process in part.processes],
        client_addresses=sum(part.client_addresses for part in parts) - (len(shown) - len(clients)),
        clients=nlargest(
            MOST_CLIENTS, clients, key=lambda each: (each.unanswered_bytes, each.connections, each.refused)
        ),
        missing=[number for part in parts for number in part.missing],
    )


def add_counters(parts: Iterable[dict[str, int | dict[str, int]]]) -> dict[str, int | dict[str, int]]:
    """The sums of the counters, and by code where there are codes."""
    total: dict[str, int | dict[str, int]] = {}
    for part in parts:
        for name, value in part.items():
            before = total.get(name)
            if isinstance(value, dict):
                total[name] = add_up([before if isinstance(before, dict) else {}, value])
            else:
                total[name] = value + (before if isinstance(before, int) else 0)
    return total


def add_up(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The sums by key."""
    total: dict[str, int] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return total


def _merge_clients(shown: Iterable[ClientFigures]) -> list[ClientFigures]:
    same: dict[str, list[ClientFigures]] = {}
    for client in shown:
        same.setdefault(client.address, []).append(client)
    return [
        ClientFigures(
            address=address,
            connections=sum(each.connections for each in clients),
            unanswered_bytes=sum(each.unanswered_bytes for each in clients),
            held_back=sum(each.held_back for each in clients),
            refused=sum(each.refused for each in clients),
            leases=sum(each.leases for each in clients),
        )
        for address, clients in same.items()
    ]


def _merge_policy(same: Sequence[PolicyFigures]) -> PolicyFigures:
    servers: dict[tuple[str, str], list[ServerFigures]] = {}
    for policy in same:
        for server in policy.servers:
            # By its policy too, because those that aren't told apart may each have a server of that id.
            servers.setdefault((server.policy, server.id), []).append(server)
    return PolicyFigures(
        name=same[0].name,
        description=next((each.description for each in same if each.description), ""),
        received=sum(each.received for each in same),
        acked=sum(each.acked for each in same),
        refused=add_up(each.refused for each in same),
        client_gone=sum(each.client_gone for each in same),
        retried=sum(each.retried for each in same),
        in_flight=sum(each.in_flight for each in same),
        waiting=sum(each.waiting for each in same),
        total_times=add_times(each.total_times for each in same),
        servers=[_merge_server(each) for each in servers.values()],
    )


def _merge_server(same: Sequence[ServerFigures]) -> ServerFigures:
    first = same[0]
    downs = [each for each in same if each.down_ago is not None]
    latest = min(downs, key=lambda each: each.down_ago or 0.0, default=first)
    leases = [each.lease_left for each in same if each.lease_left is not None]
    return ServerFigures(
        policy=first.policy,
        id=first.id,
        host=first.host,
        port=first.port,
        states=add_up(each.states for each in same),
        reasons=add_up(each.reasons for each in same),
        weight=first.weight,
        share=sum(each.share for each in same) / len(same),
        pipeline=first.pipeline,
        connections=sum(each.connections for each in same),
        in_flight=sum(each.in_flight for each in same),
        lease_left=max(leases, default=None),
        registrations=sum(each.registrations for each in same),
        acked=sum(each.acked for each in same),
        lost=sum(each.lost for each in same),
        downs=sum(each.downs for each in same),
        down_ago=latest.down_ago,
        down_why=latest.down_why,
        total_times=add_times(each.total_times for each in same),
        times=add_times(each.times for each in same),
    )
