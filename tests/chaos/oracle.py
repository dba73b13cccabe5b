"""What in a history breaks a promise (docs/reference/protocol.rst), or shows that the run tested nothing.

It knows no process and no socket, so its own tests make histories up. Each check is a function that gives violations;
:func:`judge` makes all of them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator

from attrs import define, field, frozen

from tests.chaos.history import Answer, Connection, End, History, Incident, Packet, ProxyLife
from tests.chaos.journal import ANSWERED, Receipt
from tests.chaos.plan import ORDERED, TIMEOUT, UNSERVED, Fault, Kind, Server
from tests.support import FAULT

#: How much later than promised an answer may come, in seconds. The proxy promises a quarter of one; the rest is for a
#: machine that has more to do.
SLACK = 5.0
#: How long after a fault of a server its packets may be lost to it, in seconds: a packet that was sent meanwhile is
#: given up two deadlines later, and looked at a little after that.
AFTERMATH = 2 * TIMEOUT + 1.0
#: The longest packet that a server of the old kind gets, in bytes.
CLASSIC_READ = 2048
#: How much of a log a violation has, in characters.
EXCERPT = 3000
#: How the proxy calls itself.
PROXY_ID = "rproxy"
#: What an error packet of the proxy may say of delivery, by its code.
DELIVERED = {
    "no-server": {"no"},
    "overloaded": {"no"},
    "too-large": {"no"},
    "timeout": {"no", "unknown"},
    "server-lost": {"unknown"},
    "shutting-down": {"no", "unknown"},
}

#: What the log says in the end.
STOPPED = re.compile(
    # A worker says so too, with its number before it.
    r"(?<!: )Stopped after (\d+) packets: (\d+) acked, (\d+) refused, (\d+) whose client was gone",
    re.MULTILINE,
)


#: What the log says of a worker that was killed, which is an error.
_KILLED = re.compile(r"^.*Worker \d+ was ended by SIGKILL.*$", re.MULTILINE)
#: How much sooner than its client a worker may have known of a connection's end, in seconds.
NOTICING = 0.5


@frozen
class Violation:
    """A promise that was broken.

    :ivar rule: which one, in a word or two.
    :ivar packet: the packet that it was broken for, if it was for one.
    :ivar server_id: the server that has to do with it, if one has.
    """

    rule: str
    text: str
    packet: Packet | None = None
    server_id: str = ""


@define
class Seen:
    """A history, and where to find what in it."""

    history: History
    servers: dict[str, Server] = field(init=False)
    sent: dict[str, tuple[Packet, Connection]] = field(init=False)
    receipts: dict[str, list[Receipt]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.servers = {server.server_id: server for server in self.history.plan.servers}
        self.sent = {
            packet.digest: (packet, connection)
            for connection in self.history.connections
            for packet in connection.packets
        }
        self.receipts = defaultdict(list)
        for receipt in self.history.receipts:
            self.receipts[receipt.digest].append(receipt)

    def life(self, connection: Connection) -> ProxyLife:
        """Return the life of the proxy that a connection was made to."""
        return self.history.proxies[connection.proxy]

    def struck(self, connection: Connection, fault: Fault) -> list[Incident]:
        """Return what happened to the worker that a connection was made to, while it was there."""
        return [each for each in self.history.incidents if each.event.fault is fault and each.struck(connection)]

    def kills(self, life: int) -> list[Incident]:
        """Return what killed workers of that life of the proxy."""
        incidents = self.history.incidents
        return [each for each in incidents if each.event.fault is Fault.WORKER_KILL and each.proxy == life]

    def is_counted(self, connection: Connection) -> bool:
        """Whether it is known that no worker that was killed had counted its packets."""
        return not self.struck(connection, Fault.WORKER_KILL) and all(
            connection.began > kill.ended or connection.ended_at > kill.began + NOTICING
            for kill in self.kills(connection.proxy)
        )

    def pairs(self) -> Iterator[tuple[Connection, Packet, Answer]]:
        """Give each packet that has an answer with the answer in its place."""
        for connection in self.history.connections:
            for packet, answer in zip(connection.packets, connection.answers, strict=False):
                yield connection, packet, answer


def judge(history: History) -> list[Violation]:
    """Return all violations in a history."""
    seen = Seen(history)
    checks = (
        one_answer,
        right_answer,
        errors,
        deadlines,
        journals,
        losses,
        counters,
        logs,
        files,
        roll,
        trails,
        vacuity,
    )
    return [violation for check in checks for violation in check(seen)]


def one_answer(seen: Seen) -> Iterator[Violation]:
    """Each packet gets one answer, unless its client is gone or its proxy was ended."""
    for connection in seen.history.connections:
        who = f"a connection of {connection.client_id}"
        surplus = len(connection.answers) - len(connection.packets)
        if surplus > 0:
            last = connection.packets[-1] if connection.packets else None
            yield Violation("more answers than packets", f"{who} got {surplus} more answers than it asked for", last)
        if connection.end is End.OPEN:
            yield Violation("never ended", f"{who} is still open")
        if connection.end is not End.LEFT:
            yield from _missing(seen, connection, who)


def _missing(seen: Seen, connection: Connection, who: str) -> Iterator[Violation]:
    """What a client that stayed to the end should have got."""
    life = seen.life(connection)
    if seen.struck(connection, Fault.WORKER_KILL):
        return
    if life.told_at and connection.ended_at >= life.told_at:
        # An answer shows that the proxy had accepted it, and then it reads what was there when it was told to drain.
        if life.gently and connection.answers:
            for packet in connection.unanswered:
                if packet.sent_at < life.told_at:
                    yield Violation("not drained", f"{who} got no answer from a proxy that was to drain", packet)
        return
    if connection.end is End.CUT:
        first = next(iter(connection.unanswered), None)
        yield Violation("cut", f"{who} was cut, and nobody had ended the proxy", first)
    for packet in connection.unanswered:
        yield Violation("no answer", f"{who} never got an answer, and the proxy was there", packet)
    if connection.leftover:
        yield Violation("half an answer", f"{who} ended with {connection.leftover[:200]!r}")


def right_answer(seen: Seen) -> Iterator[Violation]:
    """Each ACK is that of the packet in its place, and of a server of its policy that has received it."""
    acked: set[str] = set()
    for connection, packet, answer in seen.pairs():
        if not answer.is_ack:
            continue
        digest, server_id = answer.fields.get("payload"), answer.fields.get("srcid")
        if digest != packet.digest:
            yield _wrong_ack(seen, connection, packet, digest, acked)
            continue
        acked.add(packet.digest)
        if answer.fields.get("destid") != connection.client_id:
            yield Violation("foreign answer", f"the ACK is for {answer.fields.get('destid')!r}", packet)
        server = seen.servers.get(str(server_id))
        if server is None:
            yield Violation("unknown server", f"the ACK is of a server {server_id!r} that nobody knows", packet)
            continue
        if packet.draft.policy not in server.policies:
            text = f"{server_id} acknowledged it, and serves {server.policies}"
            yield Violation("policy", text, packet, server.server_id)
        if all(receipt.server_id != server_id for receipt in seen.receipts[packet.digest]):
            text = f"{server_id} acknowledged it, and never received it"
            yield Violation("unheard", text, packet, server.server_id)


def _wrong_ack(seen: Seen, connection: Connection, packet: Packet, digest: object, acked: set[str]) -> Violation:
    """Say how an ACK that isn't for the packet in its place is wrong."""
    owner, its_connection = seen.sent.get(str(digest), (None, None))
    if owner is None or its_connection is None:
        return Violation("wrong answer", f"the ACK has {digest!r}, which is nobody's", packet)
    if owner.draft.client_id != packet.draft.client_id:
        return Violation("foreign answer", f"the ACK is for {_name(owner)}", packet)
    if digest in acked:
        return Violation("second answer", f"the ACK is for {_name(owner)}, which had one already", packet)
    if its_connection is connection:
        return Violation("order", f"the ACK is for {_name(owner)}, which was sent at another place", packet)
    return Violation("foreign answer", f"the ACK is for {_name(owner)}, of another connection", packet)


