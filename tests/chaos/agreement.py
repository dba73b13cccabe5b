"""Whether all ways to see what the proxy counts show the same, whether it adds up, and whether it is what happened.

Of the proxy's last life, which is the one that could be asked in the end, and of what its lives showed before. Like
:mod:`tests.chaos.oracle` it knows no process and no socket.

A worker that was killed takes along what it had counted since it was heard of last. What is still true then:

- All views agree, every sum holds, nothing is in flight, and no counter has sunk since it was read before.
- Whatever packets the other workers had are counted, and none is counted that no client sent or no server received.
- A packet that the killed one had when it was heard of last is counted as that of a client that is gone, whatever
  became of it in the moment that was left.
- What it had counted for a server that wasn't registered just then is in the policy's figures only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from attrs import define, field

from tests.chaos import comparing
from tests.chaos.clients import encode
from tests.chaos.history import Connection, End, History
from tests.chaos.oracle import STOPPED, Seen, Violation
from tests.chaos.plan import Kind
from tests.chaos.views import Figures, Views


def judge(history: History) -> list[Violation]:
    """Return all that doesn't agree in a history."""
    seen = Seen(history)
    violations = list(readings(seen))
    if not history.readings:
        violations.append(Violation("vacuous", "nobody looked at what the proxy shows meanwhile"))
    if history.views is None:
        return [*violations, Violation("vacuous", "nobody looked at what the proxy shows in the end")]
    checks = (views_agree, adds_up, servers, clients, journals, log)
    return violations + [violation for check in checks for violation in check(seen, history.views)]


def views_agree(seen: Seen, views: Views) -> Iterator[Violation]:
    """Each figure is the same everywhere."""
    for text in comparing.differences(views):
        yield Violation("views differ", text)


# It adds up.


def adds_up(seen: Seen, views: Views) -> Iterator[Violation]:
    """Every sum holds, and nothing is left, as all is quiet."""
    figures = views.after
    for text in sums(figures):
        yield Violation("sums", text)
    left = {"in_flight": figures["in_flight"], "missing": figures["missing"], "state": figures["state"]}
    if left != {"in_flight": 0, "missing": [], "state": "ready"}:
        yield Violation("left", f"in the end the proxy shows {left}")
    registrations = sum(server["registrations"] for policy in figures["policies"] for server in policy["servers"])
    registered = figures["counters"]["registered"]
    # As with ACKs, below.
    if registrations > registered or (registrations < registered and not _kills(seen)):
        yield Violation("sums", f"the proxy has {registered} registrations, and its servers {registrations}")
    for policy in figures["policies"]:
        left = {name: policy[name] for name in ("in_flight", "waiting")}
        left |= {server["id"]: server["in_flight"] for server in policy["servers"] if server["in_flight"]}
        if any(left.values()):
            yield Violation("left", f"in the end policy {policy['name']} has {left}")
        # Of a server that wasn't registered when a worker was heard of last, only the policy has what that one counted.
        acked = sum(server["acked"] for server in policy["servers"])
        if acked > policy["acked"] or (acked < policy["acked"] and not _kills(seen)):
            yield Violation("sums", f"policy {policy['name']} has {policy['acked']} acked, and its servers {acked}")


def sums(figures: Figures) -> Iterator[str]:
    """Give each sum that doesn't hold: they do at any time."""
    counters, policies = figures["counters"], figures["policies"]
    wholes = [({**counters, "in_flight": figures["in_flight"]}, "the proxy")]
    for each, name in wholes + [(policy, f"policy {policy['name']}") for policy in policies]:
        parts = [each["acked"], sum(each["refused"].values()), each["client_gone"], each["in_flight"]]
        if each["received"] != sum(parts) or min(parts) < 0:
            yield f"{name} received {each['received']}, and {parts} were dealt with or are in flight"
    for each in [*policies, *(server for policy in policies for server in policy["servers"])]:
        if sum(each["total_times"][:-1]) != each["acked"]:
            who = each.get("id", each.get("name"))
            yield f"{who} has {each['acked']} acked, and times of others: {each['total_times']}"
    if counters["violations"]:
        yield f"the proxy counted {counters['violations']} violations"
    yield from _parts(figures)


def _parts(figures: Figures) -> Iterator[str]:
    """What the policies have is the proxy's, but for what came for a policy that never had a server.

    That is refused for it, or its client goes before.
    """
    counters, policies = figures["counters"], figures["policies"]
    for what in ("acked", "retried"):
        together = sum(policy[what] for policy in policies)
        if counters[what] != together:
            yield f"the proxy has {counters[what]} {what}, and its policies {together}"
    outside = Counter(counters["refused"])
    for what in ("received", "client_gone", "in_flight"):
        outside[what] = figures["in_flight"] if what == "in_flight" else counters[what]
    for policy in policies:
        outside.subtract({what: policy[what] for what in ("received", "client_gone", "in_flight")})
        outside.subtract(policy["refused"])
    for what, number in outside.items():
        if number < 0:
            yield f"policies together have {-number} {what} more than the proxy"


