"""All connections to one server address: the outbound client factory.

It opens connections when packets come, as many as the server asked for, through Deferreds; gives each packet to the
connection with the most room; and closes them when the server leaves. A packet that is given to it while no connection
is open waits here, unwritten, for the one that is being made, and goes back to the router if that fails.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Protocol

from twisted.internet.interfaces import IAddress, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from rproxy.audit.trail import Trail
from rproxy.connection import RecordedConnection, UpstreamConnection
from rproxy.figures.counters import Counters
from rproxy.health import Health
from rproxy.limits import CLASSIC_READ, Limits
from rproxy.logs.packets import ProxyLog
from rproxy.registry.registration import Address, Key, Registration
from rproxy.request import Request
from rproxy.rotation import Member
from rproxy.upstream.connecting import Attempts, Confirmer
from rproxy.upstream.members import Members
from rproxy.upstream.probing import Probing, Watcher

#: How to reach an address, and whether by TLS.
Connect = Callable[[Address, bool], IStreamClientEndpoint]


class Owner(Watcher, Confirmer, Protocol):
    """Where an upstream's packets come from."""

    def room_made(self, upstream: Upstream) -> None:
        """It may take packets again."""

    def redispatch(self, requests: Iterable[Request]) -> None:
        """It took these requests and could not write them."""

    def retry(self, requests: Iterable[Request]) -> Iterable[Request]:
        """See :class:`rproxy.connection.Pool`."""

    @property
    def let_go(self) -> Callable[[Registration], object]:
        """Told of each that was held by connections which are gone."""