def _name(packet: Packet) -> str:
    return packet.draft.payload.partition(" ")[0]


def errors(seen: Seen) -> Iterator[Violation]:
    """Each error is for its client, is one that the case allows, and claims nothing wrong of delivery."""
    for connection, packet, answer in seen.pairs():
        if answer.is_ack:
            continue
        fields = answer.fields
        code, delivered = str(fields.get("error")), fields.get("delivered")
        # From when a packet is retried on, nobody can say that no server had it.
        retried = {"unknown"} if seen.history.plan.proxy.retry else set()
        if fields.get("type") != "3" or code not in DELIVERED or delivered not in DELIVERED[code] | retried:
            yield Violation("no such error", f"the answer is {fields}", packet)
            continue
        if (fields.get("srcid"), fields.get("destid")) != (PROXY_ID, connection.client_id):
            yield Violation("foreign error", f"the error is {fields}", packet)
        if delivered == "no" and seen.receipts[packet.digest]:
            where = [receipt.server_id for receipt in seen.receipts[packet.digest]]
            yield Violation("delivered", f"{code} says it wasn't delivered, and {where} received it", packet, where[0])
        if not _in_place(seen, connection, packet, answer, code):
            yield Violation("error out of place", f"nothing explains {code}", packet)


def _in_place(seen: Seen, connection: Connection, packet: Packet, answer: Answer, code: str) -> bool:
    """Whether there is anything that a code could be for."""
    life = seen.life(connection)
    if code == "shutting-down":
        # Workers whose parent was killed leave gently.
        return (life.gently or seen.history.plan.proxy.workers > 1) and 0 < life.told_at <= answer.at
    if packet.draft.policy == UNSERVED:
        return code == "no-server"
    # The size of the packet is at least that of its payload, and little more.
    return code != "too-large" or len(packet.draft.payload.encode()) > CLASSIC_READ // 2