def readings(seen: Seen) -> Iterator[Violation]:
    """Every sum held at any time, and no counter of a life sank."""
    history = seen.history
    for reading in history.readings:
        for text in sums(reading.figures):
            yield Violation("sums", f"at {reading.at - history.began:.3f} s: {text}")
    shown = [(reading.at, reading.proxy, reading.figures) for reading in history.readings]
    if history.views is not None:
        shown.append((float("inf"), len(history.proxies) - 1, history.views.before))
    for (_, life, before), (at, next_life, after) in pairwise(shown):
        if life == next_life:
            now = dict(_counts(after))
            for name, number in _counts(before):
                if now.get(name, 0) < number:
                    text = f"at {at - history.began:.3f} s {name} is {now.get(name, 0)}, and was {number}"
                    yield Violation("sank", text)


def _counts(figures: Figures) -> Iterator[tuple[str, int]]:
    """Give what only grows, by name."""
    wholes = [("the proxy", figures["counters"])]
    for name, each in wholes + [(f"policy {policy['name']}", policy) for policy in figures["policies"]]:
        for what in ("received", "acked", "client_gone", "retried"):
            yield f"{what} of {name}", each[what]
        for code, number in each["refused"].items():
            yield f"{code} of {name}", number


# It is what happened.


def servers(seen: Seen, views: Views) -> Iterator[Violation]:
    """Those of the plan are shown, where they are, under their policies, and so are the connections of their leases."""
    history = seen.history
    modern = [server for server in history.plan.servers if server.kind is not Kind.CLASSIC]
    planned = {
        (policy, each.server_id): ("127.0.0.1", history.ports[each.server_id], each.pipeline or None, each in modern)
        for each in history.plan.servers
        for policy in each.policies
    }
    shown = {
        (policy["name"], each["id"]): (each["host"], each["port"], each["pipeline"], each["lease_left"] is not None)
        for policy in views.after["policies"]
        for each in policy["servers"]
    }
    for key in sorted(planned.keys() | shown.keys()):
        if planned.get(key) != shown.get(key):
            text = f"in the end {key} is shown as {shown.get(key)}, and is {planned.get(key)}"
            yield Violation("servers", text, None, key[1])
    leases = sum(len(server.policies) for server in modern)
    taken = sum(process["connections"] for process in views.after["processes"])
    if taken != leases:
        yield Violation("servers", f"{leases} leases have connections, and the proxy shows {taken}")


@define
class _Known:
    """What clients know of a life of the proxy, by policy and by what became of the packet: an ACK's server, or a code.

    :ivar sure: the answers that are certainly counted.
    :ivar all: all answers that came.
    :ivar unseen: the packets by policy that may be counted as answered although no answer came.
    :ivar gone: those that may be counted as that of a client that is gone.
    :ivar sizes: bytes of the packets whose answers are ``sure``, and of all packets.
    """

    sure: Counter[tuple[str, str]] = field(factory=Counter)
    all: Counter[tuple[str, str]] = field(factory=Counter)
    unseen: Counter[str] = field(factory=Counter)
    gone: Counter[str] = field(factory=Counter)
    sizes: list[int] = field(factory=lambda: [0, 0])

    def add(self, connection: Connection, *, sure: bool) -> None:
        """Add what the client of a connection knows.

        :param sure: whether no worker that was killed had it.
        """
        for place, packet in enumerate(connection.packets):
            policy, size = packet.draft.policy, len(encode(packet.draft))
            self.sizes[1] += size
            if place < len(connection.answers):
                fields = connection.answers[place].fields
                outcome = policy, str(fields["srcid" if connection.answers[place].is_ack else "error"])
                self.all[outcome] += 1
                if sure:
                    self.sure[outcome] += 1
                    self.sizes[0] += size
                    continue
            elif connection.end is not End.LEFT and sure:
                continue
            else:
                self.unseen[policy] += 1
            self.gone[policy] += 1


def clients(seen: Seen, views: Views) -> Iterator[Violation]:
    """What the proxy counted is what clients got, but for packets that nobody can know of."""
    life = len(seen.history.proxies) - 1
    known, connections = _Known(), 0
    for connection in seen.history.connections:
        if connection.proxy == life:
            sure = seen.is_counted(connection)
            known.add(connection, sure=sure)
            connections += sure
    for what, counted, least, most in _bounds(known, views.after):
        if not least <= counted <= most:
            text = f"the proxy shows {counted} {what}, and the clients know of {least} to {most}"
            yield Violation("not what clients saw", text)
    accepted = views.after["counters"]["accepted"]
    if accepted < connections:
        yield Violation("not what clients saw", f"{connections} were accepted, and the proxy shows {accepted}")