class Upstream(Factory):
    """One server address, and the members (one for each policy it serves) that it stands behind.

    :param endpoint: how to reach it.
    :param sharers: how many proxies connect to it, as far as is known.
    """

    noisy = False

    def __init__(
        self,
        address: Address,
        endpoint: IStreamClientEndpoint,
        health: Health,
        limits: Limits,
        counters: Counters,
        clock: IReactorTime,
        owner: Owner,
        log: ProxyLog | None,
        trail: Trail | None,
        sharers: int,
    ) -> None:
        self.address = address
        self.health = health
        self.members = Members()
        self._probing = Probing(address, health, clock, self.members, owner, self)
        #: Whom the connections were made for.
        self._server_id = ""
        self._served: set[Key] = set()
        #: Grows with each packet out of a waiting line, so that policies take turns.
        self.turn = 0
        self._changed = False
        self._limits = limits
        self._counters = counters
        self._clock = clock
        # See :class:`rproxy.connection.Pool`: what others do, they are asked for with no step between.
        self.seconds = clock.seconds
        self.room_made: Callable[[], None] = partial(owner.room_made, self)
        self.answered: Callable[[], None] = health.succeeded
        self.retry = owner.retry
        self._owner = owner
        self._log = log
        self._trail = trail
        self._pipeline: int | None = None
        #: What the newest registration says, and this proxy's part of it.
        self._wanted = 1
        self._connections = 1
        self._sharers = sharers
        #: Whether no connection may be made any more: see :meth:`hold`.
        self.held = False
        self._open: list[UpstreamConnection] = []
        self._connecting = Attempts(self, endpoint, self.members, owner, self._attempted)
        #: Taken while no connection had room: for those that are being made.
        self._unwritten: deque[Request] = deque()
        #: The one connection, where one is all there may be, it is open, and the server is up.
        self._only: UpstreamConnection | None = None
        #: See :class:`rproxy.rotation.Target`. It is that connection's own where there is one: the way of most packets.
        self.take: Callable[[Request, Member], bool] = self._take_or_connect

    # Members come and go.

    def join(self, member: Member) -> None:
        """Serve one more policy, or a policy anew; the newest registration says how."""
        registration = member.registration
        if self.held and not self.members.serve(registration):
            self._let_go()
            # They may lead to what listened here before.
            for connection in list(self._open):
                connection.retire(for_good=True)
        if registration.server_id != self._server_id or not (self.members.live or registration.key in self._served):
            # They may lead to a server that was here before, and only finishes what it has.
            self._server_id = registration.server_id
            self._served.clear()
            for connection in list(self._open):
                connection.retire(for_good=True)
        self._served.add(registration.key)
        self.members.add(member)
        if (registration.pipeline, registration.connections) != (self._pipeline, self._wanted):
            self._pipeline, self._wanted = registration.pipeline, registration.connections
            self.share_with(self._sharers)
            self._changed = True
            for connection in list(self._open):
                connection.retire(for_good=True)
        elif member.live:
            for connection in self._open:
                connection.employ()
        self._find_only()
        self._probing.expect()
        self._rest_if_unused()

    def share_with(self, sharers: int) -> None:
        """Have no more than this proxy's part of the connections that the server wants.

        A server of the old kind has a backlog of 10, however many proxies there are.
        """
        self._sharers = sharers
        self._connections = max(1, self._wanted // sharers)
        if not self.held:
            staying = [connection for connection in self._open if not connection.retiring]
            for connection in staying[self._connections :]:
                connection.retire(for_good=True)
        self._find_only()

    def hold(self, registrations: Collection[Registration]) -> bool:
        """Keep to the connections that there are: whoever listens there by now may be another server.

        :param registrations: those that must not be served in any other way.
        :returns: whether that is so; it is not where there is no such connection, or where others are served here.
        """
        kept = [member for member in self.members.all if member.live]
        open_now = [connection for connection in self._open if not connection.retiring]
        if self._pipeline is None or not open_now or any(each.registration not in registrations for each in kept):
            return False
        self.held = True
        self._probing.stop()
        self._connecting.give_up()
        self.give_back()
        return True

    def _let_go(self) -> None:
        """Nothing is held here any more."""
        self.held = False
        for member in self.members.all:
            self._owner.let_go(member.registration)
        # For those that stay, by another's word.
        self._probing.probe_later()

    def expect(self) -> None:
        """The server said that it is there, to somebody."""
        if self.held:
            self.held = False
            self.share_with(self._sharers)
            # For those in line, who were told that there is none.
            self._owner.room_made(self)
        self._probing.expect()

    def probe(self) -> None:
        """Find out whether the server is there."""
        if not self._open:
            self._probing.probe()

    def leave(self, member: Member) -> None:
        """Serve one policy less: nothing more is written for it."""
        self.members.remove(member)
        self._rest_if_unused()

    @property
    def in_flight(self) -> dict[str, int]:
        """How many packets the server has that it hasn't answered, by policy; found by looking at each."""
        found: dict[str, int] = {}
        for connection in self._open:
            for request in connection.in_flight:
                if request.reply is None:
                    found[request.policy] = found.get(request.policy, 0) + 1
        return found

    def give_back_if_changed(self) -> None:
        """What was taken on other terms is offered again."""
        if self._changed:
            self._changed = False
            self.give_back()

    @property
    def takes_at_most(self) -> int:
        """See :class:`rproxy.rotation.Target`."""
        return CLASSIC_READ if self._pipeline is None and self.health.up else sys.maxsize

    def _rest_if_unused(self) -> None:
        """Once nothing new may come, let go of every connection; what is in flight is finished first."""
        if self.members.live:
            return
        self._probing.stop()
        self._connecting.give_up()
        for connection in list(self._open):
            connection.retire()
        self.give_back()

    def stop(self) -> None:
        """Refuse what is here, and close every connection."""
        for request in self._unwritten:
            request.refuse("shutting-down", "no", "the proxy stopped before the server was reached")
        for member in self.members.all:
            self.members.bar(member)
        for connection in list(self._open):
            connection.stop()
        self._rest_if_unused()

    @property
    def idle(self) -> bool:
        """Whether nothing is left to wait for: no members, no connections."""
        return not (self.members or self._open or self._connecting.under_way)

    # Packets.

    def refusal(self, member: Member) -> str | None:
        """Why :attr:`take` would not take a packet for this member now, for people; None if it would.

        It asks what :attr:`take` asks, in the same order; a test compares the two.
        """
        if not member.live:
            return _why_barred(member)
        if self._only is not None:
            return self._only.refusal
        if not self.health.up:
            return f"it is down: {self._probing.why}"
        reasons = [connection.refusal for connection in self._open]
        if None in reasons or self._may_connect():
            return None
        if len(self._unwritten) < len(self._connecting.under_way) * (self._pipeline or 1):
            return None
        return next((reason for reason in reasons if reason), "its connections are still being made")

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def _take_or_connect(self, request: Request, member: Member) -> bool:
        if not self.health.up:
            return False
        best, room = None, 0
        for connection in self._open:
            if connection.room > room:
                best, room = connection, connection.room
        if best is not None:
            if best.in_flight and self._may_connect():
                self._connecting.begin()
            return best.write(request, member)
        if self._pipeline is None and len(request.raw) > CLASSIC_READ:
            return False
        connect = self._may_connect()
        if not connect and len(self._unwritten) >= len(self._connecting.under_way) * (self._pipeline or 1):
            return False
        request.server = member
        self._unwritten.append(request)
        if connect:
            self._connecting.begin()
        return True

    def sweep(self, now: float) -> None:
        """End what is past its deadline."""
        for request in list(self._unwritten):
            if request.deadline <= now:
                request.refuse("timeout", "no", "no connection to the server was made in time")
        for connection in list(self._open):
            connection.sweep(now)
        self._probing.sweep(now)

    def give_back(self) -> None:
        """What was taken, and isn't written, is offered again."""
        unwritten, self._unwritten = self._unwritten, deque()
        self._owner.redispatch(unwritten)

    # Connections.

    def buildProtocol(self, addr: IAddress | None) -> UpstreamConnection:
        how = (self, self._pipeline, self._limits, self._counters, self._log)
        return UpstreamConnection(*how) if self._trail is None else RecordedConnection(self._trail, *how)

    def _find_only(self) -> None:
        """Whatever was found before doesn't hold any more."""
        alone = self._connections == 1 and self._pipeline is not None and len(self._open) == 1
        self._only = self._open[0] if alone and self.health.up and not self._open[0].retiring else None
        self.take = self._take_or_connect if self._only is None else self._only.write

    @property
    def share(self) -> int:
        """See :class:`rproxy.rotation.Target`."""
        return self._probing.share

    @property
    def may_probe(self) -> bool:
        """See :class:`rproxy.upstream.probing.Probed`."""
        return self.members.live > 0 and not self.held

    def try_to_connect(self) -> None:
        """See :class:`rproxy.upstream.probing.Probed`."""
        if self.may_probe and not self._connecting.under_way:
            self._connecting.begin()

    def _may_connect(self) -> bool:
        return len(self._open) + len(self._connecting.under_way) < self._connections and not self.held

    def _attempted(self, result: UpstreamConnection | Failure) -> None:
        if isinstance(result, Failure):
            if self.members.live and not self.held:
                self._probing.failed(result.getErrorMessage())
                self._find_only()
                self.give_back()
            return
        self._open.append(result)
        if not self.health.up:
            self._probing.succeeded()
        self._find_only()
        while self._unwritten and result.room:
            request = self._unwritten.popleft()
            if request.reply is None:
                request.count_from(self._clock.seconds())
                if request.server is None or not result.write(request, request.server):
                    self._owner.redispatch((request,))
        if not self._connecting.under_way:
            self.give_back()
        # A probe may be one connection more than the server wants.
        spare = self._pipeline is None or not self.members.live or len(self._open) > self._connections
        if spare and not result.in_flight:
            result.retire()
            self._owner.room_made(self)
        elif result.room:
            self._owner.room_made(self)

    def timed_out(self) -> None:
        """See :class:`rproxy.connection.Pool`."""
        if self.members.live:
            self._probing.timed_out()
            self._find_only()

    def lost(self, connection: UpstreamConnection, why: str) -> None:
        """See :class:`rproxy.connection.Pool`."""
        if connection in self._open:
            self._open.remove(connection)
        if why and self.members.live:
            self._probing.failed(why)
        self._find_only()
        if self.held:
            self._let_go()
        self._owner.room_made(self)


def _why_barred(member: Member) -> str:
    if member.drained:
        return "an operator had it drained"
    return "it drains" if member.registration.draining else "its registration is about to end"