def deadlines(seen: Seen) -> Iterator[Violation]:
    """No answer comes later than promised, but for the time that its worker stood still."""
    for connection, packet, answer in seen.pairs():
        stood = sum(stop.ended - stop.began for stop in seen.struck(connection, Fault.WORKER_STOP))
        seconds = answer.at - packet.sent_at
        if seconds > TIMEOUT + SLACK + stood:
            yield Violation("late", f"the answer took {seconds:.2f} s", packet)


def journals(seen: Seen) -> Iterator[Violation]:
    """No server receives what isn't of its policies, nor what another has, nor what nobody sent."""
    for digest, receipts in seen.receipts.items():
        packet, _ = seen.sent.get(digest, (None, None))
        servers = [receipt.server_id for receipt in receipts]
        if packet is None:
            yield Violation("never sent", f"{servers} received {digest}, which no client sent", None, servers[0])
            continue
        if len(receipts) > 1 + seen.history.plan.proxy.retry:
            yield Violation("received twice", f"it was received by {servers}", packet, servers[1])
        for receipt in receipts:
            if packet.draft.policy not in seen.servers[receipt.server_id].policies:
                yield Violation("policy", f"{receipt.server_id} received it", packet, receipt.server_id)
            sent_as = (packet.draft.client_id, packet.draft.policy)
            if receipt.policy and (receipt.client_id, receipt.policy) != sent_as:
                text = f"{receipt.server_id} received it from {receipt.client_id} for {receipt.policy}"
                yield Violation("altered", text, packet, receipt.server_id)


def losses(seen: Seen) -> Iterator[Violation]:
    """No packet is lost to a server that nothing has happened to; going gently is nothing.

    A worker that stood still finds its deadlines past, and gives up its servers as if they had stood still.
    """
    troubled = _troubled(seen)
    for connection, packet, answer in seen.pairs():
        if answer.fields.get("error") != "server-lost" or seen.struck(connection, Fault.WORKER_STOP):
            continue
        receipts = seen.receipts[packet.digest]
        suspects = [receipt.server_id for receipt in receipts] or [
            server.server_id for server in seen.servers.values() if packet.draft.policy in server.policies
        ]
        spans = [span for server_id in suspects for span in troubled[server_id]]
        if not any(began <= answer.at and packet.sent_at <= ended for began, ended in spans):
            yield Violation("lost without a fault", f"nothing had happened to {suspects}", packet, suspects[0])


