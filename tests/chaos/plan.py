"""What a seed decides before anything starts: who takes part, what is sent, and which fault strikes whom, when.

Nothing here starts or waits. Times are seconds since the traffic began.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from random import Random

from attrs import frozen

#: The policies that are served, and one that never is.
POLICIES = ("111", "222", "PP_3")
UNSERVED = "999"

#: What the proxy is told, in seconds. Short, so that deadlines pass in short runs too.
TIMEOUT = 1.5
QUEUE_TIMEOUT = 1.0

#: Characters that a careless reader of JSON stumbles over; payloads are filled with them.
_FILLER = '}{"\\é, [€] :'
#: Mean seconds from one burst of a client to its next.
_PAUSE = 0.25
#: Packets in a burst, at most.
_BURST = 12
#: Faults in a second.
_FAULT_RATE = 4.0
#: Of those, faults of workers, and SIGHUPs, on top of the others.
_WORKER_FAULT_RATE = 1.5
#: The longest that a worker is stopped, in seconds: less than the others wait for a store that it has locked, and more
#: than the shortest lease.
_WORKER_STOP = 2.4
#: When faults begin, as parts of the whole time: there has to be traffic before and after.
_FAULTS_FROM, _FAULTS_TO = 0.05, 0.8


class Kind(StrEnum):
    """What sort of server it is."""

    #: Registers once, and takes one packet a connection.
    CLASSIC = "classic"
    #: Declares ``pipeline``, ``connections`` and ``lease``.
    MODERN = "modern"
    #: The real one: ``twistd rpoolserver``.
    TWISTD = "twistd"


class Fault(StrEnum):
    """What can go wrong."""

    #: A server gets SIGKILL, and is started again.
    KILL = "kill"
    #: A server gets SIGSTOP, and then SIGCONT.
    STOP = "stop"
    #: A server gets SIGTERM, drains, and is started again: nothing may be lost.
    RESTART = "restart"
    #: A server answers a packet after its deadline.
    LATE = "late"
    #: A server resets the connection in the middle of an answer.
    RESET = "reset"
    #: A server answers something that is no answer to the packet.
    GARBAGE = "garbage"
    #: A client goes, or shuts its writing side, with packets unanswered.
    VANISH = "vanish"
    #: The proxy gets SIGTERM, drains, and is started again.
    PROXY_RESTART = "proxy-restart"
    #: The proxy gets SIGKILL, and is started again.
    PROXY_KILL = "proxy-kill"
    #: The proxy gets SIGHUP, and reads its files again.
    RELOAD = "reload"
    #: One of the proxy's workers gets SIGKILL, and is replaced.
    WORKER_KILL = "worker-kill"
    #: One of the proxy's workers gets SIGSTOP, and then SIGCONT.
    WORKER_STOP = "worker-stop"


#: Those that a server is ordered to do to its next packet.
ORDERED = frozenset({Fault.LATE, Fault.RESET, Fault.GARBAGE})
#: Those that happen to the proxy.
OF_PROXY = frozenset({Fault.PROXY_RESTART, Fault.PROXY_KILL})
#: Those that happen to one of several workers.
OF_WORKER = frozenset({Fault.WORKER_KILL, Fault.WORKER_STOP})
#: Those that every plan has, if it is long enough.
_ORDINARY = tuple(fault for fault in Fault if fault not in OF_PROXY | OF_WORKER | {Fault.RELOAD})

#: How a server answers garbage: no JSON; JSON that is no packet; the ACK of somebody else's packet.
GARBAGE_FORMS = ("noise", "nonsense", "stranger")
#: How a client vanishes: by a reset; by a close; by shutting only its writing side, after which it gets its answers.
VANISH_FORMS = ("reset", "close", "shut")


@frozen
class Proxy:
    """How the proxy is set up.

    :ivar workers: how many it has; 1 for a proxy that is one process.
    :ivar durable: whether registrations outlast it, in a file; then nobody registers classic servers again.
    :ivar policies: whether it has a file of policies, which it reads again on SIGHUP.
    :ivar retry: whether packets that were lost to a server are sent once more.
    :ivar audit: whether it keeps an audit trail.
    """

    workers: int = 1
    durable: bool = False
    policies: bool = False
    retry: bool = False
    audit: bool = False


@frozen
class Server:
    """A server that takes part.

    :ivar pipeline: packets in flight on a connection; 0 for a classic one.
    :ivar connections: how many it asks for; 0 for a classic one.
    :ivar lease: seconds; 0 for a classic one.
    """

    server_id: str
    kind: Kind
    policies: tuple[str, ...]
    pipeline: int = 0
    connections: int = 0
    lease: float = 0.0


@frozen
class Client:
    """A client that takes part.

    :ivar single: whether it makes a connection for each packet, as clients of the old kind do.
    """

    client_id: str
    single: bool


@frozen
class Event:
    """A fault that is to strike.

    :ivar at: when.
    :ivar whom: the id of the server or of the client; ``"proxy"``; ``"worker 1"``, with its number.
    :ivar seconds: how long it lasts: dead, stopped or late. 0 where that isn't for the plan to say.
    :ivar form: one of :data:`GARBAGE_FORMS` or :data:`VANISH_FORMS`.
    """

    at: float
    fault: Fault
    whom: str
    seconds: float = 0.0
    form: str = ""

    @property
    def order(self) -> str:
        """What a server is ordered; see :mod:`tests.chaos.faultserver`."""
        detail = self.form or (f"{self.seconds}" if self.seconds else "")
        return f"{self.fault} {detail}".strip()

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.2f} s" if self.seconds else ""
        form = f" ({self.form})" if self.form else ""
        return f"{self.at:.2f} s: {self.fault} {self.whom}{form}{lasting}"


@frozen
class Draft:
    """A packet to be sent."""

    client_id: str
    policy: str
    payload: str


@frozen
class Burst:
    """Packets that a client sends in one go, and when."""

    at: float
    drafts: tuple[Draft, ...]


@frozen
class Plan:
    """All of it.

    :ivar seconds: how long clients send.
    :ivar events: in the order of their times.
    """

    seed: int
    seconds: float
    servers: tuple[Server, ...]
    clients: tuple[Client, ...]
    events: tuple[Event, ...]
    proxy: Proxy = Proxy()

    def drafts(self, client: Client) -> Iterator[Draft]:
        """Give a client's packets, without an end and each time the same."""
        random = self._random("packets", client.client_id)
        number = 0
        while True:
            number += 1
            policy = UNSERVED if random.random() < 0.005 else random.choice(POLICIES)
            # A few are more than a server of the old kind can read.
            length = random.randint(2100, 6000) if random.random() < 0.02 else random.randint(0, 200)
            filler = (_FILLER * (length // len(_FILLER) + 1))[:length]
            yield Draft(client.client_id, policy, f"{self.seed}/{client.client_id}/{number} {filler}")

    def bursts(self, client: Client, drafts: Iterator[Draft]) -> Iterator[Burst]:
        """Give a client's packets with their times, until the end.

        :param drafts: its packets; they are shared with whatever else has it send some.
        """
        random = self._random("bursts", client.client_id)
        at = random.uniform(0, _PAUSE)
        while at < self.seconds:
            size = 1 if client.single else random.randint(1, _BURST)
            yield Burst(at, tuple(next(drafts) for _ in range(size)))
            at += random.expovariate(1 / _PAUSE)

    def _random(self, *what: str) -> Random:
        return Random("/".join((str(self.seed), *what)))


def make(seed: int, seconds: float, servers: int = 20, clients: int = 40, workers: int = 1) -> Plan:
    """Return the plan of a seed.

    :param servers: how many; with fewer than 15, a policy may lack a kind of them.
    :param clients: how many.
    :param workers: how many processes the proxy has.
    """
    random = Random(seed)
    all_servers = tuple(_server(random, number) for number in range(servers))
    all_clients = tuple(Client(f"c{number}", single=number % 8 == 7) for number in range(clients))
    events = _events(random, seconds, all_servers, all_clients)
    # Drawn apart, so that a seed is the same to servers and clients whatever proxy they have.
    random = Random(f"{seed}/proxy")
    proxy = Proxy(workers, *(random.random() < 0.5 for _ in range(4)))
    events += _of_workers(random, seconds, proxy)
    return Plan(seed, seconds, all_servers, all_clients, tuple(sorted(events, key=lambda event: event.at)), proxy)


def _server(random: Random, number: int) -> Server:
    server_id = f"s{100 + number}"
    # The kinds and the policies go round at different paces, so that each policy has each kind.
    kind = (Kind.CLASSIC, Kind.MODERN, Kind.CLASSIC, Kind.MODERN, Kind.TWISTD)[number % 5]
    policy = POLICIES[number % 3]
    if kind is Kind.CLASSIC:
        return Server(server_id, kind, (policy,))
    also = random.choice(POLICIES)
    both = also != policy and random.random() < 0.25
    return Server(
        server_id,
        kind,
        (policy, also) if both else (policy,),
        pipeline=random.choice((1, 4, 32)),
        connections=random.choice((1, 1, 2, 3)),
        lease=random.choice((1.0, 3.0, 10.0)),
    )


def _events(random: Random, seconds: float, servers: tuple[Server, ...], clients: tuple[Client, ...]) -> list[Event]:
    """Draw faults such that a server is never struck while another fault still has it."""
    begin, end = seconds * _FAULTS_FROM, seconds * _FAULTS_TO
    number = max(1, round(_FAULT_RATE * (end - begin)))
    # Each ordinary one comes once before any comes twice.
    faults = [*random.sample(_ORDINARY, len(_ORDINARY)), *random.choices(_ORDINARY, k=number)][:number]
    faults += _of_proxy(random, seconds)
    random.shuffle(faults)
    free_from = dict.fromkeys((server.server_id for server in servers), 0.0)
    free_from["proxy"] = 0.0
    events = []
    for at, fault in zip(sorted(random.uniform(begin, end) for _ in faults), faults, strict=True):
        event = _event(random, fault, at, servers, clients, free_from)
        if event is not None:
            events.append(event)
    return events


def _of_proxy(random: Random, seconds: float) -> list[Fault]:
    """Most short runs have one fault of the proxy, and longer ones one every 15 seconds."""
    number = round(seconds / 15) or (random.random() < 0.6)
    return random.choices((Fault.PROXY_RESTART, Fault.PROXY_KILL), weights=(2, 1), k=number)


def _of_workers(random: Random, seconds: float, proxy: Proxy) -> list[Event]:
    """Draw what happens to workers; that they are free of other faults is seen to when it is carried out."""
    if proxy.workers == 1:
        return []
    begin, end = seconds * _FAULTS_FROM, seconds * _FAULTS_TO
    faults = [Fault.WORKER_KILL, Fault.WORKER_STOP, *([Fault.RELOAD] if proxy.policies else [])]
    number = max(1, round(_WORKER_FAULT_RATE * (end - begin)))
    drawn = sorted((random.uniform(begin, end), fault) for fault in random.choices(faults, k=number))
    free_from: dict[str, float] = {}
    events = []
    for at, fault in drawn:
        whom = "proxy" if fault is Fault.RELOAD else f"worker {random.randint(1, proxy.workers)}"
        lasting = random.uniform(0.2, _WORKER_STOP) if fault is Fault.WORKER_STOP else 0.0
        if lasting:
            # One that is stopped again and again has its clients wait longer than any deadline.
            if free_from.get(whom, 0.0) > at:
                continue
            free_from[whom] = at + lasting + 2 * TIMEOUT
        events.append(Event(at, fault, whom, lasting))
    return events


def _event(
    random: Random,
    fault: Fault,
    at: float,
    servers: tuple[Server, ...],
    clients: tuple[Client, ...],
    free_from: dict[str, float],
) -> Event | None:
    """Draw the rest of an event; None if whoever it could strike has another fault."""
    if fault is Fault.VANISH:
        return Event(at, fault, random.choice(clients).client_id, form=random.choice(VANISH_FORMS))
    seconds = _lasting(random, fault)
    if fault in OF_PROXY:
        whom = "proxy"
    else:
        able = [each.server_id for each in servers if _able(each, fault) and free_from[each.server_id] <= at]
        if not able:
            return None
        whom = random.choice(able)
    if free_from[whom] > at:
        return None
    # What follows a fault (a process that starts, a late answer, a probe) takes its time too.
    free_from[whom] = at + seconds + 2 * TIMEOUT
    form = random.choice(GARBAGE_FORMS) if fault is Fault.GARBAGE else ""
    return Event(at, fault, whom, seconds, form)


def _able(server: Server, fault: Fault) -> bool:
    if fault in ORDERED:
        # The real one has nobody to take orders from.
        return server.kind is not Kind.TWISTD
    # A server of the old kind knows no way to go gently.
    return fault is not Fault.RESTART or server.kind is not Kind.CLASSIC


def _lasting(random: Random, fault: Fault) -> float:
    if fault is Fault.KILL:
        return random.uniform(0.1, 1.0)
    if fault is Fault.STOP:
        return random.uniform(0.2, 2.4 * TIMEOUT)
    if fault is Fault.LATE:
        # Late enough to be swallowed, or so late that the connection is given up.
        return TIMEOUT * random.choice((random.uniform(1.2, 1.8), random.uniform(2.3, 2.6)))
    if fault is Fault.PROXY_KILL:
        return random.uniform(0.05, 0.3)
    return 0.0
