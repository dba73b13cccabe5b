"""Which server next: from a policy to its rotation, or into its waiting line.

There is no default server and no fall-through: a request is offered to the members of its own policy's rotation and to
nobody else (docs/reference/protocol.rst, promise 1). While its line isn't empty every server of the policy is full or
down, so a new request goes to the end of the line, and a server with room again is served from the line.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from rproxy.audit.trail import Trail
from rproxy.figures.counters import Counters
from rproxy.figures.happenings import Happened, nothing_happened
from rproxy.forwarding import Callers
from rproxy.limits import CLASSIC_READ, Limits
from rproxy.logs.packets import ProxyLog
from rproxy.policies import EVERYTHING, Policies, Policy
from rproxy.quotas import Quotas
from rproxy.registry.registration import Key, Registration
from rproxy.request import Request
from rproxy.retrying import Retries
from rproxy.rotation import Member
from rproxy.routes import Route, limits_of
from rproxy.upstream import Connect, Upstream
from rproxy.upstream.directory import Upstreams
from rproxy.waiting import WaitingLine


class Router:
    """Gives each request to the next server of its policy.

    :param connect: how to reach an address, by TLS or not.
    :param random: numbers from 0 to 1, for jitter.
    :param policies: what each policy's limits are, and whether its packets may be given to a second server.
    :param trail: where it is recorded to whom packets are written, None nowhere.
    """

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
    ) -> None:
        self._limits = limits
        #: Takes a packet of a policy that no server is known of, to give it to :meth:`answer_asked` when it is found
        #: out whether another process knows one; or answers False.
        self.ask: Callable[[Request], bool] = _nobody_knows
        #: Fires when the other processes were asked what stands; see :class:`rproxy.upstream.Owner`.
        self.confirm: Callable[[], Deferred[None]] = lambda: succeed(None)
        #: Told of what doesn't stand until it is heard of again.
        self.lapse: Callable[[Sequence[Registration]], object] = lambda registrations: None
        #: Told of each registration that was held (:meth:`Upstreams.hold`) and has lost the connections for it.
        self.let_go: Callable[[Registration], object] = lambda registration: None
        #: What an operator had drained.
        self._drained: set[Key] = set()
        #: Told of what happens to servers: what, to which policy and server id, and how.
        self.happened: Happened = nothing_happened
        self._counters = counters
        self._clock = clock
        self._routes: dict[str, Route] = {}
        #: Where packets go.
        self.upstreams = Upstreams(limits, counters, clock, connect, random, self, log, trail)
        #: What counts against the limits of policies.
        self.quotas = Quotas(clock.seconds)
        #: The policies that have somebody in line, or had when it was looked at last.
        self._waiting: dict[str, None] = {}
        self._policies = policies
        #: Who waits for answers, beside clients.
        self.callers = Callers(clock, counters, () if trail is None else (trail,))
        self._retries = Retries(counters)

    def forward(self, raw: bytes) -> Deferred[bytes]:
        """Forward one data packet to the next server of its policy.

        :returns: the bytes of the ACK; or :class:`rproxy.forwarding.ForwardError`.
        :raises rproxy.packets.PacketError: ``raw`` is no data packet.
        """
        request, answer = self.callers.make_request(raw, self._limits.timeout)
        self.submit((request,))
        return answer

    def submit(self, requests: Iterable[Request]) -> None:
        """Give each request to the next server of its policy, let it wait for one, or refuse it."""
        routes, limits = self._routes, self._limits
        for request in requests:
            route = routes.get(request.policy)
            if route is None:
                self._submit_unserved(request)
            elif (route.limits is limits or self._within_limits(route, request)) and (
                route.line.packets or route.rotation.offer(request) is None
            ):
                self._line_up(route, request)

    def _submit_unserved(self, request: Request) -> None:
        request.unserved = self._counters.tallies.unserved(request.policy)
        if not self.ask(request):
            request.refuse("no-server", "no", f"no server serves policy {request.policy}")

    def _line_up(self, route: Route, request: Request) -> None:
        request.unserved = route.tally
        if route.deserted is not None and route.is_over(self._clock.seconds()):
            # The route is still there for those that came earlier and wait.
            request.refuse("no-server", "no", f"no server serves policy {request.policy} any more")
            return
        request.waits_until = request.deadline - route.limits.timeout + route.limits.queue_timeout
        if len(request.raw) > CLASSIC_READ and route.refuse_long(request):
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
                self.submit((request,))
                request.count_from(self._clock.seconds())
            else:
                # It may have had one meanwhile.
                request.unserved = self._counters.tallies.unserved(request.policy)
                request.refuse("no-server", "no", f"no server serves policy {request.policy}")

    def _within_limits(self, route: Route, request: Request) -> bool:
        """Hold the request to the limits of its own policy, or refuse it."""
        request.deadline += route.limits.timeout - self._limits.timeout
        beyond = self.quotas.refusal(request.policy, route.policy)
        if beyond is not None:
            request.unserved = route.tally
            request.refuse("overloaded", "no", beyond)
            return False
        self.quotas.count(request, route.policy)
        return True

    def redispatch(self, requests: Iterable[Request]) -> None:
        """Find other servers for requests of which not one byte was written (promise 6), in their order."""
        unanswered = [request for request in requests if request.reply is None]
        self._counters.redispatched += len(unanswered)
        self._offer_again(unanswered)

    def retry(self, requests: Iterable[Request]) -> Iterable[Request]:
        """Find other servers for requests that were written, where their policy allows it; returns the others."""
        again, others = self._retries.choose(requests, self._policies)
        self._offer_again(again)
        return others

    def _offer_again(self, requests: Iterable[Request]) -> None:
        waiting = []
        for request in requests:
            route = self._routes.get(request.policy)
            if route is None:
                request.refuse("no-server", "no", f"no server serves policy {request.policy} any more")
            elif route.rotation.offer(request) is not None:
                request.count_from(self._clock.seconds())
            elif not route.refuse_long(request):
                waiting.append((route, request))
        for route, request in reversed(waiting):
            request.waits_until = self._clock.seconds() + route.limits.queue_timeout
            route.line.push_back(request)
            self._waiting[request.policy] = None

    def reweigh(self, policies: Iterable[str]) -> None:
        """See :class:`rproxy.upstream.Owner`."""
        for policy in policies:
            self._routes[policy].rotation.reweigh()

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
        by_tls = self._policies.uses_tls(registration.policy)
        upstream = self.upstreams.reach(registration.address, by_tls, up=up)
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
            member = self._bar(registration)
            member.drained = True
            upstream_of(member).give_back()

    def resume(self, key: Key, registration: Registration | None) -> None:
        """Undo :meth:`drain`."""
        if key in self._drained:
            self._drained.discard(key)
            if registration is not None:
                self.registered(registration, found=self._bar(registration).found)

    def bar(self, registrations: Iterable[Registration]) -> None:
        """Write nothing more to these, which are about to end: one would be given what another gave back."""
        for registration in registrations:
            self._bar(registration)

    def _bar(self, registration: Registration) -> Member:
        member = self._routes[registration.policy].rotation.bar(registration.server_id)
        upstream_of(member).members.bar(member)
        return member

    def reload(self, policies: Policies) -> None:
        """Keep to these policies from now on; the registrations that they don't allow have ended already."""
        self._policies = policies
        self.quotas.renew()
        for name, route in list(self._routes.items()):
            policy = policies.get(name)
            if policy is None:
                self._abolish(name, route)
            else:
                route.keep_to(policy, limits_of(policy, self._limits))
                self._move(route, policies.uses_tls(name))

    def _move(self, route: Route, by_tls: bool) -> None:
        """Have the servers connected to by TLS, or not; what is in flight is finished as it is."""
        for member in route.rotation.members:
            registration, upstream = member.registration, upstream_of(member)
            if self.upstreams.get(registration.address, by_tls) is upstream:
                continue
            if upstream.held:
                # There is no other way to it than the connections that it is held by.
                self.let_go(registration)
            else:
                self.registered(registration, up=upstream.health.up, found=member.found)

    def _abolish(self, name: str, route: Route) -> None:
        del self._routes[name]
        self._waiting.pop(name, None)
        route.refuse_all("no-server", f"there is no policy {name} any more")

    def _make_route(self, name: str) -> Route:
        # Who may serve a policy was decided before: it is one that exists.
        policy = self._policies.get(name) or Policy()
        limits = limits_of(policy, self._limits)
        return Route(WaitingLine(limits), limits, policy, self._counters.tallies.policy(name, limits.timeout))

    def ended(self, registration: Registration) -> None:
        """A server serves a policy no more."""
        route = self._routes[registration.policy]
        member = route.rotation.remove(registration.server_id)
        assert member is not None
        if not route.rotation:
            route.deserted = self._clock.seconds()
        upstream_of(member).leave(member)

    def room_made(self, upstream: Upstream) -> None:
        """Serve the waiting lines of the policies that the upstream stands behind, in turn."""
        if not self._waiting:
            return
        members = deque(member for policy in self._waiting for member in upstream.members.live_of(policy))
        members.rotate(-upstream.turn)
        now = self._clock.seconds()
        while members:
            member = members[0]
            members.rotate(-1)
            route = self._routes[member.policy]
            request = route.line.pop()
            if request is None:
                self._waiting.pop(member.policy, None)
                members.remove(member)
            elif upstream.take(request, member):
                request.count_from(now)
                upstream.turn += 1
            elif not route.refuse_long(request):
                route.line.push_back(request)
                return

    def sweep(self) -> None:
        """End what is past its time; called several times a second, so that no packet needs a timer of its own."""
        now = self._clock.seconds()
        self.upstreams.sweep(now)
        self._retries.sweep()
        for policy, route in list(self._routes.items()):
            route.expire(now)
            if not route.line.packets and route.is_over(now):
                del self._routes[policy]
                self._waiting.pop(policy, None)

    def stop(self) -> None:
        """Refuse every packet that is still here, and let go of every connection."""
        for route in self._routes.values():
            route.refuse_all("shutting-down", "the proxy stopped before a server could take it")
        self.upstreams.stop()


def _nobody_knows(request: Request) -> bool:
    return False


def upstream_of(member: Member) -> Upstream:
    """Whose connections lead to a member of a route."""
    # The router makes members of nothing else.
    return cast(Upstream, member.target)