def _troubled(seen: Seen) -> dict[str, list[tuple[float, float]]]:
    """Return when each server may lose packets, as beginnings and ends."""
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for incident in seen.history.incidents:
        if incident.event.fault in (Fault.KILL, Fault.STOP):
            ended = incident.ended or float("inf")
            spans[incident.event.whom].append((incident.began, ended + AFTERMATH))
    for receipt in seen.history.receipts:
        if receipt.deed != ANSWERED:
            spans[receipt.server_id].append((receipt.at, receipt.at + AFTERMATH))
    return spans


def counters(seen: Seen) -> Iterator[Violation]:
    """What the proxy counted adds up, and agrees with what the clients saw; nothing is left in flight."""
    for number, life in enumerate(seen.history.proxies):
        if not life.gently:
            continue
        stopped = STOPPED.search(life.log)
        if stopped is None:
            yield Violation("counters", f"proxy {number} didn't say what it had counted")
            continue
        received, acked, refused, gone = map(int, stopped.groups())
        if received != acked + refused + gone:
            text = f"received {received}, and {acked} + {refused} + {gone} = {acked + refused + gone} were dealt with"
            yield Violation("counters", f"proxy {number}: {text}")
        if (at := life.log.find("Gave up")) >= 0:
            yield Violation("in flight", f"proxy {number}: {life.log[at : at + EXCERPT]}")
        connections = [connection for connection in seen.history.connections if connection.proxy == number]
        answers = [answer for connection in connections for answer in connection.answers]
        acks = sum(answer.is_ack for answer in answers)
        # What a worker that was killed had counted is lost.
        surely = [answer for each in connections if seen.is_counted(each) for answer in each.answers]
        sure_acks = sum(answer.is_ack for answer in surely)
        # Only where its client was gone may an answer have been written and not have arrived.
        unseen = sum(len(connection.unanswered) for connection in connections if connection.end is End.LEFT)
        for what, counted, least, most in (
            ("received", received, len(surely), len(answers) + unseen),
            ("acked", acked, sure_acks, acks + unseen),
            ("refused", refused, len(surely) - sure_acks, len(answers) - acks + unseen),
            ("client gone", gone, 0, unseen),
        ):
            if not least <= counted <= most:
                text = f"{counted} {what}, and the clients know of {least} to {most}"
                yield Violation("counters", f"proxy {number}: {text}")


def logs(seen: Seen) -> Iterator[Violation]:
    """No log has an error, and whoever was told to end did so with exit code 0."""
    history = seen.history
    texts = dict(history.logs)
    for number, life in enumerate(history.proxies):
        kills = len(seen.kills(number))
        texts[f"proxy {number}"] = _KILLED.sub("", life.log, count=kills) if kills else life.log
    codes = dict(history.exit_codes)
    codes |= {f"proxy {number}": life.exit_code or 0 for number, life in enumerate(history.proxies) if life.gently}
    for name, text in texts.items():
        if found := FAULT.search(text):
            excerpt = text[found.start() : found.start() + EXCERPT]
            yield Violation("log", f"something went wrong in {name}:\n{excerpt}")
    for name, code in codes.items():
        if code:
            yield Violation("exit code", f"{name} ended with {code}")
    for number, life in enumerate(history.proxies):
        if life.orphans:
            yield Violation("orphans", f"{life.orphans} workers outlived proxy {number}")


def files(seen: Seen) -> Iterator[Violation]:
    """The proxy has open what it had at the start, and what the live servers explain."""
    for what in unexplained(seen.history, seen.history.open_at_end):
        yield Violation("open files", f"the proxy has {what}")


