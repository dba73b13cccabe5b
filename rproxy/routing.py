"""Which server next: from a policy to its rotation, or into its waiting line.

There is no default server and no fall-through: a request is offered to the members of its own policy's rotation and to
nobody else (docs/protocol.rst, promise 1). While its line isn't empty every server of the policy is full or down, so a
new request goes to the end of the line, and a server with room again is served from the line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rproxy import packets
from rproxy.audit.trail import Trail
from rproxy.figures.counters import Counters
from rproxy.figures.happenings import Happened, nothing_happened
from rproxy.figures.tallies import PolicyTally
from rproxy.health import Health
from rproxy.limits import CLASSIC_READ, Limits
from rproxy.logs.packets import ProxyLog
from rproxy.policies import EVERYTHING, Policies, Policy
from rproxy.rates import Bucket
from rproxy.registry.registration import Address, Key, Registration
from rproxy.request import Allowance, Endings, Refusal, Request
from rproxy.rotation import Member, Rotation
from rproxy.upstream import Connect, Upstream
from rproxy.waiting import WaitingLine

#: Packets that may be being retried at a time: this share of what is in flight, and so many however few those are.
RETRY_SHARE = 0.2
RETRIES = 3


@define(eq=False)
class Route:
    """One policy: its servers, and who waits for them."""

    line: WaitingLine
    #: The proxy's limits, or those of the policy where it has its own.
    limits: Limits
    policy: Policy
    tally: PolicyTally
    rotation: Rotation = field(factory=Rotation)
    #: When the last registration ended, in the clock's seconds.
    deserted: float | None = None


class ForwardError(Exception):
    """A packet was refused; the codes are those of docs/protocol.rst.

    :ivar code: why.
    :ivar delivered: ``no`` or ``unknown``.
    """

    def __init__(self, code: str, delivered: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.delivered = delivered


class _Caller:
    """An asker that is a Deferred."""

    def __init__(
        self, clock: IReactorTime, counters: Counters, endings: Sequence[Endings], callers: set[_Caller]
    ) -> None:
        self.clock = clock
        self._callers = callers
        self._counters = counters
        self.answer: Deferred[bytes] = Deferred(lambda _: self._cancel())
        self.request: Request
        self._endings = endings

    def _cancel(self) -> None:
        self._callers.discard(self)
        self._counters.client_gone += 1
        if self.request.tally is not None:
            self.request.tally.client_gone += 1
        for endings in self._endings:
            endings.gone((self.request,), "")
        self.request.abandon()

    def deliver(self) -> None:
        reply = self.request.reply
        if self.answer.called or reply is None:
            return
        self._callers.discard(self)
        for endings in self._endings:
            endings.ended((self.request,), "")
        if not isinstance(reply, Refusal):
            self._counters.acked += 1
            server = self.request.server
            assert server is not None
            server.noted.append(self.clock.seconds() - self.request.deadline + server.tally.policy.timeout)
            self.answer.callback(reply)
            return
        self._counters.refused[reply.code] += 1
        if self.request.tally is not None:
            self.request.tally.refused[reply.code] += 1
        error = packets.decode(reply)
        assert isinstance(error, packets.Error)
        self.answer.errback(ForwardError(error.error, error.delivered, error.payload))

    def deliver_soon(self) -> None:
        """See :class:`rproxy.request.Asker`."""
        self.clock.callLater(0, self.deliver)


class Router:
    """Gives each request to the next server of its policy.

    :param connect: how to reach an address, by TLS or not.
    :param random: numbers from 0 to 1, for jitter.
    :param policies: what each policy's limits are, and whether its packets may be given to a second server.
    :param trail: where it is recorded to whom packets are written, None nowhere.
    :param let_go: called with each registration that was held (:meth:`hold`) and has lost the connections for it.
    """

    _logger = Logger()

    def __init__(
        self,
        limits: Limits,
        counters: Counters,
        clock: IReactorTime,
        connect: Connect,
        random: Callable[[], float],
        log: ProxyLog | None = None,
        policies: Policies = EVERYTHING,
        trail: Trail | None = None,
        let_go: Callable[[Registration], object] = lambda registration: None,
    ) -> None:
        self._limits = limits
        #: Takes a packet of a policy that no server is known of, to give it to :meth:`answer_asked` when it is found
        #: out whether another process knows one; or answers False.
        self.ask: Callable[[Request], bool] = _nobody_knows
        #: Fires when the other processes were asked what stands; see :class:`rproxy.upstream.Owner`.
        self.confirms: Callable[[], Deferred[None]] = lambda: succeed(None)
        #: Told of what doesn't stand until it is heard of again.
        self.lapsed: Callable[[Sequence[Registration]], object] = lambda registrations: None
        self._let_go = let_go
        self._sharers = 1
        #: What an operator had drained.
        self._drained: set[Key] = set()
        #: Told of what happens to servers: what, to which policy and server id, and how.
        self.happened: Happened = nothing_happened
        self._counters = counters
        self._clock = clock
        self._connect = connect
        self._random = random
        self._log = log
        self._trail = trail
        #: Who records what becomes of packets.
        self.endings: Sequence[Endings] = () if trail is None else (trail,)
        self._routes: dict[str, Route] = {}
        #: By where they are, and whether they are connected to by TLS.
        self._upstreams: dict[tuple[Address, bool], Upstream] = {}
        #: What counts against the rates of policies.
        self._buckets: dict[str, Bucket] = {}
        #: The policies that have somebody in line, or had when it was looked at last.
        self._waiting: dict[str, None] = {}
        self._policies = policies
        #: Of each policy that has a limit of that: its packets without an answer. Not in the routes, as those go while
        #: servers still answer.
        self._allowances: dict[str, Allowance] = {}
        #: Whose packets have no answer yet, of those that aren't clients.
        self.callers: set[_Caller] = set()
        #: Packets that were retried, and may be answered by now.
        self._retrying: list[Request] = []

    def forward(self, raw: bytes) -> Deferred[bytes]:
        """Forward one data packet to the next server of its policy.

        :returns: the bytes of the ACK; or :class:`ForwardError`.
        :raises rproxy.packets.PacketError: ``raw`` is no data packet.
        """
        data = packets.decode(raw)
        if not isinstance(data, packets.Data):
            raise packets.PacketError("only data packets are forwarded")
        caller = _Caller(self._clock, self._counters, self.endings, self.callers)
        self._counters.received += 1
        deadline = self._clock.seconds() + self._limits.timeout
        caller.request = Request(raw, data.policy, data.srcid, deadline, caller)
        self.callers.add(caller)
        self.submit(caller.request)
        return caller.answer

    def submit(self, request: Request) -> None:
        """Give the request to the next server of its policy, let it wait for one, or refuse it."""
        route = self._routes.get(request.policy)
        if route is None:
            request.unserved = self._counters.tallies.unserved(request.policy)
            if not self.ask(request):
                request.refuse("no-server", "no", f"no server serves policy {request.policy}")
            return
        if route.limits is not self._limits and not self._within_limits(route, request):
            return
        if route.deserted is not None and self._clock.seconds() - route.deserted >= route.limits.queue_timeout:
            # The route is still there for those that came earlier and wait.
            request.unserved = route.tally
            request.refuse("no-server", "no", f"no server serves policy {request.policy} any more")
        elif route.line.packets or route.rotation.offer(request) is None:
            request.unserved = route.tally
            request.waits_until = request.deadline - route.limits.timeout + route.limits.queue_timeout
            if self._refuse_long(route, request):
                return
            if not route.line.packets:
                self._waiting[request.policy] = None
            if not route.line.push(request):
                request.refuse("overloaded", "no", f"too many packets wait for a server of policy {request.policy}")

    def answer_asked(self, requests: Iterable[Request]) -> None:
        """All that can be found out about the policies of these packets is known now."""
        for request in requests:
            if request.reply is not None:
                continue
            if request.policy in self._routes:
                self.submit(request)
            else:
                # It may have had one meanwhile.
                request.unserved = self._counters.tallies.unserved(request.policy)
                request.refuse("no-server", "no", f"no server serves policy {request.policy}")

    def _within_limits(self, route: Route, request: Request) -> bool:
        """Hold the request to the limits of its own policy, or refuse it."""
        request.deadline += route.limits.timeout - self._limits.timeout
        beyond = self.beyond_limits(route, request.policy)
        if beyond is not None:
            request.unserved = route.tally
            request.refuse("overloaded", "no", beyond)
            return False
        if route.policy.rate is not None:
            self._bucket(request.policy, route.policy.rate).tokens -= 1
        if route.policy.in_flight is not None:
            request.allowance = self._allowance(request.policy)
            request.allowance.used += 1
        return True

    def beyond_limits(self, route: Route, name: str) -> str | None:
        """Why the policy's own limits don't let one more packet in now; None if they do."""
        policy = route.policy
        if policy.rate is not None and self._bucket(name, policy.rate).refill(self._clock.seconds()) < 1:
            return f"too many packets a second of policy {name}"
        if policy.in_flight is not None and self._allowance(name).used >= policy.in_flight:
            return f"too many packets of policy {name} have no answer yet"
        return None

    def _bucket(self, name: str, rate: float) -> Bucket:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(rate, self._clock.seconds())
        return bucket

    def _allowance(self, name: str) -> Allowance:
        allowance = self._allowances.get(name)
        if allowance is None:
            allowance = self._allowances[name] = Allowance()
        return allowance

    def redispatch(self, requests: Iterable[Request]) -> None:
        """Find other servers for requests of which not one byte was written (promise 6), in their order."""
        unanswered = [request for request in requests if request.reply is None]
        self._counters.redispatched += len(unanswered)
        self._offer_again(unanswered)

    def retry(self, requests: Iterable[Request]) -> Iterable[Request]:
        """Find other servers for requests that were written, where their policy allows it; returns the others.

        Each is retried once, and those that are being retried are never more than a share of what is in flight, so
        that servers that fail because they have too much to do don't get still more.
        """
        requests = list(requests)
        if not any(self._may_retry(request) for request in requests):
            return requests
        self._retrying = [request for request in self._retrying if request.reply is None]
        budget = int(max(RETRIES, RETRY_SHARE * self._counters.in_flight)) - len(self._retrying)
        again: list[Request] = []
        others: list[Request] = []
        for request in requests:
            if self._may_retry(request) and len(again) < budget:
                request.retried = True
                again.append(request)
            else:
                others.append(request)
        self._retrying += again
        self._counters.retried += len(again)
        for request in again:
            if request.tally is not None:
                request.tally.retried += 1
        self._offer_again(again)
        return others

    def _may_retry(self, request: Request) -> bool:
        policy = self._policies.get(request.policy)
        return policy is not None and policy.retry and request.reply is None and not request.retried

    def _offer_again(self, requests: Iterable[Request]) -> None:
        waiting = []
        for request in requests:
            route = self._routes.get(request.policy)
            if route is None:
                request.refuse("no-server", "no", f"no server serves policy {request.policy} any more")
            elif route.rotation.offer(request) is None and not self._refuse_long(route, request):
                waiting.append((route, request))
        for route, request in reversed(waiting):
            request.waits_until = self._clock.seconds() + route.limits.queue_timeout
            route.line.push_back(request)
            self._waiting[request.policy] = None

    def reweigh(self, policies: Iterable[str]) -> None:
        """See :class:`rproxy.upstream.Owner`."""
        for policy in policies:
            self._routes[policy].rotation.reweigh()

    def _refuse_long(self, route: Route, request: Request) -> bool:
        """A packet that servers of the old kind can't take doesn't wait in their line: it would stop the others."""
        if len(request.raw) <= CLASSIC_READ or route.rotation.all_take(len(request.raw)):
            return False
        text = f"policy {request.policy} has servers of the old kind, which take at most {CLASSIC_READ} bytes"
        request.refuse("too-large", "no", text)
        return True

    def registered(
        self, registration: Registration, *, up: bool = True, found: bool = False, counts: bool = False
    ) -> None:
        """A server serves a policy, anew or with other terms.

        :param up: whether to take it for up, where nothing is known of its address.
        :param found: whether it is only known from another process, which holds its lease.
        :param counts: whether a setup packet said so just now, and to this process.
        """
        route = self._routes.get(registration.policy)
        if route is None:
            route = self._routes[registration.policy] = self._make_route(registration.policy)
        route.deserted = None
        place = registration.address, self._policies.uses_tls(registration.policy)
        upstream = self._upstreams.get(place)
        if upstream is None:
            upstream = self._upstreams[place] = self._make_upstream(*place, up=up)
        tally = self._counters.tallies.server(route.tally, registration.server_id)
        tally.registrations += counts
        member = Member(registration, upstream, tally, found=found)
        if registration.key in self._drained:
            member.live = False
            member.drained = True
        replaced = route.rotation.put(member)
        upstream.join(member)
        if replaced is not None:
            upstream_of(replaced).leave(replaced)
        upstream.give_back_if_changed()
        self.room_made(upstream)

    @property
    def routes(self) -> Mapping[str, Route]:
        """The policies that have servers, or somebody in line."""
        return self._routes

    def confirm(self) -> Deferred[None]:
        """See :class:`rproxy.upstream.Owner`."""
        return self.confirms()

    def lapse(self, members: Iterable[Member]) -> None:
        """See :class:`rproxy.upstream.Owner`."""
        self.lapsed([member.registration for member in members])

    def in_touch(self) -> None:
        """The other processes are heard of again: servers that nobody could confirm may be there."""
        for upstream in list(self._upstreams.values()):
            upstream.expect()

    def seen(self, registration: Registration) -> None:
        """A server that is registered said again that it is there, to another process."""
        for upstream in self._upstreams_of(registration):
            upstream.expect()

    def probe(self, registration: Registration) -> None:
        """Find out whether a server is there."""
        for upstream in self._upstreams_of(registration):
            upstream.probe()

    def is_down(self, registration: Registration) -> bool:
        """Whether a server is down, or nobody's."""
        return not any(upstream.health.up for upstream in self._upstreams_of(registration))

    def share_with(self, sharers: int) -> None:
        """So many proxies connect to the same servers."""
        if sharers != self._sharers:
            self._sharers = sharers
            for upstream in self._upstreams.values():
                upstream.share_with(sharers)

    def hold(self, registrations: Sequence[Registration]) -> list[Registration]:
        """Serve these only over connections that are there already, each until it loses one.

        :returns: those for which that is possible. The others must end now.
        """
        return [
            registration
            for registration in registrations
            if any(
                upstream.held or upstream.hold(registrations)
                for upstream in self._upstreams_of(registration)
                if upstream.serves(registration)
            )
        ]

    def went_down(self, members: Iterable[Member], why: str) -> None:
        """See :class:`rproxy.upstream.Owner`."""
        for member in members:
            member.tally.downs += 1
            member.tally.down_at, member.tally.down_why = self._clock.seconds(), why
            self.happened("down", member.policy, member.server_id, why)

    def came_up(self, members: Iterable[Member]) -> None:
        """See :class:`rproxy.upstream.Owner`."""
        for member in members:
            self.happened("up", member.policy, member.server_id, "")

    @property
    def drained(self) -> frozenset[Key]:
        """What an operator had drained, registered or not."""
        return frozenset(self._drained)

    def drain(self, key: Key, registration: Registration | None) -> None:
        """Give a server nothing new until :meth:`resume`, however often it registers.

        :param registration: the one of that key, None while there is none.
        """
        self._drained.add(key)
        if registration is not None:
            self._routes[registration.policy].rotation.bar(registration.server_id).drained = True
            self.bar([registration])

    def resume(self, key: Key, registration: Registration | None) -> None:
        """Undo :meth:`drain`."""
        if key in self._drained:
            self._drained.discard(key)
            if registration is not None:
                self.registered(registration)

    def let_go(self, members: Iterable[Member]) -> None:
        """See :class:`rproxy.upstream.Owner`."""
        for member in members:
            self._let_go(member.registration)

    def _upstreams_of(self, registration: Registration) -> list[Upstream]:
        place = registration.address
        return [each for by_tls in (False, True) if (each := self._upstreams.get((place, by_tls))) is not None]

    @property
    def unanswered(self) -> dict[str, int]:
        """How many packets have no answer yet, for each policy that has a limit of that."""
        return {name: allowance.used for name, allowance in self._allowances.items()}

    def bar(self, registrations: Iterable[Registration]) -> None:
        """Write nothing more to these, which are about to end: one would be given what another gave back."""
        for registration in registrations:
            member = self._routes[registration.policy].rotation.bar(registration.server_id)
            upstream_of(member).bar(member)

    def reload(self, policies: Policies) -> None:
        """Keep to these policies from now on; the registrations that they don't allow have ended already."""
        self._policies = policies
        self._buckets.clear()
        self._allowances = {name: allowance for name, allowance in self._allowances.items() if allowance.used}
        for name, route in list(self._routes.items()):
            policy = policies.get(name)
            if policy is None:
                self._abolish(name, route)
            else:
                route.policy = policy
                route.limits = route.line.limits = self._limits_of(policy)
                route.tally.timeout = route.limits.timeout
                self._move(route, policies.uses_tls(name))

    def _move(self, route: Route, by_tls: bool) -> None:
        """Have the servers connected to by TLS, or not; what is in flight is finished as it is."""
        for member in route.rotation.members:
            registration, upstream = member.registration, upstream_of(member)
            if self._upstreams.get((registration.address, by_tls)) is upstream:
                continue
            if upstream.held:
                # There is no other way to it than the connections that it is held by.
                self._let_go(registration)
            else:
                self.registered(registration, up=upstream.health.up, found=member.found)

    def _abolish(self, name: str, route: Route) -> None:
        del self._routes[name]
        self._waiting.pop(name, None)
        while (request := route.line.pop()) is not None:
            request.refuse("no-server", "no", f"there is no policy {name} any more")

    def _make_route(self, name: str) -> Route:
        # Who may serve a policy was decided before: it is one that exists.
        policy = self._policies.get(name) or Policy()
        limits = self._limits_of(policy)
        return Route(WaitingLine(limits), limits, policy, self._counters.tallies.policy(name, limits.timeout))

    def _limits_of(self, policy: Policy) -> Limits:
        """The limits that the policy's packets are held to; the proxy's, the same object, where it has none."""
        names = ("timeout", "queue_timeout", "queue_packets")
        changes: Any = {name: limit for name in names if (limit := getattr(policy, name)) is not None}
        is_special = changes or policy.in_flight is not None or policy.rate is not None
        return evolve(self._limits, **changes) if is_special else self._limits

    def in_flight_at(self, registration: Registration) -> int:
        """How many packets a server has, under this registration's policy, that it hasn't answered."""
        return sum(upstream.in_flight.get(registration.policy, 0) for upstream in self._upstreams_of(registration))

    def ended(self, registration: Registration) -> None:
        """A server serves a policy no more."""
        route = self._routes[registration.policy]
        member = route.rotation.remove(registration.server_id)
        assert member is not None
        if not route.rotation:
            route.deserted = self._clock.seconds()
        upstream_of(member).leave(member)

    def _make_upstream(self, address: Address, by_tls: bool, *, up: bool) -> Upstream:
        return Upstream(
            address,
            self._connect(address, by_tls),
            Health(self._random, self._limits.max_fails, self._limits.max_timeouts, self._limits.slow_start, up=up),
            self._limits,
            self._counters,
            self._clock,
            self,
            self._log,
            self._trail,
            self._sharers,
        )

    def room_made(self, upstream: Upstream) -> None:
        """Serve the waiting lines of the policies that the upstream stands behind, in turn."""
        if not self._waiting:
            return
        members = deque(member for policy in self._waiting for member in upstream.members_of(policy))
        members.rotate(-upstream.turn)
        while members:
            member = members[0]
            members.rotate(-1)
            route = self._routes[member.policy]
            request = route.line.pop()
            if request is None:
                self._waiting.pop(member.policy, None)
                members.remove(member)
            elif upstream.take(request, member):
                upstream.count_from_now(request)
                upstream.turn += 1
            elif not self._refuse_long(route, request):
                route.line.push_back(request)
                return

    def sweep(self) -> None:
        """End what is past its time; called several times a second, so that no packet needs a timer of its own."""
        now = self._clock.seconds()
        for place, upstream in list(self._upstreams.items()):
            upstream.sweep(now)
            if upstream.idle:
                del self._upstreams[place]
        for policy, route in list(self._routes.items()):
            for request in route.line.expired(now) if route.line.packets else ():
                _expire(request, route, now)
            if (
                route.deserted is not None
                and now - route.deserted >= route.limits.queue_timeout
                and not route.line.packets
            ):
                del self._routes[policy]
                self._waiting.pop(policy, None)

    def stop(self) -> None:
        """Refuse every packet that is still here, and let go of every connection."""
        for route in self._routes.values():
            while (request := route.line.pop()) is not None:
                request.refuse("shutting-down", "no", "the proxy stopped before a server could take it")
        for upstream in self._upstreams.values():
            upstream.stop()


def _nobody_knows(request: Request) -> bool:
    return False


def upstream_of(member: Member) -> Upstream:
    """Whose connections lead to a member of a route."""
    # The router makes members of nothing else.
    return cast(Upstream, member.target)


def _expire(request: Request, route: Route, now: float) -> None:
    if request.deadline <= now:
        request.refuse("timeout", "no", "no server could take it before its deadline")
    else:
        seconds = route.limits.queue_timeout
        request.refuse("no-server", "no", f"no server of policy {request.policy} could take it within {seconds:g} s")
