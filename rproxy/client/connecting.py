"""The client's connection: made when it is asked for, and made again after it was lost.

There is one that packets are written to, at most. Beside it may be some that retired, and still have answers to bring.
Which proxy is connected to is the affair of :mod:`rproxy.client.failover`; here it is whether to wait before that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol as Interface
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from rproxy.backoff import Backoff
from rproxy.client.exchanging import Answer, ClientProtocol, Request
from rproxy.client.failover import FailoverEndpoint
from rproxy.counting import Count

#: The waits before a connection is made again, in seconds.
RECONNECT = Backoff(0.25, 5.0)


class User(Interface):
    """Who has packets to write."""

    def connected(self, connection: ClientProtocol) -> None:
        """There is a connection again."""

    def not_connected(self, why: str) -> None:
        """There is none, and no attempt to make one until it is asked for."""

    def answered(self, connection: ClientProtocol, request: Request, answer: Answer) -> None:
        """The answer to a packet came; it may be that nobody waits for it any more."""


class Connections:
    """All connections of a client.

    :param max_packet: the longest answer, in bytes.
    :param reconnect: whether to go on trying where no connection can be made.
    :param jitter: gives random numbers from 0 to 1.
    """

    def __init__(
        self,
        user: User,
        proxies: FailoverEndpoint,
        clock: IReactorTime,
        max_packet: int,
        *,
        reconnect: bool,
        jitter: Callable[[], float],
    ) -> None:
        self._user = user
        self._proxies = proxies
        self._clock = clock
        self._max_packet = max_packet
        self._reconnect = reconnect
        self._jitter = jitter
        #: The connection that packets are written to, while there is one.
        self.current: ClientProtocol | None = None
        #: All that are open: also those that retired.
        self._open: set[ClientProtocol] = set()
        self._number = Count()
        #: The attempt to connect, or else the wait before it.
        self._connecting: Deferred[IProtocol] | None = None
        self._pause: IDelayedCall | None = None
        #: How often in a row no connection could be made, or one was lost before it brought an answer.
        self._failures = 0
        #: Why there is no connection, where the last attempt failed.
        self.why = ""
        self._closed = False

    @property
    def unanswered(self) -> int:
        """How many packets they hold, those among them that only keep their place."""
        return sum(connection.unanswered for connection in self._open)

    def ask(self) -> None:
        """Make a connection, unless that is under way; there must be none."""
        if self._connecting is None and self._pause is None:
            self._connect()

    def leave_late(self) -> None:
        """Go on over another connection where an answer on this one is late, also one that nobody waits for."""
        if self.current is not None and self.current.is_late(self._clock.seconds()):
            self.current.retire_late()

    def leave_refusing(self, connection: ClientProtocol) -> None:
        """Go to another proxy than the one that refused a packet, if one hasn't failed lately."""
        if self.current in (None, connection) and self._proxies.has_other_than(connection):
            why = "it refused a packet"
            # It may be lost already, with nothing on it.
            self._proxies.leave(connection, why)
            connection.retire(why)

    def close(self) -> Deferred[None]:
        """Close all of them for good; fires when they are gone. What is unanswered there has failed by then."""
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in list(self._open):
            connection.close()
        return self._number.when_zero()

    # From a connection: see rproxy.client.exchanging.Owner.

    def opened(self, connection: ClientProtocol) -> None:
        self._open.add(connection)
        self._number.change(1)

    def answered(self, connection: ClientProtocol, request: Request, answer: Answer) -> None:
        if connection is self.current:
            self._failures = 0
        self._user.answered(connection, request, answer)

    def unusable(self, connection: ClientProtocol, why: str) -> None:
        if connection is not self.current:
            return
        self.current = None
        if why:
            self._proxies.leave(connection, why)
        if not (connection.used and self._reconnect) or self._closed:
            return
        if why and self._proxies.is_rested:
            self._connect()
        else:
            self._connect_later()

    def closed(self, connection: ClientProtocol) -> None:
        self._open.discard(connection)
        self._number.change(-1)

    # Making one.

    def _connect_later(self) -> None:
        self._failures += 1
        self._pause = self._clock.callLater(RECONNECT.seconds(self._failures, self._jitter()), self._connect)

    def _connect(self) -> None:
        self._pause = None
        factory = Factory.forProtocol(partial(ClientProtocol, self, self._max_packet))
        factory.noisy = False
        connecting = self._connecting = self._proxies.connect(factory)
        connecting.addCallbacks(self._connected, self._not_connected)

    def _connected(self, protocol: IProtocol) -> None:
        connection = cast(ClientProtocol, protocol)
        if not connection.usable:
            why = "it was lost as soon as it was made"
            self._proxies.leave(connection, why)
            if self._proxies.is_rested and not self._closed:
                self._connect()
            else:
                self._not_connected(Failure(ConnectionError(why)))
            return
        self._connecting = None
        self.why = ""
        self.current = connection
        self._user.connected(connection)

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        if self._closed:
            return
        self.why = failure.getErrorMessage()
        if self._reconnect:
            self._connect_later()
        else:
            self._user.not_connected(self.why)