def _bounds(known: _Known, figures: Figures) -> Iterator[tuple[str, int, int, int]]:
    """Give what is counted: in words, the number, and the least and the most that clients know of."""
    counters = figures["counters"]
    servers = {(policy["name"], each["id"]) for policy in figures["policies"] for each in policy["servers"]}
    acks = [sum(number for outcome, number in some.items() if outcome in servers) for some in (known.sure, known.all)]
    unseen, gone = known.unseen.total(), known.gone.total()
    yield "received", counters["received"], known.sure.total(), known.all.total() + unseen
    yield "acked", counters["acked"], acks[0], acks[1] + unseen
    yield "client gone", counters["client_gone"], 0, gone
    yield "bytes received", counters["bytes_received"], *known.sizes
    codes = {code for outcome in known.all if outcome not in servers for code in outcome[1:]}
    for code in codes | counters["refused"].keys():
        least, most = (sum(some[each] for each in some if each[1] == code) for some in (known.sure, known.all))
        yield code, counters["refused"].get(code, 0), least, most + unseen
    for policy in figures["policies"]:
        yield from _policy_bounds(known, policy, codes)


def _policy_bounds(known: _Known, policy: dict[str, Any], codes: set[str]) -> Iterator[tuple[str, int, int, int]]:
    name = policy["name"]
    unseen, gone = known.unseen[name], known.gone[name]
    sure, everything = ({each[1]: some[each] for each in some if each[0] == name} for some in (known.sure, known.all))
    # What came before the policy had its first server isn't the policy's, and was refused for that.
    least = sum(number for what, number in sure.items() if what != "no-server")
    yield f"received of {name}", policy["received"], least, sum(everything.values()) + unseen
    yield f"client gone of {name}", policy["client_gone"], 0, gone
    for code in codes | policy["refused"].keys():
        least = 0 if code == "no-server" else sure.get(code, 0)
        yield f"{code} of {name}", policy["refused"].get(code, 0), least, everything.get(code, 0) + unseen
    acks = [sum(number for what, number in some.items() if what not in codes) for some in (sure, everything)]
    yield f"acked of {name}", policy["acked"], acks[0], acks[1] + unseen
    for server in policy["servers"]:
        who = server["id"]
        yield f"acked of {name} by {who}", server["acked"], sure.get(who, 0), everything.get(who, 0) + unseen


def journals(seen: Seen, views: Views) -> Iterator[Violation]:
    """What the proxy counted is what servers received."""
    life = len(seen.history.proxies) - 1
    received: Counter[tuple[str, str]] = Counter()
    for digest, receipts in seen.receipts.items():
        packet, connection = seen.sent.get(digest, (None, None))
        if packet is not None and connection is not None and connection.proxy == life:
            received.update((packet.draft.policy, receipt.server_id) for receipt in receipts)
    for policy in views.after["policies"]:
        name, refused = policy["name"], policy["refused"]
        for server in policy["servers"]:
            number = received[name, server["id"]]
            if server["acked"] > number:
                text = f"{server['acked']} acked of {name}, and {server['id']} received {number}"
                yield Violation("not what servers saw", text, None, server["id"])
        if _kills(seen):
            continue
        number = sum(received[name, server["id"]] for server in policy["servers"])
        # Whatever a server received ends as one of these, or was given to another server as well.
        ends = policy["acked"] + policy["client_gone"] + refused.get("timeout", 0) + refused.get("server-lost", 0)
        if number > ends + policy["retried"]:
            text = f"servers received {number} of {name}, and the proxy shows {ends} and {policy['retried']} retried"
            yield Violation("not what servers saw", text)
        lost = sum(server["lost"] for server in policy["servers"])
        if lost < refused.get("server-lost", 0) + policy["retried"]:
            text = f"the servers of {name} lost {lost}, and {refused.get('server-lost', 0)} were refused for that"
            yield Violation("sums", f"{text}, and {policy['retried']} retried")


def log(seen: Seen, views: Views) -> Iterator[Violation]:
    """When it ends, the proxy says what it showed; what workers that were killed had counted it leaves out."""
    stopped = STOPPED.search(seen.history.proxies[-1].log)
    if stopped is None:
        return  # The oracle tells.
    counters = views.after["counters"]
    shown = [counters["received"], counters["acked"], sum(counters["refused"].values()), counters["client_gone"]]
    said = [int(number) for number in stopped.groups()]
    if said != shown and not (_kills(seen) and all(one <= other for one, other in zip(said, shown, strict=True))):
        yield Violation("views differ", f"the log says {said} in the end, and the API {shown}")


def _kills(seen: Seen) -> bool:
    """Whether workers of the last life were killed."""
    return bool(seen.kills(len(seen.history.proxies) - 1))
