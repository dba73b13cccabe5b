"""Ports of a group: they accept several connections in a turn, and leave some to other processes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from select import POLLIN, poll
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from rproxy.sockets.connections import GroupedServer, with_link
from rproxy.sockets.turns import Turns

#: Seconds until accepting is tried again after the process has run out of files or memory.
PAUSE = 0.5
#: Seconds for which a connection is left to other processes, and for which none is once they left one.
COURTESY = 0.003
INSISTENCE = 0.25

_EXHAUSTED = frozenset((EMFILE, ENFILE, ENOBUFS, ENOMEM))


class GroupedPort(tcp.Port):
    """Accepts connections. Told to stop reading, it does so at once: the next one stays in the backlog."""

    reactor: Turns  # type: ignore[assignment]  # what Twisted wants of a reactor here, it has
    _accepting = False
    #: The end of a pause, see :meth:`_rest`.
    _resting: IDelayedCall | None = None
    #: Until when nobody is given way to, as nobody took what was left to them, in the clock's seconds.
    _insists_until = 0.0
    #: Something is left to others now.
    _gave_way = False

    def startReading(self) -> None:
        # Who says so may not know yet that the port is closed.
        if self.connected and not self.disconnecting:
            self._accepting = True
            if self._resting is None:
                super().startReading()

    def stopReading(self) -> None:
        self._accepting = False
        super().stopReading()

    def doRead(self) -> None:
        listener: Any = self.socket
        factory: Any = self.factory
        group = self.reactor
        if group.gives_way is not None and self._give_way(group.gives_way):
            return
        family, kind, proto = listener.family, listener.type, listener.proto
        for _ in range(group.accepts):
            if not self._accepting:
                return
            try:
                # What socket.accept calls, without the two microseconds that it adds.
                descriptor, address = listener._accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._logger.warn("Can't accept connections for now: {why}", event="accept-failed", why=error)
                    self._rest(PAUSE)
                return
            # Nor is what the class socket.socket adds to this one of any use here.
            accepted: Any = socket.SocketType(family, kind, proto, descriptor)
            transport = None
            try:
                if len(address) == 4:
                    address = with_link(address)
                protocol = factory.buildProtocol(self._buildAddr(address))
                if protocol is not None:
                    transport = GroupedServer(accepted, protocol, address, self, 0, group)
                    protocol.makeConnection(transport)
            except BaseException:  # noqa: BLE001 - see Turns.doRead
                group.fail(transport)
            if transport is None:
                accepted.close()

    def _buildAddr(self, address: Any) -> IPv4Address | IPv6Address:
        if len(address) != 2:
            return IPv6Address("TCP", *address)
        # Not by its __init__, which asks each time whether TCP is a kind of address, in more than half of its time.
        built = IPv4Address.__new__(IPv4Address)
        built.type = "TCP"
        built.host, built.port = address
        return built

    def _give_way(self, gives_way: Callable[[], bool]) -> bool:
        """Leave a connection to another process for a moment; but not if nobody took the one before."""
        now = self.reactor.seconds()
        if now < self._insists_until or not gives_way():
            return False
        self._gave_way = True
        self._rest(COURTESY)
        return True

    def _rest(self, seconds: float) -> None:
        """Accept nobody for a while, whoever says so, and let those that wait stay in the backlog."""
        super().stopReading()
        self._resting = self.reactor.callLater(seconds, self._resume)

    def _resume(self) -> None:
        self._resting = None
        if self._gave_way:
            self._gave_way = False
            if _is_readable(self.socket):
                self._insists_until = self.reactor.seconds() + INSISTENCE
        if self._accepting:
            self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        super().connectionLost(reason)


def _is_readable(each: socket.socket) -> bool:
    looks = poll()
    looks.register(each, POLLIN)
    return bool(looks.poll(0))