def unexplained(history: History, now: Counter[str]) -> list[str]:
    """Return what the proxy has open, or lacks, that the servers don't explain, all running and no client there."""
    at_start = history.open_at_start
    modern = [server for server in history.plan.servers if server.kind is not Kind.CLASSIC]
    leases = sum(len(server.policies) for server in modern)
    workers = history.plan.proxy.workers
    # Each worker has its part of them, and at least one.
    most = {
        f"made to {history.ports[server.server_id]}": workers * max(1, server.connections // workers)
        for server in modern
    }
    wrong = []
    for what in sorted(at_start.keys() | now.keys() | {"taken"}):
        least, most_of_it = (0, most.get(what, 0)) if what.startswith("made to ") else (at_start[what], at_start[what])
        if what == "taken":
            least = most_of_it = leases
        if not least <= now[what] <= most_of_it:
            wrong.append(f"{now[what]} of {what!r} instead of {least} to {most_of_it}")
    return wrong


def roll(seen: Seen) -> Iterator[Violation]:
    """In the end every server is known to every worker, for each of its policies."""
    wanted = {(policy, server.server_id) for server in seen.servers.values() for policy in server.policies}
    for number in range(1, seen.history.plan.proxy.workers + 1):
        for policy, server_id in sorted(wanted - seen.history.roll.get(number, set())):
            text = f"worker {number} gave {server_id} nothing of policy {policy} in the end; the log has of that"
            yield Violation("forgotten", f"{text}: {_said(seen, number, server_id)}", None, server_id)


def _said(seen: Seen, worker: int, server_id: str) -> list[str]:
    """Return what a worker logged of a server in the last life of the proxy."""
    begin = f"worker {worker}: " if seen.history.plan.proxy.workers > 1 else ""
    lines = seen.history.proxies[-1].log.splitlines()
    return [line for line in lines if begin in line and f"erver id {server_id} " in line]


def trails(seen: Seen) -> Iterator[Violation]:
    """Each audit trail is whole."""
    for name, text in seen.history.trails.items():
        if text:
            yield Violation("trail", f"{name}: {text}")
    if seen.history.plan.proxy.audit and not seen.history.trails:
        yield Violation("vacuous", "there is no audit trail")


def vacuity(seen: Seen) -> Iterator[Violation]:
    """Packets were acknowledged, and what was planned happened."""
    history = seen.history
    if not any(answer.is_ack for _, _, answer in seen.pairs()):
        yield Violation("vacuous", "no packet was acknowledged")
    happened = {incident.event: incident for incident in history.incidents}
    for event in history.plan.events:
        incident = happened.get(event)
        if incident is None or not incident.ended:
            yield Violation("vacuous", f"it didn't happen: {event}", None, event.whom)
        elif event.fault in ORDERED:
            yield from _order(seen, incident)
        elif not incident.evidence:
            yield Violation("vacuous", f"nothing shows that it happened: {event}", None, event.whom)
    orders = [incident for incident in history.incidents if incident.event.fault in ORDERED]
    if orders and not any(struck(history, incident) for incident in orders):
        yield Violation("vacuous", f"no packet came to any of {len(orders)} servers with orders")


def _order(seen: Seen, incident: Incident) -> Iterator[Violation]:
    """A server that had an order and then received a packet has carried it out."""
    if _received(seen.history, incident) and not struck(seen.history, incident):
        yield Violation("vacuous", f"it wasn't carried out: {incident.event}", None, incident.event.whom)


def struck(history: History, incident: Incident) -> bool:
    """Whether an order was carried out on a packet."""
    return any(receipt.deed == incident.event.order for receipt in _received(history, incident))


def _received(history: History, incident: Incident) -> list[Receipt]:
    """Return what a server received from an order on, in that life: a server that starts knows of no orders."""
    whom = incident.event.whom
    fatal = (Fault.KILL, Fault.RESTART)
    ends = [each.began for each in history.incidents if each.event.whom == whom and each.event.fault in fatal]
    until = min((end for end in ends if end > incident.began), default=float("inf"))
    return [each for each in history.receipts if each.server_id == whom and incident.began <= each.at < until]
