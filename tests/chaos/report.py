"""A run in one line, and its violations with all that led to them."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tests.chaos.history import Connection, History, Packet
from tests.chaos.oracle import Violation, struck
from tests.chaos.plan import ORDERED, Plan, Proxy

#: How many violations of a rule are shown.
MOST = 5
#: How much of a payload is shown, in characters.
_SHOWN = 60


def summary(history: History, violations: Sequence[Violation]) -> str:
    """Return what happened in a run, in one line."""
    answers = [answer for connection in history.connections for answer in connection.answers]
    codes = Counter(str(answer.fields.get("error")) for answer in answers if not answer.is_ack)
    packets = sum(len(connection.packets) for connection in history.connections)
    faults = Counter(str(incident.event.fault) for incident in history.incidents)
    idle = [each for each in history.incidents if each.event.fault in ORDERED and not struck(history, each)]
    parts = [
        f"seed {history.plan.seed}: {f'{len(violations)} VIOLATIONS' if violations else 'ok'}",
        f"{packets} packets",
        f"{sum(answer.is_ack for answer in answers)} acks",
        f"refused: {_counted(codes)}",
        f"{packets - len(answers)} unanswered as their client or proxy was gone",
        f"faults: {_counted(faults)}, of which {len(idle)} met no packet",
        f"the proxy: {_setup(history.plan.proxy)}",
    ]
    return "; ".join(parts)


def command(plan: Plan) -> str:
    """Return the command that carries out a plan again."""
    options = {
        "--seed": plan.seed,
        "--seconds": f"{plan.seconds:g}",
        "--servers": len(plan.servers),
        "--clients": len(plan.clients),
        "--workers": plan.proxy.workers,
    }
    return shlex.join([sys.executable, "-m", "tests.chaos", *(str(part) for pair in options.items() for part in pair)])


def failure(history: History, violations: Sequence[Violation]) -> str:
    """Return all that is needed to find out why a run failed."""
    lines = [summary(history, violations), f"again: {command(history.plan)}"]
    rules = Counter(violation.rule for violation in violations)
    for rule, number in rules.items():
        lines.append(f"\n{rule}: {number}")
        shown = [violation for violation in violations if violation.rule == rule][:MOST]
        for violation in shown:
            lines += [f"- {violation.text}", *(f"    {line}" for line in _background(history, violation))]
    return "\n".join(lines)


def _counted(what: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(what.items())) or "none"


def _setup(proxy: Proxy) -> str:
    """Say in what it isn't the simplest one."""
    parts = [name for name in ("durable", "policies", "retry", "audit") if getattr(proxy, name)]
    return ", ".join([f"{proxy.workers} workers" if proxy.workers > 1 else "one process", *parts])


def _background(history: History, violation: Violation) -> Iterator[str]:
    """Give the whole history of a violation's packet, and the faults that may have to do with it."""
    packet = violation.packet
    concerned = {violation.server_id}
    if packet is not None:
        receipts = [receipt for receipt in history.receipts if receipt.digest == packet.digest]
        concerned |= {
            "proxy",
            *_workers(history.plan.proxy),
            packet.draft.client_id,
            *(receipt.server_id for receipt in receipts),
        }
        yield from _travels(history, packet)
        for receipt in receipts:
            yield f"{_at(history, receipt.at)} received by {receipt.server_id}, which did: {receipt.deed}"
    for incident in history.incidents:
        if incident.event.whom in concerned:
            yield (
                f"fault planned for {incident.event}; began {_at(history, incident.began)},"
                f" ended {_at(history, incident.ended)} {incident.evidence}"
            )


def _workers(proxy: Proxy) -> Iterator[str]:
    for number in range(1, proxy.workers + 1):
        yield f"worker {number}"


def _travels(history: History, packet: Packet) -> Iterator[str]:
    """Give where a packet was sent, what came in its place, and where else its ACK came."""
    for number, connection in enumerate(history.connections):
        its_place = next((place for place, sent in enumerate(connection.packets) if sent is packet), None)
        if its_place is not None:
            where = f"on connection {number} (to proxy {connection.proxy}), in place {its_place}"
            what = f"policy={packet.draft.policy!r}: {packet.draft.payload[:_SHOWN]!r}"
            yield f"{_at(history, packet.sent_at)} sent by {connection.client_id} {where}, {what}"
            yield from _answers(history, connection, [its_place])
            yield f"{_at(history, connection.ended_at)} the connection's end: {connection.end}"
        elsewhere = [
            place
            for place, answer in enumerate(connection.answers)
            if place != its_place and answer.fields.get("payload") == packet.digest
        ]
        if elsewhere:
            yield f"its ACK also came on connection {number} of {connection.client_id}:"
            yield from _answers(history, connection, elsewhere)


def _answers(history: History, connection: Connection, places: Iterable[int]) -> Iterator[str]:
    for place in places:
        if place < len(connection.answers):
            answer = connection.answers[place]
            yield f"{_at(history, answer.at)} answered in place {place}: {answer.fields}"
        else:
            yield "never answered"


def _at(history: History, at: float) -> str:
    return f"[{at - history.began:.3f} s]" if at else "[never]"
